//! Dependency fields (Debian policy 7.1) and whether a set of packages fulfils them. Not here:
//! choosing what to install.

use std::collections::HashMap;
use std::fmt;

use crate::control::Paragraph;
use crate::version::{InvalidVersion, Version};

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Operator {
    /// True if `have` fulfils this operator with `wanted`.
    pub fn holds(self, have: &Version, wanted: &Version) -> bool {
        match self {
            Self::Earlier => have < wanted,
            Self::EarlierOrEqual => have <= wanted,
            Self::Equal => have == wanted,
            Self::LaterOrEqual => have >= wanted,
            Self::Later => have > wanted,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        })
    }
}

/// One package that a dependency names, with its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The package.
    pub name: String,
    /// What stands after a colon: `any`, `native` or an architecture.
    pub qualifier: Option<String>,
    /// The version that it must have.
    pub version: Option<(Operator, Version)>,
    /// The architectures for which it counts, as written: `amd64`, `!armhf`. Empty: all.
    pub architectures: Vec<String>,
}

impl Target {
    /// True if the architecture restriction lets it count for `architecture`.
    pub fn counts_for(&self, architecture: &str) -> bool {
        let named = |pattern: &str| matches_architecture(pattern, architecture);
        match self.architectures.first() {
            None => true,
            Some(first) if first.starts_with('!') => {
                !self.architectures.iter().any(|other| named(other.trim_start_matches('!')))
            }
            Some(_) => self.architectures.iter().any(|own| named(own)),
        }
    }
}

/// True if an architecture fulfils a pattern such as `amd64`, `any`, `linux-any`, `any-arm` or
/// `gnu-any-any` (Debian policy 11.1.1).
fn matches_architecture(pattern: &str, architecture: &str) -> bool {
    if !pattern.split('-').any(|part| part == "any") {
        return pattern == architecture;
    }
    let parts: Vec<&str> = pattern.split('-').collect();
    // What a pattern leaves out on its left is any; so is the whole of "any".
    parts.len() <= 4
        && tuple(architecture)
            .iter()
            .rev()
            .zip(parts.iter().rev())
            .all(|(have, want)| *want == "any" || want == have)
}

/// The ABI, C library, kernel and processor of an architecture, as in dpkg's tupletable.
fn tuple(architecture: &str) -> [&str; 4] {
    let parts: Vec<&str> = architecture.rsplit('-').collect();
    let kernel = parts.get(1).copied().unwrap_or("linux");
    let libc = parts.get(2).copied().unwrap_or("gnu");
    let (abi, processor) = match parts[0] {
        "armel" => ("eabi", "arm"),
        "armhf" => ("eabihf", "arm"),
        "x32" => ("x32", "amd64"),
        "mips64" | "mips64el" | "mips64r6" | "mips64r6el" => ("abi64", parts[0]),
        other => ("base", other),
    };
    [abi, libc, kernel, processor]
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = &self.version {
            write!(f, " ({operator} {version})")?;
        }
        if !self.architectures.is_empty() {
            write!(f, " [{}]", self.architectures.join(" "))?;
        }
        Ok(())
    }
}

/// One dependency: any of its alternatives fulfils it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// At least one.
    pub alternatives: Vec<Target>,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.alternatives.iter().enumerate() {
            write!(f, "{}{target}", if index == 0 { "" } else { " | " })?;
        }
        Ok(())
    }
}

/// What is wrong with a dependency field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelationError {
    /// No package name where one must stand.
    #[error("{0:?} does not begin with a package name")]
    Name(String),
    /// A bracket that is not closed, or an unknown operator.
    #[error("{0:?} has a condition that is not understood")]
    Condition(String),
    /// A version that is none.
    #[error(transparent)]
    Version(#[from] InvalidVersion),
}

/// Reads a dependency field such as `Depends` or `Provides`. An empty field has no relations.
///
/// # Errors
/// [`RelationError`] with the part that is wrong.
pub fn parse(field: &str) -> Result<Vec<Relation>, RelationError> {
    let mut relations = Vec::new();
    for part in field.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let alternatives = part.split('|').map(|one| parse_target(one.trim())).collect::<Result<_, _>>()?;
        relations.push(Relation { alternatives });
    }
    Ok(relations)
}

fn parse_target(text: &str) -> Result<Target, RelationError> {
    let shown = || text.chars().take(120).collect::<String>();
    // As dpkg: policy has no upper case and no underscore, but there are such packages.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(RelationError::Name(shown()));
    }
    let (name, mut rest) = text.split_at(end);
    let mut target =
        Target { name: name.to_owned(), qualifier: None, version: None, architectures: Vec::new() };
    if let Some(after) = rest.strip_prefix(':') {
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(after.len());
        if !after.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(RelationError::Condition(shown()));
        }
        target.qualifier = Some(after[..end].to_owned());
        rest = &after[end..];
    }
    // Each kind of condition stands once and in this order; only profiles may be several.
    let mut last = ' ';
    loop {
        rest = rest.trim_start();
        let close = match rest.bytes().next() {
            None => return Ok(target),
            Some(b'(') => ')',
            Some(b'[') => ']',
            Some(b'<') => '>',
            Some(_) => return Err(RelationError::Condition(shown())),
        };
        let may_follow = match close {
            ')' => last == ' ',
            ']' => last == ' ' || last == ')',
            _ => true,
        };
        if !may_follow {
            return Err(RelationError::Condition(shown()));
        }
        last = close;
        // A version condition may hold < and >, but no bracket of its own kind.
        let (inside, after) = rest[1..].split_once(close).ok_or_else(|| RelationError::Condition(shown()))?;
        match close {
            ')' => {
                target.version =
                    Some(parse_version(inside).ok_or_else(|| RelationError::Condition(shown()))??)
            }
            ']' => {
                let is_pattern = |word: &str| {
                    let word = word.strip_prefix('!').unwrap_or(word);
                    word.starts_with(|c: char| c.is_ascii_alphanumeric())
                        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                };
                target.architectures = inside.split_whitespace().map(str::to_owned).collect();
                let words = &target.architectures;
                if words.is_empty() || !words.iter().all(|word| is_pattern(word)) {
                    return Err(RelationError::Condition(shown()));
                }
            }
            // Build profiles restrict build dependencies only; a built package never has them.
            _ => {}
        }
        rest = after;
    }
}

type VersionCondition = Result<(Operator, Version), InvalidVersion>;

fn parse_version(text: &str) -> Option<VersionCondition> {
    let text = text.trim();
    // A single < or > is an old way to write <= and >=; dpkg still reads it.
    const OPERATORS: [(&str, Operator); 7] = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierOrEqual),
        (">>", Operator::Later),
        (">=", Operator::LaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::EarlierOrEqual),
        (">", Operator::LaterOrEqual),
    ];
    let (sign, operator) = OPERATORS.into_iter().find(|(sign, _)| text.starts_with(sign))?;
    Some(text[sign.len()..].trim().parse().map(|version| (operator, version)))
}

/// The packages that are there, by name, with what they provide.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    /// For each name the versions under which it is offered; `None` for one that is provided
    /// without a version.
    names: HashMap<String, Vec<Option<Version>>>,
}

impl Offers {
    /// Nothing is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a package and what its `Provides` field names. A `Provides` that cannot be read
    /// provides nothing, as in apt.
    pub fn add(&mut self, name: &str, version: &Version, provides: Option<&str>) {
        self.names.entry(name.to_owned()).or_default().push(Some(version.clone()));
        for relation in provides.and_then(|field| parse(field).ok()).unwrap_or_default() {
            for target in relation.alternatives {
                let version = match target.version {
                    Some((Operator::Equal, version)) => Some(version),
                    _ => None,
                };
                self.names.entry(target.name).or_default().push(version);
            }
        }
    }

    /// Adds the package that a control paragraph describes; one without name or version is left
    /// out.
    pub fn add_paragraph(&mut self, paragraph: &Paragraph) {
        let version = paragraph.get("Version").and_then(|version| version.parse().ok());
        if let (Some(name), Some(version)) = (paragraph.get("Package"), version) {
            self.add(name, &version, paragraph.get("Provides"));
        }
    }

    /// The versions under which `name` is offered; empty if it is not.
    pub fn versions(&self, name: &str) -> &[Option<Version>] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// True if something offers this target.
    pub fn fulfil_target(&self, target: &Target) -> bool {
        self.versions(&target.name).iter().any(|have| match (&target.version, have) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((operator, wanted)), Some(have)) => operator.holds(have, wanted),
        })
    }

    /// True if one of the alternatives is offered.
    pub fn fulfil(&self, relation: &Relation) -> bool {
        relation.alternatives.iter().any(|target| self.fulfil_target(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &str, expected: bool) {
        let mut offers = Offers::new();
        offers.add("libfoo1", &"1.5-1".parse().unwrap(), Some("libfoo-abi (= 2), foo-virtual"));
        let relations = parse(field).unwrap();
        assert_eq!(relations.iter().all(|relation| offers.fulfil(relation)), expected, "{field}");
    }

    #[test]
    fn dependencies_are_fulfilled_or_not() {
        check("", true);
        check("libfoo1", true);
        check("libfoo1:any (>= 1.5), foo-virtual", true);
        check("libfoo1 (>> 1.5-1)", false);
        check("libfoo1 (<< 2~) [amd64] <!nocheck>", true);
        check("nothing | libfoo1(=1.5-1)", true);
        check("libfoo-abi (>= 2)", true);
        check("libfoo-abi (>= 3)", false);
        check("foo-virtual (>= 1)", false);
        check("libfoo1,\n nothing,", false);
    }

    #[test]
    fn restrictions_by_architecture() {
        let relations = parse("a [!amd64 !arm64], b [linux-any], c [armhf]").unwrap();
        let counts = |index: usize, architecture| relations[index].alternatives[0].counts_for(architecture);
        assert!(!counts(0, "amd64") && counts(0, "armhf") && counts(1, "arm64"));
        assert!(counts(2, "armhf") && !counts(2, "amd64"));
        let relations =
            parse("a [any-amd64 any-arm], b [!hurd-any !kfreebsd-any], c [musl-any-any]").unwrap();
        let counts = |index: usize, architecture| relations[index].alternatives[0].counts_for(architecture);
        assert!(
            counts(0, "amd64") && counts(0, "armhf") && !counts(0, "arm64") && counts(0, "kfreebsd-amd64")
        );
        assert!(counts(1, "amd64") && !counts(1, "hurd-i386"));
        assert!(counts(2, "musl-linux-amd64") && !counts(2, "amd64"));
    }

    #[test]
    fn wrong_fields_are_refused() {
        for field in [
            "(>= 1)",
            "a (>= 1",
            "a (~ 1)",
            "a (>= )",
            "a b",
            "| a",
            "a [",
            "a <x",
            "a []",
            "a [x] (>= 1)",
            "a: b",
            "${a}",
        ] {
            assert!(parse(field).is_err(), "{field}");
        }
    }
}
