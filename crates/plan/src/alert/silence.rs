//! Silences: what people do not want to hear of for a while.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::DeviceName;

use super::Alert;

/// The label of a matcher that stands for the rule.
const RULE: &str = "rule";
/// The label of a matcher that stands for the device.
const DEVICE: &str = "device";
/// The label of a matcher that stands for the severity.
const SEVERITY: &str = "severity";

/// A condition on a label, as `stage=canary` or `device=shop-*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Matcher {
    label: String,
    pattern: String,
}

/// Why a text is no matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no matcher; write LABEL=VALUE, such as stage=canary or device=shop-*, with a label of lower-case letters"
)]
pub struct InvalidMatcher(String);

/// Alerts that people are not told of for a while. It covers a device of an alert if all matchers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Rises.
    pub id: u64,
    /// All of them must match. None covers nothing.
    pub matchers: Vec<Matcher>,
    /// When it ends.
    pub ends_at: Timestamp,
}

impl Silence {
    /// True if people are not told of this device of the alert now.
    pub fn covers(&self, alert: &Alert, device: &DeviceName, now: Timestamp) -> bool {
        let matches = |matcher: &Matcher| {
            let value = match matcher.label.as_str() {
                RULE => Some(alert.rule.as_str()),
                DEVICE => Some(device.as_str()),
                SEVERITY => Some(alert.severity.as_str()),
                label => alert.labels.get(label).map(String::as_str),
            };
            value.is_some_and(|value| fits(&matcher.pattern, value))
        };
        now < self.ends_at && !self.matchers.is_empty() && self.matchers.iter().all(matches)
    }
}

/// True if the text fits the pattern, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

impl FromStr for Matcher {
    type Err = InvalidMatcher;

    fn from_str(text: &str) -> Result<Self, InvalidMatcher> {
        let wrong = || InvalidMatcher(text.chars().take(80).collect());
        let (label, pattern) = text.split_once('=').ok_or_else(wrong)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fine = |pattern: &str| {
            !pattern.is_empty() && pattern.len() <= 200 && !pattern.chars().any(char::is_control)
        };
        if label.is_empty() || label.len() > 64 || !label.chars().all(plain) || !fine(pattern) {
            return Err(wrong());
        }
        Ok(Self { label: label.to_owned(), pattern: pattern.to_owned() })
    }
}

impl TryFrom<String> for Matcher {
    type Error = InvalidMatcher;

    fn try_from(text: String) -> Result<Self, InvalidMatcher> {
        text.parse()
    }
}

impl From<Matcher> for String {
    fn from(matcher: Matcher) -> Self {
        matcher.to_string()
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.label, self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("canary", "canary", true),
            ("canary", "canary2", false),
            ("shop-*", "shop-12", true),
            ("shop-*", "shop", false),
            ("*-12", "shop-12", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("**", "x", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn matchers_are_written_as_they_are_read() {
        for text in ["stage=canary", "device=shop-*", "check=a=b"] {
            assert_eq!(text.parse::<Matcher>().unwrap().to_string(), text);
        }
        for text in ["", "stage", "=x", "stage=", "Stage=x", "stage=a\nb"] {
            assert!(text.parse::<Matcher>().is_err(), "{text:?}");
        }
    }
}
