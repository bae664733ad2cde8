//! What differs between two sets of packages.

use std::cmp::Ordering;
use std::sync::Arc;

use volary_debian::Version;
use volary_model::{Architecture, PackageName};

use crate::entry::PackageEntry;
use crate::set::PackageSet;

/// A package that is not the same in two suites.
#[derive(Debug, Clone)]
pub struct PackageChange {
    /// The package.
    pub package: PackageName,
    /// Its architecture.
    pub architecture: Architecture,
    /// What the first suite has.
    pub from: Option<Arc<PackageEntry>>,
    /// What the second suite has.
    pub to: Option<Arc<PackageEntry>>,
}

impl PackageChange {
    /// The version in the first suite.
    pub fn from_version(&self) -> Option<&Version> {
        self.from.as_ref().map(|entry| &entry.version)
    }

    /// The version in the second suite.
    pub fn to_version(&self) -> Option<&Version> {
        self.to.as_ref().map(|entry| &entry.version)
    }
}

/// The changes from one set to the other, in order of package and architecture.
pub(crate) fn diff(from: &PackageSet, to: &PackageSet) -> Vec<PackageChange> {
    let mut changes = Vec::new();
    let (mut left, mut right) = (from.iter().peekable(), to.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)),
        };
        let from = if order.is_le() { left.next() } else { None };
        let to = if order.is_ge() { right.next() } else { None };
        if from.map(|entry| entry.sha256) == to.map(|entry| entry.sha256) {
            continue;
        }
        let either = from.or(to).expect("one side has an entry");
        changes.push(PackageChange {
            package: either.name.clone(),
            architecture: either.architecture.clone(),
            from: from.cloned(),
            to: to.cloned(),
        });
    }
}
