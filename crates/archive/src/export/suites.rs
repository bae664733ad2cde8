//! Which suites to export, as people say it.

use std::fmt;
use std::str::FromStr;

use volary_model::{InvalidName, ReleaseName, Suite};

use crate::archive::Archive;
use crate::error::Error;

/// A choice of suites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SuiteChoice {
    /// All that the archive has: `all`.
    All,
    /// All revisions of a release: `v1.0`.
    Release(ReleaseName),
    /// One suite: `rolling`, `v1.0/r2`.
    Suite(Suite),
}

impl FromStr for SuiteChoice {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "all" => Ok(Self::All),
            _ => match text.parse() {
                Ok(suite) => Ok(Self::Suite(suite)),
                Err(error) if text.contains('/') => Err(error),
                Err(_) => text.parse().map(Self::Release),
            },
        }
    }
}

impl fmt::Display for SuiteChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Release(name) => write!(f, "{name}"),
            Self::Suite(suite) => write!(f, "{suite}"),
        }
    }
}

impl Archive {
    /// The suites that were chosen, each once, in the archive's order.
    pub(crate) fn chosen(&self, choices: &[SuiteChoice]) -> Result<Vec<Suite>, Error> {
        let inner = self.look()?;
        let all = inner.state.suites();
        let mut chosen = vec![false; all.len()];
        for choice in choices {
            let fits = |suite: &Suite| match (choice, suite) {
                (SuiteChoice::All, _) => true,
                (SuiteChoice::Release(name), Suite::Release(reference)) => reference.name == *name,
                (SuiteChoice::Suite(wanted), suite) => wanted == suite,
                _ => false,
            };
            let mut found = false;
            for (suite, chosen) in all.iter().zip(&mut chosen) {
                if fits(suite) {
                    (found, *chosen) = (true, true);
                }
            }
            match choice {
                SuiteChoice::Release(name) if !found => return Err(Error::NoRelease(name.clone())),
                SuiteChoice::Suite(suite) if !found => return Err(Error::NoSuite(suite.clone())),
                _ => {}
            }
        }
        Ok(all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(suite, _)| suite).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_people_write_them() {
        for text in ["all", "rolling", "v1.0", "v1.0/r2"] {
            assert_eq!(text.parse::<SuiteChoice>().unwrap().to_string(), text);
        }
        assert!(matches!("v1.0".parse().unwrap(), SuiteChoice::Release(_)));
        assert!(matches!("v1.0/r2".parse().unwrap(), SuiteChoice::Suite(Suite::Release(_))));
        assert!("v1.0/r0".parse::<SuiteChoice>().is_err());
        assert!("../x".parse::<SuiteChoice>().is_err());
    }
}
