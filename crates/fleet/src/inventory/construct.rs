//! From YAML nodes to values, in the way of PyYAML's safe constructor as Ansible extends it.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::compose::{Kind, Node, Pair, Tag};
use super::document::LoadError;
use super::scalar::{self, ScalarTag};
use super::value::{Map, Value};

/// Aliases may add this many values to those that stand in the file: more is an attack by aliases
/// of aliases on a device with little memory.
const MAX_COPIES: usize = 100_000;

/// Builds values; counts them, and notes keys that stand twice in one map.
#[derive(Debug)]
pub(crate) struct Constructor {
    built: usize,
    most: usize,
    /// Line of the map and the key.
    pub duplicates: Vec<(usize, String)>,
}

impl Constructor {
    /// For a document that was composed of this many nodes.
    pub fn new(nodes: usize) -> Self {
        Self { built: 0, most: nodes + MAX_COPIES, duplicates: Vec::new() }
    }

    /// The value of a node.
    pub fn value(&mut self, node: &Node) -> Result<Value, LoadError> {
        self.count(1)?;
        let wrong = |message: String| LoadError::syntax(node.line, message);
        match (&node.tag, &node.kind) {
            (Tag::Scalar(tag), Kind::Scalar(text)) => scalar::build(*tag, text).map_err(wrong),
            (Tag::Unsafe, Kind::Scalar(text)) => Ok(Value::Unsafe(text.clone())),
            (Tag::Vault, Kind::Scalar(text)) => Ok(Value::Vault(text.clone())),
            (Tag::Binary, Kind::Scalar(text)) => {
                binary(text).map(Value::Bytes).ok_or_else(|| wrong("this is not base64".into()))
            }
            (Tag::Seq, Kind::List(items)) => self.list(items).map(Value::List),
            (Tag::Map, Kind::Map(pairs)) => self.map(pairs, node.line).map(Value::Map),
            (Tag::Set, Kind::Map(pairs)) => {
                let map = self.map(pairs, node.line)?;
                Ok(Value::Set(map.iter().map(|(key, _)| key.clone()).collect()))
            }
            (Tag::Pairs, Kind::List(items)) => self.pairs(items),
            (Tag::Unsafe, Kind::List(_) | Kind::Map(_)) => self.unsafe_collection(node),
            (Tag::Unknown(tag), _) => Err(wrong(format!("the tag {tag:?} is unknown"))),
            (
                Tag::Scalar(_) | Tag::Seq | Tag::Map | Tag::Set | Tag::Pairs | Tag::Binary | Tag::Vault,
                Kind::Scalar(_) | Kind::List(_) | Kind::Map(_),
            ) => Err(wrong("the tag does not fit the value".into())),
        }
    }

    fn count(&mut self, values: usize) -> Result<(), LoadError> {
        self.built += values;
        if self.built > self.most {
            return Err(LoadError::beyond(format!("aliases that stand for more than {MAX_COPIES} values")));
        }
        Ok(())
    }

    fn list(&mut self, items: &[Rc<Node>]) -> Result<Vec<Value>, LoadError> {
        items.iter().map(|item| self.value(item)).collect()
    }

    fn map(&mut self, pairs: &[Pair], line: usize) -> Result<Map, LoadError> {
        let mut map = Map::new();
        for (key_node, value_node) in self.flatten(pairs)? {
            let key = self.key(&key_node)?;
            let value = self.value(&value_node)?;
            let name = key.as_text().map_or_else(|| format!("{key:?}"), str::to_owned);
            if map.insert(key, value) {
                self.duplicates.push((line, name));
            }
        }
        Ok(map)
    }

    fn key(&mut self, node: &Node) -> Result<Value, LoadError> {
        let key = match (&node.tag, &node.kind) {
            (Tag::Scalar(ScalarTag::Default), Kind::Scalar(text)) => Value::text(text.as_str()),
            _ => self.value(node)?,
        };
        if key.is_hashable() {
            return Ok(key);
        }
        Err(LoadError::syntax(node.line, format!("{} can't be a key", key.kind())))
    }

    /// Puts what `<<` merges before the map's own keys, which win because they come later.
    fn flatten(&mut self, pairs: &[Pair]) -> Result<Vec<Pair>, LoadError> {
        let mut merged = Vec::new();
        let mut own = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            if key.tag != Tag::Scalar(ScalarTag::Merge) {
                own.push((Rc::clone(key), Rc::clone(value)));
                continue;
            }
            match &value.kind {
                Kind::Map(inner) => merged.extend(self.flatten(inner)?),
                // The first of a list of maps wins, so it comes last.
                Kind::List(items) => {
                    for item in items.iter().rev() {
                        let Kind::Map(inner) = &item.kind else { return Err(not_mergeable(item)) };
                        merged.extend(self.flatten(inner)?);
                    }
                }
                Kind::Scalar(_) => return Err(not_mergeable(value)),
            }
        }
        self.count(merged.len())?;
        merged.append(&mut own);
        Ok(merged)
    }

    fn pairs(&mut self, items: &[Rc<Node>]) -> Result<Value, LoadError> {
        let mut list = Vec::new();
        for item in items {
            let Kind::Map(pairs) = &item.kind else {
                return Err(LoadError::syntax(item.line, "a map with one key is needed here"));
            };
            let [(key, value)] = pairs.as_slice() else {
                return Err(LoadError::syntax(item.line, "a map with one key is needed here"));
            };
            let key = self.value(key)?;
            list.push(Value::List(vec![key, self.value(value)?]));
        }
        Ok(Value::List(list))
    }

    /// PyYAML empties collections within a collection that is tagged `!unsafe`: nobody can want
    /// that, so the case is left to Ansible.
    fn unsafe_collection(&mut self, node: &Node) -> Result<Value, LoadError> {
        let value = match &node.kind {
            Kind::List(items) => Value::List(self.list(items)?),
            Kind::Map(pairs) => Value::Map(self.map(pairs, node.line)?),
            Kind::Scalar(text) => Value::text(text.as_str()),
        };
        let nested = |value: &Value| matches!(value, Value::List(_) | Value::Set(_) | Value::Map(_));
        let beyond = match &value {
            Value::List(items) => items.iter().any(nested),
            Value::Map(map) => map.iter().any(|(_, value)| nested(value)),
            _ => false,
        };
        if beyond {
            return Err(LoadError::beyond(format!(
                "nested collections under `!unsafe` in line {}",
                node.line
            )));
        }
        Ok(marked_unsafe(value))
    }
}

/// The same value with every text in it marked as no template.
pub(crate) fn marked_unsafe(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::Unsafe(text),
        Value::List(items) => Value::List(items.into_iter().map(marked_unsafe).collect()),
        Value::Set(items) => Value::Set(items.into_iter().map(marked_unsafe).collect()),
        Value::Map(map) => {
            let mut marked = Map::new();
            for (key, value) in map.iter() {
                marked.insert(key.clone(), marked_unsafe(value.clone()));
            }
            Value::Map(marked)
        }
        other => other,
    }
}

fn not_mergeable(node: &Node) -> LoadError {
    LoadError::syntax(node.line, "`<<` takes a map or a list of maps")
}

/// Python's decoder skips what is not in the alphabet and stops at the padding.
fn binary(text: &str) -> Option<Vec<u8>> {
    let kept = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let (digits, padding) = text.split_once('=').unwrap_or((text, ""));
    let padded = usize::from(digits.len() < text.len()) + padding.matches('=').count();
    let digits: Vec<u8> = digits.bytes().filter(kept).collect();
    let missing = (4 - digits.len() % 4) % 4;
    if missing > padded { None } else { STANDARD_NO_PAD.decode(digits).ok() }
}
