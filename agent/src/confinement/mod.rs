//! What holds workers, `prepare` scripts, and all that comes of them: whose processes they are, what
//! they see of the agent, and how much of the machine they may use.
//!
//! | what | by |
//! | --- | --- |
//! | whose processes | [`Identity`]: the agent's user, or `--worker-user` |
//! | what they see of the agent | `environment`; [`hide_this_process`]; no descriptor of ours |
//! | memory and processes | [`Group`], else limits of each process, and the watch of [`crate::memory`] |
//! | from the first instruction on | [`Terms`], which the supervisor puts into force |

mod cgroups;
mod entry;
mod environment;
mod group;
mod identity;
mod settings;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use thiserror::Error;

use self::cgroups::Cgroups;
pub use self::entry::{Terms, bind};
pub use self::group::{Group, NotBounded, Version, kill_at_once};
pub use self::identity::{Identity, IdentityError};
pub use self::settings::WorkerSettings;
use crate::descriptors;
use crate::output::Keep;

/// Programs map more than they use, so a limit of what is mapped must leave them room: it stops
/// only what goes far beyond, faster than the watch looks.
const ROOM: u64 = 1 << 30;

/// What holds the workers of an agent.
#[derive(Debug, Default)]
pub struct Confinement {
    identity: Identity,
    passed: BTreeSet<OsString>,
    allow_setuid: bool,
    processes: u32,
    slots: u32,
    output: Keep,
    artifacts: u64,
    cgroups: Cgroups,
}

/// Why workers cannot be held as the settings say.
#[derive(Debug, Error)]
pub enum ConfinementError {
    /// They cannot be that user.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// That user cannot be used.
    #[error("--worker-user {name}: no process can be started as that user: {error}")]
    NotStarted {
        /// Who.
        name: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Closes this process to others of the same user: they may not read its memory, its environment nor
/// its descriptors, and it leaves no core behind. Root can still.
pub fn hide_this_process() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "this process cannot be hidden from others of its user");
    }
}

impl Confinement {
    /// As the settings say, for an agent of so many slots.
    ///
    /// # Errors
    /// When they ask for what is not possible here.
    pub fn new(settings: &WorkerSettings, slots: u32) -> Result<Self, ConfinementError> {
        let identity = settings.worker_user.as_deref().map(Identity::of).transpose()?;
        let mut confinement = Self {
            identity: identity.unwrap_or_default(),
            passed: settings.pass_env.iter().map(OsString::from).collect(),
            allow_setuid: settings.allow_setuid,
            processes: settings.worker_processes,
            slots,
            output: Keep::bytes(settings.max_output),
            artifacts: settings.max_artifacts,
            cgroups: Cgroups::default(),
        };
        if let Some(name) = confinement.identity.name() {
            let started = confinement.try_to_start(&Terms::default());
            started
                .map_err(|error| ConfinementError::NotStarted { name: name.to_owned(), error })?;
        }
        let mut cgroups = Cgroups::of_this_process();
        cgroups.keep_usable(|group| {
            confinement
                .try_to_start(&Terms { groups: group.folders().to_owned(), ..Terms::default() })
        });
        confinement.cgroups = cgroups;
        confinement.tell();
        Ok(confinement)
    }

    /// Who workers are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How much is kept of what an element prints.
    pub fn output(&self) -> Keep {
        self.output
    }

    /// Bytes of the artifacts that an element may leave.
    pub fn artifacts(&self) -> u64 {
        self.artifacts
    }

    /// The groups of a new worker, if there are any to be had.
    pub fn group(&self) -> Option<Group> {
        self.cgroups.make(self.processes)
    }

    /// The command that lets `supervisor` run what is added to it, in these groups, and with this bound
    /// of memory.
    ///
    /// # Errors
    /// When the folder of a group cannot be said.
    pub fn supervised(
        &self,
        supervisor: &Path,
        group: Option<&Group>,
        memory: Option<u64>,
    ) -> io::Result<Command> {
        let bounds_memory = group.is_some_and(Group::bounds_memory);
        let bounds_processes = group.is_some_and(Group::bounds_processes);
        let terms = Terms {
            user: self.identity.ids(),
            groups: group.map(|group| group.folders().to_owned()).unwrap_or_default(),
            data: memory.filter(|_| !bounds_memory).map(|bytes| {
                // Twice, since what is copied when a process forks counts for both.
                bytes.saturating_mul(2).saturating_add(ROOM)
            }),
            processes: (!bounds_processes)
                .then(|| u64::from(self.processes).saturating_mul(self.slots.into())),
            allow_setuid: self.allow_setuid,
        };
        let mut command = self.environed(supervisor.as_ref());
        // For whoever lists processes.
        command.arg0("farrow").args(["supervise", "--terms"]);
        command.arg(serde_json::to_string(&terms)?).arg("--");
        Ok(command)
    }

    /// The command that runs a program as workers would find it, without a supervisor: for programs
    /// that run nothing of a job.
    ///
    /// # Errors
    /// When it cannot be held as workers are.
    pub fn unsupervised(&self, program: &str) -> io::Result<Command> {
        let mut command = self.environed(program.as_ref());
        bind(&mut command, &self.terms(&Terms::default()))?;
        Ok(command)
    }

    fn terms(&self, terms: &Terms) -> Terms {
        let (user, allow_setuid) = (self.identity.ids(), self.allow_setuid);
        Terms { user, allow_setuid, ..terms.clone() }
    }

    fn environed(&self, program: &std::ffi::OsStr) -> Command {
        let is_another = self.identity.is_another();
        let mut command = Command::new(program);
        command.env_clear();
        command.envs(environment::kept(std::env::vars_os(), &self.passed, is_another));
        command.envs(self.identity.variables());
        descriptors::close_others(&mut command);
        command
    }

    /// Starts a process on these terms that does nothing.
    fn try_to_start(&self, terms: &Terms) -> io::Result<()> {
        let mut command = self.environed("sh".as_ref());
        bind(&mut command, &self.terms(terms))?;
        command.args(["-c", ":"]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().map(drop)
    }

    /// Whether workers may enter a folder.
    pub fn may_enter(&self, folder: &Path) -> bool {
        // Its own `.` is found by those alone who may go through it.
        let inside = folder.join(".");
        self.identity.act(|| inside.is_dir()).unwrap_or(false)
    }

    /// Says what is in force.
    fn tell(&self) {
        let memory = match self.cgroups.memory() {
            Some(Version::V2) => "cgroup v2",
            Some(Version::V1) => "cgroup v1",
            None => "a look five times a second, and RLIMIT_DATA",
        };
        let processes = if self.cgroups.bounds_processes() { "cgroup" } else { "RLIMIT_NPROC" };
        let user = self.identity.name().unwrap_or("the agent's");
        tracing::info!(user, memory, processes, "what workers are held by");
        for remark in &self.cgroups.remarks {
            tracing::info!("{remark}");
        }
        if geteuid().is_root() && !self.identity.is_another() {
            tracing::warn!(
                "workers run as root: code of jobs may do anything on this machine; name another user \
                 by --worker-user"
            );
        }
    }
}
