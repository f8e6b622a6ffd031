//! What the function finds where it runs: the flags about arguments, globals, packages, files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use protocol::job::BlobRef;
use serde_json::value::RawValue;

use super::files;
use super::upload::Upload;
use super::value::GivenValue;
use crate::arguments;
use crate::failure::Failure;
use crate::screen::Screen;

/// Values by name, as they stand in a submission.
pub type Values = BTreeMap<String, Box<RawValue>>;

/// What the function finds where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "What the function finds")]
pub struct Surroundings {
    /// A further argument of the function, the same for every element: JSON, or @FILE, which is
    /// JSON (.json), R's (.rds), a pickle (.pickle, .pkl) or bytes (any other). May be repeated
    #[arg(long, env = "FARROW_JOB_ARG", value_name = "NAME=JSON", value_parser = GivenValue::parse)]
    arg: Vec<(String, GivenValue)>,
    /// A global variable: JSON or @FILE, as --arg; may be repeated
    #[arg(long, env = "FARROW_JOB_GLOBAL", value_name = "NAME=JSON", value_parser = GivenValue::parse)]
    global: Vec<(String, GivenValue)>,
    /// A package to load before the function; may be repeated
    #[arg(long, env = "FARROW_JOB_PACKAGE", value_name = "NAME", value_delimiter = ',')]
    pub package: Vec<String>,
    /// A folder, packed as it is (but .git), or a tar.gz, in which the function works; it is
    /// uploaded if the server does not have it yet
    #[arg(long, env = "FARROW_JOB_FILES", value_name = "DIR|TAR.GZ")]
    files: Option<PathBuf>,
    /// Where the function works on agents that have this folder, such as those on this machine;
    /// `none`: in an empty one [default: the current folder, unless there are --files]
    #[arg(long, env = "FARROW_JOB_WORKDIR", value_name = "DIR|none", conflicts_with = "files")]
    workdir: Option<PathBuf>,
    /// A shell script, or @FILE, run once an agent in the folder of --files: to install packages
    #[arg(long, env = "FARROW_JOB_PREPARE", value_name = "SCRIPT", default_value = "", hide_default_value = true,
          value_parser = arguments::text_or_file)]
    pub prepare: String,
    /// A script, or @FILE, that each worker runs before its first element
    #[arg(long, env = "FARROW_JOB_SETUP", value_name = "SOURCE", default_value = "", hide_default_value = true,
          value_parser = arguments::text_or_file)]
    pub setup: String,
}

impl Surroundings {
    /// The further arguments and the globals; the large ones are added to `upload`.
    pub fn values(&self, upload: &mut Upload) -> Result<(Values, Values), Failure> {
        Ok((values("--arg", &self.arg, upload)?, values("--global", &self.global, upload)?))
    }

    /// Where the function works on agents that have the folder.
    pub fn workdir(&self) -> Result<Option<String>, Failure> {
        let given = match &self.workdir {
            Some(none) if none.as_os_str() == "none" => return Ok(None),
            None if self.files.is_some() => return Ok(None),
            Some(folder) => folder.as_path(),
            None => Path::new("."),
        };
        match given.canonicalize() {
            // One that is no text cannot be said in JSON.
            Ok(folder) => Ok(folder.to_str().map(str::to_owned)),
            // The function may well do without the folder that the command was started in.
            Err(_) if self.workdir.is_none() => Ok(None),
            Err(error) => Err(Failure::usage(format!("--workdir {}: {error}", given.display()))
                .remedy("name a folder that is there, or `none`")),
        }
    }

    /// Packs the folder of files and adds it to `upload`.
    pub fn pack_files(
        &self,
        screen: &Screen,
        upload: &mut Upload,
    ) -> Result<Option<BlobRef>, Failure> {
        let Some(path) = &self.files else { return Ok(None) };
        let packed = files::pack(path)?;
        screen.note(&packed.story);
        let blob = upload.add(packed.story, packed.blob).to_string();
        Ok(Some(BlobRef { blob, encoding: None }))
    }
}

fn values(
    flag: &str,
    given: &[(String, GivenValue)],
    upload: &mut Upload,
) -> Result<Values, Failure> {
    let mut values = Values::new();
    for (name, value) in given {
        let json = value
            .to_json(&format!("{flag} {name}"), upload)
            .map_err(|error| Failure::usage(format!("{flag} {name}: {error}")))?;
        if values.insert(name.clone(), json).is_some() {
            return Err(Failure::usage(format!("{flag} {name} is given twice"))
                .remedy("give each name once"));
        }
    }
    Ok(values)
}
