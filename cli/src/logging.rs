//! What a server or an agent logs, to standard error.

use std::env;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;

/// Logs at level `info`, or as `FARROW_LOG` says: `debug`, `warn,server=debug`.
pub fn start() -> Result<(), Failure> {
    let filter = match env::var("FARROW_LOG") {
        Ok(text) if !text.trim().is_empty() => parse(&text)?,
        _ => Targets::new().with_default(LevelFilter::INFO),
    };
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

fn parse(text: &str) -> Result<Targets, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!("FARROW_LOG: {error}"))
            .remedy("write it as `debug`, or as `warn,server=debug`")
    })
}
