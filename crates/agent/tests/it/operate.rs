//! What an operator does at a device: look ahead, look back, and let it wait for its turn.

use std::path::Path;
use std::time::Duration;

use volary_agent::checkpoint::store::Store;
use volary_agent::paths::Paths;
use volary_api::v1::device::Turn;
use volary_device::{Armed, Event, Mode, Phase, Rest, Target};
use volary_host::{Cmd, read_to_string, write_atomic};

use crate::convergence::Device;

const LIMITED: &str = "rollout: { development: { per_site_at_most: 1 } }\n";

fn agent(root: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output =
        Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", root).args(args).run().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn json(root: &Path, args: &[&str]) -> serde_json::Value {
    let output =
        Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", root).args(args).run().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.text()))
}

/// Everything of the device's state that a look ahead must leave alone.
fn state_of(device: &Device) -> Vec<Option<Vec<u8>>> {
    let files = ["ledger.0", "ledger.1", "history.jsonl"].map(|name| device.state_folder().join(name));
    let accepted = device.root.path().join("etc/volary/accepted.json");
    files.into_iter().chain([accepted]).map(|path| volary_host::read(&path).ok()).collect()
}

#[test]
fn a_plan_shows_the_next_run_and_changes_nothing() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    let (status, said) = agent(device.root.path(), &["plan"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("the device is at it already") && said.contains("nothing   would change"),
        "{said}"
    );

    device.fleet.put("site.yml", &device.fleet.playbook("planned"));
    device.fleet.commit("bob", "Plan this");
    device.stub.want("development", &device.fleet.head());
    let (before, reports) = (state_of(&device), device.stub.world().reports.len());
    let (status, said) = agent(device.root.path(), &["plan"]);
    assert_eq!(status, Some(0), "{said}");
    for part in ["bob@volary.test", "changes   Write the file", "-one", "+planned"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("waits"), "{said}");
    let planned = json(device.root.path(), &["plan", "--json"]);
    assert_eq!(planned["commit"], device.fleet.head().as_str());
    assert_eq!(planned["tasks"][0]["task"], "Write the file");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one");
    assert_eq!(state_of(&device), before, "the ledger is as it was");
    assert_eq!(device.stub.world().reports.len(), reports, "and nobody was told");
    assert_eq!(device.converge(), "good", "the run after it does it");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "planned");
}

#[test]
fn a_plan_names_what_is_in_the_way_and_what_it_cannot_know() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    let config = crate::fleet::CONFIG;
    let stop = format!("{config}{LIMITED}stop: {{ development: fire }}\n");
    device.fleet.put("volary.yml", &stop);
    let missing = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Needs another\n      \
                   ansible.builtin.slurp: { src: /never/there }\n";
    device.fleet.put("site.yml", missing);
    device.fleet.commit("alice", "Stop");
    device.stub.want("development", &device.fleet.head());
    let (status, said) = agent(device.root.path(), &["plan"]);
    assert_eq!(status, Some(0), "{said}");
    for part in [
        "waits     the fleet repository says stop: fire",
        "waits     a turn from the server: at most 1 of a site",
        "unknown   what all of the playbook would change",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    device.fleet.commit("mallory", "Evil");
    device.stub.want("development", &device.fleet.head());
    let (status, said) = agent(device.root.path(), &["plan"]);
    assert_eq!(status, Some(3), "{said}");
    device.stub.world().trouble = Some(503);
    assert_eq!(agent(device.root.path(), &["plan"]).0, Some(7));
    assert_eq!(agent(device.root.path(), &["plan", "now"]).0, Some(2));
}

#[test]
fn the_log_is_kept_on_the_device() {
    let mut device = Device::new();
    let root = device.root.path().to_owned();
    assert!(agent(&root, &["log"]).1.contains("has not converged yet"));
    device.converge();
    device
        .fleet
        .put("site.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Break\n      fail:\n");
    let bad = device.fleet.commit("alice", "Break");
    device.converge();
    let (_, said) = agent(&root, &["log"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains(bad.short()) && lines[1].contains("playbook \"Break\""), "{said}");
    assert!(said.contains("good"), "{said}");
    assert_eq!(agent(&root, &["log", "-n", "1"]).1.matches("UTC").count(), 1);
    let entries = json(&root, &["log", "--json"]);
    assert_eq!(entries[0]["convergence"]["commit"], bad.as_str());
    assert_eq!(agent(&root, &["log", "-n", "some"]).0, Some(2));
}

#[test]
fn a_device_of_a_limited_site_waits_for_its_turn() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    let asked = |device: &Device| {
        let world = device.stub.world();
        world.requests.iter().filter(|line| line.ends_with("/turn")).count()
    };
    assert_eq!(asked(&device), 0, "without a limit nobody is asked");
    device.fleet.put("volary.yml", &format!("{}{LIMITED}", crate::fleet::CONFIG));
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    dev-1: { volary_site: north }\n");
    device.fleet.put("site.yml", &device.fleet.playbook("limited"));
    let commit = device.fleet.commit("alice", "One at a time");
    device.stub.want("development", &commit);
    let reason = "at most 1 device of a site may change at once; changing now: dev-2 since 12:00 UTC";
    device.stub.world().turn = Turn::Wait { reason: reason.into(), again_after: 30, told: false };
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    let Phase::Idle(Rest::Waiting(waiting)) = &device.agent.state().phase else { panic!() };
    assert_eq!(waiting.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>(), [reason]);
    let asked = device.stub.world().asked.clone().unwrap();
    assert_eq!((asked.commit, asked.site.as_deref()), (commit.clone(), Some("north")));
    let told = device.stub.world().reports.last().unwrap().waiting.clone().unwrap();
    assert_eq!((told.commit, told.obstacles), (commit, vec![reason.to_owned()]));
    assert!(agent(device.root.path(), &["status"]).1.contains("changing now: dev-2"));
    assert_eq!(agent(device.root.path(), &["run"]).0, Some(8), "a person waits as well");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one");

    let reports = device.stub.world().reports.len();
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert_eq!(device.stub.world().reports.len(), reports, "the same answer is no news");
    device.stub.world().turn = Turn::Unknown;
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one", "what is not understood is no turn");
    device.stub.world().turn = Turn::Granted { seconds: 600 };
    assert_eq!(device.turn(Event::Due), "good");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "limited");
}

#[test]
fn drift_is_told_with_its_difference_and_repaired_if_the_fleet_says_so() {
    let mut device = Device::new();
    let drift = |what: &str| {
        format!("{}drift: {{ development: {{ every: 10m, do: {what} }} }}\n", crate::fleet::CONFIG)
    };
    device.fleet.put("volary.yml", &drift("report"));
    device.fleet.commit("alice", "Look for drift");
    assert_eq!(device.converge(), "good");
    write_atomic(&device.fleet.written(), b"by hand\n", 0o644).unwrap();
    device.look_for_drift();
    let told = device.stub.world().reports.last().unwrap().drift.clone().unwrap();
    assert_eq!((told.tasks.len(), told.tasks_total, told.failure), (1, 1, None));
    assert_eq!(told.tasks[0].task, "Write the file");
    assert!(
        told.tasks[0].diff.contains("-by hand") && told.tasks[0].diff.contains("+one"),
        "{:?}",
        told.tasks
    );
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "by hand\n", "told, not touched");
    assert!(agent(device.root.path(), &["status"]).1.contains("1 tasks would change something"));

    device.fleet.put("volary.yml", &drift("repair"));
    device.fleet.commit("alice", "Repair drift");
    assert_eq!(device.converge(), "good");
    write_atomic(&device.fleet.written(), b"by hand again\n", 0o644).unwrap();
    device.look_for_drift();
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one");
    assert_eq!(device.stub.last_failure(), "good");
}

#[test]
fn what_a_person_does_with_a_change_is_told_as_json_too() {
    let mut device = Device::new();
    let root = device.root.path().to_owned();
    assert_eq!(device.converge(), "good");
    let commit = device.fleet.head();

    let version = json(&root, &["version", "--json"]);
    assert_eq!((&version["version"], &version["agent"]), (&1.into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(version["ansible"].as_str().unwrap().starts_with("ansible-playbook"), "{version}");
    assert_eq!(agent(&root, &["version", "--text"]).0, Some(2));

    let paths = Paths::below(&root);
    assert_eq!(agent(&root, &["confirm", "--json"]).0, Some(1), "nothing waits");
    let store = Store::open(&paths).unwrap();
    let target =
        Target { stage: "development".parse().unwrap(), commit: commit.clone(), rolling: String::new() };
    let armed = Armed {
        version: 1,
        checkpoint: store.ids().pop().unwrap(),
        target,
        mode: Mode::Confirming,
        grace: 90,
        deadline: u64::MAX,
        latest: u64::MAX,
        boot: volary_host::boot_id(),
        boots: 0,
        path_worked: false,
    };
    store.arm(&armed).unwrap();
    drop(store);
    let asked = json(&root, &["revert", "--json"]);
    assert_eq!((&asked["outcome"], &asked["applied_after"]), (&"asked".into(), &serde_json::Value::Null));
    let confirmed = json(&root, &["confirm", "--json"]);
    assert_eq!(confirmed, serde_json::json!({ "version": 1, "confirmed": commit.as_str() }));
    assert!(!device.state_folder().join("checkpoint/armed.json").exists());

    let asked = json(&root, &["revert", "--json"]);
    assert_eq!((&asked["outcome"], &asked["commit"]), (&"asked".into(), &commit.as_str().into()));
    assert!(asked["applied_after"].is_string() && asked["undo"].is_null(), "{asked}");
    let undone = json(&root, &["revert", "--yes", "--json"]);
    assert_eq!((&undone["outcome"], &undone["undo"]["by"]), (&"undone".into(), &"person".into()), "{undone}");
}
