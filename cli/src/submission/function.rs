//! Which words of the command line are the function, and which are elements.

use protocol::job::{Function, Runtime};

use crate::arguments::text_or_file;
use crate::failure::Failure;

/// What stands between a command and its elements, as GNU parallel has it.
const ELEMENTS_FOLLOW: &str = ":::";

/// Before GNU parallel's files of elements, for which we have a flag.
const FILES_FOLLOW: &str = "::::";

/// A function and the elements that were given as arguments.
#[derive(Debug, PartialEq)]
pub struct Work {
    /// The function.
    pub function: Function,
    /// The elements; none if they are to be read from elsewhere.
    pub elements: Vec<String>,
}

impl Work {
    /// Sorts the words before and behind `--`. R and Python: the first word is the function, all
    /// others are elements, perhaps behind `:::`. Command: behind `--` stands the program with its
    /// arguments, perhaps followed by `:::` and elements.
    pub fn of_words(
        runtime: Runtime,
        before: Vec<String>,
        behind: Vec<String>,
    ) -> Result<Self, Failure> {
        match runtime {
            Runtime::Command => of_command(&before, behind),
            Runtime::R | Runtime::Python => of_source(before.into_iter().chain(behind)),
        }
    }

    /// The function of a call, which has no elements.
    pub fn without_elements(self) -> Result<Function, Failure> {
        match self.elements.first() {
            Some(word) => Err(Failure::usage(format!(
                "a call has no elements, but {word:?} stands behind its function"
            ))
            .remedy("give arguments by --arg NAME=JSON, or use `farrow map`")),
            None => Ok(self.function),
        }
    }
}

impl Work {
    /// Whether it is a command whose words say nothing of the element.
    pub fn ignores_elements(&self) -> bool {
        match &self.function {
            Function::Command(words) => !words.iter().any(|word| word.contains('{')),
            Function::Source(_) => false,
        }
    }
}

fn of_source(words: impl Iterator<Item = String>) -> Result<Work, Failure> {
    let (mut words, behind_colons) = split_at_colons(words.collect())?;
    if words.is_empty() {
        return Err(Failure::usage("no <FUNCTION>")
            .remedy("give its source, or @FILE: farrow map --runtime python 'lambda x: x + 1' …"));
    }
    let elements = words.split_off(1);
    if let (Some(word), Some(_)) = (elements.first(), &behind_colons) {
        return Err(Failure::usage(format!("{word:?} stands between the function and `:::`"))
            .remedy("elements stand behind `:::`, or without it behind the function"));
    }
    let source = text_or_file(&words[0]).map_err(Failure::usage)?;
    let elements = behind_colons.unwrap_or(elements);
    Ok(Work { function: Function::Source(source), elements })
}

fn of_command(before: &[String], behind: Vec<String>) -> Result<Work, Failure> {
    if let Some(word) = before.first() {
        return Err(Failure::usage(format!("{word:?} stands before `--`")).remedy(
            "write a command behind it: farrow map --runtime command -- wc -l {} ::: a b",
        ));
    }
    let (command, elements) = split_at_colons(behind)?;
    match command.as_slice() {
        [] => Err(Failure::usage("no command behind `--`")
            .remedy("farrow map --runtime command -- wc -l {} ::: a b")),
        [line] if line.contains(char::is_whitespace) => Err(Failure::usage(format!(
            "{line:?} is one word, and no shell takes it apart"
        ))
        .remedy(format!(
            "write its words apart: -- {line}; or for a shell's work: -- sh -c '… \"$1\"' sh {{}}"
        ))),
        _ => Ok(Work {
            function: Function::Command(command),
            elements: elements.unwrap_or_default(),
        }),
    }
}

/// The words before `:::`, and those behind it if it is there.
fn split_at_colons(mut words: Vec<String>) -> Result<(Vec<String>, Option<Vec<String>>), Failure> {
    if words.iter().any(|word| word == FILES_FOLLOW) {
        return Err(Failure::usage("`::::` is not known").remedy(
            "give the file with the elements, a line each, by --file; several by: cat a b | farrow map …",
        ));
    }
    let Some(at) = words.iter().position(|word| word == ELEMENTS_FOLLOW) else {
        return Ok((words, None));
    };
    let elements = words.split_off(at).split_off(1);
    if elements.is_empty() {
        return Err(Failure::usage("no elements behind `:::`")
            .remedy("leave `:::` away to read them from --file or standard input"));
    }
    if elements.iter().any(|word| word == ELEMENTS_FOLLOW) {
        return Err(Failure::usage("more than one `:::`").remedy(
            "farrow makes no combinations; write them as a table, for --csv with --variant pmap",
        ));
    }
    Ok((words, Some(elements)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(runtime: Runtime, before: &str, behind: &str) -> Result<Work, String> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Work::of_words(runtime, words(before), words(behind))
            .map_err(|failure| format!("{failure:?}"))
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_first_word_is_the_function_wherever_the_dashes_are() {
        for (before, behind) in [("abs -1 2", ""), ("abs", "-1 2"), ("", "abs -1 2")] {
            let work = work(Runtime::R, before, behind).unwrap();
            assert_eq!(work.function, Function::Source("abs".to_owned()));
            assert_eq!(work.elements, strings(&["-1", "2"]));
        }
        for (before, behind) in [("abs ::: -1 2", ""), ("abs", "::: -1 2"), ("", "abs ::: -1 2")] {
            let work = work(Runtime::Python, before, behind).unwrap();
            assert_eq!(work.function, Function::Source("abs".to_owned()));
            assert_eq!(work.elements, strings(&["-1", "2"]));
        }
        for (before, says) in [
            ("", "<FUNCTION>"),
            ("::: 1", "<FUNCTION>"),
            ("abs :::", "no elements"),
            ("abs ::: 1 ::: 2", "more than one"),
            ("abs 1 ::: 2", "between the function and"),
        ] {
            assert!(work(Runtime::R, before, "").unwrap_err().contains(says), "{before}");
        }
        assert!(work(Runtime::R, "@/no/such", "").unwrap_err().contains("/no/such"));
    }

    #[test]
    fn a_command_stands_behind_the_dashes_and_its_elements_behind_colons() {
        let parsed = work(Runtime::Command, "", "wc -l {} ::: a b").unwrap();
        assert_eq!(parsed.function, Function::Command(strings(&["wc", "-l", "{}"])));
        assert_eq!(parsed.elements, strings(&["a", "b"]));
        let parsed = work(Runtime::Command, "", "wc -l").unwrap();
        assert_eq!((parsed.elements.len(), parsed.without_elements().is_ok()), (0, true));
        for (before, behind, says) in [
            ("wc a", "", "before `--`"),
            ("", "", "no command"),
            ("", "::: a", "no command"),
            ("", "wc :::", "no elements"),
            ("", "echo ::: a ::: b", "more than one"),
        ] {
            assert!(work(Runtime::Command, before, behind).unwrap_err().contains(says), "{says}");
        }
        let line = Work::of_words(Runtime::Command, Vec::new(), strings(&["wc -l {}"]));
        assert!(format!("{line:?}").contains("no shell"));
    }

    #[test]
    fn a_call_has_no_elements() {
        let call = work(Runtime::Python, "f x", "").unwrap().without_elements();
        assert!(format!("{call:?}").contains("a call has no elements"));
    }
}
