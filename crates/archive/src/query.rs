//! Questions to the archive: releases, packages, differences, pins.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use volary_debian::Version;
use volary_model::{Component, Digest, IndexName, PackageName, ReleaseName, ReleaseRef, Revision, Suite};

use crate::archive::Archive;
use crate::diff::{self, PackageChange};
use crate::entry::PackageEntry;
use crate::error::Error;
use crate::lifecycle::Protection;
use crate::mirror::{Mirror, MirrorOrigin};
use crate::set::IndexKind;
use crate::set::PackageSet;
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
    /// Why it must not be dropped, if that is so.
    pub protection: Option<Protection>,
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
    /// SHA-256 of each plain Packages index.
    pub indexes: BTreeMap<IndexName, Digest>,
}

/// A mirror and what rolling has of it.
#[derive(Debug, Clone)]
pub struct MirrorState {
    /// Where it came from.
    pub origin: MirrorOrigin,
    /// When it came into rolling.
    pub at: Timestamp,
    /// How many binary packages there are.
    pub packages: usize,
    /// Bytes of all files, those of source packages included.
    pub bytes: u64,
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

    /// The binary packages of a suite in order of component, name and architecture.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::NoSuite`], or what reading the journal may bring.
    pub fn packages(&self, suite: &Suite) -> Result<Vec<Arc<PackageEntry>>, Error> {
        Ok(self.look()?.state.suite(suite)?.binaries().cloned().collect())
    }

    /// The source packages of a suite in order of component and name.
    ///
    /// # Errors
    /// As [`Archive::packages`].
    pub fn sources(&self, suite: &Suite) -> Result<Vec<Arc<PackageEntry>>, Error> {
        let inner = self.look()?;
        Ok(inner.state.suite(suite)?.iter().filter(|entry| entry.is_source()).cloned().collect())
    }

    /// The last state of a mirror; `None` before its first sync.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn mirror(&self, name: &Component) -> Result<Option<MirrorState>, Error> {
        let inner = self.look()?;
        let Some(Mirror { origin, at }) = inner.state.mirrors.get(name).cloned() else { return Ok(None) };
        let set = inner.state.rolling.component(name);
        let sizes = set.into_iter().flat_map(PackageSet::iter).flat_map(|entry| entry.paths());
        let bytes = sizes.map(|(_, _, size)| size).sum();
        Ok(Some(MirrorState { origin, at, packages: set.map_or(0, PackageSet::binaries), bytes }))
    }

    /// The last state of each mirror.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn mirrors(&self) -> Result<BTreeMap<Component, Mirror>, Error> {
        Ok(self.look()?.state.mirrors.clone())
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
        Ok(diff::diff(inner.state.suite(from)?, inner.state.suite(to)?))
    }

    /// What a lock file must say to name a revision of a release exactly.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::NoSuite`], or what reading the journal may bring.
    pub fn pin(&self, release: &ReleaseRef) -> Result<Pin, Error> {
        let inner = self.look()?;
        let content = &inner.state.revision(release)?.content;
        let mut indexes = BTreeMap::new();
        for (component, set) in content.components() {
            for architecture in &inner.state.release(&release.name)?.architectures {
                let name = IndexName { component: component.clone(), architecture: architecture.clone() };
                let kind = IndexKind::Packages(architecture.clone());
                let index = crate::render::index(set, &kind, &self.publisher.cache, None);
                indexes.insert(name, index.plain.sha256);
            }
        }
        Ok(Pin { digest: content.digest(), indexes })
    }

    /// The digest of a suite's package set.
    ///
    /// # Errors
    /// As [`Archive::packages`].
    pub fn suite_digest(&self, suite: &Suite) -> Result<Digest, Error> {
        let inner = self.look()?;
        Ok(inner.state.suite(suite)?.digest())
    }

    /// The suites that have a package in this version, for any architecture.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn suites_with(&self, package: &PackageName, version: &Version) -> Result<Vec<Suite>, Error> {
        let inner = self.look()?;
        let has = |suite: &Suite| {
            let content = inner.state.suite(suite).expect("a listed suite is there");
            content.named(package).any(|entry| entry.version == *version)
        };
        Ok(inner.state.suites().into_iter().filter(has).collect())
    }
}

/// What is known of a release.
pub(crate) fn info(state: &State, name: &ReleaseName) -> Result<ReleaseInfo, Error> {
    let release = state.release(name)?;
    let revisions = release.revisions.iter().enumerate().map(|(index, revision)| RevisionInfo {
        revision: state::number(index),
        digest: revision.content.digest(),
        created: revision.created,
        picks: revision.asked.clone(),
        packages: revision.content.len(),
    });
    Ok(ReleaseInfo {
        name: name.clone(),
        revisions: revisions.collect(),
        frozen_at: release.frozen_at,
        protection: release.protection.clone(),
    })
}
