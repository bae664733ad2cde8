//! Inventories in the forms that people keep them, compared with what the `ansible-inventory` and
//! `ansible-playbook` programs print.

#[path = "inventory/compare.rs"]
mod compare;
#[path = "inventory/generate.rs"]
mod generate;
#[path = "inventory/layouts.rs"]
mod layouts;
#[path = "inventory/values.rs"]
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use compare::{Oracle, compare};
use layouts::{Shape, shapes};
use serde_json::Value as Json;
use volary_fleet::inventory::{DirTree, Inventory, Layout, Warning, to_json};
use volary_host::Cmd;

fn put(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("a fresh folder");
    let mut file = File::create(path).expect("the folder is ours");
    file.write_all(content).expect("the folder is ours");
}

fn write(shape: &Shape) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for one inventory");
    for (path, content) in shape.files {
        put(&folder.path().join(path), content.as_bytes());
    }
    folder
}

fn program(root: &Path, layout: &Layout) -> Cmd {
    let mut command =
        Cmd::new("ansible-inventory").cwd(root).arg("--playbook-dir").arg(root.join(&layout.playbook_folder));
    for source in &layout.sources {
        command = command.arg("-i").arg(root.join(source));
    }
    command
}

/// JSON with Python's words for numbers that JSON does not have.
fn parse(text: &str) -> Json {
    let text = text
        .replace(": NaN", ": \"NaN\"")
        .replace("Infinity", "\"Infinity\"")
        .replace("-\"Infinity\"", "\"-Infinity\"");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Compares with `ansible-inventory --list`; says for how many hosts. 0 if Ansible can't print it.
fn check_list(root: &Path, layout: &Layout) -> usize {
    let tree = DirTree::new(root);
    let output = program(root, layout).arg("--list").run().expect("ansible-core is installed (`make setup`)");
    let Ok(ours) = Inventory::read(&tree, layout) else { return 0 };
    // What is left of a source that nobody can read is not printed.
    let whole = !ours.warnings().iter().any(|warning| matches!(warning, Warning::Unreadable(_)));
    if !output.status.success() || !whole {
        return 0;
    }
    let theirs = parse(&String::from_utf8_lossy(&output.stdout));
    let mut count = 0;
    for name in ours.hosts() {
        let Ok(view) = ours.host(&tree, name) else { return count };
        let mine: BTreeMap<String, Json> = view
            .variables
            .iter()
            .map(|(key, value)| (key.as_text().expect("names are texts").to_owned(), parse(&to_json(value))))
            .collect();
        let expected =
            theirs["_meta"]["hostvars"].get(name).cloned().unwrap_or_else(|| serde_json::json!({}));
        assert_eq!(serde_json::json!(mine), expected, "{name} in {layout:?}");
        count += 1;
    }
    for group in ours.groups().filter(|group| *group != "all") {
        let (hosts, children) = ours.members(group).expect("it is one of ours");
        for (kind, mine) in [("hosts", hosts), ("children", children)] {
            let expected = theirs[group].get(kind).cloned().unwrap_or_else(|| serde_json::json!([]));
            assert_eq!(serde_json::json!(mine), expected, "{kind} of {group} in {layout:?}");
        }
    }
    count
}

#[test]
fn known_layouts_are_read_as_ansible_reads_them() {
    let mut shared = Oracle::start();
    for shape in shapes() {
        let folder = write(&shape);
        let layout = shape.layout();
        let printed = check_list(folder.path(), &layout);
        assert!(printed > 0, "{} is not read", shape.name);
        // Settings are those of where it was started.
        let mut own;
        let oracle = if folder.path().join("ansible.cfg").exists() {
            own = Oracle::start_in(folder.path());
            &mut own
        } else {
            &mut shared
        };
        let tally = compare(oracle, folder.path(), &layout, true);
        let tally = tally.unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        assert_eq!((tally.inventories, tally.hosts), (1, printed), "{}: {tally:?}", shape.name);
    }
}

#[test]
fn the_template_is_read_as_ansible_reads_it() {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/fleet");
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["ansible.cfg", "group_vars/all.yml", "group_vars/canary.yml", "group_vars/production.yml"] {
        put(&folder.path().join(file), &std::fs::read(template.join(file)).expect("the template has it"));
    }
    let text = std::fs::read_to_string(template.join("inventory.yml")).expect("the template has it");
    let text = text.replacen("hosts: {}", "hosts: {dev-1: }", 1).replacen(
        "hosts: {}",
        "hosts: {canary-1: , canary-2: {x: 1}}",
        1,
    );
    put(&folder.path().join("inventory.yml"), text.as_bytes());
    let layout = Layout::new("inventory.yml");
    let tally = compare(&mut Oracle::start(), folder.path(), &layout, true).expect("equal");
    assert_eq!((tally.inventories, tally.hosts), (1, 3));
    assert_eq!(check_list(folder.path(), &layout), 3);
}

#[test]
fn generated_inventories_are_printed_by_the_program_as_we_print_them() {
    let mut hosts = 0;
    for seed in [3, 7, 11, 20, 41, 77, 90, 103] {
        let made = generate::generate(seed);
        let folder = tempfile::tempdir().expect("a folder for one inventory");
        for (path, content) in &made.files {
            put(&folder.path().join(path), content);
        }
        hosts += check_list(folder.path(), &made.layout);
    }
    assert!(hosts > 10, "only {hosts} hosts were compared");
}

/// The program that matters in the end: a play on the one-host inventory sees what it sees on the whole.
#[test]
fn a_play_sees_the_same_with_the_inventory_of_one_host() {
    let shape = shapes().into_iter().find(|shape| shape.name == "vaulted").expect("it is there");
    let folder = write(&shape);
    let root = folder.path();
    put(&root.join("password"), b"correct horse\n");
    put(&root.join("site.yml"), PLAY.as_bytes());
    let vault = |path: &str| {
        let secret =
            Cmd::new("ansible-vault").cwd(root).args(["encrypt", "--vault-password-file", "password", path]);
        secret.check().expect("ansible-vault encrypts");
    };
    vault("host_vars/gate.yml");
    vault("inventory/group_vars/edge/vault.yml");
    let play = |sources: &[String]| {
        let mut command =
            Cmd::new("ansible-playbook").cwd(root).args(["--vault-password-file", "password", "site.yml"]);
        for source in sources {
            command = command.arg("-i").arg(root.join(source));
        }
        let output = command.args(["-l", "gate", "-c", "local"]).check().expect("the play runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("SEEN")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{text}"))
    };
    let whole = play(&shape.layout().sources);
    let tree = DirTree::new(root);
    let inventory = Inventory::read(&tree, &shape.layout()).expect("readable");
    let view = inventory.host(&tree, "gate").expect("readable");
    assert_eq!(view.sealed, ["inventory/group_vars/edge/vault.yml", "host_vars/gate.yml"]);
    let handover = inventory.one_host("gate", root).expect("writable");
    for (path, text) in &handover.files {
        put(&root.join(path), text.as_bytes());
    }
    // Nothing else of the inventory is needed on the device.
    for file in ["inventory/hosts", "inventory/more.yml"] {
        std::fs::remove_file(root.join(file)).expect("it is there");
    }
    assert_eq!(play(&handover.sources), whole);
    assert!(whole.contains("from the vault") && whole.contains("dynamic wins"), "{whole}");
}

const PLAY: &str = r#"
- hosts: all
  gather_facts: false
  tasks:
    - group_by: {key: made_at_run_time}
    - debug:
        msg: "SEEN {{ [group_names, level, secret, edge_secret, shadowed, inventory_dir | basename, inventory_file | basename] }}"
"#;
