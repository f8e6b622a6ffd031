//! Deliberate bugs: proof that the auditor sees what it looks for.
//!
//! Where a bug is a statement that lacks a guard, the statement is run without it. Where it is
//! something that the server does at the wrong time or for the wrong one, the simulated server does.

use super::faults::Faults;
use super::invariant::Invariant;
use crate::store::agents::columns_of_standing;
use crate::store::leases::slots_at_work;

/// A bug that the server does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A report is taken for whoever holds the elements now, whatever lease it names.
    NoTokenCheck,
    /// A report is accepted under a lease in any state.
    NoStateCheck,
    /// What an agent had, and not what remained of it, is leased anew after its loss.
    LapseIgnoresReports,
    /// A request is answered before its transaction is committed.
    AnswerBeforeCommit,
    /// A report moves the job's counters twice.
    CounterMovedTwice,
    /// A lease comes back to life in any state.
    ReviveWithoutStateCheck,
    /// A job that has ended can end once more.
    EndWithoutStateCheck,
    /// A heartbeat that was held up takes back what a later one has given.
    LateHeartbeatCounts,
    /// A submission that is repeated is another one.
    KeyIgnored,
    /// What is given to others also stays in the lease.
    PartStays,
}

impl Bug {
    /// All of them, each with what its histories break.
    pub const ALL: [(Self, &'static [Invariant]); 10] = [
        (Self::NoTokenCheck, &[Invariant::LateReportsChangeNothing]),
        (Self::NoStateCheck, &[Invariant::LateReportsChangeNothing]),
        (Self::LapseIgnoresReports, &[Invariant::FinishedElementsAreNotLeased]),
        (
            Self::AnswerBeforeCommit,
            &[Invariant::AcceptedOutcomesStay, Invariant::AcknowledgedJobsStay],
        ),
        (Self::CounterMovedTwice, &[Invariant::CountersEqualARecount]),
        (Self::ReviveWithoutStateCheck, &[Invariant::LeasesTakenAwayStayAway]),
        (Self::EndWithoutStateCheck, &[Invariant::EndedJobsStayAsTheyAre]),
        (Self::LateHeartbeatCounts, &[Invariant::AgentsHeardOfAreNotLost]),
        (Self::KeyIgnored, &[Invariant::OneKeyIsOneJob]),
        (
            Self::PartStays,
            &[Invariant::ElementsAreLeasedOnce, Invariant::FinishedElementsAreNotLeased],
        ),
    ];

    /// Lets go wrong what brings the bug to light: rare meetings would take thousands of histories.
    pub fn provoke(self, faults: &mut Faults) {
        match self {
            Self::NoStateCheck => (faults.drains, faults.late) = (3, 200),
            Self::ReviveWithoutStateCheck => {
                (faults.cuts, faults.freezes) = (3, 3);
                (faults.agent_crashes, faults.false_deaths) = (3, 1000);
            }
            Self::LateHeartbeatCounts => faults.stall = 100,
            _ => {}
        }
    }

    /// How this bug rewrites a statement.
    pub fn rewrite(self, sql: &'static str) -> &'static str {
        let rewritten = REWRITTEN
            .iter()
            .find(|(bug, original, _)| *bug == self && words(original).eq(words(sql)));
        rewritten.map_or(sql, |(_, _, with)| with)
    }
}

fn words(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.split_whitespace()
}

/// Statements, and how they read with a bug.
const REWRITTEN: [(Bug, &str, &str); 7] = [
    (
        Bug::NoStateCheck,
        "select l.job_id, l.state, l.ranges, l.slots, l.attempt, l.version,
                 l.spare = l.remaining as is_ahead, j.total, p.done + p.failed as accepted, coalesce(a.name, '') as agent_name
             from leases l join jobs j on j.id = l.job_id join progress p on p.job_id = l.job_id
                 left join agents a on a.id = l.agent_id
             where l.id = $1 and l.agent_id = $2 and l.state in ('live', 'lapsed', 'torn')",
        "select l.job_id, l.state, l.ranges, l.slots, l.attempt, l.version,
                 l.spare = l.remaining as is_ahead, j.total, p.done + p.failed as accepted, coalesce(a.name, '') as agent_name
             from leases l join jobs j on j.id = l.job_id join progress p on p.job_id = l.job_id
                 left join agents a on a.id = l.agent_id
             where l.id = $1 and l.agent_id = $2",
    ),
    (
        Bug::CounterMovedTwice,
        "update progress set done = done + $2, failed = failed + $3, busy_us = busy_us + $4,
                 running = running - $5, slots = slots - $6, version = version + 1
             where job_id = $1",
        "update progress set done = done + 2 * $2, failed = failed + 2 * $3, busy_us = busy_us + $4,
                 running = running - $5, slots = slots - $6, version = version + 1
             where job_id = $1",
    ),
    (
        Bug::ReviveWithoutStateCheck,
        concat!(
            "select job_id, remaining, ", slots_at_work!(), " as slots from leases
             where id = $1 and agent_id = $2 and state = 'lapsed'"
        ),
        concat!(
            "select job_id, remaining, ", slots_at_work!(), " as slots from leases
             where id = $1 and agent_id = $2"
        ),
    ),
    (
        Bug::EndWithoutStateCheck,
        "select state from jobs where id = $1",
        "select 'running' as state from jobs where id = $1",
    ),
    (
        Bug::KeyIgnored,
        "select digest from idempotency_keys where owner = $1 and key = $2",
        "select digest from idempotency_keys where owner = $1 and key = $2 and 1 = 0",
    ),
    (
        Bug::KeyIgnored,
        "insert into idempotency_keys (owner, key, digest) values ($1, $2, $3)",
        "insert into idempotency_keys (owner, key, digest) values ($1, $2, $3)
         on conflict do nothing",
    ),
    (
        Bug::LateHeartbeatCounts,
        concat!(
            "update agents set alive_until = case when alive_until < $2 then $2 else alive_until end
                 where id = $1 and state <> 'gone' returning ",
            columns_of_standing!()
        ),
        concat!(
            "update agents set alive_until = $2 where id = $1 and state <> 'gone' returning ",
            columns_of_standing!()
        ),
    ),
];
