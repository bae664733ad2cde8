//! Which packages apt is asked to change so that a device has what its suite has.

use std::collections::BTreeMap;
use std::fmt::Display;

/// A package that is installed on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed<V> {
    /// Its name.
    pub name: String,
    /// Its architecture: the device's, `all`, or a foreign one.
    pub architecture: String,
    /// Its version.
    pub version: V,
}

/// A package that the suite offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<V> {
    /// Its name.
    pub name: String,
    /// Its architecture: the device's or `all`.
    pub architecture: String,
    /// Its version.
    pub version: V,
}

/// One package that must move to the suite's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<V> {
    /// The package.
    pub name: String,
    /// What is installed.
    pub from: V,
    /// What the suite has: newer or older.
    pub to: V,
}

impl<V: Display> Change<V> {
    /// The package and its target as apt takes them: `name=version`.
    pub fn argument(&self) -> String {
        format!("{}={}", self.name, self.to)
    }
}

/// Every installed package that the suite offers goes to the suite's version, up or down. What
/// the suite does not offer, or what is not installed, is left alone. Packages of a foreign
/// architecture are left alone too: the suite's index is that of the device's own.
///
/// `V` orders as Debian versions do; if a suite offers one name twice, the highest counts.
pub fn plan_upgrade<V: Ord + Clone>(installed: &[Installed<V>], suite: &[Offer<V>]) -> Vec<Change<V>> {
    let mut offers: BTreeMap<&str, &Offer<V>> = BTreeMap::new();
    for offer in suite {
        let best = offers.entry(&offer.name).or_insert(offer);
        if offer.version > best.version {
            *best = offer;
        }
    }
    let mut changes: Vec<Change<V>> = installed
        .iter()
        .filter_map(|package| {
            let offer = offers.get(package.name.as_str())?;
            // A package may turn from "any" to "all" between two versions, and back.
            let same = package.architecture == offer.architecture
                || package.architecture == "all"
                || offer.architecture == "all";
            (same && package.version != offer.version).then(|| Change {
                name: package.name.clone(),
                from: package.version.clone(),
                to: offer.version.clone(),
            })
        })
        .collect();
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes.dedup_by(|a, b| a.name == b.name);
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn check(installed: &[(&str, &str, u32)], suite: &[(&str, &str, u32)], expected: &[&str]) {
        let have: Vec<_> = installed
            .iter()
            .map(|&(name, architecture, version)| Installed {
                name: name.into(),
                architecture: architecture.into(),
                version,
            })
            .collect();
        let offers: Vec<_> = suite
            .iter()
            .map(|&(name, architecture, version)| Offer {
                name: name.into(),
                architecture: architecture.into(),
                version,
            })
            .collect();
        let plan: Vec<String> = plan_upgrade(&have, &offers).iter().map(Change::argument).collect();
        assert_eq!(plan, expected);
    }

    #[test]
    fn installed_packages_go_to_the_suite_up_or_down() {
        check(
            &[("up", "amd64", 1), ("down", "amd64", 9), ("same", "amd64", 5), ("ours-not", "amd64", 1)],
            &[("up", "amd64", 2), ("down", "amd64", 8), ("same", "amd64", 5), ("new", "amd64", 1)],
            &["down=8", "up=2"],
        );
    }

    #[test]
    fn architecture_counts_unless_one_side_is_all() {
        check(&[("a", "armhf", 1)], &[("a", "amd64", 2)], &[]);
        check(&[("a", "all", 1)], &[("a", "amd64", 2)], &["a=2"]);
        check(&[("a", "amd64", 1)], &[("a", "all", 2)], &["a=2"]);
    }

    #[test]
    fn of_two_offers_the_higher_counts() {
        check(&[("a", "amd64", 1)], &[("a", "amd64", 3), ("a", "amd64", 2)], &["a=3"]);
    }

    fn package() -> impl Strategy<Value = (String, u8)> {
        ("[a-e]", any::<u8>())
    }

    proptest! {
        #[test]
        fn carrying_out_a_plan_leaves_nothing_to_do(
            have in prop::collection::btree_map("[a-e]", any::<u8>(), 0..5),
            offers in prop::collection::vec(package(), 0..8),
        ) {
            let suite: Vec<_> = offers
                .iter()
                .map(|(name, version)| Offer {
                    name: name.clone(),
                    architecture: "amd64".into(),
                    version: *version,
                })
                .collect();
            let mut installed: Vec<_> = have
                .iter()
                .map(|(name, version)| Installed {
                    name: name.clone(),
                    architecture: "amd64".into(),
                    version: *version,
                })
                .collect();
            for change in plan_upgrade(&installed, &suite) {
                let package = installed.iter_mut().find(|package| package.name == change.name).unwrap();
                prop_assert_eq!(package.version, change.from);
                package.version = change.to;
            }
            prop_assert!(plan_upgrade(&installed, &suite).is_empty());
            for package in &installed {
                let best = suite.iter().filter(|o| o.name == package.name).map(|o| o.version).max();
                prop_assert_eq!(package.version, best.unwrap_or(have[&package.name]));
            }
        }
    }
}
