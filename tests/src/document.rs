//! The examples of a document in Markdown, as one shell session.
//!
//! A block marked `sh` is run, in the same shell as those before it. A block marked `text` or `json`
//! that comes behind it, with nothing between but text, is what it prints. A comment above a block
//! says what is different about it:
//!
//! ```text
//! <!-- not run: why -->       it is not run; its syntax is still checked
//! <!-- exits 1 -->            it ends with this code
//! <!-- example -->            a `json` or `text` block that nobody prints
//! ```

/// A block that is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The line of the document on which it begins, from 1.
    pub line: usize,
    /// What is typed.
    pub script: String,
    /// Why it is not run, if it is not.
    pub not_run: Option<String>,
    /// The code with which it ends.
    pub exit_code: i32,
    /// What it prints to standard output, and in which language.
    pub output: Option<(Language, String)>,
}

/// What an output is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Lines.
    Text,
    /// JSON, one document or several.
    Json,
}

/// The examples of a document, in order.
///
/// # Panics
/// When an output belongs to no example, or a comment is not understood.
pub fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut mark: Option<&str> = None;
    let mut lines = document.lines().enumerate();
    while let Some((idx, line)) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->"))
        {
            mark = Some(comment);
            continue;
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let body = body.join("\n");
        let (line, mark) = (idx + 1, mark.take());
        match (info, mark) {
            ("sh", mark) => examples.push(example(line, body, mark)),
            ("text" | "json", Some("example")) => {}
            ("text" | "json", None) => {
                let language = if info == "json" { Language::Json } else { Language::Text };
                let before =
                    examples.last_mut().filter(|e| e.output.is_none() && e.not_run.is_none());
                let before = before.unwrap_or_else(|| panic!("line {line}: nothing prints this"));
                before.output = Some((language, body));
            }
            (_, None) => {}
            (_, Some(mark)) => panic!("line {line}: what does {mark:?} mean here?"),
        }
    }
    examples
}

fn example(line: usize, script: String, mark: Option<&str>) -> Example {
    let example = Example { line, script, ..Example::default() };
    let Some(mark) = mark else { return example };
    if let Some(reason) = mark.strip_prefix("not run: ") {
        return Example { not_run: Some(reason.to_owned()), ..example };
    }
    let code = mark.strip_prefix("exits ").and_then(|code| code.parse().ok());
    let exit_code = code.unwrap_or_else(|| panic!("line {line}: what does {mark:?} mean?"));
    Example { exit_code, ..example }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_with_what_they_print() {
        let document = "# T\n```sh\na\nb\n```\nprints:\n```text\nc\n```\n<!-- not run: a whim -->\n\
                        ```sh\nd\n```\n<!-- exits 3 -->\n```sh\ne\n```\n```json\n1\n```\n\
                        <!-- example -->\n```json\n2\n```\n```r\nx\n```\n";
        let found = examples(document);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].line, found[0].script.as_str()), (2, "a\nb"));
        assert_eq!(found[0].output, Some((Language::Text, "c".to_owned())));
        assert_eq!(found[1].not_run.as_deref(), Some("a whim"));
        assert_eq!(found[2].exit_code, 3);
        assert_eq!(found[2].output, Some((Language::Json, "1".to_owned())));
    }

    #[test]
    #[should_panic(expected = "nothing prints this")]
    fn an_output_without_its_example_is_a_mistake() {
        examples("```text\nc\n```\n");
    }
}
