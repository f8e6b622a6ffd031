//! Every setting of an agent: flag, variable, default, one line of help.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use protocol::job::Runtime;
use protocol::size;

use crate::confinement::WorkerSettings;
use crate::scratch;
use crate::topology::Topology;

/// How an agent is set up, by flags or variables.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Elements to run at once: `physical` (one a core), `logical` (one a hardware thread, for
    /// work that waits) or a number
    #[arg(
        long,
        env = "FARROW_SLOTS",
        default_value = "physical",
        value_name = "physical|logical|N"
    )]
    pub slots: Slots,

    /// Name of this agent, for people [default: the host's name]
    #[arg(long, env = "FARROW_NAME")]
    pub name: Option<String>,

    /// Label by which jobs choose agents; may be repeated
    #[arg(long = "label", env = "FARROW_LABEL", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<Label>,

    /// Runtime to offer, `r`, `python` or `command`; may be repeated [default: those that are installed]
    #[arg(long = "runtime", env = "FARROW_RUNTIME", value_name = "RUNTIME", value_delimiter = ',',
          value_parser = parse_runtime)]
    pub runtimes: Vec<Runtime>,

    /// Folder for the workers' files [default: the user's cache folder; /var/cache/farrow with
    /// `--worker-user`]
    #[arg(long, env = "FARROW_SCRATCH_DIR", value_name = "DIR")]
    pub scratch: Option<PathBuf>,

    /// Folder for what jobs have prepared, kept for later jobs [default: in the folder of
    /// `--scratch`, one for each agent's name]
    #[arg(long, env = "FARROW_AGENT_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,

    /// Bytes of large constants kept in files for later jobs, in the folder of `--scratch`; at the most half of the
    /// room there. With 0, constants are kept in memory, and sent to each worker
    #[arg(long, env = "FARROW_BLOB_CACHE", default_value = "10GiB", value_name = "SIZE",
          value_parser = size::within::<u64>(0..=size::MAX))]
    pub blob_cache: u64,

    /// Folder for outcomes that the server has not accepted, which the next agent with this folder
    /// delivers if this one is killed [default: in the folder of `--scratch`]
    #[arg(long, env = "FARROW_SPOOL", value_name = "DIR")]
    pub spool: Option<PathBuf>,

    /// Seconds that elements in flight get to finish when the agent is to end
    #[arg(long, env = "FARROW_GRACE", default_value = "100", value_name = "SECONDS")]
    pub grace: Seconds,

    /// How workers are held.
    #[command(flatten)]
    pub workers: WorkerSettings,
}

/// Everything that [`crate::run`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the servers of one database are: `http://127.0.0.1:3277`.
    pub servers: Vec<String>,
    /// What the server lets the agent in by.
    pub token: Secret,
    /// The certificates of authorities that are trusted beside the system's (PEM).
    pub ca_file: Option<PathBuf>,
    /// How the agent is set up.
    pub settings: Settings,
    /// This program: called with `supervise` it is [`crate::supervisor::main`], called with
    /// `run-commands` [`crate::commands::main`].
    pub supervisor: PathBuf,
}

impl Config {
    /// A configuration whose supervisor is the running program itself.
    pub fn new(servers: Vec<String>, token: String, settings: Settings) -> Self {
        let (token, supervisor) = (Secret(token), "/proc/self/exe".into());
        Self { servers, token, ca_file: None, settings, supervisor }
    }
}

/// A text that no log shows.
#[derive(Clone)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How many elements to run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    /// One a physical core.
    Physical,
    /// One a hardware thread.
    Logical,
    /// This many.
    Count(u32),
}

/// The most slots that an agent offers: each may hold a process.
const MOST_SLOTS: u32 = 4096;

impl Slots {
    /// How many that is on a machine.
    pub fn on(self, topology: &Topology) -> u32 {
        match self {
            Self::Physical => topology.physical_cores,
            Self::Logical => topology.logical_cores,
            Self::Count(count) => count,
        }
    }
}

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("physical", _) => Ok(Self::Physical),
            ("logical", _) => Ok(Self::Logical),
            (_, Ok(count)) if (1..=MOST_SLOTS).contains(&count) => Ok(Self::Count(count)),
            _ => Err(format!("give `physical`, `logical` or a number from 1 to {MOST_SLOTS}")),
        }
    }
}

/// A label: a key and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What is said of the agent.
    pub key: String,
    /// What it is.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("write it as key=value, such as gpu=no".to_owned()),
        }
    }
}

/// A span of time, written as seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        seconds.map(Self).ok_or_else(|| "give a number of seconds, such as 100 or 2.5".to_owned())
    }
}

fn parse_runtime(text: &str) -> Result<Runtime, String> {
    let known = Runtime::ALL.into_iter().find(|runtime| runtime.as_str() == text);
    known.ok_or_else(|| {
        let names = Runtime::ALL.map(Runtime::as_str).join("`, `");
        format!("there is no such runtime; known are `{names}`")
    })
}

impl Settings {
    /// The agent's name: the one given, or the host's.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = nix::unistd::gethostname().unwrap_or_default();
            let host = host.to_string_lossy();
            if host.is_empty() { "agent".to_owned() } else { host.into_owned() }
        })
    }

    /// The folder for the workers' files.
    pub fn scratch(&self) -> PathBuf {
        let is_another_user = self.workers.worker_user.is_some();
        self.scratch.clone().unwrap_or_else(|| scratch::default_parent(is_another_user))
    }

    /// The folder for outcomes that the server has not accepted: the one given, or one beside the
    /// workers' files, the same for all agents there.
    pub fn spool(&self) -> PathBuf {
        self.spool.clone().unwrap_or_else(|| self.scratch().join("spool"))
    }

    /// The folder for large constants, the same for all agents there.
    pub fn blobs(&self) -> PathBuf {
        self.scratch().join("blobs")
    }

    /// The folder for what jobs have prepared: the one given, or one for the agent's name beside the
    /// workers' files, so that an agent that is started again finds it.
    pub fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            let name = self.name().replace(|c| !plain(c), "_");
            self.scratch().join("prepared").join(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(arguments: &[&str]) -> Result<Settings, clap::Error> {
        let words = ["agent"].iter().chain(arguments);
        Program::try_parse_from(words).map(|program| program.settings)
    }

    #[test]
    fn everything_has_a_default() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.slots, Slots::Physical);
        assert_eq!(settings.grace.0, Duration::from_secs(100));
        assert!(!settings.name().is_empty());
    }

    #[test]
    fn the_help_names_every_runtime() {
        let help = Program::command().render_help().to_string();
        for runtime in Runtime::ALL {
            assert!(help.contains(&format!("`{}`", runtime.as_str())), "{help}");
        }
    }

    #[test]
    fn flags_are_read() {
        let settings = parse(&[
            "--slots",
            "3",
            "--label",
            "zone=a",
            "--label",
            "note=x=y",
            "--runtime",
            "python",
        ])
        .unwrap();
        assert_eq!(settings.slots, Slots::Count(3));
        assert_eq!(settings.labels[1], Label { key: "note".into(), value: "x=y".into() });
        assert_eq!(settings.runtimes, [Runtime::Python]);
    }

    #[test]
    fn each_name_has_a_cache_of_its_own() {
        let default = parse(&["--name", "../b 1"]).unwrap().cache();
        assert!(default.ends_with("prepared/___b_1"), "{}", default.display());
        let beside = parse(&["--name", "a", "--scratch", "/x"]).unwrap().cache();
        assert_eq!(beside, PathBuf::from("/x/prepared/a"));
        assert_eq!(parse(&["--cache", "/x"]).unwrap().cache(), PathBuf::from("/x"));
    }

    #[test]
    fn all_agents_of_a_folder_share_a_spool() {
        for name in ["a", "b"] {
            let beside = parse(&["--name", name, "--scratch", "/x"]).unwrap().spool();
            assert_eq!(beside, PathBuf::from("/x/spool"));
        }
        assert_eq!(parse(&["--spool", "/y"]).unwrap().spool(), PathBuf::from("/y"));
    }

    #[test]
    fn nonsense_is_refused_with_what_would_be_right() {
        for (arguments, help) in [
            (["--slots", "0"], "number from 1"),
            (["--label", "zone"], "key=value"),
            (["--runtime", "perl"], "`python`"),
            (["--grace", "soon"], "number of seconds"),
            (["--pass-env", "FARROW_TOKEN"], "the agent's own key"),
            (["--pass-env", "A=B"], "without its value"),
            (["--worker-processes", "3"], "16"),
        ] {
            let refusal = parse(&arguments).unwrap_err().to_string();
            assert!(refusal.contains(help), "{refusal}");
        }
    }

    #[test]
    fn the_token_is_never_shown() {
        let config = Config::new(vec!["http://x".into()], "hush".into(), parse(&[]).unwrap());
        assert!(!format!("{config:?}").contains("hush"));
    }
}
