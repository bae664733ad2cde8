//! What the playbook made outside of the saved folders. Ansible's results name it (`made.jsonl`,
//! written by the callback plugin); it is removed if Ansible says that it was not there before
//! *and* it is younger than the checkpoint. What was there and was changed cannot be put back: the
//! fleet names such a folder, and it is saved the next time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::Deserialize;

use super::Undo;
use crate::checkpoint::files::is_never_touched;

/// Folders of the system: a playbook does not make them, whatever a result says.
const SYSTEM: [&str; 16] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "proc", "root", "run",
    "sbin", "srv", "sys",
];

/// One line of `made.jsonl`.
#[derive(Debug, Deserialize)]
struct Made {
    path: PathBuf,
    /// True if Ansible found nothing there before.
    created: bool,
}

/// When a file was made; `None` where the file system does not know.
pub(super) fn born(path: &Path) -> Option<Timestamp> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).ok()?;
    if found.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return None;
    }
    Timestamp::new(found.stx_btime.tv_sec, i32::try_from(found.stx_btime.tv_nsec).unwrap_or(0)).ok()
}

/// Removes what was made.
pub(super) fn remove(undo: &mut Undo<'_>) {
    let file = undo.store.folder(&undo.manifest.id).join("made.jsonl");
    // A playbook that names nothing has no such file.
    let Ok(text) = volary_host::read_to_string(&file) else { return };
    // Of several results for one path the first tells whether it was there before the change.
    let mut paths: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for made in text.lines().filter_map(|line| serde_json::from_str::<Made>(line).ok()) {
        paths.entry(made.path).or_insert(made.created);
    }
    for (path, created) in paths {
        if !is_fit(&path) || is_saved(undo, &path) || is_never_touched(&path) {
            continue;
        }
        let real = undo.paths.on_device(&path);
        if fs::symlink_metadata(&real).is_err() {
            continue;
        }
        if !created {
            undo.could_not(format!("{} was changed and is in no saved folder", path.display()));
        } else if born(&real).is_some_and(|born| born > undo.manifest.clock.wall) {
            remove_one(undo, &path, &real);
        } else {
            undo.could_not(format!("{} may be older than the checkpoint, so it stays", path.display()));
        }
    }
}

fn remove_one(undo: &mut Undo<'_>, path: &Path, real: &Path) {
    if volary_host::mount_points().iter().any(|mount| mount.starts_with(real)) {
        undo.could_not(format!("in {} another file system is mounted, so it stays", path.display()));
        return;
    }
    match super::files::remove_tree(real) {
        Ok(()) => {
            undo.undone.removed += 1;
            undo.changed.insert(path.to_owned());
        }
        Err(error) => undo.could_not(error.to_string()),
    }
}

/// True for a plain absolute path that is no folder of the system.
fn is_fit(path: &Path) -> bool {
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return false;
    }
    let names: Vec<_> = parts.collect();
    let plain = names.iter().all(|name| matches!(name, Component::Normal(_)));
    let system = match &names[..] {
        [] => true,
        [Component::Normal(one)] => {
            SYSTEM.iter().any(|name| one == name) || *one == "tmp" || *one == "usr" || *one == "var"
        }
        [Component::Normal(one), _] => *one == "usr" || *one == "var",
        _ => false,
    };
    plain && !system
}

fn is_saved(undo: &Undo<'_>, path: &Path) -> bool {
    undo.manifest.trees.iter().any(|tree| path.starts_with(tree.as_path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_system_are_never_made() {
        for path in ["/", "/usr", "/usr/lib", "/var/lib", "/opt", "relative", "/opt/../etc", "/home"] {
            assert!(!is_fit(Path::new(path)), "{path}");
        }
        for path in ["/opt/app", "/var/lib/app", "/usr/share/app", "/data"] {
            assert!(is_fit(Path::new(path)), "{path}");
        }
    }
}
