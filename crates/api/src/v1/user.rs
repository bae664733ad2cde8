//! People: their accounts on the server, and who is signed in.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /api/v1/login` | [`Login`] → [`LoggedIn`]; needs no token |
//! | `POST /api/v1/logout` | → nothing; the session that asks ends |
//! | `GET  /api/v1/me` | → [`Me`] |
//! | `GET  /api/v1/users` | → `Vec<`[`User`]`>` |
//! | `POST /api/v1/users` | [`NewUser`] → nothing |
//! | `DELETE /api/v1/users/{name}` | → nothing |
//! | `POST /api/v1/users/{name}/role` | [`NewRole`] → nothing |
//! | `POST /api/v1/users/{name}/password` | [`NewPassword`] → nothing; all other sessions of the account end |
//! | `GET  /api/v1/sessions` | → `Vec<`[`Session`]`>`: an administrator sees all, others their own |
//! | `DELETE /api/v1/sessions/{id}` | → nothing |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fleet::Role;

/// How somebody signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// With a token.
    Token,
    /// With the password of an account on the server.
    Password,
    /// Through the provider that the server's settings name, by OpenID Connect.
    Oidc,
}

/// Signs in with a password.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The account's name.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// A session has begun.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoggedIn {
    /// The account's name.
    pub user: String,
    /// What it may do.
    pub role: Role,
    /// What to send as a token until the session ends. This is the only time that it is shown.
    pub secret: String,
    /// When the session ends.
    pub expires_at: Timestamp,
}

/// Whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Me {
    /// As records name them.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they signed in.
    pub how: How,
    /// What their provider calls them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the session ends; a token does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct User {
    /// Its name.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the password was set.
    pub password_at: Timestamp,
    /// When one of the person's sessions was used last, if there is one.
    pub used_at: Option<Timestamp>,
}

/// Asks for an account.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// What the person may do; not `upload`, which is for tokens.
    pub role: Role,
    /// Its password, which the person should replace.
    pub password: String,
}

/// Gives an account another role.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    /// The role.
    pub role: Role,
}

/// Sets a password.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new one.
    pub password: String,
    /// The one until now, by which a person shows that the session is theirs; an administrator needs none
    /// for the account of somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
}

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// Rises.
    pub id: i64,
    /// The person, as records name them.
    pub person: String,
    /// How they signed in.
    pub how: How,
    /// What they may do now.
    pub role: Role,
    /// When they signed in.
    pub created_at: Timestamp,
    /// When the session was used last, give or take some minutes.
    pub used_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// True for the one that asks.
    pub own: bool,
}
