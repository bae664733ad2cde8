//! Control groups, used for one thing: to find and end every process that something started.
//!
//! Only the unified hierarchy is used, without any controller, so that this works beside
//! whatever the machine's own init does with its groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;
use volary_host::FileError;

use crate::{LabError, wait_until};

/// Where the unified hierarchy is mounted on this machine.
pub(crate) fn mount_point() -> Result<PathBuf, LabError> {
    let mounts = volary_host::read_to_string(Path::new("/proc/self/mounts"))?;
    let cgroup2 = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| {
        // The path must be plain: a space in it would be written \040.
        fields.get(2) == Some(&"cgroup2") && !fields[1].contains('\\')
    });
    cgroup2.map(|fields| PathBuf::from(fields[1])).ok_or(LabError::NoCgroup)
}

/// The processes directly in a group; none if the group is gone.
pub(crate) fn processes(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect()
}

/// Ends every process in a group and below it at once, as a power cut would.
pub(crate) fn kill(group: &Path) -> Result<(), LabError> {
    let file = group.join("cgroup.kill");
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .open(&file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"1"))
        .map_err(FileError::at("write", &file));
    match written {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let events = group.join("cgroup.events");
    wait_until(&format!("the end of all in {}", group.display()), Duration::from_secs(20), || {
        match fs::read_to_string(&events) {
            Ok(text) if text.contains("populated 1") => Err("some still run".to_owned()),
            _ => Ok(()),
        }
    })
}

/// The process that is number 1 in its name space, among the children of `parents`.
pub(crate) fn init_below(parents: &[Pid]) -> Option<Pid> {
    parents.iter().find_map(|parent| {
        let id = parent.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().find_map(|child| {
            let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            // At least two name spaces, and 1 in the innermost.
            let innermost = numbers.split_whitespace().skip(1).last();
            (innermost == Some("1")).then(|| child.parse().ok().and_then(Pid::from_raw))?
        })
    })
}
