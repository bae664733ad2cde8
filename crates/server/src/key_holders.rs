//! Which of the archive's keys stages and devices have: what `.volary/archive.asc` says at the
//! commits that they are at. A device has the keys of the commit that it converged to last.

use std::collections::{BTreeMap, BTreeSet};

use volary_archive::fingerprints;
use volary_fleet::{ARCHIVE_KEY_FILE, GitRepository, ReadObjects, file_at};
use volary_model::CommitId;
use volary_store::{Device, DeviceState};

use crate::fleet_view::FleetView;

/// Somebody who verifies suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// `stage canary at 1a2b3c4d`, `device gate-7 at 1a2b3c4d`.
    pub(crate) name: String,
    /// The fingerprints that it has.
    pub(crate) keys: BTreeSet<String>,
}

/// The stages and devices with their keys. A device that has not converged yet takes the keys of
/// its stage when it does.
pub(crate) fn holders(repository: &GitRepository, view: &FleetView, devices: &[Device]) -> Vec<Holder> {
    let stages = view.stages.iter().filter_map(|stage| {
        let tip = stage.tip.as_ref()?;
        Some((format!("stage {}", stage.name), tip.commit.clone()))
    });
    let devices = devices.iter().filter(|device| device.state == DeviceState::Accepted);
    let devices = devices.filter_map(|device| {
        let commit = device.good_commit.clone()?;
        Some((format!("device {}", device.name), commit))
    });
    let mut known: BTreeMap<CommitId, BTreeSet<String>> = BTreeMap::new();
    stages
        .chain(devices)
        .map(|(name, commit)| {
            let keys = known.entry(commit.clone()).or_insert_with(|| keys_at(repository, &commit));
            Holder { name: format!("{name} at {}", commit.short()), keys: keys.clone() }
        })
        .collect()
}

/// The keys at a commit; none if it cannot be read, since then nobody can say that they are there.
fn keys_at(repository: &GitRepository, commit: &CommitId) -> BTreeSet<String> {
    let text = repository
        .commit(commit)
        .ok()
        .and_then(|commit| file_at(repository, &commit.tree, ARCHIVE_KEY_FILE).ok().flatten())
        .unwrap_or_default();
    fingerprints(&String::from_utf8_lossy(&text)).unwrap_or_default()
}

/// Those who have none of the keys that stay: they could verify nothing any more.
pub(crate) fn lacking(holders: &[Holder], staying: &BTreeSet<String>) -> Vec<String> {
    let lacks = |holder: &&Holder| holder.keys.is_disjoint(staying);
    holders.iter().filter(lacks).map(|holder| holder.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_that_stays_is_enough() {
        let set = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        let holder = |name: &str, keys: &str| Holder { name: name.to_owned(), keys: set(keys) };
        let all = [holder("a", "OLD"), holder("b", "OLD NEW"), holder("c", "NEW"), holder("d", "")];
        assert_eq!(lacking(&all, &set("NEW")), ["a", "d"]);
        assert_eq!(lacking(&all, &set("OLD NEW")), ["d"]);
    }
}
