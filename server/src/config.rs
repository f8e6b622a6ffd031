//! Every setting of the server: flag, variable, default, one line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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

    /// Seconds for which an agent's leases are good without a word from it.
    #[arg(long, env = "FARROW_LEASE", default_value_t = 30.0, value_parser = seconds, value_name = "SECONDS")]
    pub lease: f64,

    /// Bytes of a request's body at the most.
    #[arg(long, env = "FARROW_MAX_BODY", default_value_t = 256 << 20, value_name = "BYTES")]
    pub max_body: usize,

    /// Bytes of an uploaded blob at the most.
    #[arg(long, env = "FARROW_MAX_BLOB", default_value_t = 4 << 30, value_name = "BYTES")]
    pub max_blob: u64,

    /// How long entries of the audit log are kept: `365d`, `12h`.
    #[arg(long, env = "FARROW_AUDIT_KEEP", default_value = "365d", value_parser = time_span, value_name = "TIME")]
    pub audit_keep: Duration,
}

/// Reads a span of time: a whole number and its unit, `90s`, `15m`, `12h`, `30d`, `2w`.
///
/// # Errors
/// What is wrong with `text`.
pub fn time_span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit = text.chars().last().unwrap_or_default();
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => 0,
    };
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u32>().ok());
    match number {
        Some(number) if number > 0 && seconds > 0 => {
            Ok(Duration::from_secs(u64::from(number) * seconds))
        }
        _ => Err("not a span of time such as 90s, 15m, 12h, 30d or 2w".to_owned()),
    }
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
    /// How long leases are good without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs_f64(self.settings.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_units() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(time_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "30", "d", "0d", "-1d", "1.5d", "30 d", "30y", "4294967296s", "d30é"] {
            assert!(time_span(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }
}
