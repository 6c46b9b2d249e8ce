//! Foreign text on its way into a line of the log.

use std::fmt::{self, Write};

/// Displays a value on one line: control characters are escaped as in a Rust string, so that foreign text can neither
/// begin a line of its own nor command a terminal. Everything else, backslashes too, stays as it is.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, special)) = rest.char_indices().find(|(_, letter)| is_special(*letter)) {
            let (plain, from) = rest.split_at(at);
            write!(self.0, "{plain}{}", special.escape_default())?;
            rest = from.get(special.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// Control characters, line and paragraph separators, and the marks that change the direction of what follows.
pub(crate) fn is_special(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_others_stay() {
        let cases = [
            ("", ""),
            ("no such mailbox: \"ü\" in C:\\new, 100 %", "no such mailbox: \"ü\" in C:\\new, 100 %"),
            ("x\n2026 INFO\r\n", "x\\n2026 INFO\\r\\n"),
            ("\u{1b}[2J\t\0\u{7f}\u{9b}", "\\u{1b}[2J\\t\\u{0}\\u{7f}\\u{9b}"),
            ("a\u{2028}b\u{202e}c\u{2066}d\u{200f}", "a\\u{2028}b\\u{202e}c\\u{2066}d\\u{200f}"),
        ];
        for (text, escaped) in cases {
            assert_eq!(Escaped(text).to_string(), escaped);
        }
    }
}
