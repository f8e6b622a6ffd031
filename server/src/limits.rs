//! What one client may take, so that there is enough for the others: how often it may ask, how many
//! may wait, how much may be submitted, and how much of the disk is left for results.
//!
//! Limits are for clients. Agents are bounded by their slots, and what they report is always taken
//! for as long as there is a place to put it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock as _, DefaultClock};
use governor::{Quota, RateLimiter};
use protocol::size;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Millis;
use crate::error::ApiError;

/// Bytes below which no body may be limited, so that what an agent cannot send in parts fits: an entry
/// of a job's log, which holds some 64 KiB that JSON may write in six times as many.
pub const SMALLEST_BODY: u64 = 512 << 10;

/// How long a look at the disk is trusted, in milliseconds.
const LOOK: Millis = 1000;

/// The limits that are flags.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "server_limits")]
pub struct LimitSettings {
    /// Bytes of a request's body at the most once it is inflated, if it came compressed.
    #[arg(long, env = "FARROW_MAX_INFLATED_BODY", default_value = "256MiB", value_name = "BYTES",
          value_parser = size::within::<usize>(SMALLEST_BODY..=size::MAX))]
    pub max_inflated_body: usize,

    /// Elements of a submission at the most.
    #[arg(long, env = "FARROW_MAX_ELEMENTS", default_value_t = 100_000_000, value_name = "N")]
    pub max_elements: u64,

    /// Bytes of an element's value at the most; a larger one is an error of its element.
    #[arg(long, env = "FARROW_MAX_OUTCOME", default_value = "256MiB", value_name = "BYTES",
          value_parser = size::within::<u64>(1..=size::MAX))]
    pub max_outcome: u64,

    /// Requests of clients that may wait for jobs at the same time.
    #[arg(long, env = "FARROW_MAX_WAITING", default_value_t = 10_000, value_name = "N")]
    pub max_waiting: usize,

    /// Requests a second that a token may make, those of agents apart; for moments three times as many.
    #[arg(long, env = "FARROW_MAX_REQUESTS", default_value = "2000", value_name = "N")]
    pub max_requests: NonZeroU32,

    /// Jobs a second that a token may submit; for moments ten times as many.
    #[arg(long, env = "FARROW_MAX_SUBMISSIONS", default_value = "2000", value_name = "N")]
    pub max_submissions: NonZeroU32,

    /// Bytes of the disk that submissions leave to results: with less left, none is taken.
    #[arg(long, env = "FARROW_MIN_FREE", default_value = "256MiB", value_name = "BYTES",
          value_parser = size::parse)]
    pub min_free: u64,
}

/// Counts what each token does.
type Rate = RateLimiter<
    String,
    governor::state::keyed::HashMapStateStore<String>,
    DefaultClock,
    governor::middleware::NoOpMiddleware<<DefaultClock as governor::clock::Clock>::Instant>,
>;

/// Keeps clients within the limits.
#[derive(Debug)]
pub struct Limits {
    settings: LimitSettings,
    requests: Rate,
    submissions: Rate,
    waiting: Arc<Semaphore>,
    disk: Disk,
}

impl Limits {
    /// Limits of a server whose data is in `folders`.
    pub fn new(settings: LimitSettings, folders: Vec<PathBuf>) -> Self {
        let per_second = |n: NonZeroU32, bursts: u32| {
            let burst = n.saturating_mul(NonZeroU32::new(bursts).unwrap_or(NonZeroU32::MIN));
            RateLimiter::hashmap(Quota::per_second(n).allow_burst(burst))
        };
        Self {
            requests: per_second(settings.max_requests, 3),
            submissions: per_second(settings.max_submissions, 10),
            waiting: Arc::new(Semaphore::new(settings.max_waiting.min(Semaphore::MAX_PERMITS))),
            disk: Disk { folders, min_free: settings.min_free, looked: Mutex::new(None) },
            settings,
        }
    }

    /// Counts a request of the token `owner`.
    ///
    /// # Errors
    /// 429 when it makes too many.
    pub fn request(&self, owner: &String) -> Result<(), ApiError> {
        self.requests.check_key(owner).map_err(|until| {
            let limit =
                format!("{} requests a second (--max-requests)", self.settings.max_requests);
            too_many(&limit, until.wait_time_from(DefaultClock::default().now()))
        })
    }

    /// Counts `n` jobs that the token `owner` submits, of so many elements each at the most.
    ///
    /// # Errors
    /// 429 when it submits too many, 413 when one of them is too large, 507 when the disk is full.
    pub fn submission(
        &self,
        owner: &String,
        n: usize,
        largest: u64,
        now: Millis,
    ) -> Result<(), ApiError> {
        self.elements(largest)?;
        self.disk.has_room(now)?;
        let Some(n) = u32::try_from(n).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        let limit =
            || format!("{} jobs a second (--max-submissions)", self.settings.max_submissions);
        match self.submissions.check_key_n(owner, n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => {
                Err(too_many(&limit(), until.wait_time_from(DefaultClock::default().now())))
            }
            Err(most) => Err(ApiError::TooMany {
                what: format!("{n} jobs at once"),
                limit: format!("{} at once, for {}", most.0, limit()),
            }),
        }
    }

    /// Refuses to take what is not a result while the disk is nearly full.
    ///
    /// # Errors
    /// 507 then.
    pub fn room(&self, now: Millis) -> Result<(), ApiError> {
        self.disk.has_room(now)
    }

    /// A place among the requests that wait, until it is dropped.
    ///
    /// # Errors
    /// 429 when there is none.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| ApiError::RateLimited {
            limit: format!("{} requests may wait (--max-waiting)", self.settings.max_waiting),
            retry_after: 5,
        })
    }

    /// Refuses more elements than a job may have.
    ///
    /// # Errors
    /// 413 then.
    pub fn elements(&self, n: u64) -> Result<(), ApiError> {
        if n <= self.settings.max_elements {
            return Ok(());
        }
        Err(ApiError::TooMany {
            what: format!("{n} elements"),
            limit: format!("{} (--max-elements)", self.settings.max_elements),
        })
    }

    /// Refuses a value that is larger than one may be.
    ///
    /// # Errors
    /// 413 then.
    pub fn outcome(&self, bytes: u64) -> Result<(), ApiError> {
        if bytes <= self.settings.max_outcome {
            return Ok(());
        }
        Err(ApiError::TooMany {
            what: format!("a value of {bytes} bytes"),
            limit: format!("{} bytes (--max-outcome)", self.settings.max_outcome),
        })
    }

    /// Forgets tokens that have not called for long.
    pub fn tidy(&self) {
        self.requests.retain_recent();
        self.submissions.retain_recent();
    }
}

fn too_many(limit: &str, wait: std::time::Duration) -> ApiError {
    ApiError::RateLimited {
        limit: format!("a token may make {limit}"),
        retry_after: wait.as_secs() + 1,
    }
}

/// How much room is left.
#[derive(Debug)]
struct Disk {
    folders: Vec<PathBuf>,
    min_free: u64,
    /// When it was looked at last, and what was left.
    looked: Mutex<Option<(Millis, u64)>>,
}

impl Disk {
    fn has_room(&self, now: Millis) -> Result<(), ApiError> {
        let free = self.free(now);
        if free >= self.min_free {
            return Ok(());
        }
        Err(ApiError::NoRoom(format!(
            "{free} bytes are left where the server keeps its data, and {} are kept for results \
             (--min-free)",
            self.min_free
        )))
    }

    /// Bytes that are left in the fullest of the folders.
    fn free(&self, now: Millis) -> u64 {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, free)) = looked.filter(|(at, _)| now - at < LOOK) {
            return free;
        }
        let free = self.folders.iter().filter_map(|folder| {
            let disk = nix::sys::statvfs::statvfs(folder).ok()?;
            Some(disk.blocks_available() as u64 * disk.fragment_size() as u64)
        });
        // A folder that cannot be asked is left to those who write in it.
        let free = free.min().unwrap_or(u64::MAX);
        *looked = Some((now, free));
        free
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: LimitSettings,
    }

    fn limits(flags: &[&str]) -> Limits {
        let settings = Program::parse_from([&["farrow"], flags].concat()).settings;
        Limits::new(settings, vec![std::env::temp_dir()])
    }

    fn owner(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn a_token_that_asks_too_often_is_told_when_to_ask_again_and_no_other_suffers() {
        let limits = limits(&["--max-requests", "1"]);
        let asked = (0..4).map(|_| limits.request(&owner("ada"))).collect::<Vec<_>>();
        assert!(asked[..3].iter().all(Result::is_ok));
        let Err(ApiError::RateLimited { limit, retry_after }) = &asked[3] else { panic!() };
        assert!(limit.contains("--max-requests") && (1..=2).contains(retry_after), "{limit}");
        assert!(limits.request(&owner("grace")).is_ok());
    }

    #[test]
    fn jobs_of_a_batch_count_one_by_one() {
        let limits = limits(&["--max-submissions", "1"]);
        let submit = |n| limits.submission(&owner("ada"), n, 1, 0);
        assert!(submit(9).is_ok() && submit(1).is_ok());
        assert!(matches!(submit(1), Err(ApiError::RateLimited { .. })));
        assert!(matches!(submit(11), Err(ApiError::TooMany { .. })), "it can never be taken");
    }

    #[test]
    fn a_submission_of_too_many_elements_is_refused() {
        let limits = limits(&["--max-elements", "10"]);
        assert!(limits.submission(&owner("ada"), 1, 10, 0).is_ok());
        let refused = limits.submission(&owner("ada"), 1, 11, 0);
        let Err(ApiError::TooMany { what, limit }) = refused else { panic!() };
        assert_eq!((what.as_str(), limit.as_str()), ("11 elements", "10 (--max-elements)"));
    }

    #[test]
    fn places_among_those_who_wait_are_given_back() {
        let limits = limits(&["--max-waiting", "1"]);
        let place = limits.place().unwrap();
        assert!(matches!(limits.place(), Err(ApiError::RateLimited { .. })));
        drop(place);
        assert!(limits.place().is_ok());
    }

    #[test]
    fn a_disk_below_its_floor_takes_no_submission_and_is_looked_at_again() {
        let mut limits = limits(&["--min-free", &u64::MAX.to_string()]);
        assert!(matches!(limits.submission(&owner("ada"), 1, 1, 0), Err(ApiError::NoRoom(_))));
        limits.disk.min_free = 1;
        assert!(limits.room(LOOK).is_ok());
        limits.disk.folders = vec!["/proc/none".into()];
        assert!(limits.room(2 * LOOK).is_ok(), "what cannot be asked refuses nothing");
    }
}
