//! Rows of jobs that are not there.

use super::super::StoreError;
use super::super::db::{Tx, args};
use super::{Check, Kind};

/// The statement that counts, job by job, the rows of a table whose job is not in any of these.
macro_rules! orphans {
    ($table:literal $(, $other:literal)*) => {
        concat!(
            "select '", $table, "' as name, job_id, count(*) as n from ", $table, " t
             where not exists (select 1 from jobs where id = t.job_id)",
            $(" and not exists (select 1 from ", $other, " where job_id = t.job_id)",)*
            " group by job_id limit 1000"
        )
    };
}

/// What is large is cleared after its job, and written before a retry is a job.
const TABLES: [&str; 10] = [
    orphans!("progress"),
    orphans!("dependencies"),
    orphans!("needs"),
    orphans!("job_blobs"),
    orphans!("logs", "trash"),
    orphans!("blocks", "trash", "drafts"),
    orphans!("groups", "trash", "drafts"),
    orphans!("leases", "trash", "drafts"),
    orphans!("artifacts", "trash", "drafts"),
    orphans!("outcomes", "trash", "drafts"),
];

impl Check<'_> {
    pub(super) async fn orphans(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for sql in TABLES {
            for row in tx.all(sql, args![]).await? {
                let (name, n, job) = (row.text("name")?, row.count("n")?, row.text("job_id")?);
                let text = format!("{n} rows of {name} are of job {job}, which is not there");
                self.report.add(Kind::Orphans, job.parse().ok(), text);
            }
        }
        let both = tx
            .all(
                "select 'trash' as name, t.job_id from trash t join jobs j on j.id = t.job_id
                 union all
                 select 'drafts' as name, d.job_id from drafts d join jobs j on j.id = d.job_id",
                args![],
            )
            .await?;
        for row in both {
            let (name, job) = (row.text("name")?, row.text("job_id")?);
            let text = format!("job {job} is there, and in {name} too");
            self.report.add(Kind::Orphans, job.parse().ok(), text);
        }
        let keys = tx
            .all(
                "select key from idempotency_keys k where not exists (
                     select 1 from jobs where owner = k.owner and idempotency_key = k.key)
                 limit 1000",
                args![],
            )
            .await?;
        for row in keys {
            let text = format!("the Idempotency-Key {:?} is of no job", row.text("key")?);
            self.report.add(Kind::Orphans, None, text);
        }
        Ok(())
    }
}
