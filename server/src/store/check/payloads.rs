//! Bytes in rows and in blobs.

use protocol::JobId;

use super::super::StoreError;
use super::super::blocks::Place;
use super::super::db::{Row, Tx};
use super::{Check, Kind};
use crate::block;

/// The bytes of a row that holds payloads: how many there are, or why they cannot be read.
type Lengths = Result<Vec<u32>, String>;

impl Check<'_> {
    /// Checks the columns `n`, `lengths`, `data` and `digest` of a row. Says what is wrong with them.
    pub(super) async fn payloads(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        row: &Row,
    ) -> Result<Vec<String>, StoreError> {
        let (n, mut faults) = (row.count("n")?, Vec::new());
        let n_bytes = match lengths(row)? {
            Ok(lengths) if lengths.len() as u64 == n => {
                Some(lengths.iter().map(|&length| u64::from(length)).sum())
            }
            Ok(lengths) => {
                faults.push(format!("hold {} payloads and say {n}", lengths.len()));
                None
            }
            Err(why) => {
                faults.push(why);
                None
            }
        };
        match Place::from_row(row) {
            Ok(Place::Row(data)) => match block::decompress(&data) {
                None => faults.push("do not decompress".to_owned()),
                Some(data) if n_bytes.is_some_and(|n| n != data.len() as u64) => faults.push(
                    format!("have {} bytes, their lengths sum to another number", data.len()),
                ),
                Some(_) => {}
            },
            Ok(Place::Blob(digest)) => self.blob(tx, job, &digest, n_bytes).await,
            Err(error) => faults.push(error.to_string()),
        }
        Ok(faults)
    }

    /// Checks that a blob is there, of so many bytes, and on request that it is the one.
    pub(super) async fn blob(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        digest: &str,
        n_bytes: Option<u64>,
    ) {
        self.report.blobs += 1;
        let wrong = match self.blobs.size(tx, digest).await {
            Ok(None) => Some("is missing".to_owned()),
            Ok(Some(size)) if n_bytes.is_some_and(|n| n != size) => {
                Some(format!("has {size} bytes, must have {}", n_bytes.unwrap_or_default()))
            }
            Ok(Some(_)) if self.deep && !self.read.contains(digest) => {
                self.read.insert(digest.to_owned());
                self.read_blob(tx, digest).await
            }
            Ok(Some(_)) => None,
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        if let Some(wrong) = wrong {
            let blob = self.blobs.describe(tx, digest).await;
            self.report.add(Kind::Blobs, Some(job), format!("{blob} {wrong}"));
        }
    }

    async fn read_blob(&self, tx: &mut Tx<'_>, digest: &str) -> Option<String> {
        let read = async {
            let opened = self.blobs.open_blob(tx, digest).await?;
            opened.digest(async |_| Ok(())).await
        };
        match read.await {
            Ok((hex, _)) if digest.ends_with(&hex) => None,
            Ok((hex, _)) => Some(format!("is damaged: its bytes have the digest sha256:{hex}")),
            Err(error) => Some(format!("cannot be read: {error}")),
        }
    }
}

fn lengths(row: &Row) -> Result<Lengths, StoreError> {
    let lengths = block::decode_lengths(&row.bytes("lengths")?);
    Ok(lengths.ok_or_else(|| "have lengths that cannot be read".to_owned()))
}
