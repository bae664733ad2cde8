//! What a server can do to a device beside offering bad commits: replay after a clean-up, answers
//! without an end, answers that trickle, approvals kept back or of something else.

use std::fs;
use std::time::{Duration, Instant};

use volary_agent::agent::Agent;
use volary_agent::http::Patience;
use volary_agent::paths::Paths;
use volary_device::Event;
use volary_host::read_to_string;

use crate::convergence::{Device, NUDGE};
use crate::fleet::CONFIG;
use crate::stub::Endless;

/// Offers what `master` has now, which is refused; returns what was said.
fn refused(device: &mut Device, expected: &str) -> String {
    let before = read_to_string(&device.fleet.written()).unwrap_or_default();
    let found = look_again(device);
    assert!(found.starts_with("refused verify") && found.contains(expected), "{found}");
    let after = read_to_string(&device.fleet.written()).unwrap_or_default();
    assert_eq!(after, before, "nothing of it was executed");
    found
}

/// One turn with what `master` has now, without waiting for the time to try it again.
fn look_again(device: &mut Device) -> String {
    device.stub.want("development", &device.fleet.head());
    device.turn(NUDGE)
}

/// DESIGN: "also after the agent's state was deleted". The three places that remember are the ledger's
/// folder and two records; here each pair of them goes.
#[test]
fn a_replay_after_any_clean_up() {
    let mut device = Device::new();
    let old = device.fleet.head();
    device.fleet.put("site.yml", &device.fleet.playbook("new"));
    device.fleet.commit("alice", "New");
    assert_eq!(device.converge(), "good");
    device.fleet.git(&["branch", "newest"]);
    let places = ["var/lib/volary", "etc/volary/accepted.json", "var/backups/volary-agent"];
    for kept in places {
        for lost in places.iter().filter(|place| **place != kept) {
            let path = device.root.path().join(lost);
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        }
        device.restart();
        device.fleet.git(&["reset", "-q", "--hard", old.as_str()]);
        refused(&mut device, "older");
        device.fleet.git(&["reset", "-q", "--hard", "newest"]);
        assert_eq!(look_again(&mut device), "good", "only {kept} was left, and it goes on from where it was");
    }
}

/// The same device with a server that is given little time.
fn impatient(device: &mut Device) {
    let second = Duration::from_secs(1);
    let patience = Patience { silence: second, small: second, large: 2 * second };
    device.agent = Agent::open_with(&Paths::below(device.root.path()), patience).unwrap();
}

#[test]
fn endless_data() {
    let mut device = Device::new();
    device.stub.want("development", &device.fleet.head());
    let flood = |line: &'static str, first: &[u8]| Some((line, first.to_vec(), Endless::Flood));
    device.stub.world().endless = flood("GET /device/v1/desired", b"{\"stage\":\"");
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert_eq!(device.stub.world().reports.len(), 0);
    assert!(device.agent.state().trusted.is_none());

    // A pack that promises one object of the largest size, then one that never ends.
    device.stub.world().endless =
        flood("POST /device/v1/objects", b"PACK\0\0\0\x02\0\0\0\x01\xbf\xff\xff\xff\x0f");
    let found = device.turn(Event::Due);
    assert!(found.starts_with("failed fetch") && found.contains("more bytes in one object"), "{found}");
    let objects = device.state_folder().join("objects");
    let kept = walk(&objects);
    assert_eq!(kept, 0, "nothing of it stays on the disk");
    device.stub.world().endless = None;
    assert_eq!(look_again(&mut device), "good");
}

fn walk(folder: &std::path::Path) -> usize {
    let entries =
        fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.iter().map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn a_slow_server() {
    let mut device = Device::new();
    device.converge();
    device.fleet.put("site.yml", &device.fleet.playbook("late"));
    device.fleet.commit("alice", "Late");
    device.stub.want("development", &device.fleet.head());
    impatient(&mut device);
    let drip = |line: &'static str| Some((line, Vec::new(), Endless::Drip));
    for line in ["GET /device/v1/desired", "POST /device/v1/objects"] {
        device.stub.world().endless = drip(line);
        let (started, before) = (Instant::now(), device.stub.world().requests.len());
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
        assert!(started.elapsed() < Duration::from_secs(30), "{line} held the device up");
        assert!(device.stub.world().requests.len() > before);
        assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "one");
        assert!(device.agent.state().is_idle(), "it waits and will ask again");
    }
    device.stub.world().endless = None;
    device.restart();
    assert_eq!(device.turn(NUDGE), "good");
}

#[test]
fn approvals_kept_back_or_of_something_else() {
    let mut device = Device::new();
    device.converge();
    device.fleet.put("volary.yml", &format!("{CONFIG}quorum: {{ development: 2 }}\n"));
    device.fleet.commit("alice", "Two from now on");
    assert_eq!(device.converge(), "good");
    device.fleet.put("site.yml", &device.fleet.playbook("two"));
    let work = device.fleet.commit("alice", "Work");
    let said = refused(&mut device, "development needs 2 different people; bob@volary.test may approve it");
    assert!(said.contains(&format!("volary approve --stage development {}", work.short())), "{said}");
    // The server hands out an approval of another commit as if it were of this one.
    let other = device.fleet.approve("bob", &device.fleet.parent(), "development");
    device.fleet.git(&["update-ref", &format!("refs/approvals/{work}/development/{other}"), &other]);
    refused(&mut device, "development needs 2");
    // And one of this commit for another stage.
    device.fleet.approve("bob", &work, "canary");
    refused(&mut device, "development needs 2");
    device.fleet.approve("bob", &work, "development");
    assert_eq!(look_again(&mut device), "good");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap(), "two");
}

#[test]
fn a_server_that_asks_to_be_left_alone_is_obeyed() {
    let mut device = Device::new();
    device.converge();
    let turn = |device: &mut Device| {
        let until = device.agent.turn(Event::Due, Duration::ZERO).unwrap();
        until.duration_since(volary_host::now()).as_secs()
    };
    device.stub.world().trouble = Some(503);
    assert!(turn(&mut device) < 600, "by itself it asks again soon");
    device.stub.world().retry_after = Some(1800);
    let wait = turn(&mut device);
    assert!((1790..=1861).contains(&wait), "{wait} s");
    // Not for longer than an hour, or a lying server could silence it.
    device.stub.world().retry_after = Some(1_000_000);
    let wait = turn(&mut device);
    assert!((3590..=3661).contains(&wait), "{wait} s");
    device.stub.world().trouble = None;
    assert!(turn(&mut device) < 100, "and it is forgotten with the next good answer");
}

#[test]
fn a_frozen_server_is_noticed_and_reported() {
    let mut device = Device::new();
    device.fleet.put("volary.yml", &format!("{CONFIG}fresh: {{ development: 7d }}\n"));
    let now = volary_host::now().as_second();
    device.fleet.commit_at("alice", "Promise one a week", now - 8 * 86_400);
    assert_eq!(device.converge(), "good", "what is there is applied all the same");
    let told = |device: &mut Device| {
        device.agent.tell_if_free().unwrap();
        let report = device.stub.world().reports.last().unwrap().clone();
        let check = report.checks.into_iter().find(|check| check.name == "fresh").unwrap();
        (check.passed, check.output)
    };
    // The branch goes on, and the server keeps that back.
    device.fleet.commit("alice", "News");
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    let (passed, output) = told(&mut device);
    assert!(
        !passed && output.contains("8 days ago") && output.contains("may keep newer ones back"),
        "{output}"
    );
    assert_eq!(device.converge(), "good");
    assert_eq!(told(&mut device), (true, String::new()));
}
