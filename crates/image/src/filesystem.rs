//! File systems as files: ext4 from a tar, FAT32 from a folder. Neither is mounted.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use volary_host::{Cmd, CmdError, FileError};

use crate::error::BuildError;
use crate::layout::{identifier, uuid_text};
use crate::tools::Tools;

/// The time of file systems themselves. Not that of the image: it stands in every inode, and two
/// images would share no block of their inode tables.
const BIRTH: u64 = 1_704_067_200;

/// The block size of our ext4 file systems in bytes.
const EXT4_BLOCK: u64 = 4096;

/// A data partition grows to this many blocks (512 GiB) without new group descriptors.
const LARGEST_DATA: u64 = 134_217_728;

/// An ext4 file system to be made.
pub(crate) struct Ext4<'a> {
    /// For messages.
    pub what: &'static str,
    /// What its identifiers are made from. The same for all images of a device type, since checksums in
    /// all of its blocks begin with them.
    pub seed: &'a str,
    pub size: u64,
    pub can_grow: bool,
}

/// Makes `path` from a tar.
pub(crate) fn ext4(tools: &Tools, ext4: &Ext4<'_>, tar: &Path, path: &Path) -> Result<(), BuildError> {
    empty_file(path, ext4.size)?;
    let uuid = uuid_text(&identifier(&[ext4.seed, ext4.what]));
    let mut options =
        format!("hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard");
    if ext4.can_grow {
        options += &format!(",resize={LARGEST_DATA}");
    }
    let made = e2fs(tools, "mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-U", &uuid, "-E", &options, "-d"])
        .args([tar, path])
        .check();
    match made {
        // mke2fs has no exit status for it.
        Err(CmdError::Failed { tail, .. }) if tail.contains("allocat") || tail.contains("No space") => {
            Err(BuildError::TooSmall { what: ext4.what, reason: tail })
        }
        other => Ok(other.map(drop)?),
    }
}

/// A program for ext4 that takes [`BIRTH`] for the present. The other variable would also date back the files.
fn e2fs(tools: &Tools, program: &str) -> Cmd {
    tools
        .program(&format!("usr/sbin/{program}"), BIRTH)
        .env_remove("SOURCE_DATE_EPOCH")
        .env("E2FSPROGS_FAKE_TIME", BIRTH.to_string())
}

/// The bytes of an ext4 file system that something is in.
pub(crate) fn used(tools: &Tools, path: &Path) -> Result<Vec<Range<u64>>, BuildError> {
    let said = e2fs(tools, "dumpe2fs").arg(path).check()?.text();
    let size = std::fs::metadata(path).map_err(FileError::at("read", path))?.len();
    Ok(used_in(&said, size))
}

/// As dumpe2fs describes it: everything but `  Free blocks: 1-2, 5` of each group.
fn used_in(said: &str, size: u64) -> Vec<Range<u64>> {
    let free = said.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let numbers = free.flat_map(|list| list.split(", ")).filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse::<u64>().ok()?..last.trim().parse::<u64>().ok()? + 1)
    });
    let mut used = Vec::new();
    let mut at = 0;
    for free in numbers {
        if free.start * EXT4_BLOCK > at {
            used.push(at..free.start * EXT4_BLOCK);
        }
        at = free.end * EXT4_BLOCK;
    }
    if at < size {
        used.push(at..size);
    }
    used
}

/// Makes a FAT32 file system with what is in a folder.
pub(crate) fn fat(
    tools: &Tools,
    folder: &Path,
    path: &Path,
    size: u64,
    label: &str,
    seed: &str,
    time: u64,
) -> Result<(), BuildError> {
    empty_file(path, size)?;
    let id = identifier(&[seed, "boot"]);
    let id = format!("{:02x}{:02x}{:02x}{:02x}", id[0], id[1], id[2], id[3]);
    tools
        .program("usr/sbin/mkfs.fat", time)
        .args(["-F", "32", "--invariant", "-n", label, "-i", &id])
        .arg(path)
        .check()?;
    let copied = copy_in(tools, folder, Path::new(""), path, time);
    match copied {
        Err(BuildError::Cmd(CmdError::Failed { tail, .. })) if tail.contains("full") => {
            Err(BuildError::TooSmall { what: "boot", reason: tail })
        }
        other => other,
    }
}

/// Copies a folder and what is below it, in the order of the names.
fn copy_in(tools: &Tools, folder: &Path, inside: &Path, path: &Path, time: u64) -> Result<(), BuildError> {
    let target = |name: &Path| format!("::/{}", inside.join(name).display());
    let mtools = |program: &str| -> Cmd {
        // One program under many names.
        tools.program("usr/bin/mtools", time).args(["-c", program, "-i"]).arg(path)
    };
    let failed = || FileError::at("read", folder);
    let mut entries: Vec<PathBuf> =
        folder.read_dir().map_err(failed())?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
    if !files.is_empty() {
        mtools("mcopy").args(&files).arg(target(Path::new(""))).check()?;
    }
    for below in folders {
        let name = Path::new(below.file_name().unwrap_or_default());
        mtools("mmd").arg(target(name)).check()?;
        copy_in(tools, &below, &inside.join(name), path, time)?;
    }
    Ok(())
}

fn empty_file(path: &Path, size: u64) -> Result<(), BuildError> {
    volary_host::remove_if_exists(path)?;
    let failed = || FileError::at("write", path);
    File::create(path).and_then(|file| file.set_len(size)).map_err(failed())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_free_is_used() {
        let said = "Group 0: (Blocks 0-32767)\n  Free blocks: 10-19, 25\nGroup 1:\n  Free blocks: \n\
                    Group 2:\n  Free blocks: 30-40\n  Free inodes: 1-5\n";
        let blocks: Vec<_> = used_in(said, 50 * 4096).iter().map(|r| r.start / 4096..r.end / 4096).collect();
        assert_eq!(blocks, [0..10, 20..25, 26..30, 41..50]);
        assert_eq!(used_in("  Free blocks: 5-9\n", 10 * 4096), vec![Range { start: 0, end: 5 * 4096 }]);
    }
}
