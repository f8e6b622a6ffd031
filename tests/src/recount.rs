//! What an auditor finds who counts executions, outcomes and the value anew, from what the elements
//! themselves wrote down.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::Pid;
use serde_json::Value;

use crate::audit::{Audit, Event};
use crate::client::Client;

/// For how long at the most a finished element may be on its way to the server, in milliseconds.
pub const REPORTED_WITHIN: u64 = 1_000;

/// The expression that audited Python jobs give as an element's value here: which execution it is of.
pub const RESULT: &str = "[x, run()]";

/// The executions of one job's elements.
#[derive(Clone, Debug)]
pub struct Recount {
    executions: Vec<Execution>,
}

/// One time that an element was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The element.
    pub element: String,
    /// Names the execution.
    pub run: String,
    /// The worker's process.
    pub worker: Pid,
    /// The agent's process.
    pub agent: Pid,
    /// When it started, in milliseconds since 1970.
    pub started_at: u64,
    /// When it ended, if it did.
    pub ended_at: Option<u64>,
}

impl Execution {
    /// Whether it ran at some time, or had ended so shortly before that its outcome may have been
    /// on its way.
    pub fn is_in_flight(&self, at: u64) -> bool {
        self.started_at <= at && self.ended_at.is_none_or(|ended| ended + REPORTED_WITHIN >= at)
    }
}

impl Recount {
    /// Counts what has been written so far.
    pub fn of(audit: &Audit) -> Self {
        let mut executions: BTreeMap<String, Execution> = BTreeMap::new();
        for event in audit.events() {
            match executions.get_mut(&event.run) {
                Some(execution) => execution.ended_at = Some(event.at),
                None => drop(executions.insert(event.run.clone(), begun(event))),
            }
        }
        Self { executions: executions.into_values().collect() }
    }

    /// All executions.
    pub fn executions(&self) -> &[Execution] {
        &self.executions
    }

    /// The executions of elements that were started more than once.
    pub fn repeated(&self) -> BTreeMap<&str, Vec<&Execution>> {
        let mut by_element: BTreeMap<&str, Vec<&Execution>> = BTreeMap::new();
        for execution in &self.executions {
            by_element.entry(&execution.element).or_default().push(execution);
        }
        by_element.retain(|_, executions| executions.len() > 1);
        by_element.values_mut().for_each(|executions| executions.sort_by_key(|e| e.started_at));
        by_element
    }

    /// The elements that ran again although they had been finished and reported at some time.
    pub fn run_again_after(&self, at: u64) -> BTreeSet<String> {
        let was_settled =
            |e: &&Execution| e.ended_at.is_some_and(|ended| ended + REPORTED_WITHIN < at);
        let is_again = |settled: &Execution| {
            let mut others = self.executions.iter();
            others.any(|e| {
                e.element == settled.element
                    && e.run != settled.run
                    && Some(e.started_at) >= settled.ended_at
            })
        };
        let settled = self.executions.iter().filter(was_settled);
        settled.filter(|e| is_again(e)).map(|e| e.element.clone()).collect()
    }

    /// The elements that had been finished for [`REPORTED_WITHIN`] at some time, but are not among
    /// those of which the server had the outcome then: their reports are late.
    pub fn late(&self, at: u64, accepted: &BTreeSet<String>) -> BTreeSet<String> {
        let is_due = |e: &&Execution| e.ended_at.is_some_and(|ended| ended + REPORTED_WITHIN < at);
        let due = self.executions.iter().filter(is_due).map(|e| e.element.clone());
        due.filter(|element| !accepted.contains(element)).collect()
    }

    /// Checks that the value holds each of the elements `0..n` once, in order, each as an execution
    /// gave it that came to its end; and that the outcomes are the same and no more.
    ///
    /// # Panics
    /// When it does not.
    pub async fn check(&self, client: &Client, job: &str, value: &[Value], n: usize) {
        assert_eq!(value.len(), n, "the value is not whole: {value:?}");
        for (element, given) in value.iter().enumerate() {
            let name = element.to_string();
            let gave =
                |e: &&Execution| e.element == name && e.ended_at.is_some() && given[1] == *e.run;
            let is_of = self.executions.iter().any(|e| gave(&e));
            assert!(given[0] == element && is_of, "element {element} has {given}, of no execution");
        }
        let outcomes = client.get(&format!("/v1/jobs/{job}/outcomes")).await.text();
        let outcomes = outcomes.lines().map(|line| {
            let outcome: Value = serde_json::from_str(line).expect("an outcome is JSON");
            outcome["value"].clone()
        });
        assert_eq!(outcomes.collect::<Vec<_>>(), value, "the outcomes are not those of the value");
        let status = client.status(job).await;
        let counts = &status["elements"];
        assert_eq!((&counts["done"], &counts["total"]), (&n.into(), &n.into()), "{status:#}");
    }
}

fn begun(event: Event) -> Execution {
    let Event { element, is_end, pid, agent, at, run } = event;
    assert!(!is_end, "{element} ended without a start");
    Execution { element, run, worker: pid, agent, started_at: at, ended_at: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(element: &str, run: &str, started_at: u64, ended_at: Option<u64>) -> Execution {
        let pid = Pid::from_raw(1);
        let (element, run) = (element.to_owned(), run.to_owned());
        Execution { element, run, worker: pid, agent: pid, started_at, ended_at }
    }

    #[test]
    fn what_had_been_reported_and_ran_again_is_found() {
        let executions = vec![
            execution("0", "a", 0, Some(100)),
            execution("0", "b", 3_000, Some(3_100)),
            execution("1", "c", 1_900, Some(1_950)),
            execution("1", "d", 3_000, Some(3_100)),
            execution("2", "e", 0, Some(50)),
        ];
        let recount = Recount { executions };
        assert_eq!(recount.run_again_after(2_000), ["0".to_owned()].into());
        assert_eq!(recount.repeated().into_keys().collect::<Vec<_>>(), ["0", "1"]);
        assert!(!recount.executions()[0].is_in_flight(2_000));
        assert!(recount.executions()[2].is_in_flight(2_000));
        assert!(!recount.executions()[1].is_in_flight(2_000));
    }
}
