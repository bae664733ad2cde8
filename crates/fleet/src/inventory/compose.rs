//! From YAML text to nodes: anchors resolved, tags named, nothing interpreted yet.
//!
//! The events come from the parser under `serde-saphyr`, set to agree with libyaml, which Ansible
//! uses. serde itself can't serve: it loses tags, refuses duplicate keys and reads YAML 1.2.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_saphyr::granit_parser::{
    Event, Parser, ScalarStyle, ScanError, StrInput, StructureStyle, Tag as YamlTag, options,
};

use super::document::LoadError;
use super::scalar::{self, ScalarTag};

/// A node; aliases share it.
#[derive(Debug)]
pub(crate) struct Node {
    pub tag: Tag,
    pub kind: Kind,
    /// From 1.
    pub line: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Scalar(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Pair>),
}

/// A key and its value.
pub(crate) type Pair = (Rc<Node>, Rc<Node>);

/// The tag of a node, after resolution of plain scalars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tag {
    Scalar(ScalarTag),
    Seq,
    Map,
    Set,
    Pairs,
    Binary,
    Unsafe,
    Vault,
    /// Ansible can't read it.
    Unknown(String),
}

/// The root of the only document of a text and the number of nodes; `None` if there is no document.
pub(crate) fn compose(text: &str) -> Result<Option<(Rc<Node>, usize)>, LoadError> {
    if let Some(c) = text.chars().find(|&c| !is_printable(c)) {
        return Err(LoadError::syntax(
            line_of(text, c),
            format!("the character U+{:04X} is not allowed", u32::from(c)),
        ));
    }
    if let Some(c) = text.chars().find(|c| matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}')) {
        // YAML 1.1 breaks lines there, 1.2 does not.
        return Err(LoadError::beyond(format!(
            "the line break U+{:04X} of YAML 1.1 in line {}",
            u32::from(c),
            line_of(text, c)
        )));
    }
    if text.chars().skip(1).any(|c| c == '\u{FEFF}') {
        return Err(LoadError::beyond("a byte order mark inside the text"));
    }
    let options = options! {
        block_scalar_eof_without_line_feed: true,
        bom_inside_document_as_content: true,
        emit_comments: false,
        emit_anchor_events: true,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    Composer {
        parser,
        anchors: HashMap::new(),
        names: HashSet::new(),
        flow: 0,
        line: 1,
        absent: false,
        nodes: 0,
    }
    .document()
}

fn line_of(text: &str, c: char) -> usize {
    1 + text.chars().take_while(|&have| have != c).filter(|&have| have == '\n').count()
}

/// What libyaml's reader accepts.
fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{A0}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Rc<Node>>,
    names: HashSet<String>,
    /// How many flow collections (`[…]`, `{…}`) are open.
    flow: usize,
    line: usize,
    /// Whether the last event stands for nothing in the text.
    absent: bool,
    nodes: usize,
}

impl<'a> Composer<'a> {
    fn document(mut self) -> Result<Option<(Rc<Node>, usize)>, LoadError> {
        match self.next()? {
            Some(Event::DocumentStart(..)) => {}
            Some(_) => return Err(self.error("the document does not begin")),
            None => return Ok(None),
        }
        let event = self.inner()?;
        let root = self.node(event)?;
        match self.next()? {
            None => Ok(Some((root, self.nodes))),
            Some(_) => Err(self.error("there is more than one document")),
        }
    }

    fn error(&self, message: impl Into<String>) -> LoadError {
        LoadError::syntax(self.line, message)
    }

    fn next(&mut self) -> Result<Option<Event<'a>>, LoadError> {
        loop {
            let Some(next) = self.parser.next_event() else { return Ok(None) };
            let (event, span) = next.map_err(|error| scan_error(&error))?;
            self.line = span.start.line().max(1);
            self.absent = span.start.index() == span.end.index();
            match event {
                Event::Comment(..) | Event::StreamStart | Event::DocumentEnd => {}
                Event::Anchor(_, name) => {
                    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
                        return Err(
                            self.error(format!("the anchor &{name} is not a name of letters and digits"))
                        );
                    }
                    if !self.names.insert(name.to_string()) {
                        return Err(self.error(format!("the anchor &{name} stands twice")));
                    }
                }
                Event::StreamEnd => return Ok(None),
                event => return Ok(Some(event)),
            }
        }
    }

    fn inner(&mut self) -> Result<Event<'a>, LoadError> {
        let event = self.next()?;
        event.ok_or_else(|| self.error("the document ends too early"))
    }

    /// Recursion is bounded by the parser's own limits (255 flow, 255 block collections).
    fn node(&mut self, event: Event<'a>) -> Result<Rc<Node>, LoadError> {
        let line = self.line;
        let (anchor, tag, kind) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // Where libyaml is stricter in `[…]` and `{…}`.
                let bare = self.flow > 0 && style == ScalarStyle::Plain;
                if bare && (text.starts_with(['?', ':']) || tag.is_some() && (self.absent || text.is_empty()))
                {
                    return Err(LoadError::beyond(format!(
                        "the value in line {line}, which should be quoted"
                    )));
                }
                let tag = match tag_name(tag.as_deref()) {
                    // The tag `!` alone makes libyaml treat even a quoted scalar as a plain one,
                    // and an absent one as empty text.
                    Some(name) if name == "!" => match (style, text.is_empty()) {
                        (ScalarStyle::Plain, true) => Tag::Scalar(ScalarTag::Str),
                        _ => Tag::Scalar(scalar::resolve(&text)),
                    },
                    Some(name) => named(name),
                    None if style == ScalarStyle::Plain => Tag::Scalar(scalar::resolve(&text)),
                    None => Tag::Scalar(ScalarTag::Str),
                };
                (anchor, tag, Kind::Scalar(text.into_owned()))
            }
            Event::SequenceStart(style, anchor, tag) => {
                let list = self.within(style, Self::list)?;
                (anchor, collection(tag.as_deref(), Tag::Seq), Kind::List(list))
            }
            Event::MappingStart(style, anchor, tag) => {
                let map = self.within(style, Self::map)?;
                (anchor, collection(tag.as_deref(), Tag::Map), Kind::Map(map))
            }
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned();
                return node.ok_or_else(|| {
                    LoadError::beyond(format!("the alias in line {line}, which contains itself"))
                });
            }
            _ => return Err(self.error("a value is missing")),
        };
        self.nodes += 1;
        let node = Rc::new(Node { tag, kind, line });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        Ok(node)
    }

    fn within<T>(
        &mut self,
        style: StructureStyle,
        inner: impl FnOnce(&mut Self) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let flow = usize::from(style == StructureStyle::Flow);
        self.flow += flow;
        let read = inner(self);
        self.flow -= flow;
        read
    }

    fn list(&mut self) -> Result<Vec<Rc<Node>>, LoadError> {
        let mut items = Vec::new();
        loop {
            match self.inner()? {
                Event::SequenceEnd => return Ok(items),
                event => items.push(self.node(event)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<Pair>, LoadError> {
        let mut pairs = Vec::new();
        loop {
            let key = match self.inner()? {
                Event::MappingEnd => return Ok(pairs),
                // libyaml wants a `?` before an absent key; whether there was one can't be seen.
                Event::Scalar(_, ScalarStyle::Plain, 0, None) if self.absent => {
                    return Err(LoadError::beyond(format!("the absent key in line {}", self.line)));
                }
                event => self.node(event)?,
            };
            let event = self.inner()?;
            pairs.push((key, self.node(event)?));
        }
    }
}

fn scan_error(error: &ScanError) -> LoadError {
    LoadError::syntax(error.marker().line().max(1), error.info())
}

fn tag_name(tag: Option<&YamlTag>) -> Option<String> {
    tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()))
}

fn collection(tag: Option<&YamlTag>, default: Tag) -> Tag {
    match tag_name(tag) {
        None => default,
        Some(name) if name == "!" => default,
        Some(name) => named(name),
    }
}

fn named(name: String) -> Tag {
    match name.as_str() {
        "!unsafe" => return Tag::Unsafe,
        "!vault" | "!vault-encrypted" => return Tag::Vault,
        _ => {}
    }
    match name.strip_prefix("tag:yaml.org,2002:") {
        Some("str" | "python/unicode") => Tag::Scalar(ScalarTag::Str),
        Some("bool") => Tag::Scalar(ScalarTag::Bool),
        Some("int") => Tag::Scalar(ScalarTag::Int),
        Some("float") => Tag::Scalar(ScalarTag::Float),
        Some("null") => Tag::Scalar(ScalarTag::Null),
        Some("timestamp") => Tag::Scalar(ScalarTag::Time),
        Some("merge") => Tag::Scalar(ScalarTag::Merge),
        Some("value") => Tag::Scalar(ScalarTag::Default),
        Some("seq") => Tag::Seq,
        Some("map" | "python/dict") => Tag::Map,
        Some("set") => Tag::Set,
        Some("omap" | "pairs") => Tag::Pairs,
        Some("binary") => Tag::Binary,
        _ => Tag::Unknown(name),
    }
}
