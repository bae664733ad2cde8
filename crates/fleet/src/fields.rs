//! Reads the fields of our own YAML files, with complaints that name line, field and remedy.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::Percent;
use crate::yaml::{Node, Value, YamlError};

/// A field of a file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}{}: {message}{}", at(.field), then(.remedy))]
pub struct FieldError {
    /// The line, from 1.
    pub line: usize,
    /// The path of the field: `stages.canary.from`; empty if the file is no YAML at all.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub remedy: String,
}

fn at(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(", {field}") }
}

fn then(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("; {remedy}") }
}

impl FieldError {
    pub(crate) fn new(
        line: usize,
        field: String,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { line, field, message: message.into(), remedy: remedy.into() }
    }
}

impl From<YamlError> for FieldError {
    fn from(error: YamlError) -> Self {
        Self::new(error.line, String::new(), error.message, "")
    }
}

/// A value whose own type says what is wrong with it.
pub(crate) fn invalid(line: usize, field: &str, error: impl fmt::Display) -> FieldError {
    FieldError::new(line, field.to_owned(), error.to_string(), "")
}

/// The fields of one map.
pub(crate) struct Fields<'a> {
    path: String,
    line: usize,
    entries: &'a [(crate::yaml::Key, Node)],
}

impl<'a> Fields<'a> {
    /// The map `node`, in which only `known` keys may stand.
    pub fn new(node: &'a Node, path: &str, known: &[&str]) -> Result<Self, FieldError> {
        let fields = Self::any(node, path)?;
        match fields.entries.iter().find(|(key, _)| !known.contains(&key.text.as_str())) {
            Some((key, _)) => {
                let message = format!("the key {:?} is unknown", key.text);
                Err(FieldError::new(key.line, fields.at(&key.text), message, did_you_mean(&key.text, known)))
            }
            None => Ok(fields),
        }
    }

    /// The value of a required key, a map in which only `known` keys may stand.
    pub fn map(&self, name: &str, known: &[&str]) -> Result<Self, FieldError> {
        Self::new(self.required(name)?, &self.at(name), known)
    }

    /// The value of a required key, a map of any keys.
    pub fn any_map(&self, name: &str) -> Result<Self, FieldError> {
        Self::any(self.required(name)?, &self.at(name))
    }

    /// The map `node`, in which any key may stand: what keys it may have depends on one of them.
    pub fn of_any_key(node: &'a Node, path: &str) -> Result<Self, FieldError> {
        Self::any(node, path)
    }

    fn any(node: &'a Node, path: &str) -> Result<Self, FieldError> {
        let entries: &[_] = match &node.value {
            Value::Map(entries) => entries,
            // An empty file or value is an empty map: its missing keys will be named.
            Value::Scalar(text) if text.is_empty() => &[],
            Value::Scalar(_) | Value::List(_) => {
                let remedy = "write it as `key: value` lines";
                return Err(FieldError::new(node.line, path.into(), "this is not a map of keys", remedy));
            }
        };
        Ok(Self { path: path.to_owned(), line: node.line, entries })
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A complaint about the field `name`.
    pub fn complain(&self, name: &str, message: impl Into<String>, remedy: impl Into<String>) -> FieldError {
        let line = self.get(name).map_or(self.line, |node| node.line);
        FieldError::new(line, self.at(name), message, remedy)
    }

    /// A complaint about something in the field `name` that stands on a line of its own.
    pub fn complain_at(
        &self,
        line: usize,
        name: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> FieldError {
        FieldError::new(line, self.at(name), message, remedy)
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    fn required(&self, name: &str) -> Result<&'a Node, FieldError> {
        self.get(name).ok_or_else(|| {
            self.complain(name, format!("the key {name:?} is missing"), format!("write `{name}: …`"))
        })
    }

    /// The scalar of a required key.
    pub fn text(&self, name: &str) -> Result<&'a str, FieldError> {
        match &self.required(name)?.value {
            Value::Scalar(text) if !text.is_empty() => Ok(text),
            Value::Scalar(_) => Err(self.complain(name, "there is no value", "write one after the colon")),
            Value::List(_) | Value::Map(_) => {
                Err(self.complain(name, "this is not a single value", "write one value after the colon"))
            }
        }
    }

    /// A required key whose text is a value of type `T`.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, FieldError> {
        self.text(name)?.parse().map_err(|error| self.complain(name, format!("{error}"), ""))
    }

    /// The keys of a required map with their lines and values.
    pub fn entries(&self, name: &str) -> Result<Vec<(&'a str, usize, &'a Node)>, FieldError> {
        let map = self.any_map(name)?;
        Ok(map.entries.iter().map(|(key, node)| (key.text.as_str(), key.line, node)).collect())
    }

    /// The scalars of a required list, with their lines; one scalar stands for a list of one.
    pub fn texts(&self, name: &str) -> Result<Vec<(&'a str, usize)>, FieldError> {
        let node = self.required(name)?;
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Scalar(_) => std::slice::from_ref(node),
            Value::Map(_) => {
                return Err(self.complain(name, "this is not a list", "write one: [FIRST, SECOND]"));
            }
        };
        let text = |item: &'a Node| match &item.value {
            Value::Scalar(text) if !text.is_empty() => Ok((text.as_str(), item.line)),
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                let remedy = "write one value after each dash or comma";
                Err(FieldError::new(item.line, self.at(name), "this is not a single value", remedy))
            }
        };
        items.iter().map(text).collect()
    }

    /// `version: 1`, which every file of ours begins with.
    pub fn version(&self) -> Result<(), FieldError> {
        match self.text("version")? {
            "1" => Ok(()),
            other => {
                let message = format!("version {other} is unknown");
                Err(self.complain(
                    "version",
                    message,
                    "this program reads version 1; a newer one may know more",
                ))
            }
        }
    }

    /// `true` or `false`, also in Ansible's spelling `yes` and `no`.
    pub fn truth(&self, name: &str) -> Result<bool, FieldError> {
        match self.text(name)? {
            "true" | "yes" => Ok(true),
            "false" | "no" => Ok(false),
            other => Err(self.complain(
                name,
                format!("{other:?} is neither true nor false"),
                "write true or false",
            )),
        }
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<u32, FieldError> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| self.complain(name, format!("{text:?} is not a whole number"), "write it as 3"))
    }

    /// A number and one of `s`, `m`, `h`, `d`, `w`.
    pub fn duration(&self, name: &str, least: Duration, most: Duration) -> Result<Duration, FieldError> {
        let text = self.text(name)?;
        let bad =
            |message: String| self.complain(name, message, "write a number and a unit: 90s, 15m, 24h, 7d");
        let duration = duration(text).ok_or_else(|| bad(format!("{text:?} is not a duration")))?;
        if duration < least || duration > most {
            let range = format!("{} s to {} s", least.as_secs(), most.as_secs());
            return Err(bad(format!("{text} is out of range, which is {range}")));
        }
        Ok(duration)
    }

    /// A number from 0 to 100 with at most two decimals and `%`.
    pub fn percent(&self, name: &str) -> Result<Percent, FieldError> {
        let text = self.text(name)?;
        percent(text).ok_or_else(|| {
            self.complain(name, format!("{text:?} is not a percentage"), "write it as 98% or 99.5%")
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = match text.bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86_400,
        b'w' => 7 * 86_400,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    // A sign or a blank would parse too; nobody means it.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

/// A percentage as people write it: `98%`, `99.95%`.
pub(crate) fn percent(text: &str) -> Option<Percent> {
    let number = text.strip_suffix('%')?.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 2 || whole.len() > 3 {
        return None;
    }
    let hundredths = part.parse::<u16>().ok()? * if part.len() == 1 { 10 } else { 1 };
    let whole = whole.parse::<u16>().ok()?.checked_mul(100)?;
    Percent::from_hundredths(whole.checked_add(hundredths)?)
}

/// Names the known word that is nearest to the one written, or all of them.
pub(crate) fn did_you_mean(written: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|word| (distance(written, word), word)).min();
    match nearest {
        Some((steps, word)) if steps <= 2.max(word.len() / 3) => format!("did you mean {word:?}?"),
        Some(_) => format!("known are {}", known.join(", ")),
        None => String::new(),
    }
}

/// How many letters must be added, removed or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A hostile key may be long; the words compared with are not.
    for (i, letter) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_percentages() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        };
        check("90s", Some(90));
        check("24h", Some(86_400));
        check("7d", Some(604_800));
        for text in ["", "h", "1", "-1h", "+1h", "1 h", "1.5h", "99999999999999999999w", "1é"] {
            check(text, None);
        }
        let check = |text: &str, hundredths: Option<u16>| {
            assert_eq!(percent(text).map(Percent::hundredths), hundredths, "{text}");
        };
        check("98%", Some(9800));
        check("99.5%", Some(9950));
        check("0.05%", Some(5));
        check("100.00%", Some(10_000));
        for text in ["", "%", "98", "101%", "-1%", "1.234%", "1e1%", "1.%"] {
            check(text, None);
        }
        for large in ["656%", "999%", "655.36%"] {
            assert_eq!(percent(large), None, "{large}");
        }
        assert_eq!(percent("99.05%").unwrap().to_string(), "99.05%");
    }

    #[test]
    fn the_nearest_word_is_named() {
        assert_eq!(did_you_mean("stage", &["version", "stages"]), "did you mean \"stages\"?");
        assert_eq!(did_you_mean("something", &["version", "stages"]), "known are version, stages");
    }
}
