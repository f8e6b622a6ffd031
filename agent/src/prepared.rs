//! What a job needs on this machine before its first element: its `files` unpacked, its `prepare`
//! script run. Done once for all jobs that want the same, and kept on disk for later ones.
//!
//! ```text
//! CACHE/NAME.lock       held shared by whoever uses the environment, exclusive by whoever makes it
//! CACHE/NAME/files/     the unpacked files: working directory of the script. Workers work in copies
//! CACHE/NAME/r/         the private library of R
//! CACHE/NAME/python/    where pip installs to
//! CACHE/NAME/bin/       on the PATH, for whatever else the script provides
//! CACHE/NAME/ready      it is whole; written last
//! ```

mod cache;
mod files;
mod script;
mod variables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use protocol::agent::JobSpec;
use protocol::job::{ElementError, LogSource, Runtime};
use tokio_util::sync::CancellationToken;

use self::cache::{Cache, Turn, Use};
use self::script::Script;
use crate::blobs::{self, Blobs};
use crate::confinement::Confinement;
use crate::death::{self, Death};
use crate::lifeline::Ended;
use crate::logs::Logs;
use crate::output::Printed;
use crate::tap::{Audience, Tap};

/// What is prepared on this machine, and what is being prepared.
#[derive(Debug)]
pub struct Prepared {
    cache: Cache,
    supervisor: PathBuf,
    confinement: Arc<Confinement>,
    /// Of the runtimes. What was compiled for one version is not used by another.
    versions: BTreeMap<Runtime, String>,
    blobs: Arc<Blobs>,
    logs: Arc<Logs>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

/// A prepared environment, in use: it stays on disk for as long as this lives.
#[derive(Debug)]
pub struct Environment {
    place: Use,
    variables: Vec<(&'static str, OsString)>,
}

/// One environment while somebody uses it or waits for it.
#[derive(Debug, Default)]
struct Entry {
    environment: Weak<Environment>,
    flight: Option<WeakShared<BoxFuture<'static, Outcome>>>,
    /// The jobs that have waited for the flight.
    audience: Audience,
}

type Outcome = Result<Arc<Environment>, ElementError>;
/// The making of an environment; it is given up when nobody waits for it any more.
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// What an environment is made from.
#[derive(Clone, Debug)]
struct Recipe {
    name: String,
    prepare: String,
    files: Option<String>,
}

impl Environment {
    /// What is in the working directory of its workers in the beginning. Each has a copy, so that
    /// none changes what others, and later jobs, find.
    pub fn files(&self) -> PathBuf {
        self.place.folder.join("files")
    }

    /// What is to be set for processes that use it.
    pub fn variables(&self) -> &[(&'static str, OsString)] {
        &self.variables
    }
}

impl PartialEq for Environment {
    fn eq(&self, other: &Self) -> bool {
        self.place.folder == other.place.folder
    }
}

impl Eq for Environment {}

impl Prepared {
    /// What is prepared in `folder`. Scripts run under `supervisor`, and held as workers are;
    /// `versions` are those of the runtimes.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(
        folder: &Path,
        supervisor: PathBuf,
        confinement: Arc<Confinement>,
        versions: BTreeMap<Runtime, String>,
        blobs: Arc<Blobs>,
        logs: Arc<Logs>,
    ) -> io::Result<Arc<Self>> {
        let cache = Cache::open(folder, confinement.identity().clone())?;
        let entries = Mutex::default();
        Ok(Arc::new(Self { cache, supervisor, confinement, versions, blobs, logs, entries }))
    }

    /// The environment of a job, made unless it is there; nothing if the job wants none. If this is
    /// dropped before it is done, and nobody else waits for the same, what runs for it is killed.
    ///
    /// # Errors
    /// When it cannot be made; the error is the job's. The next job that wants it tries again.
    pub async fn get(
        self: &Arc<Self>,
        job: &JobSpec,
    ) -> Result<Option<Arc<Environment>>, ElementError> {
        if job.prepare.trim().is_empty() && job.files.is_none() {
            return Ok(None);
        }
        let recipe = self.recipe(job);
        let name = recipe.name.clone();
        let flight = {
            let mut entries = self.lock();
            entries.retain(|_, entry| entry.is_alive());
            let entry = entries.entry(name.clone()).or_default();
            if let Some(environment) = entry.environment.upgrade() {
                return Ok(Some(environment));
            }
            self.join(entry, recipe, job)
        };
        let environment = flight.await?;
        self.lock().entry(name).or_default().environment = Arc::downgrade(&environment);
        Ok(Some(environment))
    }

    /// The flight that makes this environment: the one under way, or a new one.
    fn join(self: &Arc<Self>, entry: &mut Entry, recipe: Recipe, job: &JobSpec) -> Flight {
        let under_way = entry.flight.as_ref().and_then(WeakShared::upgrade);
        if let Some(flight) = under_way.filter(|flight| flight.peek().is_none()) {
            let mut audience = entry.audience.lock().unwrap_or_else(PoisonError::into_inner);
            if !audience.contains(&job.id) {
                audience.push(job.id);
            }
            return flight;
        }
        entry.audience = Arc::new(Mutex::new(vec![job.id]));
        let audience = Arc::clone(&entry.audience);
        let (prepared, cancel) = (Arc::clone(self), CancellationToken::new());
        let stop = cancel.clone();
        let flight = async move {
            let _stop_when_dropped = cancel.drop_guard();
            // A task of its own, so that what is given up still comes to an orderly end.
            let made = tokio::spawn(async move { prepared.fly(&recipe, audience, &stop).await });
            let made = made.await.unwrap_or_else(|panic| Err(failed(panic.to_string())))?;
            Ok(Arc::new(made))
        };
        let flight = flight.boxed().shared();
        entry.flight = flight.downgrade();
        flight
    }

    /// Finds the environment on disk or makes it there.
    async fn fly(
        &self,
        recipe: &Recipe,
        audience: Audience,
        stop: &CancellationToken,
    ) -> Result<Environment, ElementError> {
        let tap =
            || Tap::new(Arc::clone(&self.logs), Arc::clone(&audience), LogSource::Prepare, true);
        loop {
            let found = tokio::select! {
                found = self.cache.find(&recipe.name) => found,
                () = stop.cancelled() => return Err(given_up()),
            };
            if let Some(place) = found.map_err(|error| self.unusable(&error))? {
                let variables = self.variables(recipe, &place.folder);
                return Ok(Environment { place, variables });
            }
            let turn = tokio::select! {
                turn = self.cache.turn(&recipe.name) => turn,
                () = stop.cancelled() => return Err(given_up()),
            };
            let Some(turn) = turn.map_err(|error| self.unusable(&error))? else { continue };
            // Another agent may have made it meanwhile.
            if !turn.is_ready() {
                let made = match turn.clear().await.map_err(|error| self.unusable(&error)) {
                    Ok(()) => self.make(recipe, &turn, tap(), stop).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = made {
                    turn.remove().await;
                    return Err(error);
                }
                turn.finish().await.map_err(|error| self.unusable(&error))?;
                self.cache.evict(&recipe.name).await;
            }
        }
    }

    async fn make(
        &self,
        recipe: &Recipe,
        turn: &Turn,
        tap: Tap,
        stop: &CancellationToken,
    ) -> Result<(), ElementError> {
        let folder = &turn.folder;
        let work = folder.join("files");
        if let Some(digest) = &recipe.files {
            let archive = folder.join("tmp/files.tar.gz");
            let saved = tokio::select! {
                saved = self.blobs.save(digest, &archive) => saved,
                () = stop.cancelled() => return Err(given_up()),
            };
            saved.map_err(|error| failed(format!("files: {error}")))?;
            let unpacked = files::unpack(archive, work.clone(), stop.clone()).await;
            unpacked.map_err(|error| failed(format!("files: {error}")))?;
        }
        turn.give().await.map_err(|error| self.unusable(&error))?;
        if recipe.prepare.trim().is_empty() {
            return Ok(());
        }
        let variables = self.variables(recipe, folder);
        let script = Script {
            text: &recipe.prepare,
            folder,
            work: &work,
            lock: turn.lock(),
            variables: &variables,
        };
        match script.run(&self.supervisor, &self.confinement, tap, stop).await {
            Ok((Ended::Exited(0), _)) => Ok(()),
            Ok((ended, printed)) => Err(script_failed(ended, &printed)),
            Err(error) => {
                Err(script_failed(Ended::NotStarted(error.to_string()), &Printed::default()))
            }
        }
    }

    fn recipe(&self, job: &JobSpec) -> Recipe {
        let version = self.versions.get(&job.runtime).map_or("", String::as_str);
        let python = self.versions.get(&Runtime::Python).map_or("", String::as_str);
        let files = job.files.as_deref().unwrap_or_default();
        let parts = [&job.owner, job.runtime.as_str(), version, python, &job.prepare, files];
        // Lengths keep apart what would be the same text run together.
        let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        let digest = blobs::digest_of(text.as_bytes());
        let name = digest.trim_start_matches("sha256:")[..40].to_owned();
        Recipe { name, prepare: job.prepare.clone(), files: job.files.clone() }
    }

    /// What is set for processes that use what is made in `folder`. A job of files alone has none of
    /// it, and so finds what is installed for this agent's user.
    fn variables(&self, recipe: &Recipe, folder: &Path) -> Vec<(&'static str, OsString)> {
        if recipe.prepare.trim().is_empty() {
            return Vec::new();
        }
        variables::of(folder, self.versions.get(&Runtime::Python).map(String::as_str))
    }

    fn unusable(&self, error: &io::Error) -> ElementError {
        let folder = self.cache.folder().display();
        failed(format!(
            "the folder {folder} cannot be used: {error}; start the agent with another by --cache"
        ))
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_alive(&self) -> bool {
        let flight = self.flight.as_ref().and_then(WeakShared::upgrade);
        self.environment.strong_count() > 0 || flight.is_some()
    }
}

fn script_failed(ended: Ended, printed: &Printed) -> ElementError {
    let mut message = format!("the prepare script failed: {}", Death::Ended(ended));
    let (stderr, stdout) = (printed.stderr.text(), printed.stdout.text());
    if let Some(last) = death::last_lines(&stderr).or_else(|| death::last_lines(&stdout)) {
        message.push_str("; the last it wrote:\n");
        message.push_str(last);
    }
    failed(message)
}

/// What nobody hears: all who waited have gone.
fn given_up() -> ElementError {
    failed("nobody waits for it any more".to_owned())
}

fn failed(message: String) -> ElementError {
    let kind = "PrepareFailed".to_owned();
    ElementError { kind, message, call: None, traceback: Vec::new(), fatal: true }
}
