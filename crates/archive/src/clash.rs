//! Which packages of a suite say that they do not go with another one: `Breaks` and `Conflicts`.
//! Pure: it looks at sets of packages. What to do about it is for `pick`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use volary_debian::relation::{Offers, Target};
use volary_model::Architecture;

use crate::content::{Content, Edits, place_of};
use crate::entry::PackageEntry;

/// A package and another one that it does not go with.
#[derive(Debug, Clone)]
pub(crate) struct Clash {
    pub(crate) by: Arc<PackageEntry>,
    pub(crate) with: Arc<PackageEntry>,
    /// On a device of this architecture.
    pub(crate) architecture: Architecture,
    /// What the first one says: `libfoo (<< 2)`.
    pub(crate) says: String,
}

/// The clashes that edits bring into a content, which was `base` before them: one of the two came
/// with the edits, and the two did not clash before.
pub(crate) fn new_clashes(
    base: &Content,
    content: &Content,
    edits: &Edits,
    architectures: &[Architecture],
) -> Vec<Clash> {
    let names: HashSet<&str> = edits.keys().map(|(_, name, _)| name.as_str()).collect();
    let came = |entry: &PackageEntry| {
        names.contains(entry.name.as_str()) && edits.get(&place_of(entry)).is_some_and(Option::is_some)
    };
    let concerned = concerned(content, edits);
    let mut clashes = Vec::new();
    for architecture in architectures {
        let here: Vec<&Arc<PackageEntry>> =
            concerned.iter().copied().filter(|entry| entry.serves(architecture)).collect();
        let offering = by_name(&here);
        for by in &here {
            let by_came = came(by);
            for target in against(by) {
                for with in offering.get(target.name.as_str()).into_iter().flatten() {
                    if (by_came || came(with))
                        && meets(by, target, with)
                        && !was_so(base, architecture, by, with)
                    {
                        let says = target.to_string();
                        let (by, with) = (Arc::clone(by), Arc::clone(with));
                        clashes.push(Clash { by, with, architecture: architecture.clone(), says });
                    }
                }
            }
        }
    }
    clashes
}

/// The packages of a content that came with the edits, those that speak against one of them, and
/// those that one of them speaks against: nobody else can be in a new clash.
fn concerned<'a>(content: &'a Content, edits: &Edits) -> Vec<&'a Arc<PackageEntry>> {
    let incoming: Vec<&Arc<PackageEntry>> = edits.values().flatten().collect();
    let mut theirs: BTreeSet<String> = incoming.iter().map(|entry| entry.name.to_string()).collect();
    theirs.extend(incoming.iter().flat_map(|entry| entry.provided().iter().cloned()));
    let spoken: BTreeSet<&str> =
        incoming.iter().flat_map(|entry| against(entry)).map(|target| target.name.as_str()).collect();
    let is_concerned = |entry: &&Arc<PackageEntry>| {
        theirs.contains(entry.name.as_str())
            || against(entry).any(|target| theirs.contains(&target.name))
            || spoken.contains(entry.name.as_str())
            || entry.provided().iter().any(|name| spoken.contains(name.as_str()))
    };
    content.binaries().filter(is_concerned).collect()
}

/// True if the first package says that it does not go with the second, or the other way round.
pub(crate) fn clash(a: &PackageEntry, b: &PackageEntry) -> bool {
    against(a).any(|target| meets(a, target, b)) || against(b).any(|target| meets(b, target, a))
}

fn against(entry: &PackageEntry) -> impl Iterator<Item = &Target> {
    entry.relations().against.iter().flat_map(|relation| &relation.alternatives)
}

/// The packages under each name that they have or provide, for the names that are spoken against.
fn by_name<'a>(entries: &[&'a Arc<PackageEntry>]) -> HashMap<&'a str, Vec<&'a Arc<PackageEntry>>> {
    let spoken: HashSet<&str> =
        entries.iter().flat_map(|entry| against(entry)).map(|target| target.name.as_str()).collect();
    let mut offering: HashMap<&str, Vec<&Arc<PackageEntry>>> = HashMap::new();
    for entry in entries {
        let mut names: Vec<&str> = spoken.get(entry.name.as_str()).copied().into_iter().collect();
        names.extend(entry.provided().iter().filter_map(|name| spoken.get(name.as_str()).copied()));
        for name in names {
            offering.entry(name).or_default().push(entry);
        }
    }
    // The names are those of the packages that speak, which live as long.
    offering
}

/// True if what `by` says against `target` is about `with`.
fn meets(by: &PackageEntry, target: &Target, with: &PackageEntry) -> bool {
    // A package never clashes with itself, for whatever architecture it was built.
    if by.name == with.name {
        return false;
    }
    // Who provides a name and conflicts with it says that there can be one on each device, not
    // that the archive may have only one: mail servers do.
    if target.name != with.name.as_str() && by.provided().contains(&target.name) {
        return false;
    }
    let mut offers = Offers::new();
    offers.add(with.name.as_str(), &with.version, with.relations().provides.as_deref());
    offers.fulfil_target(target)
}

/// True if two packages of these names clashed before.
fn was_so(base: &Content, architecture: &Architecture, a: &PackageEntry, b: &PackageEntry) -> bool {
    let had = |entry: &PackageEntry| {
        let named = base.named(&entry.name).filter(|entry| entry.serves(architecture));
        named.cloned().collect::<Vec<_>>()
    };
    let others = had(b);
    had(a).iter().any(|a| others.iter().any(|b| clash(a, b)))
}
