//! `volary check`: the template is clean, and each mistake is named with file, line and remedy.

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use support::Fleet;
use volary_fleet::{CheckOptions, Finding, Severity, check_commit, check_folder, has_errors};

const PLAIN: CheckOptions = CheckOptions { ansible: false };
const ANSIBLE: CheckOptions = CheckOptions { ansible: true };

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}

#[test]
fn the_template_is_clean() {
    let fleet = Fleet::new();
    assert_eq!(lines(&check_folder(&fleet.work(), &ANSIBLE).unwrap()), [""; 0]);
    assert_eq!(lines(&check_commit(&fleet.repository(), &fleet.tip("HEAD"), &ANSIBLE).unwrap()), [""; 0]);
    // Without git, as somebody's CI may have it.
    fs::remove_dir_all(fleet.work().join(".git")).unwrap();
    assert_eq!(lines(&check_folder(&fleet.work(), &PLAIN).unwrap()), [""; 0]);
}

/// Changes one file of the template, expects exactly one error, in folder and commit alike, and
/// puts the file back.
#[track_caller]
fn check(fleet: &Fleet, path: &str, change: impl FnOnce(String) -> String, expected: &[&str]) {
    let old = volary_host::read_to_string(&fleet.work().join(path));
    fleet.write(path, &change(old.as_deref().unwrap_or_default().to_owned()));
    expect_one(fleet, &PLAIN, expected);
    match old {
        Ok(old) => fleet.write(path, &old),
        Err(_) => volary_host::remove_if_exists(&fleet.work().join(path)).unwrap(),
    }
}

#[track_caller]
fn expect_one(fleet: &Fleet, options: &CheckOptions, expected: &[&str]) {
    let tip = fleet.commit("alice", "A mistake");
    for findings in [
        check_folder(&fleet.work(), options).unwrap(),
        check_commit(&fleet.repository(), &tip, options).unwrap(),
    ] {
        let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{:#?}", lines(&findings));
        let text = errors[0].to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn mistakes_in_device_types_are_named() {
    let fleet = Fleet::new();
    let path = "device-types/board.yml";
    let start = "version: 1\narchitecture: arm64\nsuite: bookworm\n";
    check(
        &fleet,
        path,
        |_| start.replace("suite", "suit"),
        &[path, "line 3, suit", "did you mean \"suite\"?"],
    );
    let lost = format!("{start}playbook: image.yml\nboot_files: {{ config.txt: lost/config.txt }}\n");
    fleet.write("image.yml", "- hosts: all\n");
    check(&fleet, path, |_| lost, &[path, "lost/config.txt is not in the repository"]);
    check(&fleet, "device-types/Board.yml", |_| start.into(), &["device-types/Board.yml", "rename the file"]);
}

#[test]
fn mistakes_in_volary_yml_are_named() {
    let fleet = Fleet::new();
    let stages = |text: &'static str| move |_| format!("version: 1\nstages:\n{text}");
    let path = "volary.yml";
    check(
        &fleet,
        path,
        |_| "version: 1\nstagse: {}\n".into(),
        &["volary.yml, line 2, stagse", "did you mean \"stages\"?"],
    );
    check(&fleet, path, |_| "stages: {}\n".into(), &["line 1, version", "is missing"]);
    check(&fleet, path, |_| "version: 9\n".into(), &["version 9 is unknown"]);
    check(
        &fleet,
        path,
        |text| format!("{text}needs_agent: new\n"),
        &["needs_agent", "\"new\" is no version of volary-agent"],
    );
    check(
        &fleet,
        path,
        |_| "version: 9\nneeds_agent: \"999.1\"\n".into(),
        &["line 2, needs_agent", "it needs volary-agent 999.1.0 or newer", "update Volary here first"],
    );
    check(&fleet, path, |_| "a: [\n".into(), &["line 1", "not valid YAML"]);
    check(&fleet, path, |_| "version: 1\n".into(), &["\"stages\" is missing"]);
    check(
        &fleet,
        path,
        stages("  a: { branch: b, form: c }\n"),
        &["line 3, stages.a.form", "did you mean \"from\"?"],
    );
    check(
        &fleet,
        path,
        stages("  a: { branch: m, from: b }\n"),
        &["there is no stage b", "the stages are a"],
    );
    check(
        &fleet,
        path,
        stages("  a: { branch: m }\n  b: { branch: m, from: a }\n"),
        &["line 4", "belongs to stage a"],
    );
    check(
        &fleet,
        path,
        stages("  a: { branch: m }\n  b: { branch: n }\n"),
        &["line 4", "both have no `from`"],
    );
    check(
        &fleet,
        path,
        stages("  a: { branch: m }\n  b: { branch: n, from: c }\n  c: { branch: o, from: b }\n"),
        &["goes round in a circle"],
    );
    check(&fleet, path, stages("  a: { branch: m, from: a }\n"), &["no stage is the first"]);
    check(&fleet, path, stages("  a: { branch: ../m }\n"), &["is not a branch name"]);
    check(&fleet, path, stages("  A: { branch: m }\n"), &["line 3, stages.A", "stage name \"A\""]);
    check(&fleet, path, stages("  a: { branch: m, packages: rollling }\n"), &["write `rolling` or `lock`"]);
    check(&fleet, path, stages("  a: m\n"), &["line 3, stages.a", "not a map"]);
    check(
        &fleet,
        path,
        |old| old.replace("60s", "soon"),
        &["poll", "\"soon\" is not a duration", "90s, 15m, 24h, 7d"],
    );
    check(&fleet, path, |old| old.replace("60s", "0s"), &["poll", "out of range"]);
    check(
        &fleet,
        path,
        |old| old.replace("98%", "98"),
        &["gates.production.healthy.at_least", "write it as 98%"],
    );
    check(
        &fleet,
        path,
        |old| old.replace("  production:\n    healthy", "  prodcution:\n    healthy"),
        &["did you mean \"production\"?"],
    );
    check(
        &fleet,
        path,
        |old| old.replace("  production:\n    healthy", "  development:\n    healthy"),
        &["is the first stage"],
    );
    check(
        &fleet,
        path,
        |old| old + "signers:\n  canary: [alise@example.com]\n",
        &["signers.canary", "did you mean \"alice@example.com\"?"],
    );
    check(&fleet, path, |old| old + "signers:\n  canary: []\n", &["nobody may sign"]);
    check(&fleet, path, |old| old + "poll: 10s\n", &["stands twice"]);
    let zone = |name: &'static str| {
        move |old| format!("{old}windows:\n  canary: {{ install: 02:00-05:00, time_zone: {name} }}\n")
    };
    check(
        &fleet,
        path,
        zone("Europe/Pariss"),
        &[
            "volary.yml, windows.canary.time_zone",
            "no time zone Europe/Pariss",
            "did you mean \"Europe/Paris\"?",
        ],
    );
    check(&fleet, path, zone("Xxxxxxxxxxxxx/Zzzzzzzzzzz"), &["no time zone", "timedatectl list-timezones"]);
}

#[test]
fn other_mistakes_are_named() {
    let fleet = Fleet::new();
    check(&fleet, "volary.lock", |_| "version: 1\nrelease: v1\n".into(), &["volary.lock", "indexes"]);
    check(
        &fleet,
        ".volary/allowed_signers",
        |_| "# nobody\n".into(),
        &[".volary/allowed_signers", "no signer"],
    );
    check(
        &fleet,
        ".volary/allowed_signers",
        |old| old + "x ssh-rsa AAAA\n",
        &["allowed_signers, line 3", "cannot be read"],
    );
    check(
        &fleet,
        "roles/a/tasks/main.yml",
        |_| "- a: b\n   c: d\n".into(),
        &["roles/a/tasks/main.yml, line 2"],
    );
    check(
        &fleet,
        "health/required.d/20-new",
        |_| "#!/bin/sh\n".into(),
        &["must be executable", "git add --chmod=+x"],
    );
}

#[test]
fn files_that_only_look_like_yaml_are_left_alone() {
    let fleet = Fleet::new();
    fleet.write("roles/a/templates/x.yml", "{% if a %}: [\n");
    fleet.write("roles/a/files/x.yml", "{% if a %}: [\n");
    fleet.write("health/required.d/README.md", "text\n");
    fleet.commit("alice", "Templates");
    assert_eq!(lines(&check_folder(&fleet.work(), &PLAIN).unwrap()), [""; 0]);
}

#[test]
fn missing_files_are_named() {
    for (path, expected) in [
        ("volary.yml", "`volary init` writes one"),
        ("volary.lock", "write `version: 1` into it"),
        (".volary/allowed_signers", "nobody could sign"),
        ("site.yml", "add site.yml or local.yml"),
        ("inventory.yml", "add inventory.yml or inventory/"),
    ] {
        let fleet = Fleet::new();
        volary_host::remove_if_exists(&fleet.work().join(path)).unwrap();
        expect_one(&fleet, &PLAIN, &[path, expected]);
    }
}

#[test]
fn links_and_submodules_are_named() {
    let fleet = Fleet::new();
    symlink("/etc/passwd", fleet.work().join("link")).unwrap();
    expect_one(&fleet, &PLAIN, &["link", "outside the repository"]);
    let fleet = Fleet::new();
    fleet.git(&["init", "--quiet", "module"]);
    fleet.git(&["-C", "module", "commit", "--quiet", "--allow-empty", "-m", "x"]);
    expect_one(&fleet, &PLAIN, &["module", "submodule"]);
}

#[test]
fn ansible_finds_what_only_it_can_know() {
    let fleet = Fleet::new();
    fleet.write("site.yml", "---\n- name: Site\n  hosts: all\n  taskz: []\n");
    expect_one(&fleet, &ANSIBLE, &["site.yml, line 2", "Ansible cannot use it"]);
    let fleet = Fleet::new();
    fleet.write("site.yml", "---\n- name: Site\n  hosts: all\n  roles: [nowhere]\n");
    expect_one(&fleet, &ANSIBLE, &["site.yml, line 4", "Ansible cannot use it"]);
    let fleet = Fleet::new();
    fleet.write("inventory.yml", "---\nall:\n  hosts:\n    Bad_Name:\n");
    let findings = check_folder(&fleet.work(), &ANSIBLE).unwrap();
    assert!(!has_errors(&findings) && lines(&findings)[0].contains("Bad_Name"), "{:#?}", lines(&findings));
    assert!(!fleet.work().join("__pycache__").exists());
}

#[test]
fn inventories_that_devices_cannot_read_are_named() {
    let fleet = Fleet::new();
    let path = "inventory.yml";
    check(
        &fleet,
        path,
        |_| "plugin: ansible.builtin.constructed\n".into(),
        &["inventory.yml: devices cannot read", "plugin ansible.builtin.constructed", "store its result"],
    );
    check(
        &fleet,
        path,
        |_| "all:\n  hosts: 3\n".into(),
        &["inventory.yml: it has no known form", "correct it"],
    );
    check(
        &fleet,
        path,
        |_| "plugin: volary.fleet.host_files\nfolder: /etc\n".into(),
        &["inventory.yml: the folder \"/etc\" must be one inside the repository"],
    );
    check(
        &fleet,
        "ansible.cfg",
        |_| "[defaults]\nhash_behaviour = merge\n".into(),
        &["ansible.cfg", "hash_behaviour = merge", "remove the setting"],
    );
    check(&fleet, "group_vars/canary.yml", |_| "- a\n".into(), &["group_vars/canary.yml: a map is needed"]);
    fs::remove_file(fleet.work().join(path)).unwrap();
    let script = fleet.work().join("hosts");
    volary_host::write_atomic(&script, b"#!/bin/sh\n", 0o755).unwrap();
    expect_one(&fleet, &PLAIN, &["hosts: devices cannot read", "it is a program", "store its result"]);
}

#[test]
fn what_every_device_can_read_and_should_not_is_warned_about() {
    let fleet = Fleet::new();
    let hosts = "all:\n  vars: {api_key: 5}\n  hosts:\n    a: {db_password: x, port: 1}\n    b: {cert: !vault \"$ANSIBLE_VAULT;1\"}\n    c: {password: '{{ vaulted }}'}\n";
    fleet.write("inventory.yml", hosts);
    fleet.write("roles/a/templates/list", "{% for host in groups['all'] %}\n");
    fleet.write("roles/a/tasks/main.yml", "- group_by: {key: x}\n");
    let found = lines(&check_folder(&fleet.work(), &PLAIN).unwrap());
    assert_eq!(
        found,
        [
            "inventory.yml: every device can read cert of b, db_password of a, which look private; give each host a \
             file of its own with `volary inventory split`, or move them into host_vars/",
            "inventory.yml: every device can read api_key of all, which look private; move them into group_vars/, \
             where only devices of the group get them",
            "roles/a/tasks/main.yml, line 1: group_by makes groups while the play runs; if the inventory has the \
             group, a device that is not in it there has none of its group_vars; put the device into the group in \
             the inventory, or give the new group a name of its own",
            "roles/a/templates/list, line 1: it asks about other hosts (groups); a device knows only itself; put \
             what it needs to know of others into group_vars/",
        ]
    );
    // In a file of its own only the host itself can read it.
    fleet.write("inventory.yml", "plugin: volary.fleet.host_files\n");
    let own = format!("inventory/hosts/{}", volary_fleet::inventory::Inventory::host_file("a"));
    fleet.write(&own, "vars: {db_password: x}\n");
    assert_eq!(lines(&check_folder(&fleet.work(), &PLAIN).unwrap()).len(), 2);
    fleet.write(&own, "groups: [web]\n");
    let found = lines(&check_folder(&fleet.work(), &PLAIN).unwrap());
    let expected =
        format!("{own}: the group \"web\" is not in inventory/groups.yml; add the line `web:` there");
    assert_eq!(found[0], expected);
}

#[test]
fn every_inventory_and_playbook_of_devices_is_known() {
    let fleet = Fleet::new();
    let inventory = volary_host::read_to_string(&fleet.work().join("inventory.yml")).unwrap();
    let playbook = volary_host::read_to_string(&fleet.work().join("site.yml")).unwrap();
    for (old, text, names) in [
        ("inventory.yml", inventory, &volary_fleet::INVENTORIES[..]),
        ("site.yml", playbook, &volary_fleet::PLAYBOOKS[..]),
    ] {
        fs::remove_file(fleet.work().join(old)).unwrap();
        let in_folder = ["inventory/all.yml", "hosts/all.yml"].iter().filter(|_| old == "inventory.yml");
        for name in names.iter().filter(|name| **name != "inventory").chain(in_folder) {
            fleet.write(name, if name.ends_with(".ini") { "[development]\n" } else { &text });
            assert_eq!(lines(&check_folder(&fleet.work(), &PLAIN).unwrap()), [""; 0], "{name}");
            fs::remove_file(fleet.work().join(name)).unwrap();
            let _ = fs::remove_dir(fleet.work().join(name).parent().unwrap());
        }
        assert_eq!(check_folder(&fleet.work(), &PLAIN).unwrap().len(), 1);
        fleet.write(old, &text);
    }
}
