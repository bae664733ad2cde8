//! The inventory of one host that Ansible gets, and inventories that nobody but Ansible could read.

use volary_host::{Cmd, read_to_string, remove_if_exists, write_atomic};

use crate::convergence::Device;
use crate::fleet::Fleet;

/// Writes what a play sees: what must be equal on the whole inventory, then the rest.
fn play(fleet: &Fleet) -> String {
    let seen = "[group_names, level, inline, secret, hidden, shadowed, playbook_only, inventory_dir | basename, \
                inventory_file | basename, inventory_hostname in groups['db'], inventory_hostname in groups['edge']]";
    format!(
        "- hosts: edge:!db\n  gather_facts: false\n  tasks:\n    - group_by: {{key: made_at_run_time}}\n    \
         - copy:\n        content: \"{{{{ {seen} | to_json }}}}\\n{{{{ [groups, hostvars.keys() | sort] | to_json }}}}\"\n        \
         dest: {}\n        mode: '0644'\n",
        fleet.written().display()
    )
}

#[test]
fn a_play_sees_what_it_sees_on_the_whole_inventory() {
    let mut device = Device::new();
    let fleet = &device.fleet;
    remove_if_exists(&fleet.work().join("inventory.yml")).unwrap();
    let password = device.root.path().join("password");
    write_atomic(&password, b"correct horse\n", 0o600).unwrap();
    for (path, text) in [
        ("ansible.cfg", format!("[defaults]\nvault_password_file = {}\n", password.display())),
        ("inventory/hosts", "[edge]\ndev-[1:2] inline=1\n[db]\nother\n[site:children]\nedge\n".to_owned()),
        ("inventory/more.yml", "site: {vars: {level: site, shadowed: inline}}\nedge: {vars: {ansible_group_priority: 5, level: edge}}\n".to_owned()),
        ("inventory/group_vars/all.yml", "level: all\nshadowed: beside the inventory\n".to_owned()),
        ("inventory/group_vars/edge/vault.yml", "hidden: in a sealed file\n".to_owned()),
        ("inventory/group_vars/db.yml", "password: of the database\n".to_owned()),
        ("group_vars/site.yml", "shadowed: beside the playbook\nplaybook_only: '{{ level }}!'\n".to_owned()),
        ("group_vars/made_at_run_time.yml", "level: made while it ran\n".to_owned()),
        ("host_vars/dev-1.yml", format!("secret: !vault |\n{}", vaulted(&password))),
        ("site.yml", play(fleet)),
    ] {
        fleet.put(path, &text);
    }
    let vault = Cmd::new("ansible-vault").cwd(fleet.work());
    vault.args(["encrypt", "inventory/group_vars/edge/vault.yml"]).check().unwrap();
    fleet.commit("alice", "Describe everything");
    let whole = Cmd::new("ansible-playbook").cwd(fleet.work()).args(["-i", "inventory", "-c", "local"]);
    whole.args(["-l", "dev-1", "site.yml"]).check().unwrap();
    let expected = read_to_string(&fleet.written()).unwrap();
    let expected = expected.lines().next().unwrap().to_owned();
    assert!(expected.contains("very secret") && expected.contains("in a sealed file"), "{expected}");
    remove_if_exists(&fleet.written()).unwrap();

    assert_eq!(device.converge(), "good");
    let text = read_to_string(&device.fleet.written()).unwrap();
    let (same, others) = text.split_once('\n').unwrap();
    assert_eq!(same, expected);
    let others: serde_json::Value = serde_json::from_str(others).unwrap();
    // Ansible's own localhost is there always.
    assert_eq!(others[1], serde_json::json!(["dev-1", "localhost"]), "nothing of other hosts");
    assert_eq!(others[0]["db"], serde_json::json!([]));
    assert_eq!(others[0]["site"], serde_json::json!(["dev-1"]));

    let checkout = device.state_folder().join("checkout").join(device.fleet.head().as_str());
    let hidden = Cmd::new("find").arg(&checkout).args(["-name", ".volary*", "-type", "f"]).check().unwrap();
    assert_eq!(hidden.text(), "", "the inventory of this host is gone after the run");
    assert!(checkout.join("inventory/group_vars/edge/vault.yml").is_file());
    assert!(!checkout.join("inventory/group_vars/db.yml").exists());
    assert!(!checkout.join("host_vars/other").exists());
}

fn vaulted(password: &std::path::Path) -> String {
    let vault = Cmd::new("ansible-vault").args(["encrypt_string", "--vault-password-file"]);
    let text = vault.arg(password).arg("very secret").check().unwrap().text();
    text.lines().skip(1).map(|line| format!("  {}\n", line.trim())).collect()
}

/// What only Ansible could read is refused with its remedy, and is not run.
#[test]
fn what_only_ansible_could_read_is_refused() {
    let mut device = Device::new();
    let mark = device.root.path().join("was-run");
    let script = format!("#!/bin/sh\ntouch {}\necho '{{}}'\n", mark.display());
    let whole = "all: {hosts: {dev-1: }}\n";
    for (path, text, expected) in [
        (
            "inventory/script",
            script.as_str(),
            "cannot read inventory/script without Ansible: it is a program; store its result",
        ),
        (
            "inventory/x.yml",
            "plugin: ansible.builtin.constructed\ngroups: {a: true}\n",
            "it configures the inventory plugin ansible.builtin.constructed; store its result",
        ),
        ("inventory/x.toml", "[all.vars]\nx = false\n", "it is TOML; write it as YAML"),
        (
            "ansible.cfg",
            "[defaults]\nhash_behaviour = merge\n",
            "[defaults] hash_behaviour = merge changes how inventories are read; remove the setting",
        ),
        (
            "inventory/x.yml",
            "$ANSIBLE_VAULT;1.1;AES256\n6162\n",
            "it is vaulted as a whole; vault only the values that are secret",
        ),
        (
            "vars_plugins/x.py",
            "",
            "it is a plugin for variables; put the variables into group_vars and host_vars",
        ),
        (
            "host_vars/dev-1.yml",
            "volary_stage: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n",
            "volary_stage is a vaulted value; it must be the name of a stage",
        ),
        ("host_vars/dev-1.yml", "a: [\n", "cannot read the variables in host_vars/dev-1.yml: line"),
    ] {
        remove_if_exists(&device.fleet.work().join("inventory.yml")).unwrap();
        device.fleet.put("inventory/hosts.yml", whole);
        device.fleet.put_executable(path, text);
        device.fleet.commit("alice", "Try");
        let found = device.converge();
        assert!(found.starts_with("failed playbook : ") && found.contains(expected), "{path}\n→ {found}");
        remove_if_exists(&device.fleet.work().join(path)).unwrap();
    }
    assert!(!mark.exists(), "the script was run");
    device.fleet.commit("alice", "Write it down");
    assert_eq!(device.converge(), "good");
}
