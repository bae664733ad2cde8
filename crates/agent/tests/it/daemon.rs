//! The real program: its daemon, its commands, its exit statuses.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use volary_host::{Cmd, Output};

use crate::fleet::Fleet;
use crate::stub::Stub;

pub fn agent(root: &Path, args: &[&str]) -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", root).args(args)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[track_caller]
pub fn check(root: &Path, args: &[&str], status: i32, expected: &str) {
    let output = agent(root, args).run().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(text.contains(expected), "{args:?}: {text}");
}

pub fn start(root: &Path) -> Child {
    let mut command = agent(root, &["daemon"]).into_std();
    command.stderr(Stdio::inherit()).stdin(Stdio::null()).spawn().unwrap()
}

pub fn end(mut child: Child, signal: &str) -> Option<i32> {
    Cmd::new("kill").args([signal, &child.id().to_string()]).check().unwrap();
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(started.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn commands_end_with_their_status() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    check(root, &["frobnicate"], 2, "there is no command");
    check(root, &["run", "now"], 2, "now");
    check(root, &["status"], 6, "not enrolled");
    check(root, &["enroll", "--token", "volary1.broken"], 2, "not a join token");
    check(root, &["enroll"], 2, "give --token TOKEN");
    let token = stub.token("development", &fleet.signers(&["alice"]));
    let mut away = volary_api::join::JoinToken::decode(&token).unwrap();
    away.server = "https://127.0.0.1:1".to_owned();
    check(root, &["enroll", "--token", &away.encode(), "--name", "dev-1"], 7, "cannot reach");
    stub.world().accepts = false;
    check(root, &["enroll", "--token", &token, "--name", "dev-1", "--no-wait"], 4, "device accept dev-1");
    stub.world().accepts = true;
    check(root, &["enroll"], 0, "dev-1 belongs to the fleet");
    check(root, &["run"], 7, "no branch yet");
    stub.want("development", &fleet.head());
    check(root, &["run"], 0, "good: commit");
    check(root, &["status"], 0, "stage     development");
    check(root, &["status", "--json"], 0, "\"doing\": \"idle\"");
    fleet.put("site.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Break\n      fail:\n");
    fleet.commit("alice", "Break");
    stub.want("development", &fleet.head());
    check(root, &["run"], 1, "reverted: commit");
    check(root, &["status"], 0, "playbook \"Break\"");
    check(root, &["run"], 1, "reverted: commit");
    check(root, &["run"], 1, "reverted: commit");
    check(root, &["run"], 1, "in quarantine");
    check(root, &["status"], 0, "help      the commit is not tried again: volary-agent run --again");
    check(root, &["run", "--again"], 1, "reverted: commit");
    check(root, &["run", "--often"], 2, "often");
    check(root, &["hold", "--for", "soon"], 2, "is no duration");
    check(root, &["hold", "--for", "2h", "under", "repair"], 0, "");
    check(root, &["run"], 8, "waits: held on the device until");
    check(root, &["status"], 0, "under repair");
    check(root, &["release"], 0, "");
    fleet.commit("mallory", "Evil");
    stub.want("development", &fleet.head());
    check(root, &["run"], 3, "refused: commit");
}

#[test]
fn the_daemon_converges_and_hears_signals() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    check(root.path(), &["enroll", "--token", &token, "--name", "dev-1"], 0, "belongs");
    stub.want("development", &fleet.head());
    let daemon = start(root.path());
    stub.wait_for("the first result", |world| {
        world.reports.iter().any(|report| report.good_commit.is_some())
    });
    fleet.put("site.yml", &fleet.playbook("nudged"));
    fleet.commit("alice", "Go on");
    let head = fleet.head();
    stub.want("development", &head);
    Cmd::new("kill").args(["-HUP", &daemon.id().to_string()]).check().unwrap();
    stub.wait_for("the second result", |world| {
        world.reports.iter().any(|report| report.good_commit.as_ref() == Some(&head))
    });
    assert_eq!(end(daemon, "-TERM"), Some(0));
}

#[test]
fn a_daemon_ends_after_the_step_and_goes_on_later() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    check(root.path(), &["enroll", "--token", &token, "--name", "dev-1"], 0, "belongs");
    let (begun, ended) = (root.path().join("begun"), root.path().join("ended"));
    let playbook = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Take time\n      shell: touch {}; sleep 2; \
         touch {}\n",
        begun.display(),
        ended.display()
    );
    fleet.put("site.yml", &playbook);
    fleet.commit("alice", "Take time");
    stub.want("development", &fleet.head());
    let daemon = start(root.path());
    let started = Instant::now();
    while !begun.exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(end(daemon, "-TERM"), Some(0));
    assert!(ended.exists(), "the playbook was let finish");
    assert!(stub.world().reports.is_empty(), "and nothing began after it");
    check(root.path(), &["run"], 0, "good: commit");
}

#[test]
fn a_daemon_that_is_killed_goes_on() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    check(root.path(), &["enroll", "--token", &token, "--name", "dev-1"], 0, "belongs");
    let flag = root.path().join("flag");
    let playbook = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Hang at first\n      shell: test -e {0} || \
         (touch {0}; sleep 60)\n",
        flag.display()
    );
    fleet.put("site.yml", &playbook);
    fleet.commit("alice", "Hang");
    stub.want("development", &fleet.head());
    let daemon = start(root.path());
    let started = Instant::now();
    while !flag.exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(end(daemon, "-KILL"), None);
    let daemon = start(root.path());
    let head = fleet.head();
    stub.wait_for("the result", |world| {
        world.reports.iter().any(|report| report.good_commit.as_ref() == Some(&head))
    });
    assert_eq!(end(daemon, "-TERM"), Some(0));
}

#[test]
fn with_an_open_question_news_come_at_once() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    let rare = |stub: &Stub| {
        let mut world = stub.world();
        let desired = world.desired.as_mut().unwrap();
        (desired.poll, desired.long_poll) = (86_400, 60);
    };
    stub.want("development", &fleet.head());
    rare(&stub);
    check(root.path(), &["enroll", "--token", &token, "--name", "dev-1"], 0, "dev-1 belongs to the fleet");
    let daemon = start(root.path());
    stub.wait_for("the first convergence", |world| !world.reports.is_empty());
    stub.wait_for("an open question", |world| world.open_questions >= 2);
    let before = stub.world().requests.len();
    fleet.put("site.yml", &fleet.playbook("at once"));
    fleet.commit("alice", "News");
    stub.want("development", &fleet.head());
    rare(&stub);
    // The next question by itself would come in a day.
    stub.wait_for("the second convergence", |world| world.reports.len() >= 2);
    assert_eq!(volary_host::read_to_string(&fleet.written()).unwrap(), "at once");
    let asked = stub.world().requests[before..].iter().filter(|line| line.ends_with("desired")).count();
    assert!(asked <= 3, "the answer, what the daemon then asks, and the next open question: {asked}");
    assert_eq!(end(daemon, "-TERM"), Some(0));
}
