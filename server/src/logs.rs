//! Lines of log: packed for the database as agents send them, and written as NDJSON.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protocol::JobId;
use protocol::job::{LogEntry, LogLine, LogSource, LogStream};
use serde::{Deserialize, Serialize};

use crate::block;
use crate::clock::rfc3339;
use crate::state::AppState;
use crate::store::logs::{self, Packed, Stored};
use crate::store::{StoreError, db};

/// Bytes of text that one line holds at the most; longer ones are cut into several.
const MAX_TEXT: usize = 64 << 10;

/// Bytes of lines at which a row is closed.
const ROW: u64 = 256 << 10;

/// Rows that one read takes.
const ROWS: u32 = 4;

/// Bytes of a chunk of the answer, about.
const CHUNK: usize = 64 << 10;

/// A line as it is stored.
#[derive(Serialize, Deserialize)]
struct Line {
    at: u64,
    source: LogSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    element: Option<u64>,
    stream: LogStream,
    text: String,
}

impl Line {
    /// Bytes that it counts for: never none, so that cursors differ.
    fn bytes(&self) -> u64 {
        self.text.len() as u64 + 1
    }
}

/// Packs the entries of a batch, by job, each job's in order.
///
/// # Errors
/// When they cannot be written as JSON.
pub fn pack(entries: Vec<LogEntry>) -> Result<Vec<(JobId, Vec<Packed>)>, StoreError> {
    let mut jobs: BTreeMap<JobId, Vec<Line>> = BTreeMap::new();
    for entry in entries {
        let LogEntry { job, at, source, element, stream, text } = entry;
        let lines = jobs.entry(job).or_default();
        let parts = cut(&text).map(str::to_owned);
        lines.extend(parts.map(|text| Line { at, source, element, stream, text }));
    }
    jobs.into_iter().map(|(job, lines)| Ok((job, rows(lines)?))).collect()
}

/// Cuts a text into parts of at most [`MAX_TEXT`] bytes, between characters.
fn cut(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.floor_char_boundary(MAX_TEXT);
        let (part, behind) = rest.split_at(end);
        rest = behind;
        Some(part)
    })
}

fn rows(lines: Vec<Line>) -> Result<Vec<Packed>, StoreError> {
    let mut rows = Vec::new();
    let (mut open, mut bytes) = (Vec::new(), 0);
    for line in lines {
        bytes += line.bytes();
        open.push(line);
        if bytes >= ROW {
            rows.push(row(&open, bytes)?);
            (open, bytes) = (Vec::new(), 0);
        }
    }
    if !open.is_empty() {
        rows.push(row(&open, bytes)?);
    }
    Ok(rows)
}

fn row(lines: &[Line], bytes: u64) -> Result<Packed, StoreError> {
    Ok(Packed { bytes, data: block::compress(db::json_text(&lines)?.as_bytes()) })
}

/// The lines of a row, each with its cursor.
fn unpack(stored: &Stored) -> Result<Vec<LogLine>, StoreError> {
    let corrupt = |value: &str| StoreError::Corrupt { column: "logs", value: value.to_owned() };
    let json = block::decompress(&stored.data).ok_or_else(|| corrupt("damaged bytes"))?;
    let lines: Vec<Line> = serde_json::from_slice(&json).map_err(|e| corrupt(&e.to_string()))?;
    let mut cursor = stored.starts;
    let line = |line: Line| {
        cursor += line.bytes();
        LogLine {
            cursor,
            at: rfc3339(i64::try_from(line.at).unwrap_or(i64::MAX)),
            agent: stored.agent_name.clone(),
            source: line.source,
            element: line.element,
            stream: line.stream,
            text: line.text,
        }
    };
    Ok(lines.into_iter().map(line).collect())
}

/// Reads what a job has said and writes it as NDJSON, in short reads.
pub struct LogReader {
    state: AppState,
    job: JobId,
    /// The cursor of the last line that was read.
    after: u64,
    /// The cursor of the last line to be read.
    end: u64,
    element: Option<u64>,
    source: Option<LogSource>,
    lines: VecDeque<LogLine>,
}

impl LogReader {
    /// A reader of what `job` says behind the cursor `after`; only what is of `element` and of
    /// `source`, if these are given.
    pub fn new(
        state: &AppState,
        job: JobId,
        after: u64,
        element: Option<u64>,
        source: Option<LogSource>,
    ) -> Self {
        let (state, lines) = (state.clone(), VecDeque::new());
        Self { state, job, after, end: u64::MAX, element, source, lines }
    }

    /// From now on reads nothing that the job has not said yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_here(&mut self) -> Result<(), StoreError> {
        let job = self.job;
        let end = self.state.store.read(|tx| Box::pin(async move { logs::end(tx, job).await }));
        self.end = end.await?;
        Ok(())
    }

    /// The next lines; `None` when nothing more is there now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut text = Vec::with_capacity(CHUNK + 1024);
        while text.len() < CHUNK && self.has_line().await? {
            let Some(line) = self.lines.pop_front() else { break };
            if line.cursor <= self.after {
                continue;
            }
            self.after = line.cursor;
            if self.is_wanted(&line) {
                text.extend_from_slice(db::json_text(&line)?.as_bytes());
                text.push(b'\n');
            }
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn is_wanted(&self, line: &LogLine) -> bool {
        self.element.is_none_or(|element| line.element == Some(element))
            && self.source.is_none_or(|source| line.source == source)
    }

    async fn has_line(&mut self) -> Result<bool, StoreError> {
        if self.after >= self.end {
            return Ok(false);
        }
        if self.lines.is_empty() {
            let (job, after) = (self.job, self.after);
            let rows = self
                .state
                .store
                .read(|tx| Box::pin(async move { logs::read(tx, job, after, ROWS).await }))
                .await?;
            for row in rows {
                self.lines.extend(unpack(&row)?);
            }
        }
        Ok(!self.lines.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(job: JobId, text: &str) -> LogEntry {
        LogEntry {
            job,
            at: 1,
            source: LogSource::Element,
            element: Some(3),
            stream: LogStream::Stdout,
            text: text.to_owned(),
        }
    }

    fn lines(starts: u64, packed: &Packed) -> Vec<LogLine> {
        let data = packed.data.clone();
        unpack(&Stored { starts, agent_name: "host".to_owned(), data }).unwrap()
    }

    #[test]
    fn lines_come_back_with_the_bytes_said_so_far() {
        let (one, other) = (JobId::new(), JobId::new());
        let packed = pack(vec![entry(one, "ab"), entry(other, "x"), entry(one, "c\n")]).unwrap();
        let of_one = &packed.iter().find(|(job, _)| *job == one).unwrap().1;
        assert_eq!((of_one.len(), of_one[0].bytes), (1, 6));
        let read = lines(10, &of_one[0]);
        let told: Vec<_> = read.iter().map(|line| (line.cursor, line.text.as_str())).collect();
        assert_eq!(told, [(13, "ab"), (16, "c\n")]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_rows_stay_small() {
        let job = JobId::new();
        let text = "ü".repeat(400 << 10);
        let packed = pack(vec![entry(job, &text)]).unwrap().remove(0).1;
        assert!(packed.iter().all(|row| row.bytes < ROW + MAX_TEXT as u64 + 2));
        let mut starts = 0;
        let mut whole = String::new();
        for row in &packed {
            for line in lines(starts, row) {
                assert!(line.text.len() <= MAX_TEXT);
                whole += &line.text;
            }
            starts += row.bytes;
        }
        assert!(whole == text, "the parts are the whole");
    }
}
