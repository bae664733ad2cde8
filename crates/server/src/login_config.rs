//! How people sign in: `[login]` of `server.toml`.

use serde::{Deserialize, Serialize};

/// The longest session: a year.
const LONGEST: u32 = 366 * 24;

/// How long people with an account on the server stay signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginConfig {
    /// Hours after which somebody who signed in with a password must do so again.
    pub session_hours: u32,
}

impl Default for LoginConfig {
    /// Thirty days.
    fn default() -> Self {
        Self { session_hours: 30 * 24 }
    }
}

impl LoginConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_hours("login.session_hours", self.session_hours)
    }
}

pub(crate) fn check_hours(key: &str, hours: u32) -> Result<(), String> {
    if (1..=LONGEST).contains(&hours) { Ok(()) } else { Err(format!("{key} must be 1 to {LONGEST}")) }
}
