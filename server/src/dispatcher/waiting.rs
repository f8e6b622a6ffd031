//! The agents that wait for work: by kind, so that a round looks at those that there is something for and
//! at no other, however many there are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use protocol::AgentId;
use protocol::job::Runtime;
use tokio::sync::oneshot;

use super::Given;
use crate::scheduler::assign::Agent;
use crate::scheduler::requirements::Requirements;

/// Those who wait.
#[derive(Default)]
pub(super) struct Waiting {
    agents: HashMap<AgentId, Waiter>,
    /// Those of them that a round is to look at, by their arrival.
    due: HashMap<Arc<Kind>, DueOfKind>,
    arrivals: u64,
    /// Agents that have asked here, and since then nowhere else.
    pub regulars: HashSet<AgentId>,
}

/// What agents that are alike can run.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    runtimes: Vec<Runtime>,
    labels: BTreeMap<String, String>,
}

impl Kind {
    fn meets(&self, requirements: &HashSet<Requirements>) -> bool {
        requirements.iter().any(|one| one.are_met(&self.runtimes, &self.labels))
    }
}

/// Those of a kind that are due, by their arrival.
#[derive(Default)]
struct DueOfKind {
    with_free_slots: BTreeMap<u64, AgentId>,
    /// They wait for a lease ahead.
    without: BTreeMap<u64, AgentId>,
}

impl DueOfKind {
    fn is_empty(&self) -> bool {
        self.with_free_slots.is_empty() && self.without.is_empty()
    }
}

struct Waiter {
    agent: Agent,
    kind: Arc<Kind>,
    arrival: u64,
    answer: oneshot::Sender<Given>,
}

impl Waiting {
    /// Lets an agent wait, in the place of an earlier request of its own. Gives the number of its arrival.
    pub fn insert(&mut self, agent: Agent, answer: oneshot::Sender<Given>) -> u64 {
        let id = agent.id;
        self.remove(&id);
        self.arrivals += 1;
        let arrival = self.arrivals;
        let kind = Kind { runtimes: agent.runtimes.clone(), labels: agent.labels.clone() };
        let known = self.due.get_key_value(&kind).map(|(kind, _)| Arc::clone(kind));
        let kind = known.unwrap_or_else(|| Arc::new(kind));
        let of_kind = self.due.entry(Arc::clone(&kind)).or_default();
        let due = if agent.free > 0 { &mut of_kind.with_free_slots } else { &mut of_kind.without };
        due.insert(arrival, id);
        self.agents.insert(id, Waiter { agent, kind, arrival, answer });
        arrival
    }

    /// Takes an agent out, to be answered.
    pub fn remove(&mut self, id: &AgentId) -> Option<oneshot::Sender<Given>> {
        let waiter = self.agents.remove(id)?;
        self.is_due_no_more(&waiter.kind, waiter.arrival);
        Some(waiter.answer)
    }

    /// Takes all of them out, unanswered.
    pub fn clear(&mut self) {
        self.agents.clear();
        self.due.clear();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// As what number an agent has come that waits.
    pub fn arrival_of(&self, id: &AgentId) -> Option<u64> {
        self.agents.get(id).map(|waiter| waiter.arrival)
    }

    /// Whether a round has anybody to look at.
    pub fn is_any_due(&self) -> bool {
        !self.due.is_empty()
    }

    fn is_due_no_more(&mut self, kind: &Arc<Kind>, arrival: u64) {
        if let Some(due) = self.due.get_mut(kind) {
            due.with_free_slots.remove(&arrival);
            due.without.remove(&arrival);
            if due.is_empty() {
                self.due.remove(kind);
            }
        }
    }

    /// The first `limit` of those that are due, meet one of `requirements`, came after arrival number `after`, and are
    /// not among the arrivals `without`; in the order of their arrival.
    pub fn due_after(
        &self,
        after: u64,
        requirements: &HashSet<Requirements>,
        without: &HashSet<u64>,
        limit: usize,
    ) -> Vec<(u64, AgentId)> {
        let of_kinds = self.due.iter().filter(|(kind, _)| kind.meets(requirements));
        let due = of_kinds.flat_map(|(_, due)| [&due.with_free_slots, &due.without]);
        first_of(due, limit, |due| due.range(after + 1..).filter(|it| !without.contains(it.0)))
    }

    /// The first `limit` of those that are due, have free slots, and meet one of `requirements`; in the order of their
    /// arrival.
    pub fn free(&self, requirements: &HashSet<Requirements>, limit: usize) -> Vec<(u64, AgentId)> {
        let of_kinds = self.due.iter().filter(|(kind, _)| kind.meets(requirements));
        first_of(of_kinds.map(|(_, due)| &due.with_free_slots), limit, BTreeMap::iter)
    }

    /// These agents as they wait. Those with no free slot are looked at once.
    pub fn look_at(&mut self, due: &[(u64, AgentId)]) -> Vec<Agent> {
        let mut agents = Vec::with_capacity(due.len());
        let mut looked_at = Vec::new();
        for (arrival, id) in due {
            let Some(waiter) = self.agents.get(id).filter(|it| it.arrival == *arrival) else {
                continue;
            };
            if waiter.agent.free == 0 {
                looked_at.push((Arc::clone(&waiter.kind), waiter.arrival));
            }
            agents.push(waiter.agent.clone());
        }
        looked_at.iter().for_each(|(kind, arrival)| self.is_due_no_more(kind, *arrival));
        agents
    }
}

/// The first `limit` of what `select` takes of each, in the order of their arrival.
fn first_of<'a, I>(
    each: impl Iterator<Item = &'a BTreeMap<u64, AgentId>>,
    limit: usize,
    select: impl Fn(&'a BTreeMap<u64, AgentId>) -> I,
) -> Vec<(u64, AgentId)>
where
    I: Iterator<Item = (&'a u64, &'a AgentId)>,
{
    let mut first = Vec::new();
    for arrivals in each {
        first.extend(select(arrivals).take(limit).map(|(&arrival, &id)| (arrival, id)));
    }
    first.sort_unstable();
    first.truncate(limit);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets an agent wait that has a label, with free slots or without.
    fn wait(waiting: &mut Waiting, zone: &str, free: u32) -> (AgentId, oneshot::Receiver<Given>) {
        let (answer, answered) = oneshot::channel();
        let agent = Agent {
            id: AgentId::new(),
            free,
            ahead: 1,
            slots: 2,
            memory: 0,
            free_memory: 0,
            runtimes: vec![Runtime::Python],
            labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        };
        let id = agent.id;
        waiting.insert(agent, answer);
        (id, answered)
    }

    fn of_zone(zone: &str) -> HashSet<Requirements> {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        HashSet::from([Requirements::new(Runtime::Python, labels)])
    }

    fn due(waiting: &Waiting, after: u64, requirements: &HashSet<Requirements>) -> Vec<AgentId> {
        let due = waiting.due_after(after, requirements, &HashSet::new(), 2);
        due.into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn those_who_lack_what_is_required_are_not_looked_at() {
        let mut waiting = Waiting::default();
        let all: Vec<AgentId> =
            ["a", "b", "a", "a"].map(|zone| wait(&mut waiting, zone, 1).0).into();
        assert_eq!(
            due(&waiting, 0, &of_zone("a")),
            [all[0], all[2]],
            "the first two, as they came"
        );
        assert_eq!(due(&waiting, 3, &of_zone("a")), [all[3]]);
        assert_eq!(due(&waiting, 0, &of_zone("b")), [all[1]]);
        assert_eq!(due(&waiting, 0, &of_zone("c")), []);
        let anybody = HashSet::from([Requirements::default()]);
        assert_eq!(due(&waiting, 1, &anybody), [all[1], all[2]]);
        let without = HashSet::from([1, 3]);
        let others = waiting.due_after(0, &of_zone("a"), &without, 2);
        assert_eq!(others, [(4, all[3])]);
    }

    #[test]
    fn who_waits_only_for_leases_ahead_is_looked_at_once_and_waits_on() {
        let mut waiting = Waiting::default();
        let ((busy, mut answered), (idle, _)) =
            (wait(&mut waiting, "a", 0), wait(&mut waiting, "a", 1));
        let due_now = waiting.due_after(0, &of_zone("a"), &HashSet::new(), 9);
        assert_eq!(waiting.look_at(&due_now).len(), 2);
        assert_eq!(due(&waiting, 0, &of_zone("a")), [idle]);
        assert_eq!(waiting.len(), 2);
        waiting.remove(&busy).unwrap().send(Given::default()).unwrap();
        answered.try_recv().unwrap();
        waiting.remove(&idle);
        assert!(!waiting.is_any_due() && waiting.len() == 0);
    }

    #[test]
    fn who_has_free_slots_is_found_behind_those_who_have_none() {
        let mut waiting = Waiting::default();
        let all: Vec<AgentId> = [("a", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 1)]
            .map(|(zone, free)| wait(&mut waiting, zone, free).0)
            .into();
        assert_eq!(waiting.free(&of_zone("a"), 2), [(2, all[1]), (4, all[3])]);
        assert_eq!(waiting.free(&of_zone("c"), 2), []);
    }

    #[test]
    fn a_later_request_of_an_agent_takes_the_place_of_an_earlier() {
        let mut waiting = Waiting::default();
        let (id, mut first) = wait(&mut waiting, "a", 1);
        let agent = waiting.look_at(&[(1, id)]).remove(0);
        let (answer, _second) = oneshot::channel();
        waiting.insert(agent, answer);
        assert!(first.try_recv().is_err());
        assert_eq!(waiting.arrival_of(&id), Some(2));
        assert_eq!(due(&waiting, 0, &of_zone("a")), [id]);
        assert!(waiting.look_at(&[(1, id)]).is_empty(), "it has come again since");
    }
}
