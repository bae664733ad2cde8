//! Chooses among what a publication offers. Pure: the same offers and filter give the same
//! choice, with the reason for each package and what could not be fulfilled.
//!
//! It is no solver: it takes along what a chosen package needs, so that an apt which sees only
//! the choice can install each of its packages. Whether two of them conflict is for apt to see.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use volary_debian::relation::{Offers, Relation, Target};
use volary_model::{Architecture, InvalidName, PackageName};

use super::offered::{Offered, Priority};

/// The name of a package, or a pattern in which `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

impl NamePattern {
    /// True if it is for this package.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().expect("a split has a first part");
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = self.0.rsplit_once('*').map(|(_, last)| last) else { return rest.is_empty() };
        let middle = self.0.matches('*').count() - 1;
        for part in parts.take(middle) {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl FromStr for NamePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // Without the stars it must be what a name may consist of.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.*".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(plain) {
            return Err(InvalidName::new(
                "pattern",
                text,
                "the name of a package, in which * may stand for any text",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for NamePattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What to take of a publication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Packages by name. With no names, no priorities and no `like`, everything is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<NamePattern>,
    /// Packages by priority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<Priority>,
    /// Take along what those need.
    #[serde(default)]
    pub closure: bool,
    /// Take along what those recommend.
    #[serde(default)]
    pub recommends: bool,
    /// Take along the source packages.
    #[serde(default)]
    pub sources: bool,
}

impl Filter {
    /// True if it lets everything through.
    pub fn takes_all(&self) -> bool {
        self.packages.is_empty() && self.priorities.is_empty()
    }
}

/// What the archive has besides this mirror: it fulfils dependencies, for each architecture.
pub type Present = BTreeMap<Architecture, Offers>;

/// Why a package is in a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Everything is.
    Everything,
    /// The filter names it.
    Named(NamePattern),
    /// The filter names its priority.
    Priority(Priority),
    /// A package that is in needs it.
    Needed {
        /// That package.
        by: PackageName,
        /// Its dependency.
        dependency: String,
    },
    /// A package that is in recommends it.
    Recommended {
        /// That package.
        by: PackageName,
        /// What it recommends.
        dependency: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("the mirror takes everything"),
            Self::Named(pattern) => write!(f, "the filter names {pattern}"),
            Self::Priority(priority) => {
                write!(f, "its priority is {} and the filter names that", priority.as_str())
            }
            Self::Needed { by, dependency } => write!(f, "{by} depends on {dependency}"),
            Self::Recommended { by, dependency } => write!(f, "{by} recommends {dependency}"),
        }
    }
}

/// A dependency of a chosen package that nothing fulfils.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfulfilled {
    /// The package.
    pub package: PackageName,
    /// For which architecture.
    pub architecture: Architecture,
    /// What it depends on.
    pub dependency: String,
}

impl fmt::Display for Unfulfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) depends on {}", self.package, self.architecture, self.dependency)
    }
}

/// A chosen package.
#[derive(Debug, Clone)]
pub struct Selected<'a> {
    /// The package.
    pub offered: &'a Offered<'a>,
    /// Why it is in.
    pub reason: Reason,
}

/// The choice.
#[derive(Debug, Default)]
pub struct Selection<'a> {
    /// The packages in order of name and architecture, one version of each.
    pub chosen: Vec<Selected<'a>>,
    /// What a chosen package needs and nothing fulfils.
    pub unfulfilled: Vec<Unfulfilled>,
    /// Names of the filter that no package has.
    pub unmatched: Vec<NamePattern>,
}

/// Chooses. `offered` may have the same package several times; the newest version counts.
pub fn select<'a>(
    architectures: &[Architecture],
    offered: &'a [Offered<'a>],
    filter: &Filter,
    present: &Present,
) -> Selection<'a> {
    let mut chosen: BTreeMap<(&PackageName, &Architecture), Selected<'a>> = BTreeMap::new();
    let mut unfulfilled = Vec::new();
    let nothing = Offers::new();
    for architecture in architectures {
        let universe = Universe::new(architecture, offered);
        let present = present.get(architecture).unwrap_or(&nothing);
        let mut closure =
            Closure { universe: &universe, present, have: Offers::new(), chosen: BTreeMap::new() };
        let seeds = universe.seeds(filter);
        for (package, reason) in seeds {
            closure.take(package, reason);
        }
        if filter.closure {
            unfulfilled.extend(closure.close(architecture, filter.recommends));
        }
        for (_, selected) in closure.chosen {
            let offered = selected.offered;
            chosen.entry((&offered.name, &offered.architecture)).or_insert(selected);
        }
    }
    let names: BTreeSet<&str> = offered.iter().map(|package| package.name.as_str()).collect();
    let unmatched = filter.packages.iter().filter(|pattern| !names.iter().any(|name| pattern.matches(name)));
    Selection { chosen: chosen.into_values().collect(), unfulfilled, unmatched: unmatched.cloned().collect() }
}

/// What one architecture could install: the newest version of each package.
struct Universe<'a> {
    by_name: BTreeMap<&'a str, &'a Offered<'a>>,
    /// Who provides a name, best first.
    providers: HashMap<&'a str, Vec<&'a Offered<'a>>>,
}

impl<'a> Universe<'a> {
    fn new(architecture: &Architecture, offered: &'a [Offered<'a>]) -> Self {
        let mut by_name: BTreeMap<&str, &Offered<'_>> = BTreeMap::new();
        for package in offered.iter().filter(|one| one.is_all() || one.architecture == *architecture) {
            by_name
                .entry(package.name.as_str())
                .and_modify(|there| {
                    if there.version < package.version {
                        *there = package;
                    }
                })
                .or_insert(package);
        }
        let mut providers: HashMap<&str, Vec<&Offered<'_>>> = HashMap::new();
        for package in by_name.values() {
            for (name, _) in &package.provides {
                providers.entry(name).or_default().push(package);
            }
        }
        for list in providers.values_mut() {
            // The names are in order already, and sorting keeps that.
            list.sort_by_key(|package| package.priority);
        }
        Self { by_name, providers }
    }

    fn seeds(&self, filter: &Filter) -> Vec<(&'a Offered<'a>, Reason)> {
        let reason = |package: &Offered<'_>| {
            if filter.takes_all() {
                return Some(Reason::Everything);
            }
            let named = filter.packages.iter().find(|pattern| pattern.matches(package.name.as_str()));
            let named = named.map(|pattern| Reason::Named(pattern.clone()));
            let wanted = filter.priorities.contains(&package.priority);
            named.or_else(|| wanted.then_some(Reason::Priority(package.priority)))
        };
        self.by_name.values().filter_map(|package| Some((*package, reason(package)?))).collect()
    }

    /// The packages that fulfil a target, best first: the one of that name, then who provides it.
    fn candidates(&self, target: &Target) -> impl Iterator<Item = &'a Offered<'a>> {
        let fits = |version: Option<&volary_debian::Version>| match (&target.version, version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((operator, wanted)), Some(have)) => operator.holds(have, wanted),
        };
        let own = self.by_name.get(target.name.as_str()).copied();
        let own = own.filter(|package| fits(Some(&package.version)));
        let providing = self.providers.get(target.name.as_str()).into_iter().flatten().copied();
        let providing = providing.filter(move |package| {
            package.provides.iter().any(|(name, version)| *name == target.name && fits(version.as_ref()))
        });
        own.into_iter().chain(providing)
    }
}

struct Closure<'u, 'a> {
    universe: &'u Universe<'a>,
    present: &'u Offers,
    /// What the chosen packages offer.
    have: Offers,
    chosen: BTreeMap<&'a str, Selected<'a>>,
}

/// A dependency that waits, with the package that has it.
struct Open<'a> {
    by: &'a Offered<'a>,
    relation: Relation,
    /// It is only recommended.
    weak: bool,
}

impl<'a> Closure<'_, 'a> {
    /// Takes a package in; false if it is in already.
    fn take(&mut self, package: &'a Offered<'a>, reason: Reason) -> bool {
        let name = package.name.as_str();
        if self.chosen.contains_key(name) {
            return false;
        }
        self.have.add(name, &package.version, package.paragraph().get("Provides"));
        self.chosen.insert(name, Selected { offered: package, reason });
        true
    }

    fn fulfilled(&self, relation: &Relation) -> bool {
        self.have.fulfil(relation) || self.present.fulfil(relation)
    }

    /// Takes along what is needed; returns what cannot be had.
    ///
    /// Dependencies with one answer go first, so that a choice is made only when no certain
    /// package fulfils it anyway; what is recommended goes last for the same reason.
    fn close(&mut self, architecture: &Architecture, recommends: bool) -> Vec<Unfulfilled> {
        let mut fresh: VecDeque<&'a Offered<'a>> =
            self.chosen.values().map(|selected| selected.offered).collect();
        let mut choices: VecDeque<Open<'a>> = VecDeque::new();
        let mut weak: VecDeque<Open<'a>> = VecDeque::new();
        let mut unfulfilled = Vec::new();
        loop {
            if let Some(package) = fresh.pop_front() {
                for relation in package.relations(&["Pre-Depends", "Depends"]) {
                    let open = Open { by: package, relation, weak: false };
                    if self.is_certain(&open.relation) {
                        self.answer(open, &mut fresh, architecture, &mut unfulfilled);
                    } else {
                        choices.push_back(open);
                    }
                }
                if recommends {
                    let recommended = package.relations(&["Recommends"]);
                    weak.extend(recommended.into_iter().map(|relation| Open {
                        by: package,
                        relation,
                        weak: true,
                    }));
                }
            } else if let Some(open) = choices.pop_front().or_else(|| weak.pop_front()) {
                self.answer(open, &mut fresh, architecture, &mut unfulfilled);
            } else {
                return unfulfilled;
            }
        }
    }

    /// True if at most one package can fulfil it.
    fn is_certain(&self, relation: &Relation) -> bool {
        let mut candidates = relation.alternatives.iter().flat_map(|target| self.universe.candidates(target));
        candidates.next().is_none() || candidates.next().is_none()
    }

    fn answer(
        &mut self,
        open: Open<'a>,
        fresh: &mut VecDeque<&'a Offered<'a>>,
        architecture: &Architecture,
        unfulfilled: &mut Vec<Unfulfilled>,
    ) {
        let Open { by, relation, weak } = open;
        if self.fulfilled(&relation) {
            return;
        }
        let dependency = relation.to_string();
        let candidate =
            relation.alternatives.iter().flat_map(|target| self.universe.candidates(target)).next();
        let Some(package) = candidate else {
            if !weak {
                let (package, architecture) = (by.name.clone(), architecture.clone());
                unfulfilled.push(Unfulfilled { package, architecture, dependency });
            }
            return;
        };
        let by = by.name.clone();
        let reason =
            if weak { Reason::Recommended { by, dependency } } else { Reason::Needed { by, dependency } };
        if self.take(package, reason) {
            fresh.push_back(package);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_model::Digest;

    /// An index from lines `name version [architecture] [field: value; …]`.
    fn index(lines: &[&str]) -> String {
        lines.iter().map(|line| stanza(line)).collect()
    }

    fn stanza(line: &str) -> String {
        let (head, fields) = line.split_once(" | ").unwrap_or((line, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        let architecture = words.get(2).unwrap_or(&"amd64");
        let digest = Digest::from_bytes([7; 32]).hex();
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {architecture}\nFilename: pool/x.deb\nSize: 1\nSHA256: {digest}\n",
            words[0], words[1]
        );
        for field in fields.split("; ").filter(|field| !field.is_empty()) {
            text += &format!("{field}\n");
        }
        text + "\n"
    }

    fn filter(packages: &[&str], closure: bool) -> Filter {
        let packages = packages.iter().map(|name| name.parse().unwrap()).collect();
        Filter { packages, closure, ..Filter::default() }
    }

    fn names(selection: &Selection<'_>) -> String {
        let name = |one: &Selected<'_>| format!("{}/{}", one.offered.name, one.offered.architecture);
        selection.chosen.iter().map(name).collect::<Vec<_>>().join(" ").replace("/amd64", "")
    }

    fn check(lines: &[&str], filter: &Filter, chosen: &str, unfulfilled: &[&str]) {
        check_with(lines, filter, &Present::new(), chosen, unfulfilled);
    }

    fn check_with(lines: &[&str], filter: &Filter, present: &Present, chosen: &str, unfulfilled: &[&str]) {
        let text = index(lines);
        let offered = Offered::all(&text, "Packages").unwrap();
        let selection = select(&["amd64".parse().unwrap()], &offered, filter, present);
        assert_eq!(names(&selection), chosen, "{lines:?}");
        let missing: Vec<String> = selection.unfulfilled.iter().map(ToString::to_string).collect();
        assert_eq!(missing, unfulfilled, "{lines:?}");
    }

    #[test]
    fn without_closure_only_what_is_named() {
        let lines = ["aa 1 | Depends: bb", "bb 1", "libx1 1", "libx2 1 | Priority: required", "liby1 1 all"];
        check(&lines, &filter(&["aa"], false), "aa", &[]);
        check(&lines, &filter(&["libx*"], false), "libx1 libx2", &[]);
        check(&lines, &filter(&["lib*1", "aa"], false), "aa libx1 liby1/all", &[]);
        check(&lines, &Filter::default(), "aa bb libx1 libx2 liby1/all", &[]);
        let required = Filter { priorities: vec![Priority::Required], ..Filter::default() };
        check(&lines, &required, "libx2", &[]);
    }

    #[test]
    fn the_closure_takes_what_is_needed() {
        check(
            &["aa 1 | Pre-Depends: bb; Depends: cc", "bb 1", "cc 1 | Depends: aa", "dd 1"],
            &filter(&["aa"], true),
            "aa bb cc",
            &[],
        );
        // A version that is there but does not fit is no answer.
        check(
            &["aa 1 | Depends: bb (>= 2)", "bb 1"],
            &filter(&["aa"], true),
            "aa",
            &["aa (amd64) depends on bb (>= 2)"],
        );
        check(&["aa 1 | Depends: bb (>= 2) | cc", "bb 1", "cc 1"], &filter(&["aa"], true), "aa cc", &[]);
        check(
            &["aa 1 | Depends: gone", "bb 1"],
            &filter(&["aa"], true),
            "aa",
            &["aa (amd64) depends on gone"],
        );
        // The newest of several versions.
        check(
            &["aa 1 | Depends: bb", "aa 2 | Depends: cc", "bb 1", "cc 1"],
            &filter(&["aa"], true),
            "aa cc",
            &[],
        );
        check(
            &["aa 1 | Depends: bb:any, cc:native", "bb 1", "cc 1"],
            &filter(&["aa"], true),
            "aa bb cc",
            &[],
        );
        check(
            &["aa 1 | Depends: bb", "bb 1 arm64"],
            &filter(&["aa"], true),
            "aa",
            &["aa (amd64) depends on bb"],
        );
    }

    #[test]
    fn of_alternatives_the_first_unless_another_is_in() {
        check(&["aa 1 | Depends: bb | cc", "bb 1", "cc 1"], &filter(&["aa"], true), "aa bb", &[]);
        check(&["aa 1 | Depends: bb | cc", "bb 1", "cc 1"], &filter(&["aa", "cc"], true), "aa cc", &[]);
        // Whatever needs c comes after a in the order of names, and yet b is not taken.
        check(
            &["aa 1 | Depends: bb | cc, zz", "bb 1", "cc 1", "zz 1 | Depends: cc"],
            &filter(&["aa"], true),
            "aa cc zz",
            &[],
        );
    }

    #[test]
    fn provided_names_are_answers() {
        check(
            &["aa 1 | Depends: mta", "xx 1 | Provides: mta", "yy 1 | Provides: mta"],
            &filter(&["aa"], true),
            "aa xx",
            &[],
        );
        check(
            &["aa 1 | Depends: mta", "xx 1 | Provides: mta", "yy 1 | Provides: mta; Priority: important"],
            &filter(&["aa"], true),
            "aa yy",
            &[],
        );
        check(
            &["aa 1 | Depends: mta", "xx 1 | Provides: mta", "yy 1 | Provides: mta"],
            &filter(&["aa", "yy"], true),
            "aa yy",
            &[],
        );
        check(
            &["aa 1 | Depends: abi (>= 2)", "xx 1 | Provides: abi (= 1)", "yy 1 | Provides: abi (= 2)"],
            &filter(&["aa"], true),
            "aa yy",
            &[],
        );
        check(
            &["aa 1 | Depends: abi (>= 2)", "xx 1 | Provides: abi"],
            &filter(&["aa"], true),
            "aa",
            &["aa (amd64) depends on abi (>= 2)"],
        );
    }

    #[test]
    fn recommends_only_if_asked_for_and_never_missing() {
        let lines = ["aa 1 | Recommends: bb, gone", "bb 1 | Depends: cc", "cc 1"];
        check(&lines, &filter(&["aa"], true), "aa", &[]);
        check(&lines, &Filter { recommends: true, ..filter(&["aa"], true) }, "aa bb cc", &[]);
    }

    #[test]
    fn what_the_archive_has_need_not_be_mirrored() {
        let mut own = Offers::new();
        own.add("bb", &"2".parse().unwrap(), None);
        let present = Present::from([("amd64".parse().unwrap(), own)]);
        let lines = ["aa 1 | Depends: bb", "bb 1"];
        check_with(&lines, &filter(&["aa"], true), &present, "aa", &[]);
        check_with(&["aa 1 | Depends: bb (<< 2)", "bb 1"], &filter(&["aa"], true), &present, "aa bb", &[]);
    }

    #[test]
    fn each_architecture_is_closed_for_itself() {
        let lines = ["aa 1 | Depends: bb, dd", "aa 1 arm64 | Depends: cc", "bb 1", "cc 1 arm64", "dd 1 all"];
        let text = index(&lines);
        let offered = Offered::all(&text, "Packages").unwrap();
        let architectures = ["amd64".parse().unwrap(), "arm64".parse().unwrap()];
        let selection = select(&architectures, &offered, &filter(&["aa", "zz*"], true), &Present::new());
        assert_eq!(names(&selection), "aa aa/arm64 bb cc/arm64 dd/all");
        assert_eq!(selection.unmatched, ["zz*".parse().unwrap()]);
        let reasons: Vec<String> = selection.chosen.iter().map(|one| one.reason.to_string()).collect();
        assert_eq!(reasons[0], "the filter names aa");
        assert_eq!(reasons[3], "aa depends on cc");
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
        };
        check("htop", "htop", true);
        check("htop", "htop-x", false);
        check("lib*", "libc6", true);
        check("*-doc", "x-doc", true);
        check("*-doc", "x-docs", false);
        check("a*b*c", "a1b2c", true);
        check("a*b*c", "a1c2c", false);
        check("a*a", "a", false);
        check("*", "x", true);
        for wrong in ["", "A", "a b", "a/b"] {
            assert!(wrong.parse::<NamePattern>().is_err(), "{wrong}");
        }
    }
}
