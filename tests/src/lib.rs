//! What the end-to-end tests are written with: real servers, agents and commands as processes, a
//! client that speaks plain HTTP, and an auditor that counts what ran by itself.
//!
//! * [`world`]: a folder with a server, its agents, and commands run beside them.
//! * [`process`]: one process of the program, whose log is printed when its test fails.
//! * [`certificates`]: an authority that signs certificates.
//! * [`client`]: requests and their answers.
//! * [`document`], [`matching`]: the examples of a document, and whether they print what it says.
//! * [`doubles`]: numbers that must come through to the last bit.
//! * [`audit`]: functions whose elements write down when they start and end.
//! * [`postgres`]: a real PostgreSQL in a temporary folder.
//! * [`proxy`]: a network that holds back, loses, delays or cuts what passes.
//! * [`patient`]: a client that asks again, as every good one does.
//! * [`namespaces`]: a cable between two network namespaces, and who may pull it.
//! * [`load`]: many simulated agents and clients, and how long they wait.
//! * [`chance`]: chance that a seed repeats.
//! * [`clock`]: the time, for figures.
//! * [`recount`]: what an auditor finds in that.
//! * [`procfs`]: which processes there are.
//! * [`stalls`]: how long the machine stood still.
//! * [`storage`]: a storage that answers as S3 does.
//! * [`wait`]: waiting for events, with a limit that only ends what hangs.

pub mod audit;
pub mod certificates;
pub mod chance;
pub mod client;
pub mod clock;
pub mod document;
pub mod doubles;
pub mod load;
pub mod matching;
pub mod namespaces;
pub mod patient;
pub mod postgres;
pub mod process;
pub mod procfs;
pub mod proxy;
pub mod recount;
pub mod stalls;
pub mod storage;
pub mod wait;
pub mod world;

use std::sync::OnceLock;
use std::time::SystemTime;

pub use audit::{Audit, Gate};
pub use chance::Chance;
pub use client::{Answer, Client, Lines};
pub use patient::Patient;
pub use postgres::Postgres;
pub use process::{Finished, Process};
pub use proxy::{Flow, Proxy};
pub use recount::Recount;
pub use storage::Storage;
pub use world::{Database, World};

/// The token of every server that this process of tests starts: one of its own, so that an agent
/// that an earlier run left behind is not let in by a server that got the port it still asks at.
pub fn token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
        format!("end-to-end-{}-{:x}", std::process::id(), since.as_nanos())
    })
}
