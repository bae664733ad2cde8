//! Proves that every suite is whole: signatures, index files, packages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use volary_debian::release::Release;
use volary_model::{Digest, Suite};

use crate::archive::Archive;
use crate::entry::PackageEntry;
use crate::error::Error;
use crate::publish::SET_FIELD;
use crate::state::State;

/// Files of packages by their paths, with what is in them.
type Files = BTreeMap<String, (Digest, u64)>;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many suites were looked at.
    pub suites: usize,
    /// How many index files.
    pub indexes: usize,
    /// How many package files.
    pub packages: usize,
    /// What is wrong, each with the file; empty if all is whole.
    pub problems: Vec<String>,
}

impl CheckReport {
    fn add(&mut self, path: &Path, problem: impl std::fmt::Display) {
        self.problems.push(format!("{}: {problem}", path.display()));
    }

    /// Looks at one file: its size, and with `deep` its content.
    fn file(&mut self, path: &Path, size: u64, sha256: &Digest, deep: bool) {
        match std::fs::metadata(path) {
            Err(error) => self.add(path, error),
            Ok(meta) if meta.len() != size => {
                self.add(path, format_args!("it has {} bytes and should have {size}", meta.len()));
            }
            Ok(_) if deep => match hash(path) {
                Err(error) => self.add(path, error),
                Ok(found) if found != *sha256 => self.add(path, format_args!("its content is {found}")),
                Ok(_) => {}
            },
            Ok(_) => {}
        }
    }
}

pub(crate) fn hash(path: &Path) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

impl Archive {
    /// Checks that each suite is signed by all keys of this archive, names the content that the
    /// journal leads to, and that all files it names are there with their sizes; with `deep` also
    /// that every file has its hash. Changes nothing.
    ///
    /// # Errors
    /// What reading the journal may bring; all else is in the report.
    pub fn check(&self, deep: bool, now: Timestamp) -> Result<CheckReport, Error> {
        let report = self.check_with(deep, now, &mut |_, _| true)?;
        Ok(report.expect("it goes on to its end"))
    }

    /// As [`Archive::check`], and tells after each package how many bytes of how many were read.
    /// Ends with `None` when the listener says false.
    ///
    /// # Errors
    /// As [`Archive::check`].
    pub fn check_with(
        &self,
        deep: bool,
        now: Timestamp,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<CheckReport>, Error> {
        let (mut report, packages) = self.check_all(deep, now)?;
        if !deep {
            return Ok(Some(report));
        }
        // Packages never change, so that reading all of them need not hold up those who publish.
        let total = packages.values().map(|(_, size)| size).sum();
        let mut done = 0;
        for (path, (sha256, size)) in &packages {
            if !progress(done, total) {
                return Ok(None);
            }
            let path = self.public_dir().join(path);
            // One that is not there, or has another size, was told; one that was there and is not
            // any more was collected in the meantime.
            if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == *size) {
                report.file(&path, *size, sha256, true);
            }
            done += size;
        }
        Ok(progress(done, total).then_some(report))
    }

    /// All but the content of the packages, whose files it returns.
    fn check_all(&self, deep: bool, now: Timestamp) -> Result<(CheckReport, Files), Error> {
        // No publish and no collection may come between.
        let (_lock, inner) = self.begin()?;
        let mut report = CheckReport::default();
        let mut packages = BTreeMap::new();
        for suite in inner.state.suites() {
            self.check_suite(&inner.state, &suite, deep, now, &mut report)?;
            for entry in inner.state.listed(&suite)? {
                add_files(&mut packages, entry);
            }
        }
        // Picks may name any package that is in the archive, also one in no suite.
        for entry in inner.state.catalogue.values().flat_map(BTreeMap::values) {
            add_files(&mut packages, entry);
        }
        for (path, (sha256, size)) in &packages {
            report.file(&self.public_dir().join(path), *size, sha256, false);
        }
        report.packages = packages.len();
        Ok((report, packages))
    }

    fn check_suite(
        &self,
        state: &State,
        suite: &Suite,
        deep: bool,
        now: Timestamp,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        report.suites += 1;
        let dir = self.publisher.suite_dir(suite);
        let path = dir.join("InRelease");
        let text = match volary_host::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                report.problems.push(error.to_string());
                return Ok(());
            }
        };
        match self.publisher.keys().missing_in(&text, now) {
            Err(error) => report.add(&path, format_args!("its signature is wrong: {error}")),
            Ok(missing) => missing.into_iter().for_each(|key| {
                report.add(&path, format_args!("its signature is wrong: the key {key} did not sign it"));
            }),
        }
        let release = match Release::parse(&text) {
            Ok(release) => release,
            Err(error) => {
                report.add(&path, error);
                return Ok(());
            }
        };
        let digest = state.suite(suite)?.digest();
        if release.fields.get(SET_FIELD) != Some(digest.to_string().as_str()) {
            report.add(&path, format_args!("it does not have the packages {digest}"));
        }
        for (name, file) in &release.files {
            let Some((folder, file_name)) = name.rsplit_once('/') else { continue };
            // Plain indexes are listed for apt and never served.
            if !file_name.contains('.') && file_name != "Index" {
                continue;
            }
            let path = dir.join(folder).join("by-hash/SHA256").join(&file.sha256);
            match Digest::from_hex(&file.sha256) {
                Ok(sha256) => report.file(&path, file.size, &sha256, deep),
                Err(error) => report.add(&path, error),
            }
            report.indexes += 1;
        }
        Ok(())
    }
}

/// Adds the files of a package by their paths.
fn add_files(files: &mut Files, entry: &PackageEntry) {
    files.extend(entry.paths().into_iter().map(|(path, sha256, size)| (path, (sha256, size))));
}
