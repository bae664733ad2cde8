//! Which server a command talks to, and as whom.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use volary_api::client::Client;

use crate::failure::Failure;

/// The client configuration, `client.toml`: `volary init` writes one for the operator, and
/// everybody else makes one with a token of their own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server's address: `https://host:port`.
    pub server: String,
    /// The file with the PEM certificate of the server's authority, relative to this file.
    pub ca: PathBuf,
    /// The token, or the secret of a session that `volary login` began.
    #[serde(default)]
    pub token: String,
    /// The SSH key to sign with, relative to this file; git's own configuration if absent.
    #[serde(default)]
    pub signing_key: Option<PathBuf>,
    /// This file.
    #[serde(skip)]
    pub path: PathBuf,
}

/// The way to the server, read when it is first needed: `volary check` needs none.
pub struct Connection {
    path: Option<PathBuf>,
}

impl Connection {
    /// Uses the file that was named, or else the one below the user's configuration folder.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }

    /// The configuration with its paths made absolute.
    pub fn config(&self) -> Result<Config, Failure> {
        let path = match &self.path {
            Some(path) => path.clone(),
            None => default_path().ok_or_else(|| missing(Path::new("~/.config/volary/client.toml")))?,
        };
        let text = match volary_host::read_to_string(&path) {
            Err(error) if error.is_not_found() => return Err(missing(&path)),
            text => text?,
        };
        let mut config: Config = toml::from_str(&text)
            .with_context(|| format!("{} is not a client configuration", path.display()))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        config.ca = dir.join(config.ca);
        config.path = dir.join(path.file_name().unwrap_or_default());
        config.signing_key = config.signing_key.map(|key| dir.join(key));
        Ok(config)
    }

    /// Keeps another token, or none, in the file; all else in it stays as it is.
    pub fn keep_token(&self, token: Option<&str>) -> Result<PathBuf, Failure> {
        let path = self.config()?.path;
        let text = volary_host::read_to_string(&path)?;
        let others = text.lines().filter(|line| {
            let key = line.split('=').next().unwrap_or_default().trim();
            key != "token" || !line.contains('=')
        });
        let mut lines: Vec<String> = others.map(str::to_owned).collect();
        if let Some(token) = token {
            lines.push(format!("token = {token:?}"));
        }
        volary_host::write_atomic(&path, format!("{}\n", lines.join("\n")).as_bytes(), 0o600)?;
        Ok(path)
    }

    /// A client for the configured server.
    pub fn client(&self) -> Result<Client, Failure> {
        let config = self.config()?;
        let ca = volary_host::read_to_string(&config.ca)?;
        Ok(Client::new(&config.server, &ca, &config.token)?)
    }
}

fn default_path() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(base.join("volary/client.toml"))
}

fn missing(path: &Path) -> Failure {
    Failure::with_help(
        anyhow::anyhow!("no server is configured: {} is not there", path.display()),
        "name the file with --config or VOLARY_CONFIG; on the server it is client.toml in the server's folder",
    )
}
