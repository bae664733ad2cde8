//! Version numbers with dpkg's order (deb-version(7)). Not here: which version to take.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A Debian version, `[epoch:]upstream[-revision]`. Keeps the text it was read from; compares
/// exactly as `dpkg --compare-versions` does, so `1.0` and `1.0-0` are equal although their
/// texts differ.
#[derive(Clone)]
pub struct Version {
    text: Box<str>,
    epoch: u32,
    /// Where the upstream version begins, and where it ends.
    upstream: (u32, u32),
}

/// A text that is no version, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {text:?} is not valid: {reason}")]
pub struct InvalidVersion {
    text: String,
    reason: &'static str,
}

/// Longest version that is taken. Debian's longest are near 80; file names end at 255.
const LONGEST: usize = 200;

impl Version {
    /// The version as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number before the colon, 0 if there is none.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The part between epoch and revision.
    pub fn upstream(&self) -> &str {
        &self.text[self.upstream.0 as usize..self.upstream.1 as usize]
    }

    /// The part after the last dash; empty if there is none.
    pub fn revision(&self) -> &str {
        self.text.get(self.upstream.1 as usize + 1..).unwrap_or("")
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let wrong = |reason| InvalidVersion { text: text.chars().take(LONGEST).collect(), reason };
        if text.len() > LONGEST {
            return Err(wrong("it is longer than 200 characters"));
        }
        let (epoch, start) = match text.split_once(':') {
            None => (0, 0),
            Some(("", _)) => return Err(wrong("the epoch before the colon is empty")),
            Some((digits, _)) => {
                if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(wrong("the epoch before the colon is not a number"));
                }
                // dpkg keeps the epoch in a C int.
                let epoch = digits.parse::<i32>().map_err(|_| wrong("the epoch is too big"))?;
                (epoch.unsigned_abs(), digits.len() + 1)
            }
        };
        let end = match text[start..].rfind('-') {
            Some(dash) if start + dash + 1 == text.len() => {
                return Err(wrong("the revision after the last dash is empty"));
            }
            Some(dash) => start + dash,
            None => text.len(),
        };
        let upstream = &text.as_bytes()[start..end];
        if upstream.is_empty() {
            return Err(wrong("the upstream version is empty"));
        }
        if !upstream[0].is_ascii_digit() {
            return Err(wrong("the upstream version does not start with a digit"));
        }
        if !upstream.iter().all(|&byte| byte.is_ascii_alphanumeric() || b".-+~:".contains(&byte)) {
            return Err(wrong("the upstream version has a character other than letters, digits, . - + ~ :"));
        }
        let revision = text.as_bytes().get(end + 1..).unwrap_or(b"");
        if !revision.iter().all(|&byte| byte.is_ascii_alphanumeric() || b".+~".contains(&byte)) {
            return Err(wrong("the revision has a character other than letters, digits, . + ~"));
        }
        // The length was checked above, so both positions fit.
        Ok(Self { text: text.into(), epoch, upstream: (start as u32, end as u32) })
    }
}

/// Weight of a character outside a number: a tilde sorts before the end, the end before letters,
/// letters before everything else.
fn weight(byte: Option<u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

/// Compares two upstream versions or two revisions: parts without digits by weight, parts of
/// digits as numbers of any length, in turns.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let is_digit = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
    while !a.is_empty() || !b.is_empty() {
        while (!a.is_empty() && !is_digit(a)) || (!b.is_empty() && !is_digit(b)) {
            let order = weight(a.first().copied()).cmp(&weight(b.first().copied()));
            if order.is_ne() {
                return order;
            }
            a = a.get(1..).unwrap_or(b"");
            b = b.get(1..).unwrap_or(b"");
        }
        let (number_a, rest_a) = split_number(a);
        let (number_b, rest_b) = split_number(b);
        let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// Splits the leading digits off, without their leading zeros.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zeros = text[..digits].iter().take_while(|&&byte| byte == b'0').count();
    (&text[zeros..digits], &text[digits..])
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream().as_bytes(), other.upstream().as_bytes()))
            .then_with(|| compare_part(self.revision().as_bytes(), other.revision().as_bytes()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, expected: Ordering, b: &str) {
        let (a, b): (Version, Version) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a.cmp(&b), expected, "{a} and {b}");
        assert_eq!(b.cmp(&a), expected.reverse(), "{b} and {a}");
    }

    #[test]
    fn order_is_that_of_dpkg() {
        check("1.0", Ordering::Equal, "1.0-0");
        check("1.0", Ordering::Equal, "0:1.00");
        check("0.1.0+dfsg-1", Ordering::Equal, "0.1.0+dfsg0-1");
        check("1.0~rc1", Ordering::Less, "1.0");
        check("1.0~~", Ordering::Less, "1.0~");
        check("1.0a", Ordering::Less, "1.0+");
        check("1:0", Ordering::Greater, "99999999999999999999.9");
        check("1.99999999999999999999", Ordering::Less, "1.100000000000000000000");
        check("1.4.2+git7.20261122.a1b2c3d", Ordering::Greater, "1.4.2+git6.20261231.fffffff");
    }

    #[test]
    fn parts_are_found() {
        let version: Version = "2:1.0-3-4".parse().unwrap();
        assert_eq!((version.epoch(), version.upstream(), version.revision()), (2, "1.0-3", "4"));
        let version: Version = "1.0".parse().unwrap();
        assert_eq!((version.upstream(), version.revision()), ("1.0", ""));
    }

    #[test]
    fn wrong_texts_are_refused() {
        let long = "1".repeat(201);
        for text in [
            "",
            "a1",
            "1.0-",
            ":1",
            "x:1",
            "1:",
            "-1:1",
            "1.0 ",
            "1.0/2",
            "1.0-a_b",
            "-1",
            "99999999999:1",
            "1é",
            "1.0-é",
            "é",
            &long,
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
