//! Outcomes as people read them: a row each, or an error at length.

use protocol::job::{ElementError, Outcome};
use protocol::size;

use crate::commands::artifacts;
use crate::failure::traceback;
use crate::human;

/// Characters of a value or message that fit a row.
const SHOWN: usize = 60;

/// Lines of what a failed element printed that are shown: the last tell most.
const OUTPUT_LINES: usize = 20;

/// The heading above rows.
pub fn heading() -> String {
    columns("ELEMENT", "STATE", "TOOK", "RUNS", "AGENT", "VALUE OR ERROR")
}

/// One outcome in a line.
pub fn row(outcome: &Outcome) -> String {
    let (state, result) = match (&outcome.error, &outcome.value) {
        (Some(error), _) => ("failed", headline(error)),
        (None, Some(value)) => ("ok", value.get().to_owned()),
        (None, None) => ("ok", String::new()),
    };
    columns(
        &shortened(&element(outcome), 24),
        state,
        &human::duration(outcome.seconds),
        &outcome.attempts.to_string(),
        &shortened(&outcome.agent_name, 20),
        &(shortened(&result, SHOWN) + &files(outcome)),
    )
}

/// What an element has left behind.
fn files(outcome: &Outcome) -> String {
    match &outcome.artifacts[..] {
        [] => String::new(),
        artifacts => format!("  [{}]", shortened(&artifacts::named(artifacts), SHOWN)),
    }
}

/// A failed element's story: its error, its traceback, what it printed.
pub fn at_length(outcome: &Outcome) -> String {
    let mut text = format!(
        "element {}: failed after {} on {}, run {}\n",
        element(outcome),
        human::duration(outcome.seconds),
        outcome.agent_name,
        match outcome.attempts {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        }
    );
    let mut lines = Vec::new();
    if let Some(error) = &outcome.error {
        lines.extend(headline(error).lines().map(str::to_owned));
        lines.extend(error.call.as_ref().map(|call| format!("call: {call}")));
        lines.extend(traceback(error.traceback.iter().map(String::as_str)));
    }
    lines.extend(printed("standard output", &outcome.stdout));
    lines.extend(printed("standard error", &outcome.stderr));
    for condition in &outcome.conditions {
        lines.push(format!("{}: {}", condition.kind, condition.message.trim_end()));
    }
    for artifact in &outcome.artifacts {
        lines.push(format!("artifact: {} ({})", artifact.name, size::of(artifact.bytes)));
    }
    lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    text
}

/// The index, and the name if there is one; under nested plans where it is within its outer element.
fn element(outcome: &Outcome) -> String {
    let mut text = outcome.index.to_string();
    if let Some([outer, inner]) = outcome.nested {
        text.push_str(&format!(" [{outer},{inner}]"));
    }
    if let Some(name) = &outcome.name {
        text.push_str(&format!(" {name}"));
    }
    text
}

fn headline(error: &ElementError) -> String {
    format!("{}: {}", error.kind, error.message.trim_end())
}

fn printed(title: &str, text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let skipped = lines.len().saturating_sub(OUTPUT_LINES);
    let title = match skipped {
        0 => format!("{title}:"),
        n => format!("{title}, without its first {}:", human::count(n as u64, "line")),
    };
    std::iter::once(title).chain(lines[skipped..].iter().map(|line| format!("  {line}"))).collect()
}

/// Rows come as elements are finished, so that columns cannot be as wide as their widest cell.
fn columns(
    element: &str,
    state: &str,
    took: &str,
    runs: &str,
    agent: &str,
    result: &str,
) -> String {
    let row = format!("{element:<10}  {state:<6}  {took:>9}  {runs:>4}  {agent:<12}  {result}");
    format!("{}\n", row.trim_end())
}

/// The first line of a text, cut where it is too long.
fn shortened(text: &str, length: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let is_whole = line.len() == text.trim_end().len() && line.chars().count() <= length;
    match is_whole {
        true => line.to_owned(),
        false => line.chars().take(length - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(changes: &serde_json::Value) -> Outcome {
        let mut outcome = json!({
            "index": 2, "rank": 0, "ok": true, "attempts": 1,
            "agent": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "agent_name": "box", "slot": 0,
            "worker": 1, "started_at": "2026-11-23T10:00:00Z", "seconds": 0.25
        });
        for (name, value) in changes.as_object().unwrap() {
            outcome[name] = value.clone();
        }
        serde_json::from_str(&outcome.to_string()).unwrap()
    }

    #[test]
    fn a_row_tells_an_outcome() {
        let told = |changes| row(&outcome(&changes));
        assert_eq!(
            told(json!({"value": 49})),
            "2           ok          0.2 s     1  box           49\n"
        );
        let failed =
            json!({"ok": false, "name": "a", "error": {"type": "E", "message": "boom\nbang"}});
        assert!(told(failed).ends_with("  E: boom…\n"));
        let left = json!([{"name": "a.png", "digest": "sha256:", "bytes": 2}]);
        assert!(told(json!({"value": 1, "artifacts": left})).ends_with("  1  [a.png]\n"));
        assert!(told(json!({"value": "é".repeat(100)})).ends_with("éé…\n"));
    }

    #[test]
    fn an_error_is_told_with_what_was_printed() {
        let printed: String = (0..30).map(|i| format!("line {i}\n")).collect();
        let text = at_length(&outcome(&json!({
            "ok": false, "name": "gear 4", "nested": [0, 2], "attempts": 3, "stdout": printed,
            "error": {"type": "simpleError", "message": "boom", "call": "f(x)", "traceback": ["f(x)"]},
            "conditions": [{"kind": "warning", "message": "odd\n"}],
            "artifacts": [{"name": "a.png", "digest": "sha256:", "bytes": 2048}]
        })));
        for part in [
            "element 2 [0,2] gear 4: failed after 0.2 s on box, run 3 times\n",
            "  simpleError: boom\n  call: f(x)\n  traceback (innermost call last):\n    f(x)\n",
            "  standard output, without its first 10 lines:\n    line 10\n",
            "  warning: odd\n",
            "  artifact: a.png (2 KiB)\n",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}
