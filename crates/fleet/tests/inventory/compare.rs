//! Asks Ansible about inventories on disk and compares with what our reader says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value as Json, json};
use volary_fleet::inventory::{DirTree, HostView, Inventory, InventoryError, Layout, Map, Value, to_json};

/// Ansible in a process that answers many questions.
pub struct Oracle {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts the Python that `ansible-inventory` runs with, where there is no `ansible.cfg`.
    pub fn start() -> Self {
        Self::start_in(Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    /// Starts it in a folder whose `ansible.cfg` then counts, as it does for `ansible-inventory`.
    pub fn start_in(folder: &Path) -> Self {
        let program = find("ansible-inventory").expect("ansible-core must be installed (`make setup`)");
        let script = std::fs::read_to_string(program).expect("ansible-inventory is a Python script");
        let python =
            script.lines().next().and_then(|line| line.strip_prefix("#!")).expect("it begins with #!").trim();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inventory/oracle.py");
        let mut words = python.split_whitespace();
        let mut child = volary_host::Cmd::new(words.next().expect("an interpreter"))
            .args(words)
            .arg(source)
            .cwd(folder)
            // Facts that another run of Ansible kept somewhere are no part of an inventory.
            .env("ANSIBLE_CACHE_PLUGIN", "memory")
            .env("ANSIBLE_COLLECTIONS_PATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("../../collections"))
            .into_std()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the interpreter of ansible-inventory starts");
        let questions = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, questions, answers }
    }

    /// What Ansible makes of the sources: hosts with their variables, groups with their members.
    pub fn ask(&mut self, root: &Path, layout: &Layout) -> Json {
        let at = |path: &String| root.join(path).to_string_lossy().trim_end_matches('/').to_owned();
        let question = json!({
            "root": root,
            "sources": layout.sources.iter().map(at).collect::<Vec<_>>(),
            "playbook_folder": at(&layout.playbook_folder),
        });
        writeln!(self.questions, "{question}").expect("the oracle listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the oracle answers");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the oracle died on {}", root.display()))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// What a comparison came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Inventories of which everything was equal.
    pub inventories: usize,
    /// Hosts that were equal.
    pub hosts: usize,
    /// Hosts whose own inventory gave the same again.
    pub one_host: usize,
    /// Inventories or hosts that neither can read.
    pub both_refuse: usize,
    /// Inventories or hosts that are left to Ansible, typed as such.
    pub left: usize,
}

/// Compares all hosts and groups; returns what differs first.
pub fn compare(oracle: &mut Oracle, root: &Path, layout: &Layout, one_host: bool) -> Result<Tally, String> {
    let tree = DirTree::new(root);
    let theirs = oracle.ask(root, layout);
    let mut tally = Tally::default();
    let ours = match (Inventory::read(&tree, layout), theirs.get("error")) {
        (Ok(ours), None) => ours,
        (Ok(_), Some(error)) => return Err(format!("Ansible refuses, ours reads: {error}")),
        (Err(_), Some(_)) => return Ok(Tally { both_refuse: 1, ..tally }),
        (Err(InventoryError::Unsupported(_)), None) => return Ok(Tally { left: 1, ..tally }),
        (Err(error), None) => return Err(format!("ours refuses: {error}")),
    };
    members(&ours, &theirs)?;
    let names: Vec<&str> = ours.hosts().collect();
    if json!(names) != theirs["host_order"] {
        return Err(format!("hosts differ\nours   {names:?}\ntheirs {}", theirs["host_order"]));
    }
    let mut sealed = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        let expected = &theirs["hosts"][name];
        let view = match (ours.host(&tree, name), expected.get("error")) {
            (Ok(view), None) => view,
            (Err(_), Some(_)) => {
                tally.both_refuse += 1;
                continue;
            }
            (Err(InventoryError::Unsupported(_)), None) => {
                tally.left += 1;
                continue;
            }
            (Ok(_), Some(error)) => return Err(format!("{name}: Ansible refuses, ours reads: {error}")),
            (Err(error), None) => return Err(format!("{name}: ours refuses: {error}")),
        };
        same_host(&view, expected)?;
        sealed.extend(view.sealed);
        tally.hosts += 1;
        if one_host && at % 3 == 0 {
            tally.one_host += usize::from(alone(oracle, root, layout, &ours, name, expected)?);
        }
    }
    if json!(sealed) != theirs["sealed"] {
        return Err(format!("vaulted files\nours   {sealed:?}\ntheirs {}", theirs["sealed"]));
    }
    tally.inventories += 1;
    Ok(tally)
}

fn members(ours: &Inventory, theirs: &Json) -> Result<(), String> {
    let names: Vec<&str> = ours.groups().collect();
    if json!(names) != theirs["group_order"] {
        return Err(format!("groups differ\nours   {names:?}\ntheirs {}", theirs["group_order"]));
    }
    for name in names {
        let (hosts, children) = ours.members(name).expect("it is one of ours");
        let mine = json!({ "hosts": hosts, "children": children });
        let theirs = &theirs["groups"][name];
        if mine != *theirs {
            return Err(format!("group {name} differs\nours   {mine}\ntheirs {theirs}"));
        }
    }
    Ok(())
}

fn same_host(view: &HostView, expected: &Json) -> Result<(), String> {
    let groups: Vec<Json> =
        view.groups.iter().map(|group| json!([group.name, group.depth, group.priority])).collect();
    if json!(groups) != expected["groups"] || json!(view.group_names()) != expected["group_names"] {
        return Err(format!(
            "{}: groups\nours   {}\ntheirs {}",
            view.name,
            json!(groups),
            expected["groups"]
        ));
    }
    let mine = typed_vars(&view.variables);
    let theirs = expected["vars"].as_object().expect("a map");
    for key in mine.keys().chain(theirs.keys()) {
        let (ours, theirs) = (mine.get(key).map(String::as_str), theirs.get(key).and_then(Json::as_str));
        if ours != theirs {
            return Err(format!("{}: variable {key}\nours   {ours:?}\ntheirs {theirs:?}", view.name));
        }
    }
    Ok(())
}

/// Writes the host's own inventory and asks Ansible about that.
fn alone(
    oracle: &mut Oracle,
    root: &Path,
    layout: &Layout,
    ours: &Inventory,
    name: &str,
    expected: &Json,
) -> Result<bool, String> {
    let handover = match ours.one_host(name, root) {
        Ok(handover) => handover,
        Err(InventoryError::Unsupported(_)) => return Ok(false),
        Err(error) => return Err(format!("{name}: no inventory of its own: {error}")),
    };
    for (path, text) in &handover.files {
        crate::put(&root.join(path), text.as_bytes());
    }
    let alone = Layout { sources: handover.sources, playbook_folder: layout.playbook_folder.clone() };
    let answer = oracle.ask(root, &alone);
    for (path, _) in &handover.files {
        std::fs::remove_file(root.join(path)).expect("it was just written");
    }
    let hosts: Vec<&String> =
        answer["hosts"].as_object().map(|hosts| hosts.keys().collect()).unwrap_or_default();
    let mut same = answer["hosts"][name].clone();
    if ours.groups().any(|group| group == name) {
        // Ansible then tells the group, not the host, where it came from.
        same["places"] = expected["places"].clone();
    }
    if hosts != [name] || same != *expected {
        let text = &handover.files[0].1;
        return Err(format!("{name} alone\nalone  {}\nwhole  {expected}\n{text}", answer["hosts"][name]));
    }
    Ok(true)
}

fn typed_vars(map: &Map) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (typed_key(key), typed(value))).collect()
}

fn typed_key(key: &Value) -> String {
    key.as_text().map_or_else(|| typed(key), |text| to_json(&Value::text(text)))
}

/// A value with its type, written as the oracle writes it.
fn typed(value: &Value) -> String {
    let quote = |text: &String| to_json(&Value::text(text.as_str()));
    let all = |items: &[Value]| items.iter().map(typed).collect::<Vec<_>>();
    match value {
        Value::Null | Value::Bool(_) | Value::Text(_) => to_json(value),
        Value::Int(number) => format!("int:{number}"),
        Value::Float(_) => format!("float:{}", to_json(value)),
        Value::Unsafe(text) => format!("unsafe{}", quote(text)),
        Value::Vault(text) => format!("vault{}", quote(text)),
        Value::Bytes(bytes) => {
            format!("bytes:{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Value::Time(text) => format!("time:{text}"),
        Value::List(items) => format!("[{}]", all(items).join(",")),
        Value::Set(items) => {
            let mut items = all(items);
            items.sort_unstable();
            format!("set[{}]", items.join(","))
        }
        Value::Map(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{}:{}", typed_key(key), typed(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
    }
}
