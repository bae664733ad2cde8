//! What must be refused, each with its own sentence, and nothing of it executed.

use std::time::Duration;

use volary_agent::paths::Paths;
use volary_device::Event;
use volary_host::{read_to_string, write_atomic};

use crate::convergence::{Device, NUDGE};
use crate::fleet::CONFIG;
use crate::stub::Stub;

/// Refuses what `master` has now; the file of the playbook keeps its content.
fn refused(device: &mut Device, expected: &str) {
    let before = read_to_string(&device.fleet.written()).unwrap_or_default();
    let found = device.converge();
    assert!(found.starts_with("refused verify") && found.contains(expected), "{found}");
    let after = read_to_string(&device.fleet.written()).unwrap_or_default();
    assert_eq!(after, before, "nothing of it was executed");
    assert_ne!(device.agent.state().trusted.as_ref(), Some(&device.fleet.head()));
}

fn evil(device: &Device) {
    device.fleet.put("site.yml", &device.fleet.playbook("evil"));
}

#[test]
fn an_unsigned_commit() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    device.fleet.commit("nobody", "Trust me");
    refused(&mut device, "not signed");
    let head = device.fleet.head();
    let (folder, name) = head.as_str().split_at(2);
    let object = device.state_folder().join("objects").join(folder).join(name);
    assert!(!object.exists(), "a refused commit takes no room");
}

#[test]
fn a_commit_of_a_stranger() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    device.fleet.commit("mallory", "Trust me");
    refused(&mut device, "allowed_signers");
}

#[test]
fn a_stranger_who_adds_himself() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    let signers = device.fleet.signers(&["alice", "mallory"]);
    device.fleet.put(".volary/allowed_signers", &signers);
    device.fleet.commit("mallory", "Let me in");
    refused(&mut device, "allowed_signers");
}

#[test]
fn a_stranger_at_the_first_contact() {
    let mut device = Device::new();
    evil(&device);
    device.fleet.commit("mallory", "Trust me");
    refused(&mut device, "allowed_signers");
}

#[test]
fn an_unsigned_commit_below_a_signed_one() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    device.fleet.commit("nobody", "Hidden");
    device.fleet.commit("alice", "Innocent");
    refused(&mut device, "not signed");
}

#[test]
fn a_forged_commit() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    device.fleet.commit("alice", "Real");
    // The signature of one commit on the content of another.
    let real = device.fleet.git(&["cat-file", "commit", "HEAD"]);
    let forged = real.replace("Real", "Fake");
    let path = device.root.path().join("forged");
    write_atomic(&path, (forged + "\n").as_bytes(), 0o644).unwrap();
    let id = device.fleet.git(&["hash-object", "-t", "commit", "-w", &path.display().to_string()]);
    device.fleet.git(&["reset", "-q", "--hard", &id]);
    refused(&mut device, "signature");
}

#[test]
fn the_replay_of_an_older_commit_also_after_the_state_was_deleted() {
    let mut device = Device::new();
    let old = device.fleet.head();
    device.fleet.put("site.yml", &device.fleet.playbook("new"));
    device.fleet.commit("alice", "New");
    assert_eq!(device.converge(), "good");
    device.fleet.git(&["branch", "newest"]);
    device.fleet.git(&["reset", "-q", "--hard", old.as_str()]);
    refused(&mut device, "older");
    std::fs::remove_dir_all(device.state_folder()).unwrap();
    device.restart();
    refused(&mut device, "older");
    device.fleet.git(&["reset", "-q", "--hard", "newest"]);
    assert_eq!(device.converge(), "good", "and it goes on from where it was");
}

#[test]
fn a_rewritten_branch() {
    let mut device = Device::new();
    let first = device.fleet.head();
    device.fleet.put("site.yml", &device.fleet.playbook("kept"));
    device.fleet.commit("alice", "Kept");
    device.converge();
    device.fleet.git(&["branch", "kept"]);
    device.fleet.git(&["reset", "-q", "--hard", first.as_str()]);
    evil(&device);
    device.fleet.commit("alice", "Other");
    refused(&mut device, "rewritten");
}

#[test]
fn a_server_that_moves_the_device() {
    let mut device = Device::new();
    device.converge();
    device.fleet.put("site.yml", &device.fleet.playbook("moved"));
    device.fleet.commit("alice", "For the canaries");
    let canary = device.fleet.promote("alice");
    device.stub.want("canary", &canary);
    for _ in 0..3 {
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    }
    let found = device.stub.last_failure();
    assert!(found.starts_with("refused") && found.contains("this device follows development"), "{found}");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one");
}

#[test]
fn a_promotion_by_somebody_who_may_not() {
    let mut device = Device::new();
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    dev-1: { volary_stage: canary }\n");
    device.fleet.commit("alice", "Move dev-1");
    device.stub.want("development", &device.fleet.head());
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    // Bob may sign for development, not for the canaries, and his own commit can't change that
    // for the step that it makes.
    device.fleet.put("volary.yml", &CONFIG.replace("[alice@volary.test]", "[bob@volary.test]"));
    evil(&device);
    device.fleet.commit("bob", "Let me");
    let canary = device.fleet.promote("bob");
    device.stub.want("canary", &canary);
    let found = device.turn(Event::Due);
    assert!(found.starts_with("refused") && found.contains("bob@volary.test"), "{found}");
}

#[test]
fn a_merge_whose_files_differ() {
    let mut device = Device::new();
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    dev-1: { volary_stage: canary }\n");
    device.fleet.commit("alice", "Move dev-1");
    device.stub.want("development", &device.fleet.head());
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    device.fleet.promote("alice");
    device.fleet.git(&["checkout", "-q", "canary"]);
    evil(&device);
    device.fleet.git(&["add", "--all"]);
    let tree = device.fleet.git(&["write-tree"]);
    device.fleet.git(&["reset", "-q", "--hard"]);
    device.fleet.git(&["checkout", "-q", "master"]);
    let signed = device.fleet.promote_tree("alice", &tree);
    device.stub.want("canary", &signed);
    let found = device.turn(Event::Due);
    assert!(found.starts_with("refused") && found.contains("does not have exactly the files"), "{found}");
}

#[test]
fn another_server_with_other_keys() {
    let mut device = Device::new();
    device.converge();
    let other = Stub::start(&device.fleet.work());
    let config = Paths::below(device.root.path()).config();
    let text = read_to_string(&config).unwrap().replace(&device.stub.url, &other.url);
    write_atomic(&config, text.as_bytes(), 0o644).unwrap();
    device.restart();
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert_eq!(device.agent.state().memory.unanswered, 1);
    assert!(other.world().requests.is_empty(), "it did not even get a question");
}

/// `volary.yml` for agents that are to come.
fn of_the_future(device: &Device) {
    device.fleet.put("volary.yml", "needs_agent: \"999.0\"\nversion: 2\nof_the_future: { a: [1] }\n");
}

#[test]
fn a_commit_for_newer_agents_is_reached_as_far_as_can_be() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    device.fleet.put("site.yml", &device.fleet.playbook("the release before"));
    let before = device.fleet.commit("alice", "Before");
    device.fleet.put("site.yml", &device.fleet.playbook("future"));
    of_the_future(&device);
    device.fleet.commit("alice", "Of the future");
    assert_eq!(device.converge(), "good");
    let written = |device: &Device| read_to_string(&device.fleet.written()).unwrap();
    assert_eq!(written(&device), "the release before");
    assert_eq!(device.agent.state().trusted.as_ref(), Some(&before));
    // The agent is still the same. It says what is wrong, applies nothing, and does not go in a circle.
    for _ in 0..3 {
        let found = device.turn(Event::Due);
        let (step, needs) = ("failed verify", "needs volary-agent 999.0.0 or newer, and this is");
        assert!(found.starts_with(step) && found.contains(needs), "{found}");
    }
    let found = device.turn(NUDGE);
    assert!(found.contains("update volary-agent on this device"), "{found}");
    assert_eq!(
        (written(&device).as_str(), device.agent.state().trusted.as_ref()),
        ("the release before", Some(&before))
    );
    // Whoever may not sign does not get that far.
    device.fleet.git(&["reset", "-q", "--hard", before.as_str()]);
    evil(&device);
    of_the_future(&device);
    device.fleet.commit("mallory", "Trust me");
    let found = {
        device.stub.want("development", &device.fleet.head());
        device.turn(NUDGE)
    };
    assert!(found.starts_with("refused verify") && found.contains("allowed_signers"), "{found}");
}

#[test]
fn garbage_instead_of_objects() {
    let mut device = Device::new();
    device.stub.want("development", &device.fleet.head());
    for (pack, expected) in [
        (b"not a pack at all, just text".to_vec(), "failed fetch : this is no git pack"),
        (b"PACK\0\0\0\x02\xff\xff\xff\xff".to_vec(), "more objects than"),
    ] {
        device.stub.world().false_pack = Some(pack);
        let found = device.turn(NUDGE);
        assert!(found.contains(expected), "{found}");
    }
    device.stub.world().false_pack = None;
    assert_eq!(device.turn(NUDGE), "good");
}

/// A fleet whose development stage is pinned to a release.
pub fn pinned(device: &Device, index: &str) {
    let digest = "07".repeat(32);
    let architecture = volary_agent::facts::architecture().unwrap();
    device.fleet.put(
        "volary.lock",
        &format!(
            "version: 1\nrelease: v1.0\nrevision: r1\ndigest: sha256:{digest}\nindexes:\n  main/{architecture}: \
             sha256:{index}\n"
        ),
    );
    device.fleet.commit("alice", "bump version to v1.0");
}

#[test]
fn an_archive_with_other_content_than_the_lock() {
    let mut device = Device::new();
    device.converge();
    evil(&device);
    pinned(&device, &"ab".repeat(32));
    let architecture = volary_agent::facts::architecture().unwrap();
    let release =
        format!("Suite: v1.0/r1\nSHA256:\n {} 10 main/binary-{architecture}/Packages\n", "cd".repeat(32));
    device.stub.world().archive.insert("dists/v1.0/r1/InRelease".into(), release.into_bytes());
    refused(&mut device, "other content than the signed lock");
    device.stub.world().archive.clear();
    let found = device.turn(NUDGE);
    assert!(found.contains("the archive has no suite v1.0/r1"), "{found}");
}
