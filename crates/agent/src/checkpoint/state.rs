//! How a device is apart from its files: units, clocks, memory.

use std::collections::BTreeMap;
use std::path::Path;

use volary_host::{Cmd, CmdError, boot_id, now};

use super::manifest::{Clock, UnitWas};
use super::store::boot_ms;
use crate::systemd::{FILE, Listed, RESTARTS, Systemd};
use crate::{facts, units};

/// Kinds of units that are looked at. Mounts and devices follow from files and the machine.
pub const KINDS: &str = "service,socket,timer,path,target";

/// The clocks now.
pub fn clock() -> Clock {
    Clock { wall: now(), boot_ms: boot_ms(), boot_id: boot_id(), synchronised: is_synchronised() }
}

/// True if a time server keeps the clock right, as the kernel was told.
pub fn is_synchronised() -> bool {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return true;
    }
    let asked = Cmd::new("timedatectl").args(["show", "--property", "NTPSynchronized", "--value"]);
    asked.timeout(std::time::Duration::from_secs(10)).run().is_ok_and(|output| output.text().trim() == "yes")
}

/// True unless memory is short already.
pub fn memory_is_free() -> bool {
    let memory = facts::memory();
    memory.free >= memory.total / 20
}

/// The units that systemd has in memory and that run, or failed, or are about to.
///
/// # Errors
/// [`CmdError`].
pub fn units() -> Result<BTreeMap<String, UnitWas>, CmdError> {
    if !units::is_booted() {
        return Ok(BTreeMap::new());
    }
    if let Some(units) = asked() {
        return Ok(units);
    }
    let kind = format!("--type={KINDS}");
    let properties = "--property=Id,ActiveState,SubState,UnitFileState,NRestarts";
    let shown = Cmd::new("systemctl").args(["show", &kind, properties, "--", "*"]).check()?;
    Ok(parse(&shown.text()))
}

/// The same units with their states in one question, for a tenth of the work: enough to see whether
/// [`units`] would say something new, but for a service that died and runs again.
///
/// # Errors
/// [`CmdError`].
pub fn units_in_short() -> Result<String, CmdError> {
    if !units::is_booted() {
        return Ok(String::new());
    }
    if let Some(units) = Systemd::connect().and_then(|mut systemd| systemd.units()) {
        let shown = units.iter().filter(|unit| is_looked_at(unit) && unit.is_shown());
        let mut lines: Vec<String> = shown.map(line).collect();
        lines.sort();
        return Ok(lines.join("\n"));
    }
    let kind = format!("--type={KINDS}");
    let listed = Cmd::new("systemctl")
        .args(["list-units", &kind, "--plain", "--no-legend", "--no-pager", "--full"])
        .env("LC_ALL", "C.UTF-8")
        .check()?;
    Ok(in_short(&listed.text()))
}

/// As [`units`], without a program.
fn asked() -> Option<BTreeMap<String, UnitWas>> {
    let mut systemd = Systemd::connect()?;
    let units = systemd.units()?;
    let units: Vec<&Listed> =
        units.iter().filter(|unit| is_looked_at(unit) && unit.active != "inactive").collect();
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    let more = systemd.show(&names, &[FILE, RESTARTS])?;
    let known = units.into_iter().zip(more).map(|(unit, [file, restarts])| {
        let (active, sub, restarts) =
            (unit.active.clone(), unit.sub.clone(), restarts.parse().unwrap_or_default());
        (unit.name.clone(), UnitWas { active, sub, file, restarts })
    });
    Some(known.collect())
}

fn is_looked_at(unit: &Listed) -> bool {
    unit.name.rsplit_once('.').is_some_and(|(_, kind)| KINDS.split(',').any(|looked_at| looked_at == kind))
}

fn line(unit: &Listed) -> String {
    format!("{} {} {} {}", unit.name, unit.load, unit.active, unit.sub)
}

/// Without the descriptions, in which services write what they are doing.
fn in_short(listed: &str) -> String {
    let states = listed.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" "));
    states.collect::<Vec<_>>().join("\n")
}

fn parse(shown: &str) -> BTreeMap<String, UnitWas> {
    let mut found = BTreeMap::new();
    for block in shown.split("\n\n") {
        let field = |name: &str| {
            let value = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().to_owned()
        };
        let unit = UnitWas {
            active: field("ActiveState"),
            sub: field("SubState"),
            file: field("UnitFileState"),
            restarts: field("NRestarts").parse().unwrap_or(0),
        };
        let id = field("Id");
        if !id.is_empty() && unit.active != "inactive" {
            found.insert(id, unit);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_no_state() {
        let listed = "a.service loaded active running does this\nb.timer   loaded active waiting B\n";
        assert_eq!(in_short(listed), "a.service loaded active running\nb.timer loaded active waiting");
    }

    #[test]
    fn units_that_do_not_run_are_not_remembered() {
        let shown = "NRestarts=2\nId=a.service\nActiveState=active\nSubState=running\nUnitFileState=enabled\n\n\
                     Id=b.service\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\n\n\
                     Id=c.service\nActiveState=failed\nSubState=failed\nUnitFileState=\n";
        let units = parse(shown);
        assert_eq!(units.keys().collect::<Vec<_>>(), ["a.service", "c.service"]);
        assert_eq!((units["a.service"].restarts, units["c.service"].active.as_str()), (2, "failed"));
    }
}
