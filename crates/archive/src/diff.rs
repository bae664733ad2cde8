//! What differs between two sets of packages.

use std::cmp::Ordering;
use std::sync::Arc;

use volary_debian::Version;
use volary_model::{Architecture, Component, PackageName};

use crate::content::Content;
use crate::entry::PackageEntry;

/// A package that is not the same in two suites.
#[derive(Debug, Clone)]
pub struct PackageChange {
    /// The package.
    pub package: PackageName,
    /// Its architecture.
    pub architecture: Architecture,
    /// Where it stands.
    pub component: Component,
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

/// The changes from one content to the other, in order of component, package and architecture.
pub(crate) fn diff(from: &Content, to: &Content) -> Vec<PackageChange> {
    let mut changes = Vec::new();
    let (mut left, mut right) = (from.binaries().peekable(), to.binaries().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => place(a).cmp(&place(b)),
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
            component: either.component.clone(),
            from: from.cloned(),
            to: to.cloned(),
        });
    }
}

fn place(entry: &PackageEntry) -> (&Component, &PackageName, &Architecture) {
    (&entry.component, &entry.name, &entry.architecture)
}
