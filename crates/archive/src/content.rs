//! What is in a suite: a set of packages for each component.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Component, Digest, PackageName};

use crate::entry::PackageEntry;
use crate::set::{self, Key, PackageSet};

/// Component, package and architecture: the place of an entry in a suite.
pub(crate) type Place = (Component, PackageName, Architecture);

/// Changes to a content: an entry comes in the place of what was there, or what was there goes.
pub(crate) type Edits = BTreeMap<Place, Option<Arc<PackageEntry>>>;

/// The packages of a suite. Copies share what they have in common.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// `main` is always there, so that an empty suite is one that apt can read.
    components: BTreeMap<Component, PackageSet>,
    digest: Arc<OnceLock<Digest>>,
}

impl Default for Content {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

pub(crate) fn place_of(entry: &PackageEntry) -> Place {
    (entry.component.clone(), entry.name.clone(), entry.architecture.clone())
}

impl Content {
    fn new(mut components: BTreeMap<Component, PackageSet>) -> Self {
        components.retain(|_, set| !set.is_empty());
        components.entry(Component::main()).or_default();
        Self { components, digest: Arc::default() }
    }

    /// The sets by component; those of other components than `main` are not empty.
    pub(crate) fn components(&self) -> &BTreeMap<Component, PackageSet> {
        &self.components
    }

    pub(crate) fn component(&self, component: &Component) -> Option<&PackageSet> {
        self.components.get(component)
    }

    /// All entries, in order of component, name and architecture.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.components.values().flat_map(PackageSet::iter)
    }

    /// The binary packages, in that order.
    pub(crate) fn binaries(&self) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.iter().filter(|entry| !entry.is_source())
    }

    /// How many binary packages there are.
    pub(crate) fn len(&self) -> usize {
        self.components.values().map(PackageSet::binaries).sum()
    }

    /// The binary packages of one name in all components.
    pub(crate) fn named(&self, name: &PackageName) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.components.values().flat_map(|set| set.named(name)).filter(|entry| !entry.is_source())
    }

    /// What stands in the place of an entry.
    pub(crate) fn at(&self, entry: &PackageEntry) -> Option<&Arc<PackageEntry>> {
        self.component(&entry.component)?.get(&entry.name, &entry.architecture)
    }

    /// The digest of the content: SHA-256 over one line `component digest` (the digest of its set
    /// in hexadecimal digits) for each component that has packages.
    pub(crate) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut hash = Sha256::new();
            for (component, set) in self.components.iter().filter(|(_, set)| !set.is_empty()) {
                hash.update(format!("{component} {}\n", set.digest().hex()));
            }
            Digest::from_bytes(hash.finalize().into())
        })
    }

    /// The content after these changes. Sets that they do not touch are shared.
    pub(crate) fn with(&self, edits: &Edits) -> Self {
        let mut by_component: BTreeMap<&Component, set::Edits> = BTreeMap::new();
        for ((component, name, architecture), edit) in edits {
            let key: Key = (name.clone(), architecture.clone());
            by_component.entry(component).or_default().insert(key, edit.clone());
        }
        let mut components = self.components.clone();
        for (component, edits) in by_component {
            let set = components.entry(component.clone()).or_default();
            *set = set.with(&edits);
        }
        Self::new(components)
    }
}
