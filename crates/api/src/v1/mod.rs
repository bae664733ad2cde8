//! Version 1 of the wire.
//!
//! Devices use `/device/v1/…` with their client certificate, people use `/api/v1/…` with a
//! bearer token. All routes are described, with these types, by `GET /api/v1/openapi.json`. Every
//! refusal of the server is a [`Problem`] with a matching HTTP status.

pub mod alert;
pub mod archive;
pub mod build;
pub mod deployment;
pub mod device;
pub mod export;
pub mod fleet;
pub mod image;
pub mod keys;
pub mod metrics;
pub mod mirror;
pub mod rollout;
pub mod status;
pub mod upkeep;
pub mod user;

use serde::{Deserialize, Serialize};

/// Why a request was not done: the body of every answer with a 4xx or 5xx status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{error}")]
pub struct Problem {
    /// What went wrong, lower case, fit to stand after "error:".
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}
