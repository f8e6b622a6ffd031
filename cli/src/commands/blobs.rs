//! `farrow blobs`: files that jobs refer to by what they hold.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::size;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::blob::Blob;
use crate::client::{CallError, Client};
use crate::connection::Connection;
use crate::delivery::{Delivery, Sink};
use crate::digest::Digest;
use crate::failure::{EXIT_CODES, Exit, Failure};
use crate::output::OutputArgs;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;
use crate::submission::upload;
use crate::wait::unless_interrupted;

const EXAMPLES: &str = "\
Examples:
  farrow blobs put cases.ndjson
  farrow map --runtime r --blob sha256:e3b0c442… '~ nrow(.x)'
  farrow blobs get sha256:e3b0c442… --out cases.ndjson
  farrow blobs has sha256:e3b0c442… && echo there

A blob is named by the SHA-256 of its bytes, with or without `sha256:`.
";

/// Upload, fetch and look for blobs: files that jobs refer to
#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub struct Blobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Upload files, unless they are there, and print their digests
    Put(Put),
    /// Fetch a blob
    Get(Get),
    /// Say which blobs are there; exit with code 5 if one is not
    Has(Has),
}

#[derive(Args, Debug)]
struct Put {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct Get {
    /// The blob
    digest: Digest,
    /// Write it to a file, which is there only once it is whole
    #[arg(short, long, env = "FARROW_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct Has {
    /// The blobs
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// A file that is on the server.
#[derive(Serialize)]
struct Uploaded {
    digest: String,
    size: u64,
    file: PathBuf,
    /// Whether it had to be sent.
    new: bool,
}

/// Whether a blob is on the server.
#[derive(Serialize)]
struct Known {
    digest: String,
    here: bool,
}

impl Blobs {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Put(put) => put.run().await,
            Command::Get(get) => get.run().await,
            Command::Has(has) => has.run().await,
        }
    }
}

impl Put {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut uploaded = Vec::new();
        for file in self.files {
            let blob = Blob::of_file(&file).map_err(|error| {
                Failure::usage(format!("cannot read {}: {error}", file.display()))
            })?;
            let new = upload::send(&client, &screen, &blob).await?;
            uploaded.push(Uploaded { digest: blob.digest.to_string(), size: blob.size, file, new });
        }
        self.output.print(&uploaded, |uploaded| uploaded.iter().map(line).collect())
    }
}

fn line(uploaded: &Uploaded) -> String {
    let was_there = if uploaded.new { "" } else { ", was there" };
    let size = size::of(uploaded.size);
    format!("{}  {} ({size}{was_there})\n", uploaded.digest, uploaded.file.display())
}

impl Get {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let delivery = Delivery { json: false, out: self.out };
        let fetching = fetch(&client, &screen, &self.digest, || delivery.open());
        unless_interrupted(fetching, &screen, "fetch it again").await
    }
}

/// Fetches a blob into what is opened once it is there.
pub async fn fetch(
    client: &Client,
    screen: &Screen,
    digest: &Digest,
    open: impl FnOnce() -> Result<Sink, Failure>,
) -> Result<(), Failure> {
    let asked = persist(screen, Patience::Brief, async || client.blob(digest).await);
    let mut body = asked.await.map_err(not_there)?;
    let mut sink = open()?;
    let mut hash = Sha256::new();
    while let Some(bytes) = body.next().await? {
        hash.update(&bytes);
        sink.write_all(&bytes).map_err(|error| Failure::output(&error))?;
    }
    check(digest, &Digest::finish(hash), sink)
}

/// What came is what was asked for, or it does not get its name.
fn check(asked: &Digest, came: &Digest, sink: Sink) -> Result<(), Failure> {
    match asked == came {
        true => sink.finish(),
        false => Err(Failure::new(
            Exit::Failed,
            format!("what the server sent is another blob, {came}: it was damaged"),
        )
        .remedy("fetch it again; if it stays so, the server's blob is damaged: upload it anew")),
    }
}

fn not_there(error: CallError) -> Failure {
    match error.status() {
        Some(404) => Failure::new(Exit::NotThere, error.to_string()),
        _ => error.into(),
    }
}

impl Has {
    async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut known = Vec::new();
        for digest in &self.digests {
            let asked = persist(&screen, Patience::Brief, async || client.has_blob(digest).await);
            known.push(Known { digest: digest.to_string(), here: asked.await? });
        }
        self.output.print(&known, |known| {
            let word = |here| if here { "here" } else { "not here" };
            known.iter().map(|blob| format!("{}  {}\n", blob.digest, word(blob.here))).collect()
        })?;
        match known.iter().all(|blob| blob.here) {
            true => Ok(()),
            // The list has said it.
            false => Err(Failure::new(Exit::NotThere, "")),
        }
    }
}
