//! What must survive goes into the new slot before it boots: who the device is, and what the fleet
//! names. What the image brings for itself stays.
//!
//! Everything can be done again after a power cut: a file is copied over the one of before.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use volary_host::{Cmd, FileError, create_dir};

use super::{Slots, SlotsError};

/// What belongs to the device and not to the image. The last part of a path may have a `*`.
const ALWAYS: [&str; 11] = [
    "/etc/volary",
    "/etc/machine-id",
    "/etc/hostname",
    "/etc/ssh/ssh_host_*",
    "/etc/mender/*-key.pem",
    "/etc/mender/mender-agent.pem",
    "/var/lib/mender/device_type",
    "/var/lib/systemd/random-seed",
    "/etc/adjtime",
    // The unit that undoes a change early in a boot.
    "/etc/systemd/system/volary-rescue-boot.service",
    "/etc/systemd/system/sysinit.target.wants/volary-rescue-boot.service",
];

/// What is of the image even where it lies in a folder that is carried.
const NEVER: [&str; 2] = ["/etc/volary/slots.json", "/etc/volary/image.json"];

/// Copies it all from the running root into the one at `into`. `named` is what the fleet names.
///
/// # Errors
/// [`SlotsError`]; it can be begun again.
pub fn carry(root: &Path, into: &Path, named: &[String]) -> Result<u32, SlotsError> {
    let mut copied = 0;
    for pattern in ALWAYS.iter().copied().chain(named.iter().map(String::as_str)) {
        for path in matching(root, pattern)? {
            copied += copy(root, into, &path)?;
        }
    }
    Ok(copied)
}

/// The paths, from the root on, that a pattern means.
fn matching(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, SlotsError> {
    let relative: PathBuf =
        Path::new(pattern).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let name = relative.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((head, tail)) = name.split_once('*') else { return Ok(vec![relative]) };
    let folder = relative.parent().unwrap_or(Path::new("")).to_owned();
    let mut found = Vec::new();
    for name in names(&root.join(&folder))? {
        if name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

fn names(folder: &Path) -> Result<Vec<String>, SlotsError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("list", folder)(error).into()),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Copies one path with all that is below it. What is not there is not an error.
fn copy(root: &Path, into: &Path, path: &Path) -> Result<u32, SlotsError> {
    if NEVER.iter().any(|never| Path::new("/").join(path) == Path::new(never)) {
        return Ok(0);
    }
    let (from, to) = (root.join(path), into.join(path));
    let meta = match fs::symlink_metadata(&from) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(FileError::at("look at", &from)(error).into()),
    };
    folders(root, into, path)?;
    if meta.is_dir() {
        let mut copied = 0;
        own_folder(&to, &meta)?;
        for name in names(&from)? {
            copied += copy(root, into, &path.join(name))?;
        }
        return Ok(copied);
    }
    let failed = |error| SlotsError::from(FileError::at("carry over", &to)(error));
    if meta.is_symlink() {
        let target = fs::read_link(&from).map_err(failed)?;
        remove(&to)?;
        symlink(target, &to).map_err(failed)?;
        lchown(&to, Some(meta.uid()), Some(meta.gid())).map_err(failed)?;
        return Ok(1);
    }
    if !meta.is_file() {
        return Ok(0);
    }
    if fs::symlink_metadata(&to).is_ok_and(|there| !there.is_file()) {
        remove(&to)?;
    }
    let mut new = volary_host::NewFile::create(&to, meta.permissions().mode() & 0o7777)?;
    let mut old = fs::File::open(&from).map_err(failed)?;
    io::copy(&mut old, new.file()).map_err(failed)?;
    let modified = meta.modified().map_err(failed)?;
    new.file().set_modified(modified).map_err(failed)?;
    own(&to, new.file(), &meta).map_err(failed)?;
    // Flushed with the whole file system, before it may boot.
    new.keep_unflushed()?;
    Ok(1)
}

fn remove(path: &Path) -> Result<(), SlotsError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    Ok(removed.map_err(FileError::at("remove", path))?)
}

/// The folders above a path, as they are on the device.
fn folders(root: &Path, into: &Path, path: &Path) -> Result<(), SlotsError> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|part| *part != Path::new("")).collect();
    above.reverse();
    for part in above {
        let to = into.join(part);
        if !to.is_dir() {
            let meta = fs::metadata(root.join(part)).map_err(FileError::at("look at", part))?;
            own_folder(&to, &meta)?;
        }
    }
    Ok(())
}

fn own_folder(to: &Path, meta: &Metadata) -> Result<(), SlotsError> {
    create_dir(to)?;
    let failed = |error| SlotsError::from(FileError::at("carry over", to)(error));
    fs::set_permissions(to, meta.permissions()).map_err(failed)?;
    if is_root() {
        std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).map_err(failed)?;
    }
    Ok(())
}

fn own(_path: &Path, file: &fs::File, meta: &Metadata) -> io::Result<()> {
    if is_root() {
        std::os::unix::fs::fchown(file, Some(meta.uid()), Some(meta.gid()))?;
        // Owners take such bits away.
        file.set_permissions(meta.permissions())?;
    }
    Ok(())
}

/// Tests run as anybody.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The other slot's file system, mounted as long as this lives. In a root of its own, which is no
/// device, the folder that the test put there.
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Mounts it. `--make-private` is not needed: nobody looks below the agent's own folder.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn new(slots: &Slots) -> Result<Self, SlotsError> {
        let at = slots.paths.other_slot();
        create_dir(&at)?;
        if !slots.paths.is_device() {
            return Ok(Self { at, mounted: false });
        }
        // What a crash left mounted is in the way.
        let _ = Cmd::new("umount").arg(&at).run();
        let device = slots.device(slots.running.other());
        Cmd::new("mount").args(["-o", "rw,nosuid,nodev"]).arg(device).arg(&at).check()?;
        Ok(Self { at, mounted: true })
    }

    /// Flushes and unmounts it.
    ///
    /// # Errors
    /// [`SlotsError`]: what was copied may not be on the disk.
    pub fn close(mut self) -> Result<(), SlotsError> {
        let folder = fs::File::open(&self.at).map_err(FileError::at("open", &self.at))?;
        rustix::fs::syncfs(&folder).map_err(|error| FileError::at("flush", &self.at)(error.into()))?;
        drop(folder);
        if std::mem::take(&mut self.mounted) {
            Cmd::new("umount").arg(&self.at).check()?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Cmd::new("umount").arg(&self.at).run();
        }
    }
}
