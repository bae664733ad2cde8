//! What is left to Ansible, and what is warned about: each case with its own type.

use std::path::Path;

use volary_fleet::inventory::{
    DirTree, GitTree, Inventory, InventoryError, Layout, MemoryTree, Reason, Warning,
};
use volary_fleet::{MemoryObjects, Object, ObjectId, ObjectKind};
use volary_host::write_atomic;

fn tree(files: &[(&str, &str)]) -> MemoryTree {
    files.iter().fold(MemoryTree::new(), |tree, (path, text)| tree.with(path, *text))
}

#[track_caller]
fn left(files: &[(&str, &str)], source: &str, expected: &str) {
    let tree = tree(files);
    let result =
        Inventory::read(&tree, &Layout::new(source)).and_then(|inventory| inventory.host(&tree, "h"));
    match result {
        Err(InventoryError::Unsupported(unsupported)) => assert_eq!(unsupported.to_string(), expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_only_ansible_can_read_is_left_to_it() {
    left(
        &[("inv/a.yml", "plugin: amazon.aws.aws_ec2\nregions: [eu]\n")],
        "inv",
        "cannot read inv/a.yml without Ansible: it configures the inventory plugin amazon.aws.aws_ec2; store its result \
         in the repository as YAML (`ansible-inventory --list --export --yaml`)",
    );
    left(
        &[("hosts", "$ANSIBLE_VAULT;1.1;AES256\n6162\n")],
        "hosts",
        "cannot read hosts without Ansible: it is vaulted as a whole; vault only the values that are secret",
    );
    left(
        &[("hosts", "h\n"), ("vars_plugins/x.py", "")],
        "hosts",
        "cannot read vars_plugins/x.py without Ansible: it is a plugin for variables; put the variables into \
         group_vars and host_vars",
    );
    left(
        &[("hosts", "h\n"), ("ansible.cfg", "[defaults]\nhash_behaviour = merge\n")],
        "hosts",
        "cannot read ansible.cfg without Ansible: the setting [defaults] hash_behaviour = merge changes how inventories \
         are read; remove the setting",
    );
    left(
        &[("hosts.toml", "[all.vars]\nx = false\n")],
        "hosts.toml",
        "cannot read hosts.toml without Ansible: it is TOML; write it as YAML",
    );
    left(
        &[("hosts", "h a=1+2j\n")],
        "hosts",
        "cannot read hosts without Ansible: it has a complex number in the value \"1+2j\"; write it in another way",
    );
}

#[test]
fn programs_and_links_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let reason = |source: &str| match Inventory::read(&DirTree::new(root), &Layout::new(source)) {
        Err(InventoryError::Unsupported(unsupported)) => Some(unsupported.reason),
        Ok(_) => None,
        Err(other) => panic!("{other}"),
    };
    write_atomic(&root.join("script"), b"#!/bin/sh\necho {}\n", 0o755).unwrap();
    write_atomic(&root.join("no-program"), b"#!/not/run\nh\n", 0o644).unwrap();
    write_atomic(&root.join("wrong-mode"), b"h\n", 0o755).unwrap();
    std::os::unix::fs::symlink("wrong-mode", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/hosts", root.join("out")).unwrap();
    std::os::unix::fs::symlink("circle", root.join("circle")).unwrap();
    assert_eq!(reason("script"), Some(Reason::Script));
    assert_eq!(reason("no-program"), None);
    assert_eq!(reason("wrong-mode"), None);
    assert_eq!(reason("link"), None);
    assert_eq!(reason("out"), Some(Reason::Link));
    assert_eq!(reason("circle"), Some(Reason::Link));
    assert_eq!(reason("../outside"), Some(Reason::Link));
}

#[test]
fn likely_mistakes_are_warned_about() {
    let tree = tree(&[
        ("inv/a.yml", "all:\n  children:\n    web-1: {hosts: {web-1: {x: 1, x: 2}}, nonsense: 5}\n"),
        ("inv/b.yml", "- not\n- a map\n"),
    ]);
    let layout = Layout { sources: vec!["inv".into(), "gone".into()], playbook_folder: String::new() };
    let inventory = Inventory::read(&tree, &layout).unwrap();
    let warnings: Vec<String> = inventory.warnings().iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "inv/a.yml:3: the key \"x\" stands twice in the map, the last one counts",
            "inv/a.yml: a part of group \"web-1\" is passed over: its key \"nonsense\" is a number",
            "inv/b.yml: it has no known form (YAML: a map of groups is needed, this is a list; \
             INI, line 1: \"not\" is not key=value)",
            "the inventory gone is not there",
            "the group name \"web-1\" has characters other than letters, digits and _",
            "\"web-1\" is a group and a host",
        ]
    );
    assert!(matches!(inventory.one_host("web-1", Path::new("/x")), Err(InventoryError::Unsupported(_))));
}

#[test]
fn unknown_hosts_and_broken_variables_are_errors() {
    let tree = tree(&[("hosts", "h\ng\n"), ("host_vars/h.yml", "- list\n"), ("host_vars/g.yml", "a: [\n")]);
    let inventory = Inventory::read(&tree, &Layout::new("hosts")).unwrap();
    let error = |name: &str| inventory.host(&tree, name).unwrap_err().to_string();
    assert_eq!(
        error("h"),
        "cannot read the variables in host_vars/h.yml: a map is needed, this is a list; correct the file"
    );
    assert!(error("g").starts_with("cannot read the variables in host_vars/g.yml: line "), "{}", error("g"));
    assert_eq!(
        error("x"),
        "the inventory has no host \"x\"; add it, or enrol the device under a name that is there"
    );
}

#[test]
fn sealed_files_are_named_and_left_out() {
    let sealed = "$ANSIBLE_VAULT;1.1;AES256\n6162\n";
    let tree = tree(&[
        ("hosts", "h a=1\n"),
        ("group_vars/all/vault.yml", sealed),
        ("host_vars/h.yml", "b: !vault |\n  $ANSIBLE_VAULT\n  1\n"),
    ]);
    let view = Inventory::read(&tree, &Layout::new("hosts")).unwrap().host(&tree, "h").unwrap();
    assert_eq!(view.sealed, ["group_vars/all/vault.yml"]);
    assert_eq!(view.files, ["group_vars/all/vault.yml", "host_vars/h.yml"]);
    let json = volary_fleet::inventory::to_json(&volary_fleet::inventory::Value::Map(view.variables));
    assert_eq!(json, r#"{"a": 1, "b": {"__ansible_vault": "$ANSIBLE_VAULT\n1\n"}}"#);
}

#[test]
fn a_git_tree_is_read_without_a_checkout() {
    let mut objects = MemoryObjects::default();
    let mut blob = |kind, data: &[u8]| objects.insert(Object { kind, data: data.to_vec() }).unwrap();
    let hosts = blob(ObjectKind::Blob, b"[web]\nh a=1\n");
    let vars = blob(ObjectKind::Blob, b"b: 0644\n");
    let target = blob(ObjectKind::Blob, b"web.yml");
    let folder = blob(ObjectKind::Tree, &entries(&[("100644", "web.yml", vars)]));
    let links = blob(ObjectKind::Tree, &entries(&[("120000", "h", target), ("100644", "web.yml", vars)]));
    let root = blob(
        ObjectKind::Tree,
        &entries(&[
            ("40000", "group_vars", folder),
            ("40000", "host_vars", links),
            ("100644", "hosts", hosts),
        ]),
    );
    let tree = GitTree::new(&objects, root);
    let view = Inventory::read(&tree, &Layout::new("hosts")).unwrap().host(&tree, "h").unwrap();
    assert_eq!(view.group_names(), ["web"]);
    assert_eq!(view.files, ["group_vars/web.yml", "host_vars/web.yml"]);
    assert_eq!(view.variables.get("b"), Some(&volary_fleet::inventory::Value::Int(420.into())));
}

fn entries(entries: &[(&str, &str, ObjectId)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(mode, name, id)| [format!("{mode} {name}\0").as_bytes(), id.as_bytes()].concat())
        .collect()
}
