//! What the auditor holds everything against.

use std::fmt;

/// What is never broken, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A job that was acknowledged is there until it is deleted.
    AcknowledgedJobsStay,
    /// A submission with a key is one job, however often it is sent.
    OneKeyIsOneJob,
    /// When nothing goes wrong any more, every job ends, and whoever waits gets an answer.
    EverythingEnds,
    /// No element has two outcomes.
    ElementsHaveOneOutcome,
    /// An outcome that was accepted, as far as an agent knows, is there, and never changes.
    AcceptedOutcomesStay,
    /// An outcome is what an execution of that element gave.
    OutcomesAreOfTheirElements,
    /// An element does not run again once it is finished and that was acknowledged.
    FinishedElementsDoNotRunAgain,
    /// No lease holds what has an outcome.
    FinishedElementsAreNotLeased,
    /// An element runs a second time only where its agent was lost, has left, or has lost its lease.
    ElementsRunTwiceOnlyAfterALoss,
    /// No two leases hold an element.
    ElementsAreLeasedOnce,
    /// No element is nowhere.
    NoElementIsLost,
    /// A lease never holds more than before.
    LeasesOnlyShrink,
    /// A lease that was torn or given back does not come to life again.
    LeasesTakenAwayStayAway,
    /// A lease is given back by its agent only.
    LeasesAreGivenBackByTheirAgents,
    /// A report under a lease that does not hold its elements, or of a job that has ended, changes
    /// nothing.
    LateReportsChangeNothing,
    /// An agent that was heard of within a lease is not lost.
    AgentsHeardOfAreNotLost,
    /// A job that has ended stays as it is; one that was cancelled stays cancelled.
    EndedJobsStayAsTheyAre,
    /// Nothing of a job that has ended is leased.
    EndedJobsHaveNoLeases,
    /// A job is resolved when it is complete, and has failed when it is stopped by an error.
    StatesTellTheTruth,
    /// Counters and flags are what a recount gives.
    CountersEqualARecount,
    /// Outcomes are numbered in the order in which they were accepted.
    RanksHaveNoGaps,
    /// A value is never partial.
    ValuesAreComplete,
    /// A value is in the order of the elements, and the same for everybody.
    ValuesAreInOrder,
    /// The database refuses nothing that the server does.
    TransactionsDoNotFail,
}

/// That an invariant is broken.
#[derive(Clone, Debug)]
pub struct Objection {
    pub invariant: Invariant,
    pub text: String,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.text)
    }
}
