//! Names of series of measurements.

use std::fmt;
use std::str::FromStr;

use crate::name::{InvalidName, serde_as_text};

/// The longest name with its labels.
const LONGEST: usize = 200;

/// The most labels.
const LABELS: usize = 8;

/// What the server says of each series by itself.
const RESERVED: [&str; 3] = ["device", "stage", "type"];

const RULE: &str = "as Prometheus has them: letters, digits and _, then labels as in \
                    name{a=\"x\",b=\"y\"}; at most 200 characters and 8 labels, none of them \
                    device, stage, type or one that begins with __";

/// The name of a series as Prometheus has them, with its labels in order: `load1`,
/// `unit_memory_bytes{unit="app.service"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesName {
    text: String,
    base: usize,
}

impl SeriesName {
    /// The name with its labels.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name without labels.
    pub fn base(&self) -> &str {
        &self.text[..self.base]
    }

    /// The labels as they are written: `unit="app.service"`, several with commas between; empty if there are none.
    pub fn labels_text(&self) -> &str {
        self.text[self.base..].trim_start_matches('{').trim_end_matches('}')
    }

    /// The labels by name.
    pub fn labels(&self) -> Vec<(String, String)> {
        parse_labels(&self.text[self.base..]).unwrap_or_default()
    }

    /// True for a counter: it only rises until a reboot.
    pub fn is_counter(&self) -> bool {
        is_counter(self.base())
    }
}

/// True for the name of a counter, with its labels or without them: it only rises until a reboot. For names that
/// were checked before and are at hand as text.
pub fn is_counter(series: &str) -> bool {
    series.split('{').next().is_some_and(|base| base.ends_with("_total"))
}

impl FromStr for SeriesName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("series", text, RULE);
        if text.len() > LONGEST {
            return Err(invalid());
        }
        let base = text.find('{').unwrap_or(text.len());
        if !is_word(&text[..base], true) {
            return Err(invalid());
        }
        if base == text.len() {
            return Ok(Self { text: text.to_owned(), base });
        }
        let mut labels = parse_labels(&text[base..]).ok_or_else(invalid)?;
        labels.sort();
        let is_free = |name: &str| !name.starts_with("__") && !RESERVED.contains(&name);
        let once = labels.windows(2).all(|pair| pair[0].0 != pair[1].0);
        if labels.len() > LABELS || !once || !labels.iter().all(|(name, _)| is_free(name)) {
            return Err(invalid());
        }
        // Labels without a value are none.
        labels.retain(|(_, value)| !value.is_empty());
        if labels.is_empty() {
            return Ok(Self { text: text[..base].to_owned(), base });
        }
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        Ok(Self { text: format!("{}{{{}}}", &text[..base], labels.join(",")), base })
    }
}

impl fmt::Display for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for SeriesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

serde_as_text!(SeriesName, "The name of a series with its labels: `load1`, `disk_free_bytes{mount=\"/\"}`.");

fn is_word(text: &str, with_colons: bool) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || (with_colons && byte == b':');
    text.bytes().next().is_some_and(letter) && text.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// A label's value as it is written.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Reads `{a="x",b="y"}`.
fn parse_labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.strip_prefix('{')?;
    let mut labels = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"")?;
        if !is_word(name, false) {
            return None;
        }
        let mut value = String::new();
        let mut letters = after.chars();
        loop {
            match letters.next()? {
                '"' => break,
                '\\' => value.push(match letters.next()? {
                    'n' => '\n',
                    letter @ ('\\' | '"') => letter,
                    _ => return None,
                }),
                letter if letter.is_control() => return None,
                letter => value.push(letter),
            }
        }
        labels.push((name.to_owned(), value));
        match letters.as_str() {
            "}" => return Some(labels),
            more => rest = more.strip_prefix(',')?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        let check = |text: &str, expected: &str| {
            let name: SeriesName = text.parse().unwrap();
            assert_eq!(name.as_str(), expected);
            assert_eq!(name.as_str().parse::<SeriesName>().unwrap(), name);
        };
        check("load1", "load1");
        check("x{b=\"2\",a=\"1\"}", "x{a=\"1\",b=\"2\"}");
        check("x{a=\"\"}", "x");
        check(r#"x{a="q\"b\\s\nn"}"#, r#"x{a="q\"b\\s\nn"}"#);
        let name: SeriesName = r#"disk_free_bytes{mount="/\"x,y=\""}"#.parse().unwrap();
        assert_eq!(name.base(), "disk_free_bytes");
        assert_eq!(name.labels(), [("mount".to_owned(), "/\"x,y=\"".to_owned())]);
        assert_eq!(name.labels_text(), r#"mount="/\"x,y=\"""#);
        assert!("a_total{b=\"c\"}".parse::<SeriesName>().unwrap().is_counter());
    }

    #[test]
    fn others_are_refused() {
        let long = format!("x{{a=\"{}\"}}", "y".repeat(200));
        for text in [
            "",
            "1x",
            "x y",
            "é",
            "x{",
            "x{}",
            "x{a}",
            "x{a=1}",
            "x{a=\"1\"",
            "x{a=\"1\"}y",
            "x{a=\"1\",}",
            "x{a=\"1\"b=\"2\"}",
            "x{a=\"1\",a=\"2\"}",
            "x{device=\"d\"}",
            "x{__name__=\"d\"}",
            "x{a=\"\n\"}",
            "x{a=\"\\t\"}",
            &long,
        ] {
            assert!(text.parse::<SeriesName>().is_err(), "{text:?}");
        }
    }
}
