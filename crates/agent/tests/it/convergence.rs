//! Convergences that go well, that fail, and that go on after a crash.

use std::path::PathBuf;
use std::time::Duration;

use volary_agent::agent::Agent;
use volary_agent::enroll::{Ending, Wanted, enroll};
use volary_agent::ledger::Ledger;
use volary_agent::paths::Paths;
use volary_api::join::JoinToken;
use volary_device::{Event, Hold};
use volary_host::{create_dir, now, read_to_string, remove_if_exists, write_atomic};

use crate::fleet::{Fleet, INVENTORY};
use crate::stub::Stub;

/// A person wants a convergence.
pub const NUDGE: Event = Event::Nudged { again: false };

/// A device that is enrolled at a stub which serves a fleet.
pub struct Device {
    pub fleet: Fleet,
    pub stub: Stub,
    pub root: tempfile::TempDir,
    pub agent: Agent,
}

impl Device {
    pub fn new() -> Self {
        let fleet = Fleet::new();
        let stub = Stub::start(&fleet.work());
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let token = stub.token("development", &fleet.signers(&["alice", "bob"]));
        let wanted = Wanted::from_token(JoinToken::decode(&token).unwrap(), "dev-1".parse().unwrap());
        let status = "Package: one\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\
                      Maintainer: nobody\nDescription: a package\n";
        create_dir(&root.path().join("var/lib/dpkg/info")).unwrap();
        write_atomic(&root.path().join("var/lib/dpkg/status"), status.as_bytes(), 0o644).unwrap();
        let ending = enroll(&paths, &wanted, Duration::ZERO).unwrap();
        assert!(matches!(ending, Ending::Enrolled(_)));
        let agent = Agent::open(&paths).unwrap();
        Self { fleet, stub, root, agent }
    }

    /// One turn with what `master` has now.
    pub fn converge(&mut self) -> String {
        self.stub.want("development", &self.fleet.head());
        self.turn(Event::Due)
    }

    /// One turn; the newest result.
    pub fn turn(&mut self, event: Event) -> String {
        self.agent.turn(event, Duration::ZERO).unwrap();
        self.stub.last_failure()
    }

    /// One turn after so long that it is time to look for drift.
    pub fn look_for_drift(&mut self) {
        let paths = Paths::below(self.root.path());
        let (mut ledger, mut state) = Ledger::open(&paths, &self.agent.config).unwrap();
        let long_ago = now().checked_sub(jiff::SignedDuration::from_hours(1)).unwrap();
        state.good_since = Some(long_ago);
        if let Some(drift) = &mut state.drift {
            drift.at = long_ago;
        }
        ledger.save(&state).unwrap();
        self.agent.turn(Event::Due, Duration::ZERO).unwrap();
    }

    pub fn state_folder(&self) -> PathBuf {
        self.root.path().join("var/lib/volary")
    }

    /// The same device after its process died.
    pub fn restart(&mut self) {
        self.agent = Agent::open(&Paths::below(self.root.path())).unwrap();
    }

    fn written(&self) -> String {
        read_to_string(&self.fleet.written()).unwrap_or_default()
    }
}

#[test]
fn a_commit_is_applied_reported_and_then_left_alone() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    assert_eq!(device.written(), "one");
    let report = device.stub.last_result();
    let convergence = report.convergence.unwrap();
    assert_eq!((convergence.commit, convergence.changed_tasks), (device.fleet.head(), 1));
    assert_eq!(report.good_commit, Some(device.fleet.head()));
    assert_eq!(report.packages_total, 1);
    assert!(report.memory_total > 0 && report.boot_id.len() == 36);
    assert!(!device.state_folder().join("spool").read_dir().unwrap().any(|_| true), "all is sent");
    let checkout = device.state_folder().join("checkout").join(device.fleet.head().as_str());
    assert!(checkout.join("site.yml").is_file());
    assert!(!checkout.join("host_vars/other").exists(), "variables of others are not here");

    let asked = |stub: &Stub| {
        let world = stub.world();
        (world.requests.len(), world.connections)
    };
    let before = asked(&device.stub);
    for _ in 0..3 {
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    }
    let after = asked(&device.stub);
    assert_eq!(after.0 - before.0, 3, "an idle poll is one request");
    assert_eq!(after.1, before.1, "on a kept connection");

    device.fleet.put("site.yml", &device.fleet.playbook("two"));
    device.fleet.commit("bob", "Change");
    assert_eq!(device.converge(), "good");
    assert_eq!(device.written(), "two");
    assert!(!checkout.exists(), "old checkouts are pruned");
}

#[test]
fn stray_files_are_neither_kept_nor_run() {
    let mut device = Device::new();
    device.converge();
    let checkout = device.state_folder().join("checkout").join(device.fleet.head().as_str());
    write_atomic(&checkout.join("dev-1.yml"), b"- hosts: all\n", 0o644).unwrap();
    write_atomic(&checkout.join("site.yml"), b"garbage", 0o644).unwrap();
    assert_eq!(device.turn(NUDGE), "good");
    assert!(!checkout.join("dev-1.yml").exists());
}

#[test]
fn what_fails_is_named() {
    let mut device = Device::new();
    let task = |module: &str| {
        format!("- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Break it\n      {module}\n")
    };
    for (file, content, expected) in [
        ("site.yml", task("fail: {msg: the disk is gone}"), "failed playbook Break it: the disk is gone"),
        ("site.yml", task("command: sh -c 'echo no such thing >&2; exit 3'"), "no such thing"),
        ("site.yml", task("command: sh -c 'exit {{ item }}'\n      loop: [0, 4]"), "item 4"),
        ("site.yml", task("fail: {msg: secret}\n      no_log: true"), "hidden"),
        ("site.yml", "- hosts: [\n".to_owned(), "failed playbook : "),
        ("site.yml", task("nobody.nothing.here: {}"), "nobody.nothing.here"),
        ("site.yml", "- hosts: other\n  tasks: []\n".to_owned(), "no play for this device"),
        ("site.yml", device.fleet.playbook("fine"), "good"),
        (
            "inventory.yml",
            "all:\n  hosts:\n    other: {}\n".to_owned(),
            "failed playbook : device dev-1 is not in the inventory at commit",
        ),
        (
            "inventory.yml",
            "all: [".to_owned(),
            "cannot read inventory.yml without Ansible: it has no known form",
        ),
        ("inventory.yml", INVENTORY.to_owned(), "good"),
    ] {
        device.fleet.put(file, &content);
        device.fleet.commit("alice", "Try");
        let found = device.converge();
        assert!(found.contains(expected), "{content}\n→ {found}");
        assert!(expected == "good" || !found.contains("secret"), "{found}");
    }
}

#[test]
fn checks_decide_and_are_reported() {
    let mut device = Device::new();
    device.fleet.put_executable("health/required.d/10-up", "#!/bin/sh\necho fine\n");
    device.fleet.put_executable("health/wanted.d/nice", "#!/bin/sh\nexit 1\n");
    device.fleet.commit("alice", "Check");
    assert_eq!(device.converge(), "good");
    let checks = device.stub.last_result().checks;
    let told: Vec<_> =
        checks.iter().map(|check| (check.name.as_str(), check.required, check.passed)).collect();
    assert_eq!(told, [("10-up", true, true), ("nice", false, false)]);
    device.fleet.put_executable("health/required.d/20-link", "#!/bin/sh\necho no link\nexit 1\n");
    device.fleet.commit("alice", "Check more");
    assert_eq!(device.converge(), "failed check 20-link: no link");
}

#[test]
fn a_commit_that_does_not_hold_is_left_alone_until_a_person_says_so() {
    let mut device = Device::new();
    device.converge();
    let good = device.fleet.head();
    let link = device.root.path().join("link");
    device
        .fleet
        .put_executable("health/required.d/link", &format!("#!/bin/sh\ntest -e {}\n", link.display()));
    device.fleet.put("site.yml", &device.fleet.playbook("two"));
    device.fleet.commit("alice", "Need a link");
    assert!(device.converge().starts_with("failed check link"));
    let report = device.stub.last_result();
    let reverted = report.convergence.unwrap().reverted.unwrap();
    assert!(reverted.quarantined && reverted.by == "agent");
    assert_eq!(report.good_commit, Some(good.clone()));
    assert_eq!(report.quarantined.len(), 1);
    let reports = device.stub.world().reports.len();
    device.turn(Event::Due);
    device.turn(NUDGE);
    device.restart();
    device.turn(Event::Due);
    assert_eq!(device.stub.world().reports.len(), reports, "it is not tried again");
    assert_eq!(device.agent.state().good.as_ref().map(|good| &good.commit), Some(&good));
    write_atomic(&link, b"", 0o644).unwrap();
    assert_eq!(device.turn(Event::Nudged { again: true }), "good");
    assert!(device.stub.last_result().quarantined.is_empty());
}

#[test]
fn a_held_device_waits_and_says_so() {
    let mut device = Device::new();
    let hold = Hold { since: volary_host::now(), until: None, reason: "measuring".into() };
    device.agent.turn(Event::Held(hold), Duration::ZERO).unwrap();
    device.restart();
    device.stub.want("development", &device.fleet.head());
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    let waiting = device.stub.world().reports.last().unwrap().waiting.clone().unwrap();
    assert_eq!(
        (waiting.commit, waiting.obstacles),
        (device.fleet.head(), vec!["held on the device: measuring".into()])
    );
    let reports = device.stub.world().reports.len();
    device.agent.turn(NUDGE, Duration::ZERO).unwrap();
    assert_eq!(device.stub.world().reports.len(), reports, "told once");
    assert_eq!(device.written(), "");
    assert_eq!(device.turn(Event::Released), "good");
}

#[test]
fn a_failed_commit_is_retried_and_a_new_one_ends_the_wait() {
    let mut device = Device::new();
    let flag = device.root.path().join("flag");
    let playbook = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Needs the flag\n      command: test -e {}\n",
        flag.display()
    );
    device.fleet.put("site.yml", &playbook);
    device.fleet.commit("alice", "Need a flag");
    assert!(device.converge().starts_with("failed playbook Needs the flag"));
    let reports = device.stub.world().reports.len();
    device.turn(Event::Due);
    assert_eq!(device.stub.world().reports.len(), reports, "no tight loop");
    write_atomic(&flag, b"", 0o644).unwrap();
    // A person, or the end of the wait, tries the same commit again.
    assert_eq!(device.turn(NUDGE), "good");
    remove_if_exists(&flag).unwrap();
    device.fleet.commit("alice", "Still");
    assert!(device.converge().starts_with("failed"));
    device.fleet.put("site.yml", &device.fleet.playbook("mended"));
    device.fleet.commit("alice", "Mend");
    assert_eq!(device.converge(), "good", "the new commit is taken at once");
}

#[test]
fn the_variables_move_the_device_to_another_stage() {
    let mut device = Device::new();
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    dev-1: { volary_stage: canary }\n");
    device.fleet.commit("alice", "Move dev-1");
    let canary = device.fleet.promote("alice");
    device.stub.want("development", &device.fleet.head());
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert_eq!(device.agent.state().stage.as_str(), "canary");
    let told = device.stub.world().reports.last().unwrap().stage.clone();
    assert_eq!(told.as_str(), "canary", "the server learns of it");
    device.restart();
    device.stub.want("canary", &canary);
    assert_eq!(device.turn(Event::Due), "good");
    assert_eq!(device.stub.last_result().stage.as_str(), "canary");
}

#[test]
fn reports_wait_for_the_server() {
    let mut device = Device::new();
    device.converge();
    device.stub.world().trouble = Some(503);
    device.agent.tell_if_free().unwrap();
    device.agent.tell_if_free().unwrap();
    device.restart();
    assert_eq!(device.agent.waiting_reports(), 2);
    device.stub.world().trouble = None;
    device.turn(Event::Due);
    assert_eq!(device.agent.waiting_reports(), 0);
    let world = device.stub.world();
    let ids: Vec<_> = world.reports.iter().map(|report| report.id.clone()).collect();
    assert!(ids.is_sorted() && ids.len() == 3, "{ids:?}");
}

#[test]
fn torn_objects_heal() {
    let mut device = Device::new();
    device.converge();
    std::fs::remove_dir_all(device.state_folder().join("objects")).unwrap();
    device.fleet.put("site.yml", &device.fleet.playbook("healed"));
    device.fleet.commit("alice", "Go on");
    assert_eq!(device.converge(), "good");
    assert_eq!(device.written(), "healed");
}
