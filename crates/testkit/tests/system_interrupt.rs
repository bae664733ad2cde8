//! The demo takes everything down when it is interrupted, wherever it is, and the next one runs.

mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use volary_host::Cmd;
use volary_testkit::wait_until;

/// The demo's program is beside `volary`.
fn demo() -> (Child, TempDir) {
    let program = volary_testkit::chain::Tools::find().unwrap().volary.with_file_name("volary-xtask");
    assert!(program.is_file(), "{} is not there: run make build", program.display());
    let logs = tempfile::tempdir().unwrap();
    let mut demo =
        Cmd::new(program).args(["demo", "--no-keep"]).env("VOLARY_DEMO_LOGS", logs.path()).into_std();
    let demo = demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    (demo.unwrap(), logs)
}

/// Interrupts the demo when it has printed `line`, and checks that nothing of it stays.
fn check(line: &str, signal: Signal) {
    let (mut demo, _logs) = demo();
    let mut lab = None;
    for said in BufReader::new(demo.stdout.take().unwrap()).lines() {
        let said = said.unwrap();
        let number = said.split("https://10.77.").nth(1).and_then(|rest| rest.split('.').next());
        lab = lab.or(number.map(str::to_owned));
        if said.contains(line) {
            break;
        }
    }
    let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    let status = wait_until("the demo to end", Duration::from_secs(60), || {
        demo.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
    });
    assert_eq!(status.unwrap().code(), Some(130));
    let lab = lab.expect("the demo says where its page is");
    // Not later: when the prompt is back, the machine is clean.
    assert!(!PathBuf::from(format!("/sys/class/net/vly{lab}")).exists());
    assert!(!common::cache().dir().join("labs").join(&lab).exists());
}

#[test]
fn ctrl_c_while_devices_boot() {
    check("the fleet repository:", Signal::INT);
}

#[test]
fn sigterm_while_devices_join() {
    check("six containers boot", Signal::TERM);
}
