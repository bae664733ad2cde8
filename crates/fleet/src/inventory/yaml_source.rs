//! Inventories in YAML (or JSON): groups with `hosts`, `vars` and `children`.

use super::document::Document;
use super::graph::Graph;
use super::hosts;
use super::ini::populate;
use super::source::SourceError;
use super::value::{Map, Value};

/// A part of a file that Ansible skips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub group: String,
    pub reason: String,
}

/// Adds what a file says to the graph, up to the first mistake.
pub(crate) fn read(
    graph: &mut Graph,
    document: &Document,
    skipped: &mut Vec<Skipped>,
) -> Result<(), SourceError> {
    if !document.value.is_truthy() {
        return Err(SourceError::at(0, "the file is empty"));
    }
    let Value::Map(groups) = &document.value else {
        return Err(SourceError::at(
            0,
            format!("a map of groups is needed, this is {}", document.value.kind()),
        ));
    };
    if groups.get("plugin").is_some_and(Value::is_truthy) {
        return Err(SourceError::at(0, "this is the configuration of an inventory plugin"));
    }
    let mut reader = Reader { graph, skipped };
    for (name, data) in groups.iter() {
        reader.group(name, data)?;
    }
    Ok(())
}

struct Reader<'a> {
    graph: &'a mut Graph,
    skipped: &'a mut Vec<Skipped>,
}

impl Reader<'_> {
    /// Reads a group and returns its name. Recursion is bounded by the nesting of the file.
    fn group(&mut self, name: &Value, data: &Value) -> Result<String, SourceError> {
        let sections = match data {
            Value::Null => &Map::new(),
            Value::Map(sections) => sections,
            other => {
                let label = name.as_text().map_or_else(|| name.kind().to_owned(), str::to_owned);
                self.skip(&label, format!("it must be a map, not {}", other.kind()));
                // A child of this name is linked all the same, if a group or host has the name.
                return Ok(label);
            }
        };
        let name = name.as_text().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| SourceError::at(0, "the name of a group must be a text"))?.to_owned();
        self.graph.add_group(&name)?;
        for section in ["vars", "children", "hosts"] {
            match sections.get(section) {
                None | Some(Value::Null | Value::Map(_) | Value::Text(_) | Value::Unsafe(_)) => {}
                Some(other) => {
                    let message =
                        format!("{section:?} of group {name:?} must be a map, not {}", other.kind());
                    return Err(SourceError::at(0, message));
                }
            }
        }
        for (section, entries) in sections.iter() {
            self.section(&name, section, entries)?;
        }
        Ok(name)
    }

    fn skip(&mut self, group: &str, reason: String) {
        self.skipped.push(Skipped { group: group.to_owned(), reason });
    }

    fn section(&mut self, group: &str, section: &Value, entries: &Value) -> Result<(), SourceError> {
        let known = section.as_text().filter(|section| matches!(*section, "vars" | "children" | "hosts"));
        let single: Map;
        let entries = match (known, entries) {
            (_, Value::Null) => return Ok(()),
            (_, Value::Map(entries)) => entries,
            // One name alone, without a colon.
            (Some(_), Value::Text(text) | Value::Unsafe(text)) => {
                single = Map::from_iter([(text.as_str(), Value::Null)]);
                &single
            }
            (_, other) => {
                let key = section.as_text().map_or_else(|| section.kind().to_owned(), str::to_owned);
                self.skip(group, format!("its key {key:?} is {}", other.kind()));
                return Ok(());
            }
        };
        match known {
            Some("vars") => {
                for (key, value) in entries.iter() {
                    self.graph.set_variable(group, key.clone(), value.clone())?;
                }
            }
            Some("children") => {
                for (child, data) in entries.iter() {
                    let child = self.group(child, data)?;
                    self.graph.add_child(group, &child)?;
                }
            }
            Some(_) => {
                for (pattern, variables) in entries.iter() {
                    self.host(group, pattern, variables)?;
                }
            }
            None => {
                let key = section.as_text().map_or_else(|| section.kind().to_owned(), str::to_owned);
                self.skip(group, format!("its key {key:?} is none of vars, children and hosts"));
            }
        }
        Ok(())
    }

    fn host(&mut self, group: &str, pattern: &Value, variables: &Value) -> Result<(), SourceError> {
        let pattern = pattern.as_text();
        let pattern =
            pattern.ok_or_else(|| SourceError::at(0, "the name of a host must be a text; quote numbers"))?;
        let (names, port) = hosts::expand(pattern).map_err(|error| SourceError::at(0, error.to_string()))?;
        match variables {
            Value::Map(variables) => populate(self.graph, &names, variables, group, port)?,
            other if !other.is_truthy() => populate(self.graph, &names, &Map::new(), group, port)?,
            other => {
                let message =
                    format!("the variables of host {pattern:?} must be a map, not {}", other.kind());
                return Err(SourceError::at(0, message));
            }
        }
        Ok(())
    }
}
