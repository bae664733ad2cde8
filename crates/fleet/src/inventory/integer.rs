//! Whole numbers of any size, as Python has them: kept as decimal text.
//!
//! No arithmetic here beyond changing the base: inventories carry numbers, they don't calculate.

use std::fmt;

/// Python refuses to print or to read longer decimal numbers (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4300;

/// A whole number of up to 4,300 digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Integer {
    /// Canonical: no leading zeros, no `+`, no `-0`.
    text: String,
}

impl Integer {
    /// Reads digits of a base from 2 to 36, without sign; `None` if a character is no such digit,
    /// if there is none at all, or if the number is longer than Python takes.
    pub fn from_digits(negative: bool, digits: &str, radix: u32) -> Option<Self> {
        let significant = digits.trim_start_matches('0');
        // In base 2 a number has less than four times the digits, and the work is quadratic.
        let longest = if radix >= 10 { MAX_DIGITS } else { 4 * MAX_DIGITS };
        if digits.is_empty() || significant.len() > longest {
            return None;
        }
        // Nine decimal digits a limb, least significant first.
        const LIMB: u64 = 1_000_000_000;
        let mut limbs: Vec<u64> = vec![0];
        for digit in significant.chars() {
            let mut carry = u64::from(digit.to_digit(radix)?);
            for limb in &mut limbs {
                let value = *limb * u64::from(radix) + carry;
                *limb = value % LIMB;
                carry = value / LIMB;
            }
            if carry > 0 {
                limbs.push(carry);
            }
        }
        let mut text = limbs.pop().unwrap_or(0).to_string();
        for limb in limbs.iter().rev() {
            text.push_str(&format!("{limb:09}"));
        }
        if text.len() > MAX_DIGITS {
            return None;
        }
        Some(Self::canonical(negative, &text))
    }

    fn canonical(negative: bool, digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        let text = match (digits.is_empty(), negative) {
            (true, _) => "0".to_owned(),
            (false, false) => digits.to_owned(),
            (false, true) => format!("-{digits}"),
        };
        Self { text }
    }

    /// The same number with the other sign.
    #[must_use]
    pub fn negated(&self) -> Self {
        match self.text.strip_prefix('-') {
            Some(digits) => Self::canonical(false, digits),
            None => Self::canonical(true, &self.text),
        }
    }

    /// Decimal digits, with a `-` before a negative number.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number if it fits.
    pub fn to_i64(&self) -> Option<i64> {
        self.text.parse().ok()
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.text == "0"
    }
}

impl From<i64> for Integer {
    fn from(value: i64) -> Self {
        Self { text: value.to_string() }
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Integer;

    #[track_caller]
    fn check(negative: bool, digits: &str, radix: u32, expected: Option<&str>) {
        let number = Integer::from_digits(negative, digits, radix);
        assert_eq!(number.as_ref().map(Integer::as_str), expected);
    }

    #[test]
    fn bases_and_sizes() {
        check(false, "0644", 8, Some("420"));
        check(true, "0", 10, Some("0"));
        check(true, "000", 10, Some("0"));
        check(false, "ffffffffffffffffffffffff", 16, Some("79228162514264337593543950335"));
        check(
            false,
            "100000000000000000000000000000000001",
            10,
            Some("100000000000000000000000000000000001"),
        );
        check(false, "9", 8, None);
        check(false, "", 10, None);
        check(false, &"9".repeat(4300), 10, Some(&"9".repeat(4300)));
        check(false, &"9".repeat(4301), 10, None);
    }
}
