//! `ansible.cfg`: which files in a folder are sources, and settings that change what an inventory
//! means so that Ansible has to read it.

use super::error::{InventoryError, Reason, Unsupported};
use super::python;
use super::tree::{self, FileTree, Target};

/// Section, key, and the values that change nothing; any other value does.
const SETTINGS: [(&str, &str, &[&str]); 12] = [
    ("defaults", "hash_behaviour", &["replace"]),
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

/// Both say how names end that are passed over; the second one counts if both are there.
const END_KEYS: [(&str, &str); 2] =
    [("defaults", "inventory_ignore_extensions"), ("inventory", "ignore_extensions")];

/// Both are lists of expressions, one of which is found in names that are passed over.
const PATTERN_KEYS: [(&str, &str); 2] =
    [("defaults", "inventory_ignore_patterns"), ("inventory", "ignore_patterns")];

/// The settings that this reader follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// In folders of sources, names that end so are passed over.
    pub ignored_ends: Vec<String>,
    /// And names that have one of these in them.
    pub ignored_parts: Vec<Part>,
    /// Whether files that configure a plugin are read as such.
    pub may_configure: bool,
}

/// A regular expression of the plain kind: characters, dots for any one, and the ends of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Bytes, since that is what Ansible compares; `None` is any.
    bytes: Vec<Option<u8>>,
    at_start: bool,
    at_end: bool,
}

impl Part {
    /// `None` for an expression of another kind.
    fn parse(pattern: &str) -> Option<Self> {
        let (at_start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
        let (at_end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
        let mut bytes = Vec::new();
        let mut rest = rest.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'.' => None,
                b'\\' => Some(rest.next().filter(u8::is_ascii_punctuation)?),
                b'[' | b']' | b'(' | b')' | b'{' | b'}' | b'*' | b'+' | b'?' | b'|' | b'^' | b'$' => {
                    return None;
                }
                byte => Some(byte),
            });
        }
        Some(Self { bytes, at_start, at_end })
    }

    /// Whether a name has it.
    pub fn is_in(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let fits = |at: usize| {
            let end = at + self.bytes.len();
            let Some(text) = name.get(at..end) else { return false };
            let same = |(wanted, byte): (&Option<u8>, &u8)| wanted.is_none_or(|wanted| wanted == *byte);
            (!self.at_start || at == 0)
                && (!self.at_end || end == name.len())
                && self.bytes.iter().zip(text).all(same)
        };
        (0..=name.len()).any(fits)
    }
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
    let mut settings = Settings {
        ignored_ends: IGNORED_ENDS.map(str::to_owned).to_vec(),
        ignored_parts: Vec::new(),
        may_configure: true,
    };
    let mut section = "";
    // Which of two keys for the same was seen: the first one may come last.
    let (mut ends, mut patterns) = (0, 0);
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
        let value = value.split(" ;").next().unwrap_or(value).trim();
        let changes = || {
            let reason = Reason::Setting { key: format!("[{section}] {key}"), value: value.to_owned() };
            reason.of("ansible.cfg")
        };
        let place = |keys: &[(&str, &str)]| keys.iter().position(|known| *known == (section, key.as_str()));
        let known = SETTINGS.iter().find(|(wanted, name, _)| *wanted == section && *name == key);
        let (end, pattern) = (place(&END_KEYS), place(&PATTERN_KEYS));
        if known.is_none() && end.is_none() && pattern.is_none() {
            continue;
        }
        let next = lines.get(at + 1).copied().unwrap_or("");
        let continued = next.starts_with([' ', '\t']) && !next.trim().is_empty();
        if continued || known.is_some_and(|(_, name, harmless)| !is_harmless(name, value, harmless)) {
            return Err(changes());
        }
        if known.is_some_and(|(_, name, _)| *name == "enable_plugins") {
            settings.may_configure = names(value).any(|name| name == "auto");
        }
        if let Some(place) = end.filter(|place| *place >= ends) {
            ends = place;
            settings.ignored_ends = items(value).map(str::to_owned).collect();
        }
        if let Some(place) = pattern.filter(|place| *place >= patterns) {
            patterns = place;
            let parts: Option<Vec<Part>> = items(value).map(Part::parse).collect();
            settings.ignored_parts = parts.ok_or_else(changes)?;
        }
    }
    Ok(settings)
}

/// The items of a list as Ansible splits it.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|item| {
        let item = item.trim();
        let inner = |quote: char| {
            item.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.ends_with('\\'))
        };
        inner('"').or_else(|| inner('\'')).unwrap_or(item)
    })
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

    #[test]
    fn names_that_are_passed_over() {
        let check = |text: &str, names: &[&str]| {
            let settings = parse(text).expect("all of it is known");
            let all = ["artifacts", "my-artifacts.d", "secrets.yml", "secretsxyml", "hosts", "hosts2"];
            let found = |name: &&str| settings.ignored_parts.iter().any(|part| part.is_in(name));
            assert_eq!(all.into_iter().filter(found).collect::<Vec<_>>(), names, "{text}");
        };
        check(
            "[inventory]\nignore_patterns = artifacts, 'hosts$'\n",
            &["artifacts", "my-artifacts.d", "hosts"],
        );
        check("[inventory]\nignore_patterns = ^artifacts$, secrets\\.yml\n", &["artifacts", "secrets.yml"]);
        check("[defaults]\ninventory_ignore_patterns = secrets.yml\n", &["secrets.yml", "secretsxyml"]);
        check(
            "[inventory]\nignore_patterns = ^hosts.\n[defaults]\ninventory_ignore_patterns = artifacts\n",
            &["hosts2"],
        );
        for pattern in ["a+", "[ab]", "(?i)hosts", "\\d", "a|b"] {
            let text = format!("[inventory]\nignore_patterns = {pattern}\n");
            assert!(parse(&text).is_err(), "{pattern}");
        }
    }
}
