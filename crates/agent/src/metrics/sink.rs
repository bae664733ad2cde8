//! Where a look puts what it finds: one number for each series, of those that are wanted.

use std::collections::{BTreeMap, BTreeSet};

use volary_api::v1::metrics::SERIES_LIMIT;

/// The most numbers of a look: the journal needs some places too.
const ROOM: usize = SERIES_LIMIT - 40;

/// The longest value of a label as it is written, in bytes: a server takes names of 200 with all labels.
const LONGEST: usize = 140;

/// What one look found.
#[derive(Debug)]
pub struct Sink<'a> {
    wanted: &'a BTreeSet<String>,
    /// The numbers, by the names of their series.
    pub values: BTreeMap<String, f64>,
    /// How many found no place, since there are too many.
    pub left_out: u32,
}

impl<'a> Sink<'a> {
    /// One that takes these.
    pub fn new(wanted: &'a BTreeSet<String>) -> Self {
        Self { wanted, values: BTreeMap::new(), left_out: 0 }
    }

    /// True if one of these is wanted, so that looking for it is worth it.
    pub fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wanted.contains(*name))
    }

    /// A number of the whole machine.
    pub fn put(&mut self, name: &str, value: impl Into<Option<f64>>) {
        if self.wanted.contains(name) {
            self.insert(name.to_owned(), value.into());
        }
    }

    /// A number of one of its parts.
    pub fn put_of(&mut self, name: &str, label: &str, part: &str, value: impl Into<Option<f64>>) {
        if self.wanted.contains(name) {
            self.insert(format!("{name}{{{label}=\"{}\"}}", escaped(part)), value.into());
        }
    }

    /// A number that the fleet measures itself.
    pub fn put_own(&mut self, name: &str, value: impl Into<Option<f64>>) {
        self.insert(name.to_owned(), value.into());
    }

    fn insert(&mut self, name: String, value: Option<f64>) {
        // JSON has no other numbers.
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        if self.values.len() < ROOM {
            self.values.insert(name, value);
        } else {
            self.left_out += 1;
        }
    }
}

/// The value of a label as Prometheus writes it between quotes.
pub fn escaped(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        if plain.len() + letter.len_utf8() >= LONGEST {
            break;
        }
        match letter {
            '"' | '\\' => plain.extend(['\\', letter]),
            letter if letter.is_control() => plain.push('?'),
            letter => plain.push(letter),
        }
    }
    plain
}

/// With three decimals: more is noise, and each digit is sent.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_as_prometheus_reads_them() {
        assert_eq!(escaped("a\\x2d\"b\n"), "a\\\\x2d\\\"b?");
        for long in ["\\", "é", "x"] {
            let written = escaped(&long.repeat(200));
            assert!((138..=140).contains(&written.len()), "{written}");
        }
    }
}
