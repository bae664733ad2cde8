//! Inventories in Ansible's INI format, which is no INI: host lines, `[group:vars]`, `[group:children]`.

use super::graph::{Graph, GraphError, UNGROUPED};
use super::hosts;
use super::literal::{self, LiteralError};
use super::python;
use super::source::SourceError;
use super::value::{Map, Value};
use super::words;

/// Adds what a file says to the graph, up to the first mistake.
pub(crate) fn read(graph: &mut Graph, bytes: &[u8]) -> Result<(), SourceError> {
    let lines = decode(bytes)?;
    let mut reader =
        Reader { graph, pending: Vec::new(), group: UNGROUPED.to_owned(), section: Section::Hosts };
    for (at, line) in lines.iter().enumerate() {
        let line = python::strip(line);
        if !line.is_empty() && !line.starts_with(['#', ';']) {
            reader.line(line).map_err(|error| at_line(error, at + 1))?;
        }
    }
    reader.finish()
}

/// Comments may hold anything; elsewhere Ansible keeps stray bytes in a way that no text here can.
fn decode(bytes: &[u8]) -> Result<Vec<String>, SourceError> {
    let text = String::from_utf8_lossy(bytes);
    let lines = python::lines(&text).into_iter().map(str::to_owned);
    if str::from_utf8(bytes).is_ok() {
        return Ok(lines.collect());
    }
    let comment = |line: &str| python::strip(line).starts_with(['#', ';']);
    lines
        .map(|line| match line.contains(char::REPLACEMENT_CHARACTER) && !comment(&line) {
            true => Err(SourceError::Beyond("a line that is not UTF-8".to_owned())),
            false => Ok(line),
        })
        .collect()
}

fn at_line(error: SourceError, line: usize) -> SourceError {
    match error {
        SourceError::Refused { line: 0, message } => SourceError::Refused { line, message },
        other => other,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Hosts,
    Vars,
    Children,
}

/// A group that was used before it was declared.
struct Pending {
    name: String,
    section: Section,
    parents: Vec<String>,
}

struct Reader<'a> {
    graph: &'a mut Graph,
    pending: Vec<Pending>,
    group: String,
    section: Section,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> Result<(), SourceError> {
        if let Some((name, kind)) = header(line) {
            return self.begin(name, kind);
        }
        if line.starts_with('[') && line.ends_with(']') {
            let message = format!("{line:?} is no section: there must be no spaces or other marks in it");
            return Err(SourceError::at(0, message));
        }
        match self.section {
            Section::Hosts => self.hosts(line),
            Section::Vars => {
                let pair = line.split_once('=');
                let (key, value) =
                    pair.ok_or_else(|| SourceError::at(0, format!("{line:?} is not key=value")))?;
                let value = parse_value(python::strip(value))?;
                Ok(self.graph.set_variable(&self.group, Value::text(python::strip(key)), value)?)
            }
            Section::Children => self.child(line),
        }
    }

    fn begin(&mut self, name: &str, kind: Option<&str>) -> Result<(), SourceError> {
        name.clone_into(&mut self.group);
        self.section = match kind {
            None | Some("hosts") => Section::Hosts,
            Some("vars") => Section::Vars,
            Some("children") => Section::Children,
            Some(kind) => {
                return Err(SourceError::at(0, format!("[{name}:{kind}] is a section of unknown kind")));
            }
        };
        let known = self.pending.iter().position(|pending| pending.name == name);
        if self.graph.group_id(name).is_none() {
            if self.section == Section::Vars && known.is_none() {
                let pending = Pending { name: name.to_owned(), section: Section::Vars, parents: Vec::new() };
                self.pending.push(pending);
            }
            self.graph.add_group(name)?;
        }
        let known = self.pending.iter().position(|pending| pending.name == name);
        match known {
            Some(at) if self.section != Section::Vars => match self.pending[at].section {
                Section::Children => self.adopt(name)?,
                Section::Vars => drop(self.pending.remove(at)),
                Section::Hosts => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Gives a group that was waited for its parents, and them theirs.
    fn adopt(&mut self, name: &str) -> Result<(), SourceError> {
        let find = |pending: &[Pending], name: &str| pending.iter().position(|pending| pending.name == name);
        let Some(at) = find(&self.pending, name) else { return Ok(()) };
        for parent in self.pending[at].parents.clone() {
            self.graph.add_child(&parent, name)?;
            let waiting = find(&self.pending, &parent).map(|at| self.pending[at].section);
            if waiting == Some(Section::Children) && parent != name {
                self.adopt(&parent)?;
            }
        }
        if let Some(at) = find(&self.pending, name) {
            self.pending.remove(at);
        }
        Ok(())
    }

    fn child(&mut self, line: &str) -> Result<(), SourceError> {
        let child =
            child_name(line).ok_or_else(|| SourceError::at(0, format!("{line:?} is no name of a group")))?;
        if self.graph.group_id(child).is_some() {
            return Ok(self.graph.add_child(&self.group, child)?);
        }
        match self.pending.iter_mut().find(|pending| pending.name == child) {
            Some(pending) => pending.parents.push(self.group.clone()),
            None => self.pending.push(Pending {
                name: child.to_owned(),
                section: Section::Children,
                parents: vec![self.group.clone()],
            }),
        }
        Ok(())
    }

    fn hosts(&mut self, line: &str) -> Result<(), SourceError> {
        let words = words::split(line).map_err(|error| SourceError::at(0, error.to_string()))?;
        let Some((pattern, assignments)) = words.split_first() else {
            return Err(SourceError::at(0, "the line names no host"));
        };
        let (names, port) = hosts::expand(pattern).map_err(|error| SourceError::at(0, error.to_string()))?;
        if python::strip(pattern).ends_with(':') && port.is_none() {
            return Err(SourceError::at(0, format!("{pattern:?} ends in a colon, which is for a port")));
        }
        if names.iter().any(|name| python::strip(name) == "---") {
            return Err(SourceError::at(0, "this looks like YAML"));
        }
        let mut variables = Map::new();
        for word in assignments {
            let pair = word.split_once('=');
            let (key, value) =
                pair.ok_or_else(|| SourceError::at(0, format!("{word:?} is not key=value")))?;
            variables.insert(Value::text(key), parse_value(value)?);
        }
        populate(self.graph, &names, &variables, &self.group, port)?;
        Ok(())
    }

    fn finish(self) -> Result<(), SourceError> {
        let Some(first) = self.pending.first() else { return Ok(()) };
        let message = match first.section {
            Section::Vars | Section::Hosts => format!("[{0}:vars] is there, but no group {0}", first.name),
            Section::Children => {
                format!("{} is a child of {}, but no group", first.name, first.parents.join(", "))
            }
        };
        Err(SourceError::at(0, message))
    }
}

/// Adds hosts to a group and gives each the variables.
pub(crate) fn populate(
    graph: &mut Graph,
    names: &[String],
    variables: &Map,
    group: &str,
    port: Option<i64>,
) -> Result<(), GraphError> {
    for name in names {
        graph.add_host(name, Some(group), port)?;
        for (key, value) in variables.iter() {
            graph.set_variable(name, key.clone(), value.clone())?;
        }
    }
    Ok(())
}

fn parse_value(text: &str) -> Result<Value, SourceError> {
    literal::parse(text).map_err(|error| match error {
        LiteralError::Unhashable => {
            SourceError::at(0, format!("{text:?} is a Python set or map with a list inside"))
        }
        LiteralError::Beyond(what) => SourceError::Beyond(what),
    })
}

/// The name on a line of a `children` section. A `#` may be in it, unless what follows is no name.
fn child_name(line: &str) -> Option<&str> {
    let end = line.find(|c: char| c == ':' || c == ']' || python::is_space(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(python::is_space);
    let name = match rest.is_empty() || rest.starts_with('#') {
        true => name,
        false => &name[..name.rfind('#')?],
    };
    if name.is_empty() { None } else { Some(name) }
}

/// `[name]` or `[name:kind]`, with a comment after it or not.
fn header(line: &str) -> Option<(&str, Option<&str>)> {
    let (inner, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start_matches(python::is_space);
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    let (name, kind) = match inner.split_once(':') {
        Some((name, kind)) => (name, Some(kind)),
        None => (inner, None),
    };
    let word = |kind: &str| !kind.is_empty() && kind.chars().all(|c| c.is_alphanumeric() || c == '_');
    (!name.is_empty() && !name.contains(python::is_space) && kind.is_none_or(word)).then_some((name, kind))
}
