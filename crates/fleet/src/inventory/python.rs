//! Small pieces of Python that inventories depend on: white space, lines, numbers, file names.

use super::integer::Integer;

/// What `str.isspace` and `\s` call white space.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `str.strip`
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.splitlines`
pub(crate) fn lines(text: &str) -> Vec<&str> {
    let breaks =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(breaks) {
        lines.push(&rest[..at]);
        let tail = &rest[at..];
        let broken = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(1, char::len_utf8) };
        rest = &tail[broken..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `int(text)`
pub(crate) fn integer(text: &str) -> Option<Integer> {
    let text = strip(text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let placed = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    if placed { Integer::from_digits(negative, &digits.replace('_', ""), 10) } else { None }
}

/// The extension of `os.path.splitext`, with its dot; dots at the beginning don't count.
pub(crate) fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let bare = name.trim_start_matches('.');
    match bare.rfind('.') {
        Some(at) => &bare[at..],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{extension, integer, lines};

    #[test]
    fn extensions() {
        for (path, expected) in [
            ("a/b.yml", ".yml"),
            ("a.d/b", ""),
            (".yml", ""),
            ("..a.b", ".b"),
            ("b.", "."),
            ("x.tar.gz", ".gz"),
        ] {
            assert_eq!(extension(path), expected, "{path}");
        }
    }

    #[test]
    fn line_breaks() {
        assert_eq!(lines("a\r\nb\u{b}c\n\nd"), ["a", "b", "c", "", "d"]);
        assert_eq!(lines("a\n"), ["a"]);
    }

    #[test]
    fn integers() {
        for (text, expected) in [
            ("5", Some("5")),
            (" -1_0\n", Some("-10")),
            ("0644", Some("644")),
            ("1__0", None),
            ("_1", None),
            ("", None),
            ("1.5", None),
        ] {
            assert_eq!(integer(text).map(|number| number.to_string()).as_deref(), expected, "{text:?}");
        }
    }
}
