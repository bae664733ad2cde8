//! Units of systemd: which have failed, which came with the suite's packages, and whether those
//! stay up. The judging is pure; only the asking starts `systemctl`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use volary_host::{Cmd, CmdError, read_to_string};

use crate::log;
use crate::systemd::Systemd;

/// How long watched units are looked at after a change. A service that can't start dies within
/// seconds; systemd's own limit of starts (5 in 10 s) is reached by then too.
const SETTLE: Duration = Duration::from_secs(10);

/// How often they are looked at in that time.
const LOOK: Duration = Duration::from_secs(1);

/// Our own unit. It is not judged: it works while it judges, or a person stopped it and runs the
/// agent by hand.
pub const AGENT: &str = "volary-agent.service";

/// The program without the protection that our unit has when memory runs out: a playbook, a check or
/// an installation that takes too much is to go, before the agent and before what the device is for.
/// A person's shell has no protection to give up.
pub fn unprotected(program: Cmd) -> Cmd {
    with_score(program, &read_to_string(Path::new("/proc/self/oom_score_adj")).unwrap_or_default())
}

fn with_score(program: Cmd, own: &str) -> Cmd {
    if own.starts_with('-') { program.within(&["choom", "--adjust", "0", "--"]) } else { program }
}

/// What systemd says of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// `active`, `failed`, `activating`, …
    pub active: String,
    /// `running`, `dead`, `auto-restart`, …
    pub sub: String,
    /// `enabled`, `disabled`, `static`, …
    pub file: String,
    /// `simple`, `oneshot`, …
    pub kind: String,
    /// How often systemd restarted it by itself.
    pub restarts: u32,
    /// Its main process.
    pub pid: u32,
    /// False if one of its conditions keeps it from starting, which is no failure.
    pub conditions: bool,
}

/// A unit that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The unit.
    pub unit: String,
    /// Why, in half a sentence.
    pub reason: String,
}

/// True if systemd runs this machine.
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Starts our own unit, which waits for the device to be enrolled. Where there is none (a test, an
/// image that is made) there is nothing to start.
pub fn start_agent() {
    let unit = AGENT;
    let enabled = Cmd::new("systemctl").args(["is-enabled", "--quiet", unit]);
    if is_booted() && enabled.check().is_ok() {
        let started = Cmd::new("systemctl").args(["start", "--no-block", unit]).check();
        if let Err(error) = started {
            log::say(error.to_string());
        }
    }
}

/// The units that have failed.
///
/// # Errors
/// [`CmdError`].
pub fn failed() -> Result<BTreeSet<String>, CmdError> {
    if !is_booted() {
        return Ok(BTreeSet::new());
    }
    if let Some(units) = Systemd::connect().and_then(|mut systemd| systemd.units()) {
        return Ok(units.into_iter().filter(|unit| unit.active == "failed").map(|unit| unit.name).collect());
    }
    let listed = Cmd::new("systemctl")
        .args(["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full"])
        .env("LC_ALL", "C.UTF-8")
        .check()?
        .text();
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The services that came with these packages (name and architecture), by the database of dpkg.
pub fn of_packages<'a>(
    dpkg: &Path,
    packages: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<String> {
    let info = dpkg.join("info");
    let mut units = BTreeSet::new();
    for (name, architecture) in packages {
        let plain = read_to_string(&info.join(format!("{name}.list")));
        let list = plain.or_else(|_| read_to_string(&info.join(format!("{name}:{architecture}.list"))));
        units.extend(services(&list.unwrap_or_default()));
    }
    units
}

fn services(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines().filter_map(|path| {
        let (folder, name) = path.rsplit_once('/')?;
        // A template (`x@.service`) is no unit by itself.
        let service = name.ends_with(".service") && !name.contains('@');
        (service && folder.ends_with("lib/systemd/system")).then(|| name.to_owned())
    })
}

/// What systemd says of these units.
///
/// # Errors
/// [`CmdError`].
pub fn look(units: &BTreeSet<String>) -> Result<BTreeMap<String, Unit>, CmdError> {
    if units.is_empty() || !is_booted() {
        return Ok(BTreeMap::new());
    }
    let properties = "Id,ActiveState,SubState,UnitFileState,Type,NRestarts,MainPID,ConditionResult";
    let shown = Cmd::new("systemctl").args(["show", "--property", properties, "--"]).args(units).check()?;
    Ok(parse(&shown.text()))
}

fn parse(shown: &str) -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    for block in shown.split("\n\n") {
        let mut unit = Unit { conditions: true, ..Unit::default() };
        let mut id = None;
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => id = Some(value.to_owned()),
                "ActiveState" => value.clone_into(&mut unit.active),
                "SubState" => value.clone_into(&mut unit.sub),
                "UnitFileState" => value.clone_into(&mut unit.file),
                "Type" => value.clone_into(&mut unit.kind),
                "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
                "MainPID" => unit.pid = value.parse().unwrap_or(0),
                // "no" also before the first start; then the active state tells more.
                "ConditionResult" => unit.conditions = value != "no",
                _ => {}
            }
        }
        units.extend(id.map(|id| (id, unit)));
    }
    units
}

/// Waits until the watched units have had the time to die, and says which did not stand.
/// `at_once` looks only once, for when nothing was changed.
///
/// # Errors
/// [`CmdError`].
pub fn settle(watched: &BTreeSet<String>, at_once: bool) -> Result<Vec<Broken>, CmdError> {
    let first = look(watched)?;
    let started = Instant::now();
    let mut last = first.clone();
    while !at_once && !first.is_empty() && started.elapsed() < SETTLE {
        std::thread::sleep(LOOK);
        last = look(watched)?;
        // What has failed for good does not get better by waiting.
        if last.values().any(|unit| unit.active == "failed") {
            break;
        }
    }
    Ok(judge(&first, &last))
}

/// Which units did not stand between the first look and the last.
fn judge(first: &BTreeMap<String, Unit>, last: &BTreeMap<String, Unit>) -> Vec<Broken> {
    last.iter()
        .filter_map(|(name, now)| {
            let reason = broken(first.get(name), now)?;
            Some(Broken { unit: name.clone(), reason })
        })
        .collect()
}

fn broken(before: Option<&Unit>, now: &Unit) -> Option<String> {
    if now.active == "failed" {
        return Some("it has failed".to_owned());
    }
    let wanted = now.file == "enabled" || now.file == "enabled-runtime";
    if !wanted {
        return None;
    }
    if now.sub == "auto-restart" {
        return Some("it ended and systemd starts it again and again".to_owned());
    }
    if let Some(before) = before.filter(|before| now.restarts > before.restarts) {
        let times = now.restarts - before.restarts;
        return Some(format!("it died and was started again {times} times within {} s", SETTLE.as_secs()));
    }
    let up = matches!(now.active.as_str(), "active" | "reloading" | "activating");
    // A oneshot is inactive once it is done, and a condition that does not hold is a choice.
    let excused = now.kind == "oneshot" || !now.conditions;
    if up || excused { None } else { Some(format!("it is enabled but {}", now.active)) }
}

/// The last lines that a unit wrote to the journal.
pub fn journal(unit: &str) -> String {
    let shown = Cmd::new("journalctl")
        .args(["--unit", unit, "--lines", "10", "--no-pager", "--output", "cat", "--quiet"])
        .run();
    shown.map(|output| volary_host::tail(&output.stdout, 10)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, sub: &str, restarts: u32) -> Unit {
        Unit {
            active: active.into(),
            sub: sub.into(),
            file: "enabled".into(),
            kind: "simple".into(),
            restarts,
            pid: 1,
            conditions: true,
        }
    }

    fn check(before: &Unit, now: Unit, expected: Option<&str>) {
        let map = |unit: &Unit| BTreeMap::from([("a.service".to_owned(), unit.clone())]);
        let found = judge(&map(before), &map(&now));
        match expected {
            None => assert_eq!(found, []),
            Some(text) => assert!(found[0].reason.contains(text), "{found:?}"),
        }
    }

    #[test]
    fn protection_is_given_up_where_there_is_some() {
        let score = |own| with_score(Cmd::new("cat").arg("/proc/self/oom_score_adj"), own);
        assert_eq!(score("0\n").line(), "cat /proc/self/oom_score_adj");
        assert_eq!(score("-500\n").check().unwrap().text(), "0\n");
        assert!(score("-500\n").line().starts_with("choom "));
    }

    #[test]
    fn a_service_that_does_not_stand_is_found() {
        let up = unit("active", "running", 0);
        check(&up, up.clone(), None);
        check(&up, unit("failed", "failed", 5), Some("has failed"));
        check(&up, unit("activating", "auto-restart", 1), Some("again and again"));
        check(&up, unit("active", "running", 2), Some("2 times"));
        check(&up, unit("inactive", "dead", 0), Some("enabled but inactive"));
        check(&unit("active", "running", 3), unit("active", "running", 0), None);
    }

    #[test]
    fn what_is_meant_to_be_down_is_left_alone() {
        let up = unit("active", "running", 0);
        let down = unit("inactive", "dead", 0);
        check(&up, Unit { file: "disabled".into(), ..down.clone() }, None);
        check(&up, Unit { file: "static".into(), ..down.clone() }, None);
        check(&up, Unit { kind: "oneshot".into(), ..down.clone() }, None);
        check(&up, Unit { conditions: false, ..down }, None);
        check(&up, Unit { file: "disabled".into(), ..unit("failed", "failed", 0) }, Some("has failed"));
    }

    #[test]
    fn systemd_is_understood() {
        let shown = "Type=simple\nNRestarts=2\nMainPID=7\nId=a.service\nActiveState=active\nSubState=running\n\
                     UnitFileState=enabled\nConditionResult=yes\n\nId=b.service\nActiveState=inactive\n";
        let units = parse(shown);
        assert_eq!((units["a.service"].restarts, units["a.service"].pid), (2, 7));
        assert_eq!(units["b.service"].active, "inactive");
        let list = "/lib/systemd/system/a.service\n/usr/lib/systemd/system/b@.service\n/x/a.service\n\
                    /usr/lib/systemd/system/c.service\n/usr/lib/systemd/user/d.service\n";
        assert_eq!(services(list).collect::<Vec<_>>(), ["a.service", "c.service"]);
    }
}
