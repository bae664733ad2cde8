//! The archive's upkeep in the words of the API: the end of releases, collection, differences.

use volary_api::v1::archive as api;
use volary_api::v1::upkeep::{Collected, Why};
use volary_archive::{CheckReport, Error, KeepPolicy, KeepReason};
use volary_debian::Version;
use volary_model::{Digest, PackageName, ReleaseName, Suite};

use crate::depot::{Depot, change, package, release};
use crate::release_diff;

impl Depot {
    /// Checks the archive; `None` if the listener ended it.
    pub(crate) fn check(
        &self,
        deep: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<CheckReport>, Error> {
        self.archive().check_with(deep, volary_host::now(), progress)
    }

    /// The digests of a version of a package.
    pub(crate) fn digests(&self, name: &PackageName, version: &Version) -> Result<Vec<Digest>, Error> {
        let versions = self.archive().versions(name)?;
        Ok(versions.iter().filter(|entry| entry.version == *version).map(|entry| entry.sha256).collect())
    }

    /// Removes what nothing names.
    pub(crate) fn collect(&self, policy: &KeepPolicy, dry_run: bool) -> Result<Collected, Error> {
        let report = self.archive().collect(policy, dry_run, volary_host::now())?;
        Ok(Collected {
            removed: report.removed.iter().map(|entry| package(entry)).collect(),
            strays: report.strays as u64,
            bytes: report.bytes,
            kept: report.kept as u64,
            dry_run,
        })
    }

    /// Why the versions of a package stay, one or all; empty if there is none. `users` says who uses
    /// a suite.
    pub(crate) fn why(
        &self,
        name: &PackageName,
        version: Option<&Version>,
        policy: &KeepPolicy,
        users: &dyn Fn(&Suite) -> Vec<String>,
    ) -> Result<Vec<Why>, Error> {
        let found = self.archive().why(name, policy, volary_host::now())?;
        let asked =
            found.into_iter().filter(|(entry, _)| version.is_none_or(|version| entry.version == *version));
        let why = asked.map(|(entry, reasons)| Why {
            package: package(&entry),
            reasons: reasons.iter().map(|reason| self.explain(reason, users)).collect(),
        });
        Ok(why.collect())
    }

    /// A reason, and what lies behind it.
    fn explain(&self, reason: &KeepReason, users: &dyn Fn(&Suite) -> Vec<String>) -> String {
        let KeepReason::InSuite(suite) = reason else { return reason.to_string() };
        let mut behind = users(suite);
        if let Suite::Release(reference) = suite {
            // It may have been dropped meanwhile.
            let protection = self.archive().release(&reference.name).ok().and_then(|info| info.protection);
            behind.extend(protection.map(|protection| {
                format!("{} is protected by {}: {}", reference.name, protection.by, protection.reason)
            }));
        }
        let behind = volary_plan::text::some(&behind, 10);
        if behind.is_empty() { reason.to_string() } else { format!("{reason} ({behind})") }
    }

    /// Takes a release away.
    pub(crate) fn drop_release(&self, name: &ReleaseName) -> Result<api::Release, Error> {
        self.archive().drop_release(name, volary_host::now()).map(release)
    }

    /// Protects a release.
    pub(crate) fn protect(&self, name: &ReleaseName, by: &str, reason: &str) -> Result<api::Release, Error> {
        self.archive().protect(name, by, reason, volary_host::now()).map(release)
    }

    /// Ends the protection of a release.
    pub(crate) fn unprotect(&self, name: &ReleaseName) -> Result<api::Release, Error> {
        self.archive().unprotect(name, volary_host::now()).map(release)
    }

    /// All that differs between two suites, with what the changelogs say.
    pub(crate) fn difference(&self, from: &Suite, to: &Suite) -> Result<api::Difference, Error> {
        let changes = self.archive().diff(from, to)?;
        let sources = release_diff::sources(&changes, &|digest| self.archive().changelog(digest))?;
        let packages: Vec<api::PackageChange> =
            changes.iter().map(|item| change(item.from.as_deref(), item.to.as_deref())).collect();
        let downloads = release_diff::downloads(&packages);
        Ok(api::Difference { from: from.to_string(), to: to.to_string(), packages, downloads, sources })
    }
}
