//! Values as YAML that PyYAML reads back exactly, tags for vaulted and unsafe text included.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::json::python_float;
use super::scalar::{self, ScalarTag};
use super::value::{Map, Value};

/// libyaml takes longer keys only after a `?` (its limit is 1,024 bytes).
const LONGEST_SIMPLE_KEY: usize = 500;

/// Writes the entries of a map, each on lines of its own.
pub(crate) fn entries(out: &mut String, map: &Map, indent: usize) {
    for (key, value) in map.iter() {
        let key = scalar(key);
        pad(out, indent);
        if key.len() > LONGEST_SIMPLE_KEY {
            out.push_str(&format!("? {key}\n"));
            pad(out, indent);
        } else {
            out.push_str(&key);
        }
        out.push(':');
        after_mark(out, value, indent);
    }
}

/// What follows the `:` of a key or the `-` of an item.
fn after_mark(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Map(map) if !map.is_empty() => {
            out.push('\n');
            entries(out, map, indent + 2);
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                pad(out, indent + 2);
                out.push('-');
                after_mark(out, item, indent + 2);
            }
        }
        other => {
            out.push(' ');
            match lines(other) {
                Some((mark, text)) => {
                    out.push_str(mark);
                    for line in text.split_terminator('\n') {
                        out.push('\n');
                        if !line.is_empty() {
                            pad(out, indent + 2);
                        }
                        out.push_str(line);
                    }
                }
                None => out.push_str(&scalar(other)),
            }
            out.push('\n');
        }
    }
}

/// A text of several lines that can stand on lines of its own, and what announces it.
fn lines(value: &Value) -> Option<(&'static str, &str)> {
    let (text, ended, open) = match value {
        Value::Text(text) => (text, "|", "|-"),
        Value::Vault(text) => (text, "!vault |", "!vault |-"),
        Value::Unsafe(text) => (text, "!unsafe |", "!unsafe |-"),
        _ => return None,
    };
    let printable = |c: char| matches!(c, ' '..='~' | '\n' | '\u{A1}'..='\u{2027}' | '\u{3000}'..='\u{D7FF}');
    let good = text.contains('\n') && text.chars().all(printable) && !text.ends_with("\n\n");
    let blank = |line: &str| !line.is_empty() && line.trim_start_matches(' ').is_empty();
    // Spaces before the first line would count as indentation.
    let clear = !text.starts_with([' ', '\n']) && !text.split('\n').any(blank);
    (good && clear).then_some((if text.ends_with('\n') { ended } else { open }, text.as_str()))
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A value on one line.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float(*value),
        Value::Text(text) if is_plain(text) => text.clone(),
        Value::Text(text) => quoted(text),
        Value::Unsafe(text) => format!("!unsafe {}", quoted(text)),
        Value::Vault(text) => format!("!vault {}", quoted(text)),
        Value::Bytes(bytes) => format!("!!binary \"{}\"", STANDARD.encode(bytes)),
        Value::Time(text) => text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        Value::Set(items) => {
            let items: Vec<String> = items.iter().map(|item| format!("? {}", scalar(item))).collect();
            format!("!!set {{{}}}", items.join(", "))
        }
        Value::Map(map) => {
            let pair = |(key, value): (&Value, &Value)| format!("? {} : {}", scalar(key), scalar(value));
            format!("{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// With a point and a signed exponent, or YAML 1.1 takes it for text.
fn float(value: f64) -> String {
    if value.is_nan() {
        return ".nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let text = python_float(value);
    match text.split_once('e') {
        Some((digits, power)) if !digits.contains('.') => format!("{digits}.0e{power}"),
        _ => text,
    }
}

/// Whether a text can stand without quotation marks and is still text.
fn is_plain(text: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(safe)
        && scalar::resolve(text) == ScalarTag::Str
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~' => out.push(c),
            '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            '\u{0}'..='\u{A0}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::entries;
    use crate::inventory::document::load;
    use crate::inventory::value::{Map, Value};

    #[test]
    fn what_is_written_reads_back_the_same() {
        let inner = Map::from_iter([("a: b", Value::List(Vec::new())), ("", Value::Map(Map::new()))]);
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int((-5).into()),
            Value::Float(1e16),
            Value::Float(1.5e-7),
            Value::Float(f64::NEG_INFINITY),
            Value::Unsafe("{{ x }}".into()),
            Value::Vault("$ANSIBLE_VAULT;1.1;AES256\n6162\n".into()),
            Value::Bytes(vec![0, 255]),
            Value::Time("2001-12-14T21:59:43.100000-05:00".into()),
            Value::Set(vec![Value::text("a b"), Value::Int(1.into())]),
            Value::List(vec![Value::Map(inner.clone()), Value::List(vec![Value::text("- x")])]),
            Value::Map(inner),
        ];
        let texts = [
            "one\n  two\n\nthree: # é\n",
            "one\ntwo",
            "one\n\n",
            " one\ntwo\n",
            "one\n  \n",
            "one \ntwo\t\n",
            "\n",
            "yes",
            "0644",
            "1:30",
            "=",
            "<<",
            "~",
            "",
            " a",
            "a\n\tb\u{0}\u{85}\u{2028}é😀",
            "# x",
            "{{ x }}",
            "a-b.c/d",
        ];
        let mut map = Map::new();
        for (at, value) in values.into_iter().chain(texts.map(Value::text)).enumerate() {
            map.insert(Value::text(format!("k{at}")), value);
        }
        for key in texts.map(Value::text).into_iter().chain([
            Value::Int(5.into()),
            Value::Null,
            Value::text("k".repeat(2000)),
        ]) {
            map.insert(key, Value::Null);
        }
        map.insert(Value::text("v"), Value::Vault("$ANSIBLE_VAULT;1.1;AES256\n6162".into()));
        map.insert(Value::text("l"), Value::List(vec![Value::Unsafe("{{ a }}\n{{ b }}\n".into())]));
        let mut text = "#\n".to_owned();
        entries(&mut text, &map, 0);
        let read = load(text.as_bytes()).map(|document| document.value);
        assert_eq!(read, Ok(Value::Map(map)), "{text}");
    }
}
