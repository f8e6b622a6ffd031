//! The settings that say what workers may do, and see, and use.

use clap::builder::FalseyValueParser;
use protocol::size;

use crate::output::Keep;

/// The agent's own key, which no setting hands to workers.
const TOKEN: &str = "FARROW_TOKEN";

/// How workers are held, by flags or variables.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkerSettings {
    /// User as whom workers, `prepare` scripts and commands run; for agents that run as root
    #[arg(long, env = "FARROW_WORKER_USER", value_name = "NAME")]
    pub worker_user: Option<String>,

    /// Variable that workers get from the agent's environment although it is of those that are kept
    /// from them: `FARROW_…`, `AWS_SECRET_ACCESS_KEY` and their like; may be repeated
    #[arg(long = "pass-env", env = "FARROW_PASS_ENV", value_name = "NAME", value_delimiter = ',',
          value_parser = parse_variable)]
    pub pass_env: Vec<String>,

    /// Processes and threads that a worker, and what it starts, may have at once
    #[arg(long, env = "FARROW_WORKER_PROCESSES", default_value_t = Self::PROCESSES, value_name = "N",
          value_parser = clap::value_parser!(u32).range(16..=4_194_304))]
    pub worker_processes: u32,

    /// Bytes kept of what an element prints to standard output, and of what it prints to standard error:
    /// half from the start, half from the end
    #[arg(long, env = "FARROW_MAX_OUTPUT", default_value = "64KiB", value_name = "BYTES",
          value_parser = size::within::<u32>(0..=16 << 20))]
    pub max_output: u32,

    /// Bytes of the files that one element leaves in FARROW_ARTIFACTS at the most, together
    #[arg(long, env = "FARROW_MAX_ARTIFACTS", default_value = "4GiB", value_name = "BYTES",
          value_parser = size::within::<u64>(0..=size::MAX))]
    pub max_artifacts: u64,

    /// Let workers and `prepare` scripts gain rights by programs such as sudo, su or fusermount
    #[arg(long, env = "FARROW_ALLOW_SETUID", value_parser = FalseyValueParser::new())]
    pub allow_setuid: bool,
}

impl WorkerSettings {
    /// More than any sane element has, and less than what keeps others from starting anything.
    const PROCESSES: u32 = 4096;
    /// As much as a server takes in one blob, unless it is told otherwise.
    const ARTIFACTS: u64 = 4 << 30;
}

impl Default for WorkerSettings {
    fn default() -> Self {
        let processes = Self::PROCESSES;
        Self {
            worker_user: None,
            pass_env: Vec::new(),
            worker_processes: processes,
            max_output: Keep::DEFAULT,
            max_artifacts: Self::ARTIFACTS,
            allow_setuid: false,
        }
    }
}

fn parse_variable(text: &str) -> Result<String, String> {
    match text {
        TOKEN => Err(format!(
            "{TOKEN} is the agent's own key, which code of jobs must not have; give theirs another \
             name, such as JOBS_TOKEN"
        )),
        _ if text.is_empty() || text.contains('=') => {
            Err("give the name of a variable, without its value".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: WorkerSettings,
    }

    #[test]
    fn the_defaults_of_the_flags_are_the_defaults() {
        let parsed = Program::parse_from(["farrow"]).settings;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", WorkerSettings::default()));
    }
}
