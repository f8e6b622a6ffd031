//! Every setting of the server: flag, variable, default, one line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::LimitSettings;
use crate::listening::Reach;

/// The settings that are flags.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "server_settings")]
pub struct Settings {
    /// Where to listen.
    #[arg(long, env = "FARROW_LISTEN", default_value = "127.0.0.1:3277", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,

    /// Folder of the database and the blobs [default: farrow in the user's data folder].
    #[arg(long, env = "FARROW_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The PostgreSQL database of this and any number of other servers; without it SQLite in the
    /// data folder. A password belongs into the variable, or into ~/.pgpass.
    #[arg(long, env = "FARROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Folder of the blobs, which all servers of one database share [default: blobs in the data
    /// folder].
    #[arg(long, env = "FARROW_BLOBS", value_name = "DIR")]
    pub blobs: Option<PathBuf>,

    /// Seconds for which an agent's leases are good without a word from it.
    #[arg(long, env = "FARROW_LEASE", default_value_t = 30.0, value_parser = seconds, value_name = "SECONDS")]
    pub lease: f64,

    /// Bytes of a request's body at the most.
    #[arg(long, env = "FARROW_MAX_BODY", default_value_t = 256 << 20, value_name = "BYTES")]
    pub max_body: usize,

    /// Bytes of an uploaded blob at the most.
    #[arg(long, env = "FARROW_MAX_BLOB", default_value_t = 4 << 30, value_name = "BYTES")]
    pub max_blob: u64,

    /// The limits of clients.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// How it is reached.
    #[command(flatten)]
    pub reach: Reach,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.5..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds from 0.5 to 86400")),
    }
}

/// What a server needs to start.
#[derive(Clone)]
pub struct Config {
    /// The flags.
    pub settings: Settings,
    /// The folder of the database and the blobs.
    pub data: PathBuf,
    /// The administrator's token. `None`: the one in `admin.token` in the data folder, which is
    /// made on the first start.
    pub admin_token: Option<String>,
}

impl Config {
    /// The folder of the blobs.
    pub fn blobs(&self) -> PathBuf {
        self.settings.blobs.clone().unwrap_or_else(|| self.data.join("blobs"))
    }

    /// How long leases are good without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.settings.lease)
    }
}
