//! An attack: a device asks for the variables of another one, in every way there is.

use std::collections::BTreeSet;

use serde_json::json;
use volary_fleet::inventory::Inventory;
use volary_host::{Cmd, create_dir};

use crate::support::{Client, DeviceKey, Git, TestServer, wait_for};

/// A fleet in which dev-1 serves pages and dev-2 has the database.
fn fill(fleet: &Git, is_split: bool) -> String {
    let own = |host: &str| format!("inventory/hosts/{}", Inventory::host_file(host));
    let mut files = vec![
        ("group_vars/web.yml".to_owned(), "web_secret: 1\n"),
        ("group_vars/db.yml".to_owned(), "db_secret: 2\n"),
        ("group_vars/store/vault.yml".to_owned(), "store_secret: 3\n"),
        ("group_vars/nobody.yml".to_owned(), "nobody_secret: 4\n"),
    ];
    if is_split {
        let groups = "web:\ndb:\nnobody:\nstore: {children: [db]}\n";
        files.push(("inventory/groups.yml".to_owned(), groups));
        files.push((own("dev-1"), "groups: [web]\nvars: {dev_secret: one}\n"));
        files.push((own("dev-2"), "groups: [db]\nvars: {dev_secret: two}\n"));
        files.push(("inventory.yml".to_owned(), "plugin: volary.fleet.host_files\n"));
    } else {
        files.push(("host_vars/dev-1.yml".to_owned(), "dev_secret: one\n"));
        files.push(("host_vars/dev-2/x.yml".to_owned(), "dev_secret: two\n"));
        let inventory = "web: {hosts: {dev-1: }}\nnobody:\nstore: {children: {db: {hosts: {dev-2: }}}}\n";
        files.push(("inventory.yml".to_owned(), inventory));
    }
    for (path, text) in files {
        let path = fleet.dir.join(path);
        create_dir(path.parent().unwrap()).unwrap();
        volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    }
    fleet.commit("note", if is_split { "split" } else { "plain" }, "Fill the inventory")
}

/// What of the commit nobody but dev-2 (or nobody at all) may have.
fn private(is_split: bool) -> Vec<String> {
    let mut paths = vec!["group_vars/db.yml", "group_vars/store/vault.yml", "group_vars/nobody.yml"];
    let own = format!("inventory/hosts/{}", Inventory::host_file("dev-2"));
    paths.push(if is_split { &own } else { "host_vars/dev-2/x.yml" });
    paths.into_iter().map(str::to_owned).collect()
}

/// The objects that the server gives out.
fn objects(server: &TestServer, device: &Client, request: &serde_json::Value) -> BTreeSet<String> {
    let answer = device.post("/device/v1/objects", request);
    assert!(answer.status.is_success(), "{}", answer.text());
    let folder = tempfile::tempdir_in(server.scratch()).unwrap();
    let git = || Cmd::new("git").cwd(folder.path());
    git().args(["init", "--quiet", "--bare"]).check().unwrap();
    git().args(["unpack-objects", "-q"]).stdin(answer.body).check().unwrap();
    let listed = git().args(["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]).check();
    listed.unwrap().text().lines().map(str::to_owned).collect()
}

#[test]
fn the_variables_of_another_device_are_not_to_be_had() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let first = fleet.run(&["rev-parse", "HEAD"]);
    let thief = DeviceKey::new().join(&server, "dev-1", "development");
    let owner = DeviceKey::new().join(&server, "dev-2", "development");
    let mut commits = vec![first];
    for is_split in [false, true] {
        let commit = fill(&fleet, is_split);
        fleet.push("HEAD:master").unwrap();
        wait_for("the commit is desired", || {
            thief.get("/device/v1/desired").text().contains(&commit).then_some(())
        });
        let id = |path: &str| fleet.run(&["rev-parse", &format!("{commit}:{path}")]);
        let secrets: Vec<String> = private(is_split).iter().map(|path| id(path)).collect();
        let folder = id("group_vars");

        // Everything, and what is new since any commit, known or not, or since no commit at all.
        let mut requests = vec![json!({"want": commit})];
        for have in commits.iter().chain([&commit, &secrets[0], &folder, &"0".repeat(40)]) {
            requests.push(json!({"want": commit, "have": have}));
        }
        for earlier in &commits {
            requests.push(json!({"want": earlier, "have": commit}));
        }
        for request in &requests {
            let got = objects(&server, &thief, request);
            assert!(secrets.iter().all(|secret| !got.contains(secret)), "{request} gives secrets of others");
        }
        // The owner gets them, so that this test would see them.
        let got = objects(&server, &owner, &json!({"want": commit}));
        let mut had: Vec<bool> = secrets.iter().map(|secret| got.contains(secret)).collect();
        assert!(!had.remove(2) && had.iter().all(|had| *had), "{had:?}");

        for asked in secrets.iter().chain([&folder]) {
            let refused = thief.post("/device/v1/objects", &json!({"want": asked}));
            refused.refused(404, "not on the branch of any stage");
        }
        commits.push(commit);
    }
    // The doors for people do not know devices.
    for path in [
        "/git/fleet.git/info/refs?service=git-upload-pack",
        "/git/fleet.git/HEAD",
        "/api/v1/devices/dev-2/reports",
    ] {
        assert_eq!(thief.get(path).status.as_u16(), 401, "{path}");
    }
}
