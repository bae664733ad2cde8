//! What `ansible-pull` does wrong, row by row, and that this agent does not.
//!
//! Each test is one row of the table of measured and reported weaknesses: its documentation is the
//! weakness, its body the proof. First what `--verify-commit` lets through, then the rest. Rows
//! that are proven elsewhere name the place.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use volary_device::Event;
use volary_host::{Cmd, create_dir, read_to_string, write_atomic};

use crate::convergence::{Device, NUDGE};
use crate::fleet::INVENTORY;
use crate::stub::Endless;

/// Offers what `master` has; it must be refused and nothing of it executed or kept as files.
fn refused(device: &mut Device, expected: &str) {
    let before = read_to_string(&device.fleet.written()).unwrap_or_default();
    let found = device.converge();
    assert!(found.starts_with("refused verify") && found.contains(expected), "{found}");
    assert_eq!(read_to_string(&device.fleet.written()).unwrap_or_default(), before);
    assert!(!device.state_folder().join("checkout").join(device.fleet.head().as_str()).exists());
}

fn written(device: &Device) -> String {
    read_to_string(&device.fleet.written()).unwrap_or_default()
}

/// A change that somebody signs.
fn change(device: &Device, person: &str, content: &str) {
    device.fleet.put("site.yml", &device.fleet.playbook(content));
    device.fleet.commit(person, content);
}

/// The real program on the device's files.
fn program(device: &Device, args: &[&str]) -> Cmd {
    Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", device.root.path()).args(args)
}

// ---------------------------------------------------------------- what --verify-commit lets through

/// Only the tip is checked: a signed commit on top of unsigned ones passes.
#[test]
fn unsigned_commits_below_a_signed_tip() {
    let mut device = Device::new();
    device.converge();
    change(&device, "nobody", "hidden");
    device.fleet.commit("alice", "Innocent");
    refused(&mut device, "not signed");
}

/// Any key in the user's key ring passes, trusted or not.
#[test]
fn a_key_that_is_merely_known() {
    let mut device = Device::new();
    device.converge();
    // Mallory has a good key, which the machine may well know; it does not stand in the list.
    change(&device, "mallory", "evil");
    refused(&mut device, "not in .volary/allowed_signers");
}

/// A key that expires *after* it signed makes every device stop on that day.
#[test]
fn a_key_that_expired_after_it_signed() {
    let mut device = Device::new();
    // Alice's key ends one hour from the start of the test; what she signs now is judged by now,
    // whenever a device comes to see it. The commit is dated back instead of waiting for an hour.
    let end = volary_host::now().checked_sub(Duration::from_secs(3600)).unwrap();
    let until = end.strftime("%Y%m%d%H%M%SZ").to_string();
    let signers = device.fleet.signers(&["alice", "bob"]);
    let with_end =
        signers.replacen("alice@volary.test ", &format!("alice@volary.test valid-before=\"{until}\" "), 1);
    device.fleet.put(".volary/allowed_signers", &with_end);
    let day = 24 * 3600;
    device.fleet.commit_at("bob", "An end for alice's key", end.as_second() - 2 * day);
    assert_eq!(device.converge(), "good");
    device.fleet.put("site.yml", &device.fleet.playbook("signed in time"));
    device.fleet.commit_at("alice", "In time", end.as_second() - day);
    assert_eq!(device.converge(), "good", "the key has expired, the signature was made before");
    assert_eq!(written(&device), "signed in time");
    device.fleet.put("site.yml", &device.fleet.playbook("too late"));
    device.fleet.commit_at("alice", "Too late", end.as_second() + 60);
    refused(&mut device, "was not valid for git at the time of the commit");
    device.fleet.git(&["reset", "-q", "--hard", "HEAD~1"]);
    // And dated back behind what the device has seen it does not pass either.
    device.fleet.commit_at("bob", "Newer", end.as_second() + 120);
    assert_eq!(device.converge(), "good");
    change_at(&device, "alice", "dated back", end.as_second() - 60);
    refused(&mut device, "the time that it claims is not true");
}

fn change_at(device: &Device, person: &str, content: &str, seconds: i64) {
    device.fleet.put("site.yml", &device.fleet.playbook(content));
    device.fleet.commit_at(person, content, seconds);
}

/// No binding to order: a ref that is forced back to an older signed commit is taken and run.
#[test]
fn a_ref_forced_back() {
    let mut device = Device::new();
    let old = device.fleet.head();
    change(&device, "alice", "new");
    assert_eq!(device.converge(), "good");
    device.fleet.git(&["reset", "-q", "--hard", old.as_str()]);
    refused(&mut device, "is older than");
}

/// No binding to a branch: a commit that was signed for develop and put on production is run.
#[test]
fn a_commit_signed_for_another_branch() {
    let mut device = Device::new();
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    dev-1: { volary_stage: canary }\n");
    device.fleet.commit("alice", "Move dev-1");
    let canary = device.fleet.promote("alice");
    device.stub.want("development", &device.fleet.head());
    device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    device.stub.want("canary", &canary);
    assert_eq!(device.turn(Event::Due), "good");
    change(&device, "alice", "for development only");
    device.stub.want("canary", &device.fleet.head());
    let found = device.turn(Event::Due);
    assert!(found.starts_with("refused"), "{found}");
    assert!(
        found.contains("does not follow from") || found.contains("is not a merge of development"),
        "{found}"
    );
    assert_eq!(written(&device), "one");
}

/// The work tree already holds the refused commit, and `--force` runs it.
#[test]
fn a_refused_commit_is_not_on_the_disk_and_no_option_runs_it() {
    let mut device = Device::new();
    device.converge();
    change(&device, "mallory", "evil");
    refused(&mut device, "allowed_signers");
    let output = program(&device, &["run"]).run().unwrap();
    assert_eq!(output.status.code(), Some(3), "asked by a person it is refused again");
    for option in ["--force", "-f"] {
        assert_eq!(program(&device, &["run", option]).run().unwrap().status.code(), Some(2), "{option}");
    }
    assert_eq!(written(&device), "one");
}

/// SSH signatures work only with `gpg.ssh.allowedSignersFile` in git's configuration.
#[test]
fn signatures_need_neither_git_nor_its_configuration() {
    let device = Device::new();
    device.stub.want("development", &device.fleet.head());
    // Every program but git.
    let bin = device.root.path().join("bin");
    create_dir(&bin).unwrap();
    for folder in ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"] {
        for program in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = program.file_name();
            if !name.to_string_lossy().starts_with("git") {
                let _ = std::os::unix::fs::symlink(program.path(), bin.join(name));
            }
        }
    }
    let output = program(&device, &["run"]).env("PATH", bin.display().to_string()).run().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(written(&device), "one");
}

// ------------------------------------------------------------------------------------- the rest

/// `-o` never retries a failed run: the next poll says "Repository has not changed, quitting", rc 0.
#[test]
fn a_failed_run_is_retried() {
    let mut device = Device::new();
    let flag = device.root.path().join("flag");
    let task =
        format!("- hosts: all\n  gather_facts: false\n  tasks:\n    - command: test -e {}\n", flag.display());
    device.fleet.put("site.yml", &task);
    device.fleet.commit("alice", "Need a flag");
    assert!(device.converge().starts_with("failed playbook"));
    let until = device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    assert!(until.duration_since(volary_host::now()).as_secs() < 3600, "it comes back by itself");
    let output = program(&device, &["status"]).run().unwrap();
    assert!(output.text().contains("in playbook"), "and says so meanwhile: {}", output.text());
    write_atomic(&flag, b"", 0o644).unwrap();
    assert_eq!(device.turn(NUDGE), "good");
}

/// `-o` looks for `"changed": true` in the output: with `result_format=yaml` a commit is never applied.
#[test]
fn the_form_of_ansibles_output_decides_nothing() {
    let mut device = Device::new();
    device.fleet.put("ansible.cfg", "[defaults]\nresult_format = yaml\nstdout_callback = minimal\n");
    change(&device, "alice", "with another form");
    assert_eq!(device.converge(), "good");
    assert_eq!(written(&device), "with another form");
    assert_eq!(device.stub.last_result().convergence.unwrap().changed_tasks, 1);
}

/// No lock: of three runs at once some fail, or they run the playbook at the same time.
#[test]
fn three_runs_at_once_never_race() {
    let device = Device::new();
    let log = device.root.path().join("log");
    let line = |word: &str| format!("    - shell: echo {word} >> {}\n", log.display());
    let playbook = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n{}    - command: sleep 0.5\n{}",
        line("begin"),
        line("end")
    );
    device.fleet.put("site.yml", &playbook);
    device.fleet.commit("alice", "Take some time");
    device.stub.want("development", &device.fleet.head());
    let start = |_| {
        let mut command = program(&device, &["run"]).into_std();
        command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..3).map(start).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let log = read_to_string(&log).unwrap();
    assert_eq!(log.len() % "begin\nend\n".len(), 0);
    assert_eq!(log, "begin\nend\n".repeat(log.len() / "begin\nend\n".len()), "one after the other");
}

/// Power cut: a `.git/index.lock` that is left behind fails each run for ever, and so does a ref file
/// full of zeros.
#[test]
fn what_a_power_cut_leaves_heals() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    // Whatever file of the agent's own is empty, full of zeros, or half of what it was.
    let state = device.state_folder();
    let objects = state.join("objects");
    let mut objects: Vec<_> = files(&objects).into_iter().enumerate().collect();
    objects.sort();
    for (number, path) in objects {
        let whole = volary_host::read(&path).unwrap();
        let torn = match number % 3 {
            0 => Vec::new(),
            1 => vec![0; whole.len()],
            _ => whole[..whole.len() / 2].to_vec(),
        };
        fs::remove_file(&path).unwrap();
        write_atomic(&path, &torn, 0o444).unwrap();
        write_atomic(&path.with_file_name(format!("tmp_obj_1_{number}")), &torn, 0o444).unwrap();
    }
    write_atomic(&state.join("ledger.0"), b"", 0o600).unwrap();
    write_atomic(&device.root.path().join("run/volary/lock"), b"999999\n", 0o644).unwrap();
    change(&device, "alice", "after the cut");
    device.restart();
    assert_eq!(device.converge(), "good");
    assert_eq!(written(&device), "after the cut");
    let left = files(&state).into_iter().filter(|path| path.display().to_string().contains("tmp_obj"));
    assert_eq!(left.count(), 0, "and it tidies up");
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Power cut in the middle of a fetch.
#[test]
fn a_cut_in_the_middle_of_a_fetch_heals() {
    let mut device = Device::new();
    device.converge();
    change(&device, "alice", "in pieces");
    device.stub.want("development", &device.fleet.head());
    // Half of the true pack, and then a line that hangs while the process is killed.
    let base = device.agent.state().trusted.clone().unwrap();
    let git = volary_fleet::GitRepository::open(&device.fleet.work()).unwrap();
    let name = "dev-1".parse().unwrap();
    let pack = volary_fleet::pack_for_device(&git, &device.fleet.head(), Some(&base), &name).unwrap();
    let half = pack[..pack.len() / 2].to_vec();
    device.stub.world().endless = Some(("POST /device/v1/objects", half, Endless::Drip));
    let mut run = program(&device, &["run"]).into_std().stderr(Stdio::null()).spawn().unwrap();
    device.stub.wait_for("the fetch", |world| {
        world.requests.iter().filter(|line| *line == "POST /device/v1/objects").count() > 1
    });
    run.kill().unwrap();
    run.wait().unwrap();
    device.stub.world().endless = None;
    let output = program(&device, &["run"]).run().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(written(&device), "in pieces");
}

/// A changed tracked file fails each run; an untracked `<fqdn>.yml` runs instead of the playbook.
#[test]
fn local_files_neither_stop_nor_steer_it() {
    let mut device = Device::new();
    device.converge();
    let checkout = device.state_folder().join("checkout").join(device.fleet.head().as_str());
    write_atomic(&checkout.join("inventory.yml"), b"all: {hosts: {other: {}}}\n", 0o644).unwrap();
    let stray = format!(
        "- hosts: all\n  tasks:\n    - file: {{path: {}, state: absent}}\n",
        device.fleet.written().display()
    );
    for name in ["dev-1.yml", "dev-1.example.com.yml", "localhost.yml", "local.yml"] {
        write_atomic(&checkout.join(name), stray.as_bytes(), 0o644).unwrap();
    }
    create_dir(&checkout.join("host_vars/dev-1")).unwrap();
    write_atomic(&checkout.join("host_vars/dev-1/x.yml"), b"volary_stage: nowhere\n", 0o644).unwrap();
    assert_eq!(device.turn(NUDGE), "good");
    assert_eq!(written(&device), "one");
}

/// No reporting: it is silent when the play does not start.
#[test]
fn a_play_that_does_not_start_is_reported() {
    let mut device = Device::new();
    device.fleet.put("site.yml", "- hosts: all\n  tasks: nonsense\n");
    device.fleet.commit("alice", "Nonsense");
    let found = device.converge();
    assert!(found.starts_with("failed playbook") && found.len() > 40, "{found}");
}

/// No health gate. (No rollback and no timeout of a run: the tests of confirm-or-undo.)
#[test]
fn a_required_check_decides_and_its_output_is_told() {
    let mut device = Device::new();
    device.fleet.put_executable("health/required.d/10-link", "#!/bin/sh\necho no carrier\nexit 1\n");
    device.fleet.commit("alice", "Check the link");
    let found = device.converge();
    assert!(found.contains("10-link") && found.contains("no carrier"), "{found}");
}

/// No jitter but `--sleep N`, a new random number at each run.
#[test]
fn devices_ask_at_times_of_their_own() {
    let mut device = Device::new();
    device.converge();
    let wait = |device: &mut Device| {
        let until = device.agent.turn(Event::Due, Duration::ZERO).unwrap();
        until.duration_since(volary_host::now()).as_millis()
    };
    let waits: Vec<_> = (0..8).map(|_| wait(&mut device)).collect();
    assert!(waits.iter().all(|wait| (30_000..=90_000).contains(wait)), "around the poll of 60 s: {waits:?}");
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(most - least > 1_000, "and never the same: {waits:?}");
}

/// `--accept-host-key` believes any host. (Here: `attacks::another_server_with_other_keys`.)
///
/// Every device has the whole inventory and all `host_vars`, secrets of others among them.
#[test]
fn a_device_has_only_its_own_variables() {
    let mut device = Device::new();
    device.fleet.put("host_vars/dev-1/own.yml", "mine: for dev-1\n");
    device.fleet.commit("alice", "Variables");
    assert_eq!(device.converge(), "good");
    let all: Vec<_> = files(device.root.path());
    let mut found = 0;
    for path in all {
        let bytes = volary_host::read(&path).unwrap_or_default();
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&bytes[..]), &mut text);
        for content in [&bytes, &text] {
            let holds = |word: &[u8]| content.windows(word.len()).any(|window| window == word);
            assert!(!holds(b"not for dev-1"), "{} has another host's secret", path.display());
            found += usize::from(holds(b"mine: for dev-1"));
        }
    }
    assert!(found > 0, "its own are there");
}

/// A device that is not in the inventory: rc 1, no host matched, and nobody is told.
#[test]
fn a_device_that_is_not_in_the_inventory() {
    let mut device = Device::new();
    device.fleet.put("inventory.yml", "all:\n  hosts:\n    other: {}\n");
    device.fleet.commit("alice", "Forget dev-1");
    let found = device.converge();
    assert!(found.contains("device dev-1 is not in the inventory"), "{found}");
    device.fleet.put("inventory.yml", INVENTORY);
    device.fleet.commit("alice", "Remember dev-1");
    assert_eq!(device.converge(), "good");
}

/// Python at 126 MiB, nine processes and 7 requests on 3 connections for "nothing to do".
#[test]
fn nothing_to_do_costs_one_request_and_no_process() {
    let mut device = Device::new();
    device.converge();
    let children = || {
        // Processor time of processes that ended: fields 16 and 17 after the name in brackets.
        let stat = read_to_string(Path::new("/proc/self/stat")).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .skip(13)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        fields.iter().sum::<u64>()
    };
    let (time, before) = (children(), device.stub.world().requests.len());
    let connections = device.stub.world().connections;
    let started = Instant::now();
    for _ in 0..5 {
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
    }
    assert_eq!(children(), time, "no process was started");
    let world = device.stub.world();
    assert_eq!(world.requests[before..], ["GET /device/v1/desired"; 5], "one request each");
    assert_eq!(world.connections, connections, "on the connection that is there");
    assert!(started.elapsed() < Duration::from_secs(10));
}
