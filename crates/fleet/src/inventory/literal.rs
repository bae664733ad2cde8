//! Values of INI inventories: Python literals as `ast.literal_eval` reads them, everything else text.
//!
//! Strings are in `literal_text`. What Python can hold and YAML can't (complex numbers, tuples as
//! keys) is left to Ansible.

use super::integer::Integer;
use super::literal_text::{self, Quoted};
use super::scalar::python_float;
use super::value::{Map, Value};

/// Python's own limit on nesting depends on its build; no inventory comes near this one.
const MAX_DEPTH: usize = 50;

/// Why a value can't be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LiteralError {
    /// Ansible fails too: a list or a map as an element of a set or as a key.
    Unhashable,
    /// Ansible reads something that this reader has no value for.
    Beyond(String),
}

/// The value that Ansible gives to the text after `=`.
pub(crate) fn parse(text: &str) -> Result<Value, LiteralError> {
    let mut reader =
        Reader { rest: text.trim_start_matches([' ', '\t']), depth: 0, unhashable: false, exotic: None };
    let value = reader.expression();
    let Some(value) = value else {
        // What follows an unhashable element decides between failure and text.
        if reader.unhashable {
            return Err(LiteralError::Beyond(format!("the value {text:?}, which is almost a Python set")));
        }
        return Ok(Value::text(text));
    };
    if reader.unhashable {
        return Err(LiteralError::Unhashable);
    }
    match (reader.exotic, value.value) {
        (Some(what), _) => Err(LiteralError::Beyond(format!("{what} in the value {text:?}"))),
        (None, Value::Bytes(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text)),
            Err(_) => Err(LiteralError::Beyond(format!("bytes that are not UTF-8 in the value {text:?}"))),
        },
        (None, value) => Ok(value),
    }
}

struct Literal {
    value: Value,
    /// Whether it may be a key. A tuple may, though it becomes a list here.
    hashable: bool,
    /// Whether it is a number that may take a sign.
    number: bool,
}

impl Literal {
    fn plain(value: Value) -> Self {
        let number = matches!(value, Value::Int(_) | Value::Float(_));
        Self { value, hashable: true, number }
    }

    fn unhashable(value: Value) -> Self {
        Self { value, hashable: false, number: false }
    }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    unhashable: bool,
    exotic: Option<&'static str>,
}

/// In all methods `None` means: no literal, so the whole is text.
impl<'a> Reader<'a> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\u{c}']);
        if self.rest.starts_with('#') {
            self.rest = "";
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The whole text: one element, or a tuple without parentheses.
    fn expression(&mut self) -> Option<Literal> {
        let first = self.element()?;
        self.blanks();
        if self.rest.is_empty() {
            return Some(first);
        }
        let tuple = self.tuple_after(first)?;
        self.rest.is_empty().then_some(tuple)
    }

    /// More elements after a comma, until none follows.
    fn tuple_after(&mut self, first: Literal) -> Option<Literal> {
        let mut hashable = first.hashable;
        let mut items = vec![first.value];
        while self.take(",") {
            self.blanks();
            if self.rest.is_empty() || self.rest.starts_with(')') {
                break;
            }
            let item = self.element()?;
            hashable &= item.hashable;
            items.push(item.value);
        }
        self.blanks();
        Some(Literal { value: Value::List(items), hashable, number: false })
    }

    fn element(&mut self) -> Option<Literal> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.exotic = Some("deep nesting");
            return None;
        }
        let literal = self.signed();
        self.depth -= 1;
        literal
    }

    fn signed(&mut self) -> Option<Literal> {
        let negative = self.take("-");
        let literal = if negative || self.take("+") {
            let literal = self.atom()?;
            if !literal.number {
                return None;
            }
            let value = match (negative, literal.value) {
                (true, Value::Int(value)) => Value::Int(value.negated()),
                (true, Value::Float(value)) => Value::Float(-value),
                (_, value) => value,
            };
            Literal { value, hashable: true, number: false }
        } else {
            self.atom()?
        };
        self.blanks();
        if self.rest.starts_with(['+', '-']) && matches!(literal.value, Value::Int(_) | Value::Float(_)) {
            self.rest = &self.rest[1..];
            let before = self.exotic.take();
            let right = self.atom()?;
            // Only a complex number may be added.
            if !right.number || self.exotic.is_none() || before.is_some() {
                return None;
            }
        }
        Some(literal)
    }

    fn atom(&mut self) -> Option<Literal> {
        self.blanks();
        let first = self.rest.chars().next()?;
        match first {
            '(' => self.parenthesis(),
            '[' => {
                self.rest = &self.rest[1..];
                let mut items = Vec::new();
                if !self.items(&mut items, "]") {
                    return None;
                }
                Some(Literal::unhashable(Value::List(items.into_iter().map(|item| item.value).collect())))
            }
            '{' => self.brace(),
            '0'..='9' => self.number(),
            '.' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            '.' if self.rest.starts_with("...") => {
                self.rest = &self.rest[3..];
                self.exotic = Some("an ellipsis");
                Some(Literal::plain(Value::Null))
            }
            '\'' | '"' => self.strings(),
            c if c.is_alphabetic() || c == '_' => self.word(),
            _ => None,
        }
    }

    fn parenthesis(&mut self) -> Option<Literal> {
        self.rest = &self.rest[1..];
        if self.take(")") {
            return Some(Literal { value: Value::List(Vec::new()), hashable: true, number: false });
        }
        let first = self.element()?;
        self.blanks();
        let literal = if self.rest.starts_with(',') { self.tuple_after(first)? } else { first };
        self.take(")").then_some(literal)
    }

    /// Elements with commas between, up to the closing bracket; whether it was reached.
    fn items(&mut self, items: &mut Vec<Literal>, close: &str) -> bool {
        loop {
            if self.take(close) {
                return true;
            }
            let Some(item) = self.element() else { return false };
            items.push(item);
            if !self.take(",") {
                return self.take(close);
            }
        }
    }

    fn brace(&mut self) -> Option<Literal> {
        self.rest = &self.rest[1..];
        if self.take("}") {
            return Some(Literal::unhashable(Value::Map(Map::new())));
        }
        let first = self.element()?;
        if self.take(":") {
            return self.dictionary(first);
        }
        let mut items = vec![first];
        let closed = if self.take(",") { self.items(&mut items, "}") } else { self.take("}") };
        // Also if it fails: elements are evaluated before Python sees what is wrong after them.
        self.note_keys(&items);
        if !closed {
            return None;
        }
        let mut set = Map::new();
        for item in items {
            set.insert(item.value, Value::Null);
        }
        Some(Literal::unhashable(Value::Set(set.iter().map(|(item, _)| item.clone()).collect())))
    }

    fn note_keys(&mut self, items: &[Literal]) {
        self.unhashable |= items.iter().any(|item| !item.hashable);
        if items.iter().any(|item| item.hashable && matches!(item.value, Value::List(_))) {
            self.exotic = Some("a tuple as a key");
        }
    }

    fn dictionary(&mut self, first: Literal) -> Option<Literal> {
        let mut map = Map::new();
        let mut key = first;
        loop {
            let value = self.element()?;
            self.note_keys(std::slice::from_ref(&key));
            map.insert(key.value, value.value);
            if self.take("}") || (self.take(",") && self.take("}")) {
                return Some(Literal::unhashable(Value::Map(map)));
            }
            key = self.element()?;
            if !self.take(":") {
                return None;
            }
        }
    }

    fn word(&mut self) -> Option<Literal> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if rest.starts_with(['\'', '"']) {
            return self.strings();
        }
        self.rest = rest;
        match word {
            "True" => Some(Literal { value: Value::Bool(true), hashable: true, number: false }),
            "False" => Some(Literal { value: Value::Bool(false), hashable: true, number: false }),
            "None" => Some(Literal::plain(Value::Null)),
            "set" if self.take("(") && self.take(")") => Some(Literal::unhashable(Value::Set(Vec::new()))),
            _ => None,
        }
    }

    /// Adjacent strings are one.
    fn strings(&mut self) -> Option<Literal> {
        let mut whole: Option<Quoted> = None;
        loop {
            self.blanks();
            let Some(parsed) = literal_text::parse(self.rest) else { break };
            let (quoted, rest) = parsed.ok()?;
            self.rest = rest;
            whole = Some(match whole {
                None => quoted,
                Some(before) => before.joined(quoted)?,
            });
        }
        // A word before a quotation mark that is no prefix ends up here too.
        if self.rest.starts_with(['\'', '"']) {
            return None;
        }
        match whole? {
            Quoted::Text(text) => Some(Literal::plain(Value::Text(text))),
            Quoted::Bytes(bytes) => Some(Literal::plain(Value::Bytes(bytes))),
            Quoted::Exotic(what) => {
                self.exotic = Some(what);
                Some(Literal::plain(Value::Null))
            }
        }
    }

    fn number(&mut self) -> Option<Literal> {
        let end = number_end(self.rest)?;
        let (text, mut rest) = self.rest.split_at(end);
        let complex = rest.starts_with(['j', 'J']);
        if complex {
            rest = &rest[1..];
            self.exotic = Some("a complex number");
        }
        if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.') {
            return None;
        }
        self.rest = rest;
        let digits = text.replace('_', "");
        let radix = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => Some(16),
            Some("0o") => Some(8),
            Some("0b") => Some(2),
            _ => None,
        };
        if let Some(radix) = radix {
            return Integer::from_digits(false, &digits[2..], radix)
                .map(|value| Literal::plain(Value::Int(value)));
        }
        if complex || digits.contains(['.', 'e', 'E']) {
            return python_float(&digits).map(|value| Literal::plain(Value::Float(value)));
        }
        if digits.starts_with('0') && digits.bytes().any(|b| b != b'0') {
            return None;
        }
        Integer::from_digits(false, &digits, 10).map(|value| Literal::plain(Value::Int(value)))
    }
}

/// Where a number ends; `None` if its underscores stand wrong or digits are missing.
fn number_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let run = |from: usize, accept: fn(&u8) -> bool| -> usize {
        let mut at = from;
        loop {
            let next = if at > from && bytes.get(at) == Some(&b'_') { at + 1 } else { at };
            if !bytes.get(next).is_some_and(accept) {
                return at;
            }
            at = next + 1;
        }
    };
    if let [b'0', kind @ (b'x' | b'X' | b'o' | b'O' | b'b' | b'B'), ..] = bytes {
        let accept: fn(&u8) -> bool = match kind.to_ascii_lowercase() {
            b'x' => u8::is_ascii_hexdigit,
            b'o' => |b| matches!(b, b'0'..=b'7'),
            _ => |b| matches!(b, b'0' | b'1'),
        };
        let start = if bytes.get(2) == Some(&b'_') { 3 } else { 2 };
        let end = run(start, accept);
        return (end > start).then_some(end);
    }
    let mut end = run(0, u8::is_ascii_digit);
    if bytes.get(end) == Some(&b'.') {
        end = run(end + 1, u8::is_ascii_digit);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let power = run(end + 1 + sign, u8::is_ascii_digit);
        if power == end + 1 + sign {
            return None;
        }
        end = power;
    }
    Some(end)
}
