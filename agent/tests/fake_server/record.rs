//! What a fake server has been told, and what it is to say.

use std::collections::{BTreeMap, VecDeque};

use protocol::agent::{
    Heartbeat, JobSpec, Lease, LeaseRequest, Leases, Logs, Note, Orders, Register, Released,
    Report, Verdict,
};
use protocol::job::{ElementError, LogSource, LogStream};
use protocol::{AgentId, DatabaseId, JobId, LeaseId, RangeSet, envelope};

/// What the server has been told, and what it is to say.
pub struct Record {
    pub registers: Vec<Register>,
    pub lease_requests: Vec<LeaseRequest>,
    /// Whether the agent is told that there is more to lease.
    pub has_more: bool,
    /// The request of this number is not answered when it is replaced, but when this is true, with what the
    /// answers to later ones gave: as if it had been granted to this one first.
    pub late_answer: Option<(usize, bool)>,
    /// Requests for work whose answer was sent.
    pub answered_leases: usize,
    pub heartbeats: Vec<Heartbeat>,
    pub reports: Vec<(Report, Vec<u8>)>,
    pub logs: Vec<Logs>,
    pub released: Vec<Released>,
    pub left: bool,
    pub blob_fetches: usize,
    /// Blobs that were sent, each time.
    pub blobs_put: Vec<String>,
    /// How blobs that are sent are answered, if they are refused.
    pub refuses_blobs: Option<u16>,
    pub outcomes: BTreeMap<(LeaseId, u64), Outcome>,
    pub remaining: BTreeMap<LeaseId, RangeSet>,
    /// To be leased.
    grants: VecDeque<Grant>,
    /// Leased.
    granted: Vec<Grant>,
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub knows_the_agent: bool,
    pub orders: Orders,
    pub refuses_registration: Option<u16>,
    pub refuses_reports: Option<u16>,
    /// Heartbeats that are still to be answered 500.
    pub fails_heartbeats: usize,
    pub loses_next_report_answer: bool,
    pub loses_report_answers: bool,
    pub loses_next_logs_answer: bool,
    pub loses_next_lease: bool,
    pub largest_report: Option<usize>,
    /// Entries of a log that are taken at once.
    pub most_log_entries: Option<usize>,
    pub refused_logs: usize,
    /// Leases that are not the agent's any more when it registers again.
    pub lost_meanwhile: Vec<LeaseId>,
    pub lease_seconds: f64,
    pub database: DatabaseId,
    /// Reports that were made in the name of each agent.
    pub reported_for: Vec<AgentId>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            registers: Vec::new(),
            lease_requests: Vec::new(),
            has_more: true,
            late_answer: None,
            answered_leases: 0,
            heartbeats: Vec::new(),
            reports: Vec::new(),
            logs: Vec::new(),
            released: Vec::new(),
            left: false,
            blob_fetches: 0,
            blobs_put: Vec::new(),
            refuses_blobs: None,
            outcomes: BTreeMap::new(),
            remaining: BTreeMap::new(),
            grants: VecDeque::new(),
            granted: Vec::new(),
            blobs: BTreeMap::new(),
            knows_the_agent: false,
            orders: Orders::default(),
            refuses_registration: None,
            refuses_reports: None,
            fails_heartbeats: 0,
            loses_next_report_answer: false,
            loses_report_answers: false,
            loses_next_logs_answer: false,
            loses_next_lease: false,
            largest_report: None,
            most_log_entries: None,
            refused_logs: 0,
            lost_meanwhile: Vec::new(),
            lease_seconds: 1.5,
            database: DatabaseId::new(),
            reported_for: Vec::new(),
        }
    }
}

#[derive(Clone)]
struct Grant {
    lease: Lease,
    payload: Vec<u8>,
    job: JobSpec,
}

/// Texts by the element that said them.
pub type Said = BTreeMap<Option<u64>, String>;

/// An accepted outcome.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub result: Result<serde_json::Value, ElementError>,
    pub note: Note,
    pub slot: u32,
}

impl Record {
    pub fn grant(&mut self, lease: Lease, payload: &[u8], job: &JobSpec) {
        self.remaining.insert(lease.id, lease.ranges.clone());
        self.grants.push_back(Grant { lease, payload: payload.to_vec(), job: job.clone() });
    }

    /// Orders the agent to stop a lease.
    pub fn revoke(&mut self, lease: LeaseId) {
        self.granted.retain(|grant| grant.lease.id != lease);
        self.orders.revoked.push(lease);
    }

    /// Which of the leases that an agent comes back with are its own no more.
    pub fn revoked_at_registration(&mut self, register: &Register) -> Vec<LeaseId> {
        let lost = std::mem::take(&mut self.lost_meanwhile);
        self.granted.retain(|grant| !lost.contains(&grant.lease.id));
        register.leases.iter().filter(|lease| lost.contains(lease)).copied().collect()
    }

    /// Takes back leases, and parts of such, which others are to run.
    pub fn take_back(&mut self, released: Vec<Released>) {
        for one in &released {
            if let (Some(part), Some(remaining)) = (&one.part, self.remaining.get_mut(&one.id)) {
                remaining.take_common(part);
            }
        }
        self.released.extend(released);
    }

    /// From now on a lease is good only for the elements that are given here.
    pub fn expect_only(&mut self, lease: &Lease) {
        self.remaining.insert(lease.id, lease.ranges.clone());
    }

    /// What a job has said to a stream of a source, by element.
    pub fn said(&self, job: JobId, source: LogSource, stream: LogStream) -> Said {
        let mut said = Said::new();
        let mut batch = 0;
        // What was sent again is there twice.
        for logs in
            self.logs.iter().filter(|logs| std::mem::replace(&mut batch, logs.batch) != logs.batch)
        {
            for entry in &logs.entries {
                if entry.job == job && entry.source == source && entry.stream == stream {
                    said.entry(entry.element).or_default().push_str(&entry.text);
                }
            }
        }
        said
    }

    pub fn outcomes_of(&self, lease: LeaseId) -> Vec<Outcome> {
        let own = self.outcomes.iter().filter(|((of, _), _)| *of == lease);
        own.map(|(_, outcome)| outcome.clone()).collect()
    }

    /// The order in which the outcomes of a lease were reported.
    pub fn reported_order(&self, lease: LeaseId) -> Vec<u64> {
        let pieces = self.reports.iter().flat_map(|(report, _)| &report.pieces);
        let own = pieces.filter(|piece| piece.lease == lease);
        own.flat_map(|piece| piece.first..piece.first + piece.lengths.len() as u64).collect()
    }

    pub fn accept(&mut self, report: &Report, body: &[u8]) -> Vec<Verdict> {
        let mut start = 0;
        let mut verdicts = Vec::new();
        for piece in &report.pieces {
            let range = protocol::Range(piece.first, piece.first + piece.lengths.len() as u64);
            let remaining = self.remaining.get_mut(&piece.lease);
            let fresh = remaining.is_some_and(|remaining| {
                let fresh = remaining.contains(range);
                remaining.remove(range);
                fresh
            });
            let known = self.outcomes.contains_key(&(piece.lease, piece.first));
            if fresh || known {
                verdicts.push(Verdict::Accepted);
            } else {
                verdicts.push(Verdict::Stale);
                self.granted.retain(|grant| grant.lease.id != piece.lease);
            }
            for (position, length) in (0..).zip(&piece.lengths) {
                let bytes = &body[start..start + *length as usize];
                start += *length as usize;
                if fresh {
                    let result = if piece.errors.contains(&position) {
                        Err(serde_json::from_slice(bytes).unwrap())
                    } else {
                        Ok(serde_json::from_slice(bytes).unwrap())
                    };
                    let note = piece.notes.iter().find(|note| note.position == position);
                    let note = note.cloned().unwrap_or_default();
                    for artifact in &note.artifacts {
                        let blob = self.blobs.get(&artifact.digest);
                        let blob = blob.expect("an artifact's blob comes before its outcome");
                        assert_eq!(blob.len() as u64, artifact.bytes);
                    }
                    let outcome = Outcome { result, note, slot: piece.slot };
                    let index = piece.first + u64::from(position);
                    self.outcomes.insert((piece.lease, index), outcome);
                }
            }
        }
        verdicts
    }

    /// Puts back what was granted and has got lost on its way to the agent.
    pub fn notice_lost_grants(&mut self, held: &[LeaseId]) {
        for grant in std::mem::take(&mut self.granted) {
            let id = grant.lease.id;
            let is_over = self.remaining[&id].is_empty()
                || self.released.iter().any(|one| one.id == id && one.part.is_none());
            if !held.contains(&id) && !is_over {
                self.grants.push_back(grant);
            } else {
                self.granted.push(grant);
            }
        }
    }

    /// What was granted and was not held when `request` was sent, once more.
    pub fn granted_again(&self, request: &LeaseRequest) -> Vec<u8> {
        let is_new = |grant: &&Grant| !request.held.contains(&grant.lease.id);
        let leases = self.granted.iter().filter(is_new).map(|grant| grant.lease.clone()).collect();
        let jobs = self.granted.iter().filter(is_new).map(|grant| grant.job.clone()).collect();
        envelope::seal(&Leases { leases, jobs, more: false }, b"").unwrap()
    }

    /// Everything that is to be leased, however many slots are free.
    pub fn next_leases(&mut self, request: &LeaseRequest) -> Option<Vec<u8>> {
        let mut leases = Leases { more: self.has_more, ..Leases::default() };
        let mut payload = Vec::new();
        for grant in self.grants.drain(..) {
            if !request.known_jobs.contains(&grant.job.id)
                && !leases.jobs.iter().any(|sent| sent.id == grant.job.id)
            {
                leases.jobs.push(grant.job.clone());
            }
            leases.leases.push(grant.lease.clone());
            payload.extend(&grant.payload);
            self.granted.push(grant);
        }
        (!leases.leases.is_empty()).then(|| envelope::seal(&leases, &payload).unwrap())
    }
}
