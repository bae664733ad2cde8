//! What an artifact says about itself, as typed results that serialise to JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use volary_model::Digest;

use crate::Compression;

/// Everything about an artifact but the payload's bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Info {
    /// The version of the format: always 3.
    pub format: u32,
    /// The artifact's name, which a device reports after installing it.
    pub name: String,
    /// The group that a device belongs to afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Which devices may take it.
    pub depends: Depends,
    /// State scripts, in the order of the archive.
    pub scripts: Vec<ScriptInfo>,
    /// The payloads, in order. Mender's own clients take exactly one.
    pub payloads: Vec<PayloadInfo>,
    /// What is known about the signature.
    pub signature: Signature,
    /// The SHA-256 of the manifest, which has the checksums of the header and of all payload files: whoever knows it needs
    /// to read no payload to know that the rest is right.
    pub manifest: Digest,
    /// How the header is compressed.
    pub header_compression: Compression,
}

/// What a device must have or be, from the header. Within a list one match is enough; an empty list asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Depends {
    /// Compatible device types; never empty in a valid artifact.
    pub device_types: Vec<String>,
    /// Artifact names of which one must be installed now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Groups of which the device must be in one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A state script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScriptInfo {
    /// Its name, which says when it runs.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// What kind of payload: who installs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayloadType {
    /// A root file system image for the other slot.
    RootfsImage,
    /// Files for the update module of this name.
    Module(String),
    /// Nothing but provides (Mender's bootstrap artifact).
    Empty,
}

impl PayloadType {
    pub(crate) fn from_wire(text: Option<&str>) -> Self {
        match text {
            None => Self::Empty,
            Some("rootfs-image") => Self::RootfsImage,
            Some(module) => Self::Module(module.to_owned()),
        }
    }

    /// The text in the header; none for an empty payload.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::RootfsImage => Some("rootfs-image"),
            Self::Module(module) => Some(module),
            Self::Empty => None,
        }
    }
}

impl fmt::Display for PayloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_text().unwrap_or("empty"))
    }
}

impl Serialize for PayloadType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_text().serialize(serializer)
    }
}

/// One payload: its conditions, what it makes the device provide, and its files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PayloadInfo {
    /// Who installs it.
    #[serde(rename = "type")]
    pub kind: PayloadType,
    /// What the device provides afterwards.
    pub provides: BTreeMap<String, String>,
    /// What the device must provide before; each key with its alternatives.
    pub depends: BTreeMap<String, Vec<String>>,
    /// Which stored keys are dropped first, as patterns with `*`; none is not the same as an empty list
    /// (see [`crate::provides_after`]).
    pub clears_provides: Option<Vec<String>>,
    /// The payload's own meta-data, a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<serde_json::Map<String, serde_json::Value>>,
    /// True if unsigned parts of the artifact changed this payload.
    pub augmented: bool,
    /// How the payload's member is compressed; known once the reader came to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The size of the payload's compressed member in bytes; known once the reader came to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed_size: Option<u64>,
    /// Its files: by name, until they were read, then in the order of the archive.
    pub files: Vec<FileInfo>,
}

/// A payload file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// The SHA-256 that the manifest demands.
    pub digest: Digest,
    /// Its size in bytes; known once the reader came to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What is known about the signature of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Signature {
    /// There is none.
    Absent,
    /// There is one, and no key was given to check it with.
    Unchecked,
    /// It is by this key.
    Verified {
        /// The key's fingerprint (see [`crate::PublicKey::fingerprint`]).
        key: String,
    },
}

impl Info {
    /// All that a device provides after installing this: the artifact's name and group, and what the
    /// payloads provide.
    pub fn all_provides(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<_, _> = self.payloads.iter().flat_map(|p| p.provides.clone()).collect();
        all.insert("artifact_name".into(), self.name.clone());
        if let Some(group) = &self.group {
            all.insert("artifact_group".into(), group.clone());
        }
        all
    }

    /// The payload bytes after unpacking, as far as they are known.
    pub fn payload_size(&self) -> u64 {
        self.payloads.iter().flat_map(|p| &p.files).filter_map(|f| f.size).sum()
    }
}
