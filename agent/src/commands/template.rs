//! Placeholders in the words of a command. Pure.
//!
//! Whatever stands between braces is a name; a name that means nothing stays as it is, braces and
//! all, so that `awk '{print $1}'` needs no escape. What is put in is never looked through again.
//!
//! | name | what |
//! | --- | --- |
//! | `{}` | the element: a string without its quotes, other JSON as its text |
//! | `{.}` `{/}` `{//}` `{/.}` | of that, as a path: without extension, last part, folder, last part without extension |
//! | `{#}` | the element's index in the job, from 1 |
//! | `{1}` `{2}` … | variant `pmap`: the items of an array |
//! | `{name}` | variant `pmap`: that of an object; else one of `args` |
//! | `{key}` `{outer}` | variant `imap`: the element's name or index from 0; its outer element's |
//!
//! The first six mean what they mean to GNU parallel.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Texts by name.
pub type Texts = BTreeMap<String, Vec<u8>>;

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// What stood between braces.
    Braces(String),
}

impl Template {
    /// Takes a word apart.
    pub fn parse(word: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = word;
        while let Some((before, name, after)) = first_braces(rest) {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Braces(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Self(pieces)
    }

    /// The word with everything that has a meaning in `scope` put in.
    pub fn fill(&self, scope: &Scope<'_>) -> Vec<u8> {
        let mut word = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => word.extend_from_slice(text.as_bytes()),
                Piece::Braces(name) => match scope.find(name) {
                    Some(text) => word.extend_from_slice(&text),
                    None => word.extend([b"{", name.as_bytes(), b"}"].concat()),
                },
            }
        }
        word
    }
}

/// Cuts a text at its first pair of braces that holds no brace: before, between, behind.
fn first_braces(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.match_indices('}').find_map(|(end, _)| {
        let start = text[..end].rfind('{')?;
        Some((start, end))
    });
    let (start, end) = end?;
    Some((&text[..start], &text[start + 1..end], &text[end + 1..]))
}

/// What names mean for one element.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The further arguments.
    pub args: &'a Texts,
    /// The element; none if the job is a call.
    pub element: Option<Subject<'a>>,
}

/// An element, as its command is told of it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its index in the job, from 0.
    pub index: u64,
    /// Its text.
    pub text: Cow<'a, [u8]>,
    /// The texts of its items, by name or by number from 1, if they are spread as arguments.
    pub items: Texts,
    /// Its name or index, if it is told.
    pub key: Option<String>,
    /// Its outer element's, if it is told.
    pub outer: Option<String>,
}

impl Scope<'_> {
    /// What `name` means, if anything.
    fn find(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let own = self.element.as_ref().and_then(|subject| subject.find(name));
        own.or_else(|| self.args.get(name).map(|text| text.as_slice().into()))
    }
}

impl Subject<'_> {
    fn find(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let text = &*self.text;
        let bytes = |text: &Option<String>| Some(text.as_ref()?.clone().into_bytes().into());
        match name {
            "" => Some(text.into()),
            "." => Some(without_extension(text).into()),
            "/" => Some(last_part(text).into()),
            "//" => Some(folder(text).into()),
            "/." => Some(without_extension(last_part(text)).into()),
            "#" => Some((u128::from(self.index) + 1).to_string().into_bytes().into()),
            "key" if self.key.is_some() => bytes(&self.key),
            "outer" if self.outer.is_some() => bytes(&self.outer),
            _ => self.items.get(name).map(|text| text.as_slice().into()),
        }
    }
}

/// A path up to the last dot of its last part.
fn without_extension(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| matches!(byte, b'.' | b'/')) {
        Some(at) if path[at] == b'.' => &path[..at],
        _ => path,
    }
}

/// What stands behind the last slash of a path.
fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// The folder that a path is in, as `dirname` has it.
fn folder(path: &[u8]) -> &[u8] {
    let path = without_slashes_behind(path);
    match path.iter().rposition(|byte| *byte == b'/') {
        None if path == b"/" => path,
        None => b".",
        Some(0) => b"/",
        Some(at) => without_slashes_behind(&path[..=at]),
    }
}

/// A path without the slashes at its end, unless it is nothing else.
fn without_slashes_behind(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(1, |at| at + 1);
    &path[..end.min(path.len())]
}

/// JSON as a word: a string is what it says, all else is its own text.
///
/// # Errors
/// When it is a string that no text can hold: half of a surrogate pair.
pub fn text_of(json: &[u8]) -> serde_json::Result<Cow<'_, [u8]>> {
    let json = json.trim_ascii();
    if json.first() == Some(&b'"') {
        return serde_json::from_slice::<String>(json).map(|text| text.into_bytes().into());
    }
    Ok(json.into())
}

/// The items of an array, by number from 1, or of an object, by name; none of any other JSON.
///
/// # Errors
/// When an item is a string that no text can hold.
pub fn items_of(json: &[u8]) -> serde_json::Result<Option<Texts>> {
    let text = |raw: &RawValue| text_of(raw.get().as_bytes()).map(Cow::into_owned);
    let named: Vec<(String, &RawValue)> = match json.trim_ascii().first() {
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_slice(json)?;
            (1_u64..).map(|number| number.to_string()).zip(items).collect()
        }
        Some(b'{') => {
            let items: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
            items.into_iter().collect()
        }
        _ => return Ok(None),
    };
    let items = named.into_iter().map(|(name, raw)| Ok((name, text(raw)?)));
    items.collect::<serde_json::Result<Texts>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject<'_> {
        Subject {
            index: 6,
            text: text.as_bytes().into(),
            items: Texts::new(),
            key: None,
            outer: None,
        }
    }

    fn filled(word: &str, subject: Option<Subject<'_>>, args: &[(&str, &str)]) -> String {
        let args = args
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        let word = Template::parse(word).fill(&Scope { args: &args, element: subject });
        String::from_utf8(word).unwrap()
    }

    #[test]
    fn names_of_the_element() {
        let table = [
            ("{}", "in/a.b.png", "in/a.b.png"),
            ("{.}", "in/a.b.png", "in/a.b"),
            ("{/}", "in/a.b.png", "a.b.png"),
            ("{//}", "in/a.b.png", "in"),
            ("{/.}", "in/a.b.png", "a.b"),
            ("{#}", "x", "7"),
            ("-o{.}.jpg", "x.png", "-ox.jpg"),
            ("{}{}", "x", "xx"),
            ("{} {/} {#}", "a/b c", "a/b c b c 7"),
            ("{}", "é ∞ 😀", "é ∞ 😀"),
            (
                "{}",
                "$(rm -rf /); `x` 'y' \"z\" \\ | & > *",
                "$(rm -rf /); `x` 'y' \"z\" \\ | & > *",
            ),
            ("{}", "", ""),
            ("no placeholder", "x", "no placeholder"),
            ("", "x", ""),
        ];
        for (word, text, expected) in table {
            assert_eq!(filled(word, Some(subject(text)), &[]), expected, "{word} of {text}");
        }
    }

    #[test]
    fn paths_are_cut_as_gnu_parallel_cuts_them() {
        // Each line as `parallel echo '{.},{/},{//},{/.}' ::: PATH` answers.
        let table = [
            ("a", "a,a,.,a"),
            ("a.txt", "a,a.txt,.,a"),
            (".hidden", ",.hidden,.,"),
            ("a.b/c", "a.b/c,c,a.b,c"),
            ("a.b/.c", "a.b/,.c,a.b,"),
            ("/a.x", "/a,a.x,/,a"),
            ("a/b/", "a/b/,,a,"),
            ("a//b.c", "a//b,b.c,a,b"),
            ("a.", "a,a.,.,a"),
            ("/", "/,,/,"),
            ("//", "//,,/,"),
            ("//a", "//a,a,/,a"),
            ("../x.tar.gz", "../x.tar,x.tar.gz,..,x.tar"),
            ("..", ".,..,.,."),
        ];
        for (path, expected) in table {
            assert_eq!(filled("{.},{/},{//},{/.}", Some(subject(path)), &[]), expected, "{path}");
        }
        assert_eq!(folder(b""), b".");
    }

    #[test]
    fn what_has_no_meaning_stays_as_it_is() {
        for word in ["{print $1}", "{", "}", "}{", "{{", "{}}"] {
            let expected = word.replace("{}", "x");
            assert_eq!(filled(word, Some(subject("x")), &[]), expected, "{word}");
        }
        for word in ["{1}", "{key}", "{outer}", "{name}", "{ }", "{\n}", "${HOME}", "{{a}}"] {
            assert_eq!(filled(word, Some(subject("x")), &[]), word);
        }
        assert_eq!(filled("{{}}", Some(subject("x")), &[]), "{x}");
        assert_eq!(filled("BEGIN{a={}}{#}", Some(subject("x")), &[]), "BEGIN{a=x}7");
    }

    #[test]
    fn what_is_put_in_is_not_looked_through() {
        assert_eq!(filled("{} {a}", Some(subject("{#}{a}")), &[("a", "{}")]), "{#}{a} {}");
    }

    #[test]
    fn args_have_names_also_in_a_call() {
        let args = [("size", "50%"), ("a.b c", "dots"), ("", "never"), ("1", "first")];
        let element = || Some(subject("x"));
        assert_eq!(filled("{size} {a.b c} {}", element(), &args), "50% dots x");
        assert_eq!(filled("{1}", element(), &args), "first");
        assert_eq!(filled("{size} {#} {.}", None, &args), "50% {#} {.}");
    }

    #[test]
    fn items_come_before_args() {
        let of = |json: &str, word: &str| {
            let items = items_of(json.as_bytes()).unwrap().unwrap();
            filled(word, Some(Subject { items, ..subject(json) }), &[("a", "arg"), ("z", "arg")])
        };
        assert_eq!(
            of(r#"["x y", 2, [3, "q"], null]"#, "{1}|{2}|{3}|{4}|{5}|{0}"),
            r#"x y|2|[3, "q"]|null|{5}|{0}"#
        );
        assert_eq!(
            of(r#" {"a": "é", "b.c": {"d": 1}, "a b": true} "#, "{a}|{b.c}|{a b}|{z}"),
            r#"é|{"d": 1}|true|arg"#
        );
        assert_eq!(of("[]", "{1}{a}"), "{1}arg");
        assert!(items_of(b"1").unwrap().is_none());
        assert!(items_of(b"\"a\"").unwrap().is_none());
    }

    #[test]
    fn keys_come_before_args_where_there_are_any() {
        let keyed = Subject { key: Some("mpg".into()), outer: Some("3".into()), ..subject("x") };
        assert_eq!(filled("{key}/{outer}", Some(keyed), &[("key", "arg")]), "mpg/3");
        assert_eq!(filled("{key}", Some(subject("x")), &[("key", "arg")]), "arg");
    }

    #[test]
    fn json_becomes_a_word() {
        let table = [
            (r#" "a\"b\u00e9\n" "#, "a\"bé\n"),
            ("1.50", "1.50"),
            ("null", "null"),
            (r#"{"a": "b"}"#, r#"{"a": "b"}"#),
            (r#"["a"]"#, r#"["a"]"#),
        ];
        for (json, expected) in table {
            assert_eq!(text_of(json.as_bytes()).unwrap(), expected.as_bytes());
        }
        assert!(text_of(br#""\ud800""#).is_err());
    }
}
