//! `ansible.cfg`: which files in a folder are sources, and settings that change what an inventory
//! means so that Ansible has to read it.

use super::error::{InventoryError, Reason, Unsupported};
use super::python;
use super::tree::{self, FileTree, Target};

/// Section, key, and the values that change nothing; any other value does.
const SETTINGS: [(&str, &str, &[&str]); 14] = [
    ("defaults", "hash_behaviour", &["replace"]),
    ("defaults", "inventory_ignore_patterns", &[]),
    ("inventory", "ignore_patterns", &[]),
    ("defaults", "precedence", &[]),
    ("defaults", "vars_plugins", &[]),
    ("defaults", "vars_plugins_enabled", &["host_group_vars", "ansible.builtin.host_group_vars"]),
    ("defaults", "run_vars_plugins", &["demand"]),
    ("vars_host_group_vars", "stage", &["all"]),
    ("defaults", "yaml_valid_extensions", &[]),
    ("inventory_plugin_yaml", "yaml_valid_extensions", &[]),
    ("defaults", "force_valid_group_names", &["never", "ignore"]),
    ("defaults", "duplicate_dict_key", &["warn", "ignore"]),
    ("defaults", "playbook_vars_root", &["top", "all", "bottom", "playbook_dir"]),
    ("inventory", "enable_plugins", &[]),
];

/// The plugins that Ansible tries, in its order.
const PLUGINS: [&str; 6] = ["host_list", "script", "auto", "yaml", "ini", "toml"];

/// In folders of sources Ansible passes over names that end so, unless told otherwise.
const IGNORED_ENDS: [&str; 13] =
    [".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst", ".orig", ".ini", ".cfg", ".retry"];

/// Both say which names are passed over.
const IGNORE_KEYS: [(&str, &str); 2] =
    [("defaults", "inventory_ignore_extensions"), ("inventory", "ignore_extensions")];

/// The settings that this reader follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// In folders of sources, names that end so are passed over.
    pub ignored_ends: Vec<String>,
    /// Whether files that configure a plugin are read as such.
    pub may_configure: bool,
}

/// Reads the settings of a tree.
pub(crate) fn read(tree: &dyn FileTree) -> Result<Settings, InventoryError> {
    let path = "ansible.cfg";
    match tree::resolve(tree, path).map_err(InventoryError::read(path))? {
        Target::File { path, .. } => {
            let bytes = tree.read(&path).map_err(InventoryError::read(&path))?;
            Ok(parse(&String::from_utf8_lossy(&bytes))?)
        }
        Target::Nothing | Target::Folder { .. } => Ok(parse("")?),
        Target::Outside => Err(Reason::Link.of(path).into()),
    }
}

fn parse(text: &str) -> Result<Settings, Unsupported> {
    let mut settings =
        Settings { ignored_ends: IGNORED_ENDS.map(str::to_owned).to_vec(), may_configure: true };
    let mut section = "";
    let lines: Vec<&str> = python::lines(text);
    for (at, line) in lines.iter().enumerate() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = name.0;
            continue;
        }
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        if key.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        let key = key.trim().to_lowercase();
        let next = lines.get(at + 1).copied().unwrap_or("");
        let continued = next.starts_with([' ', '\t']) && !next.trim().is_empty();
        let value = value.split(" ;").next().unwrap_or(value).trim();
        let known = SETTINGS.iter().find(|(wanted, name, _)| *wanted == section && *name == key);
        let ignores = IGNORE_KEYS.contains(&(section, key.as_str()));
        if (known.is_some() || ignores) && continued
            || known.is_some_and(|(_, name, harmless)| !is_harmless(name, value, harmless))
        {
            let reason = Reason::Setting { key: format!("[{section}] {key}"), value: value.to_owned() };
            return Err(reason.of("ansible.cfg"));
        }
        if known.is_some_and(|(_, name, _)| *name == "enable_plugins") {
            settings.may_configure = names(value).any(|name| name == "auto");
        }
        if ignores {
            settings.ignored_ends = value.split(',').map(|end| end.trim().to_owned()).collect();
        }
    }
    Ok(settings)
}

fn is_harmless(key: &str, value: &str, harmless: &[&str]) -> bool {
    if key != "enable_plugins" {
        return harmless.contains(&value.to_lowercase().as_str());
    }
    // Leaving formats out is fine as long as YAML and INI stay and the order is the same.
    let places: Option<Vec<usize>> =
        names(value).map(|name| PLUGINS.iter().position(|plugin| *plugin == name)).collect();
    places.is_some_and(|places| places.is_sorted() && places.contains(&3) && places.contains(&4))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|name| name.trim().trim_start_matches("ansible.builtin."))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(parse(text).err().map(|change| change.reason.to_string()).as_deref(), expected);
    }

    #[test]
    fn only_settings_that_matter() {
        check("[defaults]\ninventory = hosts\nroles_path=roles\nhash_behaviour = replace ; as ever\n", None);
        check(
            "[defaults]\nhash_behaviour=merge\n",
            Some("the setting [defaults] hash_behaviour = merge changes how inventories are read"),
        );
        check("[inventory]\nenable_plugins = yaml, ini\n", None);
        check(
            "[inventory]\nenable_plugins = ini, yaml\n",
            Some("the setting [inventory] enable_plugins = ini, yaml changes how inventories are read"),
        );
        let ends = parse("[defaults]\ninventory_ignore_extensions = ~, .gpg\n")
            .map(|settings| settings.ignored_ends);
        assert_eq!(ends, Ok(vec!["~".to_owned(), ".gpg".to_owned()]));
        check("[other]\nhash_behaviour=merge\n", None);
    }
}
