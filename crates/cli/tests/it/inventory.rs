//! `volary inventory`: shown, split, checked; no server is needed.

use std::path::Path;

use serde_json::{Value, json};
use volary_host::{Cmd, Output, create_dir, write_atomic};

fn volary(dir: &Path, args: &[&str]) -> Output {
    Cmd::new(env!("CARGO_BIN_EXE_volary")).cwd(dir).env("HOME", dir).args(args).run().unwrap()
}

#[track_caller]
fn ok(dir: &Path, args: &[&str]) -> String {
    let output = volary(dir, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.text()
}

#[track_caller]
fn fails(dir: &Path, args: &[&str]) -> String {
    let output = volary(dir, args);
    assert_eq!(output.status.code(), Some(1), "{}", output.text());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn git(dir: &Path, args: &[&str]) -> String {
    let git = Cmd::new("git").cwd(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").args(["-c", "user.name=T"]);
    git.args(["-c", "user.email=t@example.com"]).args(args).check().unwrap().text()
}

fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in [
        (
            "inventory.yml",
            "all:\n  children:\n    web: {hosts: {web-1: {db_password: x}, web-2: {port: 80}}}\n",
        ),
        ("group_vars/all.yml", "level: all\n"),
        ("group_vars/web.yml", "level: web\n"),
        ("host_vars/web-1.yml", "# The one on the roof.\nplace: roof\n"),
        ("site.yml", "- hosts: all\n  tasks: []\n"),
    ] {
        let path = folder.path().join(path);
        create_dir(path.parent().unwrap()).unwrap();
        write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    }
    git(folder.path(), &["init", "--quiet"]);
    folder
}

fn commit(dir: &Path) {
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "--quiet", "-m", "x"]);
}

#[test]
fn a_host_is_shown_with_where_its_variables_come_from() {
    let folder = repository();
    let text = ok(folder.path(), &["inventory", "show", "web-1"]);
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "web-1: all < web",
            "variable value of in",
            "db_password \"x\" itself inventory.yml",
            "level \"web\" group web group_vars/web.yml",
            "place \"roof\" itself host_vars/web-1.yml",
        ]
    );
    let shown: Value =
        serde_json::from_str(&ok(folder.path(), &["inventory", "show", "web-2", "--json"])).unwrap();
    assert_eq!(shown["group_names"], json!(["web"]));
    assert_eq!(shown["variables"]["port"], json!({"value": 80, "group": null, "file": "inventory.yml"}));
    let error = fails(folder.path(), &["inventory", "show", "web-3"]);
    assert!(error.contains("the inventory has no host \"web-3\""), "{error}");
    write_atomic(&folder.path().join("inventory.yml"), b"plugin: x.y.z\n", 0o644).unwrap();
    let error = fails(folder.path(), &["inventory", "show", "web-1"]);
    assert!(error.contains("it configures the inventory plugin x.y.z; store its result"), "{error}");
}

#[test]
fn an_inventory_is_split_and_nothing_is_lost() {
    let folder = repository();
    let dir = folder.path();
    let shown = |host: &str| -> Value {
        let shown: Value = serde_json::from_str(&ok(dir, &["inventory", "show", host, "--json"])).unwrap();
        let mut shown = shown;
        for variable in shown["variables"].as_object_mut().unwrap().values_mut() {
            variable["file"] = Value::Null;
        }
        shown
    };
    let before = [shown("web-1"), shown("web-2")];
    let error = fails(dir, &["inventory", "split"]);
    assert!(error.contains("has changes that are not committed") && error.contains("git stash"), "{error}");
    commit(dir);
    ok(dir, &["inventory", "split", "--dry-run"]);
    assert_eq!(git(dir, &["status", "--porcelain"]), "");
    let text = ok(dir, &["inventory", "split"]);
    assert!(text.starts_with("2 hosts are in files of their own: "), "{text}");
    assert_eq!([shown("web-1"), shown("web-2")], before);
    let own = ok(dir, &["inventory", "show", "web-1"]);
    assert!(own.contains("inventory/hosts/c4/web-1.yml"), "{own}");
    let file = volary_host::read_to_string(&dir.join("inventory/hosts/c4/web-1.yml")).unwrap();
    assert!(file.contains("  # The one on the roof.\n  place: roof\n"), "{file}");
    assert!(!dir.join("host_vars").exists());
    commit(dir);
    let error = fails(dir, &["inventory", "split"]);
    assert!(error.contains("hosts have files of their own already, in inventory/hosts"), "{error}");

    // What could not be read for everybody is not warned about any more.
    let found = volary(dir, &["check", "--no-ansible", "."]).text();
    assert!(!found.contains("db_password"), "{found}");
}

#[test]
fn a_split_that_cannot_be_made_changes_nothing() {
    let folder = repository();
    let dir = folder.path();
    // Where the switch is to be made stands something that cannot be replaced.
    create_dir(&dir.join("collections")).unwrap();
    write_atomic(&dir.join("collections/ansible_collections"), b"in the way\n", 0o644).unwrap();
    commit(dir);
    let error = fails(dir, &["inventory", "split"]);
    assert!(error.contains("help: everything is as it was"), "{error}");
    assert_eq!(git(dir, &["status", "--porcelain"]), "");
    assert!(!dir.join("inventory").exists());
}
