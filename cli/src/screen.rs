//! What a waiting command shows on standard error: a progress bar on a terminal, and notes.

use std::cell::{OnceCell, RefCell};
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use protocol::job::{JobState, JobStatus};

use crate::human;
use crate::output::remark;
use crate::printable::printable;

/// What to show while a command waits.
#[derive(Args, Clone, Copy, Debug)]
pub struct ScreenArgs {
    /// Show no progress bar, also on a terminal
    #[arg(long, env = "FARROW_NO_PROGRESS", value_parser = FalseyValueParser::new())]
    no_progress: bool,
    /// Write nothing to standard error but errors
    #[arg(short, long, env = "FARROW_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
}

/// Standard error while a command waits.
#[derive(Debug)]
pub struct Screen {
    live: bool,
    quiet: bool,
    /// Drawn from the first status on.
    bar: OnceCell<ProgressBar>,
    /// What a job was last said to wait for.
    told: RefCell<Option<String>>,
}

impl Screen {
    /// With a bar if standard error is a terminal and the command line does not forbid it.
    pub fn new(args: ScreenArgs) -> Self {
        let live = std::io::stderr().is_terminal() && !args.no_progress && !args.quiet;
        Self { live, quiet: args.quiet, bar: OnceCell::new(), told: RefCell::default() }
    }

    /// Without a bar, for commands that print as they read.
    pub fn plain() -> Self {
        Self { live: false, quiet: false, bar: OnceCell::new(), told: RefCell::default() }
    }

    /// Whether somebody looks at it.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Says one line that stays, unless it is to be quiet.
    pub fn note(&self, line: &str) {
        let write = || remark(&format!("{line}\n"));
        match self.bar.get() {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Shows how far a job is.
    pub fn show(&self, status: &JobStatus) {
        if self.live {
            let bar = self.bar.get_or_init(|| new_bar(status.elements.total));
            let name = status.name.as_deref().unwrap_or(status.state.as_str());
            bar.set_prefix(printable(name).into_owned());
            bar.set_length(status.elements.total);
            bar.set_position(status.elements.done + status.elements.failed);
            bar.set_message(message(status));
        } else {
            self.tell_waiting(status.waiting_for.as_deref());
        }
    }

    /// Without a bar: says what a job waits for, whenever that is something else than before.
    fn tell_waiting(&self, reason: Option<&str>) {
        let told = self.told.replace(reason.map(str::to_owned));
        if let Some(reason) = reason.filter(|reason| told.as_deref() != Some(reason)) {
            self.note(&format!("waiting: {reason}"));
        }
    }

    /// Takes the bar away for good.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// A bar of so many elements: of none it would be drawn full before the first is done.
fn new_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style =
        ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {pos}/{len} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// What stands behind the bar: failures, rate, time left, slots at work, or what the job waits for.
fn message(status: &JobStatus) -> String {
    let mut parts = Vec::new();
    if status.elements.failed > 0 {
        parts.push(format!("{} failed", status.elements.failed));
    }
    if !status.state.is_final() {
        parts.extend(status.rate.map(human::rate));
        let remaining = status.remaining.filter(|_| status.waiting_for.is_none());
        parts.extend(remaining.map(|seconds| format!("{} left", human::duration(seconds))));
        match &status.waiting_for {
            Some(reason) => parts.push(format!("waiting: {reason}")),
            None if status.state == JobState::Queued => {
                parts.push("waiting for its turn".to_owned());
            }
            None => parts.push(format!("{} at work", human::count(status.slots, "slot"))),
        }
    }
    parts.join(", ")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The status of a running job, changed.
    pub fn status(changes: &serde_json::Value) -> JobStatus {
        let mut status = serde_json::json!({
            "id": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "runtime": "r", "kind": "map", "state": "running",
            "elements": {"total": 10, "done": 3, "failed": 1, "running": 4, "waiting": 2},
            "slots": 4, "rate": 2.0, "remaining": 3.0, "submitted_at": "2026-11-23T04:00:00Z",
            "started_at": null, "finished_at": null, "plan": [], "options": {}
        });
        for (name, value) in changes.as_object().unwrap() {
            status[name] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_running_job_tells_failures_rate_time_left_and_slots() {
        let message = message(&status(&serde_json::json!({})));
        assert_eq!(message, "1 failed, 2.0/s, 3.0 s left, 4 slots at work");
    }

    #[test]
    fn a_job_that_cannot_run_tells_what_it_waits_for() {
        let changes = serde_json::json!({
            "state": "queued", "rate": null, "remaining": null, "waiting_for": "no agent has runtime r",
            "elements": {"total": 10, "done": 0, "failed": 0, "running": 0, "waiting": 10}
        });
        assert_eq!(message(&status(&changes)), "waiting: no agent has runtime r");
    }
}
