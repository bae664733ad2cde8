//! Splits a host line of an INI inventory into words, as Python's `shlex.split(line, comments=True)`.

/// Why a line can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    #[error("a quotation mark is not closed")]
    OpenQuote,
    #[error("the line ends in a backslash")]
    OpenEscape,
}

/// The words of a line: quotation marks and backslashes taken away, comments cut off.
pub(crate) fn split(line: &str) -> Result<Vec<String>, WordError> {
    let mut words = Vec::new();
    // `None` between words; quotes may make an empty word.
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' => break,
            '\\' => {
                let escaped = chars.next().ok_or(WordError::OpenEscape)?;
                word.get_or_insert_default().push(escaped);
            }
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordError> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => {
                let escaped = chars.next().ok_or(WordError::OpenEscape)?;
                if escaped != '"' && escaped != '\\' {
                    word.push('\\');
                }
                word.push(escaped);
            }
            c => word.push(c),
        }
    }
    Err(WordError::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::{WordError, split};

    #[track_caller]
    fn check(line: &str, expected: Result<&[&str], WordError>) {
        assert_eq!(split(line), expected.map(|words| words.iter().map(|&word| word.to_owned()).collect()));
    }

    #[test]
    fn quotes_escapes_and_comments() {
        check("a b=1  c", Ok(&["a", "b=1", "c"]));
        check(r#"a b="x y" c='"z"' # d"#, Ok(&["a", "b=x y", r#"c="z""#]));
        check(r#"a b="" ''"#, Ok(&["a", "b=", ""]));
        check(r#"a b="q\"\\\n" c=\ d"#, Ok(&["a", r#"b=q"\\n"#, "c= d"]));
        check("a b=x#y", Ok(&["a", "b=x"]));
        check("a b='x", Err(WordError::OpenQuote));
        check("a\\", Err(WordError::OpenEscape));
    }
}
