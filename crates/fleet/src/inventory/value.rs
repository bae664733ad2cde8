//! The values that variables have: what Python would hold after reading an inventory.
//!
//! Maps keep their order, a key set again keeps its place, and keys are equal as in Python
//! (`1`, `1.0` and `true` are one key). Reading YAML and JSON is elsewhere.

use std::collections::HashMap;

use super::integer::Integer;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, Python's `None`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(Integer),
    /// A floating point number, also infinite or not a number.
    Float(f64),
    /// Text, possibly a template.
    Text(String),
    /// Text that must not be treated as a template (`!unsafe`).
    Unsafe(String),
    /// A vaulted value (`!vault`), still encrypted: the text of the vault, header included.
    Vault(String),
    /// `!!binary`.
    Bytes(Vec<u8>),
    /// A date or a time in ISO 8601, as Python's `isoformat` prints it.
    Time(String),
    /// A list; Python's tuples become lists.
    List(Vec<Value>),
    /// `!!set`, in the order of writing.
    Set(Vec<Value>),
    /// A map.
    Map(Map),
}

impl Value {
    /// A text value.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text of a text, marked unsafe or not.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Unsafe(text) => Some(text),
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Vault(_)
            | Self::Bytes(_)
            | Self::Time(_)
            | Self::List(_)
            | Self::Set(_)
            | Self::Map(_) => None,
        }
    }

    /// The map of a map.
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// What Python's `bool()` says.
    pub fn is_truthy(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Int(value) => !value.is_zero(),
            Self::Float(value) => *value != 0.0,
            Self::Text(text) | Self::Unsafe(text) => !text.is_empty(),
            Self::Vault(_) | Self::Time(_) => true,
            Self::Bytes(bytes) => !bytes.is_empty(),
            Self::List(items) | Self::Set(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
        }
    }

    /// How messages name its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) | Self::Unsafe(_) => "a text",
            Self::Vault(_) => "a vaulted value",
            Self::Bytes(_) => "binary data",
            Self::Time(_) => "a date",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Map(_) => "a map",
        }
    }

    /// Whether it may be a key of a map or an element of a set.
    pub(crate) fn is_hashable(&self) -> bool {
        self.key().is_some()
    }

    fn key(&self) -> Option<Key> {
        Some(match self {
            Self::Null => Key::Null,
            Self::Bool(value) => Key::Number(i64::from(*value).to_string()),
            Self::Int(value) => Key::Number(value.as_str().to_owned()),
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
                Key::Number(format!("{value:.0}"))
            }
            Self::Float(value) => Key::Float(value.to_bits()),
            Self::Text(text) | Self::Unsafe(text) => Key::Text(text.clone()),
            Self::Bytes(bytes) => Key::Bytes(bytes.clone()),
            Self::Time(text) => Key::Time(text.clone()),
            Self::Vault(_) | Self::List(_) | Self::Set(_) | Self::Map(_) => return None,
        })
    }
}

/// What makes two keys one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Null,
    Number(String),
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    Time(String),
}

/// Up to this many entries a walk is cheaper than a hash table; most maps are small.
const WALK_UP_TO: usize = 12;

/// A map that keeps the order of its keys.
#[derive(Debug, Clone, Default)]
pub struct Map {
    entries: Vec<(Value, Value)>,
    index: Option<HashMap<Key, usize>>,
}

impl Map {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; says whether the key was there before. Keys that can't be keys (lists, maps,
    /// vaulted values) are not taken and count as new.
    pub fn insert(&mut self, key: Value, value: Value) -> bool {
        if let Some(at) = self.position(&key) {
            self.entries[at].1 = value;
            return true;
        }
        let Some(hash) = key.key() else { return false };
        if let Some(index) = &mut self.index {
            index.insert(hash, self.entries.len());
        }
        self.entries.push((key, value));
        if self.index.is_none() && self.entries.len() > WALK_UP_TO {
            self.rebuild();
        }
        false
    }

    fn rebuild(&mut self) {
        let keys = self.entries.iter().enumerate();
        self.index = Some(keys.filter_map(|(at, (key, _))| Some((key.key()?, at))).collect());
    }

    fn position(&self, key: &Value) -> Option<usize> {
        let hash = key.key()?;
        match &self.index {
            Some(index) => index.get(&hash).copied(),
            None => self.entries.iter().position(|(have, _)| have.key().as_ref() == Some(&hash)),
        }
    }

    /// The value of a key that is a text.
    pub fn get(&self, key: &str) -> Option<&Value> {
        if self.index.is_none() {
            return self.entries.iter().find(|(have, _)| have.as_text() == Some(key)).map(|(_, value)| value);
        }
        self.get_value(&Value::text(key))
    }

    /// The value of any key.
    pub fn get_value(&self, key: &Value) -> Option<&Value> {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// Whether a text is a key.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Removes a key that is a text.
    pub fn remove(&mut self, key: &str) {
        let before = self.entries.len();
        self.entries.retain(|(have, _)| have.as_text() != Some(key));
        if self.index.is_some() && self.entries.len() != before {
            self.rebuild();
        }
    }

    /// Sets all keys of another map over this one: nested maps are replaced, not merged.
    pub fn overlay(&mut self, other: &Map) {
        for (key, value) in &other.entries {
            self.insert(key.clone(), value.clone());
        }
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Value, &Value)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl PartialEq for Map {
    /// Equal as Python's dictionaries are: the order does not count.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get_value(key) == Some(value))
    }
}

impl<K: Into<String>> FromIterator<(K, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (key, value) in pairs {
            map.insert(Value::text(key), value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::{Map, Value};

    #[test]
    fn a_key_set_again_keeps_its_place() {
        for count in [3, 40] {
            let mut map: Map = (0..count).map(|n| (format!("k{n}"), Value::Null)).collect();
            assert!(map.insert(Value::text("k1"), Value::Bool(true)));
            let second = map.iter().nth(1).map(|(key, value)| (key.clone(), value.clone()));
            assert_eq!(second, Some((Value::text("k1"), Value::Bool(true))));
            map.remove("k0");
            assert_eq!(map.get("k2"), Some(&Value::Null));
            assert!(!map.contains("k0"));
            assert_eq!(map.len(), count - 1);
        }
    }

    #[test]
    fn keys_are_equal_as_in_python() {
        let mut map = Map::new();
        map.insert(Value::Int(1.into()), Value::text("int"));
        assert!(map.insert(Value::Bool(true), Value::text("bool")));
        assert!(map.insert(Value::Float(1.0), Value::text("float")));
        assert!(!map.insert(Value::text("1"), Value::text("text")));
        assert_eq!(map.len(), 2);
    }
}
