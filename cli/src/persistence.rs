//! Asking again: with growing pauses, and without hiding it.

use std::time::Duration;

use crate::client::CallError;
use crate::screen::Screen;

/// How long to ask again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patience {
    /// For some ten seconds: before the first answer, the address may be wrong.
    Brief,
    /// For ever: the server was there, and the job is safe with it.
    Endless,
}

/// Calls until the call succeeds, until `may_repeat` says that its error is no passing one, or
/// until patience ends.
pub async fn persist<T>(
    screen: &Screen,
    patience: Patience,
    may_repeat: impl Fn(&CallError) -> bool,
    mut call: impl AsyncFnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let mut pauses = pauses(patience);
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
        let Some(pause) = Some(()).filter(|()| may_repeat(&error)).and_then(|()| pauses.next())
        else {
            return Err(error);
        };
        if !told {
            screen.note(&format!("{error}; trying again"));
            told = true;
        }
        tokio::time::sleep(pause).await;
    }
}

/// A tenth of a second, then each twice the one before, up to five seconds.
fn pauses(patience: Patience) -> impl Iterator<Item = Duration> {
    let times = match patience {
        Patience::Brief => 7,
        Patience::Endless => usize::MAX,
    };
    let longest = Duration::from_secs(5);
    std::iter::successors(Some(Duration::from_millis(100)), move |pause| {
        Some((*pause * 2).min(longest))
    })
    .take(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_before_the_first_answer_is_some_ten_seconds() {
        let total: Duration = pauses(Patience::Brief).sum();
        assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&total), "{total:?}");
    }

    #[test]
    fn pauses_grow_to_five_seconds_and_go_on() {
        let mut pauses = pauses(Patience::Endless);
        assert_eq!(pauses.next(), Some(Duration::from_millis(100)));
        assert_eq!(pauses.next(), Some(Duration::from_millis(200)));
        assert_eq!(pauses.nth(1000), Some(Duration::from_secs(5)));
    }
}
