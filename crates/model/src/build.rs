//! Words for what one build of a source makes, and how.

use std::fmt;
use std::str::FromStr;

use crate::name::{InvalidName, serde_as_text};

/// Which of a source's packages one build makes. Packages of architecture `all` are made once,
/// on the machine's own architecture; all others once for each architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildScope {
    /// Those for one architecture, and those for all.
    Full,
    /// Only those for one architecture.
    Any,
    /// Only those for all architectures.
    All,
}

impl BuildScope {
    const EACH: [Self; 3] = [Self::Full, Self::Any, Self::All];

    /// The word in records, in the API and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Any => "any",
            Self::All => "all",
        }
    }
}

/// How packages for an architecture are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildMethod {
    /// On the architecture itself.
    Native,
    /// By compilers that run here and write code for there.
    Cross,
    /// By the other architecture's own programs under qemu-user.
    Emulated,
}

impl BuildMethod {
    const EACH: [Self; 3] = [Self::Native, Self::Cross, Self::Emulated];

    /// The word in records, in the API and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Cross => "cross",
            Self::Emulated => "emulated",
        }
    }
}

macro_rules! words {
    ($type:ident, $what:literal, $rule:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let known = Self::EACH.into_iter().find(|each| each.as_str() == text);
                known.ok_or_else(|| InvalidName::new($what, text, $rule))
            }
        }

        serde_as_text!($type, concat!("The ", $what, ": ", $rule, "."));
    };
}
words!(BuildScope, "scope of a build", "full, any or all");
words!(BuildMethod, "build method", "native, cross or emulated");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for scope in BuildScope::EACH {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        for method in BuildMethod::EACH {
            assert_eq!(method.as_str().parse(), Ok(method));
        }
        assert!("crossed".parse::<BuildMethod>().is_err());
    }
}
