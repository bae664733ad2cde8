//! `gates:` and `signers:` of `volary.yml`: what a merge into a stage needs.
//!
//! Whether a gate is open is decided elsewhere; here are only its numbers.

use std::fmt;
use std::time::Duration;

use crate::fields::{FieldError, Fields};
use crate::yaml::{Node, Value};

/// Conditions of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gates {
    /// The release in `volary.lock` takes no more picks.
    pub frozen: bool,
    /// How long the commit has been on the stage before, unchanged.
    pub soak: Option<Duration>,
    /// How the devices of the stage before must be.
    pub healthy: Option<Healthy>,
}

/// How the devices of the stage before must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// At least this part of them is healthy.
    pub at_least: Percent,
    /// At most this part of them is silent.
    pub silent_at_most: Percent,
    /// There are at least so many of them.
    pub devices_at_least: u32,
}

/// A part of a whole, in hundredths of a percent so that 99.95 % is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// So many hundredths of a percent, at most 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= 10_000 { Some(Self(hundredths)) } else { None }
    }

    /// The part as a number from 0 to 10,000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// The part as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

pub(super) fn gates(section: &Fields<'_>, stage: &str) -> Result<Gates, FieldError> {
    let fields = section.map(stage, &["frozen", "soak", "healthy"])?;
    Ok(Gates {
        frozen: match fields.get("frozen") {
            Some(_) => fields.truth("frozen")?,
            None => false,
        },
        soak: match fields.get("soak") {
            Some(_) => Some(fields.duration("soak", Duration::ZERO, Duration::from_secs(366 * 86_400))?),
            None => None,
        },
        healthy: match fields.get("healthy") {
            Some(_) => Some(healthy(&fields)?),
            None => None,
        },
    })
}

fn healthy(gates: &Fields<'_>) -> Result<Healthy, FieldError> {
    let fields = gates.map("healthy", &["at_least", "silent_at_most", "devices_at_least"])?;
    let or = |name: &str, default: u16| match fields.get(name) {
        Some(_) => fields.percent(name),
        None => Ok(Percent(default)),
    };
    Ok(Healthy {
        at_least: or("at_least", 10_000)?,
        silent_at_most: or("silent_at_most", 0)?,
        devices_at_least: match fields.get("devices_at_least") {
            Some(_) => fields.number("devices_at_least")?,
            None => 1,
        },
    })
}

pub(super) fn signers(section: &Fields<'_>, stage: &str) -> Result<Vec<String>, FieldError> {
    let remedy = "write a list of names from .volary/allowed_signers: [alice@example.com]";
    if !matches!(section.get(stage), Some(Node { value: Value::List(_), .. })) {
        return Err(section.complain(stage, "this is not a list", remedy));
    }
    let names: Vec<String> = section.texts(stage)?.into_iter().map(|(name, _)| name.to_owned()).collect();
    if names.is_empty() {
        return Err(section.complain(stage, "nobody may sign for this stage", remedy));
    }
    Ok(names)
}

/// How many different people must have signed: never more than may sign.
pub(super) fn quorum(section: &Fields<'_>, stage: &str) -> Result<u32, FieldError> {
    match section.number(stage)? {
        0 => Err(section.complain(stage, "a commit that nobody signed is never taken", "write at least 1")),
        people => Ok(people),
    }
}
