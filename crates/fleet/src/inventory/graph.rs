//! Groups and hosts and how they hang together: Ansible's own bookkeeping, quirks included.
//!
//! Order, depth and membership decide precedence, so every operation here does what Ansible's does,
//! also where a host has the name of a group. Reading files is elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::python;
use super::value::{Map, Value};

/// Index of a group in its graph.
pub(crate) type GroupId = usize;
/// Index of a host in its graph.
pub(crate) type HostId = usize;

/// The group that every host is in.
pub(crate) const ALL: &str = "all";
/// The group of hosts that are in no other.
pub(crate) const UNGROUPED: &str = "ungrouped";

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub name: String,
    /// Longest way down from a group without parents.
    pub depth: usize,
    pub priority: i64,
    pub vars: Map,
    pub hosts: Vec<HostId>,
    members: HashSet<HostId>,
    pub children: Vec<GroupId>,
    pub parents: Vec<GroupId>,
    /// Where each variable stands, if the graph notes that.
    pub origins: Origins,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub name: String,
    pub vars: Map,
    /// With all their ancestors; in no order that means anything.
    pub groups: Vec<GroupId>,
    /// The file that named it first.
    pub origin: Option<Source>,
    /// Where each variable stands, if the graph notes that.
    pub origins: Origins,
}

/// The files in which variables stand, by the names of the variables.
pub(crate) type Origins = BTreeMap<String, Arc<str>>;

/// Why something can't be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GraphError {
    #[error("a group or host has an empty name")]
    EmptyName,
    #[error("there is no group or host {0:?}")]
    Unknown(String),
    #[error("the group {0:?} would be its own child")]
    OwnChild(String),
    #[error("the group {child:?} under {parent:?} closes a circle")]
    Circle { parent: String, child: String },
    #[error("ansible_group_priority must be a whole number, not {0}")]
    Priority(String),
}

/// All groups and hosts of an inventory, in the order they were added.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    pub groups: Vec<Group>,
    pub hosts: Vec<Host>,
    group_ids: HashMap<String, GroupId>,
    host_ids: HashMap<String, HostId>,
    /// The file being read: hosts remember where they came from first.
    pub source: Option<Source>,
    /// Whether to note where each variable stands: for people, devices need it not.
    pub noting: bool,
    /// The file whose variables are being set, if that is noted.
    file: Option<Arc<str>>,
}

/// Where a host was first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub file: String,
    pub folder: String,
}

impl Graph {
    pub fn new() -> Self {
        let mut graph = Self {
            groups: Vec::new(),
            hosts: Vec::new(),
            group_ids: HashMap::new(),
            host_ids: HashMap::new(),
            source: None,
            noting: false,
            file: None,
        };
        let all = graph.push_group(ALL);
        let ungrouped = graph.push_group(UNGROUPED);
        graph.groups[all].children.push(ungrouped);
        graph.groups[ungrouped].parents.push(all);
        graph.groups[ungrouped].depth = 1;
        graph
    }

    /// Notes that what comes next stands in this file.
    pub fn note(&mut self, file: &str) {
        self.file = self.noting.then(|| file.into());
    }

    fn push_group(&mut self, name: &str) -> GroupId {
        let id = self.groups.len();
        self.groups.push(Group { name: name.to_owned(), priority: 1, ..Group::default() });
        self.group_ids.insert(name.to_owned(), id);
        id
    }

    pub fn group_id(&self, name: &str) -> Option<GroupId> {
        self.group_ids.get(name).copied()
    }

    pub fn host_id(&self, name: &str) -> Option<HostId> {
        self.host_ids.get(name).copied()
    }

    pub fn add_group(&mut self, name: &str) -> Result<GroupId, GraphError> {
        match self.group_id(name) {
            Some(id) => Ok(id),
            None if name.is_empty() => Err(GraphError::EmptyName),
            None => Ok(self.push_group(name)),
        }
    }

    pub fn add_host(
        &mut self,
        name: &str,
        group: Option<&str>,
        port: Option<i64>,
    ) -> Result<HostId, GraphError> {
        if name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        let group = match group {
            Some(group) => Some(self.group_id(group).ok_or_else(|| GraphError::Unknown(group.to_owned()))?),
            None => None,
        };
        let id = match self.host_id(name) {
            Some(id) => id,
            None => self.push_host(name, port),
        };
        if let Some(group) = group {
            self.put_host(group, id);
        }
        Ok(id)
    }

    fn push_host(&mut self, name: &str, port: Option<i64>) -> HostId {
        let id = self.hosts.len();
        let mut host = Host { name: name.to_owned(), origin: self.source.clone(), ..Host::default() };
        if let Some(port) = port.filter(|&port| port != 0) {
            host.vars.insert(Value::text("ansible_port"), Value::Int(port.into()));
            host.origins.extend(self.file.clone().map(|file| ("ansible_port".to_owned(), file)));
        }
        self.hosts.push(host);
        self.host_ids.insert(name.to_owned(), id);
        id
    }

    /// Sets a variable of the group with this name or, if there is none, of the host.
    pub fn set_variable(&mut self, entity: &str, key: Value, value: Value) -> Result<(), GraphError> {
        if let Some(group) = self.group_id(entity) {
            if key.as_text() == Some("ansible_group_priority") {
                self.groups[group].priority = priority(&value)?;
                return Ok(());
            }
            let group = &mut self.groups[group];
            note(&mut group.origins, &key, self.file.as_ref());
            group.vars.insert(key, value);
        } else if let Some(host) = self.host_id(entity) {
            self.set_host_variable(host, key, value);
        } else {
            return Err(GraphError::Unknown(entity.to_owned()));
        }
        Ok(())
    }

    /// Sets a variable of a host, also if a group has its name.
    pub fn set_host_variable(&mut self, host: HostId, key: Value, value: Value) {
        let host = &mut self.hosts[host];
        note(&mut host.origins, &key, self.file.as_ref());
        host.vars.insert(key, value);
    }

    /// Puts a group or, if no group has the name, a host under a group.
    pub fn add_child(&mut self, parent: &str, child: &str) -> Result<(), GraphError> {
        let parent = self.group_id(parent).ok_or_else(|| GraphError::Unknown(parent.to_owned()))?;
        if let Some(child) = self.group_id(child) {
            return self.put_group(parent, child);
        }
        let child = self.host_id(child).ok_or_else(|| GraphError::Unknown(child.to_owned()))?;
        self.put_host(parent, child);
        Ok(())
    }

    fn put_host(&mut self, group: GroupId, host: HostId) {
        if !self.groups[group].members.insert(host) {
            return;
        }
        self.groups[group].hosts.push(host);
        let mut joined = self.ancestors(group);
        joined.insert(group);
        self.join(host, &joined);
    }

    fn join(&mut self, host: HostId, groups: &BTreeSet<GroupId>) {
        let mine = &mut self.hosts[host].groups;
        for &group in groups {
            if !mine.contains(&group) {
                mine.push(group);
            }
        }
    }

    fn put_group(&mut self, parent: GroupId, child: GroupId) -> Result<(), GraphError> {
        if parent == child {
            return Err(GraphError::OwnChild(self.groups[parent].name.clone()));
        }
        if self.groups[parent].children.contains(&child) {
            return Ok(());
        }
        let known = self.ancestors(child);
        let mut gained = self.ancestors(parent);
        if gained.contains(&child) {
            let name = |id: GroupId| self.groups[id].name.clone();
            return Err(GraphError::Circle { parent: name(parent), child: name(child) });
        }
        gained.insert(parent);
        gained.retain(|group| !known.contains(group));
        self.groups[parent].children.push(child);
        self.deepen(child, self.groups[parent].depth + 1);
        self.groups[child].parents.push(parent);
        for host in self.hosts_under(child) {
            self.join(host, &gained);
        }
        Ok(())
    }

    /// Raises the depth of a group, and of those below it that were no deeper. There are no
    /// circles, so this ends.
    fn deepen(&mut self, group: GroupId, depth: usize) {
        let mut open = vec![(group, depth)];
        while let Some((group, depth)) = open.pop() {
            if self.groups[group].depth < depth {
                self.groups[group].depth = depth;
                open.extend(self.groups[group].children.iter().map(|&child| (child, depth + 1)));
            }
        }
    }

    /// All groups above a group.
    pub fn ancestors(&self, group: GroupId) -> BTreeSet<GroupId> {
        let mut seen = BTreeSet::new();
        let mut open = self.groups[group].parents.clone();
        while let Some(group) = open.pop() {
            if seen.insert(group) {
                open.extend(&self.groups[group].parents);
            }
        }
        seen
    }

    /// The hosts of a group and of all groups below it, each once.
    fn hosts_under(&self, group: GroupId) -> Vec<HostId> {
        let mut hosts = Vec::new();
        let mut known = HashSet::new();
        let mut seen = HashSet::from([group]);
        let mut open = vec![group];
        while let Some(group) = open.pop() {
            hosts.extend(self.groups[group].hosts.iter().copied().filter(|&host| known.insert(host)));
            open.extend(self.groups[group].children.iter().copied().filter(|&child| seen.insert(child)));
        }
        hosts
    }

    /// What Ansible does once after all sources: every group comes under `all`, and `ungrouped` has
    /// the hosts that no other group has.
    pub fn reconcile(&mut self) -> Result<(), GraphError> {
        self.source = None;
        let (all, ungrouped) = (self.groups[0].name.clone(), self.groups[1].name.clone());
        for group in 0..self.groups.len() {
            if self.groups[group].name != all && self.groups[group].parents.is_empty() {
                self.put_group(0, group)?;
            }
        }
        for host in 0..self.hosts.len() {
            let mine = &self.hosts[host].groups;
            if mine.contains(&1) {
                if mine.iter().any(|&group| group > 1) {
                    self.leave_ungrouped(host);
                }
            } else if mine.is_empty() || mine.as_slice() == [0] {
                let name = self.hosts[host].name.clone();
                self.add_child(&ungrouped, &name)?;
            }
        }
        Ok(())
    }

    fn leave_ungrouped(&mut self, host: HostId) {
        let group = &mut self.groups[1];
        if group.members.remove(&host) {
            group.hosts.retain(|&member| member != host);
            self.leave(host, 1);
        }
    }

    /// Takes a group from a host's list, and ancestors that it has through no other group.
    fn leave(&mut self, host: HostId, group: GroupId) {
        let before = self.hosts[host].groups.len();
        self.hosts[host].groups.retain(|&mine| mine != group);
        if self.hosts[host].groups.len() == before {
            return;
        }
        for ancestor in self.ancestors(group) {
            let mine = &self.hosts[host].groups;
            if ancestor != 0 && !mine.iter().any(|&other| self.ancestors(other).contains(&ancestor)) {
                self.leave(host, ancestor);
            }
        }
    }

    /// Whether a group names a host itself, not only through a group below it.
    pub fn names(&self, group: GroupId, host: HostId) -> bool {
        self.groups[group].members.contains(&host)
    }

    /// Groups in the order in which their variables override each other, the last one winning.
    pub fn by_precedence(&self, groups: &[GroupId]) -> Vec<GroupId> {
        let mut sorted = groups.to_vec();
        sorted.sort_by(|&a, &b| {
            let (a, b) = (&self.groups[a], &self.groups[b]);
            (a.depth, a.priority, &a.name).cmp(&(b.depth, b.priority, &b.name))
        });
        sorted
    }
}

fn note(origins: &mut Origins, key: &Value, file: Option<&Arc<str>>) {
    if let (Some(file), Some(name)) = (file, key.as_text()) {
        origins.insert(name.to_owned(), Arc::clone(file));
    }
}

/// `int(value)`
fn priority(value: &Value) -> Result<i64, GraphError> {
    let number = match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Int(value) => value.to_i64(),
        // Within these bounds the conversion is exact, beyond them nobody sets a priority.
        #[allow(clippy::cast_possible_truncation)]
        Value::Float(value) if value.abs() < 1e15 => Some(value.trunc() as i64),
        Value::Text(text) | Value::Unsafe(text) => python::integer(text).and_then(|number| number.to_i64()),
        Value::Null
        | Value::Float(_)
        | Value::Vault(_)
        | Value::Bytes(_)
        | Value::Time(_)
        | Value::List(_)
        | Value::Set(_)
        | Value::Map(_) => None,
    };
    number.ok_or_else(|| GraphError::Priority(value.kind().to_owned()))
}
