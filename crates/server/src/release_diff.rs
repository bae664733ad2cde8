//! The difference between two suites: what the changelogs say about it, and what devices fetch.

use std::collections::{BTreeMap, BTreeSet};

use volary_api::v1::archive::{ChangelogEntry, Download, PackageChange as Change, SourceChange};
use volary_archive::{Error, PackageChange, PackageEntry};
use volary_debian::changelog::{self, Entry};
use volary_model::{Architecture, Digest};

/// Reads the changelog of a package; `None` if it has none.
type Changelog<'a> = &'a dyn Fn(&Digest) -> Result<Option<String>, Error>;

/// The changes of the sources of the packages that are in the second suite, each source once.
pub(crate) fn sources(changes: &[PackageChange], read: Changelog<'_>) -> Result<Vec<SourceChange>, Error> {
    let mut sources: BTreeMap<(&str, &str), SourceChange> = BTreeMap::new();
    for change in changes {
        let Some(to) = &change.to else { continue };
        let key = (to.source.as_str(), to.source_version.as_str());
        let from = change.from.as_deref().filter(|from| from.source == to.source);
        let known = sources.get(&key).is_some_and(|known| !known.entries.is_empty());
        if known || to.is_source() || from.is_some_and(|from| from.source_version == to.source_version) {
            continue;
        }
        sources.insert(key, source_change(from, to, read)?);
    }
    Ok(sources.into_values().collect())
}

fn source_change(
    from: Option<&PackageEntry>,
    to: &PackageEntry,
    read: Changelog<'_>,
) -> Result<SourceChange, Error> {
    let backwards = from.is_some_and(|from| from.source_version > to.source_version);
    let entries = match from {
        None => read(&to.sha256)?.and_then(|text| changelog::top(&text).ok()).into_iter().collect(),
        Some(from) => {
            let (old, new) = if backwards { (to, from) } else { (from, to) };
            let text = read(&new.sha256)?.unwrap_or_default();
            // One that cannot be read says nothing; the versions are told anyway.
            changelog::between(&text, &old.source_version, &new.source_version).unwrap_or_default()
        }
    };
    Ok(SourceChange {
        source: to.source.to_string(),
        from: from.map(|from| from.source_version.to_string()),
        to: to.source_version.to_string(),
        backwards,
        entries: entries.into_iter().map(entry).collect(),
    })
}

fn entry(entry: Entry) -> ChangelogEntry {
    ChangelogEntry { version: entry.version.to_string(), changes: entry.changes, trailer: entry.trailer }
}

/// What a device of each architecture fetches, if it has all of the packages.
pub(crate) fn downloads(changes: &[Change]) -> Vec<Download> {
    let is = |change: &Change, name: &str| change.architecture.as_str() == name;
    let binaries: Vec<&Change> = changes.iter().filter(|change| !is(change, "source")).collect();
    let own: BTreeSet<&Architecture> =
        binaries.iter().filter(|change| !is(change, "all")).map(|change| &change.architecture).collect();
    // With packages for all only, all fetch the same.
    let all = binaries.first().map(|first| &first.architecture).filter(|_| own.is_empty());
    own.into_iter()
        .chain(all)
        .map(|architecture| {
            let served = binaries
                .iter()
                .filter(|change| change.architecture == *architecture || is(change, "all"))
                // Nothing is fetched for what goes; nobody has to take it off either.
                .filter(|change| change.to.is_some());
            let none = Download { architecture: architecture.clone(), packages: 0, bytes: 0, growth: 0 };
            served.fold(none, |sum, change| Download {
                packages: sum.packages + 1,
                bytes: sum.bytes + change.size,
                growth: sum
                    .growth
                    .saturating_add_unsigned(change.installed)
                    .saturating_sub_unsigned(change.installed_before),
                ..sum
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(architecture: &str, sizes: (u64, u64), installed: (u64, u64)) -> Change {
        Change {
            name: "hello".parse().unwrap(),
            architecture: architecture.parse().unwrap(),
            from: (sizes.0 > 0).then(|| "1".to_owned()),
            to: (sizes.1 > 0).then(|| "2".to_owned()),
            size: sizes.1,
            size_before: sizes.0,
            installed: installed.1,
            installed_before: installed.0,
            because: String::new(),
        }
    }

    fn check(changes: &[Change], expected: &[(&str, u64, u64, i64)]) {
        let found = downloads(changes);
        let found: Vec<(&str, u64, u64, i64)> = found
            .iter()
            .map(|one| (one.architecture.as_str(), one.packages, one.bytes, one.growth))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_device_fetches_what_is_for_its_architecture() {
        let all = change("all", (10, 20), (100, 50));
        let amd64 = change("amd64", (0, 7), (0, 30));
        let arm64 = change("arm64", (5, 0), (40, 0));
        check(&[], &[]);
        check(&[change("source", (0, 9), (0, 0))], &[]);
        check(std::slice::from_ref(&all), &[("all", 1, 20, -50)]);
        check(&[all.clone(), amd64], &[("amd64", 2, 27, -20)]);
        check(&[all, arm64], &[("arm64", 1, 20, -50)]);
    }
}
