//! The agent's configuration: who the device is and whom it asks. `enroll` writes it; the fleet
//! repository decides everything else.

use serde::{Deserialize, Serialize};
use volary_host::{FileError, read, write_atomic};
use volary_model::{DeviceName, StageName};

use crate::paths::Paths;

/// `/etc/volary/agent.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of this format: 1.
    pub version: u32,
    /// The server: `https://host:port`.
    pub server: String,
    /// The device's name: its host in the inventory.
    pub name: DeviceName,
    /// The stage it was enrolled in. Where it is now stands in the ledger.
    pub stage: StageName,
    /// Where the fleet is looked for while the server is away: folders, `https://…`, git remotes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not there.
    #[error("this device is not enrolled: run volary-agent enroll --token TOKEN")]
    NotEnrolled,
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what this version understands.
    #[error("{path} is not valid: {detail}; run volary-agent enroll again")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
}

impl Config {
    /// Reads the configuration of an enrolled device.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let path = paths.config();
        let bytes = read(&path)
            .map_err(|error| if error.is_not_found() { ConfigError::NotEnrolled } else { error.into() })?;
        let invalid = |detail: String| ConfigError::Invalid { path: path.display().to_string(), detail };
        let config: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if config.version != 1 {
            return Err(invalid(format!("version {} is not 1", config.version)));
        }
        Ok(config)
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save(&self, paths: &Paths) -> Result<(), FileError> {
        let text = serde_json::to_string_pretty(self).expect("a configuration is text") + "\n";
        write_atomic(&paths.config(), text.as_bytes(), 0o644)
    }
}
