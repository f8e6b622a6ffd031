//! An agent of one slot that has Python, for tests: as it registers, and as it waits for work.

use std::collections::BTreeMap;

use protocol::AgentId;
use protocol::job::Runtime;
use serde_json::{Value, json};

use crate::scheduler::assign::Agent;

/// The body of its registration.
pub fn registration(id: AgentId) -> Value {
    json!({"id": id, "name": "a", "protocol": protocol::PROTOCOL_VERSION, "slots": 1,
        "physical_cores": 1, "logical_cores": 1, "memory": 1, "runtimes": {"python": "3"},
        "labels": {}, "leases": [], "version": "0"})
}

/// While its slot is free.
pub fn waiting(id: AgentId) -> Agent {
    Agent {
        id,
        free: 1,
        ahead: 0,
        slots: 1,
        memory: 1,
        free_memory: 1,
        runtimes: vec![Runtime::Python],
        labels: BTreeMap::new(),
    }
}
