//! Elements that are a blob: NDJSON, or frames for an encoding other than JSON.
//!
//! A thread reads the blob from front to back and packs what it finds into blocks; the task beside
//! it stores them. Of the elements neither holds more than a few blocks, however large the blob is; what
//! grows with their number is, where they have names, that these are compared.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};

use protocol::FieldError;
use protocol::frames::{self, Group, HEAD, kind};
use protocol::job::Encoding;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::json::{json_string, kind_of, level};
use super::{Elements, Shelf, Wanted, fault};
use crate::blobs::Blobs;
use crate::block::{self, Block, Packer};
use crate::error::ApiError;
use crate::store::blocks::{Kind, Placing, StoredBlock};
use crate::store::jobs::Shape;
use crate::submission::fault_of_blob;

/// The field that is at fault if anything is.
const FIELD: &str = "elements.blob";

/// Blocks that wait to be stored at the most.
const BLOCKS_AHEAD: usize = 8;

/// Bytes of a line or a frame at the most: it must fit into memory, here and in the agent's.
const MAX_PIECE: u32 = 512 << 20;

/// Reads the elements of the blob `digest` and stores them as a job's own.
///
/// # Errors
/// When there is no such blob, it does not hold elements, or blobs cannot be read or written.
pub async fn store(
    digest: &str,
    wanted: Wanted,
    blobs: &Blobs,
    mut shelf: Shelf<'_>,
) -> Result<Elements, ApiError> {
    if let Some(message) = fault_of_blob(digest, blobs).await? {
        return Err(ApiError::Invalid(vec![fault(FIELD, message)]));
    }
    let (file, size) = blobs.reader(digest).await?;
    let (sender, mut blocks) = mpsc::channel(BLOCKS_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let sink = Sink::new(sender, wanted.nested);
        let file = BufReader::with_capacity(block::MAX_BYTES, file);
        match wanted.encoding {
            Encoding::Json => read_lines(file, sink),
            Encoding::Rds | Encoding::Pickle | Encoding::Bytes => read_frames(file, size, sink),
        }
    });
    let mut placing = Placing::default();
    while let Some((kind, block)) = blocks.recv().await {
        let place = placing.place(&block.data, blobs).await?;
        shelf.put(kind, StoredBlock { first: block.first, lengths: block.lengths, place }).await?;
    }
    let read = reading.await.map_err(|error| ApiError::Internal(error.to_string()))?;
    let mut elements = read.map_err(|error| match error {
        ReadError::Field(fault) => ApiError::Invalid(vec![fault]),
        ReadError::Io(error) => error.into(),
    })?;
    shelf.empty_into(&mut elements);
    Ok(elements)
}

/// Why a blob was not read to its end.
#[derive(Debug)]
enum ReadError {
    /// It does not hold elements.
    Field(FieldError),
    Io(std::io::Error),
}

impl ReadError {
    fn field(message: impl Into<String>) -> Self {
        Self::Field(fault(FIELD, message))
    }
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FieldError> for ReadError {
    fn from(fault: FieldError) -> Self {
        Self::Field(fault)
    }
}

/// Packs what is read and hands full blocks on.
struct Sink {
    blocks: mpsc::Sender<(Kind, Block)>,
    elements: Packer,
    names: Packer,
    outer_names: Packer,
    total: u64,
    input_bytes: u64,
    shape: Shape,
    groups: Vec<u64>,
}

impl Sink {
    fn new(blocks: mpsc::Sender<(Kind, Block)>, nested: bool) -> Self {
        Self {
            blocks,
            elements: Packer::default(),
            names: Packer::default(),
            outer_names: Packer::default(),
            total: 0,
            input_bytes: 0,
            shape: Shape { nested, ..Shape::default() },
            groups: Vec::new(),
        }
    }

    fn element(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        self.total += 1;
        self.input_bytes += payload.len() as u64;
        let full = self.elements.push(payload);
        self.send(Kind::Element, full)
    }

    fn name(&mut self, name: &str) -> Result<(), ReadError> {
        self.shape.named = true;
        let full = self.names.push(json_string(name.to_owned()).as_bytes());
        self.send(Kind::Name, full)
    }

    fn outer_name(&mut self, name: &str) -> Result<(), ReadError> {
        self.shape.outer_named = true;
        let full = self.outer_names.push(json_string(name.to_owned()).as_bytes());
        self.send(Kind::OuterName, full)
    }

    fn send(&self, kind: Kind, full: Option<Block>) -> Result<(), ReadError> {
        let Some(block) = full else { return Ok(()) };
        // Nobody receives any more: storing has failed, and says so itself.
        let gone = |_| std::io::Error::other("the elements are not stored any more");
        Ok(self.blocks.blocking_send((kind, block)).map_err(gone)?)
    }

    /// Hands the last blocks on and gives what was counted.
    fn finish(mut self) -> Result<Elements, ReadError> {
        let last = [
            (Kind::Element, std::mem::take(&mut self.elements)),
            (Kind::Name, std::mem::take(&mut self.names)),
            (Kind::OuterName, std::mem::take(&mut self.outer_names)),
        ];
        for (kind, packer) in last {
            self.send(kind, packer.finish())?;
        }
        Ok(Elements {
            total: self.total,
            input_bytes: self.input_bytes,
            shape: self.shape,
            groups: self.groups,
            ..Elements::default()
        })
    }
}

/// Reads `body` as a blob is read, `at_a_time` bytes each; all of its blocks wait.
#[cfg(feature = "fuzzing")]
pub fn read_body(
    body: &[u8],
    wanted: Wanted,
    at_a_time: usize,
) -> Result<(Elements, Vec<(Kind, Block)>), FieldError> {
    let (sender, mut blocks) = mpsc::channel(body.len() + 1);
    let sink = Sink::new(sender, wanted.nested);
    let file = BufReader::with_capacity(at_a_time, body);
    let read = match wanted.encoding {
        Encoding::Json => read_lines(file, sink),
        Encoding::Rds | Encoding::Pickle | Encoding::Bytes => {
            read_frames(file, body.len() as u64, sink)
        }
    };
    let counted = read.map_err(|error| match error {
        ReadError::Field(fault) => fault,
        ReadError::Io(error) => panic!("memory can be read: {error}"),
    })?;
    let blocks = std::iter::from_fn(|| blocks.try_recv().ok()).collect();
    Ok((counted, blocks))
}

/// NDJSON: an element a line; under a nested plan an outer element, an array.
fn read_lines(mut file: impl BufRead, mut sink: Sink) -> Result<Elements, ReadError> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let limit = u64::from(MAX_PIECE) + 1;
        if file.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() as u64 == limit {
            let message = format!("line {number} is longer than {MAX_PIECE} bytes");
            return Err(ReadError::field(message));
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let value: &RawValue = serde_json::from_slice(text).map_err(|error| {
            ReadError::field(format!(
                "line {number} is not JSON ({error}); with encoding json the blob must be NDJSON, \
                 an element a line"
            ))
        })?;
        if !sink.shape.nested {
            sink.element(value.get().as_bytes())?;
            continue;
        }
        if !value.get().starts_with('[') {
            return Err(ReadError::field(format!(
                "line {number} is {}, must be an array: under a plan of two levels each outer \
                 element holds its inner elements",
                kind_of(value)
            )));
        }
        let (_, items) = level(value, FIELD)?;
        sink.groups.push(items.len() as u64);
        for item in items {
            sink.element(item.get().as_bytes())?;
        }
    }
    sink.finish()
}

/// What the frames before the next one have said.
struct Frames {
    sink: Sink,
    /// Bytes read.
    at: u64,
    /// The name of the element that comes next.
    key: Option<String>,
    /// Elements still to come of the outer element.
    in_group: u64,
    names: HashSet<String>,
}

/// Frames, as a value of another job may be: elements with or without names, or groups of them.
fn read_frames(mut file: impl Read, size: u64, sink: Sink) -> Result<Elements, ReadError> {
    let mut frames = Frames { sink, at: 0, key: None, in_group: 0, names: HashSet::new() };
    let mut payload = Vec::new();
    while frames.at < size {
        let mut head = [0; HEAD];
        if size - frames.at < HEAD as u64 {
            return Err(frames.cut_off());
        }
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if size - frames.at - (HEAD as u64) < u64::from(length) {
            return Err(frames.cut_off());
        }
        if length > MAX_PIECE {
            return Err(frames.fault(&format!("is longer than {MAX_PIECE} bytes")));
        }
        payload.resize(length as usize, 0);
        file.read_exact(&mut payload)?;
        frames.take(kind, &payload)?;
        frames.at += HEAD as u64 + u64::from(length);
    }
    frames.finish()
}

impl Frames {
    fn fault(&self, message: &str) -> ReadError {
        ReadError::field(format!("the frame at byte {} {message}", self.at))
    }

    fn cut_off(&self) -> ReadError {
        self.fault("is cut off: the blob must be frames, each whole")
    }

    fn take(&mut self, kind: u8, payload: &[u8]) -> Result<(), ReadError> {
        match kind {
            kind::VALUE => self.value(payload),
            kind::KEY => self.key(payload),
            kind::GROUP => self.group(payload),
            kind::ERROR => Err(self.fault(
                "is an error in the place of a value, must be a value: leave the elements that \
                 failed out",
            )),
            _ => Err(self.fault(&format!(
                "is of the unknown kind {:?}; with another encoding than json the blob must be \
                 {}: frames of the kinds v, k and g",
                char::from(kind),
                frames::MEDIA_TYPE
            ))),
        }
    }

    fn value(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        if self.sink.shape.nested {
            if self.in_group == 0 {
                return Err(self.fault(
                    "is a value outside of a group: under a plan of two levels a `g` frame must \
                     begin each outer element",
                ));
            }
            self.in_group -= 1;
            return self.sink.element(payload);
        }
        match self.key.take() {
            Some(name) => {
                self.sink.name(&name)?;
                if !self.names.insert(name) {
                    return Err(self.fault("has a name that stands before"));
                }
            }
            None if self.sink.shape.named => {
                return Err(self.fault("has no name: a `k` frame must stand before all or none"));
            }
            None => {}
        }
        self.sink.element(payload)
    }

    fn key(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        if self.sink.shape.nested {
            return Err(self.fault("is a name, which only outer elements have under a nested plan"));
        }
        if self.key.is_some() || (!self.sink.shape.named && self.sink.total > 0) {
            return Err(self.fault("is a name, which must stand before each value or before none"));
        }
        let name = std::str::from_utf8(payload);
        self.key = Some(name.map_err(|_| self.fault("is a name, must be UTF-8"))?.to_owned());
        Ok(())
    }

    fn group(&mut self, payload: &[u8]) -> Result<(), ReadError> {
        if !self.sink.shape.nested {
            return Err(self.fault(
                "begins a group, which needs a plan of two levels, such as [{\"strategy\": \
                 \"cluster\"}, {\"strategy\": \"multisession\"}]",
            ));
        }
        if self.in_group > 0 {
            return Err(self.fault("begins a group before the last one is full"));
        }
        let group: Group = serde_json::from_slice(payload)
            .map_err(|_| self.fault("is no group, must be JSON such as {\"n\": 3}"))?;
        let is_first = self.sink.groups.is_empty();
        match group.name {
            Some(name) if is_first || self.sink.shape.outer_named => {
                self.sink.outer_name(&name)?;
                if !self.names.insert(name) {
                    return Err(self.fault("has a name that stands before"));
                }
            }
            None if !self.sink.shape.outer_named => {}
            _ => return Err(self.fault("must have a name if and only if the others have one")),
        }
        self.in_group = group.n;
        self.sink.groups.push(group.n);
        Ok(())
    }

    fn finish(self) -> Result<Elements, ReadError> {
        if self.in_group > 0 {
            return Err(self.fault("is missing: the last group is not full"));
        }
        if self.key.is_some() {
            return Err(self.fault("is missing: a name stands at the end"));
        }
        self.sink.finish()
    }
}

#[cfg(test)]
mod tests;
