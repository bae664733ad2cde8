//! Units after the files are back: those that ran before run, those whose files or package went
//! back are started anew, those that the change brought are stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use volary_host::Cmd;

use super::{Undo, packages};
use crate::checkpoint::manifest::UnitWas;
use crate::checkpoint::state;
use crate::units;

/// How long systemd may take for all of them together.
const LIMIT: Duration = Duration::from_secs(180);

/// Parts of systemd that do what files say and may be started anew; the others may not.
const OF_SYSTEMD: [&str; 4] = [
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
];

/// A file or folder in `/etc` whose reader has another name.
const READERS: [(&str, &str); 12] = [
    ("/etc/systemd/network", "systemd-networkd.service"),
    ("/etc/systemd/networkd.conf", "systemd-networkd.service"),
    ("/etc/systemd/resolved.conf", "systemd-resolved.service"),
    ("/etc/systemd/timesyncd.conf", "systemd-timesyncd.service"),
    ("/etc/sysctl.conf", "systemd-sysctl.service"),
    ("/etc/sysctl.d", "systemd-sysctl.service"),
    ("/etc/NetworkManager", "NetworkManager.service"),
    ("/etc/network", "networking.service"),
    ("/etc/wpa_supplicant", "wpa_supplicant.service"),
    ("/etc/nftables.conf", "nftables.service"),
    ("/etc/iptables", "netfilter-persistent.service"),
    ("/etc/chrony", "chrony.service"),
];

/// What is to be done with units.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    start: BTreeSet<String>,
    restart: BTreeSet<String>,
    stop: BTreeSet<String>,
}

/// Does it.
pub(super) fn put_back(undo: &mut Undo<'_>) {
    if !units::is_booted() {
        return;
    }
    systemctl(undo, &["daemon-reload"], &[]);
    set_host_name(undo);
    let now = match state::units() {
        Ok(now) => now,
        Err(error) => return undo.could_not(format!("units: {error}")),
    };
    let touched = touched(undo);
    let plan = plan(&undo.manifest.units, &now, &touched);
    let list = |units: &BTreeSet<String>| units.iter().cloned().collect::<Vec<_>>();
    if !plan.stop.is_empty() {
        systemctl(undo, &["stop"], &list(&plan.stop));
    }
    // A mask of this boot is no file that is saved.
    let masked: Vec<String> = plan
        .start
        .iter()
        .filter(|unit| Path::new("/run/systemd/system").join(unit).is_symlink())
        .cloned()
        .collect();
    if !masked.is_empty() {
        systemctl(undo, &["unmask", "--runtime"], &masked);
    }
    let failed: Vec<String> = now
        .iter()
        .filter(|(unit, is)| {
            is.active == "failed" && (plan.start.contains(*unit) || plan.restart.contains(*unit))
        })
        .map(|(unit, _)| unit.clone())
        .collect();
    if !failed.is_empty() {
        systemctl(undo, &["reset-failed"], &failed);
    }
    if !plan.restart.is_empty() {
        systemctl(undo, &["restart"], &list(&plan.restart));
    }
    if !plan.start.is_empty() {
        systemctl(undo, &["start"], &list(&plan.start));
    }
    undo.undone.units.extend(plan.stop.union(&plan.restart).cloned().chain(plan.start));
}

fn systemctl(undo: &mut Undo<'_>, args: &[&str], of: &[String]) {
    let cmd = Cmd::new("systemctl").args(args).timeout(LIMIT);
    // Early in a boot what is started waits for what comes later.
    let cmd = if undo.how.at_boot && args != ["daemon-reload"] { cmd.arg("--no-block") } else { cmd };
    let cmd = if of.is_empty() { cmd } else { cmd.arg("--").args(of) };
    if let Err(error) = cmd.check() {
        undo.could_not(error.to_string());
    }
}

fn set_host_name(undo: &mut Undo<'_>) {
    if !undo.changed.contains(Path::new("/etc/hostname")) {
        return;
    }
    let name = volary_host::read_to_string(Path::new("/etc/hostname")).unwrap_or_default();
    if let Err(error) = rustix::system::sethostname(name.trim().as_bytes()) {
        undo.could_not(format!("the name of the device: {error}"));
    }
}

/// Units that read what was put back.
fn touched(undo: &Undo<'_>) -> BTreeSet<String> {
    let mut touched = packages::services(undo);
    let owners = packages::owners(undo);
    touched.extend(units::of_packages(
        undo.paths.dpkg(),
        owners.iter().map(|(name, architecture)| (name.as_str(), architecture.as_str())),
    ));
    touched.extend(undo.changed.iter().flat_map(|path| by_name(path, &undo.manifest.units)));
    touched
}

/// Units that a file belongs to by its name.
fn by_name(path: &Path, running: &BTreeMap<String, UnitWas>) -> Vec<String> {
    let mut found: Vec<String> = READERS
        .iter()
        .filter(|(read, _)| path.starts_with(read))
        .map(|(_, unit)| (*unit).to_owned())
        .collect();
    if let Ok(below) = path.strip_prefix("/etc/systemd/system") {
        // A unit, or a folder of additions to it.
        let name = below.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        found.push(name.strip_suffix(".d").unwrap_or(name).to_owned());
    } else if let Ok(below) = path.strip_prefix("/etc") {
        let mut names = below.iter().filter_map(|name| name.to_str());
        let first = names.next().unwrap_or_default();
        let name = if first == "default" { names.next().unwrap_or_default() } else { first };
        let stem = name.strip_suffix(".conf").unwrap_or(name);
        for unit in running.keys() {
            let of = unit.strip_suffix(".service").unwrap_or_default();
            if !of.is_empty()
                && (of == stem || of.strip_suffix('d') == Some(stem) || stem.strip_suffix('d') == Some(of))
            {
                found.push(unit.clone());
            }
        }
    }
    found
}

fn plan(
    before: &BTreeMap<String, UnitWas>,
    now: &BTreeMap<String, UnitWas>,
    touched: &BTreeSet<String>,
) -> Plan {
    let mut plan = Plan::default();
    for (unit, was) in before {
        if !is_ours_to_touch(unit) || !matches!(was.active.as_str(), "active" | "reloading" | "activating") {
            continue;
        }
        let is = now.get(unit);
        let up = is.is_some_and(|is| matches!(is.active.as_str(), "active" | "reloading" | "activating"));
        let looping = is.is_some_and(|is| is.sub == "auto-restart");
        // A target is reached by what is in it, and a oneshot that ran is not run again.
        let done = was.sub == "exited" || unit.ends_with(".target");
        if (touched.contains(unit) && !unit.ends_with(".target")) || looping {
            plan.restart.insert(unit.clone());
        } else if !up && !done {
            plan.start.insert(unit.clone());
        }
    }
    for (unit, is) in now {
        let new = !before.contains_key(unit) && is_ours_to_touch(unit) && !unit.ends_with(".target");
        let nobodys = is.file.is_empty() || is.file == "disabled" || is.file.starts_with("masked");
        // `file` is empty for what has no file any more; for what is made by systemd itself it is
        // "generated" or "transient".
        if new && nobodys && !unit.contains('@') {
            plan.stop.insert(unit.clone());
        }
    }
    plan
}

fn is_ours_to_touch(unit: &str) -> bool {
    let never = [
        "dbus",
        "getty",
        "serial-getty",
        "user@",
        "user-",
        "session-",
        "volary-",
        "systemd-",
        "console-",
        "init.",
    ];
    OF_SYSTEMD.contains(&unit) || !never.iter().any(|start| unit.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(all: &[(&str, &str, &str, &str)]) -> BTreeMap<String, UnitWas> {
        let unit = |active: &str, sub: &str, file: &str| UnitWas {
            active: active.into(),
            sub: sub.into(),
            file: file.into(),
            restarts: 0,
        };
        all.iter().map(|(name, active, sub, file)| ((*name).to_owned(), unit(active, sub, file))).collect()
    }

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn units_are_as_they_were() {
        let before = units(&[
            ("a.service", "active", "running", "enabled"),
            ("b.service", "active", "running", "enabled"),
            ("c.service", "active", "running", "enabled"),
            ("once.service", "active", "exited", "static"),
            ("bad.service", "failed", "failed", "enabled"),
            ("dbus.service", "active", "running", "static"),
        ]);
        let now = units(&[
            ("a.service", "active", "running", "enabled"),
            ("b.service", "active", "running", "enabled"),
            ("c.service", "failed", "failed", "enabled"),
            ("new.service", "active", "running", ""),
            ("user@0.service", "active", "running", ""),
            ("made.service", "active", "running", "transient"),
        ]);
        let touched = ["b.service".to_owned(), "dbus.service".to_owned()].into();
        let plan = plan(&before, &now, &touched);
        assert_eq!(names(&plan.start), ["c.service"]);
        assert_eq!(names(&plan.restart), ["b.service"]);
        assert_eq!(names(&plan.stop), ["new.service"]);
    }

    #[test]
    fn readers_of_files_are_known() {
        let running = units(&[
            ("nginx.service", "active", "running", "enabled"),
            ("sshd.service", "active", "running", "enabled"),
        ]);
        let check = |path: &str, expected: &[&str]| {
            assert_eq!(by_name(Path::new(path), &running), expected, "{path}");
        };
        check("/etc/nginx/sites/a", &["nginx.service"]);
        check("/etc/ssh/sshd_config", &["sshd.service"]);
        check("/etc/default/nginx", &["nginx.service"]);
        check("/etc/systemd/system/x.service.d/a.conf", &["x.service"]);
        check("/etc/systemd/network/a.network", &["systemd-networkd.service"]);
        check("/etc/unknown", &[]);
    }
}
