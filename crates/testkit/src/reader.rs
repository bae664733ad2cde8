//! Reads a published suite from disk as a client does, and as none would: everything that its
//! `InRelease` names, by its hash, as late as a slow link makes it. Own code on purpose: the
//! archive's own check must not be its own witness.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use volary_host::FileError;

use crate::LabError;

/// How many faults are kept in words; all are counted.
const TOLD: usize = 5;

/// A file that an `InRelease` or a list of differences names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path below the suite.
    pub path: String,
    /// Its SHA-256 as 64 hexadecimal digits.
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

/// What reading found.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// How often a suite was read.
    pub reads: u64,
    /// How many different states of it were seen.
    pub generations: u64,
    /// How many files were looked at.
    pub files: u64,
    /// How many of these were not there, or were something else.
    pub faults: u64,
    /// The first of them.
    pub told: Vec<String>,
}

impl Reading {
    fn fault(&mut self, text: String) {
        self.faults += 1;
        if self.told.len() < TOLD {
            self.told.push(text);
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.generations += other.generations;
        self.files += other.files;
        for fault in other.told {
            self.fault(fault);
            self.faults -= 1;
        }
        self.faults += other.faults;
    }
}

/// The files that an `InRelease` lists with their SHA-256.
pub fn listed(release: &str) -> Vec<Listed> {
    let lines = release.lines().skip_while(|line| *line != "SHA256:").skip(1);
    lines.take_while(|line| line.starts_with(' ')).filter_map(listed_line).collect()
}

fn listed_line(line: &str) -> Option<Listed> {
    let mut words = line.split_whitespace();
    let sha256 = words.next().filter(|word| word.len() == 64)?.to_owned();
    let size = words.next()?.parse().ok()?;
    Some(Listed { path: words.next()?.to_owned(), sha256, size })
}

/// True for what a client may ask for: compressed indexes and lists of differences. The plain
/// indexes are listed for apt and never served.
fn is_served(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    [".gz", ".zst", ".xz"].iter().any(|end| name.ends_with(end)) || path.ends_with(".diff/Index")
}

/// The path of a file by its hash.
fn by_hash(suite: &Path, listed: &Listed) -> PathBuf {
    let folder = listed.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    suite.join(folder).join("by-hash/SHA256").join(&listed.sha256)
}

fn check(path: &Path, sha256: &str, size: u64) -> Result<Vec<u8>, String> {
    let bytes = volary_host::read(path).map_err(|error| error.to_string())?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    match found == sha256 && bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(format!("{} has {} bytes with the SHA-256 {found}", path.display(), bytes.len())),
    }
}

/// Reads the suite in the folder `suite` once: its `InRelease`, and `gap` later all that it names.
pub fn read_once(suite: &Path, gap: Duration, reading: &mut Reading) -> Option<String> {
    reading.reads += 1;
    let release = match volary_host::read_to_string(&suite.join("InRelease")) {
        Ok(text) => text,
        Err(error) => {
            reading.fault(error.to_string());
            return None;
        }
    };
    std::thread::sleep(gap);
    for file in listed(&release).iter().filter(|file| is_served(&file.path)) {
        reading.files += 1;
        match check(&by_hash(suite, file), &file.sha256, file.size) {
            Err(fault) => reading.fault(format!("{}, {gap:?} later: {fault}", file.path)),
            Ok(index) if file.path.ends_with(".diff/Index") => differences(suite, file, &index, reading),
            Ok(_) => {}
        }
    }
    Some(release)
}

/// The differences that a list offers: they have names and are not fetched by their hashes.
fn differences(suite: &Path, list: &Listed, index: &[u8], reading: &mut Reading) {
    let text = String::from_utf8_lossy(index);
    let folder = suite.join(list.path.trim_end_matches("/Index"));
    let lines = text.lines().skip_while(|line| *line != "SHA256-Download:").skip(1);
    for patch in lines.take_while(|line| line.starts_with(' ')).filter_map(listed_line) {
        reading.files += 1;
        if let Err(fault) = check(&folder.join(&patch.path), &patch.sha256, patch.size) {
            reading.fault(format!("{}: {fault}", list.path));
        }
    }
}

/// Reads again and again, each time `gap` behind, until `ended` is set; at least once.
pub fn read_until(suite: &Path, gap: Duration, ended: &AtomicBool) -> Reading {
    let mut reading = Reading::default();
    let mut last = None;
    loop {
        let release = read_once(suite, gap, &mut reading);
        if release.is_some() && release != last {
            reading.generations += 1;
            last = release;
        }
        if ended.load(Ordering::SeqCst) {
            return reading;
        }
    }
}

/// Proves a whole archive at rest: every suite below `public/dists`, each file that it names, and
/// each package file that its indexes name, with its hash.
///
/// # Errors
/// That the folders cannot be listed; what is wrong in them is in the result.
pub fn read_all(public: &Path) -> Result<Reading, LabError> {
    let mut reading = Reading::default();
    let mut packages = std::collections::BTreeMap::new();
    for suite in suites(&public.join("dists"))? {
        let Some(release) = read_once(&suite, Duration::ZERO, &mut reading) else { continue };
        for file in listed(&release).iter().filter(|file| file.path.ends_with("/Packages.gz")) {
            let Ok(bytes) = check(&by_hash(&suite, file), &file.sha256, file.size) else { continue };
            match unpack(&bytes) {
                Ok(text) => collect_packages(&text, &mut packages),
                Err(error) => reading.fault(format!("{} of {}: {error}", file.path, suite.display())),
            }
        }
    }
    for (path, (sha256, size)) in packages {
        reading.files += 1;
        if let Err(fault) = check(&public.join(&path), &sha256, size) {
            reading.fault(fault);
        }
    }
    Ok(reading)
}

/// Folders with an `InRelease`: `rolling`, and the revisions one below.
fn suites(dists: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut found = Vec::new();
    let mut open = vec![dists.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in dir.read_dir().map_err(FileError::at("list", &dir))? {
            let path = entry.map_err(FileError::at("list", &dir))?.path();
            if path.join("InRelease").is_file() {
                found.push(path);
            } else if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// With the program gzip, which reads members one after the other as apt does.
fn unpack(bytes: &[u8]) -> Result<String, LabError> {
    let output = volary_host::Cmd::new("gzip").args(["--decompress", "--stdout"]).stdin(bytes).check()?;
    Ok(output.text())
}

fn collect_packages(text: &str, packages: &mut std::collections::BTreeMap<String, (String, u64)>) {
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
        };
        if !field("Filename").is_empty() {
            let size = field("Size").parse().unwrap_or(0);
            packages.insert(field("Filename").to_owned(), (field("SHA256").to_owned(), size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn suite(dir: &Path, files: &[&str]) {
        let mut text = "Suite: rolling\nSHA256:\n".to_owned();
        for file in files {
            text += &format!(" {EMPTY} 0 {file}\n");
        }
        text += "-----BEGIN PGP SIGNATURE-----\n";
        volary_host::create_dir(&dir.join("main/by-hash/SHA256")).unwrap();
        volary_host::write_atomic(&dir.join("InRelease"), text.as_bytes(), 0o644).unwrap();
    }

    #[test]
    fn missing_and_wrong_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        suite(dir.path(), &["main/Packages", "main/Packages.gz"]);
        let file = dir.path().join("main/by-hash/SHA256").join(EMPTY);
        let check = |faults: u64, why: &str| {
            let mut reading = Reading::default();
            read_once(dir.path(), Duration::ZERO, &mut reading);
            assert_eq!((reading.files, reading.faults), (1, faults), "{:?}", reading.told);
            assert!(reading.told.iter().all(|text| text.contains(why)), "{:?}", reading.told);
        };
        check(1, "No such file");
        volary_host::write_atomic(&file, b"", 0o644).unwrap();
        check(0, "");
        volary_host::write_atomic(&file, b"other", 0o644).unwrap();
        check(1, "5 bytes");
    }
}
