//! What an agent must have so that it can run elements of a job at all: by this, agents that a round
//! has nothing for are left out of it, and jobs that nobody who waits can run.

use std::collections::BTreeMap;

use protocol::job::Runtime;

/// What an agent must have to run a job's elements, however busy it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirements {
    /// The runtime. `None`: what is required was not written down, and every agent is asked.
    pub runtime: Option<Runtime>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Requirements {
    /// Those of a job with this runtime and these labels.
    pub fn new(runtime: Runtime, labels: BTreeMap<String, String>) -> Self {
        Self { runtime: Some(runtime), labels }
    }

    /// Whether an agent has what is required.
    pub fn are_met(&self, runtimes: &[Runtime], labels: &BTreeMap<String, String>) -> bool {
        self.runtime.is_none_or(|runtime| runtimes.contains(&runtime))
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Slots of live agents that have the same to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Their runtimes.
    pub runtimes: Vec<Runtime>,
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// How many.
    pub slots: u64,
}

/// The slots of those of `offers` that meet `requirements`: what shares a job's work.
pub fn slots_for(requirements: &Requirements, offers: &[Offer]) -> u64 {
    let are_met = |offer: &&Offer| requirements.are_met(&offer.runtimes, &offer.labels);
    offers.iter().filter(are_met).map(|offer| offer.slots).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn slots_are_counted_of_those_agents_that_have_the_runtime_and_all_labels() {
        let offer = |runtimes: &[Runtime], pairs: &[(&str, &str)], slots| Offer {
            runtimes: runtimes.to_vec(),
            labels: labels(pairs),
            slots,
        };
        let offers = [
            offer(&[Runtime::R], &[], 1),
            offer(&[Runtime::Python, Runtime::R], &[("zone", "a")], 2),
            offer(&[Runtime::Python], &[("zone", "a"), ("gpu", "yes")], 4),
            offer(&[Runtime::Python], &[("zone", "b")], 8),
        ];
        let slots = |runtime, pairs: &[(&str, &str)]| {
            slots_for(&Requirements::new(runtime, labels(pairs)), &offers)
        };
        assert_eq!(slots(Runtime::Python, &[]), 14);
        assert_eq!(slots(Runtime::R, &[]), 3);
        assert_eq!(slots(Runtime::Python, &[("zone", "a")]), 6);
        assert_eq!(slots(Runtime::R, &[("gpu", "yes")]), 0);
        assert_eq!(slots_for(&Requirements::default(), &offers), 15);
    }
}
