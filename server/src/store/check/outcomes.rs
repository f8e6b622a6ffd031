//! Accepted outcomes: they do not overlap, were numbered without a gap, and can be read.

use std::collections::BTreeSet;

use protocol::agent::Note;
use protocol::{JobId, Range};

use super::super::StoreError;
use super::super::db::{Row, Tx, args};
use super::tiling::Piece;
use super::{Check, Kind};

/// Rows that one read takes: at most 64 KiB each.
const ROWS: u32 = 200;

/// What the outcomes of a job come to.
#[derive(Debug, Default)]
pub struct Recount {
    /// Values.
    pub done: u64,
    /// Errors.
    pub failed: u64,
    /// Blobs that single elements list as artifacts.
    pub artifacts: u64,
    /// Which elements have outcomes, neighbours together.
    pub pieces: Vec<Piece>,
}

impl Check<'_> {
    pub(super) async fn outcomes(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
    ) -> Result<Recount, StoreError> {
        let (mut recount, mut ranks, mut after) = (Recount::default(), Vec::new(), -1);
        loop {
            let rows = tx
                .all(
                    "select first, n, rank, errors, notes, lengths, data, digest from outcomes
                     where job_id = $1 and first > $2 order by first limit $3",
                    args![job, after, ROWS],
                )
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.int("first")?;
            for row in &rows {
                ranks.push((row.count("rank")?, row.count("n")?));
                self.outcome_row(tx, job, row, &mut recount).await?;
            }
        }
        let written =
            tx.first("select count(*) as n from artifacts where job_id = $1", args![job]).await?;
        let written = written.map_or(Ok(0), |row| row.count("n"))?;
        if written != recount.artifacts {
            let text = format!(
                "the outcomes list {} blobs as artifacts, and {written} are written down",
                recount.artifacts
            );
            self.report.add(Kind::References, Some(job), text);
        }
        self.ranks(job, ranks);
        self.report.outcomes += recount.done + recount.failed;
        Ok(recount)
    }

    async fn outcome_row(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        row: &Row,
        recount: &mut Recount,
    ) -> Result<(), StoreError> {
        let (first, n) = (row.count("first")?, row.count("n")?);
        let range = Range(first, first + n);
        let mut faults = self.payloads(tx, job, row).await?;
        let errors: Vec<u32> = match row.json("errors") {
            Ok(errors) => errors,
            Err(error) => {
                faults.push(error.to_string());
                Vec::new()
            }
        };
        let ascend = errors.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascend || errors.last().is_some_and(|&last| u64::from(last) >= n) {
            faults.push(format!("have errors at {errors:?}, which are no positions in them"));
        }
        match row.json::<Vec<Note>>("notes") {
            Ok(notes) if notes.iter().any(|note| u64::from(note.position) >= n) => {
                faults.push("have a note of an element that is not among them".to_owned());
            }
            Ok(notes) => faults.extend(self.artifacts(tx, job, range, &notes, recount).await?),
            Err(error) => faults.push(error.to_string()),
        }
        for fault in faults {
            self.report.add(
                Kind::Outcomes,
                Some(job),
                format!("the outcomes of elements {} to {} {fault}", range.0, range.1.max(1) - 1),
            );
        }
        let n_errors = (errors.len() as u64).min(n);
        recount.failed += n_errors;
        recount.done += n - n_errors;
        // Rows come in order: a million of them are a few pieces.
        match recount.pieces.last_mut() {
            Some(piece) if piece.range.1 == range.0 => piece.range.1 = range.1,
            _ => recount.pieces.push(Piece { range, holder: "among the outcomes".to_owned() }),
        }
        Ok(())
    }

    /// What the notes of outcomes list as artifacts is written down, and there. Says what is not.
    async fn artifacts(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        range: Range,
        notes: &[Note],
        recount: &mut Recount,
    ) -> Result<Option<String>, StoreError> {
        let mut listed = BTreeSet::new();
        for note in notes {
            for artifact in &note.artifacts {
                listed.insert((range.0 + u64::from(note.position), artifact.digest.clone()));
                self.blob(tx, job, &artifact.digest, Some(artifact.bytes)).await;
            }
        }
        if listed.is_empty() {
            return Ok(None);
        }
        recount.artifacts += listed.len() as u64;
        let rows = tx
            .all(
                "select element, digest from artifacts
                 where job_id = $1 and element >= $2 and element < $3",
                args![job, range.0, range.1],
            )
            .await?;
        let written: BTreeSet<(u64, String)> = rows
            .iter()
            .map(|row| Ok((row.count("element")?, row.text("digest")?)))
            .collect::<Result<_, StoreError>>()?;
        let differs = written != listed;
        Ok(differs.then(|| "list other artifacts than are written down".to_owned()))
    }

    fn ranks(&mut self, job: JobId, mut ranks: Vec<(u64, u64)>) {
        ranks.sort_unstable();
        let mut next = 0;
        for (rank, n) in ranks {
            if rank != next {
                let text = format!("behind outcome {next} in the order of acceptance comes {rank}");
                self.report.add(Kind::Ranks, Some(job), text);
                return;
            }
            next += n;
        }
    }
}
