//! Units: what their processes have in memory, whether they failed, how often systemd restarted them.
//!
//! Memory is in files of the kernel. The rest only systemd knows, and asking it wakes it; but it leaves a
//! link for each unit that runs, to the number of that run. While those are what they were, no unit
//! started or ended, and the last answer still holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use volary_host::Cmd;

use super::files::{Root, whole};
use super::sink::Sink;
use crate::systemd::{ACTIVE, GROUP, LOAD, RESTARTS, Systemd};

/// The most units that are measured, so that they leave room for the rest.
pub const MOST: usize = 100;

/// How old an answer of systemd may be: a failure that somebody reset leaves no trace in files.
const OLDEST: Duration = Duration::from_secs(15 * 60);

/// The most processes of one unit that are added up where the kernel does not.
const PROCESSES: usize = 500;

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// It has failed.
    pub failed: bool,
    /// How often systemd restarted it by itself.
    pub restarts: u32,
    /// Its control group; empty while it does not run.
    pub group: String,
}

/// Asks systemd about units; one that it does not know is left out.
pub type Ask = fn(&[String]) -> BTreeMap<String, Said>;

/// What was said last.
#[derive(Debug, Default)]
pub struct Services {
    runs: BTreeMap<String, Option<PathBuf>>,
    said: BTreeMap<String, Said>,
    asked_at: Option<Duration>,
}

impl Services {
    /// Looks at these units. `now` is the time since boot.
    pub fn look(&mut self, root: &Root, units: &[String], ask: Ask, now: Duration, sink: &mut Sink<'_>) {
        let units = &units[..units.len().min(MOST)];
        if units.is_empty() || !sink.wants(&["unit_failed", "unit_restarts_total", "unit_memory_bytes"]) {
            return;
        }
        let run =
            |unit: &String| fs::read_link(root.at(&format!("/run/systemd/units/invocation:{unit}"))).ok();
        let runs: BTreeMap<_, _> = units.iter().map(|unit| (unit.clone(), run(unit))).collect();
        let is_old = self.asked_at.is_none_or(|at| now.saturating_sub(at) >= OLDEST);
        if is_old || runs != self.runs {
            self.said = ask(units);
            self.runs = runs;
            self.asked_at = Some(now);
        }
        for (unit, said) in &self.said {
            sink.put_of("unit_failed", "unit", unit, if said.failed { 1.0 } else { 0.0 });
            sink.put_of("unit_restarts_total", "unit", unit, f64::from(said.restarts));
            if sink.wants(&["unit_memory_bytes"]) {
                sink.put_of("unit_memory_bytes", "unit", unit, memory(root, &said.group));
            }
        }
    }
}

/// What a group has in memory or in swap that no file could give back: caches are left out, since they
/// grow until somebody needs the place.
fn memory(root: &Root, group: &str) -> Option<f64> {
    if group.len() < 2 || group.split('/').any(|part| part == "..") {
        return None;
    }
    let folder = format!("/sys/fs/cgroup{group}");
    let Some(stat) = root.text(&format!("{folder}/memory.stat")) else { return by_process(root, &folder) };
    let anonymous = stat.lines().find_map(|line| whole(line.strip_prefix("anon ")?))?;
    Some(anonymous + root.number(&format!("{folder}/memory.swap.current")).unwrap_or(0.0))
}

/// Where the kernel does not count memory by groups, as on a Raspberry Pi, processes are added up.
fn by_process(root: &Root, folder: &str) -> Option<f64> {
    let processes = root.text(&format!("{folder}/cgroup.procs"))?;
    let numbers = processes.lines().filter(|line| whole(line).is_some()).take(PROCESSES);
    Some(numbers.map(|number| of_process(root, number)).fold(0.0, |sum, own| sum + own))
}

fn of_process(root: &Root, number: &str) -> f64 {
    let status = root.text(&format!("/proc/{number}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        whole(line.trim().strip_suffix("kB")?.trim())
    };
    (field("RssAnon:").unwrap_or(0.0) + field("VmSwap:").unwrap_or(0.0)) * 1024.0
}

/// Asks the systemd of this machine.
pub fn ask(units: &[String]) -> BTreeMap<String, Said> {
    if !crate::units::is_booted() {
        return BTreeMap::new();
    }
    if let Some(said) = Systemd::connect().and_then(|mut systemd| asked(&mut systemd, units)) {
        return said;
    }
    let shown = Cmd::new("systemctl")
        .args(["show", "--property=LoadState,ActiveState,NRestarts,ControlGroup", "--"])
        .args(units)
        .check();
    shown.map(|shown| parse(units, &shown.text())).unwrap_or_default()
}

/// As [`ask`], without a program.
fn asked(systemd: &mut Systemd, units: &[String]) -> Option<BTreeMap<String, Said>> {
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let shown = systemd.show(&names, &[LOAD, ACTIVE, RESTARTS, GROUP])?;
    let known = units.iter().zip(shown).filter(|(_, [load, ..])| load == "loaded");
    let said = |[_, active, restarts, group]: [String; 4]| Said {
        failed: active == "failed",
        restarts: restarts.parse().unwrap_or(0),
        group,
    };
    Some(known.map(|(unit, shown)| (unit.clone(), said(shown))).collect())
}

/// `systemctl show` answers in the order of the question, a blank line between two units.
fn parse(units: &[String], shown: &str) -> BTreeMap<String, Said> {
    let blocks: Vec<&str> = shown.trim_end().split("\n\n").collect();
    if blocks.len() != units.len() {
        return BTreeMap::new();
    }
    let field = |block: &str, name: &str| {
        let mut lines = block.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let known = units.iter().zip(blocks).filter(|(_, block)| field(block, "LoadState") == "loaded");
    known
        .map(|(unit, block)| {
            let said = Said {
                failed: field(block, "ActiveState") == "failed",
                restarts: field(block, "NRestarts").parse().unwrap_or(0),
                group: field(block, "ControlGroup"),
            };
            (unit.clone(), said)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_understood() {
        let shown = "LoadState=loaded\nActiveState=active\nNRestarts=2\nControlGroup=/system.slice/a.service\n\n\
                     LoadState=not-found\nActiveState=inactive\n\nLoadState=loaded\nActiveState=failed\n";
        let units = ["a.service", "b.service", "c.socket"].map(str::to_owned);
        let said = parse(&units, shown);
        let a = Said { failed: false, restarts: 2, group: "/system.slice/a.service".to_owned() };
        assert_eq!(said["a.service"], a);
        assert_eq!(said["c.socket"], Said { failed: true, ..Said::default() });
        assert_eq!(said.len(), 2);
        assert_eq!(parse(&units, "LoadState=loaded\n"), BTreeMap::new());
    }
}
