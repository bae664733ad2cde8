//! `volary inventory split`: plans how an inventory of any form becomes one with a file for each
//! host, and proves that it says the same before anything is written.
//!
//! The texts are made in `split_text`. Not here: git, and writing to disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::error::InventoryError;
use super::graph::{Graph, GroupId};
use super::host_files::{self, Config};
use super::json;
use super::split_text::{self, HostText};
use super::tree::{self, Entry, FileTree, Target};
use super::value::Value;
use super::vars::{Entity, VarsReader};
use super::{Inventory, Layout};

/// Where the collection's plugin is in a fleet repository.
const PLUGIN_FILE: &str = "collections/ansible_collections/volary/fleet/plugins/inventory/host_files.py";
const PLUGIN: &str =
    include_str!("../../../../collections/ansible_collections/volary/fleet/plugins/inventory/host_files.py");

/// One change of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new file, or new content.
    Write {
        /// Its path.
        path: String,
        /// Its content.
        text: String,
    },
    /// A file that goes.
    Remove {
        /// Its path.
        path: String,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// In the order in which they must be made: after each of them the inventory says the same.
    pub changes: Vec<Change>,
    /// The file that is the inventory then.
    pub source: String,
    /// How many hosts it has.
    pub hosts: usize,
    /// What is not as before, for people.
    pub notes: Vec<String>,
}

/// Why an inventory is not split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// It can't be read.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// There is none, or there are several.
    #[error("an inventory of one source is needed")]
    Several,
    /// It is split.
    #[error("hosts have files of their own already, in {0}")]
    Already(String),
    /// There is something where the new files would be.
    #[error("{0} is there already, where new files would be; rename it")]
    Taken(String),
    /// A host's name can't be that of a file.
    #[error("the host name {name:?} {problem}, so no file can have it; rename the host")]
    Name {
        /// The host.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// What such groups mean depends on the order of everything.
    #[error("`all` or `ungrouped` is in the `children` of other groups; take it out there")]
    Odd,
    /// What Ansible does with such a name depends on the order of everything.
    #[error("{0:?} is a group and a host; rename one of them")]
    SameName(String),
    /// What would be written says something else.
    #[error("nothing was written: after the split {0}; this is a fault of volary")]
    Differs(String),
}

impl Split {
    /// Plans the split of an inventory that has one source.
    ///
    /// # Errors
    /// [`SplitError`].
    pub fn plan(tree: &dyn FileTree, layout: &Layout) -> Result<Self, SplitError> {
        let [old] = layout.sources.as_slice() else { return Err(SplitError::Several) };
        let inventory = Inventory::read(tree, layout)?;
        if let Some(unreadable) = inventory.unreadable() {
            return Err(InventoryError::from(unreadable.clone()).into());
        }
        if let Some(folder) = inventory.hosts_folders().first() {
            return Err(SplitError::Already(folder.clone()));
        }
        for name in inventory.hosts() {
            if let Some(problem) = host_files::name_problem(name) {
                return Err(SplitError::Name { name: name.to_owned(), problem });
            }
        }
        let place = Place::choose(tree, old, &inventory)?;
        // A folder of sources stays one, with one source in it.
        let after = if place.is_folder { old } else { &place.source };
        let after = Layout { sources: vec![after.clone()], playbook_folder: layout.playbook_folder.clone() };
        let mut planner =
            Planner { tree, inventory: &inventory, place, notes: Vec::new(), told: BTreeMap::new() };
        let changes = planner.changes()?;
        planner.sum_up();
        let order = planner.order();
        let split = Self {
            changes,
            source: planner.place.source.clone(),
            hosts: inventory.graph.hosts.len(),
            notes: planner.notes,
        };
        split.prove(tree, &inventory, &after, order.is_some()).map_err(|error| match error {
            SplitError::Differs(_) => why(&inventory.graph).unwrap_or(error),
            error => error,
        })?;
        Ok(split)
    }

    /// Compares what the inventory says after all changes with what it says now.
    fn prove(
        &self,
        tree: &dyn FileTree,
        before: &Inventory,
        layout: &Layout,
        ordered: bool,
    ) -> Result<(), SplitError> {
        let after = Changed::new(tree, &self.changes);
        let now = Inventory::read(&after, layout)?;
        let differs = |what: String| SplitError::Differs(what);
        let groups = |inventory: &Inventory| inventory.groups().map(str::to_owned).collect::<Vec<_>>();
        if groups(before) != groups(&now) {
            return Err(differs("there are other groups".to_owned()));
        }
        for group in before.groups() {
            let mut pair = [before.members(group), now.members(group)];
            if !ordered {
                pair.iter_mut().flatten().for_each(|(hosts, _)| hosts.sort_unstable());
            }
            if pair[0] != pair[1] {
                return Err(differs(format!("the group {group:?} has other members")));
            }
        }
        if before.hosts().count() != now.hosts().count() {
            return Err(differs("there are other hosts".to_owned()));
        }
        for name in before.hosts() {
            let (was, is) = (before.host(tree, name)?, now.host(&after, name)?);
            if was.groups != is.groups {
                return Err(differs(format!("the host {name:?} is in other groups")));
            }
            let other = |key: &Value| !is_same(was.variables.get_value(key), is.variables.get_value(key));
            let mut keys = was.variables.iter().chain(is.variables.iter()).map(|(key, _)| key);
            if let Some(key) = keys.find(|key| other(key)) {
                let key = key.as_text().unwrap_or("of which the name is no text");
                return Err(differs(format!("the host {name:?} has another variable {key}")));
            }
            if was.sealed != is.sealed {
                return Err(differs(format!("the host {name:?} has other vaulted files")));
            }
        }
        Ok(())
    }
}

/// Why groups may not be the same when they are written down in another order.
fn why(graph: &Graph) -> Option<SplitError> {
    let [all, ungrouped] = [0, 1].map(|group: GroupId| &graph.groups[group]);
    if !all.parents.is_empty() || ungrouped.parents != [0] || !ungrouped.children.is_empty() {
        return Some(SplitError::Odd);
    }
    let both = graph.hosts.iter().find(|host| graph.group_id(&host.name).is_some());
    both.map(|host| SplitError::SameName(host.name.clone()))
}

/// Also what is no number, which is not equal to itself.
fn is_same(was: Option<&Value>, is: Option<&Value>) -> bool {
    was == is || was.map(json::to_json) == is.map(json::to_json)
}

/// Where everything goes.
struct Place {
    /// What was the inventory.
    old: String,
    /// Whether that is a folder of sources.
    is_folder: bool,
    /// The configuration of the plugin.
    source: String,
    /// The folder in that configuration.
    folder: String,
    config: Config,
}

/// The names after which `inventory/` is looked for: there it may be made before the switch.
const BEFORE_FOLDER: [&str; 3] = ["inventory.yml", "inventory.yaml", "inventory.ini"];

impl Place {
    /// The configuration stands where the old source has its `group_vars` beside it, so those stay.
    fn choose(tree: &dyn FileTree, old: &str, inventory: &Inventory) -> Result<Self, SplitError> {
        let target = tree::resolve(tree, old).map_err(InventoryError::read(old))?;
        let is_folder = matches!(target, Target::Folder { .. });
        let above = tree::parent(old);
        let beside = |name: &str| tree::join(above, name).unwrap_or_default();
        let is_there = |path: &str| tree.entry(path).map(|entry| entry.is_some());
        let is_there = |path: &str| is_there(path).map_err(InventoryError::read(path));
        let name = old.rsplit('/').next().unwrap_or(old);
        let name = match BEFORE_FOLDER.contains(&name) && !is_there(&beside(host_files::FOLDER))? {
            true => host_files::FOLDER,
            false => "inventory.d",
        };
        let (source, folder) = match is_folder {
            // Ansible would take the files of hosts for inventories if they stood in the folder.
            true => (format!("{old}/inventory.yml"), format!("../{name}")),
            false => (beside("inventory.yml"), name.to_owned()),
        };
        let config = Config { folder: beside(name) };
        for path in [&config.folder, &source] {
            if is_there(path)? && !inventory.files.contains(path) {
                return Err(SplitError::Taken(path.clone()));
            }
        }
        Ok(Self { old: old.to_owned(), is_folder, source, folder, config })
    }
}

struct Planner<'a> {
    tree: &'a dyn FileTree,
    inventory: &'a Inventory,
    place: Place,
    notes: Vec<String>,
    /// Hosts about which there is the same to say.
    told: BTreeMap<String, Vec<String>>,
}

/// So many hosts are named in a note, the rest is counted.
const NAMED: usize = 5;

impl Planner<'_> {
    fn changes(&mut self) -> Result<Vec<Change>, SplitError> {
        let mut changes = Vec::new();
        let mut write = |path: String, text: String| changes.push(Change::Write { path, text });
        let graph = &self.inventory.graph;
        write(
            format!("{}/{}", self.place.config.folder, host_files::GROUPS_FILE),
            split_text::groups(graph, self.needs_all()),
        );
        let mut folded = BTreeSet::new();
        let order = self.order();
        for (at, host) in graph.hosts.iter().enumerate() {
            let order = order.as_ref().and_then(|order| order.get(&at).copied());
            let text = self.host(at, order, &mut folded)?;
            write(format!("{}/{}", self.place.config.hosts(), host_files::host_path(&host.name)), text);
        }
        if order.is_none() {
            self.notes.push("the order of the hosts in their groups is that of their names now".to_owned());
        }
        if self.tree.entry(PLUGIN_FILE).map_err(InventoryError::read(PLUGIN_FILE))?.is_none() {
            write(PLUGIN_FILE.to_owned(), PLUGIN.to_owned());
        }
        write(self.place.source.clone(), split_text::config(&self.place.folder));
        if let Some(text) = self.settings()? {
            write("ansible.cfg".to_owned(), text);
        }
        for path in self.inventory.files.iter().filter(|path| **path != self.place.source).chain(&folded) {
            changes.push(Change::Remove { path: path.clone() });
        }
        self.comments()?;
        Ok(changes)
    }

    /// The text of a host's file. Files of `host_vars` that are in it then are added to `folded`.
    fn host(
        &mut self,
        at: usize,
        order: Option<i64>,
        folded: &mut BTreeSet<String>,
    ) -> Result<String, SplitError> {
        let graph = &self.inventory.graph;
        let host = &graph.hosts[at];
        let direct = |group: &GroupId| graph.names(*group, at) && *group != 1;
        let mut groups: Vec<GroupId> =
            (0..graph.groups.len()).filter(|group| host.groups.contains(group)).collect();
        groups.retain(direct);
        let names = groups.iter().map(|&group| graph.groups[group].name.as_str()).collect();
        let mut text = HostText { order, groups: names, inline: &host.vars, files: Vec::new() };

        let mut reader = VarsReader::new(self.tree);
        let mut found = Vec::new();
        for folder in self.inventory.vars_folders.iter().chain([&self.inventory.playbook_folder]) {
            for file in reader.find(folder, Entity::Host(&host.name))? {
                if !found.contains(&file) {
                    found.push(file);
                }
            }
        }
        let kept = if !reader.links.is_empty() {
            Some("links lead to them")
        } else if self.hides(&host.name)? {
            Some("a file hides another one of the same name")
        } else {
            None
        };
        for file in &found {
            let Some(map) = reader.load(file)? else { continue };
            let bytes = self.tree.read(file).map_err(InventoryError::read(file))?;
            text.files.push((String::from_utf8_lossy(&bytes).into_owned(), map));
        }
        // One that is vaulted as a whole stays, and with it those that it may override.
        let kept = kept.or_else(|| (!reader.sealed.is_empty()).then_some("a file is vaulted as a whole"));
        if let Some(why) = kept {
            let why = format!("their host_vars stay where they are, because {why}");
            self.told.entry(why).or_default().push(host.name.clone());
            text.files.clear();
            return Ok(text.render().0);
        }
        let (text, lost) = text.render();
        if lost {
            let lost = "comments in their host_vars are lost".to_owned();
            self.told.entry(lost).or_default().push(host.name.clone());
        }
        folded.extend(found);
        Ok(text)
    }

    /// Whether a file of variables of a host would be read if another one were not there.
    fn hides(&self, host: &str) -> Result<bool, InventoryError> {
        for folder in self.inventory.vars_folders.iter().chain([&self.inventory.playbook_folder]) {
            let mut found = 0;
            for end in ["", ".yml", ".yaml", ".json"] {
                let Some(path) = tree::join(folder, &format!("host_vars/{host}{end}")) else { continue };
                found += usize::from(self.tree.entry(&path).map_err(InventoryError::read(&path))?.is_some());
            }
            if found > 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sum_up(&mut self) {
        for (what, hosts) in std::mem::take(&mut self.told) {
            let named = hosts.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = hosts.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more hosts") } else { String::new() };
            self.notes.push(format!("{named}{more}: {what}"));
        }
    }

    /// Whether `all` must name its children to have them in the same order.
    fn needs_all(&self) -> bool {
        let graph = &self.inventory.graph;
        let mut expected: Vec<GroupId> = vec![1];
        let without = |group: &GroupId| *group > 1 && graph.groups[*group].parents == [0];
        expected.extend((0..graph.groups.len()).filter(without));
        graph.groups[0].children != expected
    }

    /// The number of each host if the order of names is not that of the groups; no numbers if it
    /// is; `None` if no order is that of all groups.
    fn order(&self) -> Option<HashMap<usize, i64>> {
        order(&self.inventory.graph)
    }

    /// `ansible.cfg`, if it must change: it names the inventory, and where the plugin is.
    fn settings(&mut self) -> Result<Option<String>, SplitError> {
        let path = "ansible.cfg";
        let target = tree::resolve(self.tree, path).map_err(InventoryError::read(path))?;
        let text = match target {
            Target::File { path, .. } => {
                let bytes = self.tree.read(&path).map_err(InventoryError::read(&path))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Target::Nothing | Target::Folder { .. } | Target::Outside => String::new(),
        };
        let source = (!self.place.is_folder).then_some((self.place.old.as_str(), self.place.source.as_str()));
        let (changed, named) = split_text::settings(&text, source);
        if let Some(named) = named {
            let source = &self.place.source;
            self.notes.push(format!("ansible.cfg names the inventory {named:?}; see that {source} is meant"));
        }
        Ok((changed != text).then_some(changed))
    }

    /// Tells which comments are not carried over, and what names changed.
    fn comments(&mut self) -> Result<(), SplitError> {
        for file in &self.inventory.files {
            let bytes = self.tree.read(file).map_err(InventoryError::read(file));
            let count = split_text::comments(&String::from_utf8_lossy(&bytes.unwrap_or_default()));
            if count > 0 {
                self.notes.push(format!("{count} comments in {file} are lost; the commit before keeps them"));
            }
        }
        if self.place.old != self.place.source {
            let (old, new) = (&self.place.old, &self.place.source);
            self.notes
                .push(format!("the inventory is {new} now, and was {old}: `inventory_file` says so too"));
        }
        Ok(())
    }
}

/// Numbers for hosts, ten apart, so that one fits in between.
fn order(graph: &Graph) -> Option<HashMap<usize, i64>> {
    let key = |host: usize| {
        let name = graph.hosts[host].name.as_str();
        (host_files::natural(name), name)
    };
    let natural = |hosts: &[usize]| hosts.is_sorted_by(|&a, &b| key(a) <= key(b));
    if graph.groups.iter().all(|group| natural(&group.hosts)) {
        return Some(HashMap::new());
    }
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); graph.hosts.len()];
    let mut waits = vec![0usize; graph.hosts.len()];
    for pair in graph.groups.iter().flat_map(|group| group.hosts.windows(2)) {
        after[pair[0]].push(pair[1]);
        waits[pair[1]] += 1;
    }
    let mut free: BTreeMap<_, usize> = BTreeMap::new();
    for host in (0..graph.hosts.len()).filter(|&host| waits[host] == 0) {
        free.insert(key(host), host);
    }
    let mut numbers = HashMap::new();
    while let Some((_, host)) = free.pop_first() {
        let number = i64::try_from(numbers.len()).ok()?.checked_add(1)?.checked_mul(10)?;
        numbers.insert(host, number);
        for &next in &after[host] {
            waits[next] -= 1;
            if waits[next] == 0 {
                free.insert(key(next), next);
            }
        }
    }
    (numbers.len() == graph.hosts.len()).then_some(numbers)
}

/// A tree after changes.
struct Changed<'a> {
    tree: &'a dyn FileTree,
    /// `None` for a file that is gone.
    files: BTreeMap<&'a str, Option<&'a str>>,
}

impl<'a> Changed<'a> {
    fn new(tree: &'a dyn FileTree, changes: &'a [Change]) -> Self {
        let change = |change: &'a Change| match change {
            Change::Write { path, text } => (path.as_str(), Some(text.as_str())),
            Change::Remove { path } => (path.as_str(), None),
        };
        Self { tree, files: changes.iter().map(change).collect() }
    }

    /// The names below a folder that changes bring, as they are asked for: whether a folder is there
    /// is asked for each of many hosts.
    fn below(&self, path: &str) -> impl Iterator<Item = &'a str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let length = prefix.len();
        let from = (std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded);
        self.files
            .range::<str, _>(from)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(|(_, text)| text.is_some())
            .map(move |(path, _)| path[length..].split('/').next().unwrap_or_default())
    }
}

impl FileTree for Changed<'_> {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        match self.files.get(path) {
            Some(Some(_)) => Ok(Some(Entry::File { executable: false })),
            Some(None) => Ok(None),
            None if self.below(path).next().is_some() => Ok(Some(Entry::Folder)),
            None => self.tree.entry(path),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.below(path).map(str::to_owned).collect();
        if self.tree.entry(path)?.is_some() || path.is_empty() {
            names.extend(self.tree.list(path)?);
        }
        let inner = |name: &String| if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        names.retain(|name| self.files.get(inner(name).as_str()) != Some(&None));
        Ok(names.into_iter().collect())
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self.files.get(path) {
            Some(Some(text)) => Ok(text.as_bytes().to_vec()),
            Some(None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no file {path}"))),
            None => self.tree.read(path),
        }
    }
}
