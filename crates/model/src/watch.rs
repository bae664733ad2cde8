//! Rules that watch devices: which series, what about it, for how long, how bad.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{InvalidName, StageName, serde_as_text};

/// A rule of `watch:` in `volary.yml`.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchRule {
    /// Its name, unique in the fleet.
    pub name: String,
    /// What it looks at.
    pub kind: WatchKind,
    /// The stages whose devices it watches; all if none is named.
    pub stages: Vec<StageName>,
    /// How long the condition must hold before the rule fires.
    pub held_for: Duration,
    /// How long the condition must not hold before the rule is quiet again.
    pub clear_after: Duration,
    /// How bad it is.
    pub severity: Severity,
    /// What to do about it, for people; may be empty.
    pub text: String,
}

// Numbers of a rule are never NaN: what reads rules refuses that.
impl Eq for WatchRule {}

/// How bad a finding is. The order is that of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Somebody should look at it in their working hours.
    Warning,
    /// Somebody must look at it now.
    Critical,
}

impl Severity {
    /// Both, as they are written.
    pub const NAMES: [&'static str; 2] = ["warning", "critical"];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let all = [Self::Warning, Self::Critical];
        all.into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or_else(|| InvalidName::new("severity", text, "warning or critical"))
    }
}

/// What a rule looks at, and when its condition holds.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchKind {
    /// A value is above or below a bound.
    Threshold {
        /// The series.
        series: SeriesPattern,
        /// The bound, in the unit of the series, or as a part (0 to 1) with `part_of`.
        bound: Bound,
        /// The name of the series that is the whole, with the same labels.
        part_of: Option<String>,
    },
    /// There are no points of a series, or nothing of the device at all.
    Absence {
        /// The series; none is the device itself.
        series: Option<SeriesPattern>,
        /// For longer than this.
        longer_than: Duration,
    },
    /// A counter rises by more than so much in a time.
    Rate {
        /// The series.
        series: SeriesPattern,
        /// How much is too much.
        above: f64,
        /// In which time.
        within: Duration,
    },
    /// What is free will be used up soon.
    Forecast {
        /// The series of what is free.
        series: SeriesPattern,
        /// How soon: full in less than this.
        full_within: Duration,
        /// How long back the trend is looked at.
        window: Duration,
        /// The name of the series that is the whole, with the same labels.
        part_of: Option<String>,
        /// Only if less than this part of the whole is free, 0 to 1.
        free_below: f64,
    },
    /// A value rises and will not stop.
    Leak {
        /// The series.
        series: SeriesPattern,
        /// How long back it is looked at.
        window: Duration,
        /// The rise over the window that counts, as a part of the level.
        at_least: f64,
    },
    /// A unit restarts again and again.
    Flapping {
        /// The counter of restarts.
        series: SeriesPattern,
        /// So many restarts are too many.
        restarts: u32,
        /// In which time.
        within: Duration,
    },
    /// A device boots again and again.
    RebootLoop {
        /// So many boots are too many.
        boots: u32,
        /// In which time.
        within: Duration,
    },
    /// A device does not get to what its stage wants.
    VersionSkew {
        /// For longer than this.
        longer_than: Duration,
    },
    /// A device's clock is wrong.
    ClockSkew {
        /// By more than this, either way.
        more_than: Duration,
    },
}

impl WatchKind {
    /// All kinds, as they are written.
    pub const NAMES: [&'static str; 9] = [
        "threshold",
        "absence",
        "rate",
        "forecast",
        "leak",
        "flapping",
        "reboot-loop",
        "version-skew",
        "clock-skew",
    ];

    /// As it is written.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Threshold { .. } => "threshold",
            Self::Absence { .. } => "absence",
            Self::Rate { .. } => "rate",
            Self::Forecast { .. } => "forecast",
            Self::Leak { .. } => "leak",
            Self::Flapping { .. } => "flapping",
            Self::RebootLoop { .. } => "reboot-loop",
            Self::VersionSkew { .. } => "version-skew",
            Self::ClockSkew { .. } => "clock-skew",
        }
    }
}

/// A bound that a value is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// More is wrong.
    Above(f64),
    /// Less is wrong.
    Below(f64),
}

/// Which series are meant: `unit_memory_bytes`, `unit_memory_bytes{unit="app-*.service"}`. Labels that are not
/// named may be anything, and `*` in a value stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesPattern {
    name: String,
    labels: Vec<(String, String)>,
}

impl SeriesPattern {
    /// All series of this name; `None` if it is no name of a series.
    pub fn named(name: &str) -> Option<Self> {
        is_name(name).then(|| Self { name: name.to_owned(), labels: Vec::new() })
    }

    /// The name of the series.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if a series, written with its labels, is one of those meant.
    pub fn matches(&self, series: &str) -> bool {
        if !series.starts_with(&self.name) {
            return false;
        }
        let Some((name, labels)) = parts(series) else { return false };
        let has = |(key, pattern): &(String, String)| {
            labels.iter().any(|(label, value)| label == key && is_like(value, pattern))
        };
        name == self.name && self.labels.iter().all(has)
    }
}

impl FromStr for SeriesPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "a name such as disk_free_bytes, or with labels: disk_free_bytes{mount=\"/data*\"}";
        let (name, labels) = parts(text).ok_or_else(|| InvalidName::new("series", text, rule))?;
        Ok(Self { name: name.to_owned(), labels })
    }
}

impl fmt::Display for SeriesPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, (key, value)) in self.labels.iter().enumerate() {
            let opening = if index == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{opening}{key}=\"{value}\"")?;
        }
        if self.labels.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

serde_as_text!(SeriesPattern, "Series by name and labels: `disk_free_bytes{mount=\"/data*\"}`.");

/// The series of another name with the same labels: `disk_size_bytes{mount="/"}` of `disk_free_bytes{mount="/"}`.
pub fn sibling(series: &str, name: &str) -> String {
    let labels = series.find('{').map_or("", |at| &series[at..]);
    format!("{name}{labels}")
}

fn is_name(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    (1..=200).contains(&text.len())
        && first(text.as_bytes()[0])
        && text.bytes().all(|byte| first(byte) || byte.is_ascii_digit() || byte == b':')
}

/// Name and labels of a series as Prometheus writes it.
fn parts(text: &str) -> Option<(&str, Vec<(String, String)>)> {
    let Some((name, rest)) = text.split_once('{') else {
        return is_name(text).then(|| (text, Vec::new()));
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if !is_name(key) || labels.iter().any(|(known, _)| known == key) {
            return None;
        }
        labels.push((key.to_owned(), value));
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    is_name(name).then_some((name, labels))
}

/// The value before the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other @ ('\\' | '"') => value.push(other),
                _ => return None,
            },
            other => value.push(other),
        }
    }
    None
}

/// True if the text is the pattern, in which `*` stands for any text.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((head, mut pattern)) = pattern.split_once('*') else { return text == pattern };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    // The first place for each part is the best: what follows has the most left.
    while let Some((part, rest)) = pattern.split_once('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
        pattern = rest;
    }
    text.ends_with(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_matched_by_name_and_labels() {
        let check = |pattern: &str, series: &str, expected: bool| {
            let read: SeriesPattern = pattern.parse().unwrap();
            assert_eq!(read.matches(series), expected, "{pattern} {series}");
            assert_eq!(read.to_string().parse::<SeriesPattern>().unwrap(), read);
        };
        check("a_bytes", "a_bytes", true);
        check("a_bytes", "a_bytes{unit=\"x\"}", true);
        check("a_bytes", "a_bytes_total", false);
        check("a{u=\"x\"}", "a{u=\"x\"}", true);
        check("a{u=\"x\"}", "a{m=\"/\",u=\"x\"}", true);
        check("a{u=\"x\"}", "a{u=\"xy\"}", false);
        check("a{u=\"x\"}", "a", false);
        check("a{u=\"x*\"}", "a{u=\"xy\"}", true);
        check("a{u=\"*y\"}", "a{u=\"xy\"}", true);
        check("a{u=\"x*z*q\"}", "a{u=\"x1z2z3q\"}", true);
        check("a{u=\"x*x\"}", "a{u=\"x\"}", false);
        check("a{u=\"*\"}", "a{u=\"\"}", true);
        check("a{u=\"q\\\"\\\\\\n\"}", "a{u=\"q\\\"\\\\\\n\"}", true);
        check("a{}", "a{u=\"x\"}", true);
    }

    #[test]
    fn what_is_no_series_is_refused() {
        for text in [
            "",
            "1a",
            "a b",
            "a{",
            "a}",
            "a{u}",
            "a{u=x}",
            "a{u=\"x}",
            "a{u=\"x\"",
            "a{u=\"x\";}",
            "a{u=\"\\t\"}",
            "é",
        ] {
            assert!(text.parse::<SeriesPattern>().is_err(), "{text}");
        }
        assert!("a{u=\"1\",u=\"2\"}".parse::<SeriesPattern>().is_err());
        assert!(SeriesPattern::named("a{}").is_none());
    }

    #[test]
    fn siblings_share_their_labels() {
        assert_eq!(sibling("a{m=\"/\"}", "b"), "b{m=\"/\"}");
        assert_eq!(sibling("a", "b"), "b");
    }
}
