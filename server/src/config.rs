//! Every setting of the server: flag, variable, default, one line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use protocol::size;

use crate::blobs::BlobsAt;
use crate::inspection::folder_of_blobs;
use crate::limits::{LimitSettings, SMALLEST_BODY};
use crate::listening::Reach;

/// The settings that are flags.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "server_settings")]
pub struct Settings {
    /// Where to listen.
    #[arg(long, env = "FARROW_LISTEN", default_value = "127.0.0.1:3277", value_parser = address, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,

    /// Folder of the database and the blobs [default: farrow in the user's data folder].
    #[arg(long, env = "FARROW_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The PostgreSQL database of this and any number of other servers; without it SQLite in the
    /// data folder. A password belongs into the variable, or into ~/.pgpass.
    #[arg(long, env = "FARROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Where large payloads (blobs) are, which all servers of the database share. s3://BUCKET/PREFIX:
    /// a bucket of S3 or of storage that speaks like it; keys, region and endpoint are given by
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL, or come with the
    /// instance. Or with --database-url a folder: local, or on a file system that keeps locks (flock)
    /// and hard links between machines [default: blobs in the data folder].
    #[arg(long, env = "FARROW_BLOBS", value_name = "PLACE")]
    pub blobs: Option<BlobsAt>,

    /// Seconds for which an agent's leases are good without a word from it.
    #[arg(long, env = "FARROW_LEASE", default_value_t = 30.0, value_parser = seconds, value_name = "SECONDS")]
    pub lease: f64,

    /// Bytes of a request's body at the most.
    #[arg(long, env = "FARROW_MAX_BODY", default_value = "256MiB", value_name = "BYTES",
          value_parser = size::within::<usize>(SMALLEST_BODY..=size::MAX))]
    pub max_body: usize,

    /// Bytes of an uploaded blob at the most.
    #[arg(long, env = "FARROW_MAX_BLOB", default_value = "4GiB", value_name = "BYTES",
          value_parser = size::within::<u64>(1..=size::MAX))]
    pub max_blob: u64,

    /// How long jobs are kept after they have ended, such as 30d or 12h [default: for ever].
    #[arg(long, env = "FARROW_KEEP", value_parser = duration, value_name = "DURATION")]
    pub keep: Option<Duration>,

    /// How long a blob is kept to which no job refers: time to submit one that does.
    #[arg(long, env = "FARROW_BLOB_GRACE", default_value = "24h", value_parser = duration, value_name = "DURATION")]
    pub blob_grace: Duration,

    /// How long entries of the audit log are kept, such as 365d or 12h.
    #[arg(long, env = "FARROW_AUDIT_KEEP", default_value = "365d", value_parser = duration, value_name = "DURATION")]
    pub audit_keep: Duration,

    /// The limits of clients.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// How it is reached.
    #[command(flatten)]
    pub reach: Reach,
}

/// The units of durations, and their seconds.
const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];

/// Reads a number and its unit: `90s`, `30m`, `12h`, `30d`, `2w`.
///
/// # Errors
/// What is wrong with `text`, and what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = UNITS.iter().find(|(name, _)| *name == unit).and_then(|(_, seconds)| {
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(*seconds))
    });
    match seconds {
        Some(seconds @ 1..=3_155_760_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "{text:?} is no duration: give a number and a unit, from 1s to 100 years, such as 90s, \
             30m, 12h, 30d or 2w"
        )),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
        let port = port.parse::<u16>().unwrap_or(protocol::DEFAULT_PORT);
        format!(
            "not an IP address and a port, such as 127.0.0.1:{port} for this machine only, [::1]:{port} \
             for the same by IPv6, or 0.0.0.0:{port} for all addresses"
        )
    })
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
    /// Where the blobs are.
    pub fn blobs(&self) -> BlobsAt {
        let in_data = || BlobsAt::Folder(folder_of_blobs(&self.data));
        self.settings.blobs.clone().unwrap_or_else(in_data)
    }

    /// How long leases are good without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.settings.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_a_host_to_listen_on_is_told_an_address() {
        assert_eq!(address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        for text in ["localhost:4010", "4010", "localhost", "127.0.0.1", "1.2.3.4:99999"] {
            assert!(address(text).unwrap_err().contains("127.0.0.1:"), "{text}");
        }
        for text in ["localhost:4010", "4010"] {
            assert!(address(text).unwrap_err().contains("127.0.0.1:4010"), "{text}");
        }
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in [
            ("1s", 1),
            ("90s", 90),
            ("30m", 1800),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "0s",
            "30",
            "d",
            "-1d",
            "1.5h",
            "1 h",
            "30D",
            "3y",
            "99999999999999999999d",
            "9999999w",
        ] {
            assert!(duration(text).unwrap_err().contains("such as 90s"), "{text}");
        }
    }
}
