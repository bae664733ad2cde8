//! Packs an installed package anew from what is on the disk: its files, its scripts, its
//! configuration as it is now. What dpkg knows of it is all that is needed.
//!
//! The result installs the same files. It is not the original: capabilities and the like come from
//! its scripts again, and dpkg takes the configuration of today for the one that was delivered.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use volary_host::{Cmd, CmdError, FileError, NewFile, read, read_to_string};

use crate::paths::Paths;

/// Fields that dpkg adds to what the package says of itself, and with them their continuation.
const NOT_THE_PACKAGES: [&str; 5] =
    ["Status", "Conffiles", "Config-Version", "Triggers-Pending", "Triggers-Awaited"];

/// Files in dpkg's folder that are dpkg's own.
const NOT_CONTROL: [&str; 2] = ["list", "conffiles"];

/// A package that is installed.
#[derive(Debug)]
pub struct Package {
    control: String,
    conffiles: String,
    /// Name → file in dpkg's folder.
    scripts: BTreeMap<String, PathBuf>,
    /// As the package names it → where it really is, and what it is.
    files: Vec<(PathBuf, PathBuf, Metadata)>,
}

impl Package {
    /// Reads what dpkg knows of `name:architecture`; `None` if it is not installed.
    ///
    /// # Errors
    /// [`CmdError`] if dpkg-query does not answer; as it does not for what is not there, only if
    /// it cannot be run.
    pub fn read(paths: &Paths, key: &str) -> Result<Option<Self>, CmdError> {
        let asked =
            Cmd::new("dpkg-query").arg("--admindir").arg(paths.dpkg()).args(["--status", key]).run()?;
        let Some(status) = asked.status.success().then(|| asked.text()) else { return Ok(None) };
        let (control, conffiles) = split_status(&status);
        let name = key.split_once(':').map_or(key, |(name, _)| name);
        let info = paths.dpkg().join("info");
        // Packages that can be there for several architectures at once have it in the name.
        let Some(prefix) =
            [key, name].into_iter().find(|prefix| info.join(format!("{prefix}.list")).exists())
        else {
            return Ok(None);
        };
        let list = read(&info.join(format!("{prefix}.list"))).unwrap_or_default();
        let diverted =
            diversions(&read_to_string(&paths.dpkg().join("diversions")).unwrap_or_default(), name);
        let files = files(paths, &list, &diverted);
        let there = |path: &str| files.iter().any(|(as_named, _, _)| as_named == Path::new(path));
        let conffiles = conffiles.iter().filter(|path| there(path)).map(|path| format!("{path}\n")).collect();
        Ok(Some(Self { control, conffiles, scripts: scripts(&info, prefix), files }))
    }

    /// Bytes of its files: more than the packed file takes.
    pub fn size(&self) -> u64 {
        let files = self.files.iter().filter(|(_, _, meta)| meta.is_file());
        files.map(|(_, _, meta)| meta.len()).sum::<u64>() + self.files.len() as u64 * 512
    }

    /// Writes it to `target`, whole or not at all.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn pack(&self, target: &Path) -> Result<(), FileError> {
        let mut new = NewFile::create(target, 0o600)?;
        self.write(new.file()).map_err(FileError::at("write", target))?;
        new.keep()
    }

    fn write(&self, out: &mut File) -> io::Result<()> {
        out.write_all(b"!<arch>\n")?;
        member(out, "debian-binary", |out| out.write_all(b"2.0\n"))?;
        member(out, "control.tar.gz", |out| self.write_control(out))?;
        member(out, "data.tar.gz", |out| self.write_data(out))
    }

    fn write_control(&self, out: &mut File) -> io::Result<()> {
        let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
        let mut add = |name: &str, bytes: &[u8], mode| {
            let mut header = Header::new_gnu();
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            header.set_entry_type(EntryType::Regular);
            tar.append_data(&mut header, format!("./{name}"), bytes)
        };
        add("control", self.control.as_bytes(), 0o644)?;
        if !self.conffiles.is_empty() {
            add("conffiles", self.conffiles.as_bytes(), 0o644)?;
        }
        for (name, path) in &self.scripts {
            let mode = fs::metadata(path)?.mode() & 0o777;
            add(name, &fs::read(path)?, mode)?;
        }
        tar.into_inner()?.finish().map(drop)
    }

    fn write_data(&self, out: &mut File) -> io::Result<()> {
        let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
        let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        for (named, real, meta) in &self.files {
            let inside = Path::new(".").join(named.strip_prefix("/").unwrap_or(named));
            let mut header = Header::new_gnu();
            header.set_metadata(meta);
            if meta.is_symlink() {
                header.set_size(0);
                tar.append_link(&mut header, &inside, fs::read_link(real)?)?;
            } else if meta.is_dir() {
                header.set_size(0);
                tar.append_data(&mut header, &inside, io::empty())?;
            } else if let Some(same) = first.get(&(meta.dev(), meta.ino())).filter(|_| meta.nlink() > 1) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                tar.append_link(&mut header, &inside, same)?;
            } else {
                first.insert((meta.dev(), meta.ino()), inside.clone());
                // What is appended to while it is read must not be longer than its header says.
                let content = io::Read::take(File::open(real)?, meta.len());
                tar.append_data(&mut header, &inside, content)?;
            }
        }
        tar.into_inner()?.finish().map(drop)
    }
}

/// Writes one member of the outer archive; its length is known only afterwards.
fn member(out: &mut File, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let header = |size: u64| format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644);
    let at = out.stream_position()?;
    out.write_all(header(0).as_bytes())?;
    let begin = out.stream_position()?;
    write(out)?;
    let end = out.stream_position()?;
    out.seek(SeekFrom::Start(at))?;
    out.write_all(header(end - begin).as_bytes())?;
    out.seek(SeekFrom::Start(end))?;
    // Members begin at even places.
    if (end - begin) % 2 == 1 { out.write_all(b"\n") } else { Ok(()) }
}

/// What the package says of itself, and its configuration files.
fn split_status(status: &str) -> (String, Vec<String>) {
    let (mut control, mut conffiles) = (String::new(), Vec::new());
    let mut field = "";
    for line in status.lines() {
        if !line.starts_with(' ') {
            field = line.split(':').next().unwrap_or("");
        }
        if field == "Conffiles" {
            let mut words = line.split(' ').skip(1);
            if let Some(path) = words.next().filter(|path| path.starts_with('/')) {
                let flags: Vec<&str> = words.collect();
                if !flags.contains(&"obsolete") && !flags.contains(&"remove-on-upgrade") {
                    conffiles.push(path.to_owned());
                }
            }
        }
        if !NOT_THE_PACKAGES.contains(&field) {
            control.push_str(line);
            control.push('\n');
        }
    }
    (control, conffiles)
}

fn scripts(info: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = fs::read_dir(info) else { return BTreeMap::new() };
    let start = format!("{prefix}.");
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kind = name.strip_prefix(&start)?;
            // `a.b` is no file of package `a` if there is a package `a.b`.
            let ours = !kind.contains('.') && !NOT_CONTROL.contains(&kind);
            ours.then(|| (kind.to_owned(), entry.path()))
        })
        .collect()
}

/// Where files of a package really are that others have moved aside.
fn diversions(text: &str, package: &str) -> BTreeMap<PathBuf, PathBuf> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks_exact(3)
        .filter(|record| record[2] != package)
        .map(|record| (PathBuf::from(record[0]), PathBuf::from(record[1])))
        .collect()
}

fn files(
    paths: &Paths,
    list: &[u8],
    diverted: &BTreeMap<PathBuf, PathBuf>,
) -> Vec<(PathBuf, PathBuf, Metadata)> {
    use std::os::unix::ffi::OsStrExt;
    let names = list.split(|&byte| byte == b'\n').filter(|name| !name.is_empty() && *name != b"/.");
    names
        .filter_map(|name| {
            let named = PathBuf::from(std::ffi::OsStr::from_bytes(name));
            let real = paths.on_device(diverted.get(&named).unwrap_or(&named));
            // Left out by dpkg's settings, or removed since: then it is not in the package.
            let meta = fs::symlink_metadata(&real).ok()?;
            let kind = meta.file_type();
            if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
                return None;
            }
            // A folder of the package that is a link on this device (`/lib` → `usr/lib`) is a folder.
            let folder = kind.is_symlink() && is_base_folder(&named);
            let meta = if folder { fs::metadata(&real).unwrap_or(meta) } else { meta };
            Some((named, real, meta))
        })
        .collect()
}

fn is_base_folder(named: &Path) -> bool {
    ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"].iter().any(|base| named == Path::new(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkgs_own_fields_stay_out() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\nConffiles:\n /etc/a 0123\n \
                      /etc/old 4567 obsolete\nDescription: x\n more\n";
        let (control, conffiles) = split_status(status);
        assert_eq!(control, "Package: a\nVersion: 1\nDescription: x\n more\n");
        assert_eq!(conffiles, ["/etc/a"]);
    }

    #[test]
    fn files_moved_aside_are_found() {
        let text = "/bin/sh\n/bin/sh.distrib\ndash\n/x\n/x.moved\n:\n";
        let found = diversions(text, "dash");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("/x".into(), "/x.moved".into())]);
    }
}
