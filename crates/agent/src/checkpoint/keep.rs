//! Keeps the packages that apt is about to replace or remove, so that an undo needs no network.
//!
//! apt calls `volary-agent keep-packages` before it starts dpkg (`DPkg::Pre-Install-Pkgs`, protocol
//! version 3), and stops if that fails: a version that cannot be kept is not replaced. The file of
//! a version comes from apt's cache, or from our own folder of what apt installed, or is packed anew
//! from the files that are installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use volary_host::{CmdError, FileError, create_dir, sync_dir};

use super::manifest::Manifest;
use super::store::{self, StoreError};
use super::{free_at, packages, repack};
use crate::log;
use crate::paths::Paths;

/// Where apt keeps what it fetched.
const APT_CACHE: &str = "/var/cache/apt/archives";

/// What our own folder of originals may hold. What does not fit is packed anew when it is needed.
const ORIGINALS: u64 = 256 << 20;

/// That much stays free on the disk: an undo has to write.
const ROOM: u64 = 24 << 20;

/// Why a version cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The checkpoint.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// dpkg-query.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// The disk is full.
    #[error(
        "{package} {version} cannot be kept for an undo: it takes {needed} MiB and {free} MiB are \
         free; nothing was changed"
    )]
    Full {
        /// The package.
        package: String,
        /// The version that is installed.
        version: String,
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
    },
}

/// One line of what apt tells.
#[derive(Debug, PartialEq, Eq)]
struct Planned<'a> {
    /// `name:architecture` of what is installed, and its version.
    old: Option<(String, &'a str)>,
    /// The file that is about to be installed.
    new: Option<&'a Path>,
}

/// What apt plans, from its protocol: a version, its settings up to an empty line, a line for each
/// package.
fn planned(input: &str) -> Vec<Planned<'_>> {
    let lines = input.lines().skip_while(|line| !line.is_empty()).skip(1);
    lines
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, old, old_arch, _, _, _, _, _, ..] = words[..] else { return None };
            // A file's name may hold a space; it is all of the rest.
            let action = line.splitn(9, ' ').nth(8)?;
            if action == "**CONFIGURE**" {
                return None;
            }
            let old = (old != "-").then(|| (format!("{name}:{old_arch}"), old));
            let new = (action != "**REMOVE**").then(|| Path::new(action));
            Some(Planned { old, new })
        })
        .collect()
}

/// Keeps what apt says that it is about to replace. Does nothing for old versions unless a
/// checkpoint is armed.
///
/// # Errors
/// [`KeepError`]; apt then stops before it changes anything.
pub fn run(paths: &Paths, input: &str) -> Result<(), KeepError> {
    let planned = planned(input);
    if let Some(armed) = store::peek_armed(paths) {
        let folder = paths.checkpoint().join(&armed.checkpoint);
        let manifest: Option<Manifest> = store::load(&folder.join("manifest.json"))?;
        let before = manifest.map(|manifest| manifest.packages).unwrap_or_default();
        for (key, version) in planned.iter().filter_map(|line| line.old.as_ref()) {
            // What the change itself brought is no version to go back to.
            if before.get(key).is_some_and(|kept| kept == version) {
                keep(paths, &folder.join("packages"), key, version)?;
            }
        }
    }
    link_originals(paths, planned.iter().filter_map(|line| line.new));
    Ok(())
}

/// The name that apt gives a file: the colon of an epoch is not for file names.
pub fn file_name(key: &str, version: &str) -> String {
    let (name, architecture) = key.split_once(':').unwrap_or((key, "all"));
    format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a"))
}

/// The file of a version, wherever there is one already.
pub fn find(paths: &Paths, folders: &[&Path], key: &str, version: &str) -> Option<PathBuf> {
    let name = file_name(key, version);
    let (own, cache) = (originals(paths), paths.on_device(Path::new(APT_CACHE)));
    let all = folders.iter().copied().chain([own.as_path(), cache.as_path()]);
    // Smaller than any package: a download that was cut off, or a crash.
    let whole = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 100);
    all.map(|folder| folder.join(&name)).find(whole)
}

fn originals(paths: &Paths) -> PathBuf {
    paths.checkpoint().join("packages")
}

fn keep(paths: &Paths, folder: &Path, key: &str, version: &str) -> Result<(), KeepError> {
    create_dir(folder)?;
    let target = folder.join(file_name(key, version));
    if target.exists() {
        return Ok(());
    }
    let found = find(paths, &[], key, version).filter(|found| is_one(found, key, version));
    if found.is_some_and(|found| link_or_copy(&found, &target).is_ok()) {
        return Ok(sync_dir(folder)?);
    }
    let Some(package) = repack::Package::read(paths, key)? else { return Ok(()) };
    let (needed, free) = (package.size(), free_at(folder));
    if free < needed + ROOM {
        return Err(KeepError::Full {
            package: key.to_owned(),
            version: version.to_owned(),
            needed: needed.div_ceil(1 << 20),
            free: free >> 20,
        });
    }
    log::say(format!("keeping {key} {version} for an undo"));
    Ok(package.pack(&target)?)
}

/// True if dpkg reads this file as that version: its name alone proves nothing.
fn is_one(file: &Path, key: &str, version: &str) -> bool {
    let asked = volary_host::Cmd::new("dpkg-deb")
        .args(["--show", "--showformat", "${Package}:${Architecture} ${Version}"])
        .arg(file)
        .run();
    asked.is_ok_and(|output| output.status.success() && output.text() == format!("{key} {version}"))
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let part = to.with_extension("part");
            fs::copy(from, &part)?;
            fs::File::open(&part)?.sync_all()?;
            fs::rename(&part, to)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Keeps the files that apt installs, at no cost where apt's cache is on the same disk: the next
/// undo has the originals. That it fails is no reason not to install.
fn link_originals<'a>(paths: &Paths, files: impl Iterator<Item = &'a Path>) {
    let folder = originals(paths);
    for file in files {
        let Some(name) = file.file_name() else { continue };
        let linked = create_dir(&folder).map_err(|error| error.to_string()).and_then(|()| {
            match fs::hard_link(file, folder.join(name)) {
                // Another disk: a copy would cost its size.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other.map_err(|error| error.to_string()),
            }
        });
        if let Err(error) = linked {
            log::say(format!("{} is not kept for a later undo: {error}", file.display()));
        }
    }
}

/// Removes originals of versions that are not installed, and the oldest beyond the limit.
pub fn prune(paths: &Paths) {
    let folder = originals(paths);
    let Ok(entries) = fs::read_dir(&folder) else { return };
    let Ok(now) = packages::look(paths) else { return };
    let wanted: std::collections::BTreeSet<String> =
        now.installed.iter().map(|(key, version)| file_name(key, version)).collect();
    let mut kept = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            Ok(meta) if wanted.contains(&name) => {
                kept.push((meta.modified().ok(), meta.len(), entry.path()));
            }
            _ => drop(fs::remove_file(entry.path())),
        }
    }
    kept.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
    let mut sum = 0;
    for (_, size, path) in kept {
        sum += size;
        if sum > ORIGINALS {
            drop(fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_of_apt_is_understood() {
        let input = "VERSION 3\nAPT::Architecture=amd64\nDir::Bin::dpkg=/usr/bin/dpkg\n\n\
                     up 1:1.0 amd64 none < 1:2.0 amd64 none /var/cache/apt/archives/up_1%3a2.0_amd64.deb\n\
                     new - - none < 1.0 all foreign /tmp/a file.deb\n\
                     gone 3 amd64 same > - - none **REMOVE**\n\
                     up 1:1.0 amd64 none < 1:2.0 amd64 none **CONFIGURE**\n";
        let found = planned(input);
        let old: Vec<_> = found.iter().map(|line| line.old.clone()).collect();
        assert_eq!(old, [Some(("up:amd64".to_owned(), "1:1.0")), None, Some(("gone:amd64".to_owned(), "3"))]);
        assert_eq!(found[1].new, Some(Path::new("/tmp/a file.deb")));
        assert_eq!(found[2].new, None);
        assert_eq!(file_name("up:amd64", "1:1.0"), "up_1%3a1.0_amd64.deb");
    }
}
