//! What an image says of itself: `slots.json`, how the agent finds the slots, and `image.json`, what is
//! in the one that runs. Both come from the image builder and are never written here.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use volary_boot::{Loader, MenderParts};
use volary_model::{DeviceType, ImageName, Slot};

use super::SlotsError;
use crate::paths::Paths;

/// The version of both files.
const VERSION: u32 = 1;

/// `slots.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotsFile {
    version: u32,
    loader: LoaderName,
    /// The partition of the boot state, or Mender's folder.
    pub bootenv: PathBuf,
    /// The device of slot A.
    pub a: PathBuf,
    /// The device of slot B.
    pub b: PathBuf,
    /// Where the partition is mounted that both slots share.
    pub data: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LoaderName {
    Grub,
    UBoot,
    MenderGrub,
}

/// `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    version: u32,
    /// The kind of hardware.
    pub device_type: DeviceType,
    /// The image's name.
    pub name: ImageName,
}

impl SlotsFile {
    /// `None` on a device without slots.
    ///
    /// # Errors
    /// [`SlotsError`] if it cannot be understood.
    pub fn load(paths: &Paths) -> Result<Option<Self>, SlotsError> {
        let path = paths.slots();
        let Some(file) = load::<Self>(&path)? else { return Ok(None) };
        check_version(&path, file.version)?;
        Ok(Some(file))
    }

    /// The device of a slot, as the file names it.
    pub fn device(&self, slot: Slot) -> &Path {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// The boot loader. Mender's knows the slots by the numbers of their partitions, which the kernel
    /// puts at the end of the devices' names.
    ///
    /// # Errors
    /// [`SlotsError`] if a number is not to be had.
    pub fn loader(&self, paths: &Paths) -> Result<Loader, SlotsError> {
        let number = |slot| {
            let named = paths.on_device(self.device(slot));
            let device = named.canonicalize().unwrap_or(named);
            let name = device.to_string_lossy().into_owned();
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            name[name.len() - digits..].parse().map_err(|_| SlotsError::Invalid {
                path: paths.slots(),
                detail: format!(
                    "{name} does not end with the number of its partition, which Mender's GRUB needs"
                ),
            })
        };
        Ok(match self.loader {
            LoaderName::Grub => Loader::Grub,
            LoaderName::UBoot => Loader::UBoot,
            LoaderName::MenderGrub => {
                Loader::MenderGrub(MenderParts { a: number(Slot::A)?, b: number(Slot::B)? })
            }
        })
    }
}

impl ImageFile {
    /// `None` if the root file system does not say what it is.
    ///
    /// # Errors
    /// [`SlotsError`] if it cannot be understood.
    pub fn load(path: &Path) -> Result<Option<Self>, SlotsError> {
        let Some(file) = load::<Self>(path)? else { return Ok(None) };
        check_version(path, file.version)?;
        Ok(Some(file))
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SlotsError> {
    let bytes = match volary_host::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| SlotsError::Invalid { path: path.to_owned(), detail: error.to_string() })
}

fn check_version(path: &Path, version: u32) -> Result<(), SlotsError> {
    if version == VERSION {
        return Ok(());
    }
    let detail = format!("it has version {version}, and this agent knows version {VERSION}");
    Err(SlotsError::Invalid { path: path.to_owned(), detail })
}
