//! GRUB's environment blocks: a signature, lines of `name=value`, and `#` up to the end.
//!
//! Not here: which variables there are.

/// The first line of every block.
const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// The variables of a block in their order.
///
/// # Errors
/// What is wrong with it. A block that is written by GRUB itself is never refused.
pub fn decode(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    if bytes.is_empty() {
        return Err("it cannot be read".to_owned());
    }
    let Some(mut rest) = bytes.strip_prefix(SIGNATURE) else {
        return Err("it does not begin as an environment block of GRUB does".to_owned());
    };
    let mut variables = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.first() == Some(&b'#') {
            continue;
        }
        let line = std::str::from_utf8(line).map_err(|_| "a line is not text".to_owned())?;
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("the line {line:?} is not NAME=VALUE"));
        };
        variables.push((name.to_owned(), unescape(value)));
    }
    if rest.iter().any(|byte| *byte != b'#') {
        return Err("what follows its last line is not all #".to_owned());
    }
    Ok(variables)
}

/// A block of `length` bytes. Variables that have no room are left out, the last ones first.
pub fn encode<'a>(length: usize, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    for (name, value) in variables {
        let line = format!("{name}={}\n", escape(value));
        if bytes.len() + line.len() > length {
            break;
        }
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes.resize(length, b'#');
    bytes
}

/// GRUB puts a backslash before a backslash and before the end of a line.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\\n")
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}

/// The value of a variable.
pub fn get<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
}
