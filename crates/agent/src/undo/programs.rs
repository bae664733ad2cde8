//! Ends what still works on the device before it is put back: the agent, unless it runs the undo,
//! and what is left of the playbook and of apt.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use volary_host::Cmd;

use super::Undo;
use crate::log;
use crate::units;

/// Each process of a change has this in its environment, whatever it became.
pub const MARK: &str = "VOLARY_CHANGE";

/// How long the agent may take to end in order before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends them.
pub(super) fn stop(undo: &Undo<'_>) {
    if !undo.how.by_agent && !undo.how.at_boot {
        stop_agent();
    }
    let marked = || processes().filter(|pid| is_marked(*pid)).collect::<Vec<_>>();
    let found = marked();
    if found.is_empty() {
        return;
    }
    log::say(format!("ending {} processes of the change", found.len()));
    // dpkg is given the time to finish the file it is at; nothing else needs any.
    for (signal, wait) in [(Signal::TERM, PATIENCE), (Signal::KILL, PATIENCE)] {
        for pid in marked() {
            let _ = kill_process(pid, signal);
        }
        let begun = Instant::now();
        while !marked().is_empty() && begun.elapsed() < wait {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn stop_agent() {
    if units::is_booted() {
        let systemctl = |args: &[&str]| Cmd::new("systemctl").args(args).run();
        let active = || {
            let asked = systemctl(&["is-active", units::AGENT]).map(|output| output.text());
            !matches!(asked.unwrap_or_default().trim(), "inactive" | "failed" | "unknown" | "")
        };
        let _ = systemctl(&["stop", "--no-block", units::AGENT]);
        let begun = Instant::now();
        while active() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(200));
        }
        if active() {
            let _ = systemctl(&["kill", "--signal=KILL", units::AGENT]);
            let _ = systemctl(&["stop", units::AGENT]);
        }
    }
    // One that a person runs is in no unit.
    for pid in processes().filter(|pid| is_agent(*pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let own = rustix::process::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(move |pid| *pid != own)
}

fn is_marked(pid: Pid) -> bool {
    let mark = format!("{MARK}=");
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
}

fn is_agent(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = line.split(|&byte| byte == 0);
    let program = words.next().is_some_and(|word| word.ends_with(b"volary-agent"));
    program && words.next().is_some_and(|word| word == b"daemon" || word == b"run")
}
