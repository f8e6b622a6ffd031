//! Elements, names, and the sizes of outer elements.

use protocol::{JobId, Range};

use super::super::StoreError;
use super::super::db::{Tx, args};
use super::super::jobs::Shape;
use super::tiling::{self, Piece};
use super::{Check, Kind};

/// Blocks that one read takes: at most 64 KiB each.
const BLOCKS: u32 = 200;

/// Outer elements that one read takes.
const GROUPS: u32 = 5000;

impl Check<'_> {
    pub(super) async fn inputs(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        shape: Shape,
        total: u64,
    ) -> Result<(), StoreError> {
        let n_outer = if shape.nested { self.groups(tx, job, total).await? } else { 0 };
        let has_elements = shape.range.is_none() && !shape.is_call;
        for (kind, what, wanted) in [
            ("element", "input", if has_elements { total } else { 0 }),
            ("name", "name", if shape.named { total } else { 0 }),
            ("outer_name", "outer name", if shape.outer_named { n_outer } else { 0 }),
        ] {
            let pieces = self.blocks(tx, job, kind, what).await?;
            for fault in tiling::faults(pieces, wanted).all() {
                self.report.add(Kind::Inputs, Some(job), format!("{what}s: {fault}"));
            }
        }
        Ok(())
    }

    async fn blocks(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        kind: &'static str,
        what: &'static str,
    ) -> Result<Vec<Piece>, StoreError> {
        let (mut pieces, mut after) = (Vec::<Piece>::new(), -1);
        loop {
            let rows = tx
                .all(
                    "select first, n, lengths, data, digest from blocks
                     where job_id = $1 and kind = $2 and first > $3 order by first limit $4",
                    args![job, kind, after, BLOCKS],
                )
                .await?;
            let Some(last) = rows.last() else { return Ok(pieces) };
            after = last.int("first")?;
            for row in &rows {
                let first = row.count("first")?;
                let range = Range(first, first + row.count("n")?);
                for fault in self.payloads(tx, job, row).await? {
                    let text = format!("the {what}s from {first} on {fault}");
                    self.report.add(Kind::Inputs, Some(job), text);
                }
                pieces.push(Piece { range, holder: format!("in the block from {first} on") });
            }
        }
    }

    /// How many outer elements there are.
    async fn groups(&mut self, tx: &mut Tx<'_>, job: JobId, total: u64) -> Result<u64, StoreError> {
        let (mut position, mut next) = (0, 0);
        loop {
            let rows = tx
                .all(
                    "select position, first, n from groups where job_id = $1 and position >= $2
                     order by position limit $3",
                    args![job, position, GROUPS],
                )
                .await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let found = (row.count("position")?, row.count("first")?);
                if found != (position, next) {
                    let text = format!(
                        "outer element {} begins at {}, where {position} at {next} comes",
                        found.0, found.1
                    );
                    self.report.add(Kind::Inputs, Some(job), text);
                    return Ok(position);
                }
                next += row.count("n")?;
                position += 1;
            }
        }
        if next != total {
            let text = format!("the outer elements hold {next} elements, the job has {total}");
            self.report.add(Kind::Inputs, Some(job), text);
        }
        Ok(position)
    }
}
