//! Who may upload with a `.changes`, and what an upload may bring.

use std::fmt;

use jiff::Timestamp;
use volary_model::Component;

use crate::entry::PackageEntry;
use crate::error::RefusalReason;
use crate::key;

/// Which `.changes` files are taken. Single `.deb` files carry no signature; whether their
/// bringer may bring them is for the caller to know.
#[derive(Debug, Clone, Default)]
pub enum UploadPolicy {
    /// Only those signed by one of these OpenPGP keys (ASCII armored). With an empty list no
    /// `.changes` is taken at all.
    Signed(Vec<String>),
    /// Also unsigned ones: for those that our own builder made, or that a person at the server
    /// brings.
    AllowUnsigned,
    /// The caller knows who brings it, and what they may bring. Unsigned ones are fine; a
    /// signature that is there must be by one of these keys.
    Vouched {
        /// OpenPGP keys, ASCII armored.
        keys: Vec<String>,
        /// What may be brought.
        limits: UploadLimits,
    },
    /// Not said: as `Signed` with no key.
    #[default]
    Refuse,
}

/// What an upload may bring. An empty list limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadLimits {
    /// Patterns of package names, with `*` for any letters and `?` for one.
    pub packages: Vec<String>,
    /// Components of rolling: `main`, `debug` for debug symbols.
    pub components: Vec<Component>,
}

impl fmt::Display for UploadLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packages.is_empty() {
            true => f.write_str("anything")?,
            false => f.write_str(&self.packages.join(", "))?,
        }
        let components: Vec<&str> = self.components.iter().map(Component::as_str).collect();
        if components.is_empty() { Ok(()) } else { write!(f, " in {}", components.join(", ")) }
    }
}

impl UploadLimits {
    /// Refuses a pattern that no package name could fit.
    ///
    /// # Errors
    /// A sentence with the pattern.
    pub fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.*?".contains(c);
        let bad = |pattern: &&String| pattern.is_empty() || !pattern.chars().all(plain);
        match self.packages.iter().find(bad) {
            Some(pattern) => Err(format!(
                "{pattern:?} is no pattern of package names: lower-case letters, digits, +-. and * or ?"
            )),
            None => Ok(()),
        }
    }

    fn admit(&self, entry: &PackageEntry) -> bool {
        // The name of the package itself: what it says of its source, anybody can write.
        let name = entry.name.as_str().as_bytes();
        let named = |pattern: &String| fits(pattern.as_bytes(), name);
        (self.packages.is_empty() || self.packages.iter().any(named))
            && (self.components.is_empty() || self.components.contains(&entry.component))
    }
}

/// True if a name fits a pattern with `*` and `?`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&letter) if letter == b'?' || letter == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&letter| letter == b'*')
}

impl UploadPolicy {
    /// Checks the text of a `.changes`.
    pub(crate) fn check(&self, text: &str, signed: bool, now: Timestamp) -> Result<(), RefusalReason> {
        let keys: &[String] = match self {
            Self::AllowUnsigned => return Ok(()),
            Self::Vouched { .. } if !signed => return Ok(()),
            Self::Vouched { keys, .. } | Self::Signed(keys) => keys,
            Self::Refuse => &[],
        };
        if !signed {
            return Err(RefusalReason::Unsigned);
        }
        key::verify(text, keys, now).map_err(|error| RefusalReason::Signature(error.to_string()))
    }

    /// Checks that a package may be brought.
    pub(crate) fn admit(&self, entry: &PackageEntry) -> Result<(), RefusalReason> {
        match self {
            Self::Vouched { limits, .. } if !limits.admit(entry) => {
                Err(RefusalReason::Limited { package: entry.to_string(), limits: limits.to_string() })
            }
            Self::Vouched { .. } | Self::Signed(_) | Self::AllowUnsigned | Self::Refuse => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, good: &[&str], bad: &[&str]) {
        for name in good {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for name in bad {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn patterns_name_packages() {
        check("hello", &["hello"], &["hello2", "xhello", ""]);
        check("hello*", &["hello", "hello-dbgsym"], &["othello", "hell"]);
        check("*-doc", &["a-doc", "a-doc-doc", "-doc"], &["doc", "a-docs"]);
        check("lib?oo*1*", &["libfoo1", "libboo-11-x"], &["liboo1", "libfoo2"]);
        check("*", &["", "a"], &[]);
        check("a*b*c", &["abc", "axbxbxc"], &["ab", "acb"]);
    }

    #[test]
    fn what_limits_nothing_is_refused() {
        let limits =
            |pattern: &str| UploadLimits { packages: vec![pattern.to_owned()], ..UploadLimits::default() };
        assert!(limits("hello*").check().is_ok());
        for pattern in ["", "Hello", "a b", "a,b", "../x"] {
            assert!(limits(pattern).check().is_err(), "{pattern}");
        }
    }
}
