//! Control paragraphs (deb822): fields in order, case-insensitive names, continuation lines.
//! Not here: what the fields of a certain file mean.

use std::fmt;

/// One paragraph: its fields in the order in which they were written. Names compare without
/// regard to case. A value of several lines keeps the leading space of its further lines, so a
/// paragraph that is read and written again is unchanged, but for spaces at line ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph {
    fields: Vec<(Box<str>, Box<str>)>,
}

/// What is wrong with a control text, and on which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A line is neither a field nor a continuation.
    #[error("line {line}: no colon after a field name: {text:?}")]
    NoColon {
        /// Counted from 1.
        line: usize,
        /// The beginning of the line.
        text: String,
    },
    /// A field name has a space or a control character in it, or is empty.
    #[error("line {line}: {name:?} is not a field name")]
    FieldName {
        /// Counted from 1.
        line: usize,
        /// The beginning of the name.
        name: String,
    },
    /// A continuation line where no field stands before it.
    #[error("line {line}: continues a field, but none was begun")]
    NothingToContinue {
        /// Counted from 1.
        line: usize,
    },
    /// The same field twice in one paragraph.
    #[error("line {line}: the field {name} stands there twice")]
    Twice {
        /// Counted from 1.
        line: usize,
        /// The field.
        name: String,
    },
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// More fields than any honest paragraph has.
    #[error("line {line}: more than {FIELDS} fields in one paragraph")]
    TooManyFields {
        /// Counted from 1.
        line: usize,
    },
    /// There must be one paragraph, and there are none or several.
    #[error("there must be exactly one paragraph, and there are {0}")]
    NotOne(&'static str),
    /// A NUL or another control character.
    #[error("line {line}: it holds a control character")]
    ControlCharacter {
        /// Counted from 1.
        line: usize,
    },
}

/// Most fields of one paragraph. Debian's fullest have about 40.
const FIELDS: usize = 500;

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Paragraph {
    /// An empty paragraph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a text that holds exactly one paragraph.
    ///
    /// # Errors
    /// [`ControlError`] with the line.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let mut all = Paragraphs::new(text);
        let paragraph = all.next().ok_or(ControlError::NotOne("none"))??;
        match all.next() {
            None => Ok(paragraph),
            Some(_) => Err(ControlError::NotOne("several")),
        }
    }

    /// The value of a field as it was written.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The value of a field that must be there and not empty.
    ///
    /// # Errors
    /// [`ControlError::Missing`].
    pub fn require(&self, name: &'static str) -> Result<&str, ControlError> {
        self.get(name).filter(|value| !value.is_empty()).ok_or(ControlError::Missing(name))
    }

    /// The lines of a field's value without surrounding spaces, empty ones left out.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or("").lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// Sets a field: replaces it where it stands, or adds it at the end. Further lines of the
    /// value must begin with a space.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into().into_boxed_str();
        match self.fields.iter_mut().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
            Some(field) => field.1 = value,
            None => self.fields.push((name.into(), value)),
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) {
        self.fields.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }

    /// Names and values in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (&**name, &**value))
    }

    /// True if there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl fmt::Display for Paragraph {
    /// Writes the fields, each line ended; no empty line follows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.fields {
            // "Field:" without a space when the value begins on the next line, as dpkg writes it.
            let space = if value.is_empty() || value.starts_with('\n') { "" } else { " " };
            writeln!(f, "{name}:{space}{value}")?;
        }
        Ok(())
    }
}

/// The paragraphs of a text, one after the other. Stops after the first error.
#[derive(Debug, Clone)]
pub struct Paragraphs<'a> {
    rest: &'a str,
    line: usize,
    failed: bool,
}

impl<'a> Paragraphs<'a> {
    /// Begins to read `text`. Lines that begin with `#` are comments.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text, line: 0, failed: false }
    }

    fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.line += 1;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }

    fn read(&mut self) -> Result<Option<Paragraph>, ControlError> {
        let mut fields: Vec<(Box<str>, String)> = Vec::new();
        while let Some(raw) = self.next_line() {
            let (line, number) = (raw.trim_end(), self.line);
            if line.starts_with('#') {
                continue;
            }
            if line.is_empty() {
                if fields.is_empty() {
                    continue;
                }
                break;
            }
            if line.bytes().any(|byte| byte < b' ' && byte != b'\t') {
                return Err(ControlError::ControlCharacter { line: number });
            }
            if line.starts_with([' ', '\t']) {
                let (_, value) = fields.last_mut().ok_or(ControlError::NothingToContinue { line: number })?;
                value.push('\n');
                value.push_str(line);
                continue;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| ControlError::NoColon { line: number, text: excerpt(line) })?;
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ControlError::FieldName { line: number, name: excerpt(name) });
            }
            if fields.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
                return Err(ControlError::Twice { line: number, name: excerpt(name) });
            }
            if fields.len() == FIELDS {
                return Err(ControlError::TooManyFields { line: number });
            }
            fields.push((name.into(), value.trim_start().to_owned()));
        }
        if fields.is_empty() {
            return Ok(None);
        }
        let fields = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
        Ok(Some(Paragraph { fields }))
    }
}

impl Iterator for Paragraphs<'_> {
    type Item = Result<Paragraph, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let read = self.read().transpose();
        self.failed = matches!(read, Some(Err(_)));
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_read_and_written_back() {
        let text =
            "Package: hello\nDescription: short\n long\n .\n more\nConffiles:\n /etc/hello abc\nEmpty:\n";
        let paragraph = Paragraph::parse(text).unwrap();
        assert_eq!(paragraph.get("description"), Some("short\n long\n .\n more"));
        assert_eq!(paragraph.lines("Conffiles").collect::<Vec<_>>(), ["/etc/hello abc"]);
        assert_eq!(paragraph.to_string(), text);
    }

    #[test]
    fn paragraphs_are_split_and_comments_left_out() {
        let text = "# c\n\nA: 1\n# c\nB:2\n \n\nA: 2\r\n";
        let all: Vec<Paragraph> = Paragraphs::new(text).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].get("B"), all[1].get("a")), (Some("2"), Some("2")));
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(Paragraph::parse(text).unwrap_err().to_string(), expected, "{text:?}");
    }

    #[test]
    fn errors_name_the_line() {
        check("", "there must be exactly one paragraph, and there are none");
        check("A: 1\n\nB: 2", "there must be exactly one paragraph, and there are several");
        check("A: 1\nfoo", "line 2: no colon after a field name: \"foo\"");
        check(" foo", "line 1: continues a field, but none was begun");
        check("A: 1\na: 2", "line 2: the field a stands there twice");
        check("A b: 1", "line 1: \"A b\" is not a field name");
        check("A: 1\nB: \0", "line 2: it holds a control character");
    }
}
