//! The story of a worker's death, told to the one whose element it ran.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::job::{ElementError, Runtime};

use crate::lifeline::Ended;
use crate::memory::Excess;
use crate::output::Printed;

/// Lines of standard error that the story quotes.
const QUOTED_LINES: usize = 10;
/// Bytes of standard error that the story quotes.
const QUOTED_BYTES: usize = 2000;

/// Why a worker is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It ended by itself, or something outside ended it.
    Ended(Ended),
    /// It sent what no worker sends, so it was killed.
    Untrusted(String),
    /// An element ran longer than it may, so it was killed.
    TimedOut(Duration),
    /// It used more memory than its job allows, so it was killed.
    TooLarge {
        /// How that was seen.
        excess: Excess,
        /// Bytes that it may use.
        bound: u64,
    },
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(Ended::Exited(0)) => {
                f.write_str("exit status 0: it called quit() or os._exit()")
            }
            Self::Ended(Ended::Exited(status)) => write!(f, "exit status {status}"),
            Self::Ended(Ended::Killed(number)) => write_signal(f, *number),
            Self::Ended(Ended::NotStarted(why)) => write!(f, "it could not be started: {why}"),
            Self::Ended(Ended::Lost) => f.write_str("its supervisor was killed"),
            Self::Untrusted(why) => f.write_str(why),
            Self::TimedOut(limit) => {
                write!(f, "ran longer than timeout = {} s", limit.as_secs_f64())
            }
            Self::TooLarge { excess: Excess::Refused, bound } => {
                write!(f, "it used more than the {} of options.memory", mebibytes(*bound))
            }
            Self::TooLarge { excess: Excess::Found(used), bound } => {
                // Rounded up, so that it is more in words, too.
                let used = used.div_ceil(1 << 20);
                write!(
                    f,
                    "it used {used} MiB, more than the {} of options.memory",
                    mebibytes(*bound)
                )
            }
        }
    }
}

/// A number of bytes, for people.
fn mebibytes(bytes: u64) -> String {
    let (whole, tenths) = (bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20);
    if tenths == 0 { format!("{whole} MiB") } else { format!("{whole}.{tenths} MiB") }
}

fn write_signal(f: &mut fmt::Formatter<'_>, number: i32) -> fmt::Result {
    let Ok(signal) = Signal::try_from(number) else {
        return write!(f, "killed by signal {number}");
    };
    let hint = match signal {
        Signal::SIGSEGV => ": a crash in compiled code",
        Signal::SIGKILL => ": perhaps the machine was out of memory",
        Signal::SIGABRT => ": compiled code gave up",
        _ => "",
    };
    write!(f, "killed by {}{hint}", signal.as_str())
}

/// The error of an element that killed its worker, or ran out of time, `attempts` times.
pub fn element_error(death: &Death, attempts: u32, printed: &Printed) -> ElementError {
    let (kind, message) = match death {
        Death::TimedOut(_) => ("Timeout", format!("{death}, {}", times(attempts))),
        _ => ("WorkerDied", format!("its worker died, {} ({death})", times(attempts))),
    };
    error(kind, message, printed, false)
}

/// The error of a job whose set-up killed its worker, or ran out of time, `attempts` times.
pub fn set_up_error(death: &Death, attempts: u32, printed: &Printed) -> ElementError {
    let steps = "packages, globals, setup, function";
    let times = times(attempts);
    let (kind, story) = match death {
        Death::TimedOut(_) => ("Timeout", format!("setting up the job ({steps}) {death}, {times}")),
        _ => (
            "WorkerDied",
            format!("the worker died while it set up the job ({steps}), {times} ({death})"),
        ),
    };
    error(kind, story, printed, true)
}

/// The error of a job with whose environment, or in whose `workdir`, no worker starts, though others
/// do.
pub fn start_error(
    death: &Death,
    runtime: Runtime,
    workdir: Option<&Path>,
    printed: &Printed,
) -> ElementError {
    let program = match runtime {
        Runtime::R => "`Rscript` or what it loads",
        Runtime::Python => "`python3` or what it loads",
        Runtime::Command => "what workers need",
    };
    let place = match workdir {
        Some(folder) => format!("files, prepare and workdir `{}`", folder.display()),
        None => "files and prepare".to_owned(),
    };
    let story = format!(
        "no worker starts with the job's {place}, though others do: see whether they hide or break \
         {program} ({death})"
    );
    error("PrepareFailed", story, printed, true)
}

fn error(kind: &str, mut message: String, printed: &Printed, fatal: bool) -> ElementError {
    if let Some(last) = last_lines(&printed.stderr.text()) {
        message.push_str("; the last it wrote to standard error:\n");
        message.push_str(last);
    }
    ElementError { kind: kind.to_owned(), message, call: None, traceback: Vec::new(), fatal }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}

/// The last lines of a text, if it has any.
pub fn last_lines(text: &str) -> Option<&str> {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(QUOTED_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let text = &text[start..];
    let line_starts = text.rmatch_indices('\n').map(|(at, _)| at + 1);
    let start = line_starts.take(QUOTED_LINES).nth(QUOTED_LINES - 1).unwrap_or(0);
    Some(&text[start..]).filter(|quoted| !quoted.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_says_what_happened_and_how_often() {
        let told = |ended, attempts| {
            element_error(&Death::Ended(ended), attempts, &Printed::default()).message
        };
        assert_eq!(
            told(Ended::Killed(11), 3),
            "its worker died, 3 times (killed by SIGSEGV: a crash in compiled code)"
        );
        assert_eq!(told(Ended::Exited(3), 1), "its worker died, once (exit status 3)");
        assert!(told(Ended::Exited(0), 2).contains("quit()"));
    }

    #[test]
    fn a_timeout_is_an_error_of_its_own() {
        let death = Death::TimedOut(Duration::from_secs(2));
        let error = element_error(&death, 3, &Printed::default());
        assert_eq!((error.kind.as_str(), error.fatal), ("Timeout", false));
        assert_eq!(error.message, "ran longer than timeout = 2 s, 3 times");
    }

    #[test]
    fn too_much_memory_is_told_with_both_numbers() {
        let told = |used, bound| Death::TooLarge { excess: Excess::Found(used), bound }.to_string();
        let story = "it used 612 MiB, more than the 512 MiB of options.memory";
        assert_eq!(told(612 << 20, 512 << 20), story);
        let story = "it used 513 MiB, more than the 512.5 MiB of options.memory";
        assert_eq!(told((512 << 20) + 600_000, (512 << 20) + (1 << 19)), story);
        let refused = Death::TooLarge { excess: Excess::Refused, bound: 512 << 20 };
        assert_eq!(refused.to_string(), "it used more than the 512 MiB of options.memory");
    }

    #[test]
    fn only_the_last_lines_are_quoted() {
        let text: String = (0..50).map(|n| format!("line {n}\n")).collect();
        let quoted = last_lines(&text).unwrap();
        assert!(quoted.starts_with("line 40\n") && quoted.ends_with("line 49"), "{quoted}");
        assert_eq!(last_lines("one\n"), Some("one"));
        assert_eq!(last_lines("\n"), None);
    }
}
