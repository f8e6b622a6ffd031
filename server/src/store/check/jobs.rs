//! The row of a job and its counters, against all that belongs to it.

use std::collections::BTreeSet;

use protocol::job::{JobState, OnError, Options};
use protocol::{JobId, Problem};

use super::super::db::{Row, Tx, args, json_text};
use super::super::jobs::{self, Shape};
use super::super::{StoreError, offers, references, specs};
use super::{Check, Kind, leases, outcomes, tiling};

pub(super) const SELECT_PAGE: &str = "
    select j.id, j.state, j.runtime, j.requires, j.options, j.shape, j.spec, j.runnable, j.total, j.after_jobs,
        j.retried_as, j.started_at, j.finished_at, j.error,
        p.cursor, p.done, p.failed, p.running, p.slots,
        r.id as retry, r.retry_of as retry_is_of
    from jobs j left join progress p on p.job_id = j.id left join jobs r on r.id = j.retried_as
    where j.id > $1 order by j.id limit $2";

/// A job's row and its counters.
struct Book {
    id: JobId,
    state: JobState,
    stops: bool,
    shape: Shape,
    runnable: bool,
    /// What an agent must have to run it, as it is written down and as it must be.
    requires: String,
    required: String,
    total: u64,
    after: Vec<JobId>,
    counters: Option<Counters>,
}

/// What moves with every report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    cursor: u64,
    done: u64,
    failed: u64,
    running: u64,
    slots: u64,
}

fn book(row: &Row) -> Result<Book, StoreError> {
    let counters = match row.maybe_int("cursor")? {
        None => None,
        Some(_) => Some(Counters {
            cursor: row.count("cursor")?,
            done: row.count("done")?,
            failed: row.count("failed")?,
            running: row.count("running")?,
            slots: row.count("slots")?,
        }),
    };
    let options: Options = row.json("options")?;
    Ok(Book {
        id: row.id("id")?,
        state: jobs::state(row)?,
        stops: options.on_error == OnError::Stop,
        requires: row.text("requires")?,
        required: offers::required(jobs::runtime(row)?, &options.labels)?,
        shape: row.json("shape")?,
        runnable: row.flag("runnable")?,
        total: row.count("total")?,
        after: row.json("after_jobs")?,
        counters,
    })
}

impl Check<'_> {
    pub(super) async fn job(&mut self, tx: &mut Tx<'_>, row: &Row) -> Result<(), StoreError> {
        let book = match book(row) {
            Ok(book) => book,
            Err(error) => {
                let job = row.text("id")?;
                self.report.add(Kind::Unreadable, job.parse().ok(), error.to_string());
                return Ok(());
            }
        };
        self.times(&book, row)?;
        self.retries(&book, row)?;
        self.references(tx, &book, row).await?;
        self.inputs(tx, book.id, book.shape, book.total).await?;
        let outcomes = self.outcomes(tx, book.id).await?;
        let leases = self.leases(tx, book.id, book.state.is_final()).await?;
        let waits = self.dependencies(tx, &book).await?;
        self.state(&book, &outcomes, waits);
        let Some(counters) = book.counters else {
            self.add(&book, Kind::Counters, "the job has no counters");
            return Ok(());
        };
        self.counters(&book, counters, &outcomes, &leases);
        let is_open = counters.cursor < book.total || leases.has_returned;
        let runnable = !book.state.is_final() && !waits && is_open;
        if book.runnable != runnable {
            let text = if runnable {
                "something of the job can be leased, and its row says that nothing can"
            } else {
                "nothing of the job can be leased, and its row says that something can"
            };
            self.add(&book, Kind::Runnable, text);
        }
        if !book.requires.is_empty() && book.requires != book.required {
            let text =
                format!("the job requires {}, and its row says {}", book.required, book.requires);
            self.add(&book, Kind::Runnable, text);
        }
        let faults = if book.state.is_final() {
            // Of one that failed or was cancelled, elements may never have come to an end.
            tiling::faults(outcomes.pieces, book.total).others
        } else {
            let pieces = outcomes.pieces.into_iter().chain(leases.pieces).collect();
            tiling::faults(pieces, counters.cursor).all().collect()
        };
        for fault in faults {
            self.add(&book, Kind::Elements, fault);
        }
        Ok(())
    }

    fn add(&mut self, book: &Book, kind: Kind, text: impl Into<String>) {
        self.report.add(kind, Some(book.id), text);
    }

    /// A job that has ended says when, one that has failed says why, and no other does.
    fn times(&mut self, book: &Book, row: &Row) -> Result<(), StoreError> {
        let (state, has_end) = (book.state.as_str(), row.maybe_int("finished_at")?.is_some());
        if book.state.is_final() != has_end {
            let says = if has_end { "says when it ended" } else { "does not say when it ended" };
            self.add(book, Kind::State, format!("the job is {state} and {says}"));
        }
        let error = row.maybe_text("error")?;
        let has_failed = book.state == JobState::Failed;
        if has_failed != error.is_some() {
            let says = if has_failed { "does not say why" } else { "says why it failed" };
            self.add(book, Kind::State, format!("the job is {state} and {says}"));
        }
        if error.is_some_and(|error| serde_json::from_str::<Problem>(&error).is_err()) {
            self.add(book, Kind::Unreadable, "why the job failed cannot be read");
        }
        Ok(())
    }

    /// A job and its retry know each other.
    fn retries(&mut self, book: &Book, row: &Row) -> Result<(), StoreError> {
        let Some(retried_as) = row.maybe_text("retried_as")? else { return Ok(()) };
        if row.maybe_text("retry")?.is_none() {
            let text = format!("its retry {retried_as} is not there");
            self.add(book, Kind::Retries, text);
        } else if row.maybe_text("retry_is_of")?.as_deref() != Some(&book.id.to_string()) {
            let text = format!("its retry {retried_as} does not say that it is one of this job");
            self.add(book, Kind::Retries, text);
        }
        Ok(())
    }

    /// What a specification refers to is written down, and there.
    async fn references(
        &mut self,
        tx: &mut Tx<'_>,
        book: &Book,
        row: &Row,
    ) -> Result<(), StoreError> {
        let spec = match specs::spec(row) {
            Ok(spec) => spec,
            Err(error) => {
                self.add(book, Kind::Unreadable, error.to_string());
                return Ok(());
            }
        };
        let rows = tx
            .all("select digest from job_blobs where job_id = $1 order by digest", args![book.id])
            .await?;
        let written: BTreeSet<String> =
            rows.iter().map(|row| row.text("digest")).collect::<Result<_, _>>()?;
        let referred = references::digests_of(&spec);
        if !written.iter().map(String::as_str).eq(referred.iter().copied()) {
            let text = format!(
                "the job's specification refers to {} blobs, and {} others are written down",
                referred.len(),
                written.len()
            );
            self.add(book, Kind::References, text);
        }
        for digest in referred {
            self.blob(tx, book.id, digest, None).await;
        }
        Ok(())
    }

    /// A job waits for those before it that have not ended. Says whether it waits.
    async fn dependencies(&mut self, tx: &mut Tx<'_>, book: &Book) -> Result<bool, StoreError> {
        let rows = tx
            .all("select on_id from dependencies where job_id = $1 order by on_id", args![book.id])
            .await?;
        let waits_for: BTreeSet<String> =
            rows.iter().map(|row| row.text("on_id")).collect::<Result<_, _>>()?;
        let mut must = BTreeSet::new();
        if !book.state.is_final() && !book.after.is_empty() {
            let rows = tx
                .all(
                    "select id, state from jobs where id in (select value from json_each($1))",
                    args![json_text(&book.after)?],
                )
                .await?;
            for row in rows {
                let (on, state) = (row.text("id")?, jobs::state(&row)?);
                match state {
                    JobState::Queued | JobState::Running => {
                        must.insert(on);
                    }
                    JobState::Failed | JobState::Cancelled => {
                        let text = format!(
                            "the job comes after {on}, which is {}, and is {}",
                            state.as_str(),
                            book.state.as_str()
                        );
                        self.add(book, Kind::Dependencies, text);
                    }
                    JobState::Resolved => {}
                }
            }
        }
        for on in waits_for.difference(&must) {
            self.add(book, Kind::Dependencies, format!("the job waits for {on} without need"));
        }
        for on in must.difference(&waits_for) {
            self.add(book, Kind::Dependencies, format!("the job does not wait for {on}"));
        }
        self.needs(tx, book).await?;
        Ok(!waits_for.is_empty())
    }

    /// A job keeps those before it until it has ended.
    async fn needs(&mut self, tx: &mut Tx<'_>, book: &Book) -> Result<(), StoreError> {
        let rows = tx.all("select on_id from needs where job_id = $1", args![book.id]).await?;
        let needs: BTreeSet<String> =
            rows.iter().map(|row| row.text("on_id")).collect::<Result<_, _>>()?;
        let after = book.after.iter().filter(|_| !book.state.is_final());
        let must: BTreeSet<String> = after.map(ToString::to_string).collect();
        for on in needs.difference(&must) {
            self.add(book, Kind::Dependencies, format!("the job keeps {on} without need"));
        }
        for on in must.difference(&needs) {
            self.add(book, Kind::Dependencies, format!("the job does not keep {on}"));
        }
        Ok(())
    }

    /// A job with all its outcomes has ended, and one that is resolved has all of them.
    fn state(&mut self, book: &Book, outcomes: &outcomes::Recount, waits: bool) {
        let n = outcomes.done + outcomes.failed;
        let state = book.state.as_str();
        let text = match book.state {
            JobState::Resolved if n != book.total => {
                format!("the job is resolved with {n} outcomes of {} elements", book.total)
            }
            JobState::Queued | JobState::Running if n >= book.total && !waits => {
                format!("the job has an outcome for each element and is {state}")
            }
            JobState::Queued | JobState::Running | JobState::Resolved | JobState::Cancelled
                if book.stops && outcomes.failed > 0 =>
            {
                format!("the job stops at its first error, has {} and is {state}", outcomes.failed)
            }
            _ => return,
        };
        self.add(book, Kind::State, text);
    }

    fn counters(
        &mut self,
        book: &Book,
        counters: Counters,
        outcomes: &outcomes::Recount,
        leases: &leases::Recount,
    ) {
        for (name, says, found) in [
            ("values", counters.done, outcomes.done),
            ("errors", counters.failed, outcomes.failed),
            ("running elements", counters.running, leases.running),
            ("slots at work", counters.slots, leases.slots),
        ] {
            if says != found {
                let text = format!("the job counts {says} {name}, there are {found}");
                self.add(book, Kind::Counters, text);
            }
        }
        if counters.cursor > book.total {
            let text = format!("the cursor is {}, behind {}", counters.cursor, book.total);
            self.add(book, Kind::Counters, text);
        }
    }
}
