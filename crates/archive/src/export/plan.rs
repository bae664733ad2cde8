//! What an export still has to do, decided from what should be there and what is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use volary_model::Digest;

use crate::export::target::{Inventory, Kind};

/// A file of the archive whose content never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) sha256: Digest,
    pub(crate) kind: Kind,
}

/// Those that are not there, or have another size and so were cut off, or are asked for again;
/// each once.
pub(crate) fn missing<'a>(
    objects: impl Iterator<Item = &'a Object>,
    inventory: &Inventory,
    again: &BTreeSet<String>,
) -> Vec<&'a Object> {
    let mut missing: BTreeMap<&str, &Object> = BTreeMap::new();
    for object in objects {
        if inventory.get(&object.key) != Some(&object.size) || again.contains(&object.key) {
            missing.insert(&object.key, object);
        }
    }
    missing.into_values().collect()
}

/// What becomes of the objects that nothing names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Their time is over; an InRelease comes before what it names.
    pub(crate) remove: Vec<String>,
    /// They stay for now, each with the time since which nothing names it.
    pub(crate) unnamed: BTreeMap<String, Timestamp>,
}

/// Decides about all objects that are there. `unnamed` is what was not named before. A client
/// that holds an old index may still fetch what that names, for the time of `grace`.
pub(crate) fn sweep(
    inventory: &Inventory,
    named: &BTreeSet<String>,
    unnamed: &BTreeMap<String, Timestamp>,
    grace: SignedDuration,
    now: Timestamp,
) -> Sweep {
    let mut sweep = Sweep::default();
    for key in inventory.keys().filter(|key| !named.contains(*key)) {
        let since = unnamed.get(key).copied().unwrap_or(now);
        if is_over(since, grace, now) {
            sweep.remove.push(key.clone());
        } else {
            sweep.unnamed.insert(key.clone(), since);
        }
    }
    sweep.remove.sort_by_key(|key| !is_release(key));
    sweep
}

/// Whether the grace of something that is unnamed since then is over. A clock that went back
/// ends none.
pub(crate) fn is_over(since: Timestamp, grace: SignedDuration, now: Timestamp) -> bool {
    now.duration_since(since) >= grace && since != now
}

fn is_release(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    ["InRelease", "Release", "Release.gpg"].contains(&name)
}

/// The suite whose `InRelease` has this key.
pub(crate) fn suite_of(key: &str) -> Option<&str> {
    key.strip_prefix("dists/")?.strip_suffix("/InRelease")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, size: u64) -> Object {
        let sha256 = Digest::from_bytes([7; 32]);
        Object { key: key.to_owned(), size, sha256, kind: Kind::Package }
    }

    fn inventory(keys: &[(&str, u64)]) -> Inventory {
        keys.iter().map(|(key, size)| ((*key).to_owned(), *size)).collect()
    }

    #[test]
    fn only_what_is_missing_cut_off_or_asked_for_is_put_once() {
        let objects = [object("a", 1), object("b", 2), object("b", 2), object("c", 3), object("d", 4)];
        let there = inventory(&[("a", 1), ("c", 2), ("d", 4), ("x", 9)]);
        let again = BTreeSet::from(["d".to_owned()]);
        let keys: Vec<_> = missing(objects.iter(), &there, &again).iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["b", "c", "d"]);
    }

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3600).unwrap()
    }

    fn swept(unnamed: &[(&str, i64)], grace: i64, now: i64) -> (Vec<String>, Vec<(String, Timestamp)>) {
        let there = inventory(&[("pool/a", 1), ("pool/b", 1), ("dists/x/InRelease", 1), ("dists/x/i", 1)]);
        let named = BTreeSet::from(["pool/a".to_owned()]);
        let unnamed = unnamed.iter().map(|(key, hour)| ((*key).to_owned(), at(*hour))).collect();
        let sweep = sweep(&there, &named, &unnamed, SignedDuration::from_hours(grace), at(now));
        (sweep.remove, sweep.unnamed.into_iter().collect())
    }

    #[test]
    fn what_nothing_names_stays_for_its_grace() {
        let (remove, unnamed) = swept(&[], 24, 10);
        assert!(remove.is_empty());
        let keys = ["dists/x/InRelease", "dists/x/i", "pool/b"];
        assert_eq!(unnamed, keys.map(|key| (key.to_owned(), at(10))));
        let (remove, unnamed) =
            swept(&[("pool/b", 10), ("dists/x/i", 10), ("dists/x/InRelease", 10)], 24, 33);
        assert!(remove.is_empty() && unnamed.iter().all(|(_, since)| *since == at(10)));
        let (remove, unnamed) =
            swept(&[("pool/b", 10), ("dists/x/i", 10), ("dists/x/InRelease", 10)], 24, 34);
        assert_eq!(remove, ["dists/x/InRelease", "dists/x/i", "pool/b"]);
        assert!(unnamed.is_empty());
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing_and_what_is_named_again_stays() {
        assert!(swept(&[("pool/b", 100)], 24, 10).0.is_empty());
        assert!(swept(&[("pool/a", 1)], 24, 100).0.is_empty());
        // Without grace nothing goes in the run that finds it, since a client may be at work.
        assert!(swept(&[], 0, 10).0.is_empty());
        assert_eq!(swept(&[("pool/b", 9)], 0, 10).0, ["pool/b"]);
    }

    #[test]
    fn suites_are_known_by_their_inrelease() {
        assert_eq!(suite_of("dists/v1.0/r2/InRelease"), Some("v1.0/r2"));
        assert_eq!(suite_of("dists/rolling/main/InRelease.x"), None);
    }
}
