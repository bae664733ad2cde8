//! How people sign in: `[login]` and `[oidc]` of `server.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use volary_api::v1::fleet::Role;

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

/// Signing in through a provider, by OpenID Connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The provider's address, exactly as it calls itself.
    pub issuer: String,
    /// What this server is called there.
    pub client_id: String,
    /// The file with the secret that it gave, in the server's folder; none for a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// The certificate authority of the provider, if it is none that Debian knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// What people call it; on the button.
    #[serde(default = "default_name")]
    pub name: String,
    /// What is asked for; `openid` must be among it.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Where it says in which groups somebody is.
    #[serde(default = "default_groups")]
    pub groups_claim: String,
    /// Hours after which somebody must sign in again: only then a change of their groups counts.
    #[serde(default = "default_hours")]
    pub session_hours: u32,
    /// What everybody may whom the provider knows; nobody if it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everybody: Option<Role>,
    /// What people in these groups may.
    #[serde(default)]
    pub roles: BTreeMap<String, Role>,
}

fn default_name() -> String {
    "single sign-on".into()
}

fn default_scopes() -> Vec<String> {
    ["openid", "email", "profile"].map(str::to_owned).into()
}

fn default_groups() -> String {
    "groups".into()
}

fn default_hours() -> u32 {
    12
}

impl OidcConfig {
    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !crate::address::is_safe(&self.issuer) {
            return Err(format!("oidc.issuer {:?} must begin with https://", self.issuer));
        }
        if self.client_id.trim().is_empty() {
            return Err("oidc.client_id is empty; it is what the provider calls this server".into());
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            return Err("oidc.scopes must have openid in it".into());
        }
        if self.roles.is_empty() && self.everybody.is_none() {
            return Err("nobody may sign in: name groups in [oidc.roles], or set oidc.everybody".into());
        }
        for role in self.roles.values().chain(&self.everybody) {
            crate::accounts::check_role(*role).map_err(|problem| format!("oidc: {problem}"))?;
        }
        check_hours("oidc.session_hours", self.session_hours)
    }
}
