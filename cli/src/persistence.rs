//! Asking again: with growing pauses, and without hiding it.

use std::time::Duration;

use crate::client::{CallError, Outlook};
use crate::screen::Screen;

/// How long to ask again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patience {
    /// For some ten seconds: before the first answer, the address may be wrong.
    Brief,
    /// For ever: the server was there, and the job is safe with it.
    Endless,
}

/// Calls until the call succeeds, until its error is one that does not pass, or until patience
/// ends. A server that stumbles over the same request each time is asked again briefly only.
pub async fn persist<T>(
    screen: &Screen,
    patience: Patience,
    mut call: impl AsyncFnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let mut again = Again::new(patience);
    let mut told = false;
    loop {
        let error = match call().await {
            Ok(answer) => {
                if told {
                    screen.note("the server answers again");
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        let Some(pause) = again.pause(error.outlook()) else { return Err(error) };
        if !told {
            screen.note(&format!("{error}; trying again"));
            told = true;
        }
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait before the next attempt, and whether there is one.
struct Again {
    passing: Pauses,
    doubtful: Pauses,
}

impl Again {
    fn new(patience: Patience) -> Self {
        Self { passing: Pauses::new(patience), doubtful: Pauses::new(Patience::Brief) }
    }

    fn pause(&mut self, outlook: Outlook) -> Option<Duration> {
        match outlook {
            Outlook::Passing => self.passing.next(),
            Outlook::Doubtful => self.doubtful.next(),
            Outlook::Hopeless => None,
        }
    }
}

/// A tenth of a second, then each twice the one before, up to five seconds.
struct Pauses {
    next: Duration,
    left: usize,
}

impl Pauses {
    const LONGEST: Duration = Duration::from_secs(5);

    fn new(patience: Patience) -> Self {
        let left = match patience {
            Patience::Brief => 7,
            Patience::Endless => usize::MAX,
        };
        Self { next: Duration::from_millis(100), left }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_before_the_first_answer_is_some_ten_seconds() {
        let total: Duration = Pauses::new(Patience::Brief).sum();
        assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&total), "{total:?}");
    }

    #[test]
    fn pauses_grow_to_five_seconds_and_go_on() {
        let mut pauses = Pauses::new(Patience::Endless);
        assert_eq!(pauses.next(), Some(Duration::from_millis(100)));
        assert_eq!(pauses.next(), Some(Duration::from_millis(200)));
        assert_eq!(pauses.nth(1000), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_server_that_stumbles_each_time_is_not_asked_for_ever() {
        let mut again = Again::new(Patience::Endless);
        assert!((0..1000).all(|_| again.pause(Outlook::Passing).is_some()));
        let stumbles = std::iter::from_fn(|| again.pause(Outlook::Doubtful)).take(1000).count();
        assert!(stumbles < 10, "{stumbles}");
        assert_eq!(again.pause(Outlook::Hopeless), None);
    }
}
