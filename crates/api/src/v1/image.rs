//! Images for devices with two slots, for people and for whoever fetches them.
//!
//! | route | request → answer |
//! |---|---|
//! | `PUT` or `POST /api/v1/images?digest=D` | an artifact's bytes → [`Image`]; 201 if it is new, 200 if it was there; with D only if they have this digest |
//! | `GET  /api/v1/images` | → `Vec<`[`Image`]`>`, newest first |
//! | `GET  /api/v1/images/{artifact}` | → [`Image`] |
//! | `DELETE /api/v1/images/{artifact}` | → [`Image`]; 409 while a stage pins it |
//! | `GET  /images/{sha256}` | → the artifact, with ranges, for ever the same; no token needed |
//! | `GET  /images/{sha256}.blocks` | → its block file, once it was made |
//! | `GET  /images/{sha256}.from-{sha256 of a root file system}` | → the pair that leads to it from there, if it was made |
//!
//! `{sha256}` is 64 hexadecimal digits.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{DeviceType, Digest, ImageName, StageName};

/// An image that the server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// The SHA-256 of the whole artifact.
    pub artifact: Digest,
    /// The artifact's length in bytes.
    pub size: u64,
    /// Its name, which a device tells after installing it.
    pub name: ImageName,
    /// Which devices it is for.
    pub device_types: Vec<DeviceType>,
    /// The SHA-256 of the root file system that a device has after it.
    pub rootfs: Digest,
    /// The length of that in bytes; `None` if the artifact only makes it from another one.
    #[serde(default)]
    pub rootfs_size: Option<u64>,
    /// The SHA-256 of the artifact's manifest, if it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The type of its payload: `rootfs-image`, or an update module.
    pub kind: String,
    /// What a device must provide before it, besides its type: key → alternatives.
    #[serde(default)]
    pub depends: BTreeMap<String, Vec<String>>,
    /// The fingerprint of the key that signed it, if the server checks that.
    #[serde(default)]
    pub signed_by: Option<String>,
    /// When it was published.
    pub published_at: Timestamp,
    /// By whom.
    pub published_by: String,
    /// The stages whose newest commit pins it.
    #[serde(default)]
    pub pinned_by: Vec<StageName>,
    /// Why housekeeping keeps it, in sentences; empty if it goes with the next run.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// An image that a stage pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PinnedImage {
    /// For which devices.
    pub device_type: DeviceType,
    /// Its name.
    pub name: ImageName,
    /// The SHA-256 of the artifact.
    pub artifact: Digest,
    /// The artifact's length in bytes.
    pub size: u64,
    /// True if the server has it.
    pub known: bool,
}

/// An image that another stage has, or has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageChange {
    /// For which devices.
    pub device_type: DeviceType,
    /// The name before; `None` if there was none.
    pub from: Option<ImageName>,
    /// The name after; `None` if the device type is no longer pinned.
    pub to: Option<ImageName>,
    /// The length of the artifact that comes, in bytes.
    pub size: u64,
}
