//! What a build left: the files that its .changes names, taken out of the chroot.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use volary_host::{FileError, create_dir};

use crate::repository::at;

/// What was found.
#[derive(Debug)]
pub(crate) enum Collected {
    /// The .changes, and all files with it: .deb, .udeb, .ddeb, .buildinfo.
    Files { changes: PathBuf, files: Vec<PathBuf> },
    /// There is no usable .changes, or it names what is not there.
    Nothing(String),
}

/// Copies what the .changes in `from` names, and itself, into `into`.
///
/// The build could write what it liked into `from`: only ordinary files are taken, and only by
/// plain names.
pub(crate) fn collect(from: &Path, into: &Path) -> Result<Collected, FileError> {
    create_dir(into)?;
    let changes = files_that_end_with(from, "changes")?;
    let [changes] = &changes[..] else {
        return Ok(Collected::Nothing(format!("there are {} .changes files", changes.len())));
    };
    let Some(text) = read_bounded(changes)? else {
        return Ok(Collected::Nothing("its .changes has more than 4 MiB".to_owned()));
    };
    let names = files_of(&text);
    if !names.iter().any(|name| name.ends_with("deb")) {
        return Ok(Collected::Nothing("its .changes names no .deb".to_owned()));
    }
    take(from, into, changes, names)
}

/// Copies a source package: what the .dsc in `from` names, and itself, into `into`. Its .dsc stands
/// in the place of the .changes.
pub(crate) fn collect_source(from: &Path, into: &Path) -> Result<Collected, FileError> {
    let Some(dsc) = files_that_end_with(from, "dsc")?.pop() else {
        return Ok(Collected::Nothing("there is no .dsc".to_owned()));
    };
    let Some(text) = read_bounded(&dsc)? else {
        return Ok(Collected::Nothing("its .dsc has more than 4 MiB".to_owned()));
    };
    take(from, into, &dsc, files_of(&text))
}

fn files_that_end_with(from: &Path, end: &str) -> Result<Vec<PathBuf>, FileError> {
    let mut found: Vec<PathBuf> = fs::read_dir(from)
        .map_err(at("read", from))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == end) && is_file(path))
        .collect();
    found.sort();
    Ok(found)
}

/// Copies `list`, which names files beside it, and these files.
fn take(from: &Path, into: &Path, list: &Path, mut names: Vec<String>) -> Result<Collected, FileError> {
    names.push(name_of(list));
    let mut files = Vec::new();
    for name in &names {
        let plain = !name.contains('/') && !name.starts_with('.');
        if !plain || !is_file(&from.join(name)) {
            let end = list.extension().unwrap_or_default().to_string_lossy();
            return Ok(Collected::Nothing(format!("its .{end} names {name:?}, which is not there")));
        }
        let target = into.join(name);
        fs::copy(from.join(name), &target).map_err(at("write", &target))?;
        files.push(target);
    }
    Ok(Collected::Files { changes: into.join(name_of(list)), files })
}

/// How much is read of a text that a source or its build wrote, in bytes. The longest changelogs
/// of Debian have half of it.
const LONGEST: u64 = 4 << 20;

/// The text of a file that a source or its build wrote; `None` if it is too long. What is no
/// UTF-8 is replaced: old packages have Latin-1 in entries of the last century.
pub(crate) fn read_bounded(path: &Path) -> Result<Option<String>, FileError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(at("read", path))?;
    let fits = bytes.len() as u64 <= LONGEST;
    Ok(fits.then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The names in the `Files` field: the last word of each of its lines.
fn files_of(changes: &str) -> Vec<String> {
    let lines = changes.lines().skip_while(|line| !line.starts_with("Files:")).skip(1);
    lines
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_host::write_atomic;

    const CHANGES: &str = "Format: 1.8\nChecksums-Sha256:\n aa 1 x.deb\nFiles:\n \
                           0b 1 misc optional a_1_all.deb\n 0c 2 misc optional a_1.buildinfo\n\nZ: x\n";

    fn put(dir: &Path, name: &str, text: &str) {
        write_atomic(&dir.join(name), text.as_bytes(), 0o644).unwrap();
    }

    fn nothing(dir: &Path, part: &str) {
        match collect(dir, &dir.join("out")).unwrap() {
            Collected::Nothing(why) => assert!(why.contains(part), "{why}"),
            Collected::Files { files, .. } => panic!("{files:?}"),
        }
    }

    #[test]
    fn what_the_changes_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        nothing(dir.path(), "0 .changes");
        put(dir.path(), "a_1_amd64.changes", CHANGES);
        put(dir.path(), "a_1.buildinfo", "b");
        nothing(dir.path(), "\"a_1_all.deb\", which is not there");
        put(dir.path(), "a_1_all.deb", "deb");
        put(dir.path(), "else.txt", "not named");
        let Collected::Files { changes, files } = collect(dir.path(), &dir.path().join("out")).unwrap()
        else {
            panic!("nothing")
        };
        assert_eq!(name_of(&changes), "a_1_amd64.changes");
        let names: Vec<_> = files.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["a_1_all.deb", "a_1.buildinfo", "a_1_amd64.changes"]);
        assert!(files.iter().all(|path| path.is_file()));
    }

    #[test]
    fn an_endless_changes_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a_1_amd64.changes");
        for (length, expected) in [(LONGEST, true), (LONGEST + 1, false)] {
            fs::File::create(&path).unwrap().set_len(length).unwrap();
            assert_eq!(read_bounded(&path).unwrap().is_some(), expected, "{length}");
        }
        nothing(dir.path(), "more than 4 MiB");
    }

    #[test]
    fn a_link_out_of_the_chroot_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a_1_amd64.changes", CHANGES);
        put(dir.path(), "a_1.buildinfo", "b");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a_1_all.deb")).unwrap();
        nothing(dir.path(), "which is not there");
        let path = CHANGES.replace("a_1_all.deb", "../../etc/x.deb");
        put(dir.path(), "a_1_amd64.changes", &path);
        nothing(dir.path(), "which is not there");
    }
}
