//! Writes the outcomes of a job as NDJSON, in short reads by key, so that a long job neither stands
//! in memory nor pins the database. Values are pasted as they are stored.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use protocol::agent::{Condition, Note};
use protocol::artifact::Artifact;
use protocol::job::Encoding;
use protocol::{AgentId, JobId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::labels::{Label, Labels};
use crate::state::AppState;
use crate::store::jobs::JobRow;
use crate::store::outcomes::{self, Outcomes, Start};
use crate::store::{StoreError, db};

/// Rows that one read takes: at most 64 KiB each, blobs apart.
const ROWS: u32 = 16;

/// Bytes of a chunk of the answer, about.
const CHUNK: usize = 64 << 10;

/// Which outcomes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// All.
    All,
    /// Values.
    Values,
    /// Errors.
    Errors,
}

/// Reads a job's outcomes and writes a line for each.
pub struct OutcomeReader {
    state: AppState,
    job: JobId,
    encoding: Encoding,
    start: Start,
    only: Only,
    /// In the order of acceptance: the rank at which to end.
    end: u64,
    /// Lines that may still be written.
    left: u64,
    rows: VecDeque<Outcomes>,
    piece: Option<Piece>,
    labels: Labels,
}

impl OutcomeReader {
    /// A reader of what there is of `job` from `start` on, at most `limit` lines.
    pub fn new(state: &AppState, job: &JobRow, start: Start, only: Only, limit: u64) -> Self {
        Self {
            state: state.clone(),
            job: job.id,
            encoding: job.options.encoding,
            start,
            only,
            end: u64::MAX,
            left: limit,
            rows: VecDeque::new(),
            piece: None,
            labels: Labels::new(state, job),
        }
    }

    /// Has a reader in the order of acceptance end before the outcome of `rank`.
    pub fn end_at(&mut self, rank: u64) {
        self.end = rank;
    }

    /// Whether it has written as many lines as it was to.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// The next lines; `None` when nothing more is there now.
    ///
    /// # Errors
    /// When the database fails or a blob is missing; the answer then breaks off.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut text = Vec::with_capacity(CHUNK + 1024);
        while self.left > 0 && text.len() < CHUNK && self.has_piece().await? {
            self.write_next(&mut text).await?;
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    /// Whether there is a piece to write from, read if need be.
    async fn has_piece(&mut self) -> Result<bool, StoreError> {
        if self.piece.is_some() {
            return Ok(true);
        }
        if matches!(self.start, Start::Rank(rank) if rank >= self.end) {
            return Ok(false);
        }
        if self.rows.is_empty() {
            let (job, start, only_errors) = (self.job, self.start, self.only == Only::Errors);
            let rows = self.state.store.read(|tx| {
                Box::pin(
                    async move { outcomes::read_from(tx, job, start, only_errors, ROWS).await },
                )
            });
            self.rows = rows.await?.into();
        }
        let Some(row) = self.rows.pop_front() else { return Ok(false) };
        self.piece = Some(Piece::load(&self.state, row, self.start).await?);
        Ok(true)
    }

    /// Writes the next outcome of the piece, unless it is not asked for.
    async fn write_next(&mut self, text: &mut Vec<u8>) -> Result<(), StoreError> {
        let Some(piece) = &mut self.piece else { return Ok(()) };
        let Some((position, payload)) = piece.payloads.next() else {
            self.start = piece.behind(self.start);
            self.piece = None;
            return Ok(());
        };
        let is_error = piece.errors.binary_search(&position).is_ok();
        if (self.only == Only::Values && is_error) || (self.only == Only::Errors && !is_error) {
            return Ok(());
        }
        let index = piece.first + u64::from(position);
        let rank = piece.rank + u64::from(position);
        text.extend_from_slice(format!("{{\"index\":{index}").as_bytes());
        write_label(&self.labels.get(index).await?, text);
        text.extend_from_slice(format!(",\"rank\":{rank},\"ok\":{}", !is_error).as_bytes());
        if is_error {
            write_error(&payload, text)?;
        } else {
            write_value(&payload, self.encoding, text);
        }
        piece.write_rest(position, text)?;
        self.left -= 1;
        Ok(())
    }
}

/// Writes what the element is called and where it stands.
fn write_label(label: &Label, text: &mut Vec<u8>) {
    if let Some(name) = &label.name {
        text.extend_from_slice(b",\"name\":");
        text.extend_from_slice(name);
    }
    if let Some([outer, inner]) = label.nested {
        text.extend_from_slice(format!(",\"nested\":[{outer},{inner}]").as_bytes());
    }
}

/// Pastes a value.
fn write_value(payload: &[u8], encoding: Encoding, text: &mut Vec<u8>) {
    text.extend_from_slice(b",\"value\":");
    if encoding == Encoding::Json {
        paste(payload, text);
    } else {
        text.push(b'"');
        text.extend_from_slice(STANDARD.encode(payload).as_bytes());
        text.push(b'"');
    }
}

/// Pastes JSON on one line. Line ends stand between its tokens only, where spaces mean the same.
fn paste(json: &[u8], text: &mut Vec<u8>) {
    let is_end = |byte| matches!(byte, b'\n' | b'\r');
    text.extend(json.iter().map(|&byte| if is_end(byte) { b' ' } else { byte }));
}

/// Pastes an error, which must be JSON whatever an agent wrote.
fn write_error(payload: &[u8], text: &mut Vec<u8>) -> Result<(), StoreError> {
    text.extend_from_slice(b",\"error\":");
    match serde_json::from_slice::<&RawValue>(payload) {
        Ok(_) => paste(payload, text),
        Err(_) => text.extend_from_slice(db::json_text(&crate::error::unreadable())?.as_bytes()),
    }
    Ok(())
}

/// Neighbouring outcomes, loaded.
struct Piece {
    first: u64,
    rank: u64,
    n: u64,
    errors: Vec<u32>,
    /// By position.
    notes: Vec<Note>,
    agent: AgentId,
    agent_name: String,
    slot: u32,
    worker: u32,
    started_at: String,
    seconds: f64,
    payloads: std::vec::IntoIter<(u32, Bytes)>,
}

/// What is said of an outcome behind its value.
#[derive(Serialize)]
struct Rest<'a> {
    attempts: u32,
    agent: AgentId,
    agent_name: &'a str,
    slot: u32,
    worker: u32,
    started_at: &'a str,
    seconds: f64,
    #[serde(skip_serializing_if = "str::is_empty")]
    stdout: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stderr: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    conditions: &'a [Condition],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifacts: &'a [Artifact],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Piece {
    /// Loads a row, without the outcomes before `start`.
    async fn load(state: &AppState, row: Outcomes, start: Start) -> Result<Self, StoreError> {
        let (first, rank) = (row.block.first, row.rank);
        let before = match start {
            Start::Index(index) => index.saturating_sub(first),
            Start::Rank(wanted) => wanted.saturating_sub(rank),
        };
        let mut notes = row.notes;
        notes.sort_by_key(|note| note.position);
        let block = row.block.load(&state.blobs).await?;
        let n = block.lengths.len() as u64;
        let payloads: Vec<_> =
            (0..).zip(block.payloads()).skip_while(|(i, _)| u64::from(*i) < before).collect();
        Ok(Self {
            first,
            rank,
            n,
            errors: row.errors,
            notes,
            agent: row.agent,
            agent_name: row.agent_name,
            slot: row.slot,
            worker: row.pid,
            started_at: rfc3339(row.started_at),
            seconds: row.micros as f64 / 1e6 / n.max(1) as f64,
            payloads: payloads.into_iter(),
        })
    }

    /// Where what follows the piece starts.
    fn behind(&self, start: Start) -> Start {
        match start {
            Start::Index(_) => Start::Index(self.first + self.n),
            Start::Rank(_) => Start::Rank(self.rank + self.n),
        }
    }

    /// Writes what stands behind the value, and ends the line.
    fn write_rest(&self, position: u32, text: &mut Vec<u8>) -> Result<(), StoreError> {
        let none = Note::default();
        let note = self.notes.binary_search_by_key(&position, |note| note.position);
        let note = note.map_or(&none, |i| &self.notes[i]);
        let rest = Rest {
            attempts: note.attempts.max(1),
            agent: self.agent,
            agent_name: &self.agent_name,
            slot: self.slot,
            worker: self.worker,
            started_at: &self.started_at,
            seconds: self.seconds,
            stdout: &note.stdout,
            stderr: &note.stderr,
            dropped: note.dropped,
            conditions: &note.conditions,
            artifacts: &note.artifacts,
        };
        // The object goes on where the other began.
        text.push(b',');
        text.extend_from_slice(&db::json_text(&rest)?.as_bytes()[1..]);
        text.push(b'\n');
        Ok(())
    }
}
