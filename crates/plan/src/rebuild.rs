//! What to build again because a package changed that others are built with. Pure.
//!
//! The whole consequence of one build is decided at once, and each source stands in it once at
//! most: two sources that need each other end there, and not in an endless exchange of rebuilds.

use std::collections::{BTreeMap, BTreeSet};

/// What is known of a source from its newest build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFacts {
    /// The source's name.
    pub name: String,
    /// The packages that it is built with, alternatives included.
    pub build_depends: BTreeSet<String>,
    /// The packages that it makes, with the names that they provide.
    pub packages: BTreeSet<String>,
    /// True if it asks that what is built with it is built again: `rebuild: dependents`.
    pub asks: bool,
}

/// A source to build again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// The source.
    pub source: String,
    /// The package that it is built with, and the source that made that one anew.
    pub because: Because,
    /// The rebuilds of the same plan that must be over before, whatever becomes of them.
    pub after: Vec<String>,
}

/// Why a source is built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Because {
    /// The package that it is built with.
    pub package: String,
    /// The source of that package.
    pub of: String,
}

/// The sources to build again after a build of `changed`, in their order. Empty if that source does
/// not ask for it.
pub fn rebuilds(changed: &str, sources: &[SourceFacts]) -> Vec<Rebuild> {
    let by_name: BTreeMap<&str, &SourceFacts> =
        sources.iter().map(|facts| (facts.name.as_str(), facts)).collect();
    let mut because: BTreeMap<&str, Because> = BTreeMap::new();
    let mut look = vec![changed];
    while let Some(name) = look.pop() {
        let Some(cause) = by_name.get(name).filter(|facts| facts.asks) else { continue };
        for facts in sources.iter().filter(|facts| facts.name != changed && facts.name != name) {
            if let Some(package) = cause.packages.intersection(&facts.build_depends).next()
                && !because.contains_key(facts.name.as_str())
            {
                let why = Because { package: package.clone(), of: name.to_owned() };
                because.insert(&facts.name, why);
                look.push(&facts.name);
            }
        }
    }
    in_order(because, &by_name)
}

/// Those that others are built with come first. In a circle the first by name begins.
fn in_order(mut because: BTreeMap<&str, Because>, facts: &BTreeMap<&str, &SourceFacts>) -> Vec<Rebuild> {
    let names: Vec<&str> = because.keys().copied().collect();
    let needs = |name: &str| -> BTreeSet<&str> {
        let wanted = &facts[name].build_depends;
        let makes = |other: &&&str| **other != name && !facts[**other].packages.is_disjoint(wanted);
        names.iter().filter(makes).copied().collect()
    };
    let needs: BTreeMap<&str, BTreeSet<&str>> = names.iter().map(|name| (*name, needs(name))).collect();
    let mut ordered: Vec<Rebuild> = Vec::new();
    while !because.is_empty() {
        let free = because.keys().find(|name| needs[**name].iter().all(|other| !because.contains_key(other)));
        let name = *free.or(because.keys().next()).expect("there are some left");
        let why = because.remove(name).expect("it is one of them");
        // What stands later in a circle is not waited for.
        let before = |other: &&&str| ordered.iter().any(|done| done.source == ***other);
        let after = needs[name].iter().filter(before).map(|other| (*other).to_owned()).collect();
        ordered.push(Rebuild { source: name.to_owned(), because: why, after });
    }
    ordered
}

/// The names of packages that a dependency field names: versions, architectures and profiles left
/// out, all alternatives. A package that is needed only on some architecture counts too.
pub fn package_names(field: &str) -> BTreeSet<String> {
    let names = field.split([',', '|']).filter_map(|part| {
        let name: String = part
            .trim_start()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || "+-.".contains(*c))
            .collect();
        (!name.is_empty()).then_some(name)
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name: its packages < what it is built with`; a star after the name asks for rebuilds.
    fn facts(text: &str) -> Vec<SourceFacts> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let parse = |line: &str| {
            let (name, rest) = line.trim().split_once(':').unwrap();
            let (packages, depends) = rest.split_once('<').unwrap();
            SourceFacts {
                name: name.trim_end_matches('*').to_owned(),
                build_depends: words(depends),
                packages: words(packages),
                asks: name.ends_with('*'),
            }
        };
        text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
    }

    /// Expected is `source(package of source) after others; …`.
    fn check(text: &str, changed: &str, expected: &str) {
        let said: Vec<String> = rebuilds(changed, &facts(text))
            .into_iter()
            .map(|item| {
                let after = if item.after.is_empty() {
                    String::new()
                } else {
                    format!(" after {}", item.after.join(","))
                };
                format!("{}({} of {}){after}", item.source, item.because.package, item.because.of)
            })
            .collect();
        assert_eq!(said.join("; "), expected, "{text}");
    }

    #[test]
    fn what_is_built_with_a_changed_package_is_built_again_if_asked_for() {
        let text = "lib*: lib1 lib-dev < debhelper\n app: app < lib-dev debhelper\n other: other < debhelper";
        check(text, "lib", "app(lib-dev of lib)");
        check(text, "app", "");
        check(&text.replace('*', ""), "lib", "");
        check(text, "nosuch", "");
    }

    #[test]
    fn the_order_is_that_of_their_needs() {
        let text = "lib*: lib-dev <\n a: a < lib-dev z-tool\n z: z-tool < lib-dev";
        check(text, "lib", "z(lib-dev of lib); a(lib-dev of lib) after z");
        // Only one that asks leads further.
        let chain = "lib*: lib-dev <\n mid*: mid-dev < lib-dev\n app: app < mid-dev";
        check(chain, "lib", "mid(lib-dev of lib); app(mid-dev of mid) after mid");
        check(&chain.replace("mid*", "mid"), "lib", "mid(lib-dev of lib)");
    }

    #[test]
    fn sources_that_need_each_other_end() {
        check("a*: a-dev < b-dev\n b*: b-dev < a-dev", "a", "b(a-dev of a)");
        let three = "lib*: lib-dev <\n a*: a-dev < lib-dev b-dev\n b*: b-dev < a-dev";
        check(three, "lib", "a(lib-dev of lib); b(a-dev of a) after a");
        check("a*: a-dev < a-dev", "a", "");
    }

    #[test]
    fn names_are_read_out_of_a_field() {
        let names = package_names(
            "debhelper-compat (= 13), a:native | b [amd64] <!nocheck>,\n libstdc++-dev (>= 1~),",
        );
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "debhelper-compat", "libstdc++-dev"]);
    }
}
