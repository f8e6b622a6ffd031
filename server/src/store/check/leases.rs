//! What agents hold of a job, and what came back.

use protocol::{JobId, LeaseId, RangeSet};

use super::super::StoreError;
use super::super::db::{Row, Tx, args};
use super::tiling::Piece;
use super::{Check, Kind};

/// Rows that one read takes.
const ROWS: u32 = 500;

/// What the leases of a job come to.
#[derive(Debug, Default)]
pub struct Recount {
    /// Elements under live ones.
    pub running: u64,
    /// Slots that these occupy.
    pub slots: u64,
    /// Whether something can be leased anew.
    pub has_returned: bool,
    /// Which elements stand in one.
    pub pieces: Vec<Piece>,
}

impl Check<'_> {
    pub(super) async fn leases(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        has_ended: bool,
    ) -> Result<Recount, StoreError> {
        let (mut recount, mut after) = (Recount::default(), String::new());
        loop {
            let rows = tx
                .all(
                    "select id, state, ranges, remaining, spare,
                         case when spare = remaining then 0 else slots end as slots,
                         exists (select 1 from agents where id = agent_id) as has_agent
                     from leases where job_id = $1 and id > $2 order by id limit $3",
                    args![job, after.as_str(), ROWS],
                )
                .await?;
            let Some(last) = rows.last() else { return Ok(recount) };
            after = last.text("id")?;
            if has_ended {
                let text = format!("the job has ended and has lease {}", rows[0].text("id")?);
                self.report.add(Kind::Leases, Some(job), text);
                return Ok(recount);
            }
            for row in &rows {
                self.lease_row(job, row, &mut recount)?;
            }
        }
    }

    fn lease_row(
        &mut self,
        job: JobId,
        row: &Row,
        recount: &mut Recount,
    ) -> Result<(), StoreError> {
        let mut add = |text: String| self.report.add(Kind::Leases, Some(job), text);
        let (id, state): (LeaseId, _) = (row.id("id")?, row.text("state")?);
        let ranges: RangeSet = match row.json("ranges") {
            Ok(ranges) => ranges,
            Err(error) => {
                add(format!("lease {id}: {error}"));
                return Ok(());
            }
        };
        if ranges.is_empty() || ranges.len() != row.count("remaining")? {
            let (n, remaining) = (ranges.len(), row.count("remaining")?);
            add(format!("lease {id} holds {n} elements and says {remaining}"));
        }
        if row.count("spare")? > row.count("remaining")? {
            let (spare, remaining) = (row.count("spare")?, row.count("remaining")?);
            add(format!("lease {id} could spare {spare} elements of {remaining}"));
        }
        match state.as_str() {
            "live" => {
                recount.running += row.count("remaining")?;
                recount.slots += row.count("slots")?;
                if !row.flag("has_agent")? {
                    add(format!("lease {id} is live, of an agent that is not there"));
                }
            }
            "lapsed" | "torn" | "released" => recount.has_returned = true,
            other => add(format!("lease {id} is {other:?}, which no lease is")),
        }
        let piece = |range: &_| Piece { range: *range, holder: format!("in lease {id}") };
        recount.pieces.extend(ranges.ranges().iter().map(piece));
        Ok(())
    }
}
