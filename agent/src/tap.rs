//! What a worker prints, passed on to the log as it comes.
//!
//! It is held for a moment, since an outcome that comes within it says exactly whose output it was;
//! after that it counts as the output of the element that runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::JobId;
use protocol::agent::Condition;
use protocol::job::{LogEntry, LogSource, LogStream};
use tokio::time::sleep;

use crate::clock;
use crate::logs::Logs;

/// For how long output is held back.
const HOLD: Duration = Duration::from_millis(50);
/// Bytes at which held output is passed on at once.
const HELD_BYTES: usize = 16 << 10;
/// Bytes passed on of what one element or set-up prints to one stream, or signals; as much as its
/// outcome keeps.
const SPOKEN: usize = 64 << 10;
/// Bytes passed on of what a `prepare` script prints to one stream.
const PREPARE_SPOKEN: usize = 1 << 20;

/// The jobs that hear what is said.
pub type Audience = Arc<Mutex<Vec<JobId>>>;

/// The way of one worker's output to the log.
#[derive(Debug)]
pub struct Tap {
    logs: Arc<Logs>,
    audience: Audience,
    source: LogSource,
    /// Whose output comes now.
    element: Option<u64>,
    /// Whether what is printed is passed on at all.
    is_open: bool,
    stdout: Held,
    stderr: Held,
    signalled: Budget,
    /// When the first of what is held came.
    since: Option<Instant>,
}

/// Output of one stream that is held back.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    budget: Budget,
}

/// What has been said already by the element that spoke last.
#[derive(Debug, Default)]
struct Budget {
    element: Option<u64>,
    spoken: usize,
}

impl Tap {
    /// A way to the logs of `audience`. `prints`: whether standard output and error go there, and
    /// not conditions alone.
    pub fn new(logs: Arc<Logs>, audience: Audience, source: LogSource, prints: bool) -> Self {
        Self {
            logs,
            audience,
            source,
            element: None,
            is_open: prints,
            stdout: Held::default(),
            stderr: Held::default(),
            signalled: Budget::default(),
            since: None,
        }
    }

    /// Takes in what was printed.
    pub fn hear(&mut self, stream: LogStream, bytes: &[u8]) {
        if !self.is_open || bytes.is_empty() {
            return;
        }
        let held = if stream == LogStream::Stdout { &mut self.stdout } else { &mut self.stderr };
        held.bytes.extend_from_slice(bytes);
        let is_much = held.bytes.len() >= HELD_BYTES;
        self.since.get_or_insert_with(clock::now);
        if is_much {
            self.pass_on(false);
        }
    }

    /// Takes in a condition of an element, which comes behind what the element has printed before.
    pub fn signal(&mut self, element: u64, condition: &Condition) {
        self.attribute(element);
        let stream =
            if condition.kind == "message" { LogStream::Message } else { LogStream::Warning };
        let bytes = self.signalled.cut(Some(element), condition.message.as_bytes(), self.most());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.say(Some(element), stream, &text);
    }

    /// What is printed from now on is this element's. What is held stays held: it may be this one's
    /// already.
    pub fn move_to(&mut self, element: Option<u64>) {
        self.element = element;
    }

    /// What is held was printed by this element.
    pub fn attribute(&mut self, element: u64) {
        if self.since.is_some() {
            let now = self.element.replace(element);
            self.pass_on(true);
            self.element = now;
        }
    }

    /// Passes on what is held; all of it if nothing follows, else without the beginning of a
    /// character whose end has not come.
    pub fn pass_on(&mut self, is_all: bool) {
        self.since = None;
        let (element, most) = (self.element, self.most());
        let stdout = self.stdout.take(element, most, is_all);
        let stderr = self.stderr.take(element, most, is_all);
        self.say(element, LogStream::Stdout, &stdout);
        self.say(element, LogStream::Stderr, &stderr);
    }

    /// Waits until what is held has been held long enough, and passes it on. For ever if nothing is.
    pub async fn due(&mut self) {
        let Some(since) = self.since else { return std::future::pending().await };
        sleep(HOLD.saturating_sub(clock::now() - since)).await;
        self.pass_on(false);
    }

    fn most(&self) -> usize {
        if self.source == LogSource::Prepare { PREPARE_SPOKEN } else { SPOKEN }
    }

    fn say(&self, element: Option<u64>, stream: LogStream, text: &str) {
        if text.is_empty() {
            return;
        }
        let at = clock::unix_millis();
        let source = self.source;
        for job in self.audience.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let text = text.to_owned();
            self.logs.put(LogEntry { job: *job, at, source, element, stream, text });
        }
    }
}

impl Held {
    fn take(&mut self, element: Option<u64>, most: usize, is_all: bool) -> String {
        let whole = if is_all { self.bytes.len() } else { whole_characters(&self.bytes) };
        let rest = self.bytes.split_off(whole);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        if bytes.is_empty() {
            return String::new();
        }
        String::from_utf8_lossy(&self.budget.cut(element, &bytes, most)).into_owned()
    }
}

impl Budget {
    /// As much of this as the element may still say, with a line where it becomes too much.
    fn cut(&mut self, element: Option<u64>, bytes: &[u8], most: usize) -> Vec<u8> {
        if self.element != element {
            *self = Self { element, spoken: 0 };
        }
        let room = most.saturating_sub(self.spoken);
        let had_room = self.spoken <= most;
        self.spoken = self.spoken.saturating_add(bytes.len());
        let mut said = bytes[..room.min(bytes.len())].to_vec();
        if had_room && self.spoken > most {
            let kib = most >> 10;
            let gap = format!("\n[… this was {kib} KiB; what follows is left out of the log …]\n");
            said.extend_from_slice(gap.as_bytes());
        }
        said
    }
}

/// How many of these bytes are there without a character at their end that has only begun.
fn whole_characters(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let begun = (start..bytes.len()).rev().find(|at| bytes[*at] & 0xC0 != 0x80);
    let width = |byte: u8| match byte {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    };
    begun.filter(|at| at + width(bytes[*at]) > bytes.len()).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tap, and the texts it has passed on so far with the elements they belong to.
    fn tap() -> (Tap, impl Fn() -> Vec<(Option<u64>, String)>) {
        let logs = Arc::new(Logs::default());
        let audience = Arc::new(Mutex::new(vec![JobId::new()]));
        let tap = Tap::new(Arc::clone(&logs), audience, LogSource::Element, true);
        (tap, move || logs.entries().into_iter().map(|entry| (entry.element, entry.text)).collect())
    }

    #[test]
    fn what_an_outcome_explains_is_that_elements() {
        let (mut tap, said) = tap();
        tap.move_to(Some(1));
        tap.hear(LogStream::Stdout, b"of 3");
        tap.attribute(3);
        tap.move_to(Some(4));
        tap.hear(LogStream::Stdout, b"of 4");
        tap.pass_on(false);
        assert_eq!(said(), [(Some(3), "of 3".into()), (Some(4), "of 4".into())]);
    }

    #[tokio::test]
    async fn what_nothing_explains_is_passed_on_after_a_moment() {
        let (mut tap, said) = tap();
        tap.move_to(Some(1));
        tap.hear(LogStream::Stderr, b"slow");
        tap.due().await;
        assert_eq!(said(), [(Some(1), "slow".into())]);
    }

    #[test]
    fn a_character_is_never_cut() {
        let (mut tap, said) = tap();
        for piece in ["a\u{20ac}".as_bytes()[..3].to_vec(), vec![0xac, b'b', 0xc3]] {
            tap.hear(LogStream::Stdout, &piece);
            tap.pass_on(false);
        }
        tap.pass_on(true);
        let texts: Vec<String> = said().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["a", "\u{20ac}b", "\u{fffd}"]);
    }

    #[test]
    fn each_element_may_say_so_much_and_no_more() {
        let (mut tap, said) = tap();
        for element in [1, 2] {
            tap.move_to(Some(element));
            for _ in 0..3 {
                tap.hear(LogStream::Stdout, &vec![b'x'; SPOKEN / 2 + 1]);
            }
        }
        let said = said();
        for element in [1, 2] {
            let own = said.iter().filter(|(of, _)| *of == Some(element));
            let text: String = own.map(|(_, text)| text.as_str()).collect();
            assert!(text.starts_with(&"x".repeat(SPOKEN)) && text.ends_with("the log …]\n"));
            assert_eq!(text.matches("left out").count(), 1);
        }
    }
}
