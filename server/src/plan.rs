//! Plans: which topologies there are, and what each means for placement.

use protocol::job::{Level, Strategy};

use crate::scheduler::assign::Placement;

/// The topologies that can be run, for messages.
pub const SUPPORTED: &str = "[cluster], [multisession], [sequential], [cluster, multisession] or \
                             [cluster, sequential]";

/// Whether `plan` is one of [`SUPPORTED`], and if so whether its elements are nested.
pub fn is_nested(plan: &[Level]) -> Option<bool> {
    let strategies: Vec<Strategy> = plan.iter().map(|level| level.strategy).collect();
    match strategies.as_slice() {
        [_] => Some(false),
        [Strategy::Cluster, Strategy::Multisession | Strategy::Sequential] => Some(true),
        _ => None,
    }
}

/// What `plan` means for placement: `cluster` bounds agents, `multisession` the elements that an
/// agent runs at once, `sequential` is one agent and one element at a time.
pub fn placement(plan: &[Level], nested: bool) -> Placement {
    let bounds = |level: &Level| match level.strategy {
        Strategy::Cluster => (level.workers, None),
        Strategy::Multisession => (Some(1), level.workers),
        Strategy::Sequential => (Some(1), Some(1)),
    };
    let (max_agents, mut max_width) = plan.first().map_or((None, None), bounds);
    if let (true, Some(inner)) = (nested, plan.get(1)) {
        max_width = bounds(inner).1;
    }
    Placement { nested, max_agents, max_width }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(strategy: Strategy, workers: Option<u32>) -> Level {
        Level { strategy, workers }
    }

    #[test]
    fn the_vignettes_topology_gives_outer_elements_whole_to_agents() {
        let plan = [level(Strategy::Cluster, Some(2)), level(Strategy::Multisession, Some(4))];
        assert_eq!(is_nested(&plan), Some(true));
        let expected = Placement { nested: true, max_agents: Some(2), max_width: Some(4) };
        assert_eq!(placement(&plan, true), expected);
    }

    #[test]
    fn sequential_is_one_slot() {
        let plan = [level(Strategy::Sequential, None)];
        let expected = Placement { nested: false, max_agents: Some(1), max_width: Some(1) };
        assert_eq!(placement(&plan, false), expected);
    }

    #[test]
    fn agents_inside_agents_are_refused() {
        let plan = [level(Strategy::Multisession, None), level(Strategy::Cluster, None)];
        assert_eq!(is_nested(&plan), None);
        assert_eq!(is_nested(&[]), None);
    }
}
