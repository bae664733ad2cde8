//! How the last sync of a mirror ended: `NAME.report.json` beside its definition. Lost, it costs
//! one more sync.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_api::v1::mirror as api;
use volary_archive::upstream::Synced;
use volary_host::FileError;
use volary_model::{Component, Digest};

/// As it is stored. Fields may come; older files have their default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stored {
    /// When it ended.
    pub(crate) at: Timestamp,
    /// Why it failed, if it did.
    pub(crate) problem: Option<String>,
    /// What was wanted then.
    pub(crate) spec: Option<Digest>,
    added: u64,
    removed: u64,
    packages: u64,
    fetched: u64,
    unfulfilled: Vec<String>,
    unmatched: Vec<String>,
    left_out: Vec<String>,
    /// Why each package is in, by `name architecture`.
    reasons: BTreeMap<String, String>,
    /// True if the last sync changed something.
    #[serde(skip)]
    pub(crate) is_new: bool,
}

fn path(dir: &Path, name: &Component) -> PathBuf {
    dir.join(format!("{name}.report.json"))
}

impl Stored {
    /// The last one, if there is any that can be read.
    pub(crate) fn read(dir: &Path, name: &Component) -> Option<Self> {
        serde_json::from_slice(&volary_host::read(&path(dir, name)).ok()?).ok()
    }

    /// Takes the place of the last one.
    pub(crate) fn write(&self, dir: &Path, name: &Component) -> Result<(), FileError> {
        let json = serde_json::to_vec(self).expect("plain data is JSON");
        volary_host::write_atomic(&path(dir, name), &json, 0o644)
    }

    /// Forgets it.
    pub(crate) fn remove(dir: &Path, name: &Component) -> Result<(), FileError> {
        volary_host::remove_if_exists(&path(dir, name))
    }

    /// Notes an outcome. What a failed or superfluous sync does not know stays as it was.
    pub(crate) fn take(
        &mut self,
        outcome: Result<Synced, String>,
        spec: Digest,
        fetched: u64,
        now: Timestamp,
    ) {
        self.at = now;
        self.spec = Some(spec);
        (self.fetched, self.added, self.removed) = (fetched, 0, 0);
        self.problem = outcome.as_ref().err().cloned();
        let Ok(synced) = outcome else { return };
        self.packages = synced.packages as u64;
        self.is_new = synced.is_new;
        if !synced.is_new {
            return;
        }
        (self.added, self.removed) = (synced.added as u64, synced.removed as u64);
        self.unfulfilled = synced.unfulfilled.iter().map(ToString::to_string).collect();
        self.unmatched = synced.unmatched.iter().map(ToString::to_string).collect();
        self.left_out = synced.left_out;
        let reasons = synced.reasons.iter();
        self.reasons = reasons.map(|((name, of), why)| (format!("{name} {of}"), why.to_string())).collect();
    }

    /// Why a package is in.
    pub(crate) fn reason(&self, name: &str, architecture: &str) -> Option<&str> {
        self.reasons.get(&format!("{name} {architecture}")).map(String::as_str)
    }

    /// In the words of the API.
    pub(crate) fn to_api(&self) -> api::Report {
        api::Report {
            at: self.at,
            problem: self.problem.clone(),
            added: self.added,
            removed: self.removed,
            packages: self.packages,
            fetched: self.fetched,
            unfulfilled: self.unfulfilled.clone(),
            unmatched: self.unmatched.clone(),
            left_out: self.left_out.clone(),
        }
    }
}
