//! Reads YAML with the line of every value, for files that people write.
//!
//! Two doors: [`parse`] for our own small files (no anchors, no tags, no key twice), and
//! [`check_syntax`] for Ansible's, where anything that is YAML passes. The events come from the
//! parser under `serde-saphyr`; typed decoding through serde would lose field and line.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError};

/// A value and the line it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A scalar; numbers and truth values are still text. An absent value is an empty scalar.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub text: String,
    pub line: usize,
}

/// Text that is not YAML, or not the YAML that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// Parses one document of a small file.
pub(crate) fn parse(text: &str) -> Result<Node, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), line: 1 };
    reader.expect_start()?;
    let Some(event) = reader.next()? else {
        return Ok(Node { line: 1, value: Value::Scalar(String::new()) });
    };
    let node = reader.node(event)?;
    match reader.next()? {
        None => Ok(node),
        Some(_) => Err(reader.error("there must be one document only, without `---` in between")),
    }
}

/// Checks that a text is YAML, whatever is in it.
pub(crate) fn check_syntax(text: &str) -> Result<(), YamlError> {
    Parser::new_from_str(text).try_for_each(|event| event.map(drop)).map_err(|error| scan_error(&error))
}

fn scan_error(error: &ScanError) -> YamlError {
    YamlError {
        line: error.marker().line().max(1),
        message: format!("this is not valid YAML: {}", error.info()),
    }
}

struct Reader<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    line: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, message: impl Into<String>) -> YamlError {
        YamlError { line: self.line, message: message.into() }
    }

    /// The next event that carries content; `None` at the end of the text.
    fn next(&mut self) -> Result<Option<Event<'a>>, YamlError> {
        loop {
            let Some(next) = self.parser.next_event() else { return Ok(None) };
            let (event, span) = next.map_err(|error| scan_error(&error))?;
            self.line = span.start.line().max(1);
            match event {
                Event::Comment(..) | Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(None),
                event => return Ok(Some(event)),
            }
        }
    }

    fn expect_start(&mut self) -> Result<(), YamlError> {
        match self.next()? {
            Some(Event::DocumentStart(..)) | None => Ok(()),
            Some(_) => Err(self.error("the document does not begin")),
        }
    }

    fn inner(&mut self) -> Result<Event<'a>, YamlError> {
        let event = self.next()?;
        event.ok_or_else(|| self.error("the document ends too early"))
    }

    /// Recursion is bounded: the parser itself stops at 255 nested collections.
    fn node(&mut self, event: Event<'a>) -> Result<Node, YamlError> {
        let line = self.line;
        let value = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => {
                return Err(self.error("a YAML tag (`!…`) has no meaning in this file"));
            }
            Event::Scalar(text, style, _, _) => {
                let empty = style == ScalarStyle::Plain && (text == "~" || text == "null");
                Value::Scalar(if empty { String::new() } else { text.into_owned() })
            }
            Event::SequenceStart(..) => Value::List(self.list()?),
            Event::MappingStart(..) => Value::Map(self.map()?),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                return Err(self.error("YAML anchors and aliases are not allowed in this file"));
            }
            _ => return Err(self.error("a value is missing")),
        };
        Ok(Node { line, value })
    }

    fn list(&mut self) -> Result<Vec<Node>, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.inner()? {
                Event::SequenceEnd => return Ok(items),
                event => items.push(self.node(event)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<(Key, Node)>, YamlError> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let event = match self.inner()? {
                Event::MappingEnd => return Ok(entries),
                event => event,
            };
            let Node { line, value: Value::Scalar(text) } = self.node(event)? else {
                return Err(self.error("a key must be a word"));
            };
            if entries.iter().any(|(key, _)| key.text == text) {
                return Err(YamlError { line, message: format!("the key {text:?} stands twice") });
            }
            let event = self.inner()?;
            entries.push((Key { text, line }, self.node(event)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept() {
        let node = parse("# c\na: 1\nb:\n  - x\n  - {y: z}\n").unwrap();
        let Value::Map(entries) = node.value else { panic!("a map") };
        assert_eq!((entries[0].0.line, entries[1].0.line), (2, 3));
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        assert_eq!((items[0].line, items[1].line), (4, 5));
    }

    #[test]
    fn what_our_files_must_not_have_is_refused() {
        let check = |text: &str, line: usize, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(expected) && error.line == line, "{error:?}");
        };
        check("a: 1\na: 2\n", 2, "stands twice");
        check("a: &x 1\nb: *x\n", 2, "anchors");
        check("a: !tag 1\n", 1, "tag");
        check("a: 1\n---\nb: 1\n", 2, "one document");
        check("a: [1\nb: 2\n", 2, "not valid YAML");
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_ansible_takes_passes() {
        for text in [
            "",
            "---\n",
            "a: !vault |\n  xyz\nb: &x {c: 1}\nd: *x\n",
            "---\na: 1\n---\nb: 2\n",
            "a: 1\na: 2\n",
        ] {
            check_syntax(text).unwrap();
        }
        assert_eq!(check_syntax("a:\n  - b\n c: d\n").unwrap_err().line, 3);
    }
}
