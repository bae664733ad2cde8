//! The texts of an inventory with one file for each host: what `split` plans to write.
//!
//! What people wrote stays as they wrote it where that can be proven to say the same; otherwise the
//! values are written out.

use super::document;
use super::emit;
use super::graph::Graph;
use super::host_files::PLUGIN;
use super::value::{Map, Value};

/// The file that names the plugin.
pub(crate) fn config(folder: &str) -> String {
    let mut text = format!(
        "# Groups are in {folder}/groups.yml, hosts in {folder}/hosts/, one file each.\nplugin: {PLUGIN}\n"
    );
    if folder != super::host_files::FOLDER {
        let map = Map::from_iter([("folder", Value::text(folder))]);
        emit::entries(&mut text, &map, 0);
    }
    text
}

/// `groups.yml`. With `all_children` the group `all` names its children, to keep their order.
pub(crate) fn groups(graph: &Graph, all_children: bool) -> String {
    let mut text = "# All groups of the fleet, what is below them, and their variables.\n".to_owned();
    for (id, group) in graph.groups.iter().enumerate() {
        let mut sections = Map::new();
        if id != 0 || all_children {
            let names = group.children.iter().map(|&child| Value::text(graph.groups[child].name.as_str()));
            let names: Vec<Value> = names.collect();
            if !names.is_empty() {
                sections.insert(Value::text("children"), Value::List(names));
            }
        }
        let mut vars = Map::new();
        if group.priority != 1 {
            vars.insert(Value::text("ansible_group_priority"), Value::Int(group.priority.into()));
        }
        vars.overlay(&group.vars);
        if !vars.is_empty() {
            sections.insert(Value::text("vars"), Value::Map(vars));
        }
        // These two are there anyway.
        if id < 2 && sections.is_empty() {
            continue;
        }
        let is_bare = sections.is_empty();
        let data = if is_bare { Value::Null } else { Value::Map(sections) };
        emit::entries(&mut text, &Map::from_iter([(group.name.as_str(), data)]), 0);
        if let (true, Some(bare)) = (is_bare, text.strip_suffix(" null\n")) {
            text.truncate(bare.len());
            text.push('\n');
        }
    }
    text
}

/// What goes into the file of a host.
pub(crate) struct HostText<'a> {
    pub order: Option<i64>,
    pub groups: Vec<&'a str>,
    /// What the inventory itself says.
    pub inline: &'a Map,
    /// The files of `host_vars` in their order: later ones override earlier ones.
    pub files: Vec<(String, Map)>,
}

impl HostText<'_> {
    /// The text, and whether comments of the files are not in it.
    pub fn render(&self) -> (String, bool) {
        let mut vars = self.inline.clone();
        self.files.iter().for_each(|(_, map)| vars.overlay(map));
        let head = self.head();
        if let Some(text) = self.kept().map(|kept| format!("{head}{kept}"))
            && says(&text, &vars)
        {
            return (text, false);
        }
        let mut text = head;
        if !vars.is_empty() {
            let map = Map::from_iter([("vars", Value::Map(vars))]);
            emit::entries(&mut text, &map, 0);
        }
        (text, self.files.iter().any(|(text, _)| comments(text) > 0))
    }

    fn head(&self) -> String {
        let mut map = Map::new();
        if let Some(order) = self.order {
            map.insert(Value::text("order"), Value::Int(order.into()));
        }
        let groups = self.groups.iter().map(|&group| Value::text(group)).collect();
        map.insert(Value::text("groups"), Value::List(groups));
        let mut text = String::new();
        emit::entries(&mut text, &map, 0);
        text
    }

    /// The variables with the files as they are, only further in.
    fn kept(&self) -> Option<String> {
        if self.files.is_empty() {
            return None;
        }
        let mut text = "vars:\n".to_owned();
        let mut mine = Map::new();
        for (key, value) in self.inline.iter() {
            if !self.files.iter().any(|(_, map)| map.get_value(key).is_some()) {
                mine.insert(key.clone(), value.clone());
            }
        }
        emit::entries(&mut text, &mine, 2);
        for (file, _) in &self.files {
            for line in file.lines().filter(|line| line.trim_end() != "---") {
                let line = line.trim_end_matches('\r');
                if !line.is_empty() {
                    text.push_str("  ");
                }
                text.push_str(line);
                text.push('\n');
            }
        }
        Some(text)
    }
}

/// Whether a host's file has these variables and nothing that is said twice.
fn says(text: &str, vars: &Map) -> bool {
    let Ok(document) = document::load(text.as_bytes()) else { return false };
    let found = document.value.as_map().and_then(|map| map.get("vars")).and_then(Value::as_map);
    document.duplicates.is_empty() && found == Some(vars)
}

/// How many lines have a comment, as far as can be told without reading the format.
pub(crate) fn comments(text: &str) -> usize {
    let has = |line: &str| {
        let line = line.trim_start();
        line.starts_with(['#', ';']) && !line.starts_with("#!") || line.contains(" #")
    };
    text.lines().filter(|line| has(line)).count()
}

const COLLECTIONS: &str = "collections:~/.ansible/collections:/usr/share/ansible/collections";

/// `ansible.cfg` that finds the plugin and, if the inventory moved, the inventory. Also what it
/// names as the inventory, if that is neither.
pub(crate) fn settings(text: &str, moved: Option<(&str, &str)>) -> (String, Option<String>) {
    let mut section = String::new();
    let (mut finds, mut other, mut has_defaults) = (false, None, false);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut line = line.to_owned();
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = name.to_owned();
            has_defaults |= section == "defaults";
        } else if section == "defaults"
            && let Some((key, value)) = line.split_once('=')
        {
            let (key, value) = (key.trim(), value.trim());
            finds |= matches!(key, "collections_path" | "collections_paths");
            if key == "inventory"
                && let Some((old, new)) = moved
            {
                match value.trim_start_matches("./") {
                    named if named == new => {}
                    named if named == old => line = format!("inventory = {new}"),
                    _ => other = Some(value.to_owned()),
                }
            }
        }
        lines.push(line);
    }
    if !finds {
        if !has_defaults {
            lines.push("[defaults]".to_owned());
        }
        let at =
            lines.iter().position(|line| line.starts_with("[defaults]")).map_or(lines.len(), |at| at + 1);
        lines.insert(at, format!("collections_path = {COLLECTIONS}"));
        if let (false, Some((_, new))) = (text.contains("inventory"), moved) {
            lines.insert(at, format!("inventory = {new}"));
        }
    }
    let mut changed = lines.join("\n");
    changed.push('\n');
    (changed, other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_as_they_were_written() {
        let file =
            "---\n# Where it is.\nplace: roof  # of the school\nkey: !vault |\n  $ANSIBLE_VAULT\n\n  12\n";
        let read = document::load(file.as_bytes()).unwrap().value;
        let inline = Map::from_iter([("place", Value::text("cellar")), ("port", Value::Int(22.into()))]);
        let mut host = HostText {
            order: None,
            groups: vec!["web"],
            inline: &inline,
            files: vec![(file.to_owned(), read.as_map().unwrap().clone())],
        };
        let (text, lost) = host.render();
        assert_eq!(
            text,
            "groups:\n  - web\nvars:\n  port: 22\n  # Where it is.\n  place: roof  # of the school\n  key: !vault |\n    \
             $ANSIBLE_VAULT\n\n    12\n"
        );
        assert!(!lost);
        // What overrides another file can't stand after it.
        host.files.push(("place: well\n".to_owned(), Map::from_iter([("place", Value::text("well"))])));
        let (text, lost) = host.render();
        assert_eq!(
            text,
            "groups:\n  - web\nvars:\n  place: well\n  port: 22\n  key: !vault |\n    $ANSIBLE_VAULT\n\n    12\n"
        );
        assert!(lost);
    }

    #[test]
    fn settings_name_the_plugin_and_the_inventory() {
        let path = format!("collections_path = {COLLECTIONS}\n");
        let moved = Some(("hosts", "inventory.yml"));
        let check = |text: &str, moved, expected: &str, other: Option<&str>| {
            assert_eq!(settings(text, moved), (expected.to_owned(), other.map(str::to_owned)));
        };
        check("", moved, &format!("[defaults]\ninventory = inventory.yml\n{path}"), None);
        check(
            "[defaults]\ninventory=./hosts\n",
            moved,
            &format!("[defaults]\n{path}inventory = inventory.yml\n"),
            None,
        );
        check(
            "[ssh]\na = b\n[defaults]\ninventory = x,y\n",
            moved,
            &format!("[ssh]\na = b\n[defaults]\n{path}inventory = x,y\n"),
            Some("x,y"),
        );
        let whole = format!("[defaults]\n{path}inventory = inventory\n");
        check(&whole, None, &whole, None);
    }
}
