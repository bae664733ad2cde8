//! String literals of Python: prefixes, quotation marks, escapes.

/// The content of a string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Quoted {
    Text(String),
    Bytes(Vec<u8>),
    /// Python reads it, Rust's texts can't hold it or this reader does not know it.
    Exotic(&'static str),
}

impl Quoted {
    /// Two literals side by side; text and bytes don't mix.
    pub fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Text(a), Self::Text(b)) => Some(Self::Text(a + &b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(Self::Bytes([a, b].concat())),
            (Self::Exotic(what), Self::Text(_) | Self::Exotic(_)) | (Self::Text(_), Self::Exotic(what)) => {
                Some(Self::Exotic(what))
            }
            (Self::Bytes(_), Self::Text(_) | Self::Exotic(_))
            | (Self::Text(_) | Self::Exotic(_), Self::Bytes(_)) => None,
        }
    }
}

/// A literal that Python refuses, so that the whole is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// Reads one literal at the beginning; `None` if there is none, else it and what follows it.
pub(crate) fn parse(text: &str) -> Option<Result<(Quoted, &str), Refused>> {
    let at = text.find(['\'', '"'])?;
    let prefix = text[..at].to_ascii_lowercase();
    let (raw, bytes) = match prefix.as_str() {
        "" | "u" => (false, false),
        "r" => (true, false),
        "b" => (false, true),
        "br" | "rb" => (true, true),
        // With expressions inside it is no literal.
        "f" | "fr" | "rf" => return Some(Err(Refused)),
        _ => return None,
    };
    Some(body(&text[at..], raw, bytes))
}

fn body(text: &str, raw: bool, bytes: bool) -> Result<(Quoted, &str), Refused> {
    let quote = &text[..1];
    let triple = quote.repeat(3);
    let close = if text.starts_with(&triple) { triple.as_str() } else { quote };
    let inner = &text[close.len()..];
    let end = closing(inner, close).ok_or(Refused)?;
    let (content, rest) = (&inner[..end], &inner[end + close.len()..]);
    if bytes && !content.is_ascii() {
        return Err(Refused);
    }
    let quoted = match (bytes, raw) {
        (false, true) => Quoted::Text(content.to_owned()),
        (true, true) => Quoted::Bytes(content.as_bytes().to_vec()),
        (false, false) => unescape(content)?,
        (true, false) => Quoted::Bytes(unescape_bytes(content.as_bytes())?),
    };
    Ok((quoted, rest))
}

/// Where the literal is closed; a backslash hides the character after it, in raw strings too.
fn closing(inner: &str, close: &str) -> Option<usize> {
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next()?;
        } else if inner[at..].starts_with(close) {
            return Some(at);
        }
    }
    None
}

fn simple_escape(c: char) -> Option<char> {
    Some(match c {
        '\\' | '\'' | '"' => c,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        _ => return None,
    })
}

fn octal(digits: &str) -> usize {
    digits.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count()
}

fn hex(digits: &str, count: usize) -> Result<u32, Refused> {
    let digits =
        digits.get(..count).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(Refused)?;
    u32::from_str_radix(digits, 16).map_err(|_| Refused)
}

fn unescape(content: &str) -> Result<Quoted, Refused> {
    let mut text = String::with_capacity(content.len());
    let mut exotic = None;
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let c = rest.chars().next().ok_or(Refused)?;
        let (code, used) = match c {
            '0'..='7' => {
                let count = octal(rest);
                (u32::from_str_radix(&rest[..count], 8).map_err(|_| Refused)?, count)
            }
            'x' => (hex(&rest[1..], 2)?, 3),
            'u' => (hex(&rest[1..], 4)?, 5),
            'U' => (hex(&rest[1..], 8)?, 9),
            'N' => {
                exotic = Some("a character by its name");
                (u32::from('?'), 1)
            }
            c => match simple_escape(c) {
                Some(c) => (u32::from(c), 1),
                None => {
                    text.push('\\');
                    continue;
                }
            },
        };
        if code > 0x10_FFFF {
            return Err(Refused);
        }
        match char::from_u32(code) {
            Some(c) => text.push(c),
            None => exotic = Some("half of a surrogate pair"),
        }
        rest = &rest[used..];
    }
    text.push_str(rest);
    Ok(exotic.map_or(Quoted::Text(text), Quoted::Exotic))
}

fn unescape_bytes(content: &[u8]) -> Result<Vec<u8>, Refused> {
    let text = str::from_utf8(content).map_err(|_| Refused)?;
    let mut bytes = Vec::with_capacity(content.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let c = rest.chars().next().ok_or(Refused)?;
        let (code, used) = match c {
            '0'..='7' => {
                let count = octal(rest);
                (u32::from_str_radix(&rest[..count], 8).map_err(|_| Refused)? & 0xff, count)
            }
            'x' => (hex(&rest[1..], 2)?, 3),
            c => match simple_escape(c) {
                Some(c) => (u32::from(c), 1),
                None => {
                    bytes.push(b'\\');
                    continue;
                }
            },
        };
        bytes.push(u8::try_from(code).map_err(|_| Refused)?);
        rest = &rest[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}
