//! Questions to the archive: releases, packages, differences, pins.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use volary_debian::Version;
use volary_model::{Architecture, Digest, PackageName, ReleaseName, ReleaseRef, Revision, Suite};

use crate::archive::Archive;
use crate::diff::{self, PackageChange};
use crate::entry::PackageEntry;
use crate::error::Error;
use crate::state::{self, State};

/// A release.
#[derive(Debug, Clone)]
pub struct ReleaseInfo {
    /// Its name.
    pub name: ReleaseName,
    /// Its revisions, first to latest; at least one.
    pub revisions: Vec<RevisionInfo>,
    /// When it was frozen; `None` while it takes picks.
    pub frozen_at: Option<Timestamp>,
}

impl ReleaseInfo {
    /// The latest revision.
    pub fn latest(&self) -> &RevisionInfo {
        self.revisions.last().expect("a release has at least one revision")
    }
}

/// A revision of a release.
#[derive(Debug, Clone)]
pub struct RevisionInfo {
    /// Its number.
    pub revision: Revision,
    /// The digest of its package set.
    pub digest: Digest,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked for when it was picked; empty for the first one.
    pub picks: Vec<String>,
    /// How many packages it has.
    pub packages: usize,
}

/// What a fleet's lock file says of a release: enough to know its packages exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The digest of the package set.
    pub digest: Digest,
    /// SHA-256 of the plain Packages index of each architecture.
    pub indexes: BTreeMap<Architecture, Digest>,
}

impl Archive {
    /// All releases by name.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn releases(&self) -> Result<Vec<ReleaseInfo>, Error> {
        let inner = self.look()?;
        inner.state.releases.keys().map(|name| info(&inner.state, name)).collect()
    }

    /// One release.
    ///
    /// # Errors
    /// [`Error::NoRelease`], or what reading the journal may bring.
    pub fn release(&self, name: &ReleaseName) -> Result<ReleaseInfo, Error> {
        info(&self.look()?.state, name)
    }

    /// The packages of a suite in order of name and architecture.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::NoSuite`], or what reading the journal may bring.
    pub fn packages(&self, suite: &Suite) -> Result<Vec<Arc<PackageEntry>>, Error> {
        Ok(self.look()?.state.suite(suite)?.0.iter().cloned().collect())
    }

    /// All versions of a package that the archive has, over all architectures, oldest first for
    /// each architecture.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn versions(&self, name: &PackageName) -> Result<Vec<Arc<PackageEntry>>, Error> {
        Ok(self.look()?.state.versions(name).cloned().collect())
    }

    /// What differs from one suite to another, in order of package and architecture.
    ///
    /// # Errors
    /// As [`Archive::packages`].
    pub fn diff(&self, from: &Suite, to: &Suite) -> Result<Vec<PackageChange>, Error> {
        let inner = self.look()?;
        Ok(diff::diff(inner.state.suite(from)?.0, inner.state.suite(to)?.0))
    }

    /// What a lock file must say to name a revision of a release exactly.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::NoSuite`], or what reading the journal may bring.
    pub fn pin(&self, release: &ReleaseRef) -> Result<Pin, Error> {
        let inner = self.look()?;
        let rendered = self.publisher.rendered(&inner.state.revision(release)?.set, &self.settings, None);
        let indexes =
            rendered.indexes.iter().map(|(architecture, index)| (architecture.clone(), index.plain.sha256));
        Ok(Pin { digest: rendered.digest, indexes: indexes.collect() })
    }

    /// The digest of a suite's package set.
    ///
    /// # Errors
    /// As [`Archive::packages`].
    pub fn suite_digest(&self, suite: &Suite) -> Result<Digest, Error> {
        let inner = self.look()?;
        let (set, digest) = inner.state.suite(suite)?;
        Ok(digest.unwrap_or_else(|| self.digest(set)))
    }

    /// The suites that have a package in this version, for any architecture.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn suites_with(&self, package: &PackageName, version: &Version) -> Result<Vec<Suite>, Error> {
        let inner = self.look()?;
        let has = |suite: &Suite| {
            let set = inner.state.suite(suite).expect("a listed suite is there").0;
            set.named(package).iter().any(|entry| entry.version == *version)
        };
        Ok(inner.state.suites().into_iter().filter(has).collect())
    }
}

/// What is known of a release.
pub(crate) fn info(state: &State, name: &ReleaseName) -> Result<ReleaseInfo, Error> {
    let release = state.release(name)?;
    let revisions = release.revisions.iter().enumerate().map(|(index, revision)| RevisionInfo {
        revision: state::number(index),
        digest: revision.digest,
        created: revision.created,
        picks: revision.asked.clone(),
        packages: revision.set.len(),
    });
    Ok(ReleaseInfo { name: name.clone(), revisions: revisions.collect(), frozen_at: release.frozen_at })
}
