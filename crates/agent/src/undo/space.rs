//! A full disk: which files that are younger than the checkpoint fill it. They are named and not
//! removed, since nobody knows whose they are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Undo;
use super::made::born;

/// Below this a disk counts as full, or below a fiftieth of it.
const LITTLE: u64 = 64 << 20;

/// How many files are named.
const NAMED: usize = 5;

/// Smaller files do not fill a disk.
const LARGE: u64 = 1 << 20;

/// A disk with millions of files is not walked to its end.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks whether the disk is full, and what fills it.
pub(super) fn look(undo: &mut Undo<'_>) {
    let Ok(stat) = rustix::fs::statvfs(undo.store.dir()) else { return };
    let (free, total) = (stat.f_bfree * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    if free >= LITTLE.max(total / 50) {
        return;
    }
    // Only what is on the same disk is of interest.
    let mounts = volary_host::mount_points();
    let Some(root) = mounts.iter().filter(|mount| undo.store.dir().starts_with(mount)).max() else { return };
    let mut found = Vec::new();
    let begun = Instant::now();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            if meta.is_dir() && !mounts.contains(&path) {
                folders.push(path);
            } else if meta.is_file() && meta.blocks() * 512 >= LARGE {
                found.push((meta.blocks() * 512, path));
            }
        }
        if begun.elapsed() > LIMIT {
            break;
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    let young = |path: &PathBuf| born(path).is_some_and(|born| born > undo.manifest.clock.wall);
    let ours = undo.paths.checkpoint();
    let largest = found.into_iter().filter(|(_, path)| !path.starts_with(&ours) && young(path)).take(NAMED);
    undo.undone.largest = largest.map(|(size, path)| (path.display().to_string(), size)).collect();
    if let Some((path, size)) = undo.undone.largest.first() {
        let text = format!(
            "the disk is full ({} MiB free); the largest new file is {path} with {} MiB",
            free >> 20,
            size >> 20
        );
        undo.could_not(text);
    }
}
