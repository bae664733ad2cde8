//! JSON as Python's `json` module reads it, with Ansible's own two objects for vaulted and unsafe
//! text, and values printed in the way `ansible-inventory` prints them.
//!
//! `serde_json` would lose the order of keys and numbers that don't fit 64 bits.

use super::construct::marked_unsafe;
use super::document::LoadError;
use super::integer::Integer;
use super::value::{Map, Value};

/// Python stops at its own recursion limit of about a thousand; YAML's 255 is plenty here too.
const MAX_DEPTH: usize = 255;

/// Reads a text; `None` if it is not JSON (and thus YAML, or nothing).
pub(crate) fn parse(text: &str) -> Result<Option<Value>, LoadError> {
    let begins =
        |c: char| c.is_ascii_digit() || matches!(c, '{' | '[' | '"' | '-' | 't' | 'f' | 'n' | 'N' | 'I');
    if !text.trim_start_matches(BLANKS).starts_with(begins) {
        return Ok(None);
    }
    let mut reader = Reader { rest: text, depth: 0 };
    match reader.value() {
        Ok(value) => {
            reader.blanks();
            Ok(reader.rest.is_empty().then_some(value))
        }
        Err(Stop::NotJson) => Ok(None),
        Err(Stop::Beyond(what)) => Err(LoadError::beyond(what)),
    }
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

enum Stop {
    NotJson,
    Beyond(String),
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(BLANKS);
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Result<Value, Stop> {
        self.blanks();
        let words = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Float(f64::NAN)),
            ("Infinity", Value::Float(f64::INFINITY)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
        ];
        match self.rest.bytes().next() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            _ => {
                for (word, value) in words {
                    if self.take(word) {
                        return Ok(value);
                    }
                }
                self.number()
            }
        }
    }

    fn nested(&mut self, inner: impl FnOnce(&mut Self) -> Result<Value, Stop>) -> Result<Value, Stop> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Stop::Beyond(format!("JSON nested more than {MAX_DEPTH} levels deep")));
        }
        self.rest = &self.rest[1..];
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> Result<Value, Stop> {
        let mut items = Vec::new();
        self.blanks();
        if self.take("]") {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            self.blanks();
            if self.take("]") {
                return Ok(Value::List(items));
            }
            if !self.take(",") {
                return Err(Stop::NotJson);
            }
        }
    }

    fn object(&mut self) -> Result<Value, Stop> {
        let mut map = Map::new();
        self.blanks();
        if self.take("}") {
            return Ok(Value::Map(map));
        }
        loop {
            self.blanks();
            if !self.rest.starts_with('"') {
                return Err(Stop::NotJson);
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(":") {
                return Err(Stop::NotJson);
            }
            let value = self.value()?;
            map.insert(Value::Text(key), value);
            self.blanks();
            if self.take("}") {
                return special(map);
            }
            if !self.take(",") {
                return Err(Stop::NotJson);
            }
        }
    }

    fn number(&mut self) -> Result<Value, Stop> {
        let negative = self.take("-");
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = match self.rest.as_bytes() {
            [b'0', ..] => 1,
            rest => rest.iter().take_while(|b| b.is_ascii_digit()).count(),
        };
        if whole == 0 {
            return Err(Stop::NotJson);
        }
        let mut end = whole;
        if self.rest[end..].starts_with('.') && digits(&self.rest[end + 1..]) > 0 {
            end += 1 + digits(&self.rest[end + 1..]);
        }
        let power = &self.rest[end..];
        if power.starts_with(['e', 'E']) {
            let sign = usize::from(power[1..].starts_with(['+', '-']));
            let count = digits(&power[1 + sign..]);
            if count > 0 {
                end += 1 + sign + count;
            }
        }
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        if end == whole {
            return Integer::from_digits(negative, text, 10).map(Value::Int).ok_or(Stop::NotJson);
        }
        let value: f64 = text.parse().map_err(|_| Stop::NotJson)?;
        Ok(Value::Float(if negative { -value } else { value }))
    }

    fn string(&mut self) -> Result<String, Stop> {
        let mut text = String::new();
        self.rest = &self.rest[1..];
        loop {
            let plain = self.rest.find(|c: char| c == '"' || c == '\\' || c < ' ').ok_or(Stop::NotJson)?;
            text.push_str(&self.rest[..plain]);
            self.rest = &self.rest[plain..];
            if self.take("\"") {
                return Ok(text);
            }
            if !self.take("\\") {
                return Err(Stop::NotJson);
            }
            let c = self.rest.chars().next().ok_or(Stop::NotJson)?;
            self.rest = &self.rest[c.len_utf8()..];
            text.push(match c {
                '"' | '\\' | '/' => c,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => self.escape()?,
                _ => return Err(Stop::NotJson),
            });
        }
    }

    fn escape(&mut self) -> Result<char, Stop> {
        let first = self.hex4().ok_or(Stop::NotJson)?;
        if (0xD800..0xDC00).contains(&first) && self.rest.starts_with("\\u") {
            let before = self.rest;
            self.rest = &self.rest[2..];
            match self.hex4() {
                Some(second @ 0xDC00..0xE000) => {
                    let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    return char::from_u32(code).ok_or(Stop::NotJson);
                }
                _ => self.rest = before,
            }
        }
        char::from_u32(first)
            .ok_or_else(|| Stop::Beyond("half of a surrogate pair in a JSON text".to_owned()))
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

/// The first of the two keys that Ansible knows decides, whatever else is in the object.
fn special(map: Map) -> Result<Value, Stop> {
    for (key, value) in map.iter() {
        match (key.as_text(), value) {
            (Some("__ansible_vault"), Value::Text(text)) => return Ok(Value::Vault(text.clone())),
            (Some("__ansible_vault"), _) => {
                return Err(Stop::Beyond("a vaulted value that is no text".to_owned()));
            }
            (Some("__ansible_unsafe"), value) => return Ok(marked_unsafe(value.clone())),
            _ => {}
        }
    }
    Ok(Value::Map(map))
}

/// Prints a value as `ansible-inventory` does, on one line, keys in their order.
pub fn to_json(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(value.as_str()),
        Value::Float(value) => out.push_str(&python_float(*value)),
        Value::Text(text) | Value::Time(text) => quote(out, text),
        Value::Unsafe(text) => {
            object(out, std::iter::once(("__ansible_unsafe".to_owned(), &Value::text(text.as_str()))))
        }
        Value::Vault(text) => {
            object(out, std::iter::once(("__ansible_vault".to_owned(), &Value::text(text.as_str()))))
        }
        Value::Bytes(bytes) => quote(out, &String::from_utf8_lossy(bytes)),
        Value::List(items) | Value::Set(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::Map(map) => object(out, map.iter().map(|(key, value)| (key_text(key), value))),
    }
}

fn object<'a>(out: &mut String, pairs: impl Iterator<Item = (String, &'a Value)>) {
    out.push('{');
    for (at, (key, value)) in pairs.enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        quote(out, &key);
        out.push_str(": ");
        write(out, value);
    }
    out.push('}');
}

/// A key of a JSON object, where only text can be one.
pub(crate) fn key_text(key: &Value) -> String {
    match key {
        Value::Text(text) | Value::Unsafe(text) | Value::Time(text) => text.clone(),
        other => to_json(other),
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `repr()` of a Python float: the shortest text that reads back the same.
pub(crate) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = match power.strip_prefix('-') {
            Some(power) => ('-', power),
            None => ('+', power),
        };
        return format!("{digits}e{sign}{power:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}
