//! `volary export-fleet`: a folder for each device, incremental, without others' variables.

use volary_fleet::{LooseStore, MirrorIndex, ObjectId, ReadObjects};
use volary_host::{read, write_atomic};

use crate::support::Desk;

#[test]
fn each_device_gets_a_folder_of_its_own() {
    let desk = Desk::new();
    desk.ok(&["clone", "fleet"]);
    let fleet = desk.fleet();
    for name in ["one", "two"] {
        let path = fleet.join(format!("host_vars/{name}/own.yml"));
        volary_host::create_dir(path.parent().unwrap()).unwrap();
        write_atomic(&path, format!("secret: of {name}\n").as_bytes(), 0o644).unwrap();
    }
    desk.git(&["add", "--all"]);
    desk.git(&["commit", "-q", "-S", "-m", "Variables"]);
    desk.git(&["push", "-q", "origin", "HEAD:master"]);
    let stick = desk.path().join("stick");
    let to = stick.display().to_string();
    let export = |args: &[&str]| {
        let all: Vec<&str> = ["export-fleet", "--to", &to].iter().chain(args).copied().collect();
        desk.ok_in(&fleet, &all)
    };
    let said = export(&["--device", "one", "--device", "two"]);
    assert!(said.contains("volary-agent run --from DIR"), "{said}");
    let index: MirrorIndex =
        serde_json::from_slice(&read(&stick.join("one/volary-fleet.json")).unwrap()).unwrap();
    let master = desk.git(&["rev-parse", "HEAD"]);
    assert_eq!(index.stages.len(), 3);
    assert_eq!(index.stages[&"development".parse().unwrap()].as_str(), master);
    let store = LooseStore::open(&stick.join("one/objects")).unwrap();
    let has = |path: &str| {
        let id: ObjectId = desk.git(&["rev-parse", &format!("HEAD:{path}")]).parse().unwrap();
        store.find(&id).unwrap().is_some()
    };
    assert!(has("site.yml") && has("host_vars/one/own.yml") && !has("host_vars/two/own.yml"));
    let again = export(&["--device", "one", "--offline"]);
    assert!(again.contains(", 0 of them new"), "{again}");
    // What nobody needs any more goes.
    desk.git(&["rm", "-q", "-r", "host_vars/one"]);
    desk.git(&["commit", "-q", "-S", "-m", "Fewer"]);
    desk.git(&["push", "-q", "origin", "HEAD:master"]);
    let old: ObjectId = desk.git(&["rev-parse", "HEAD~1:host_vars/one/own.yml"]).parse().unwrap();
    export(&["--device", "one"]);
    assert!(store.find(&old).unwrap().is_none());
}
