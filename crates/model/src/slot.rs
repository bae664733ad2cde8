//! The two root file systems of a device that has two.

use std::fmt;
use std::str::FromStr;

use crate::name::{InvalidName, serde_as_text};

/// One of the two root file systems. Written `a` or `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both, in their order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter in files, boot states and on the terminal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Slot {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::BOTH
            .into_iter()
            .find(|slot| slot.as_str() == text)
            .ok_or_else(|| InvalidName::new("slot", text, "\"a\" or \"b\""))
    }
}

serde_as_text!(Slot, "One of the two root file systems: `a` or `b`.");
