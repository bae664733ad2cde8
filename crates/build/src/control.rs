//! Bounds memory and processes of a build by a control group (cgroup v2), where one was delegated
//! to this program. Elsewhere each process is bounded by itself; that is `enter.sh`'s business.
//!
//! A group that has processes cannot have bounded groups below it (except the root), so that this
//! program first moves itself into a group `volary-supervisor` of its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::limits::Limits;

const SUPERVISOR: &str = "volary-supervisor";
const BUILD: &str = "volary-build-";

/// systemd marks the groups that it hands over; one name for the system, one for users.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The control group of one build. It ends with all its processes when this is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    dir: PathBuf,
}

/// Why a build is not bounded by a control group, in words for its log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Group {
    /// A group with these bounds, below the one that was delegated to this process.
    pub(crate) fn create(name: &str, limits: &Limits) -> Result<Self, Unavailable> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let Some((mount, own)) = place(&mounts, &own) else {
            return Err(Unavailable("cgroup v2 is not mounted".to_owned()));
        };
        Self::below(&mount, &own, name, limits)
    }

    fn below(mount: &Path, own: &str, name: &str, limits: &Limits) -> Result<Self, Unavailable> {
        let own = own.trim_start_matches('/');
        let home = own.strip_suffix(SUPERVISOR).map_or(own, |above| above.trim_end_matches('/'));
        let home = mount.join(home);
        let controllers = fs::read_to_string(home.join("cgroup.controllers")).unwrap_or_default();
        let has =
            |text: &str| ["memory", "pids"].iter().all(|name| text.split_whitespace().any(|c| c == *name));
        if !has(&controllers) {
            return Err(Unavailable("cgroup v2 does not have memory and pids here".to_owned()));
        }
        if !own.is_empty() && !is_delegated(&home) {
            let text = "no control group is delegated to the builder; with systemd: Delegate=yes";
            return Err(Unavailable(text.to_owned()));
        }
        let failed = |error: io::Error| Unavailable(format!("{}: {error}", home.display()));
        let enabled = fs::read_to_string(home.join("cgroup.subtree_control")).unwrap_or_default();
        if !has(&enabled) && write(&home.join("cgroup.subtree_control"), "+memory +pids").is_err() {
            move_to_supervisor(&home).map_err(failed)?;
            write(&home.join("cgroup.subtree_control"), "+memory +pids").map_err(failed)?;
        }
        remove_dead(&home);
        let group = Self { dir: home.join(format!("{BUILD}{}-{name}", std::process::id())) };
        fs::create_dir(&group.dir).map_err(failed)?;
        if let Some(bytes) = limits.memory {
            write(&group.dir.join("memory.max"), &bytes.to_string()).map_err(failed)?;
            // Otherwise the build would push all else out of memory first. Not every kernel swaps.
            let _ = write(&group.dir.join("memory.swap.max"), "0");
            let _ = write(&group.dir.join("memory.oom.group"), "1");
        }
        if let Some(count) = limits.processes {
            write(&group.dir.join("pids.max"), &count.to_string()).map_err(failed)?;
        }
        Ok(group)
    }

    /// The file that takes the number of the process to bound.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// True if the kernel ended something in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The processes ended with their name space; this is for one that entered and got no
        // further. A group that stays busy is removed with the next one.
        let _ = write(&self.dir.join("cgroup.kill"), "1");
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Where cgroup v2 is mounted, and this process's group in it.
fn place(mounts: &str, own: &str) -> Option<(PathBuf, String)> {
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
        let [_, path, kind, ..] = fields[..] else { return None };
        // A space in a path is written \040; nobody mounts it there.
        (kind == "cgroup2" && !path.contains('\\')).then(|| PathBuf::from(path))
    })?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((mount, own.to_owned()))
}

fn is_delegated(home: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::geteuid();
    if !me.is_root() {
        return fs::metadata(home).is_ok_and(|meta| meta.uid() == me.as_raw());
    }
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(home, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

fn move_to_supervisor(home: &Path) -> io::Result<()> {
    let supervisor = home.join(SUPERVISOR);
    match fs::create_dir(&supervisor) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for process in fs::read_to_string(home.join("cgroup.procs"))?.lines() {
        // One that ended meanwhile cannot be moved.
        let _ = write(&supervisor.join("cgroup.procs"), process);
    }
    Ok(())
}

/// Removes the groups of builders that are no more. One with processes cannot be removed.
fn remove_dead(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(BUILD).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// These files are the kernel's: they are written to, never replaced.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a control group; the kernel makes these files, here we do.
    fn fake(dir: &Path, controllers: &str) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in
            [("cgroup.controllers", controllers), ("cgroup.subtree_control", ""), ("cgroup.procs", "")]
        {
            volary_host::write_atomic(&dir.join(name), text.as_bytes(), 0o644).unwrap();
        }
    }

    #[test]
    fn the_own_group_is_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = place(mounts, "8:pids:/\n0::/system.slice/volary.service\n");
        let expected = (PathBuf::from("/sys/fs/cgroup/unified"), "/system.slice/volary.service".to_owned());
        assert_eq!(found, Some(expected));
        assert_eq!(place("proc /proc proc rw 0 0\n", "0::/\n"), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let check = |own: &str, expected: &str| {
            let error = Group::below(dir.path(), own, "x", &Limits::default()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        fake(dir.path(), "hugetlb\n");
        check("/", "memory and pids");
        let service = dir.path().join("system.slice/volary.service");
        fake(&service, "cpu memory pids\n");
        if rustix::process::geteuid().is_root() {
            check("/system.slice/volary.service", "Delegate=yes");
            check("/system.slice/volary.service/volary-supervisor", "Delegate=yes");
        }
    }

    #[test]
    fn a_group_of_a_dead_builder_goes_and_one_of_the_living_stays() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        for name in
            ["volary-build-999999999-x".to_owned(), format!("volary-build-{me}-x"), "other".to_owned()]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        remove_dead(dir.path());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["other".to_owned(), format!("volary-build-{me}-x")]);
    }
}
