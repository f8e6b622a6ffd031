//! Inputs and names, in blocks that are read by range.

use std::io;
use std::ops::Range as Span;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use protocol::JobId;

use super::StoreError;
use super::db::{Row, Tx, args};
use crate::blobs::{Blobs, Opened};
use crate::block::{self, Block};

/// What a block of a job holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The elements, as JSON text.
    Element,
    /// The names of the elements, as JSON strings.
    Name,
    /// The names of the outer elements of a nested plan, as JSON strings.
    OuterName,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Element => "element",
            Self::Name => "name",
            Self::OuterName => "outer_name",
        }
    }
}

/// Where the bytes of a block are: compressed in its row, or as they are in a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the row, compressed.
    Row(Vec<u8>),
    /// In the blob of this digest.
    Blob(String),
}

impl Place {
    /// Puts `data` where it belongs by its size. A blob is flushed when this returns.
    ///
    /// # Errors
    /// When the blob cannot be written.
    pub async fn of(data: &Bytes, blobs: &Blobs) -> io::Result<Self> {
        Self::within(data, blobs, block::MAX_INLINE).await
    }

    async fn within(data: &Bytes, blobs: &Blobs, max_inline: usize) -> io::Result<Self> {
        if data.len() <= block::MAX_COMPRESSED {
            let compressed = block::compress(data);
            if compressed.len() <= max_inline {
                return Ok(Self::Row(compressed));
            }
        }
        blobs.put(data.clone()).await.map(Self::Blob)
    }

    /// Splits into the columns `data` and `digest`.
    pub(super) fn into_columns(self) -> (Option<Vec<u8>>, Option<String>) {
        match self {
            Self::Row(data) => (Some(data), None),
            Self::Blob(digest) => (None, Some(digest)),
        }
    }

    /// Reads the columns `data` and `digest`.
    pub(super) fn from_row(row: &Row) -> Result<Self, StoreError> {
        match (row.maybe_bytes("data")?, row.maybe_text("digest")?) {
            (Some(data), None) => Ok(Self::Row(data)),
            (None, Some(digest)) => Ok(Self::Blob(digest)),
            _ => Err(StoreError::corrupt("data", "neither or both of bytes and a digest")),
        }
    }

    /// Reads the bytes, uncompressed.
    ///
    /// # Errors
    /// When the blob is missing or the bytes are damaged.
    pub async fn load(&self, blobs: &Blobs) -> Result<Bytes, StoreError> {
        match self {
            Self::Row(data) => block::decompress(data)
                .map(Bytes::from)
                .ok_or_else(|| StoreError::corrupt("data", "bytes that do not decompress")),
            Self::Blob(digest) => {
                blobs.get(digest).await.map_err(|error| unread(&named(digest, &error)))
            }
        }
    }
}

/// Opens the blob of a block, which must have so many bytes.
///
/// # Errors
/// When it is missing or has not.
pub async fn open(digest: &str, n_bytes: u64, blobs: &Blobs) -> Result<Opened, StoreError> {
    let opened = blobs.open_blob(digest).await;
    let Opened { size, parts } = opened.map_err(|error| unread(&named(digest, &error)))?;
    if size != n_bytes {
        let sizes = format!("{digest}: {size} bytes instead of {n_bytes}");
        return Err(StoreError::corrupt("digest", &sizes));
    }
    let digest = digest.to_owned();
    let parts = parts.map_err(move |error| named(&digest, &error)).boxed();
    Ok(Opened { size, parts })
}

/// Why a blob cannot be read, with its digest.
fn named(digest: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{digest}: {error}"))
}

/// What it means that a blob cannot be read.
pub fn unread(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotConnected => StoreError::Blobs(error.to_string().into()),
        _ => StoreError::corrupt("digest", &error.to_string()),
    }
}

/// Bytes that the rows of many blocks written together take; blocks beyond these stand in blobs, so
/// that neither memory nor the transaction that writes them grows with the whole.
const ROW_BYTES: usize = 16 << 20;

/// Bytes of a block that stands in its row even then.
const SMALL: usize = 4 << 10;

/// Puts many blocks where they belong by their size and by that of those before.
#[derive(Debug)]
pub struct Placing {
    left: usize,
}

impl Default for Placing {
    fn default() -> Self {
        Self { left: ROW_BYTES }
    }
}

impl Placing {
    /// Puts the next block there. A blob is flushed when this returns.
    ///
    /// # Errors
    /// When the blob cannot be written.
    pub async fn place(&mut self, data: &Bytes, blobs: &Blobs) -> io::Result<Place> {
        let max_inline = if self.left > 0 { block::MAX_INLINE } else { SMALL };
        let place = Place::within(data, blobs, max_inline).await?;
        if let Place::Row(data) = &place {
            self.left = self.left.saturating_sub(data.len());
        }
        Ok(place)
    }
}

/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// The index of its first payload.
    pub first: u64,
    /// The bytes of each payload.
    pub lengths: Vec<u32>,
    /// Where they are.
    pub place: Place,
}

impl StoredBlock {
    /// Stores the data of `block` if it is large.
    ///
    /// # Errors
    /// When a blob cannot be written.
    pub async fn of(block: Block, blobs: &Blobs) -> io::Result<Self> {
        let place = Place::of(&block.data, blobs).await?;
        Ok(Self { first: block.first, lengths: block.lengths, place })
    }

    /// The index behind its last payload.
    pub fn end(&self) -> u64 {
        self.first + self.lengths.len() as u64
    }

    /// Reads the data.
    ///
    /// # Errors
    /// When the blob is missing or the bytes are damaged.
    pub async fn load(self, blobs: &Blobs) -> Result<Block, StoreError> {
        let data = self.place.load(blobs).await?;
        Ok(Block { first: self.first, lengths: self.lengths, data })
    }

    /// Where the payloads from `from` up to `to` lie in its data, and the lengths of them.
    pub fn slice(&self, from: u64, to: u64) -> (Span<usize>, &[u32]) {
        let n = self.lengths.len();
        let clamp =
            |index: u64| usize::try_from(index.saturating_sub(self.first)).map_or(n, |i| i.min(n));
        let (from, to) = (clamp(from), clamp(to));
        let sum = |lengths: &[u32]| lengths.iter().map(|&length| length as usize).sum::<usize>();
        let start = sum(&self.lengths[..from]);
        (start..start + sum(&self.lengths[from..to]), &self.lengths[from..to])
    }
}

/// Writes the blocks of a job.
///
/// # Errors
/// The database's.
pub async fn insert(
    tx: &mut Tx<'_>,
    job: JobId,
    kind: Kind,
    blocks: Vec<StoredBlock>,
) -> Result<(), StoreError> {
    for block in blocks {
        let (data, digest) = block.place.into_columns();
        tx.execute(
            "insert into blocks (job_id, kind, first, n, lengths, data, digest)
             values ($1, $2, $3, $4, $5, $6, $7)",
            args![
                job,
                kind.as_str(),
                block.first,
                block.lengths.len(),
                block::encode_lengths(&block.lengths),
                data,
                digest
            ],
        )
        .await?;
    }
    Ok(())
}

/// Reads the blocks of a job that hold payloads from `from` up to `to`, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn read(
    tx: &mut Tx<'_>,
    job: JobId,
    kind: Kind,
    from: u64,
    to: u64,
    limit: u32,
) -> Result<Vec<StoredBlock>, StoreError> {
    let rows = tx
        .all(
            // The block that holds `from` is the last that starts at or before it.
            "select first, lengths, data, digest from blocks
             where job_id = $1 and kind = $2 and first < $4 and first >= coalesce(
                 (select max(first) from blocks where job_id = $1 and kind = $2 and first <= $3), 0)
             order by first limit $5 + 0",
            args![job, kind.as_str(), from, to, limit],
        )
        .await?;
    rows.iter().map(stored_block).collect()
}

fn stored_block(row: &Row) -> Result<StoredBlock, StoreError> {
    let lengths = block::decode_lengths(&row.bytes("lengths")?)
        .ok_or_else(|| StoreError::corrupt("lengths", "bytes that are no varints"))?;
    Ok(StoredBlock { first: row.count("first")?, lengths, place: Place::from_row(row)? })
}
