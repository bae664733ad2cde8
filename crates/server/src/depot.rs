//! The archive, with its answers in the words of the API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use volary_api::v1::archive as api;
use volary_archive::{
    Archive, Because, Error, Included, KeyInfo, Keys, NewKey, Others, PackageEntry, Pick, Provenance,
    ReleaseInfo, RetiredKey, Settings, Signers, UpkeepReport, UploadPolicy,
};
use volary_debian::Version;
use volary_model::{Architecture, PackageName, ReleaseName, ReleaseRef, Revision, Suite};
use volary_plan::rebuild::package_names;

use crate::config::Config;
use crate::cves::Sources;
use crate::release_diff;

/// The archive of this server.
#[derive(Debug)]
pub(crate) struct Depot {
    archive: Archive,
}

impl Depot {
    /// Makes the archive of a new server.
    pub(crate) fn create(dir: &Path, fleet: &str, now: Timestamp) -> Result<Self, Error> {
        // Devices of other architectures cost nothing until a package for them comes.
        let architectures = ["amd64", "arm64", "armhf"];
        let architectures = architectures.map(|name| name.parse().expect("it is a valid name")).to_vec();
        let settings = Settings::new(fleet, fleet, architectures);
        Ok(Self { archive: Archive::create(dir, &settings, now)? })
    }

    /// Opens the archive, and finishes what a killed server left undone.
    pub(crate) fn open(dir: &Path, signers: Signers) -> Result<Self, Error> {
        Ok(Self { archive: Archive::open_with(dir, signers)? })
    }

    /// The keys that sign.
    pub(crate) fn keys(&self) -> Result<Keys, Error> {
        self.archive.keys()
    }

    /// Takes a key in.
    pub(crate) fn add_key(&self, new: &NewKey, others: Others) -> Result<KeyInfo, Error> {
        self.archive.add_key(new, others, volary_host::now())
    }

    /// The keys that a retirement would end, and those that would stay.
    pub(crate) fn retirement(
        &self,
        fingerprint: Option<&str>,
    ) -> Result<(Vec<KeyInfo>, Vec<KeyInfo>), Error> {
        self.archive.retirement(fingerprint)
    }

    /// Ends keys.
    pub(crate) fn retire_keys(&self, fingerprint: Option<&str>) -> Result<Vec<RetiredKey>, Error> {
        self.archive.retire_keys(fingerprint, volary_host::now())
    }

    /// The archive itself, for what has no words of the API.
    pub(crate) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The folder to serve.
    pub(crate) fn public_dir(&self) -> &Path {
        self.archive.public_dir()
    }

    /// The public keys as one ASCII armored block.
    pub(crate) fn public_key(&self) -> String {
        self.archive.public_key()
    }

    /// Lets the archive be as the server's configuration says.
    pub(crate) fn configure(&self, url: &str, config: &Config) -> Result<(), Error> {
        let change = |settings: &mut Settings| {
            settings.url = Some(format!("{url}/archive"));
            let further = config.archive_architectures.iter();
            let new: Vec<_> =
                further.filter(|name| !settings.architectures.contains(name)).cloned().collect();
            settings.architectures.extend(new);
            settings.contents = config.archive_contents;
            settings.news_at_end_from = config.archive_news_at_end_from;
            settings.valid_days = config.archive_valid_days;
        };
        self.archive.configure(change, volary_host::now())
    }

    /// Makes what of the suites is made without hurry.
    pub(crate) fn keep_up(&self) -> Result<UpkeepReport, Error> {
        self.archive.upkeep(volary_host::now())
    }

    /// The architectures that have an index.
    pub(crate) fn architectures(&self) -> Result<Vec<Architecture>, Error> {
        Ok(self.archive.settings()?.architectures)
    }

    /// Takes files into rolling.
    pub(crate) fn include(
        &self,
        files: &[PathBuf],
        provenance: &Provenance,
        policy: &UploadPolicy,
    ) -> Result<api::Included, Error> {
        self.archive.include(files, provenance, policy, volary_host::now()).map(|done| included(&done))
    }

    /// Takes files into rolling that nobody else can write to; they are moved where that is possible.
    pub(crate) fn include_own(
        &self,
        files: &[PathBuf],
        provenance: &Provenance,
        policy: &UploadPolicy,
    ) -> Result<api::Included, Error> {
        self.archive.include_own(files, provenance, policy, volary_host::now()).map(|done| included(&done))
    }

    /// The packages of a suite.
    pub(crate) fn packages(&self, suite: &Suite) -> Result<Vec<api::Package>, Error> {
        Ok(self.archive.packages(suite)?.iter().map(|entry| package(entry)).collect())
    }

    /// What a suite offers to an architecture: name → version.
    pub(crate) fn offers(
        &self,
        suite: &Suite,
        architecture: &Architecture,
    ) -> Result<BTreeMap<String, String>, Error> {
        let entries = self.archive.packages(suite)?;
        let served = entries.iter().filter(|entry| entry.serves(architecture));
        Ok(served.map(|entry| (entry.name.to_string(), entry.version.to_string())).collect())
    }

    /// A text that changes with rolling's content.
    pub(crate) fn rolling_digest(&self) -> Result<String, Error> {
        Ok(self.archive.suite_digest(&Suite::Rolling)?.hex())
    }

    /// One version of a package, for each architecture that has it.
    pub(crate) fn with_version(
        &self,
        name: &PackageName,
        version: &Version,
    ) -> Result<Vec<api::Package>, Error> {
        let versions = self.archive.versions(name)?;
        Ok(versions.iter().filter(|entry| entry.version == *version).map(|entry| package(entry)).collect())
    }

    /// All versions of a package, as text.
    pub(crate) fn versions(&self, name: &PackageName) -> Result<Vec<String>, Error> {
        let mut versions: Vec<String> =
            self.archive.versions(name)?.iter().map(|entry| entry.version.to_string()).collect();
        versions.dedup();
        Ok(versions)
    }

    /// The names that a version of a package provides besides its own.
    pub(crate) fn provides(&self, name: &str, version: &str) -> BTreeSet<String> {
        let (Ok(name), Ok(version)) = (name.parse::<PackageName>(), version.parse::<Version>()) else {
            return BTreeSet::new();
        };
        let versions = self.archive.versions(&name).unwrap_or_default();
        let fields = versions.iter().filter(|entry| entry.version == version).filter_map(|entry| {
            let paragraph = entry.paragraph();
            paragraph.get("Provides").map(package_names)
        });
        fields.flatten().collect()
    }

    /// The packages of a build, `name=version`, that are still in the archive: the names that their
    /// files had, and where they are.
    pub(crate) fn files_of(&self, build: i64, packages: &[String]) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut files = BTreeMap::new();
        for name in packages.iter().filter_map(|package| package.split_once('=')).map(|(name, _)| name) {
            let Ok(name) = name.parse::<PackageName>() else { continue };
            for entry in self.archive.versions(&name)? {
                if entry.provenance.build == Some(build) && !entry.is_source() {
                    let version = entry.version.as_str();
                    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
                    let file = format!("{}_{version}_{}.deb", entry.name, entry.architecture);
                    files.insert(file, self.archive.public_dir().join(entry.filename()));
                }
            }
        }
        Ok(files.into_iter().collect())
    }

    /// The builds of which a package is in a suite.
    pub(crate) fn builds_offered(&self) -> Result<BTreeSet<i64>, Error> {
        let mut suites = vec![Suite::Rolling];
        for release in self.archive.releases()? {
            let revisions = release.revisions.iter().map(|revision| revision.revision);
            suites.extend(
                revisions.map(|revision| Suite::Release(ReleaseRef { name: release.name.clone(), revision })),
            );
        }
        let mut builds = BTreeSet::new();
        for suite in suites {
            builds.extend(self.archive.packages(&suite)?.iter().filter_map(|entry| entry.provenance.build));
        }
        Ok(builds)
    }

    /// The builds of which a package with one of these names is in the archive.
    pub(crate) fn builds_archived(&self, names: &BTreeSet<String>) -> Result<BTreeSet<i64>, Error> {
        let mut builds = BTreeSet::new();
        for name in names.iter().filter_map(|name| name.parse::<PackageName>().ok()) {
            builds.extend(self.archive.versions(&name)?.iter().filter_map(|entry| entry.provenance.build));
        }
        Ok(builds)
    }

    /// The suites that have a package in this version.
    pub(crate) fn suites_with(&self, name: &PackageName, version: &Version) -> Result<Vec<Suite>, Error> {
        self.archive.suites_with(name, version)
    }

    /// All releases, newest first.
    pub(crate) fn releases(&self) -> Result<Vec<api::Release>, Error> {
        let mut releases: Vec<api::Release> = self.archive.releases()?.into_iter().map(release).collect();
        releases.sort_by_key(|release| {
            std::cmp::Reverse(release.revisions.first().map(|first| first.created_at))
        });
        Ok(releases)
    }

    /// One release.
    pub(crate) fn release(&self, name: &ReleaseName) -> Result<api::Release, Error> {
        self.archive.release(name).map(release)
    }

    /// When a release was frozen; `None` if it takes picks or is not there.
    pub(crate) fn frozen_at(&self, name: &ReleaseName) -> Result<Option<Timestamp>, Error> {
        match self.archive.release(name) {
            Ok(release) => Ok(release.frozen_at),
            Err(Error::NoRelease(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cuts a release from rolling.
    pub(crate) fn cut(&self, name: &ReleaseName) -> Result<api::Release, Error> {
        self.archive.cut(name, volary_host::now()).map(release)
    }

    /// Ends a release.
    pub(crate) fn freeze(&self, name: &ReleaseName) -> Result<api::Release, Error> {
        self.archive.freeze(name, volary_host::now()).map(release)
    }

    /// Picks into a release. The second value says why packages came along that nobody named.
    pub(crate) fn pick(
        &self,
        name: &ReleaseName,
        picks: &[Pick],
        dry_run: bool,
    ) -> Result<(api::Picked, Vec<String>), Error> {
        let result = self.archive.pick(name, picks, dry_run, volary_host::now())?;
        let along = result.changes.iter().filter(|change| change.because != Because::Asked);
        let along =
            along.map(|change| format!("{} ({})", change.package, because(&change.because))).collect();
        let changes = result
            .changes
            .iter()
            .map(|item| api::PackageChange {
                because: because(&item.because),
                ..change(item.replaces.as_deref(), item.incoming.as_deref())
            })
            .collect::<Vec<_>>();
        let downloads = release_diff::downloads(&changes);
        Ok((api::Picked { release: result.release, changes, downloads, dry_run: result.dry_run }, along))
    }

    /// What a lock file says of a release revision; the newest without `revision`.
    pub(crate) fn pin(&self, name: &ReleaseName, revision: Option<Revision>) -> Result<api::Pin, Error> {
        let revision = match revision {
            Some(revision) => revision,
            None => self.archive.release(name)?.latest().revision,
        };
        let release = ReleaseRef { name: name.clone(), revision };
        let pin = self.archive.pin(&release)?;
        Ok(api::Pin { release, digest: pin.digest, indexes: pin.indexes })
    }

    /// What differs between two suites; without a first one everything is new.
    pub(crate) fn diff(&self, from: Option<&Suite>, to: &Suite) -> Result<Vec<api::PackageChange>, Error> {
        let Some(from) = from else {
            let all = self.archive.packages(to)?;
            return Ok(all.iter().map(|entry| change(None, Some(entry))).collect());
        };
        let changes = self.archive.diff(from, to)?;
        Ok(changes.iter().map(|item| change(item.from.as_deref(), item.to.as_deref())).collect())
    }
}

impl Depot {
    /// The versions of the source packages that differ between two suites: all that each suite has of them, for whatever
    /// architecture.
    pub(crate) fn changed_sources(&self, from: &Suite, to: &Suite) -> Result<[Sources; 2], Error> {
        if from == to {
            return Ok(Default::default());
        }
        let changes = self.archive.diff(from, to)?;
        let changed: BTreeSet<&str> = changes
            .iter()
            .flat_map(|change| [change.from.as_deref(), change.to.as_deref()])
            .flatten()
            .map(|entry| entry.source.as_str())
            .collect();
        let of = |suite: &Suite| -> Result<Sources, Error> {
            let mut sources = Sources::new();
            for entry in self.archive.packages(suite)? {
                if changed.contains(entry.source.as_str()) {
                    let versions = sources.entry(entry.source.to_string()).or_default();
                    versions.insert(entry.source_version.clone());
                }
            }
            Ok(sources)
        };
        Ok([of(from)?, of(to)?])
    }
}

fn included(done: &Included) -> api::Included {
    let list = |entries: &[Arc<PackageEntry>]| entries.iter().map(|entry| package(entry)).collect();
    api::Included { added: list(&done.added), already_there: list(&done.known) }
}

/// Bytes that a package takes up on a device, as it says itself.
fn installed(entry: &PackageEntry) -> u64 {
    let kib = entry.paragraph().get("Installed-Size").and_then(|size| size.trim().parse::<u64>().ok());
    kib.map_or(0, |kib| kib.saturating_mul(1024))
}

fn because(because: &Because) -> String {
    match because {
        Because::Asked => "asked for".to_owned(),
        Because::Needed { by, dependency } => format!("{by} needs {dependency}"),
        Because::SameSource { with } => format!("same source as {with}"),
        Because::Avoids { with } => format!("the one in the release clashes with {with}"),
        Because::Superseded => "the same package comes for other architectures".to_owned(),
    }
}

/// A package in the words of the API.
pub(crate) fn package(entry: &PackageEntry) -> api::Package {
    api::Package {
        name: entry.name.clone(),
        version: entry.version.to_string(),
        architecture: entry.architecture.clone(),
        source: entry.source.to_string(),
        size: entry.size,
        sha256: entry.sha256,
        built_from: entry.provenance.source.clone(),
        commit: entry.provenance.commit.clone(),
        build: entry.provenance.build,
        included_at: entry.included_at,
    }
}

/// A change in the words of the API; one of the two is there.
pub(crate) fn change(from: Option<&PackageEntry>, to: Option<&PackageEntry>) -> api::PackageChange {
    let either = from.or(to).expect("a change has at least one side");
    api::PackageChange {
        name: either.name.clone(),
        architecture: either.architecture.clone(),
        from: from.map(|entry| entry.version.to_string()),
        to: to.map(|entry| entry.version.to_string()),
        size: to.map_or(0, |entry| entry.size),
        size_before: from.map_or(0, |entry| entry.size),
        installed: to.map_or(0, installed),
        installed_before: from.map_or(0, installed),
        because: String::new(),
    }
}

/// A release in the words of the API.
pub(crate) fn release(info: ReleaseInfo) -> api::Release {
    let revisions = info
        .revisions
        .into_iter()
        .map(|revision| api::ReleaseRevision {
            revision: revision.revision,
            digest: revision.digest,
            created_at: revision.created,
            packages: revision.packages as u64,
            picks: revision.picks,
        })
        .collect();
    let protection = info.protection.map(|protection| api::Protection {
        since: protection.since,
        by: protection.by,
        reason: protection.reason,
    });
    api::Release { name: info.name, frozen_at: info.frozen_at, protection, revisions }
}
