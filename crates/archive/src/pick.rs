//! Decides what a pick into a release brings along, and whether the release stays whole. Pure:
//! it looks at sets of packages and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use volary_debian::Version;
use volary_debian::relation::{Offers, Relation};
use volary_model::{Architecture, Component, Digest, InvalidName, PackageName, ReleaseRef};

use crate::clash::{Clash, clash, new_clashes};
use crate::content::{Content, Edits, Place, place_of};
use crate::entry::PackageEntry;
use crate::state::State;

/// A package to take into a release. Written `hello`, or `hello=1.0-1` for a certain version.
#[derive(Debug, Clone)]
pub struct Pick {
    /// The package.
    pub name: PackageName,
    /// The version; without one, that of rolling.
    pub version: Option<Version>,
}

impl FromStr for Pick {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, version) =
            text.split_once('=').map_or((text, None), |(name, version)| (name, Some(version)));
        let invalid = || InvalidName::new("pick", text, "a package, or a package, \"=\" and a version");
        let version = version.map(|version| version.parse().map_err(|_| invalid())).transpose()?;
        Ok(Self { name: name.parse().map_err(|_| invalid())?, version })
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            None => fmt::Display::fmt(&self.name, f),
            Some(version) => write!(f, "{}={version}", self.name),
        }
    }
}

/// Why a package comes into a release, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// It was asked for.
    Asked,
    /// A package that comes in depends on it.
    Needed {
        /// That package.
        by: PackageName,
        /// Its dependency.
        dependency: String,
    },
    /// It is built from the same source as this package, and would not fit its new version.
    SameSource {
        /// That package.
        with: PackageName,
    },
    /// What the release has of it does not go with this package, which comes in.
    Avoids {
        /// That package.
        with: PackageName,
    },
    /// The package came for other architectures, and this one would hide it or be hidden.
    Superseded,
}

/// One change that a pick makes.
#[derive(Debug, Clone)]
pub struct PickChange {
    /// The package.
    pub package: PackageName,
    /// Its architecture.
    pub architecture: Architecture,
    /// Where it stands.
    pub component: Component,
    /// What comes in; none if it only goes.
    pub incoming: Option<Arc<PackageEntry>>,
    /// What the release has now.
    pub replaces: Option<Arc<PackageEntry>>,
    /// Why.
    pub because: Because,
}

impl PickChange {
    pub(crate) fn place(&self) -> Place {
        (self.component.clone(), self.package.clone(), self.architecture.clone())
    }
}

/// What a pick did, or would do.
#[derive(Debug, Clone)]
pub struct PickResult {
    /// The revision that has the changes. With no changes it is the one that was there.
    pub release: ReleaseRef,
    /// The digest of its package set.
    pub digest: Digest,
    /// The changes in order of package and architecture; empty if the release has all already.
    pub changes: Vec<PickChange>,
    /// True if nothing was done, because only the question was asked.
    pub dry_run: bool,
}

/// Why a release cannot take a pick.
#[derive(Debug, thiserror::Error)]
pub enum PickRefusal {
    /// The archive never had it.
    #[error("there is no package {0} in the archive")]
    NoPackage(PackageName),
    /// Rolling does not have it (any more).
    #[error("rolling has no package {name}; name a version: {versions}")]
    NotInRolling {
        /// The package.
        name: PackageName,
        /// The versions that the archive has, newest first.
        versions: String,
    },
    /// No such version.
    #[error("there is no {name} {version}; the archive has {versions}")]
    NoVersion {
        /// The package.
        name: PackageName,
        /// The version that was asked for.
        version: Version,
        /// The versions that the archive has, newest first.
        versions: String,
    },
    /// Nothing was asked for.
    #[error("no package was named")]
    Nothing,
    /// A package that would come in needs something that neither has.
    #[error(
        "{package} {version} ({architecture}) depends on {dependency}, and {there}; \
         pick a version that fits, or build what is missing"
    )]
    Unfulfilled {
        /// The package.
        package: PackageName,
        /// Its version.
        version: Version,
        /// For which architecture.
        architecture: Architecture,
        /// What it depends on.
        dependency: String,
        /// What there is instead.
        there: String,
    },
    /// A package of the release would not fit any more.
    #[error(
        "{package} {version} ({architecture}), which is in the release, depends on {dependency}, and {there}; \
         pick a version of {package} that fits too"
    )]
    Breaks {
        /// The package.
        package: PackageName,
        /// Its version.
        version: Version,
        /// For which architecture.
        architecture: Architecture,
        /// What it depends on.
        dependency: String,
        /// What there would be instead.
        there: String,
    },
    /// Two packages would not go together, and did before, or one of them was not there.
    #[error(
        "{package} {version} ({architecture}) breaks or conflicts with {says}, and the release would have \
         {other} {other_version}; pick a version of {other} that fits, or cut a new release"
    )]
    Clash {
        /// The package that says so.
        package: PackageName,
        /// Its version.
        version: Version,
        /// For which architecture.
        architecture: Architecture,
        /// What it says.
        says: String,
        /// The package that it does not go with.
        other: PackageName,
        /// Its version.
        other_version: Version,
    },
}

struct Planner<'a> {
    state: &'a State,
    base: &'a Content,
    architectures: &'a [Architecture],
    incoming: BTreeMap<Place, (Arc<PackageEntry>, Because)>,
}

/// A dependency that may be fulfilled otherwise after the edits than before.
struct Concerned<'a> {
    entry: &'a Arc<PackageEntry>,
    /// True if the package comes with the edits.
    is_new: bool,
    relation: &'a Relation,
}

/// What a pick changes in a release with the set `base`.
pub(crate) fn plan(
    state: &State,
    base: &Content,
    architectures: &[Architecture],
    picks: &[Pick],
) -> Result<Vec<PickChange>, Box<PickRefusal>> {
    if picks.is_empty() {
        return Err(PickRefusal::Nothing.into());
    }
    let mut planner = Planner { state, base, architectures, incoming: BTreeMap::new() };
    for pick in picks {
        for entry in wanted(state, pick)? {
            planner.bring(entry, Because::Asked);
        }
    }
    if planner.incoming.is_empty() {
        return Ok(Vec::new());
    }
    planner.close()?;
    Ok(planner.changes())
}

/// The packages that a pick names, one for each architecture.
fn wanted(state: &State, pick: &Pick) -> Result<Vec<Arc<PackageEntry>>, Box<PickRefusal>> {
    let name = pick.name.clone();
    let versions = || {
        let all: BTreeSet<&Version> = state.versions(&pick.name).map(|entry| &entry.version).collect();
        let newest: Vec<&str> = all.iter().rev().take(10).map(|version| version.as_str()).collect();
        newest.join(", ")
    };
    let found: Vec<Arc<PackageEntry>> = match &pick.version {
        None => state.rolling.named(&pick.name).cloned().collect(),
        Some(version) => {
            state.versions(&pick.name).filter(|entry| entry.version == *version).cloned().collect()
        }
    };
    match (found.is_empty(), &pick.version) {
        (false, _) => Ok(found),
        (true, _) if state.versions(&pick.name).next().is_none() => Err(PickRefusal::NoPackage(name).into()),
        (true, None) => Err(PickRefusal::NotInRolling { name, versions: versions() }.into()),
        (true, Some(version)) => {
            Err(PickRefusal::NoVersion { name, version: version.clone(), versions: versions() }.into())
        }
    }
}

/// Those of the names that packages of the archive have or provide. A dependency on any other
/// name is for Debian to fulfil.
fn known<'a>(state: &State, names: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let has = |name: &&&str| parsed(name).is_some_and(|name| state.versions(&name).next().is_some());
    let mut known: BTreeSet<&str> = names.iter().filter(has).copied().collect();
    for versions in state.catalogue.values() {
        let newest = versions.values().next_back().expect("a package has at least one version");
        if !newest.is_source() {
            known.extend(newest.provided().iter().filter_map(|name| names.get(name.as_str())));
        }
    }
    known
}

/// A name in a dependency as that of a package, if one can have it.
fn parsed(name: &str) -> Option<PackageName> {
    name.parse().ok()
}

/// True if a package alone fulfils a dependency.
fn fulfils(entry: &PackageEntry, relation: &Relation) -> bool {
    let mut offers = Offers::new();
    offers.add(entry.name.as_str(), &entry.version, entry.relations().provides.as_deref());
    offers.fulfil(relation)
}

/// What the packages of a set offer on an architecture under some of their names.
fn offers(content: &Content, architecture: &Architecture, names: &BTreeSet<&str>) -> Offers {
    let mut offers = Offers::new();
    let provides = |entry: &&Arc<PackageEntry>| {
        entry.provided().iter().any(|name| names.contains(name.as_str()))
            && !names.contains(entry.name.as_str())
    };
    let parsed: Vec<PackageName> = names.iter().filter_map(|name| parsed(name)).collect();
    let named = parsed.iter().flat_map(|name| content.named(name));
    let all = named.chain(content.iter().filter(provides));
    for entry in all.filter(|entry| entry.serves(architecture)) {
        offers.add(entry.name.as_str(), &entry.version, entry.relations().provides.as_deref());
    }
    offers
}

impl Planner<'_> {
    /// Lets a package come in, unless the release has it.
    fn bring(&mut self, entry: Arc<PackageEntry>, because: Because) {
        let there = self.base.at(&entry);
        if there.is_none_or(|there| there.sha256 != entry.sha256) {
            self.incoming.entry(place_of(&entry)).or_insert((entry, because));
        }
    }

    /// The changes to the set: what comes in, and what goes because it came.
    fn edits(&self) -> Edits {
        let mut edits: Edits =
            self.incoming.iter().map(|(key, (entry, _))| (key.clone(), Some(Arc::clone(entry)))).collect();
        for (entry, _) in self.incoming.values() {
            let coming = |architecture: &Architecture| {
                self.incoming.contains_key(&(
                    entry.component.clone(),
                    entry.name.clone(),
                    architecture.clone(),
                ))
            };
            let here = |other: &&Arc<PackageEntry>| {
                other.component == entry.component && other.is_all() != entry.is_all()
            };
            for other in self.base.named(&entry.name).filter(here) {
                // `all` for all makes single ones superfluous; single ones do so once they are
                // there for every architecture.
                let goes = entry.is_all() || self.architectures.iter().all(coming);
                if goes && !coming(&other.architecture) {
                    edits.entry(place_of(other)).or_insert(None);
                }
            }
        }
        edits
    }

    /// Takes along what is needed until nothing is broken that was whole before.
    fn close(&mut self) -> Result<(), Box<PickRefusal>> {
        loop {
            let edits = self.edits();
            let content = self.base.with(&edits);
            let broken = self.broken(&content, &edits);
            if broken.is_empty() {
                let clashes = new_clashes(self.base, &content, &edits, self.architectures);
                if clashes.is_empty() {
                    self.bring_sources();
                    return Ok(());
                }
                for clash in &clashes {
                    self.part(clash)?;
                }
            }
            for (entry, architecture, relation) in &broken {
                self.mend(&content, entry, architecture, relation)?;
            }
        }
    }

    /// Lets the source packages of what comes in come along.
    fn bring_sources(&mut self) {
        let built: Vec<Arc<PackageEntry>> =
            self.incoming.values().map(|(entry, _)| Arc::clone(entry)).collect();
        for entry in built.iter().filter(|entry| !entry.is_source()) {
            if let Some(source) = self.state.source(&entry.source, &entry.source_version) {
                self.bring(Arc::clone(source), Because::SameSource { with: entry.name.clone() });
            }
        }
    }

    /// Dependencies that a set does not fulfil although the archive should, and that were
    /// fulfilled before the edits led to it, or not there.
    fn broken(&self, content: &Content, edits: &Edits) -> Vec<(Arc<PackageEntry>, Architecture, Relation)> {
        let touched = self.touched(edits);
        let concerned = concerned(content, edits, &touched);
        let names = concerned.iter().flat_map(|one| &one.relation.alternatives);
        let names: BTreeSet<&str> = names.map(|target| target.name.as_str()).collect();
        let ours = known(self.state, &names);
        let is_ours = |relation: &Relation| {
            relation.alternatives.iter().all(|target| ours.contains(target.name.as_str()))
        };
        let mut broken = Vec::new();
        for architecture in self.architectures {
            let before = offers(self.base, architecture, &names);
            let offers = offers(content, architecture, &names);
            for Concerned { entry, is_new, relation } in &concerned {
                if entry.serves(architecture)
                    && is_ours(relation)
                    && !offers.fulfil(relation)
                    && (*is_new || before.fulfil(relation))
                {
                    broken.push((Arc::clone(entry), architecture.clone(), (*relation).clone()));
                }
            }
        }
        broken
    }

    /// The names that packages which come or go have or provide: only dependencies on them can
    /// change.
    fn touched(&self, edits: &Edits) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        for ((component, name, architecture), incoming) in edits {
            touched.insert(name.to_string());
            let there = self.base.component(component).and_then(|set| set.get(name, architecture));
            for entry in incoming.iter().chain(there) {
                touched.extend(entry.provided().iter().cloned());
            }
        }
        touched
    }

    /// Lets come in what fulfils a dependency, or says why nothing does.
    fn mend(
        &mut self,
        content: &Content,
        entry: &Arc<PackageEntry>,
        architecture: &Architecture,
        relation: &Relation,
    ) -> Result<(), Box<PickRefusal>> {
        if self.is_outdated(entry) || self.brings(architecture, relation) {
            return Ok(());
        }
        let there = || {
            let [release, rolling] =
                [content, &self.state.rolling].map(|content| offered(content, architecture, relation));
            format!("the release would have {release} and rolling has {rolling}")
        };
        let (package, version) = (entry.name.clone(), entry.version.clone());
        let (dependency, architecture_name) = (relation.to_string(), architecture.clone());
        if self.incoming.contains_key(&place_of(entry)) {
            return match self.offered_by_rolling(architecture, relation) {
                Some(needed) => {
                    self.bring(needed, Because::Needed { by: package, dependency });
                    Ok(())
                }
                None => Err(Box::new(PickRefusal::Unfulfilled {
                    package,
                    version,
                    architecture: architecture_name,
                    dependency,
                    there: there(),
                })),
            };
        }
        let sibling = self.incoming.values().find(|(other, _)| other.source == entry.source);
        let newer = self.state.rolling.at(entry);
        match (sibling, newer) {
            (Some((with, _)), Some(newer)) if newer.sha256 != entry.sha256 => {
                let because = Because::SameSource { with: with.name.clone() };
                self.bring(Arc::clone(newer), because);
                Ok(())
            }
            _ => Err(Box::new(PickRefusal::Breaks {
                package,
                version,
                architecture: architecture_name,
                dependency,
                there: there(),
            })),
        }
    }

    /// Lets a version come in that goes with what comes in, or says that there is none.
    fn part(&mut self, found: &Clash) -> Result<(), Box<PickRefusal>> {
        if self.is_outdated(&found.by) || self.is_outdated(&found.with) {
            return Ok(());
        }
        let comes = |entry: &PackageEntry| self.incoming.contains_key(&place_of(entry));
        let (incoming, there) =
            if comes(&found.by) { (&found.by, &found.with) } else { (&found.with, &found.by) };
        let fits = |entry: &&Arc<PackageEntry>| entry.sha256 != there.sha256 && !clash(entry, incoming);
        match self.state.rolling.at(there).filter(|_| !comes(there)).filter(fits) {
            Some(newer) => {
                let because = Because::Avoids { with: incoming.name.clone() };
                self.bring(Arc::clone(newer), because);
                Ok(())
            }
            None => Err(Box::new(PickRefusal::Clash {
                package: found.by.name.clone(),
                version: found.by.version.clone(),
                architecture: found.architecture.clone(),
                says: found.says.clone(),
                other: found.with.name.clone(),
                other_version: found.with.version.clone(),
            })),
        }
    }

    /// True if another version stands in this place since the trouble was found: for one
    /// architecture it was mended, which mends it for the others too if the package is for all.
    fn is_outdated(&self, entry: &PackageEntry) -> bool {
        self.incoming.get(&place_of(entry)).is_some_and(|(now, _)| now.sha256 != entry.sha256)
    }

    /// True if what comes in fulfils a dependency.
    fn brings(&self, architecture: &Architecture, relation: &Relation) -> bool {
        let mut served = self.incoming.values().filter(|(entry, _)| entry.serves(architecture));
        served.any(|(entry, _)| fulfils(entry, relation))
    }

    /// A package of rolling that fulfils a dependency and is not yet decided otherwise.
    fn offered_by_rolling(
        &self,
        architecture: &Architecture,
        relation: &Relation,
    ) -> Option<Arc<PackageEntry>> {
        let free = |entry: &&Arc<PackageEntry>| {
            entry.serves(architecture) && !self.incoming.contains_key(&place_of(entry))
        };
        let fulfils = |entry: &&Arc<PackageEntry>| fulfils(entry, relation);
        let named = relation.alternatives.iter().filter_map(|target| target.name.parse::<PackageName>().ok());
        for name in named {
            if let Some(found) = self.state.rolling.named(&name).filter(free).find(fulfils) {
                return Some(Arc::clone(found));
            }
        }
        let provider = |entry: &&Arc<PackageEntry>| {
            entry.relations().provides.is_some() && free(entry) && fulfils(entry)
        };
        self.state.rolling.iter().find(provider).cloned()
    }

    fn changes(&self) -> Vec<PickChange> {
        self.edits()
            .into_iter()
            .map(|(place, incoming)| {
                let because =
                    self.incoming.get(&place).map_or(Because::Superseded, |(_, because)| because.clone());
                let (component, package, architecture) = place;
                let there = self.base.component(&component).and_then(|set| set.get(&package, &architecture));
                let replaces = there.cloned();
                PickChange { package, architecture, component, incoming, replaces, because }
            })
            .collect()
    }
}

/// The dependencies that edits may have changed: those of packages that came with them, and those
/// on names that they touch.
fn concerned<'a>(content: &'a Content, edits: &Edits, touched: &BTreeSet<String>) -> Vec<Concerned<'a>> {
    let mut concerned = Vec::new();
    for entry in content.iter() {
        let is_new = touched.contains(entry.name.as_str()) && edits.contains_key(&place_of(entry));
        for relation in &entry.relations().needs {
            let mut names = relation.alternatives.iter().map(|target| target.name.as_str());
            if is_new || names.any(|name| touched.contains(name)) {
                concerned.push(Concerned { entry, is_new, relation });
            }
        }
    }
    concerned
}

/// Says what a set has of the packages that a dependency names.
fn offered(content: &Content, architecture: &Architecture, relation: &Relation) -> String {
    let names = relation.alternatives.iter().filter_map(|target| target.name.parse().ok());
    let entries = names
        .flat_map(|name| content.named(&name).filter(|entry| entry.serves(architecture)).collect::<Vec<_>>());
    let found: Vec<String> = entries.map(|entry| format!("{} {}", entry.name, entry.version)).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}
