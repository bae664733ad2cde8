//! The fleet without its server: from a folder, a web server and a git remote, verified as ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_agent::agent::Agent;
use volary_agent::elsewhere::Place;
use volary_agent::paths::Paths;
use volary_device::Event;
use volary_fleet::{GitRepository, MIRROR_FILE, write_mirror};
use volary_host::{Cmd, read_to_string, write_atomic};
use volary_model::CommitId;

use crate::attacks::pinned;
use crate::convergence::{Device, NUDGE};
use crate::fleet::CONFIG;

/// Writes what dev-1 needs to be at a commit of development into a folder.
fn export(device: &Device, tip: &CommitId, stick: &Path) {
    let git = GitRepository::open(&device.fleet.work()).unwrap();
    let stages = BTreeMap::from([("development".parse().unwrap(), tip.clone())]);
    let name = "dev-1".parse().unwrap();
    write_mirror(&git, &stages, &name, &stick.join("dev-1")).unwrap();
}

/// One convergence from a place, with the server away; how it ended, as the report on the disk says.
fn run_from(device: &mut Device, place: &str) -> String {
    device.stub.world().trouble = Some(503);
    device.restart();
    device.agent.only_from(Place::parse(place).unwrap());
    device.agent.turn(NUDGE, Duration::ZERO).unwrap();
    device.stub.world().trouble = None;
    device.restart();
    // The reports that waited are sent with the next question.
    device.stub.world().desired = None;
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    let mut agent = Agent::open(&Paths::below(device.root.path())).unwrap();
    agent.tell_if_free().unwrap();
    device.stub.last_failure()
}

fn written(device: &Device) -> String {
    read_to_string(&device.fleet.written()).unwrap_or_default()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_folder_serves_a_new_device_and_one_that_was_away_for_long() {
    let mut device = Device::new();
    let stick = tempfile::tempdir().unwrap();
    let place = stick.path().display().to_string();
    export(&device, &device.fleet.head(), stick.path());
    assert_eq!(run_from(&mut device, &place), "good");
    assert_eq!(written(&device), "one");
    // Several commits later, with a change of the rules in between, from where the device is.
    device.fleet.put("volary.yml", &format!("{CONFIG}quorum: {{ development: 2 }}\n"));
    device.fleet.commit("alice", "Two from now on");
    for number in ["two", "three"] {
        device.fleet.put("site.yml", &device.fleet.playbook(number));
        let commit = device.fleet.commit("alice", number);
        device.fleet.approve("bob", &commit, "development");
    }
    export(&device, &device.fleet.head(), stick.path());
    assert_eq!(run_from(&mut device, &place), "good");
    assert_eq!(written(&device), "three");
    // Nobody else's variables are on the stick.
    for path in files(stick.path()) {
        let bytes = volary_host::read(&path).unwrap();
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&bytes[..]), &mut text);
        let holds = |content: &[u8]| content.windows(13).any(|window| window == b"not for dev-1");
        assert!(!holds(&bytes) && !holds(&text), "{}", path.display());
    }
}

#[test]
fn what_a_folder_may_not_do() {
    let mut device = Device::new();
    let old = device.fleet.head();
    device.fleet.put("site.yml", &device.fleet.playbook("new"));
    device.fleet.commit("alice", "New");
    assert_eq!(device.converge(), "good");
    let stick = tempfile::tempdir().unwrap();
    let place = stick.path().display().to_string();
    export(&device, &old, stick.path());
    let found = run_from(&mut device, &place);
    assert!(found.starts_with("refused verify") && found.contains("is older than"), "{found}");
    device.fleet.put("site.yml", &device.fleet.playbook("evil"));
    let evil = device.fleet.commit("mallory", "Evil");
    export(&device, &evil, stick.path());
    let found = run_from(&mut device, &place);
    assert!(found.starts_with("refused verify") && found.contains("allowed_signers"), "{found}");
    // A true commit whose files were changed on the stick.
    device.fleet.git(&["reset", "-q", "--hard", "HEAD~1"]);
    device.fleet.put("site.yml", &device.fleet.playbook("real"));
    let good = device.fleet.commit("alice", "True");
    export(&device, &good, stick.path());
    let blob = device.fleet.git(&["rev-parse", "HEAD:site.yml"]);
    let path = stick.path().join("dev-1/objects").join(&blob[..2]).join(&blob[2..]);
    let other = stick.path().join("dev-1/objects");
    let other = files(&other).into_iter().find(|file| *file != path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(&other, &path).unwrap();
    device.restart();
    device.agent.only_from(Place::parse(&place).unwrap());
    device.agent.turn(NUDGE, Duration::ZERO).unwrap();
    assert_eq!(written(&device), "new");
    export(&device, &good, stick.path());
    // An index for somebody else.
    let index = stick.path().join("dev-1").join(MIRROR_FILE);
    let text = read_to_string(&index).unwrap();
    write_atomic(&index, text.replace("dev-1", "dev-2").as_bytes(), 0o644).unwrap();
    device.restart();
    device.agent.only_from(Place::parse(&place).unwrap());
    device.agent.turn(NUDGE, Duration::ZERO).unwrap();
    assert_eq!((written(&device).as_str(), device.agent.state().memory.unanswered), ("new", 1));
    write_atomic(&index, text.as_bytes(), 0o644).unwrap();
    assert_eq!(run_from(&mut device, &place), "good");
    assert_eq!(written(&device), "real");
}

#[test]
fn a_stick_whose_branch_pins_a_release_needs_its_archive() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    let before = device.fleet.head();
    device.fleet.put("site.yml", &device.fleet.playbook("pinned"));
    let (index, architecture) = ("ab".repeat(32), volary_agent::facts::architecture().unwrap());
    pinned(&device, &index);
    let stick = tempfile::tempdir().unwrap();
    let place = stick.path().display().to_string();
    export(&device, &device.fleet.head(), stick.path());
    let serve = |device: &Device, index: &str| {
        let release = format!("Suite: v1.0/r1\nSHA256:\n {index} 10 main/binary-{architecture}/Packages\n");
        device.stub.world().archive.insert("dists/v1.0/r1/InRelease".into(), release.into_bytes());
    };
    let run = |device: &mut Device| {
        device.restart();
        device.agent.only_from(Place::parse(&place).unwrap());
        device.agent.turn(Event::Nudged { again: true }, Duration::ZERO).unwrap();
    };
    // Nobody says what the archive has: nothing is begun, and nothing counts against the commit.
    device.stub.world().trouble = Some(503);
    run(&mut device);
    let state = device.agent.state();
    let trouble = state.trouble().expect("it is tried again");
    assert!(trouble.failure.to_string().contains("answered 503"), "{}", trouble.failure);
    assert_eq!((state.trusted.as_ref(), trouble.attempts, state.reverted.len()), (Some(&before), 0, 0));
    device.stub.world().trouble = None;
    // Only the archive's address has to answer; what it says is held against the lock on the stick.
    device.stub.world().desired = None;
    serve(&device, &"cd".repeat(32));
    run(&mut device);
    let found = device.stub.last_failure();
    assert!(
        found.starts_with("refused verify") && found.contains("other content than the signed lock"),
        "{found}"
    );
    assert_eq!((written(&device).as_str(), device.agent.state().trusted.as_ref()), ("one", Some(&before)));
    serve(&device, &index);
    run(&mut device);
    // It goes as far as apt, which has no such suite on the machine of a test, and back.
    let report = device.stub.last_result();
    let convergence = report.convergence.unwrap();
    let failure = convergence.failure.unwrap();
    assert_eq!(
        (convergence.suite.as_deref(), failure.step.as_str()),
        (Some("v1.0/r1"), "packages"),
        "{failure:?}"
    );
    assert_eq!(device.agent.state().trusted, Some(device.fleet.head()), "it was verified");
    assert!(convergence.reverted.is_some());
}

#[test]
fn any_web_server_with_plain_files_serves() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    device.fleet.put("site.yml", &device.fleet.playbook("from the web"));
    device.fleet.commit("alice", "From the web");
    let stick = tempfile::tempdir().unwrap();
    export(&device, &device.fleet.head(), stick.path());
    for path in files(stick.path()) {
        let name = path.strip_prefix(stick.path()).unwrap().display().to_string();
        let bytes = volary_host::read(&path).unwrap();
        device.stub.world().archive.insert(format!("fleet/{name}"), bytes);
    }
    let before = device.stub.world().requests.len();
    device.agent.only_from(Place::parse(&format!("{}/archive/fleet", device.stub.url)).unwrap());
    assert_eq!(device.turn(NUDGE), "good");
    assert_eq!(written(&device), "from the web");
    let world = device.stub.world();
    let fetched: Vec<&String> = world.requests[before..]
        .iter()
        .filter(|line| line.contains("/objects/") && line.starts_with("GET"))
        .collect();
    assert!(!fetched.is_empty() && fetched.len() <= 6, "only what is new is fetched: {fetched:?}");
}

#[test]
fn any_git_remote_serves_and_leaves_nothing_behind() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    device.fleet.put("volary.yml", &format!("{CONFIG}quorum: {{ development: 2 }}\n"));
    device.fleet.commit("alice", "Two from now on");
    device.fleet.put("site.yml", &device.fleet.playbook("from git"));
    let tip = device.fleet.commit("alice", "From git");
    let remote = device.root.path().join("remote.git");
    Cmd::new("git")
        .args(["clone", "--quiet", "--mirror"])
        .arg(device.fleet.work())
        .arg(&remote)
        .check()
        .unwrap();
    let place = remote.display().to_string();
    let found = run_from(&mut device, &place);
    assert!(found.contains("development needs 2"), "{found}");
    device.fleet.approve("bob", &tip, "development");
    // A remote that sends contents only when they are asked for.
    for (key, value) in [("uploadpack.allowFilter", "true"), ("uploadpack.allowAnySHA1InWant", "true")] {
        Cmd::new("git").arg("--git-dir").arg(&remote).args(["config", key, value]).check().unwrap();
    }
    Cmd::new("git").arg("--git-dir").arg(&remote).args(["fetch", "--quiet", "origin"]).check().unwrap();
    assert_eq!(run_from(&mut device, &place), "good");
    assert_eq!(written(&device), "from git");
    assert!(!Paths::below(device.root.path()).fetched_elsewhere().exists());
}

#[test]
fn while_the_server_is_away_the_daemon_looks_elsewhere_by_itself() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    let stick = tempfile::tempdir().unwrap();
    let config = Paths::below(device.root.path()).config();
    let text = read_to_string(&config).unwrap();
    let places = format!("  \"elsewhere\": [\"/not/there\", \"{}\"],\n  \"version\"", stick.path().display());
    write_atomic(&config, text.replace("  \"version\"", &places).as_bytes(), 0o644).unwrap();
    device.restart();
    device.fleet.put("site.yml", &device.fleet.playbook("elsewhere"));
    device.fleet.commit("alice", "Elsewhere");
    export(&device, &device.fleet.head(), stick.path());
    device.stub.world().trouble = Some(503);
    let mut turns = 0;
    while written(&device) != "elsewhere" {
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
        turns += 1;
        assert!(turns < 6, "it did not look elsewhere");
    }
    assert_eq!(turns, 3, "it is patient first");
    // What is known there already is no news: it goes on asking for its server.
    for _ in 0..3 {
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    }
    assert!(device.agent.state().memory.unanswered > 0);
    device.stub.world().trouble = None;
    assert_eq!(device.converge(), "good");
    assert_eq!(device.agent.state().memory.unanswered, 0);
}

#[test]
fn the_command_says_what_it_did() {
    let device = Device::new();
    let stick = tempfile::tempdir().unwrap();
    export(&device, &device.fleet.head(), stick.path());
    let run = |place: &str| {
        Cmd::new(env!("CARGO_BIN_EXE_volary-agent"))
            .env("VOLARY_AGENT_ROOT", device.root.path())
            .args(["run", "--from", place])
            .run()
            .unwrap()
    };
    for (place, status) in [("http://x/y", 2), ("/not/there", 2), ("https://127.0.0.1:1/fleet", 7)] {
        assert_eq!(run(place).status.code(), Some(status), "{place}");
    }
    let output = run(&stick.path().display().to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(written(&device), "one");
}
