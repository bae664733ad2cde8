//! Getting an identity: a key that never leaves the device, a request, and a server that says yes.
//!
//! Every step can be repeated: the key and what the device wants are on disk before the first
//! request, so an enrolment that was cut off goes on with the same key.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use volary_api::join::JoinToken;
use volary_api::v1::device::{Enroll, Enrolled};
use volary_host::{FileError, read, remove_if_exists, write_atomic};
use volary_model::{DeviceName, InvalidName, StageName};

use crate::config::{Config, ConfigError};
use crate::facts;
use crate::http::{HttpError, Server};
use crate::key::{DeviceKey, KeyError, KeyPlace};
use crate::log;
use crate::paths::Paths;

/// What an enrolment wants. Kept until it is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The version of this format: 1.
    pub version: u32,
    /// The server: `https://host:port`.
    pub server: String,
    /// The certificate of its authority, PEM.
    pub ca: String,
    /// The `allowed_signers` to begin with.
    pub signers: String,
    /// The stage to begin in.
    pub stage: StageName,
    /// The secret of a token, if there is one.
    pub secret: Option<String>,
    /// The device's name.
    pub name: DeviceName,
    /// Where its key is made.
    #[serde(default)]
    pub key: KeyPlace,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The device belongs to the fleet.
    Enrolled(Config),
    /// Nobody accepted it in the time given.
    Waiting(DeviceName),
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The key or the request.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The existing configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host name is no device name.
    #[error("{0}; give one with --name NAME")]
    Name(#[from] InvalidName),
    /// The device belongs to another fleet or has another name already.
    #[error(
        "this device is enrolled already as {name} at {server}; to enrol it anew, purge it first: \
         apt-get purge volary-agent, or remove /etc/volary and /var/lib/volary"
    )]
    Enrolled {
        /// Its name.
        name: DeviceName,
        /// Its server.
        server: String,
    },
    /// The server and the person with the token do not agree.
    #[error(
        "the server puts this device into stage {server}, but it was to begin in {wanted}; make a token \
         for the right stage: volary device token --stage {server}"
    )]
    Stage {
        /// What the server said.
        server: StageName,
        /// What the token or the person said.
        wanted: StageName,
    },
    /// No signers: nothing could ever be verified.
    #[error("the list of allowed signers is empty or not valid: {0}")]
    Signers(String),
    /// What runs on this device cannot be found out.
    #[error(transparent)]
    Facts(#[from] facts::FactsError),
}

impl Wanted {
    /// What a join token says, for the device `name`.
    pub fn from_token(token: JoinToken, name: DeviceName) -> Self {
        Self {
            version: 1,
            server: token.server.trim_end_matches('/').to_owned(),
            ca: token.ca,
            signers: token.signers,
            stage: token.stage,
            secret: Some(token.secret),
            name,
            key: KeyPlace::default(),
        }
    }
}

/// The name that a device has if nobody gives it one.
///
/// # Errors
/// [`InvalidName`] if the host name cannot be a device name.
pub fn host_name() -> Result<DeviceName, InvalidName> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    name.parse()
}

/// What an enrolment that was cut off wanted, if there is one.
///
/// # Errors
/// [`FileError`] if it is there and cannot be read.
pub fn unfinished(paths: &Paths) -> Result<Option<Wanted>, FileError> {
    match read(&paths.enrolling()) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Enrols the device, waiting up to `patience` to be accepted.
///
/// # Errors
/// [`EnrollError`]; it can be tried again as it is.
pub fn enroll(paths: &Paths, wanted: &Wanted, patience: Duration) -> Result<Ending, EnrollError> {
    match Config::load(paths) {
        Ok(config) if config.server == wanted.server && config.name == wanted.name => {
            remove_if_exists(&paths.enrolling())?;
            return Ok(Ending::Enrolled(config));
        }
        Ok(config) => return Err(EnrollError::Enrolled { name: config.name, server: config.server }),
        Err(ConfigError::NotEnrolled) => {}
        Err(error) => return Err(error.into()),
    }
    let signers = volary_fleet::RootSigners::parse(&wanted.signers);
    match signers {
        Ok(root) if !root.signers.signers.is_empty() => {}
        Ok(_) => return Err(EnrollError::Signers("nobody stands in it".into())),
        Err(error) => return Err(EnrollError::Signers(error.to_string())),
    }
    paths.prepare()?;
    let kept = serde_json::to_vec(wanted).expect("what an enrolment wants is text");
    write_atomic(&paths.enrolling(), &kept, 0o600)?;
    let request = Enroll {
        name: wanted.name.clone(),
        csr: DeviceKey::load_or_make(paths, wanted.key)?.request(&wanted.name)?,
        secret: wanted.secret.clone(),
        architecture: facts::architecture()?,
        os: facts::os(),
    };
    let server = Server::new(&wanted.server, wanted.ca.as_bytes(), None)?;
    let started = Instant::now();
    let mut told = false;
    loop {
        match server.enroll(&request) {
            Ok(Enrolled::Accepted { certificate, stage }) => {
                return finish(paths, wanted, &certificate, &stage).map(Ending::Enrolled);
            }
            Ok(Enrolled::Waiting { again_after }) => {
                if !told {
                    log::say(format!("waiting for somebody to say: volary device accept {}", wanted.name));
                    told = true;
                }
                let pause = Duration::from_secs(u64::from(again_after.clamp(1, 600)));
                if started.elapsed() + pause > patience {
                    return Ok(Ending::Waiting(wanted.name.clone()));
                }
                std::thread::sleep(pause);
            }
            // While it waits in the lobby, a server that restarts is no reason to give up.
            Err(error @ (HttpError::Unreachable { .. } | HttpError::InTrouble { .. })) if told => {
                log::say(error.to_string());
                let pause = Duration::from_secs(15);
                if started.elapsed() + pause > patience {
                    return Err(error.into());
                }
                std::thread::sleep(pause);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The configuration is written last: with it the device is enrolled.
fn finish(
    paths: &Paths,
    wanted: &Wanted,
    certificate: &str,
    stage: &StageName,
) -> Result<Config, EnrollError> {
    if *stage != wanted.stage {
        return Err(EnrollError::Stage { server: stage.clone(), wanted: wanted.stage.clone() });
    }
    write_atomic(&paths.ca(), wanted.ca.as_bytes(), 0o644)?;
    write_atomic(&paths.signers(), wanted.signers.as_bytes(), 0o644)?;
    write_atomic(&paths.certificate(), certificate.as_bytes(), 0o644)?;
    let config = Config {
        version: 1,
        server: wanted.server.clone(),
        name: wanted.name.clone(),
        stage: wanted.stage.clone(),
        elsewhere: Vec::new(),
    };
    config.save(paths)?;
    remove_if_exists(&paths.enrolling())?;
    Ok(config)
}
