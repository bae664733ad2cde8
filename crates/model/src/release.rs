//! Releases, their revisions, and the suites of the archive.

use std::fmt;
use std::str::FromStr;

use crate::InvalidName;
use crate::name::serde_as_text;

/// The name of a release: `v1.3`. It is also a directory of the archive, hence the rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReleaseName(String);

impl ReleaseName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReleaseName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte));
        if first && rest && text.len() <= 48 && text != "rolling" && !text.contains("..") {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "release name",
                text,
                "1 to 48 letters, digits, dots, dashes and plus signs, and not \"rolling\"",
            ))
        }
    }
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(ReleaseName, "The name of a release: `v1.3`.");

/// The number of a release's revision, from 1. A pick makes the next one. Written `r2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(u32);

impl Revision {
    /// The revision that `cut` makes.
    pub const FIRST: Self = Self(1);

    /// The revision with this number, or `None` for 0: revisions count from 1.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number, from 1.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for Revision {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix('r')
            .filter(|digits| !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse().ok())
            .and_then(Self::new)
            .ok_or_else(|| InvalidName::new("revision", text, "\"r\" and a number from 1"))
    }
}

serde_as_text!(Revision, "The number of a release's revision: `r2`.");

/// One revision of one release. Written `v1.3/r2`, which is also its suite's path in the archive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReleaseRef {
    /// The release.
    pub name: ReleaseName,
    /// Its revision.
    pub revision: Revision,
}

impl fmt::Display for ReleaseRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.revision)
    }
}

impl FromStr for ReleaseRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, revision) = text.split_once('/').ok_or_else(|| {
            InvalidName::new("release revision", text, "a release and a revision, as in v1.3/r2")
        })?;
        Ok(Self { name: name.parse()?, revision: revision.parse()? })
    }
}

serde_as_text!(ReleaseRef, "A revision of a release: `v1.3/r2`.");

/// A suite of the archive: what stands after the archive's URL in a device's apt source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Suite {
    /// Every newest build; the development stage follows it.
    Rolling,
    /// One immutable revision of a release.
    Release(ReleaseRef),
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rolling => f.write_str("rolling"),
            Self::Release(release) => fmt::Display::fmt(release, f),
        }
    }
}

impl FromStr for Suite {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == "rolling" { Ok(Self::Rolling) } else { text.parse().map(Self::Release) }
    }
}

serde_as_text!(Suite, "A suite of the archive: `rolling`, or a revision of a release as in `v1.3/r2`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_their_path_in_the_archive() {
        for text in ["rolling", "v1.3/r2", "2026.11/r10"] {
            assert_eq!(text.parse::<Suite>().unwrap().to_string(), text);
        }
        for text in ["v1.3", "v1.3/2", "v1.3/r0", "v1.3/r01", "rolling/r1", "../r1", "a..b/r1", "v1/r1/r2"] {
            assert!(text.parse::<Suite>().is_err(), "{text}");
        }
    }
}
