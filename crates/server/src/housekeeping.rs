//! What of old builds is kept: logs by number, all that made a package which is still offered; and
//! each `.buildinfo` as long as a package of its build is in the archive. Pure decision.

use std::collections::{BTreeMap, BTreeSet};

use volary_model::SourceName;

/// A build, as far as its files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OldBuild {
    pub(crate) id: i64,
    pub(crate) source: SourceName,
    /// It neither waits nor runs.
    pub(crate) over: bool,
    /// There is a `.buildinfo` of it.
    pub(crate) has_buildinfo: bool,
}

/// What may go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Surplus {
    pub(crate) logs: Vec<i64>,
    pub(crate) buildinfos: Vec<i64>,
}

/// What may go of these builds. `offered` are the builds of which a package is in a suite,
/// `archived` those of which one is in the archive at all.
pub(crate) fn surplus(
    builds: &[OldBuild],
    offered: &BTreeSet<i64>,
    archived: &BTreeSet<i64>,
    keep_logs: usize,
) -> Surplus {
    let mut newest: BTreeMap<&SourceName, Vec<i64>> = BTreeMap::new();
    for build in builds {
        newest.entry(&build.source).or_default().push(build.id);
    }
    for ids in newest.values_mut() {
        ids.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
        ids.truncate(keep_logs);
    }
    let over = || builds.iter().filter(|build| build.over);
    let kept = |build: &&OldBuild| newest[&build.source].contains(&build.id) || offered.contains(&build.id);
    let unneeded = |build: &&OldBuild| build.has_buildinfo && !archived.contains(&build.id);
    Surplus {
        logs: over().filter(|build| !kept(build)).map(|build| build.id).collect(),
        buildinfos: over().filter(unneeded).map(|build| build.id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_offered_stay() {
        let build = |id: i64, source: &str| OldBuild {
            id,
            source: source.parse().unwrap(),
            over: id != 9,
            has_buildinfo: id != 2,
        };
        let builds: Vec<_> = [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "a"), (9, "a")]
            .map(|(id, name)| build(id, name))
            .into();
        let check = |offered: &[i64], archived: &[i64], keep, logs: &[i64], buildinfos: &[i64]| {
            let set = |ids: &[i64]| ids.iter().copied().collect();
            let found = surplus(&builds, &set(offered), &set(archived), keep);
            assert_eq!((found.logs.as_slice(), found.buildinfos.as_slice()), (logs, buildinfos));
        };
        check(&[], &[], 2, &[1, 2, 4], &[1, 3, 4, 5]);
        check(&[2], &[1, 2, 3], 2, &[1, 4], &[4, 5]);
        check(&[], &[1, 3, 4, 5], 100, &[], &[]);
        // One that runs keeps what it writes.
        check(&[], &[1, 3, 4, 5], 0, &[1, 2, 3, 4, 5], &[]);
    }
}
