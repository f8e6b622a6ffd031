//! An agent from its start to its end.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::agent::Register;
use protocol::job::Runtime;
use protocol::{AgentId, PROTOCOL_VERSION, Problem};
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::blobs::Blobs;
use crate::client::{Client, NotRegistered, Registration};
use crate::config::Config;
use crate::confinement::{self, Confinement, ConfinementError};
use crate::heartbeat::Pulse;
use crate::held::Held;
use crate::jobs::Jobs;
use crate::keep::Keeper;
use crate::logs::Logs;
use crate::outbox::Outbox;
use crate::pool::WorkerPool;
use crate::prepared::Prepared;
use crate::runtimes::{self, DetectError};
use crate::scratch::Scratch;
use crate::slots::Slots;
use crate::spool::{Spool, SpoolFolder};
use crate::topology::Topology;
use crate::transport::{Failure, Transport, TransportError};
use crate::trust::Trust;
use crate::worker::Launcher;
use crate::{inherit, logs, poll, report, spool};

/// For how long leases that are not finished when the grace is over may take to be given back.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(10);

/// For how long the rest of the log may take to be sent at the end.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(5);

/// What all parts of an agent share.
#[derive(Debug)]
pub struct Agent {
    /// The server.
    pub client: Client,
    /// The leases it holds.
    pub held: Arc<Held>,
    /// What is to be reported.
    pub outbox: Arc<Outbox>,
    /// What jobs say as they run.
    pub logs: Arc<Logs>,
    /// Its workers.
    pub pool: Arc<WorkerPool>,
    /// The jobs it knows.
    pub jobs: Jobs,
    /// What is prepared on this machine.
    pub prepared: Arc<Prepared>,
    /// The blobs it keeps.
    pub blobs: Arc<Blobs>,
    /// Its slots.
    pub slots: Arc<Slots>,
    /// Cancelled when nothing new is to be begun.
    pub draining: CancellationToken,
    /// Cancelled when what still runs is to be killed.
    pub killed: CancellationToken,
}

/// Why an agent cannot run.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The server's address or the token make no sense.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A runtime that was asked for cannot be used.
    #[error("runtime `{name}`: {error}", name = runtime.as_str())]
    Runtime {
        /// Which.
        runtime: Runtime,
        /// Why.
        error: DetectError,
    },
    /// The folder for workers cannot be used.
    #[error(
        "the scratch folder {folder} cannot be used: {error}; choose another by --scratch",
        folder = folder.display()
    )]
    Scratch {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The folder for prepared environments cannot be used.
    #[error(
        "the cache folder {folder} cannot be used: {error}; choose another by --cache",
        folder = folder.display()
    )]
    Cache {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Workers cannot be held as was asked for.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// The folder for outcomes that are not accepted cannot be used.
    #[error(
        "the spool folder {folder} cannot be used: {error}; choose another by --spool",
        folder = folder.display()
    )]
    Spool {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The server does not let the agent in.
    #[error("the server at {server} does not let this agent in: {problem}{hint}")]
    Refused {
        /// Which.
        server: String,
        /// What it said.
        problem: Box<Problem>,
        /// What to do.
        hint: &'static str,
    },
    /// What answers at the server's address cannot prove that it is the server.
    #[error("the server at {server} is not trusted: {why}")]
    Untrusted {
        /// Which.
        server: String,
        /// What is wrong with its certificate, and what to do.
        why: String,
    },
    /// The heartbeat cannot be started.
    #[error("the heartbeat's thread cannot be started: {0}")]
    Heartbeat(std::io::Error),
}

/// Runs an agent until `shutdown` is cancelled or the server asks it to drain; it then begins
/// nothing new, gives back what it has not begun, finishes what is in flight for as long as the
/// grace lasts, reports, and leaves.
///
/// # Errors
/// When it cannot be started or the server does not let it in. A server that is away is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    confinement::hide_this_process();
    let id = AgentId::new();
    let slots = config.settings.slots.on(&Topology::of_this_machine());
    let confinement = Arc::new(Confinement::new(&config.settings.workers, slots)?);
    let register = tokio::select! {
        register = introduce(&config, id, &confinement) => register?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let transport = open(&config)?;
    let held = Arc::new(Held::default());
    let registration = Registration::new(register.clone(), Arc::clone(&held));
    let client = Client::new(transport.clone(), Arc::clone(&registration));
    let launcher = launcher(&config, id, &confinement)?;
    let dead = launcher.scratch.dead().to_vec();
    let pool = WorkerPool::new(launcher, register.slots);
    let _compiling = register.runtimes.contains_key(&Runtime::R).then(|| {
        let pool = Arc::clone(&pool);
        AbortOnDropHandle::new(tokio::spawn(async move { pool.compile_r().await }))
    });
    let (logs, blobs) = (Arc::default(), Arc::new(blobs(&config, &client, &confinement)));
    let prepared = prepared(&config, &confinement, &register, &blobs, &logs)?;
    let spool_folder = spool::open(&config.settings.spool())
        .map_err(|error| AgentError::Spool { folder: config.settings.spool(), error })?;
    let spool_folder = SpoolFolder::new(spool_folder, id);

    tracing::info!(
        server = transport.servers().names(),
        name = register.name,
        slots = register.slots,
        "agent starting"
    );
    tokio::select! {
        registered = client.register() => registered.map_err(refused)?,
        () = shutdown.cancelled() => return Ok(()),
    }
    tracing::info!(agent = %id, "registered");

    let agent = Arc::new(Agent {
        prepared,
        blobs,
        client,
        outbox: Arc::new(Outbox::new(spool_folder.clone())),
        logs,
        pool,
        jobs: Jobs::default(),
        slots: Slots::new(register.slots),
        draining: shutdown.child_token(),
        killed: CancellationToken::new(),
        held,
    });
    let stopped = CancellationToken::new();
    // However this function ends, its heartbeats end with it.
    let stop_heartbeats = stopped.clone().drop_guard();
    let (held, draining) = (Arc::clone(&agent.held), agent.draining.clone());
    let lease_time = registration.lease_time();
    let heartbeats_transport = transport.beside(lease_time)?;
    let keeper = Keeper {
        outbox: Arc::clone(&agent.outbox),
        spool: Spool::new(spool_folder.clone()),
        registration: Arc::clone(&registration),
    };
    let pulse = Pulse { registration, held, draining, stopped };
    let heart = pulse.start(heartbeats_transport).map_err(AgentError::Heartbeat)?;
    // Before anything is leased, so that nothing of it is leased again.
    let inheriting = async {
        let spool = spool_folder.parent();
        inherit::deliver(&agent.client, spool).await;
        inherit::bury(&agent.client, spool, &dead, lease_time).await;
    };
    tokio::select! {
        () = inheriting => {}
        () = agent.draining.cancelled() => {}
    }
    let left = work(&agent, keeper, config.settings.grace.0).await;
    // Before the agent leaves: a heartbeat behind that would register it again.
    drop(stop_heartbeats);
    tokio::task::spawn_blocking(move || heart.join()).await.ok();
    // By leaving it would give back what it has finished; it is taken for lost if it does not, and
    // until its leases are leased anew, the next agent may deliver what it has kept.
    if left == 0 {
        agent.client.leave().await;
    }
    Ok(())
}

/// Leases, runs, reports, until the agent drains and all is given back; how many outcomes no server
/// was there to accept.
async fn work(agent: &Arc<Agent>, keeper: Keeper, grace: Duration) -> usize {
    let folder = keeper.spool.folder().path();
    let stop_keeping = CancellationToken::new();
    let keeping = tokio::spawn(keeper.run(stop_keeping.clone()));
    let reports = tokio::spawn(report::run(Arc::clone(agent)));
    let (client, logs) = (agent.client.clone(), Arc::clone(&agent.logs));
    let log = tokio::spawn(async move { logs::run(&client, &logs).await });
    let leases = TaskTracker::new();
    // In a task of its own: whoever runs the agent may do so on a thread that is none of the runtime's, and each lease would
    // wait for that to wake, and for a thread of the runtime again.
    let polling = (Arc::clone(agent), leases.clone());
    let polling = tokio::spawn(async move { poll::run(&polling.0, &polling.1).await });
    if let Err(panicked) = AbortOnDropHandle::new(polling).await
        && panicked.is_panic()
    {
        resume_unwind(panicked.into_panic());
    }
    tracing::info!(leases = leases.len(), "draining");
    leases.close();
    if timeout(grace, leases.wait()).await.is_err() {
        tracing::warn!(leases = leases.len(), "the grace is over; killing what still runs");
        agent.killed.cancel();
        timeout(GIVE_BACK_LIMIT, leases.wait()).await.ok();
    }
    agent.pool.close().await;
    reports.abort();
    reports.await.ok();
    timeout(LAST_WORDS_LIMIT, agent.logs.all_sent()).await.ok();
    log.abort();
    stop_keeping.cancel();
    let kept = keeping.await.unwrap_or_default();
    let left = agent.outbox.unsettled();
    match left {
        0 => {}
        _ if kept > 0 => tracing::warn!(
            outcomes = left, folder = %folder.display(),
            "the server was not there to take all outcomes; the next agent with this spool folder \
             delivers them"
        ),
        _ => tracing::error!(
            outcomes = left,
            "the server was not there to take all outcomes; their elements run again"
        ),
    }
    left
}

fn blobs(config: &Config, client: &Client, confinement: &Confinement) -> Blobs {
    let (folder, limit) = (config.settings.blobs(), config.settings.blob_cache);
    Blobs::new(client.clone()).with_files(&folder, confinement.identity().clone(), limit)
}

fn prepared(
    config: &Config,
    confinement: &Arc<Confinement>,
    register: &Register,
    blobs: &Arc<Blobs>,
    logs: &Arc<Logs>,
) -> Result<Arc<Prepared>, AgentError> {
    let folder = config.settings.cache();
    let (supervisor, versions) = (config.supervisor.clone(), register.runtimes.clone());
    let (confinement, blobs, logs) = (Arc::clone(confinement), Arc::clone(blobs), Arc::clone(logs));
    Prepared::open(&folder, supervisor, confinement, versions, blobs, logs)
        .map_err(|error| AgentError::Cache { folder, error })
}

/// What the agent says of itself.
async fn introduce(
    config: &Config,
    id: AgentId,
    confinement: &Confinement,
) -> Result<Register, AgentError> {
    let settings = &config.settings;
    let topology = Topology::of_this_machine();
    let labels = settings.labels.iter().map(|label| (label.key.clone(), label.value.clone()));
    Ok(Register {
        id,
        name: settings.name(),
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: settings.slots.on(&topology),
        physical_cores: topology.physical_cores,
        logical_cores: topology.logical_cores,
        memory: topology.memory,
        runtimes: usable_runtimes(&settings.runtimes, confinement).await?,
        labels: labels.collect(),
        leases: Vec::new(),
    })
}

/// The runtimes that were asked for, all of which must be usable, or those that are.
async fn usable_runtimes(
    asked: &[Runtime],
    confinement: &Confinement,
) -> Result<BTreeMap<Runtime, String>, AgentError> {
    let candidates = if asked.is_empty() { &Runtime::ALL[..] } else { asked };
    let detect = |runtime: &Runtime| {
        let runtime = *runtime;
        async move {
            (runtime, runtimes::detect(runtime, |program| confinement.unsupervised(program)).await)
        }
    };
    let mut usable = BTreeMap::new();
    for (runtime, detected) in join_all(candidates.iter().map(detect)).await {
        match detected {
            Ok(version) => {
                usable.insert(runtime, version);
            }
            Err(error) if asked.is_empty() => {
                tracing::info!("runtime {} is not offered: {error}", runtime.as_str());
            }
            Err(error) => return Err(AgentError::Runtime { runtime, error }),
        }
    }
    // Never empty: commands can be run everywhere.
    Ok(usable)
}

fn open(config: &Config) -> Result<Transport, TransportError> {
    let trust = Trust::new(config.ca_file.as_deref())?;
    Transport::new(&config.servers, &config.token, trust)
}

fn launcher(
    config: &Config,
    id: AgentId,
    confinement: &Arc<Confinement>,
) -> Result<Launcher, AgentError> {
    let folder = config.settings.scratch();
    let scratch = Scratch::create(&folder, id, confinement.identity().clone())
        .map_err(|error| AgentError::Scratch { folder, error })?;
    let (supervisor, confinement) = (config.supervisor.clone(), Arc::clone(confinement));
    Ok(Launcher { supervisor, scratch, confinement })
}

fn refused(refused: NotRegistered) -> AgentError {
    let server = refused.server;
    let problem = match refused.failure {
        Failure::Refused(problem) => problem,
        Failure::Untrusted(why) => return AgentError::Untrusted { server, why },
        other => return AgentError::Untrusted { server, why: other.to_string() },
    };
    let hint = match problem.status {
        401 | 403 => "; give an agent's token by FARROW_TOKEN",
        409 | 426 => "; agent and server must be of the same version",
        _ => "",
    };
    AgentError::Refused { server, problem, hint }
}
