//! What an update under way is, and what the device provides: `modules/update.json` and
//! `modules/provides.json`, each written as a whole before what it tells of is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use volary_host::{create_dir, remove_if_exists, write_atomic};
use volary_model::Digest;

use super::ModuleError;
use super::machine::{Known, Reboot, State};
use crate::paths::Paths;
use crate::slots::files::ImageFile;

/// The version of both formats.
const VERSION: u32 = 1;

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this format: 1.
    pub version: u32,
    /// The artifact's name.
    pub artifact: String,
    /// The SHA-256 of the artifact, once all of it was read.
    pub digest: Option<Digest>,
    /// The type of its payload; none for an artifact that only says what the device provides.
    pub module: Option<String>,
    /// Where it is.
    pub state: State,
    /// The checkpoint of the convergence that it belongs to; none if a person installs it.
    pub checkpoint: Option<String>,
    /// What failed, or that a power cut did.
    pub failed: Option<String>,
    /// What the module wants of a reboot, once it was asked.
    pub reboot: Reboot,
    /// Whether the module can roll back, once it was asked.
    pub rolls_back: bool,
    /// The boot in which a reboot was begun.
    pub boot: Option<String>,
    /// How often a rollback booted the device.
    pub rollback_reboots: u32,
    /// How many states there were.
    pub states: u32,
    /// It could not be put back: what the device is, nobody knows.
    pub inconsistent: bool,
    /// It was committed.
    pub lasts: bool,
    /// The name under which it is remembered that it lasts.
    pub lasts_as: Option<String>,
    /// What the device provides once it lasts.
    pub provides: BTreeMap<String, String>,
}

impl Record {
    /// The update under way, if there is one.
    ///
    /// # Errors
    /// [`ModuleError`] if there is one that this agent does not understand.
    pub fn load(paths: &Paths) -> Result<Option<Self>, ModuleError> {
        load(&file(paths))
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn save(&self, paths: &Paths) -> Result<(), ModuleError> {
        create_dir(&paths.modules())?;
        let bytes = serde_json::to_vec_pretty(self).expect("a record is JSON");
        Ok(write_atomic(&file(paths), &bytes, 0o600)?)
    }

    /// It is over.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn remove(paths: &Paths) -> Result<(), ModuleError> {
        Ok(remove_if_exists(&file(paths))?)
    }

    /// What the machine has to know.
    pub fn known(&self) -> Known {
        Known {
            reboot: self.reboot,
            rolls_back: self.rolls_back,
            rebooted: self.boot.is_some(),
            failed: self.failed.is_some(),
            rollback_reboots: self.rollback_reboots,
            states: self.states,
        }
    }
}

fn file(paths: &Paths) -> PathBuf {
    paths.modules().join("update.json")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    provides: BTreeMap<String, String>,
    #[serde(default)]
    lasting: BTreeMap<String, Digest>,
}

fn stored(paths: &Paths) -> Result<Stored, ModuleError> {
    let none = Stored { version: VERSION, provides: BTreeMap::new(), lasting: BTreeMap::new() };
    Ok(load(&paths.modules().join("provides.json"))?.unwrap_or(none))
}

fn store(paths: &Paths, stored: &Stored) -> Result<(), ModuleError> {
    create_dir(&paths.modules())?;
    let bytes = serde_json::to_vec_pretty(stored).expect("texts are JSON");
    Ok(write_atomic(&paths.modules().join("provides.json"), &bytes, 0o600)?)
}

/// The digest of the artifact that lasts under each name.
///
/// # Errors
/// [`ModuleError`].
pub fn lasting(paths: &Paths) -> Result<BTreeMap<String, Digest>, ModuleError> {
    Ok(stored(paths)?.lasting)
}

/// Takes down that an artifact lasts under a name.
///
/// # Errors
/// [`ModuleError`].
pub fn last(paths: &Paths, name: &str, digest: Digest) -> Result<(), ModuleError> {
    let mut stored = stored(paths)?;
    stored.lasting.insert(name.to_owned(), digest);
    store(paths, &stored)
}

/// What the device provides: what artifacts left, its image, its device type.
///
/// # Errors
/// [`ModuleError`].
pub fn provides(paths: &Paths) -> Result<BTreeMap<String, String>, ModuleError> {
    let mut provides = stored(paths)?.provides;
    let image = ImageFile::load(&paths.image())?;
    if let Some(image) = &image {
        provides.insert("device_type".to_owned(), image.device_type.to_string());
        provides.entry("artifact_name".to_owned()).or_insert_with(|| image.name.to_string());
    }
    // Where Mender keeps them, on a device that comes from it.
    for (key, file) in
        [("device_type", "/var/lib/mender/device_type"), ("artifact_name", "/etc/mender/artifact_info")]
    {
        if let Some(value) = value_in(&paths.on_device(Path::new(file)), key) {
            provides.entry(key.to_owned()).or_insert(value);
        }
    }
    Ok(provides)
}

/// Takes down what the device provides from now on.
///
/// # Errors
/// [`ModuleError`].
pub fn provide(paths: &Paths, provides: &BTreeMap<String, String>) -> Result<(), ModuleError> {
    let mut provides = provides.clone();
    provides.remove("device_type");
    store(paths, &Stored { provides, ..stored(paths)? })
}

fn value_in(path: &Path, key: &str) -> Option<String> {
    let text = volary_host::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

fn load<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ModuleError> {
    let bytes = match volary_host::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let invalid = |detail: String| ModuleError::Invalid { path: path.to_owned(), detail };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if value.get("version").and_then(serde_json::Value::as_u64) != Some(u64::from(VERSION)) {
        return Err(invalid(format!("it does not have version {VERSION}, which is what this agent knows")));
    }
    serde_json::from_value(value).map(Some).map_err(|error| invalid(error.to_string()))
}
