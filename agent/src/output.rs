//! What workers print: read all the time, so that a pipe that is full never blocks user code, and
//! kept in part.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use protocol::job::LogStream;
use tokio::net::unix::pipe;

use crate::tap::Tap;

/// How much is kept of what an element prints to one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Bytes at its start, and as many at its end.
    each_end: usize,
}

impl Keep {
    /// Bytes that are kept unless a setting says otherwise.
    pub const DEFAULT: u32 = 64 << 10;

    /// Keeps so many bytes: one half of them from the start, the other from the end.
    pub fn bytes(bytes: u32) -> Self {
        Self { each_end: bytes as usize / 2 }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self::bytes(Self::DEFAULT)
    }
}

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes read at most when the pipe is emptied. More than a pipe holds, so that all that was
/// written before is read, and a bound, so that a thread that prints for ever cannot hold us.
const DRAIN: usize = 1 << 20;

/// The start and the end of a text of any length.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Clip {
    keep: Keep,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Clip {
    fn new(keep: Keep) -> Self {
        Self { keep, ..Self::default() }
    }

    /// What was pushed up to now; from now on it is another one.
    fn take(&mut self) -> Self {
        let next = Self::new(self.keep);
        std::mem::replace(self, next)
    }

    fn push(&mut self, mut bytes: &[u8]) {
        let Keep { each_end } = self.keep;
        let room = each_end - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        bytes = rest;
        let excess = (self.tail.len() + bytes.len()).saturating_sub(each_end);
        self.dropped += excess as u64;
        let old = excess.min(self.tail.len());
        self.tail.drain(..old);
        self.tail.extend(&bytes[excess - old..]);
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.dropped == 0
    }

    /// Bytes in the middle that were not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The text, with a line where something is missing. What is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        let mut bytes = self.head.clone();
        if self.dropped > 0 {
            let gap = format!("\n[… {} bytes are not kept …]\n", self.dropped);
            bytes.extend_from_slice(gap.as_bytes());
        }
        bytes.extend(&self.tail);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A text with its middle taken out if it is longer than [`Keep::DEFAULT`].
pub fn clip(text: &mut String) {
    if text.len() > Keep::DEFAULT as usize {
        let mut clip = Clip::default();
        clip.push(text.as_bytes());
        *text = clip.text();
    }
}

/// One stream of a worker.
#[derive(Debug)]
struct Stream {
    name: LogStream,
    /// Nothing once the worker has closed it.
    pipe: Option<pipe::Receiver>,
    clip: Clip,
    buffer: Vec<u8>,
}

impl Stream {
    fn new(name: LogStream, pipe: OwnedFd, keep: Keep) -> io::Result<Self> {
        let pipe = Some(pipe::Receiver::from_owned_fd(pipe)?);
        Ok(Self { name, pipe, clip: Clip::new(keep), buffer: vec![0; CHUNK] })
    }

    /// Waits until there is something to read. For ever once the stream is closed.
    async fn readable(&self) {
        match &self.pipe {
            // An error is met again by whoever reads.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Reads and keeps what is there.
    fn read(&mut self, tap: Option<&mut Tap>) {
        let Some(pipe) = &self.pipe else { return };
        match pipe.try_read(&mut self.buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => self.keep(length, tap),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Keeps what was read into the buffer.
    fn keep(&mut self, length: usize, tap: Option<&mut Tap>) {
        self.clip.push(&self.buffer[..length]);
        if let Some(tap) = tap {
            tap.hear(self.name, &self.buffer[..length]);
        }
    }

    /// Reads what is in the pipe now. The system is asked itself: the runtime may not have heard
    /// yet that there is something to read.
    fn drain(&mut self, mut tap: Option<&mut Tap>) {
        let mut length = 0;
        while let Some(pipe) = &self.pipe
            && length < DRAIN
        {
            match nix::unistd::read(pipe, &mut self.buffer) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    self.keep(read, tap.as_deref_mut());
                    length += read;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Both streams of a worker.
#[derive(Debug)]
pub struct Output {
    stdout: Stream,
    stderr: Stream,
    /// Where what is read goes besides, if anybody listens.
    tap: Option<Tap>,
}

/// What was printed since the last time it was asked for.
#[derive(Debug, Default)]
pub struct Printed {
    /// To standard output.
    pub stdout: Clip,
    /// To standard error.
    pub stderr: Clip,
}

impl Printed {
    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

impl Output {
    /// Reads from these ends of pipes, and keeps so much of each stream.
    ///
    /// # Errors
    /// When they are no pipes.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd, keep: Keep) -> io::Result<Self> {
        let stdout = Stream::new(LogStream::Stdout, stdout, keep)?;
        Ok(Self { stdout, stderr: Stream::new(LogStream::Stderr, stderr, keep)?, tap: None })
    }

    /// From now on what is read goes to `tap` as well; what the one before still holds goes on.
    pub fn listen(&mut self, tap: Option<Tap>) {
        if let Some(mut before) = std::mem::replace(&mut self.tap, tap) {
            before.pass_on(true);
        }
    }

    /// Who listens.
    pub fn tap(&mut self) -> Option<&mut Tap> {
        self.tap.as_mut()
    }

    /// Waits until something is printed, and keeps it.
    pub async fn read(&mut self) {
        let tap = &mut self.tap;
        let due = async {
            match tap {
                Some(tap) => tap.due().await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            () = self.stdout.readable() => &mut self.stdout,
            () = self.stderr.readable() => &mut self.stderr,
            () = due => return,
        };
        stream.read(self.tap.as_mut());
    }

    /// Reads what has been printed up to now.
    pub fn drain(&mut self) {
        self.stdout.drain(self.tap.as_mut());
        self.stderr.drain(self.tap.as_mut());
    }

    /// Takes what has been read.
    pub fn take(&mut self) -> Printed {
        Printed { stdout: self.stdout.clip.take(), stderr: self.stderr.clip.take() }
    }

    /// Whether the worker has closed a stream: whoever runs in it next would be robbed of it.
    pub fn is_closed(&self) -> bool {
        self.stdout.pipe.is_none() || self.stderr.pipe.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of each end by default.
    const KEPT: usize = Keep::DEFAULT as usize / 2;

    #[test]
    fn short_texts_are_kept_whole() {
        let mut clip = Clip::default();
        clip.push(b"one ");
        clip.push(b"two");
        assert_eq!((clip.text().as_str(), clip.dropped()), ("one two", 0));
    }

    #[test]
    fn of_long_texts_start_and_end_are_kept() {
        let mut clip = Clip::default();
        let text: Vec<u8> = (0..200_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
        for piece in text.chunks(777) {
            clip.push(piece);
        }
        let shown = clip.text();
        assert_eq!(clip.dropped(), 200_000 - 65_536);
        assert!(shown.as_bytes().starts_with(&text[..KEPT]));
        assert!(shown.as_bytes().ends_with(&text[200_000 - KEPT..]));
        assert!(shown.contains("134464 bytes are not kept"));
    }

    #[test]
    fn one_huge_piece_is_cut_as_well() {
        let mut clip = Clip::default();
        clip.push(&vec![b'x'; 10 * KEPT]);
        assert_eq!((clip.head.len(), clip.tail.len()), (KEPT, KEPT));
        assert_eq!(clip.dropped(), 8 * KEPT as u64);
    }

    #[test]
    fn a_setting_says_how_much_is_kept_and_may_be_nothing() {
        let mut clip = Clip::new(Keep::bytes(6));
        clip.push(b"abcdefgh");
        assert_eq!(clip.take().text(), "abc\n[… 2 bytes are not kept …]\nfgh");
        clip.push(b"xyz");
        assert_eq!(clip.text(), "xyz");
        let mut clip = Clip::new(Keep::bytes(0));
        assert!(clip.is_empty());
        clip.push(b"abc");
        assert!(!clip.is_empty());
        assert_eq!(clip.text(), "\n[… 3 bytes are not kept …]\n");
    }

    #[test]
    fn texts_are_clipped_as_output_is() {
        let mut text = "x".repeat(2 * KEPT);
        clip(&mut text);
        assert_eq!(text.len(), 2 * KEPT);
        text.push_str("the end");
        clip(&mut text);
        assert!(text.contains("[… 7 bytes are not kept …]") && text.ends_with("the end"));
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut clip = Clip::default();
        clip.push(b"a\xffb");
        assert_eq!(clip.text(), "a\u{fffd}b");
    }

    #[tokio::test]
    async fn a_drain_finds_what_the_runtime_has_not_heard_of() {
        let (read_out, write_out) = nix::unistd::pipe().unwrap();
        let (read_err, write_err) = nix::unistd::pipe().unwrap();
        let mut output = Output::new(read_out, read_err, Keep::default()).unwrap();
        nix::unistd::write(&write_out, b"out").unwrap();
        nix::unistd::write(&write_err, b"err").unwrap();
        output.drain();
        let printed = output.take();
        assert_eq!((printed.stdout.text(), printed.stderr.text()), ("out".into(), "err".into()));
        assert!(!output.is_closed());
        drop(write_out);
        output.read().await;
        assert!(output.is_closed());
    }
}
