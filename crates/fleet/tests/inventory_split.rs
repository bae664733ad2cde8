//! Inventories with one file for each host: Ansible, with the plugin, reads of them what it read of
//! what they were made of, and so does our reader.
//!
//! `VOLARY_INVENTORY_CAMPAIGN=N` and `VOLARY_INVENTORY_SEED=S` as for `inventory_oracle`.

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
use generate::generate;
use layouts::shapes;
use serde_json::{Value as Json, json};
use volary_fleet::inventory::{Change, DirTree, Inventory, Layout, Split, SplitError, fleet_layout};
use volary_host::Cmd;

fn put(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("a fresh folder");
    let mut file = File::create(path).expect("the folder is ours");
    file.write_all(content).expect("the folder is ours");
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for one inventory");
    for (path, content) in files {
        put(&folder.path().join(path), content.as_bytes());
    }
    folder
}

fn make(root: &Path, change: &Change) {
    match change {
        Change::Write { path, text } => put(&root.join(path), text.as_bytes()),
        Change::Remove { path } => std::fs::remove_file(root.join(path)).expect("it is there"),
    }
}

/// What Ansible says, but for where hosts came from and, if that is lost, their order.
fn facts(mut answer: Json, ordered: bool) -> Json {
    answer["host_order"] = Json::Null;
    for host in answer["hosts"].as_object_mut().expect("a map").values_mut() {
        host["places"] = Json::Null;
    }
    if !ordered {
        for group in answer["groups"].as_object_mut().expect("a map").values_mut() {
            group["hosts"].as_array_mut().expect("a list").sort_by_key(Json::to_string);
        }
    }
    answer
}

/// Splits and compares; says for how many hosts. 0 if it can't be split.
fn check(oracle: &mut Oracle, root: &Path, layout: &Layout) -> Result<usize, String> {
    let before = oracle.ask(root, layout);
    // Ansible remembers in which files it found variables, so the other one is another folder.
    let copy = tempfile::tempdir().expect("a folder for one inventory");
    Cmd::new("cp")
        .args(["--archive", "--no-target-directory"])
        .arg(root)
        .arg(copy.path())
        .check()
        .expect("a copy");
    let root = copy.path();
    let split = match Split::plan(&DirTree::new(root), layout) {
        Ok(split) => split,
        Err(error @ SplitError::Differs(_)) => return Err(error.to_string()),
        Err(_) => return Ok(0),
    };
    split.changes.iter().for_each(|change| make(root, change));
    let is_folder = root.join(&layout.sources[0]).is_dir();
    let source = if is_folder { layout.sources[0].clone() } else { split.source.clone() };
    let after = Layout { sources: vec![source], playbook_folder: layout.playbook_folder.clone() };
    let ordered = !split.notes.iter().any(|note| note.contains("order of the hosts"));
    let (was, is) = (facts(before, ordered), facts(oracle.ask(root, &after), ordered));
    if was != is {
        return Err(format!("{layout:?}\nbefore {was}\nafter  {is}"));
    }
    let tally = compare(oracle, root, &after, true)?;
    if tally.hosts + tally.both_refuse != split.hosts {
        return Err(format!("{tally:?} of {} hosts", split.hosts));
    }
    Ok(split.hosts)
}

#[test]
fn known_layouts_say_the_same_when_they_are_split() {
    let mut oracle = Oracle::start();
    // The oracle has not read the settings of a shape, which ours has.
    for shape in shapes().iter().filter(|shape| !shape.files.iter().any(|(path, _)| *path == "ansible.cfg")) {
        let folder = folder(shape.files);
        let hosts = check(&mut oracle, folder.path(), &shape.layout());
        let hosts = hosts.unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        assert!(hosts > 0, "{} is not split", shape.name);
    }
}

#[test]
fn generated_inventories_say_the_same_when_they_are_split() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let count: u64 = setting("VOLARY_INVENTORY_CAMPAIGN").unwrap_or(40);
    let first = setting("VOLARY_INVENTORY_SEED").unwrap_or(1);
    let mut oracle = Oracle::start();
    let (mut split, mut hosts, mut failures) = (0u64, 0, Vec::new());
    for seed in first..first + count {
        let mut made = generate(seed);
        made.layout.sources.truncate(1);
        let folder = tempfile::tempdir().expect("a folder for one inventory");
        for (path, content) in &made.files {
            put(&folder.path().join(path), content);
        }
        match check(&mut oracle, folder.path(), &made.layout) {
            Ok(found) => {
                split += u64::from(found > 0);
                hosts += found;
            }
            Err(difference) => failures.push(format!("seed {seed}: {difference}")),
        }
    }
    println!("{split} of {count} inventories were split, with {hosts} hosts");
    let shown = failures.iter().take(3).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "{} of {count} differ\n{shown}", failures.len());
    assert!(split * 4 > count, "only {split} of {count} were split");
}

const FLEET: [(&str, &str); 5] = [
    (
        "hosts",
        "# Who is where.\n[web]\nweb[1:3] port=80\nweb10 address=10.0.0.10\n[db]\nweb1\ndb-1\n[site:children]\ndb\nweb\n\
         [site:vars]\nlevel=site\n[empty]\n",
    ),
    ("ansible.cfg", "[defaults]\ninventory = hosts\n"),
    ("group_vars/web.yml", "level: web\n"),
    (
        "host_vars/web2.yml",
        "---\n# Where it is.\nplace: roof\nkey: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
    ),
    ("host_vars/db-1/secret.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
];

fn texts(split: &Split) -> BTreeMap<&str, &str> {
    let written = split.changes.iter().filter_map(|change| match change {
        Change::Write { path, text } => Some((path.as_str(), text.as_str())),
        Change::Remove { .. } => None,
    });
    written.collect()
}

#[test]
fn what_is_written_is_for_people() {
    let folder = folder(&FLEET);
    let tree = DirTree::new(folder.path());
    let layout = fleet_layout(&tree).unwrap().unwrap();
    let split = Split::plan(&tree, &layout).unwrap();
    let texts = texts(&split);
    assert_eq!(
        texts["inventory.yml"],
        "# Groups are in inventory.d/groups.yml, hosts in inventory.d/hosts/, one file each.\n\
         plugin: volary.fleet.host_files\nfolder: inventory.d\n"
    );
    assert_eq!(
        texts["inventory.d/groups.yml"],
        "# All groups of the fleet, what is below them, and their variables.\nweb:\ndb:\nsite:\n  children:\n    - db\n    \
         - web\n  vars:\n    level: site\nempty:\n"
    );
    let host = |name: &str| texts[format!("inventory.d/hosts/{}", Inventory::host_file(name)).as_str()];
    assert_eq!(host("web10"), "order: 50\ngroups:\n  - web\nvars:\n  address: \"10.0.0.10\"\n");
    assert_eq!(
        host("web2"),
        "order: 30\ngroups:\n  - web\nvars:\n  port: 80\n  # Where it is.\n  place: roof\n  key: !vault |\n    \
         $ANSIBLE_VAULT;1.1;AES256\n    6162\n"
    );
    assert!(texts["ansible.cfg"].contains("inventory = inventory.yml\n"));
    let removed: Vec<&Change> =
        split.changes.iter().filter(|change| matches!(change, Change::Remove { .. })).collect();
    let remove = |path: &str| Change::Remove { path: path.to_owned() };
    assert_eq!(removed, [&remove("hosts"), &remove("host_vars/web2.yml")]);
    assert_eq!(
        split.notes,
        [
            "1 comments in hosts are lost; the commit before keeps them",
            "the inventory is inventory.yml now, and was hosts: `inventory_file` says so too",
            "db-1: their host_vars stay where they are, because a file is vaulted as a whole",
        ]
    );
}

/// Power may go at any moment: each state in between says the same.
#[test]
fn after_each_change_the_inventory_says_the_same() {
    let folder = folder(&FLEET);
    let root = folder.path();
    let tree = DirTree::new(root);
    let told = || {
        let layout = fleet_layout(&tree).unwrap().unwrap();
        let inventory = Inventory::read(&tree, &layout).unwrap();
        let names: Vec<String> = inventory.hosts().map(str::to_owned).collect();
        let views = names.iter().map(|name| {
            let view = inventory.host(&tree, name).unwrap();
            (name.clone(), (view.group_names().join(" "), format!("{:?}", view.variables.get("place"))))
        });
        views.collect::<BTreeMap<_, _>>()
    };
    let before = told();
    let split = Split::plan(&tree, &fleet_layout(&tree).unwrap().unwrap()).unwrap();
    for change in &split.changes {
        make(root, change);
        assert_eq!(told(), before, "{change:?}");
    }
    let again = Split::plan(&tree, &fleet_layout(&tree).unwrap().unwrap()).unwrap_err().to_string();
    assert_eq!(again, "hosts have files of their own already, in inventory.d/hosts");
}

/// The programs that people use, with nothing but what is in the repository.
#[test]
fn stock_ansible_prints_the_same_list() {
    let folder = folder(&FLEET);
    let root = folder.path();
    std::fs::remove_dir_all(root.join("host_vars/db-1")).unwrap();
    let list = || {
        let printed = Cmd::new("ansible-inventory").cwd(root).args(["--list", "--export"]).check().unwrap();
        serde_json::from_slice::<Json>(&printed.stdout).unwrap()
    };
    let before = list();
    assert_eq!(before["web"]["hosts"], json!(["web1", "web2", "web3", "web10"]));
    let tree = DirTree::new(root);
    let split = Split::plan(&tree, &fleet_layout(&tree).unwrap().unwrap()).unwrap();
    split.changes.iter().for_each(|change| make(root, change));
    assert_eq!(list(), before);
}

#[test]
fn mistakes_are_the_same_for_ansible_and_for_us() {
    let mut oracle = Oracle::start();
    for (path, text, expected) in [
        ("inventory/groups.yml", "web: {hosts: {a: }}\n", "may have only `children` and `vars`"),
        ("inventory/groups.yml", "web: {children: [db]}\n", "the group \"db\" is not in"),
        ("inventory/groups.yml", "web: {children: {a: }}\n", "must be a list of names"),
        ("inventory/groups.yml", "- web\n", "a map is needed"),
        ("inventory/hosts/00/a.yml", "groups: []\n", "it belongs into inventory/hosts/ca/"),
        ("inventory/hosts/ca/a.yaml", "groups: []\n", "only files of hosts, NAME.yml"),
        ("inventory/hosts/ca/a.yml", "x: 1\n", "variables belong below `vars`"),
        ("inventory/hosts/ca/a.yml", "order: yes\n", "must be a whole number"),
        ("inventory/hosts/ca/a.yml", "groups: [web, nowhere]\n", "the group \"nowhere\" is not in"),
        ("inventory/hosts/ca/a.yml", "vars: [1]\n", "`vars` must be a map"),
        ("inventory.yml", "plugin: volary.fleet.host_files\nfolders: x\n", "only `plugin` and `folder`"),
        ("inventory/groups.yml", "web:\n", ""),
        ("inventory/hosts/ca/a.yml", "groups: [web]\n", ""),
        ("inventory/hosts/ca/a.yml", "", ""),
    ] {
        let folder = folder(&[
            ("inventory.yml", "plugin: volary.fleet.host_files\n"),
            ("inventory/groups.yml", "web:\n"),
            (path, text),
        ]);
        let layout = Layout::new("inventory.yml");
        let ours = Inventory::read(&DirTree::new(folder.path()), &layout);
        let theirs = oracle.ask(folder.path(), &layout);
        let failed = theirs.get("error").is_some() || theirs["group_order"] == json!(["all", "ungrouped"]);
        match ours {
            Ok(read) => {
                assert!(expected.is_empty() && read.groups().count() == 3, "{path}: {text}");
                assert!(!failed, "{path}: {text}: {theirs}");
            }
            Err(error) => {
                assert!(!expected.is_empty() && error.to_string().contains(expected), "{text}: {error}");
                // It is said as a warning, and what was read before stays; but never all of it.
                assert!(theirs["hosts"] == json!({}), "{path}: {text}: {theirs}");
            }
        }
    }
}
