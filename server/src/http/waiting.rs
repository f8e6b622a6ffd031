//! What a job of which nothing runs waits for, in words.

use std::collections::{BTreeMap, HashMap};

use protocol::job::{AgentState, AgentStatus, Slots};
use protocol::{AgentId, JobId};

use crate::store::jobs::JobRow;

/// Jobs that are named in words at the most.
const MAX_NAMED: usize = 3;

/// Who is there to run a job.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The agents.
    pub agents: Vec<AgentStatus>,
    /// Bytes of memory that what runs on them may use.
    pub memory_in_use: HashMap<AgentId, u64>,
}

/// Why nothing of `job` runs, if nothing can.
pub fn explain(job: &JobRow, cluster: &Cluster) -> Option<String> {
    if !job.after.is_empty() {
        return Some(for_jobs(&job.after));
    }
    let mut able: Vec<&AgentStatus> = cluster.agents.iter().collect();
    let mut lacks = |can: &dyn Fn(&AgentStatus) -> bool| {
        able.retain(|agent| can(agent));
        able.is_empty()
    };
    if lacks(&|agent| agent.state == AgentState::Live) {
        return Some("no agent is connected: start one with `farrow agent`".to_owned());
    }
    let (runtime, options) = (job.runtime, &job.options);
    if lacks(&|agent| agent.runtimes.contains_key(&runtime)) {
        return Some(format!("no agent has runtime {}", runtime.as_str()));
    }
    let carries = |agent: &AgentStatus| {
        options.labels.iter().all(|(key, value)| agent.labels.get(key) == Some(value))
    };
    if lacks(&carries) {
        return Some(format!("no agent carries the labels {}", in_words(&options.labels)));
    }
    if let Slots::Count(n) = options.slots
        && lacks(&|agent| agent.slots >= n)
    {
        return Some(format!("no agent has {n} slots, which one element occupies"));
    }
    let bytes = options.memory.unwrap_or(0);
    if lacks(&|agent| agent.memory >= bytes) {
        return Some(format!("no agent has {bytes} bytes of memory, which one element may use"));
    }
    if lacks(&|agent| agent.busy < agent.slots) {
        return Some("a free slot: all are busy with other work".to_owned());
    }
    let in_use = |agent: &AgentStatus| cluster.memory_in_use.get(&agent.id).copied().unwrap_or(0);
    lacks(&|agent| bytes == 0 || agent.memory.saturating_sub(in_use(agent)) >= bytes).then(|| {
        format!(
            "{bytes} bytes of free memory: what runs where slots are free may use too much of it"
        )
    })
}

fn in_words(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(", ")
}

fn for_jobs(after: &[JobId]) -> String {
    let named: Vec<String> = after.iter().take(MAX_NAMED).map(JobId::to_string).collect();
    let jobs = if after.len() == 1 { "job" } else { "jobs" };
    let more = match after.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{jobs} {}{more} to be resolved", named.join(", "))
}

#[cfg(test)]
mod tests {
    use protocol::job::{ElementCounts, JobState, Options, Runtime};

    use super::*;
    use crate::store::jobs::Shape;

    fn job() -> JobRow {
        JobRow {
            owner: "ada".to_owned(),
            id: JobId::new(),
            name: None,
            runtime: Runtime::R,
            state: JobState::Queued,
            counts: ElementCounts { total: 1, done: 0, failed: 0, running: 0, waiting: 1 },
            slots: 0,
            shape: Shape::default(),
            plan: Vec::new(),
            options: Options::default(),
            error: None,
            after: Vec::new(),
            retry_of: None,
            retried_as: None,
            submitted_at: 0,
            started_at: None,
            finished_at: None,
        }
    }

    fn agent() -> AgentStatus {
        AgentStatus {
            id: AgentId::new(),
            name: "host".to_owned(),
            state: AgentState::Live,
            slots: 4,
            busy: 0,
            physical_cores: 4,
            logical_cores: 8,
            memory: 100,
            runtimes: BTreeMap::from([(Runtime::R, "4.2.2".to_owned())]),
            labels: BTreeMap::new(),
            version: "0.1.0".to_owned(),
            registered_at: String::new(),
            alive_for: 1.0,
        }
    }

    #[test]
    fn a_job_is_told_what_it_lacks_first() {
        let mut cluster = Cluster::default();
        let mut job = job();
        let says = |job: &JobRow, cluster: &Cluster, part: &str| {
            let why = explain(job, cluster).unwrap_or_default();
            assert!(why.contains(part), "{part:?} is not in {why:?}");
        };
        says(&job, &cluster, "no agent is connected");
        cluster.agents.push(AgentStatus { state: AgentState::Draining, ..agent() });
        says(&job, &cluster, "no agent is connected");
        cluster.agents.push(AgentStatus { runtimes: BTreeMap::new(), ..agent() });
        says(&job, &cluster, "no agent has runtime r");
        cluster.agents.push(agent());
        assert_eq!(explain(&job, &cluster), None);

        job.options.memory = Some(60);
        assert_eq!(explain(&job, &cluster), None);
        cluster.memory_in_use.insert(cluster.agents[2].id, 41);
        says(&job, &cluster, "60 bytes of free memory");
        cluster.agents[2].busy = 4;
        says(&job, &cluster, "a free slot");
        job.options.memory = Some(101);
        says(&job, &cluster, "no agent has 101 bytes of memory");
        // Slots and memory that stand on different agents are no help.
        cluster.agents.push(AgentStatus { memory: 200, slots: 1, ..agent() });
        assert_eq!(explain(&job, &cluster), None);
        job.options.slots = Slots::Count(2);
        says(&job, &cluster, "no agent has 101 bytes of memory");
        job.options.slots = Slots::Count(8);
        says(&job, &cluster, "no agent has 8 slots");
        job.options.labels.insert("zone".to_owned(), "a".to_owned());
        says(&job, &cluster, "no agent carries the labels zone=a");
        job.after = (0..5).map(|_| JobId::new()).collect();
        says(&job, &cluster, " and 2 more to be resolved");
    }
}
