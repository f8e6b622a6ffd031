//! What the server counts, for Prometheus.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::AppState;
use crate::store::agents::{self, Totals};

/// The text format of Prometheus.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Says what this server counts, in the text format of Prometheus.
///
/// Counts start anew with the
/// process.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain",
            example = "# HELP farrow_elements_accepted_total Outcomes that were accepted.\n# TYPE farrow_elements_accepted_total counter\nfarrow_elements_accepted_total 1000\n")
    ))]
pub async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let totals = state.store.read(|tx| Box::pin(async move { agents::totals(tx).await })).await?;
    let mut text = Text::default();
    of_agents(&mut text, &state, &totals);
    of_jobs(&mut text, &state);
    of_blobs(&mut text, &state);
    of_database(&mut text, &state);
    of_process(&mut text, &state);
    Ok(([(CONTENT_TYPE, MEDIA_TYPE)], text.0).into_response())
}

fn of_agents(text: &mut Text, state: &AppState, totals: &Totals) {
    let by_state = [("state", "live", totals.live), ("state", "draining", totals.draining)];
    text.family("farrow_agents", "gauge", "Agents that are there, by state.", &by_state);
    text.one("farrow_slots", "gauge", "Slots of all live agents.", totals.slots);
    text.one("farrow_slots_busy", "gauge", "Slots that hold a lease.", totals.busy);
    text.one(
        "farrow_agents_waiting",
        "gauge",
        "Agents that wait at this server for work.",
        state.dispatcher.n_waiting(),
    );
}

fn of_jobs(text: &mut Text, state: &AppState) {
    let metrics = &state.metrics;
    text.one(
        "farrow_jobs_submitted_total",
        "counter",
        "Jobs that were submitted.",
        metrics.jobs_submitted.get(),
    );
    text.one(
        "farrow_jobs_ended_total",
        "counter",
        "Jobs that were resolved, failed or cancelled.",
        metrics.jobs_ended.get(),
    );
    text.one(
        "farrow_elements_accepted_total",
        "counter",
        "Outcomes that were accepted.",
        metrics.elements_accepted.get(),
    );
    text.one(
        "farrow_requests_waiting",
        "gauge",
        "Requests of clients that wait for a job.",
        metrics.n_waiting(),
    );
    let requests: Vec<_> = metrics.requests().map(|(class, n)| ("status", class, n)).collect();
    text.family(
        "farrow_requests_total",
        "counter",
        "Requests that were answered, by class of status.",
        &requests,
    );
}

fn of_blobs(text: &mut Text, state: &AppState) {
    text.one(
        "farrow_blob_sent_bytes_total",
        "counter",
        "Bytes of blobs that passed through this server to those who read them.",
        state.metrics.blob_bytes_sent.get(),
    );
    text.one(
        "farrow_blob_redirects_total",
        "counter",
        "Requests for blobs that were answered with their address in the storage.",
        state.metrics.blobs_redirected.get(),
    );
}

fn of_database(text: &mut Text, state: &AppState) {
    let writer = state.store.writer_stats();
    text.one(
        "farrow_database_commits_total",
        "counter",
        "Transactions that the writer has committed.",
        writer.commits.get(),
    );
    text.one(
        "farrow_database_failures_total",
        "counter",
        "Transactions of the writer that were not committed.",
        writer.failures.get(),
    );
    text.one(
        "farrow_database_operations_total",
        "counter",
        "Operations in them: by commit, how many share one flush to the disk.",
        writer.operations.get(),
    );
    text.one(
        "farrow_database_operations_waiting",
        "gauge",
        "Operations that wait for a transaction: many for long, and the disk or the database is slow.",
        state.store.n_writes_waiting() as u64,
    );
}

fn of_process(text: &mut Text, state: &AppState) {
    if let Some(bytes) = resident_bytes() {
        let help = "Memory of this process that is in RAM.";
        text.one("process_resident_memory_bytes", "gauge", help, bytes);
    }
    let uptime = state.clock.uptime().as_secs();
    text.one("farrow_uptime_seconds", "gauge", "Seconds since this process started.", uptime);
}

/// The line `VmRSS` of `/proc/self/status`, where there is such a file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A text in Prometheus's format.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A metric of one number.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        // Writing to a string does not fail; so below.
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// A metric of a number for each value of a label.
    fn family(&mut self, name: &str, kind: &str, help: &str, values: &[(&str, &str, u64)]) {
        self.head(name, kind, help);
        for (label, of, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{of}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}
