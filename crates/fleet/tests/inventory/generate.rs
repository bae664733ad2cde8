//! Random inventories from a seed: files of all kinds with all that Ansible lets people write.

use std::collections::BTreeMap;

use volary_fleet::inventory::Layout;

use super::values::{INI_TRAPS, INI_VALUES, YAML_TRAPS, YAML_VALUES};

/// A small generator of pseudo-random numbers (xorshift), the same on every machine.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B);
        (0..8).for_each(|_| {
            dice.next();
        });
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 8).expect("64 bits") % end.max(1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }
}

/// Files of one inventory.
pub struct Generated {
    pub files: BTreeMap<String, Vec<u8>>,
    pub layout: Layout,
}

const GROUPS: [&str; 12] =
    ["web", "db", "edge", "site-a", "site_b", "prod", "staging", "a.b", "all", "ungrouped", "zeta", "w1"];
const HOSTS: [&str; 16] = [
    "h1",
    "h2",
    "h3",
    "web1.example.org",
    "db-1",
    "10.0.0.5",
    "n[1:3]",
    "n[01:04:2]",
    "x-[a:c].lan",
    "h4:2222",
    "[2001:db8::1]:22",
    "2001:db8::2",
    "h5",
    "web",
    "rack[1:2]-[a:b]",
    "localhost",
];
const KEYS: [&str; 12] = [
    "a",
    "b",
    "c",
    "d",
    "port",
    "ansible_host",
    "role",
    "nested",
    "ansible_group_priority",
    "list",
    "groups",
    "x-y",
];

/// The inventory of a seed.
pub fn generate(seed: u64) -> Generated {
    let mut dice = Dice::new(seed);
    let mut made = Generated { files: BTreeMap::new(), layout: Layout::new("") };
    let playbook = if dice.chance(70) { "" } else { "play" };
    made.layout.playbook_folder = playbook.to_owned();
    made.files.insert(
        if playbook.is_empty() { "site.yml".into() } else { "play/site.yml".into() },
        b"[]\n".to_vec(),
    );
    made.layout.sources.clear();
    for at in 0..(1 + usize::from(dice.chance(20)) + usize::from(dice.chance(10))) {
        source(&mut dice, &mut made, at);
    }
    let mut folders: Vec<String> = vec![playbook.to_owned()];
    for source in &made.layout.sources {
        let folder =
            made.files.contains_key(source).then(|| source.rsplit_once('/').map_or("", |(folder, _)| folder));
        folders.push(folder.unwrap_or(source).to_owned());
    }
    for folder in folders {
        vars_folders(&mut dice, &mut made, &folder);
    }
    if dice.chance(6) {
        damage(&mut dice, &mut made);
    }
    made
}

fn source(dice: &mut Dice, made: &mut Generated, at: usize) {
    let base = ["inventory", "inv2", "inv3"][at];
    match dice.below(6) {
        0 => add_file(dice, made, &format!("hosts{at}"), base),
        1 => add_file(dice, made, "hosts.yml", &format!("{base}/deep")),
        2 => add_file(dice, made, &format!("inventory{at}.yaml"), ""),
        3 => add_file(dice, made, "production", base),
        _ => {
            let names = [
                "01-static.yml",
                "02-hosts",
                "zz.yaml",
                "sub/hosts",
                "sub/more.yml",
                "b.json",
                "c.ini",
                "d.bak",
                ".hidden",
                "e.txt",
            ];
            for name in names {
                if dice.chance(45) {
                    let path = format!("{base}/{name}");
                    let content = content(dice, &path);
                    made.files.insert(path, content);
                }
            }
            made.files
                .entry(format!("{base}/00-first.yml"))
                .or_insert_with(|| b"all:\n  hosts:\n    h1:\n".to_vec());
            made.layout.sources.push(base.to_owned());
        }
    }
}

fn add_file(dice: &mut Dice, made: &mut Generated, name: &str, folder: &str) {
    let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    let content = content(dice, &path);
    made.files.insert(path.clone(), content);
    made.layout.sources.push(path);
}

fn content(dice: &mut Dice, path: &str) -> Vec<u8> {
    let yaml =
        path.ends_with(".yml") || path.ends_with(".yaml") || (!path.ends_with(".ini") && dice.chance(15));
    match (path.ends_with(".json"), yaml) {
        (true, _) => json_inventory(dice).into_bytes(),
        (false, true) => yaml_inventory(dice).into_bytes(),
        (false, false) => ini_inventory(dice).into_bytes(),
    }
}

fn ini_inventory(dice: &mut Dice) -> String {
    let mut text = String::new();
    if dice.chance(40) {
        ini_hosts(dice, &mut text);
    }
    for _ in 0..dice.below(6) {
        let group = dice.pick(&GROUPS);
        let comment = dice.pick(&["", "", "  # comment", " "]);
        match dice.below(5) {
            0 => {
                text.push_str(&format!("[{group}:vars]{comment}\n"));
                for _ in 0..=dice.below(3) {
                    let key = if dice.chance(12) { "ansible_group_priority" } else { dice.pick(&KEYS) };
                    let value = if key == "ansible_group_priority" {
                        dice.pick(&["5", "10", "-1", "' 7 '", "1"])
                    } else {
                        ini_value(dice)
                    };
                    text.push_str(&format!("{key}{}{value}\n", dice.pick(&["=", " = "])));
                }
                if dice.chance(80) {
                    text.push_str(&format!("[{group}]\n"));
                }
            }
            1 => {
                text.push_str(&format!("[{group}:children]\n"));
                let mut children = Vec::new();
                for _ in 0..=dice.below(2) {
                    let child = later_group(dice, group);
                    text.push_str(&format!("{child}{}\n", dice.pick(&["", "  # why"])));
                    children.push(child);
                }
                for child in children {
                    if dice.chance(92) {
                        text.push_str(&format!("[{child}]\n"));
                    }
                }
            }
            _ => {
                text.push_str(&format!("[{group}]{comment}\n"));
                ini_hosts(dice, &mut text);
            }
        }
        text.push_str(dice.pick(&["", "\n", "# a comment\n", "; another\n", "  \n"]));
    }
    text
}

fn ini_value(dice: &mut Dice) -> &'static str {
    if dice.chance(1) { dice.pick(&INI_TRAPS) } else { dice.pick(&INI_VALUES) }
}

fn yaml_value(dice: &mut Dice) -> &'static str {
    if dice.chance(1) { dice.pick(&YAML_TRAPS) } else { dice.pick(&YAML_VALUES) }
}

fn ini_hosts(dice: &mut Dice, text: &mut String) {
    for _ in 0..dice.below(4) {
        text.push_str(dice.pick(&HOSTS));
        for _ in 0..dice.below(3) {
            let value = ini_value(dice);
            let key = dice.pick(&KEYS);
            let shell = match dice.below(4) {
                0 => format!("'{}'", value.replace('\'', "\"")),
                1 => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
                _ => value.replace([' ', '\'', '"'], ""),
            };
            text.push_str(&format!(" {key}={shell}"));
        }
        text.push_str(dice.pick(&["", "", " # note", "\t"]));
        text.push('\n');
    }
}

/// A group further down the list, so that circles are rare.
fn later_group(dice: &mut Dice, group: &str) -> &'static str {
    let at = GROUPS.iter().position(|name| *name == group).unwrap_or(0);
    if dice.chance(3) { dice.pick(&GROUPS) } else { GROUPS[(at + 1 + dice.below(4)).min(GROUPS.len() - 1)] }
}

fn yaml_inventory(dice: &mut Dice) -> String {
    let mut text = dice.pick(&["", "---\n", "# inventory\n"]).to_owned();
    if dice.chance(80) {
        text.push_str("all:\n");
        yaml_group(dice, &mut text, "web", 2, 3);
    }
    for _ in 0..dice.below(3) {
        let group = dice.pick(&GROUPS);
        text.push_str(&format!("{group}:{}\n", dice.pick(&["", "", " {}", " # here"])));
        if !text.ends_with("{}\n") {
            yaml_group(dice, &mut text, group, 2, 2);
        }
    }
    text
}

fn yaml_group(dice: &mut Dice, text: &mut String, group: &str, indent: usize, depth: usize) {
    let pad = " ".repeat(indent);
    let mut sections = vec!["hosts", "vars"];
    if depth > 0 {
        sections.insert(dice.below(3), "children");
    }
    for section in sections {
        if !dice.chance(65) {
            continue;
        }
        match dice.below(20) {
            0 => text.push_str(&format!("{pad}{section}: {}\n", dice.pick(&["", "h7", "{}", "~"]))),
            _ => {
                text.push_str(&format!("{pad}{section}:\n"));
                match section {
                    "hosts" => yaml_hosts(dice, text, indent + 2),
                    "vars" => yaml_vars(dice, text, indent + 2, true),
                    _ => {
                        for _ in 0..=dice.below(2) {
                            let child = later_group(dice, group);
                            text.push_str(&format!("{pad}  {child}:\n"));
                            yaml_group(dice, text, child, indent + 4, depth - 1);
                        }
                    }
                }
            }
        }
    }
}

fn yaml_hosts(dice: &mut Dice, text: &mut String, indent: usize) {
    let pad = " ".repeat(indent);
    for _ in 0..=dice.below(3) {
        let host = dice.pick(&HOSTS);
        let host =
            if host.starts_with('[') || host.contains(':') { format!("\"{host}\"") } else { host.to_owned() };
        text.push_str(&format!("{pad}{host}:\n"));
        if dice.chance(60) {
            yaml_vars(dice, text, indent + 2, false);
        }
    }
}

/// Variables, one a line or nested.
pub fn yaml_vars(dice: &mut Dice, text: &mut String, indent: usize, group: bool) {
    let pad = " ".repeat(indent);
    for _ in 0..=dice.below(4) {
        let key = dice.pick(&KEYS);
        let value = match key {
            "ansible_group_priority" if group => dice.pick(&["3", "\"12\"", "0", "-2", "2.9", "true"]),
            _ => yaml_value(dice),
        };
        text.push_str(&format!("{pad}{key}: {}\n", value.replace('\n', &format!("\n{pad}"))));
    }
}

fn json_inventory(dice: &mut Dice) -> String {
    let values = [
        "1",
        "1.5",
        "1e3",
        "\"x\"",
        "null",
        "[1, {\"z\": 0, \"a\": \"\\u00e9\"}]",
        "{\"__ansible_unsafe\": \"{{ q }}\"}",
        "NaN",
    ];
    let (a, b) = (dice.pick(&values), dice.pick(&values));
    let (group, host) = (dice.pick(&GROUPS), dice.pick(&["h1", "h2", "h9"]));
    format!(
        "{{\"{group}\": {{\"hosts\": {{\"{host}\": {{\"a\": {a}, \"j\": {b}}}}}, \"vars\": {{\"b\": {b}}}}}}}\n"
    )
}

fn vars_folders(dice: &mut Dice, made: &mut Generated, folder: &str) {
    for (kind, names) in
        [("group_vars", &GROUPS[..]), ("host_vars", &["h1", "h2", "h3", "n1", "web1.example.org", "web"][..])]
    {
        if !dice.chance(60) {
            continue;
        }
        for _ in 0..=dice.below(4) {
            let name = if kind == "group_vars" && dice.chance(35) { "all" } else { dice.pick(names) };
            let base =
                if folder.is_empty() { format!("{kind}/{name}") } else { format!("{folder}/{kind}/{name}") };
            let taken = |made: &Generated, path: &str| {
                made.files.keys().any(|file| file.starts_with(&format!("{path}/")) || file == path)
            };
            let path = match dice.below(5) {
                0 if !taken(made, &base) => base,
                1 => format!("{base}.yaml"),
                2 if !made.files.contains_key(&base) => {
                    let inner = [
                        "main.yml",
                        "b.yaml",
                        "a",
                        ".hidden.yml",
                        "c.yml~",
                        "d.txt",
                        "sub/x.yml",
                        "sub.d/y.yml",
                        "e.json",
                    ];
                    for _ in 0..=dice.below(4) {
                        let path = format!("{base}/{}", dice.pick(&inner));
                        add_vars(dice, made, path);
                    }
                    continue;
                }
                3 => format!("{base}.json"),
                _ => format!("{base}.yml"),
            };
            add_vars(dice, made, path);
        }
    }
}

fn add_vars(dice: &mut Dice, made: &mut Generated, path: String) {
    let mut text = String::new();
    match dice.below(25) {
        0 => text.push_str(dice.pick(&["", "---\n", "# nothing\n", "{}\n", "false\n"])),
        1 => text.push_str("{\"a\": 1e3, \"b\": [true, null], \"a\": \"json \\/ \\u20ac\"}"),
        _ => yaml_vars(dice, &mut text, 0, false),
    }
    if dice.chance(10) {
        text.push_str("base: &base\n  a: 1\n  z: 2\nmerged:\n  <<: *base\n  z: 3\nseveral:\n  <<: [*base, {q: 1, a: 9}]\n");
    }
    made.files.insert(path, text.into_bytes());
}

/// Changes a few bytes of one file.
fn damage(dice: &mut Dice, made: &mut Generated) {
    let paths: Vec<String> = made.files.keys().cloned().collect();
    let path = &paths[dice.below(paths.len())];
    mutate(dice, made.files.get_mut(path).expect("it is one of the files"));
}

/// Inserts, removes or changes bytes.
pub fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        let bytes_to_put = b"\n \t:-#[]{}'\"|>&*!%@,?=\\~a0\x01\xff$";
        let byte = bytes_to_put[dice.below(bytes_to_put.len())];
        match dice.below(3) {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] = byte,
            _ => bytes.push(byte),
        }
    }
}
