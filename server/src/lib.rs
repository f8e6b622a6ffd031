//! farrow's server: keeps jobs in a database, leases their elements to agents, and gives clients
//! their values.
//!
//! `http` parses, asks and answers. The `dispatcher` matches waiting agents with runnable jobs in
//! rounds; what goes where is decided by the pure `scheduler`; `store` holds all SQL.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod artifacts;
mod asks;
mod backup;
mod blobs;
mod block;
mod clock;
mod collector;
mod config;
mod dispatcher;
mod elements;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod heartbeats;
mod http;
mod inputs;
mod inspection;
mod keeper;
mod labels;
mod limits;
mod listening;
mod logs;
mod metrics;
mod names;
mod opening;
mod outcomes;
mod plan;
mod presence;
mod reaper;
mod retry;
mod scheduler;
mod shared_blobs;
mod signals;
#[cfg(test)]
mod simulation;
mod state;
mod store;
mod submission;
mod token;
mod trash;
mod upkeep;
mod value;
mod watchers;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use backup::{Backup, BackupError, BackupOptions, Damaged, backup};
pub use blobs::BlobsAt;
pub use config::{Config, Settings, duration};
pub use http::openapi_json;
pub use inspection::{CheckError, CheckOptions, check};
pub use listening::{Exposed, HostName, Listeners, Reach, TlsError};
pub use store::StoreError;
pub use store::check::{Finding, Kind, Report};
pub use store::space::{Compacted, compact};
pub use token::{TOKEN_FILE, TokenError};

use protocol::rights::{Role, TokenState};

use asks::Asks;
use clock::Clock;
use dispatcher::Dispatcher;
use heartbeats::Heartbeats;
use limits::Limits;
use listening::{Door, Peer};
use signals::{Outbound, Topic};
use state::{AppState, Parts};
use store::Store;
use store::tokens::Known;
use watchers::Watchers;

/// How long open requests are given to end once the server is to stop, so that it ends within five
/// seconds.
const DRAIN: Duration = Duration::from_secs(4);

/// How long what is done in the background is given after that: the database may not answer.
const LAST_WRITES: Duration = Duration::from_millis(500);

/// Serves until `shutdown` is cancelled; then ends every wait, finishes open requests, and returns.
///
/// # Errors
/// When the data folder or the database cannot be used, or the listener fails.
pub async fn serve(
    listeners: impl Into<Listeners>,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    config.settings.reach.check(config.settings.listen)?;
    let tls = config.settings.reach.tls()?;
    // What was begun is whole or undone: a database changes in transactions.
    let state = tokio::select! {
        state = open(config, shutdown.clone()) => state?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let dispatcher = tokio::spawn(state.dispatcher.clone().run(shutdown.clone()));
    let reaper = tokio::spawn(reaper::run(state.clone(), shutdown.clone()));
    let trash = tokio::spawn(trash::run(state.clone(), shutdown.clone()));
    let keeper = tokio::spawn(keeper::run(state.clone(), shutdown.clone()));
    let collector = tokio::spawn(collector::run(state.clone(), shutdown.clone()));
    let upkeep = tokio::spawn(upkeep::run(state.clone(), shutdown.clone()));
    let signals = tokio::spawn(signals::run(state.clone(), shutdown.clone()));
    let refresh = tls
        .clone()
        .map(|tls| tokio::spawn(shutdown.clone().run_until_cancelled_owned(tls.keep_fresh())));
    let service = http::router(state).into_make_service_with_connect_info::<Peer>();
    let door = Door::new(listeners.into(), tls, shutdown.clone());
    let serving =
        axum::serve(door, service).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.map_err(ServeError::Listener)?,
        () = drained(&shutdown) => tracing::warn!("requests that are still open are cut off"),
    }
    // All end by the same token, which has been cancelled.
    let background = async {
        let _ = tokio::join!(dispatcher, reaper, trash, signals, upkeep, keeper, collector);
        if let Some(refresh) = refresh {
            refresh.await.ok();
        }
    };
    // What is cut off was not acknowledged to anybody.
    if tokio::time::timeout(LAST_WRITES, background).await.is_err() {
        tracing::warn!("the database does not answer: what was being written to it is cut off");
    }
    Ok(())
}

async fn drained(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

async fn open(config: Config, shutdown: CancellationToken) -> Result<AppState, ServeError> {
    let data = config.data.clone();
    let cannot_write = |source| ServeError::DataFolder { folder: data.clone(), source };
    // Functions, elements and values are nobody else's business.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(cannot_write)?;
    let place = opening::place(&config).await?;
    let store = match &config.settings.database_url {
        Some(url) => Store::connect(url).await?,
        None => Store::open(&data).await?,
    };
    let clock = Arc::new(store.start_clock().await?);
    let blobs = opening::blobs(place, &store, &clock, &data).await?;
    let mut folders = vec![data];
    if let BlobsAt::Folder(folder) = config.blobs() {
        folders.push(folder);
    }
    let lease = i64::try_from(config.lease().as_millis()).unwrap_or(i64::MAX);
    let admin = token::admin_token(&config)?;
    let admin_hash = token::hash(&admin);
    prepare(&store, &clock, lease, admin_hash.clone()).await?;
    read_earlier_specifications(&store).await?;
    warn_unless_admin(&store, &clock, &admin_hash).await?;
    let outbound = store.shared().map(|_| Arc::new(Outbound::new()));
    let job_watchers = Arc::new(Watchers::of(Topic::Moved, outbound.as_ref()));
    let agent_watchers = Arc::new(Watchers::of(Topic::Ordered, outbound.as_ref()));
    let asks = Arc::new(Asks::new(Arc::clone(&agent_watchers), outbound.clone()));
    let parts = Parts {
        dispatcher: Dispatcher::new(
            store.clone(),
            Arc::clone(&clock),
            Arc::clone(&job_watchers),
            Arc::clone(&asks),
            outbound.clone(),
        ),
        heartbeats: Heartbeats::new(store.clone(), Arc::clone(&clock), lease),
        asks,
        limits: Arc::new(Limits::new(config.settings.limits.clone(), folders)),
        config: Arc::new(config),
        store,
        blobs,
        clock,
        tokens: Arc::default(),
        job_watchers,
        end_watchers: Arc::new(Watchers::of(Topic::Ended, outbound.as_ref())),
        log_watchers: Arc::new(Watchers::of(Topic::Said, outbound.as_ref())),
        metrics: Arc::default(),
        agent_watchers,
        agents_changed: Arc::default(),
        outbound,
        deleted: Arc::default(),
        shutdown,
    };
    Ok(parts.into())
}

/// Brings clock, agents and the administrator's token up to date with the database.
async fn prepare(
    store: &Store,
    clock: &Arc<Clock>,
    lease: i64,
    admin_hash: String,
) -> Result<(), StoreError> {
    let clock = Arc::clone(clock);
    let is_shared = store.shared().is_some();
    store
        .write(move |tx| {
            Box::pin(async move {
                if let Some(stored) = store::stored_time(tx).await? {
                    clock.not_before(stored);
                }
                let now = clock.now();
                let draft_age = if is_shared { trash::DRAFT_LIMIT } else { 0 };
                store::drafts::discard_old(tx, now - draft_age).await?;
                store::agents::keep_all_alive(tx, now + lease).await?;
                store::offers::recount(tx).await?;
                store::tokens::ensure_admin(tx, &admin_hash, now).await
            })
        })
        .await
}

/// Says in the log if the token that was given to the server as the administrator's is not, or not any
/// more: it was revoked, say.
async fn warn_unless_admin(store: &Store, clock: &Clock, hash: &str) -> Result<(), StoreError> {
    let hash = hash.to_owned();
    let known =
        store.read(|tx| Box::pin(async move { store::tokens::find(tx, &hash).await })).await?;
    let is_live = |known: &Known| known.state(clock.now()) == TokenState::Live;
    if !known.as_ref().is_some_and(|known| known.identity.role == Role::Admin && is_live(known)) {
        tracing::warn!(
            "the token in FARROW_TOKEN, --token-file or {TOKEN_FILE} is no administrator's any more: \
             give another one, or remove that file"
        );
    }
    Ok(())
}

/// Writes down which blobs the jobs of earlier versions refer to.
async fn read_earlier_specifications(store: &Store) -> Result<(), StoreError> {
    let mut after = Some(String::new());
    while let Some(from) = after {
        after = store
            .write(|tx| {
                Box::pin(async move { store::references::read_earlier(tx, &from, 500).await })
            })
            .await?;
    }
    Ok(())
}

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be written.
    #[error("the data folder {} cannot be written: {source}; give another one with --data", folder.display())]
    DataFolder {
        /// Which.
        folder: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder of the blobs cannot be written.
    #[error("the folder of blobs {} cannot be written: {source}; give another one with --blobs", folder.display())]
    BlobsFolder {
        /// Which.
        folder: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder of the blobs is not that of the database.
    #[error(transparent)]
    Blobs(#[from] shared_blobs::ClaimError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where it is to listen, others could read what is said.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The administrator's token cannot be read or made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The socket failed.
    #[error("the listening socket failed: {0}")]
    Listener(io::Error),
}
