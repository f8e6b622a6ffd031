//! The worker of commands: a program, started anew for each element, one after the other.
//!
//! `farrow run-commands` stands where R or Python stand for the other runtimes: behind a
//! supervisor, speaking the frames of [`crate::frame`]. It has no state but the job.
//!
//! Of each element's program, standard input is the element and standard output the value.
//! Standard error goes on to the worker's own as it comes, and with it, of a program that has
//! failed or whose value is dropped, standard output. The program is over when its process has
//! ended: what it leaves behind loses its pipes, and its life when the job is reset.

mod job;
mod process;
pub mod template;
mod value;
pub mod wire;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;

use protocol::job::ElementError;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::clock;
use crate::descriptors;
use crate::frame::kind;
use crate::pace;
use crate::runtimes::command::VERSION;
use job::Job;
use wire::{Entry, Request};

/// Bytes of a frame before its body.
const HEAD: usize = 5;
/// A body up to this length is written together with its head.
const SMALL: usize = 64 * 1024;

/// Serves the agent that has started this process, until it hangs up. It expects frames on
/// descriptors 3 and 4.
pub fn main() -> ExitCode {
    match Worker::new().and_then(|mut worker| worker.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "run-commands: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

/// The loop over frames.
struct Worker {
    channel: Channel,
    runtime: Runtime,
    job: Option<Job>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        let (frames_in, frames_out) = descriptors::take_frames()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        Ok(Self { channel: Channel { frames_in, frames_out }, runtime, job: None })
    }

    fn serve(&mut self) -> io::Result<()> {
        let hello = json!({ "version": VERSION }).to_string();
        self.channel.send(kind::HELLO, &[hello.as_bytes()])?;
        while let Some((kind, body)) = self.channel.receive()? {
            match kind {
                kind::JOB => self.prepare(&body)?,
                kind::ELEMENTS => self.run(&body)?,
                kind::RESET => {
                    self.job = None;
                    self.channel.send(kind::RESET_DONE, &[])?;
                }
                other => return Err(out_of_turn(other)),
            }
        }
        Ok(())
    }

    fn prepare(&mut self, body: &[u8]) -> io::Result<()> {
        let (request, payloads) = wire::open::<Request>(body).map_err(invalid)?;
        let job = Job::new(request, payloads).map_err(invalid)?;
        match self.runtime.block_on(job.set_up()) {
            Ok(()) => {
                self.job = Some(job);
                self.channel.send(kind::READY, &[])
            }
            Err(error) => {
                let error = serde_json::to_vec(&error)?;
                self.channel.send(kind::READY, &[&error])
            }
        }
    }

    /// Runs elements. An outcome is sent as soon as it is there: starting a program costs far more
    /// than a frame, and so the time that an element has is its own. After a slow one, the agent may
    /// want the others back.
    fn run(&mut self, body: &[u8]) -> io::Result<()> {
        let Some(job) = &self.job else { return Err(out_of_turn(kind::ELEMENTS)) };
        let (entries, mut payloads) = wire::open::<Vec<Entry>>(body).map_err(invalid)?;
        for (left, entry) in (0..entries.len()).rev().zip(&entries) {
            let input = payloads.take(entry.length).map_err(invalid)?;
            let began = clock::now();
            let ran = self.runtime.block_on(job.run(entry, input));
            let (tag, outcome) = wire::outcome(&ran.outcome);
            let kind = match ran.has_printed {
                true => kind::PRINTED,
                false if clock::now() - began > pace::SLOW => kind::WAITS,
                false => kind::OUTCOMES,
            };
            self.channel.send(kind, &[&[tag], &outcome])?;
            if kind != kind::OUTCOMES && left > 0 {
                match self.channel.receive()? {
                    Some((kind::GO_ON, _)) => {}
                    Some((kind::STOP, _)) | None => return Ok(()),
                    Some((other, _)) => return Err(out_of_turn(other)),
                }
            }
        }
        Ok(())
    }
}

/// The two descriptors.
struct Channel {
    frames_in: File,
    frames_out: File,
}

impl Channel {
    fn send(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let length_field = u32::try_from(length).map_err(invalid)?;
        let mut frame = Vec::with_capacity(HEAD + length.min(SMALL));
        frame.extend_from_slice(&length_field.to_le_bytes());
        frame.push(kind);
        if length <= SMALL {
            parts.iter().for_each(|part| frame.extend_from_slice(part));
            return self.frames_out.write_all(&frame);
        }
        self.frames_out.write_all(&frame)?;
        parts.iter().try_for_each(|part| self.frames_out.write_all(part))
    }

    /// The next frame, or nothing when the agent has hung up.
    fn receive(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut head = [0; HEAD];
        match self.frames_in.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let [a, b, c, d, kind] = head;
        let mut body = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
        self.frames_in.read_exact(&mut body)?;
        Ok(Some((kind, body)))
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn out_of_turn(kind: u8) -> io::Error {
    let kind = char::from(kind);
    io::Error::new(ErrorKind::InvalidData, format!("a frame `{kind}` came out of turn"))
}

/// An error of one element.
fn failure(kind: &str, message: String) -> ElementError {
    let kind = kind.to_owned();
    ElementError { kind, message, call: None, traceback: Vec::new(), fatal: false }
}
