//! Text of others on this user's terminal: colours may pass, everything else that would steer the
//! terminal is shown, not obeyed. What a job prints must not clear the screen or rename the window.

use std::borrow::Cow;

/// The text with control characters made visible (`^[` is escape), but for line ends, tabs and the
/// sequences that choose colours.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find(steers) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        let colour = colour_length(rest);
        if colour > 0 {
            shown.push_str(&rest[..colour]);
            rest = &rest[colour..];
        } else {
            let mut chars = rest.chars();
            chars.next().into_iter().for_each(|c| push_visible(&mut shown, c));
            rest = chars.as_str();
        }
    }
    shown.push_str(rest);
    shown.into()
}

fn steers(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// The bytes of the sequence that chooses colours (ECMA-48, SGR) at the start of `text`; 0 if there
/// is none.
fn colour_length(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = parameters.find(|c: char| !(c.is_ascii_digit() || matches!(c, ';' | ':')));
    end.filter(|&end| parameters[end..].starts_with('m')).map_or(0, |end| 2 + end + 1)
}

/// As `cat -v` shows it: the letter 64 places further on, behind a `^`.
fn push_visible(shown: &mut String, c: char) {
    match u8::try_from(c) {
        Ok(byte @ 0..0x20) => shown.extend(['^', char::from(byte + 0x40)]),
        Ok(0x7f) => shown.push_str("^?"),
        _ => shown.push('\u{fffd}'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_and_colours_pass() {
        for (text, shown) in [
            ("plain\n\ttext é", "plain\n\ttext é"),
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[2Jgone", "^[[2Jgone"),
            ("\u{1b}]0;title\u{7}", "^[]0;title^G"),
            ("\u{1b}", "^["),
            ("\u{1b}[31", "^[[31"),
            ("a\rb\u{7f}\u{9b}2J", "a^Mb^?\u{fffd}2J"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }
}
