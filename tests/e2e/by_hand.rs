//! An agent played by the test: it says to the server what an agent says, when the test wants it.

use serde_json::{Value, json};
use tests::{Client, World};

/// A registered agent.
pub struct Agent {
    /// Its id.
    pub id: String,
    client: Client,
}

/// A lease of neighbouring elements.
pub struct Lease {
    pub id: String,
    pub job: String,
    pub first: u64,
    pub n: u64,
    /// The bytes of the answer that brought it.
    pub n_bytes: usize,
}

/// A piece of a report.
pub struct Piece {
    /// What stands in the header of the envelope.
    pub header: Value,
    payload: Vec<u8>,
}

impl Piece {
    /// Outcomes from element `first` on, as JSON text.
    pub fn values(lease: &Lease, first: u64, values: &[&str]) -> Self {
        let lengths: Vec<usize> = values.iter().map(|value| value.len()).collect();
        let header = json!({"lease": lease.id, "job": lease.job, "first": first,
            "lengths": lengths, "slot": 0, "pid": 7, "started_at": 1_700_000_000_000_u64,
            "seconds": 0.5 * values.len() as f64});
        Self { header, payload: values.concat().into_bytes() }
    }
}

impl Agent {
    /// Registers an agent that runs Python.
    pub async fn register(world: &World) -> Self {
        let id = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42".to_owned();
        let agent = json!({
            "id": id, "name": "by hand", "protocol": 2, "version": "0", "slots": 1,
            "physical_cores": 1, "logical_cores": 1, "memory": 1, "runtimes": {"python": "3"},
            "labels": {}
        });
        let answer = world.client.post("/v1/agents", &agent).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self { id, client: world.client.clone() }
    }

    /// Waits for a lease.
    pub async fn lease(&self) -> Lease {
        let known = [""; 0];
        loop {
            let held = json!({"free": 1, "held": known, "known_jobs": [], "wait": 30});
            let answer = self.client.post(&format!("/v1/agents/{}/lease", self.id), &held).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let (head, rest) = answer.body.split_at(4);
            let length = u32::from_le_bytes(head.try_into().expect("an envelope")) as usize;
            let header: Value = serde_json::from_slice(&rest[..length]).expect("its header");
            let Some(lease) = header["leases"].get(0) else { continue };
            let text = |field: &str| lease[field].as_str().expect("an id").to_owned();
            let range = |i: usize| lease["ranges"][0][i].as_u64().expect("a range");
            let (id, job) = (text("id"), text("job"));
            let n_bytes = answer.body.len();
            return Lease { id, job, first: range(0), n: range(1) - range(0), n_bytes };
        }
    }

    /// Reports pieces, which must be accepted. Gives the jobs that have ended by it.
    pub async fn report(&self, pieces: &[Piece]) -> Vec<String> {
        let headers: Vec<&Value> = pieces.iter().map(|piece| &piece.header).collect();
        let header = json!({"pieces": headers}).to_string().into_bytes();
        let mut body = u32::try_from(header.len()).expect("a short header").to_le_bytes().to_vec();
        body.extend(header);
        pieces.iter().for_each(|piece| body.extend(&piece.payload));
        let path = format!("/v1/agents/{}/report", self.id);
        let answer = self.client.send("POST", &path, &[], body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["verdicts"], json!(vec!["accepted"; pieces.len()]));
        let ended = answer["ended"].as_array().cloned().unwrap_or_default();
        ended.iter().map(|job| job.as_str().expect("an id").to_owned()).collect()
    }

    /// Leaves: what it holds can be leased anew.
    pub async fn leave(&self) {
        let path = format!("/v1/agents/{}", self.id);
        let answer = self.client.send("DELETE", &path, &[], Vec::new()).await;
        assert!((200..300).contains(&answer.status), "{}", answer.text());
    }

    /// Sends a batch of log lines and gives the status of the answer.
    pub async fn logs(&self, batch: u64, entries: &[Value]) -> u16 {
        let logs = json!({"batch": batch, "entries": entries});
        self.client.post(&format!("/v1/agents/{}/logs", self.id), &logs).await.status
    }
}
