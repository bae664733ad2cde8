//! The end of a release, and protection from it.
//!
//! A drop is a line in the journal first: from then on the release is gone, for every reader of
//! the journal. Its folder goes after that; what a crash leaves of it is removed by the next
//! opening or drop.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_host::FileError;
use volary_model::ReleaseName;

use crate::archive::{Archive, Inner};
use crate::error::Error;
use crate::query::{ReleaseInfo, info};
use crate::record::Record;

/// Why a release must not go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protection {
    /// Since when.
    pub since: Timestamp,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Archive {
    /// Takes a release away with all its revisions. Its name stays taken, since a lock file
    /// somewhere may still have it; its packages go with the next collection, if nothing else
    /// names them. Whether somebody still uses it is for the caller to know.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::Protected`], or what writing may bring.
    pub fn drop_release(&self, name: &ReleaseName, now: Timestamp) -> Result<ReleaseInfo, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        if let Some(protection) = &inner.state.release(name)?.protection {
            return Err(Error::Protected { release: name.clone(), protection: protection.clone() });
        }
        let info = info(&inner.state, name)?;
        self.commit(&mut inner, Record::Drop { at: now, release: name.clone() })?;
        self.clear_dropped(&inner)?;
        Ok(info)
    }

    /// Protects a release from being dropped. One that is protected gets the new reason.
    ///
    /// # Errors
    /// [`Error::NoRelease`], or what writing may bring.
    pub fn protect(
        &self,
        name: &ReleaseName,
        by: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<ReleaseInfo, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        let protection = Protection { since: now, by: by.to_owned(), reason: reason.to_owned() };
        inner.state.release(name)?;
        self.commit(&mut inner, Record::Protect { release: name.clone(), protection })?;
        info(&inner.state, name)
    }

    /// Ends the protection of a release. One that has none stays as it is.
    ///
    /// # Errors
    /// [`Error::NoRelease`], or what writing may bring.
    pub fn unprotect(&self, name: &ReleaseName, now: Timestamp) -> Result<ReleaseInfo, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        if inner.state.release(name)?.protection.is_some() {
            self.commit(&mut inner, Record::Unprotect { at: now, release: name.clone() })?;
        }
        info(&inner.state, name)
    }

    /// Removes what is left of releases that were dropped.
    pub(crate) fn clear_dropped(&self, inner: &Inner) -> Result<(), Error> {
        let dists = self.public_dir().join("dists");
        for name in inner.state.dropped.keys() {
            let dir = dists.join(name.as_str());
            // Under another name first, so that nobody reads half of it.
            let gone = dists.join(format!(".dropped-{name}"));
            if dir.is_dir() {
                remove_tree(&gone)?;
                fs::rename(&dir, &gone).map_err(FileError::at("remove", &dir))?;
                volary_host::sync_dir(&dists)?;
            }
            remove_tree(&gone)?;
        }
        Ok(())
    }
}

fn remove_tree(dir: &PathBuf) -> Result<(), FileError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::at("remove", dir)(error))
        }
        _ => Ok(()),
    }
}
