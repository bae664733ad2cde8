//! The layout for large fleets: the groups in one small file, and one small file for each host.
//!
//! ```text
//! inventory.yml                    plugin: volary.fleet.host_files
//! inventory/groups.yml             GROUP: {children: [GROUP, …], vars: {…}}
//! inventory/hosts/3f/web-1.yml     groups: [GROUP, …]   vars: {…}   order: N
//! ```
//!
//! `3f` is the beginning of the SHA-256 of the host's name, so that whoever knows the name finds the
//! file without looking through the others. The plugin of the collection `volary.fleet` reads the
//! same for Ansible; both must do the same in the same order. Writing is in `split`.

use sha2::{Digest as _, Sha256};

use super::document::{self, LoadError};
use super::error::{InventoryError, Reason, Warning};
use super::graph::{Graph, HostId};
use super::tree::{self, FileTree, Target};
use super::value::{Map, Value};

/// What the configuration file names as its plugin.
pub(crate) const PLUGIN: &str = "volary.fleet.host_files";

/// The file of the groups in the folder.
pub(crate) const GROUPS_FILE: &str = "groups.yml";

/// The folder of the hosts in the folder.
pub(crate) const HOSTS_FOLDER: &str = "hosts";

/// The folder, unless the configuration names another.
pub(crate) const FOLDER: &str = "inventory";

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The folder with `groups.yml` and `hosts/`, from the root of the tree.
    pub folder: String,
}

impl Config {
    /// The configuration that stands in a file, if that names our plugin.
    pub fn of(file: &str, value: &Value) -> Option<Result<Self, InventoryError>> {
        let map = value.as_map()?;
        if map.get("plugin").and_then(Value::as_text) != Some(PLUGIN) {
            return None;
        }
        Some(Self::parse(file, map))
    }

    fn parse(file: &str, map: &Map) -> Result<Self, InventoryError> {
        let mut folder = FOLDER;
        for (key, value) in map.iter() {
            match (key.as_text(), value.as_text()) {
                (Some("plugin"), _) => {}
                (Some("folder"), Some(text)) => folder = text,
                (Some("folder"), None) => return Err(wrong(file, "`folder` must be a text")),
                _ => return Err(wrong(file, "only `plugin` and `folder` may stand here")),
            }
        }
        let inside = tree::join(tree::parent(file), folder).filter(|_| !folder.starts_with('/'));
        match inside {
            Some(folder) if !folder.is_empty() => Ok(Self { folder }),
            _ => Err(wrong(file, format!("the folder {folder:?} must be one inside the repository"))),
        }
    }

    /// The folder of the hosts.
    pub fn hosts(&self) -> String {
        format!("{}/{HOSTS_FOLDER}", self.folder)
    }
}

/// The folder in `hosts/` that a host's file is in.
pub(crate) fn shard(host: &str) -> String {
    format!("{:02x}", Sha256::digest(host.as_bytes())[0])
}

/// Where a host's file is, from the folder of the hosts.
pub(crate) fn host_path(host: &str) -> String {
    format!("{}/{host}.yml", shard(host))
}

/// Why no file can have a host's name.
pub(crate) fn name_problem(host: &str) -> Option<&'static str> {
    if host.contains(['/', '\0', '\n']) || host.starts_with('.') {
        Some("has a slash or a line break in it, or begins with a dot")
    } else if host.len() > 240 {
        Some("is longer than 240 bytes")
    } else {
        None
    }
}

fn wrong(file: &str, message: impl Into<String>) -> InventoryError {
    InventoryError::HostFiles { file: file.to_owned(), message: message.into() }
}

/// Adds the groups, and all hosts or only one, to a graph.
pub(crate) fn read(
    tree: &dyn FileTree,
    graph: &mut Graph,
    config: &Config,
    only: Option<&str>,
    warnings: &mut Vec<Warning>,
) -> Result<(), InventoryError> {
    let mut reader = Reader { tree, graph, config, warnings };
    reader.groups()?;
    let names = match only {
        Some(name) if name_problem(name).is_some() => Vec::new(),
        Some(name) => vec![name.to_owned()],
        None => reader.names()?,
    };
    let mut hosts = Vec::new();
    for name in names {
        hosts.extend(reader.host_file(&name)?);
    }
    let key = |host: &HostFile| (host.order.is_none(), host.order);
    hosts.sort_by(|a, b| {
        key(a).cmp(&key(b)).then_with(|| natural(&a.name).cmp(&natural(&b.name))).then(a.name.cmp(&b.name))
    });
    hosts.into_iter().try_for_each(|host| reader.add(host))
}

/// What one file says about its host.
struct HostFile {
    name: String,
    file: String,
    order: Option<i64>,
    groups: Vec<String>,
    vars: Map,
}

struct Reader<'a> {
    tree: &'a dyn FileTree,
    graph: &'a mut Graph,
    config: &'a Config,
    warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    /// First all groups, then what is in them, so that the order of the file is that of the groups.
    fn groups(&mut self) -> Result<(), InventoryError> {
        let file = format!("{}/{GROUPS_FILE}", self.config.folder);
        let Some(map) = self.map(&file)? else { return Ok(()) };
        let mut names = Vec::new();
        for (name, _) in map.iter() {
            let name = name.as_text().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| wrong(&file, "the name of a group must be a text"))?;
            self.graph.add_group(name).map_err(|error| wrong(&file, error.to_string()))?;
            names.push(name.to_owned());
        }
        self.graph.note(&file);
        for (name, (_, data)) in names.iter().zip(map.iter()) {
            self.group(&file, name, data)?;
        }
        Ok(())
    }

    fn group(&mut self, file: &str, name: &str, data: &Value) -> Result<(), InventoryError> {
        let sections = match data {
            Value::Null => return Ok(()),
            Value::Map(sections) => sections,
            other => return Err(wrong(file, format!("group {name:?} must be a map, not {}", other.kind()))),
        };
        for (section, entries) in sections.iter() {
            match (section.as_text(), entries) {
                (Some("children" | "vars"), Value::Null) => {}
                (Some("children"), entries) => {
                    for child in texts(entries).ok_or_else(|| {
                        wrong(file, format!("`children` of {name:?} must be a list of names"))
                    })? {
                        if self.graph.group_id(child).is_none() {
                            return Err(undeclared(file, file, child));
                        }
                        self.graph.add_child(name, child).map_err(|error| wrong(file, error.to_string()))?;
                    }
                }
                (Some("vars"), Value::Map(vars)) => {
                    for (key, value) in vars.iter() {
                        self.graph
                            .set_variable(name, key.clone(), value.clone())
                            .map_err(|error| wrong(file, error.to_string()))?;
                    }
                }
                (Some("vars"), _) => return Err(wrong(file, format!("`vars` of {name:?} must be a map"))),
                _ => {
                    let message = format!(
                        "group {name:?} may have only `children` and `vars`; hosts have files of their own"
                    );
                    return Err(wrong(file, message));
                }
            }
        }
        Ok(())
    }

    /// The names of all hosts, each in the folder where it belongs.
    fn names(&self) -> Result<Vec<String>, InventoryError> {
        let folder = self.config.hosts();
        let mut names = Vec::new();
        for shard in self.list(&folder)? {
            let inner = format!("{folder}/{shard}");
            for file in self.list(&inner)? {
                let path = format!("{inner}/{file}");
                let name = file
                    .strip_suffix(".yml")
                    .ok_or_else(|| wrong(&path, "only files of hosts, NAME.yml, may stand here"))?;
                let right = self::shard(name);
                if right != shard {
                    return Err(wrong(&path, format!("it belongs into {folder}/{right}/")));
                }
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The names in a folder that are not hidden.
    fn list(&self, path: &str) -> Result<Vec<String>, InventoryError> {
        match tree::resolve(self.tree, path).map_err(InventoryError::read(path))? {
            Target::Folder { path: folder } if folder == path => {
                let mut names = self.tree.list(path).map_err(InventoryError::read(path))?;
                names.retain(|name| !name.starts_with('.'));
                Ok(names)
            }
            Target::Nothing => Ok(Vec::new()),
            Target::File { .. } | Target::Folder { .. } | Target::Outside => {
                Err(wrong(path, "only folders with files of hosts may stand here, and no links"))
            }
        }
    }

    fn host_file(&mut self, name: &str) -> Result<Option<HostFile>, InventoryError> {
        let file = format!("{}/{}", self.config.hosts(), host_path(name));
        let Some(map) = self.map(&file)? else { return Ok(None) };
        let mut host =
            HostFile { name: name.to_owned(), file, order: None, groups: Vec::new(), vars: Map::new() };
        for (key, value) in map.iter() {
            let bad = |what: &str| wrong(&host.file, what);
            match (key.as_text(), value) {
                (Some("groups" | "vars"), Value::Null) => {}
                (Some("order"), Value::Int(order)) => {
                    host.order = Some(order.to_i64().ok_or_else(|| bad("`order` is too large"))?);
                }
                (Some("order"), _) => return Err(bad("`order` must be a whole number")),
                (Some("groups"), groups) => {
                    let names = texts(groups).ok_or_else(|| bad("`groups` must be a list of names"))?;
                    host.groups = names.into_iter().map(str::to_owned).collect();
                }
                (Some("vars"), Value::Map(vars)) => host.vars = vars.clone(),
                (Some("vars"), _) => return Err(bad("`vars` must be a map")),
                _ => {
                    return Err(bad(
                        "only `groups`, `vars` and `order` may stand here; variables belong below `vars`",
                    ));
                }
            }
        }
        Ok(Some(host))
    }

    fn add(&mut self, host: HostFile) -> Result<(), InventoryError> {
        let failed = |error: super::graph::GraphError| wrong(&host.file, error.to_string());
        let id: HostId = self.graph.add_host(&host.name, None, None).map_err(failed)?;
        for group in &host.groups {
            if self.graph.group_id(group).is_none() {
                let groups = format!("{}/{GROUPS_FILE}", self.config.folder);
                return Err(undeclared(&host.file, &groups, group));
            }
            self.graph.add_host(&host.name, Some(group), None).map_err(failed)?;
        }
        self.graph.note(&host.file);
        for (key, value) in host.vars.iter() {
            self.graph.set_host_variable(id, key.clone(), value.clone());
        }
        Ok(())
    }

    /// The map in a file; `None` if there is no file.
    fn map(&mut self, file: &str) -> Result<Option<Map>, InventoryError> {
        match tree::resolve(self.tree, file).map_err(InventoryError::read(file))? {
            Target::File { path, .. } if path == file => {}
            Target::Nothing => return Ok(None),
            Target::File { .. } | Target::Folder { .. } | Target::Outside => {
                return Err(wrong(file, "it must be a file, and no link on the way to it"));
            }
        }
        let bytes = self.tree.read(file).map_err(InventoryError::read(file))?;
        let document = match document::load(&bytes) {
            Ok(document) => document,
            Err(LoadError::Sealed) => return Err(Reason::SealedInventory.of(file).into()),
            Err(LoadError::Beyond { what }) => return Err(Reason::Rare { what }.of(file).into()),
            Err(LoadError::Syntax { line: 0, message }) => return Err(wrong(file, message)),
            Err(LoadError::Syntax { line, message }) => {
                return Err(wrong(file, format!("line {line}: {message}")));
            }
        };
        for (line, key) in document.duplicates {
            self.warnings.push(Warning::DuplicateKey { file: file.to_owned(), line, key });
        }
        match document.value {
            Value::Map(map) => Ok(Some(map)),
            other if other.is_truthy() => {
                Err(wrong(file, format!("a map is needed, this is {}", other.kind())))
            }
            _ => Ok(Some(Map::new())),
        }
    }
}

fn undeclared(file: &str, groups: &str, group: &str) -> InventoryError {
    wrong(file, format!("the group {group:?} is not in {groups}; add the line `{group}:` there"))
}

fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::List(items) => {
            items.iter().map(|item| item.as_text().filter(|text| !text.is_empty())).collect()
        }
        _ => None,
    }
}

/// What puts `web-2` before `web-10`: texts and numbers in turn, beginning with a text.
pub(crate) fn natural(name: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = name;
    loop {
        let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        parts.push(Part::Text(text));
        if after.is_empty() {
            return parts;
        }
        let (digits, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let digits = digits.trim_start_matches('0');
        parts.push(Part::Number(digits.len(), digits));
        rest = after;
    }
}

/// A part of a name. Only parts at the same place are compared, and those are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part<'a> {
    /// No digits in it.
    Text(&'a str),
    /// How many digits after the zeros, and which: compares like the number, of any length.
    Number(usize, &'a str),
}

#[cfg(test)]
mod tests {
    use super::{host_path, natural};

    #[test]
    fn a_host_is_found_by_its_name_alone() {
        // `printf web-1 | sha256sum`
        assert_eq!(host_path("web-1"), "c4/web-1.yml");
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["b", "a10", "a9", "a", "a09x", "10", "9", "a9b1", "a9b"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["9", "10", "a", "a9", "a9b", "a9b1", "a09x", "a10", "b"]);
    }
}
