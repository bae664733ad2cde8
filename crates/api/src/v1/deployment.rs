//! Images on their way to devices whose client is Mender's.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/devices/{name}/deployments` | → `Vec<`[`Deployment`]`>`, newest first |
//! | `POST /api/v1/devices/{name}/retry` | → nothing; what failed is tried again |
//! | `POST /api/v1/devices/{name}/abort` | → nothing; the update on its way is called back |
//!
//! The clients themselves come to `/api/devices/v1` and `/api/devices/v2`, which are Mender's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, DeviceType, Digest, ImageName, StageName};

/// An image that a device was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Deployment {
    /// Its id, as the client knows it.
    pub id: String,
    /// The device's stage.
    pub stage: StageName,
    /// The commit whose lock pins the image.
    pub commit: CommitId,
    /// The device's type.
    pub device_type: DeviceType,
    /// The image.
    pub image: ImageName,
    /// The pinned artifact.
    pub artifact: Digest,
    /// The artifact that the device is sent.
    pub served: Digest,
    /// What the device provided when it began.
    pub provides: BTreeMap<String, String>,
    /// `pending`, `downloading`, `installing`, `rebooting`, `success`, `failure`, `already-installed`,
    /// `aborted`. Others may come.
    pub state: String,
    /// The client's words for that.
    #[serde(default)]
    pub substate: String,
    /// True if the image is not tried again on this device before somebody says so.
    #[serde(default)]
    pub held: bool,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was heard of last.
    pub changed_at: Timestamp,
    /// When it was over.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// The client's log, if it sent one.
    #[serde(default)]
    pub log: Option<String>,
}
