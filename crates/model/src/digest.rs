//! A SHA-256 digest, the name of everything immutable in Volary.

use std::fmt;
use std::str::FromStr;

use crate::InvalidName;

/// A SHA-256 digest. Written `sha256:` and 64 lower-case hexadecimal digits, so that a reader
/// of a lock file or a log sees which function made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes that a SHA-256 function returned.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the `sha256:` prefix, as apt and git write digests.
    pub fn hex(&self) -> String {
        // Digits from a table: an archive writes tens of thousands of digests at a time.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// Reads 64 hexadecimal digits without prefix, in either case.
    ///
    /// # Errors
    /// [`InvalidName`] if the text has another length or another character.
    pub fn from_hex(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("digest", text, "64 hexadecimal digits");
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16).ok_or_else(invalid)?;
            let low = (pair[1] as char).to_digit(16).ok_or_else(invalid)?;
            *byte = (high * 16 + low) as u8;
        }
        Ok(Self(bytes))
    }

    /// The first 12 hexadecimal digits: enough for a person to tell two digests apart.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| InvalidName::new("digest", text, "sha256: and 64 hexadecimal digits"))?;
        Self::from_hex(hex)
    }
}

crate::name::serde_as_text!(Digest, "A SHA-256: `sha256:` and 64 lower-case hexadecimal digits.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_survives_a_round_trip() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in ["", "sha256:", "sha256:zz", &"0a".repeat(32), &format!("sha256:{}", "é".repeat(32))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
