//! Why the program ends without having done what was asked: an exit code, what happened, and what
//! to do about it.

use std::process::ExitCode;

use protocol::{JobId, Problem};
use serde_json::Value;

use crate::output::remark;

/// The table of exit codes, as `farrow --help` and the waiting commands show it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done; of `map`, `call`, `retry` and `value`: the job is resolved and its value was written
  1    the job failed, or a server or agent could not go on, or a file could not be written
  2    the command line is wrong
  3    the server cannot be reached, or it refuses
  4    the job was cancelled
  5    not there: the value with `value --no-wait`, or a blob
  130  interrupted; a job that was submitted goes on
  141  whoever read standard output has gone";

/// What the exit code tells a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The job failed, or a server or agent could not go on.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The server cannot be reached, or it refuses.
    Server = 3,
    /// The job was cancelled.
    Cancelled = 4,
    /// What was asked for is not there.
    NotThere = 5,
    /// Ctrl-C.
    Interrupted = 130,
    /// Whoever read our output has gone; as if SIGPIPE had ended us.
    OutputClosed = 141,
}

/// Lines of a traceback that are printed: the innermost calls tell most.
const TRACEBACK_LINES: usize = 12;

/// Types of errors that farrow itself gives, where nothing in the code was wrong.
const OF_FARROW: [&str; 10] = [
    "AgentLost",
    "ArtifactsNotKept",
    "ArtifactsTooLarge",
    "CommandFailed",
    "PrepareFailed",
    "Timeout",
    "TooLarge",
    "Unreadable",
    "Untranslatable",
    "WorkerDied",
];

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    details: Vec<String>,
    remedies: Vec<String>,
    is_of_code: bool,
}

impl Failure {
    /// A failure that says what happened, to what.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        let (details, remedies) = (Vec::new(), Vec::new());
        Self { exit, what: what.into(), details, remedies, is_of_code: false }
    }

    /// A command line that cannot be obeyed.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Says also what to do; again for another remedy.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Whether a job failed because its code raised an error at an element.
    pub fn is_of_code(&self) -> bool {
        self.is_of_code
    }

    /// Says more, in lines of their own.
    pub fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// The job failed: which element, its message, the end of its traceback, and what to do.
    pub fn of_job(problem: &Problem, id: JobId) -> Self {
        let failure = Self::new(Exit::Failed, &problem.detail);
        let Some(element) = &problem.element else {
            return failure.remedy(format!("`farrow retry {id}` runs it again"));
        };
        let kind = element.get("type").and_then(Value::as_str);
        let shows = match kind {
            Some("PrepareFailed") => format!("`farrow logs {id} --source prepare` shows all of it"),
            _ => format!("`farrow outcomes {id} --failed` shows what failed and what it printed"),
        };
        let is_fatal = element.get("fatal").and_then(Value::as_bool) == Some(true);
        let remedy = match kind {
            Some("PrepareFailed") => format!("{shows}; `farrow retry {id}` tries again"),
            _ if is_fatal => format!(
                "{shows}; if the job is at fault, submit it anew: `farrow retry {id}` runs it as it is"
            ),
            _ => format!("{shows}; `farrow retry {id}` runs again what failed or is missing"),
        };
        let is_of_code = !is_fatal && !kind.is_some_and(|kind| OF_FARROW.contains(&kind));
        Self { is_of_code, ..failure }.details(element_story(element)).remedy(remedy)
    }

    /// A problem that the server answered with, and the fields it names.
    pub fn of_problem(problem: &Problem) -> Self {
        let fields =
            problem.errors.iter().map(|error| format!("{}: {}", error.field, error.message));
        Self::new(Exit::Server, &problem.detail)
            .details(fields.filter(|line| !problem.detail.contains(line.as_str())))
    }

    /// Standard output cannot be written.
    pub fn output(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::OutputClosed, ""),
            _ => Self::new(Exit::Failed, format!("cannot write the output: {error}")),
        }
    }

    /// Tells standard error what happened, and the shell the code.
    pub fn report(&self) -> ExitCode {
        if !self.what.is_empty() {
            remark(&self.text());
        }
        ExitCode::from(self.exit as u8)
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.what);
        for line in self.details.iter().flat_map(|detail| detail.lines()) {
            text.push_str(&format!("  {line}\n"));
        }
        for remedy in &self.remedies {
            text.push_str(&format!("hint: {remedy}\n"));
        }
        text
    }
}

/// What a failed element has to tell beyond the problem's detail, which names its index and its
/// message: its name, the error's type, the call, the end of the traceback.
fn element_story(element: &Value) -> Vec<String> {
    let text = |member: &str| element.get(member).and_then(Value::as_str);
    let mut lines = Vec::new();
    for title in ["name", "type", "call"] {
        lines.extend(text(title).map(|text| format!("{title}: {text}")));
    }
    let frames = element.get("traceback").and_then(Value::as_array).into_iter().flatten();
    lines.extend(traceback(frames.filter_map(Value::as_str)));
    lines
}

/// The end of a traceback, under a title.
pub fn traceback<'a>(frames: impl Iterator<Item = &'a str>) -> Vec<String> {
    let frames: Vec<_> = frames.flat_map(str::lines).collect();
    if frames.is_empty() {
        return Vec::new();
    }
    let skipped = frames.len().saturating_sub(TRACEBACK_LINES);
    let mut lines = vec!["traceback (innermost call last):".to_owned()];
    if skipped > 0 {
        lines.push(format!("  … {skipped} lines before"));
    }
    lines.extend(frames[skipped..].iter().map(|line| format!("  {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_names_its_element_and_its_traceback() {
        let problem: Problem = serde_json::from_value(serde_json::json!({
            "type": "urn:farrow:job-failed", "title": "The job failed", "status": 409,
            "detail": "element 3 failed: boom",
            "element": {"index": 3, "name": "gear 4", "type": "ValueError", "message": "boom",
                        "traceback": ["File \"<function>\", line 2, in f"]}
        }))
        .unwrap();
        let id = JobId::new();
        let text = Failure::of_job(&problem, id).text();
        assert!(text.starts_with("error: element 3 failed: boom\n"), "{text}");
        assert!(text.contains("  name: gear 4\n  type: ValueError\n"), "{text}");
        assert!(text.contains("line 2, in f"), "{text}");
        assert!(text.contains(&format!("farrow retry {id}")), "{text}");
    }

    #[test]
    fn of_a_long_traceback_the_end_is_told() {
        let frames: Vec<_> = (0..100).map(|i| format!("frame {i}")).collect();
        let lines = traceback(frames.iter().map(String::as_str));
        assert_eq!(lines[1], "  … 88 lines before");
        assert_eq!((lines[2].as_str(), lines[13].as_str()), ("  frame 88", "  frame 99"));
        assert!(traceback(std::iter::empty()).is_empty());
    }

    #[test]
    fn each_exit_code_is_in_the_table() {
        use Exit::*;
        for exit in [Failed, Usage, Server, Cancelled, NotThere, Interrupted, OutputClosed] {
            let line = format!("\n  {:<5}", exit as u8);
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn an_error_ends_with_what_to_do() {
        let text = Failure::usage("no elements").remedy("give --file").text();
        assert_eq!(text, "error: no elements\nhint: give --file\n");
    }
}
