//! Units of systemd: which have failed, which came with the suite's packages, and how those are.
//! Not here: whether a change hurt them (`confirm`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use volary_host::{Cmd, CmdError, read_to_string};

use crate::log;
use crate::systemd::{ACTIVE, FILE, Systemd};

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
    /// `enabled`, `disabled`, `static`, …
    pub file: String,
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
    if let Some(looked) = Systemd::connect().and_then(|mut systemd| asked(&mut systemd, units)) {
        return Ok(looked);
    }
    let properties = "Id,ActiveState,UnitFileState";
    let shown = Cmd::new("systemctl").args(["show", "--property", properties, "--"]).args(units).check()?;
    Ok(parse(&shown.text()))
}

/// As [`look`], without a program.
fn asked(systemd: &mut Systemd, units: &BTreeSet<String>) -> Option<BTreeMap<String, Unit>> {
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let shown = systemd.show(&names, &[ACTIVE, FILE])?;
    let unit = |[active, file]: [String; 2]| Unit { active, file };
    Some(units.iter().cloned().zip(shown.into_iter().map(unit)).collect())
}

fn parse(shown: &str) -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    for block in shown.split("\n\n") {
        let mut unit = Unit::default();
        let mut id = None;
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => id = Some(value.to_owned()),
                "ActiveState" => value.clone_into(&mut unit.active),
                "UnitFileState" => value.clone_into(&mut unit.file),
                _ => {}
            }
        }
        units.extend(id.map(|id| (id, unit)));
    }
    units
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

    #[test]
    fn protection_is_given_up_where_there_is_some() {
        let score = |own| with_score(Cmd::new("cat").arg("/proc/self/oom_score_adj"), own);
        assert_eq!(score("0\n").line(), "cat /proc/self/oom_score_adj");
        assert_eq!(score("-500\n").check().unwrap().text(), "0\n");
        assert!(score("-500\n").line().starts_with("choom "));
    }

    #[test]
    fn systemd_is_understood() {
        let shown =
            "Id=a.service\nActiveState=active\nUnitFileState=enabled\n\nId=b.service\nActiveState=inactive\n";
        let unit = |active: &str, file: &str| Unit { active: active.to_owned(), file: file.to_owned() };
        let units = parse(shown);
        assert_eq!(
            (&units["a.service"], &units["b.service"]),
            (&unit("active", "enabled"), &unit("inactive", ""))
        );
        let list = "/lib/systemd/system/a.service\n/usr/lib/systemd/system/b@.service\n/x/a.service\n\
                    /usr/lib/systemd/system/c.service\n/usr/lib/systemd/user/d.service\n";
        assert_eq!(services(list).collect::<Vec<_>>(), ["a.service", "c.service"]);
    }
}
