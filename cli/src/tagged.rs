//! What jobs say, as lines with a tag that tells who said them: `[3] fitting`.

use std::collections::HashMap;

use protocol::job::{LogLine, LogSource, LogStream};

/// Unfinished lines that are kept at most; with more, all are ended, so that a job of a million
/// elements which end no line costs no memory.
const UNFINISHED: usize = 1000;

/// Bytes after which an unfinished line is ended.
const LONGEST: usize = 64 << 10;

/// Puts lines together of the pieces in which they arrive.
#[derive(Debug, Default)]
pub struct Tagger {
    unfinished: HashMap<Speaker, String>,
    /// Speakers of unfinished lines in the order in which they began them.
    order: Vec<Speaker>,
}

/// Who says something: lines of two speakers never mix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Speaker {
    tag: String,
    agent: String,
    stream: &'static str,
}

impl Tagger {
    /// Takes what was said next, and gives the lines that it ends.
    pub fn push(&mut self, said: &LogLine) -> Vec<String> {
        let speaker = Speaker::of(said);
        let mut text = self.unfinished.remove(&speaker).unwrap_or_default() + &said.text;
        // A condition is whole as it is signalled, with or without a line's end.
        if matches!(said.stream, LogStream::Message | LogStream::Warning) && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut lines = Vec::new();
        let mut rest = text.as_str();
        while let Some((line, behind)) = rest.split_once('\n') {
            lines.push(speaker.line(line));
            rest = behind;
        }
        if rest.len() > LONGEST {
            lines.push(speaker.line(rest));
            rest = "";
        }
        self.keep(speaker, rest.to_owned());
        if self.unfinished.len() > UNFINISHED {
            lines.extend(self.finish());
        }
        lines
    }

    /// Ends the lines that nobody has ended.
    pub fn finish(&mut self) -> Vec<String> {
        let speakers = std::mem::take(&mut self.order);
        let lines = speakers.into_iter().filter_map(|speaker| {
            let text = self.unfinished.remove(&speaker)?;
            Some(speaker.line(&text))
        });
        lines.collect()
    }

    fn keep(&mut self, speaker: Speaker, rest: String) {
        self.order.retain(|other| *other != speaker);
        if !rest.is_empty() {
            self.order.push(speaker.clone());
            self.unfinished.insert(speaker, rest);
        }
    }
}

impl Speaker {
    fn of(said: &LogLine) -> Self {
        let tag = match (said.source, said.element) {
            (LogSource::Element, Some(index)) => index.to_string(),
            (LogSource::Element, None) => said.agent.clone(),
            // These run once an agent or a worker, so it matters where.
            (LogSource::Prepare, _) => format!("prepare {}", said.agent),
            (LogSource::Setup, _) => format!("setup {}", said.agent),
        };
        let stream = match said.stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Message => "message",
            LogStream::Warning => "warning",
        };
        Self { tag, agent: said.agent.clone(), stream }
    }

    /// A line as a terminal would show it in the end: what a carriage return has put in its place.
    fn line(&self, text: &str) -> String {
        let text = text.trim_end_matches('\r');
        let shown = text.rsplit('\r').next().unwrap_or(text);
        match self.stream {
            "warning" if !shown.starts_with("Warning") => {
                format!("[{}] Warning: {shown}", self.tag)
            }
            _ => format!("[{}] {shown}", self.tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(element: Option<u64>, stream: LogStream, text: &str) -> LogLine {
        LogLine {
            cursor: 1,
            at: "2026-11-23T10:00:00Z".to_owned(),
            agent: "box".to_owned(),
            source: LogSource::Element,
            element,
            stream,
            text: text.to_owned(),
        }
    }

    #[test]
    fn pieces_become_lines_and_speakers_do_not_mix() {
        let mut tagger = Tagger::default();
        let mut push =
            |element, text: &str| tagger.push(&said(Some(element), LogStream::Stdout, text));
        assert!(push(3, "fit").is_empty());
        assert_eq!(push(4, "one\ntwo\nthr"), ["[4] one", "[4] two"]);
        assert_eq!(push(3, "ting\n"), ["[3] fitting"]);
        assert!(push(5, "last").is_empty());
        assert_eq!(push(6, "10%\r50%\r100%\r\n"), ["[6] 100%"]);
        assert_eq!(tagger.finish(), ["[4] thr", "[5] last"]);
        assert!(tagger.finish().is_empty());
    }

    #[test]
    fn conditions_are_whole_and_a_warning_is_called_so() {
        let mut tagger = Tagger::default();
        assert_eq!(tagger.push(&said(Some(0), LogStream::Message, "hello\n")), ["[0] hello"]);
        assert_eq!(tagger.push(&said(None, LogStream::Warning, "odd")), ["[box] Warning: odd"]);
    }

    #[test]
    fn of_what_runs_once_an_agent_the_agent_is_named() {
        let mut line = said(None, LogStream::Stderr, "installing\n");
        line.source = LogSource::Prepare;
        assert_eq!(Tagger::default().push(&line), ["[prepare box] installing"]);
    }

    #[test]
    fn unfinished_lines_do_not_grow_without_bound() {
        let mut tagger = Tagger::default();
        let lines = (0..=UNFINISHED as u64)
            .map(|element| tagger.push(&said(Some(element), LogStream::Stdout, "x")).len());
        assert_eq!(lines.sum::<usize>(), UNFINISHED + 1);
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(tagger.push(&said(Some(0), LogStream::Stdout, &long)).len(), 1);
    }
}
