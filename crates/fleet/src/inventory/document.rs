//! One file of variables or of an inventory: bytes to a value, as Ansible's loader does it.
//!
//! JSON is tried first, then YAML, whatever the file is called.

use super::compose::compose;
use super::construct::Constructor;
use super::json;
use super::value::Value;

/// Why a file gives no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadError {
    /// Ansible can't read it either.
    Syntax {
        /// From 1; 0 if it can't be told.
        line: usize,
        message: String,
    },
    /// The whole file is vaulted.
    Sealed,
    /// Ansible reads it, this reader does not, or not surely in the same way.
    Beyond { what: String },
}

impl LoadError {
    pub fn syntax(line: usize, message: impl Into<String>) -> Self {
        Self::Syntax { line, message: message.into() }
    }

    pub fn beyond(what: impl Into<String>) -> Self {
        Self::Beyond { what: what.into() }
    }
}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Document {
    pub value: Value,
    /// Line of the map and the key that stands twice in it.
    pub duplicates: Vec<(usize, String)>,
}

/// Whether a file is vaulted as a whole.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.is_ascii() && bytes.starts_with(b"$ANSIBLE_VAULT")
}

/// Reads a file.
pub(crate) fn load(bytes: &[u8]) -> Result<Document, LoadError> {
    if is_sealed(bytes) {
        return Err(LoadError::Sealed);
    }
    let text = str::from_utf8(bytes).map_err(|_| LoadError::syntax(0, "the file is not UTF-8"))?;
    if let Some(value) = json::parse(text)? {
        return Ok(Document { value, duplicates: Vec::new() });
    }
    let Some((root, nodes)) = compose(text)? else {
        return Ok(Document { value: Value::Null, duplicates: Vec::new() });
    };
    let mut constructor = Constructor::new(nodes);
    let value = constructor.value(&root)?;
    Ok(Document { value, duplicates: constructor.duplicates })
}
