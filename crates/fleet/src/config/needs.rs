//! `needs_agent:` of `volary.yml`: how new an agent must be to read the rest of the file.
//!
//! It is read before everything else and whatever else stands there, so that an agent which is too old
//! can say so, instead of stumbling over a key that it does not know. What it does then is the agent's.

use std::fmt;
use std::str::FromStr;

use crate::fields::{FieldError, Fields};
use crate::yaml::{Node, Value};

/// The name of the key.
pub(super) const KEY: &str = "needs_agent";

/// Keys that came after the first agents, with the version that knows them; `*` is any stage. A file
/// that uses one has to ask for that version.
const SINCE: &[(&[&str], AgentVersion)] = &[];

/// A version of the agent, which is that of the whole of Volary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentVersion(u32, u32, u32);

/// A text that is no version of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of volary-agent; write it as 1.2 or 1.2.3")]
pub struct InvalidAgentVersion(String);

impl AgentVersion {
    /// The one that this program is built as.
    ///
    /// # Panics
    /// Never: the version of the workspace is one.
    pub fn own() -> Self {
        env!("CARGO_PKG_VERSION").parse().expect("the version of the workspace has three numbers")
    }
}

impl FromStr for AgentVersion {
    type Err = InvalidAgentVersion;

    fn from_str(text: &str) -> Result<Self, InvalidAgentVersion> {
        let invalid = || InvalidAgentVersion(text.chars().take(50).collect());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten().ok_or_else(invalid)
        };
        match text.split('.').collect::<Vec<_>>()[..] {
            [major, minor] => Ok(Self(number(major)?, number(minor)?, 0)),
            [major, minor, patch] => Ok(Self(number(major)?, number(minor)?, number(patch)?)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A file that this program is too old for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it needs volary-agent {needs} or newer, and this is {own}")]
pub struct TooOld {
    /// What the file asks for.
    pub needs: AgentVersion,
    /// What this program is.
    pub own: AgentVersion,
}

/// What the file asks for, whatever else stands in it.
pub(super) fn needed(root: &Node) -> Result<Option<AgentVersion>, FieldError> {
    let fields = Fields::of_any_key(root, "")?;
    fields.get(KEY).map(|_| fields.parsed(KEY)).transpose()
}

/// Passes a file that this program is new enough for.
///
/// # Errors
/// [`TooOld`]. What else is wrong with the text is for [`super::FleetConfig::parse`] to say.
pub(crate) fn check(text: &str) -> Result<(), TooOld> {
    let root = crate::yaml::parse(text).ok();
    let needs = root.and_then(|root| needed(&root).ok().flatten());
    let own = AgentVersion::own();
    needs.filter(|needs| *needs > own).map_or(Ok(()), |needs| Err(TooOld { needs, own }))
}

/// A key that agents know which are newer than those that the file asks for.
///
/// # Errors
/// [`FieldError`] that names the key and the version.
pub(crate) fn asks_for_enough(text: &str) -> Result<(), FieldError> {
    let root = crate::yaml::parse(text).map_err(FieldError::from)?;
    enough(&root, SINCE)
}

fn enough(root: &Node, since: &[(&[&str], AgentVersion)]) -> Result<(), FieldError> {
    let asked = needed(root)?;
    let mut used: Vec<(AgentVersion, usize, String)> = Vec::new();
    for (path, version) in since {
        used.extend(find(root, path).into_iter().map(|(line, field)| (*version, line, field)));
    }
    let Some((version, line, field)) = used.into_iter().max() else { return Ok(()) };
    if asked.is_some_and(|asked| asked >= version) {
        return Ok(());
    }
    let message = format!("agents older than {version} do not know this key, and would not take the commit");
    let remedy = format!("write `{KEY}: \"{version}\"`, once the stages have a release with that agent");
    Err(FieldError::new(line, field, message, remedy))
}

/// The lines and names of the keys at a path.
fn find(node: &Node, path: &[&str]) -> Vec<(usize, String)> {
    let (Value::Map(entries), [first, rest @ ..]) = (&node.value, path) else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in entries.iter().filter(|(key, _)| *first == "*" || key.text == *first) {
        if rest.is_empty() {
            found.push((key.line, key.text.clone()));
        }
        found
            .extend(find(value, rest).into_iter().map(|(line, name)| (line, format!("{}.{name}", key.text))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SECTIONS;

    /// The sections that the first agents know.
    const FIRST: [&str; 21] = [
        "version",
        "stages",
        "gates",
        "signers",
        "quorum",
        "promote",
        "poll",
        "long_poll",
        "confirm",
        "run_within",
        "checkpoint",
        "carry",
        "windows",
        "freeze",
        "stop",
        "splay",
        "rollout",
        "drift",
        "fresh",
        "metrics",
        "watch",
    ];

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text: &str| text.parse::<AgentVersion>();
        assert!(version("0.10").unwrap() > version("0.9.7").unwrap());
        assert_eq!(version("1.2").unwrap().to_string(), "1.2.0");
        for wrong in ["", "1", "1.", "1.2.3.4", "1.x", "-1.2", "+1.2", "1.2-rc1", "1.99999999999", " 1.2"] {
            assert!(version(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_for_newer_agents_is_told_from_one_with_mistakes() {
        let own = AgentVersion::own();
        for (text, too_old) in [
            ("needs_agent: \"999.0\"\nof_the_future: [1, { a: b }]\nversion: 7\n".to_owned(), true),
            (format!("needs_agent: \"{own}\"\n"), false),
            ("version: 1\n".to_owned(), false),
            ("stages: { needs_agent: \"999.0\" }\n".to_owned(), false),
            ("needs_agent: soon\n".to_owned(), false),
            ("needs_agent: [\n".to_owned(), false),
        ] {
            assert_eq!(check(&text).is_err(), too_old, "{text}");
        }
    }

    #[test]
    fn a_key_that_came_later_asks_for_its_version() {
        let since: &[(&[&str], AgentVersion)] = &[
            (&["sealed"], AgentVersion(0, 2, 0)),
            (&["rollout", "*", "after"], AgentVersion(0, 3, 1)),
            (&["poll"], AgentVersion(9, 0, 0)),
        ];
        let since = &since[..2];
        let check = |text: &str, expected: Option<(usize, &str)>| {
            let found = enough(&crate::yaml::parse(text).unwrap(), since).err();
            assert_eq!(found.as_ref().map(|error| (error.line, error.field.as_str())), expected, "{text}");
        };
        check("version: 1\nrollout: { canary: { pause: 1h } }\n", None);
        check("version: 1\nsealed: yes\n", Some((2, "sealed")));
        check("version: 1\nsealed: yes\nneeds_agent: \"0.1.9\"\n", Some((2, "sealed")));
        check("version: 1\nsealed: yes\nneeds_agent: \"0.2\"\n", None);
        let later = "sealed: yes\nrollout:\n  canary: { pause: 1h }\n  production:\n    after: canary\n";
        check(&format!("{later}needs_agent: \"0.3.0\"\n"), Some((5, "rollout.production.after")));
        check(&format!("{later}needs_agent: \"1.0\"\n"), None);
    }

    #[test]
    fn no_section_is_new_without_saying_since_when() {
        let is_known = |section: &&str| FIRST.contains(section) || **section == *KEY;
        let is_dated = |section: &&str| SINCE.iter().any(|(path, _)| path == &[*section]);
        let undated: Vec<_> =
            SECTIONS.iter().filter(|section| !is_known(section) && !is_dated(section)).collect();
        assert!(undated.is_empty(), "give these a line in SINCE: {undated:?}");
    }
}
