//! `farrow`: a map of your function over your elements on rented machines, whose value is there
//! when you ask. One program: the server, its agents, and the commands that talk to it.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod arguments;
mod blob;
mod client;
mod clock;
mod commands;
mod connection;
mod data_folder;
mod delivery;
mod digest;
mod elements;
mod environment;
mod failure;
mod help;
mod human;
mod live;
mod logging;
mod outcome_text;
mod output;
mod persistence;
mod printable;
mod printer;
mod rounds;
mod screen;
mod serving;
mod signals;
mod submission;
mod table;
mod tagged;
mod value_lines;
mod wait;
mod waiting;

use std::num::NonZero;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::{Exit, Failure};

/// Map a function over elements on any number of machines, and fetch the value when it is there.
#[derive(Parser, Debug)]
#[command(name = "farrow", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Server(commands::server::Server),
    Agent(commands::agent::Agent),
    Up(commands::up::Up),
    Map(Box<commands::map::Map>),
    Call(Box<commands::call::Call>),
    Retry(commands::retry::Retry),
    Status(commands::status::Status),
    Logs(commands::logs::Logs),
    Outcomes(commands::outcomes::Outcomes),
    Artifacts(commands::artifacts::Artifacts),
    Value(commands::value::Value),
    Cancel(commands::cancel::Cancel),
    Delete(commands::delete::Delete),
    Jobs(commands::jobs::Jobs),
    Agents(commands::agents::Agents),
    Drain(commands::drain::Drain),
    Blobs(commands::blobs::Blobs),
    Token(commands::token::Token),
    Audit(commands::audit::Audit),
    #[command(hide = true)]
    Supervise(commands::supervise::Supervise),
    /// Run commands for an agent (an agent starts this by itself)
    #[command(hide = true)]
    RunCommands,
    /// Print the description of the API
    #[command(hide = true)]
    Openapi,
}

impl Command {
    /// Whether code of jobs may run beside it, as the same user, that must not read its keys.
    fn holds_secrets(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Agent(_) | Self::Up(_))
    }
}

/// The command line, as it is parsed.
fn command_line() -> clap::Command {
    help::grouped(environment::without_empty(Cli::command()))
}

fn main() -> ExitCode {
    let words = command_line().get_matches();
    let cli = Cli::from_arg_matches(&words).unwrap_or_else(|error| error.exit());
    if cli.command.holds_secrets() {
        agent::hide_this_process();
    }
    let result = match cli.command {
        Command::Supervise(command) => return command.run(),
        Command::RunCommands => return agent::commands::main(),
        Command::Openapi => commands::openapi::run(),
        command => run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    install_tls_provider()?;
    let runtime = runtime(&command)?;
    let result = runtime.block_on(async {
        match command {
            Command::Server(command) => command.run().await,
            Command::Agent(command) => command.run().await,
            Command::Up(command) => command.run().await,
            Command::Map(command) => command.run().await,
            Command::Call(command) => command.run().await,
            Command::Retry(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Logs(command) => command.run().await,
            Command::Outcomes(command) => command.run().await,
            Command::Artifacts(command) => command.run().await,
            Command::Value(command) => command.run().await,
            Command::Cancel(command) => command.run().await,
            Command::Jobs(command) => command.run().await,
            Command::Agents(command) => command.run().await,
            Command::Drain(command) => command.run().await,
            Command::Delete(command) => command.run().await,
            Command::Blobs(command) => command.run().await,
            Command::Token(command) => command.run().await,
            Command::Audit(command) => command.run().await,
            Command::Supervise(_) | Command::RunCommands | Command::Openapi => Ok(()),
        }
    });
    // A thread that looks a name up, or reads from a file system that does not answer, cannot be stopped.
    runtime.shutdown_timeout(signals::TO_END);
    result
}

/// One provider for the whole process: with two in the build rustls would not choose by itself.
fn install_tls_provider() -> Result<(), Failure> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| Failure::new(Exit::Failed, "a TLS provider is installed already"))
}

/// Servers and agents wait most of the time, for each other, for the database and for workers, and what takes long has
/// threads of its own (writes that others wait for, blobs, an agent's heartbeat). So they have a thread for every second
/// core, because more wake one another for nothing: on two cores a single call takes 0.8 ms of the server's processor
/// time instead of 0.95, and 5 switches of threads instead of 10; many quick elements and 500 clients fare as well.
fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if matches!(command, Command::Agent(_) | Command::Server(_) | Command::Up(_)) {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        builder.worker_threads((cores / 2).max(1));
    }
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start threads: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn words_are_checked_before_anything_is_asked_of_a_server() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(parse("farrow jobs --json --state failed"));
        assert!(!parse("farrow jobs --json=1"));
        assert!(parse("farrow map --runtime r --priority -5 f x"));
        assert!(!parse("farrow map --runtime perl f x"));
        assert!(!parse("farrow cancel not-an-id"));
    }
}
