//! The exporter's own note in the target, `volary-export.json`: whose export it is, whether a run
//! was cut off, and since when nothing names an object. It holds nothing that the tree does not
//! show anyway.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::export::ExportError;
use crate::export::target::{Content, Kind, Target};

/// Its key.
pub(crate) const KEY: &str = "volary-export.json";

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// The version of this form.
    version: u32,
    /// `Origin` and `Label` of the archive that exports here.
    pub(crate) archive: String,
    /// A run is at work, or was cut off.
    pub(crate) unfinished: bool,
    /// What nothing names, and since when.
    pub(crate) unnamed: BTreeMap<String, Timestamp>,
}

impl Note {
    pub(crate) fn new(archive: &str) -> Self {
        Self { version: 1, archive: archive.to_owned(), unfinished: false, unnamed: BTreeMap::new() }
    }

    /// Reads the note; `None` if there is none.
    pub(crate) fn read(target: &dyn Target, archive: &str) -> Result<Option<Self>, ExportError> {
        let Some(bytes) = target.read(KEY)? else { return Ok(None) };
        let note: Self = serde_json::from_slice(&bytes)
            .map_err(|error| ExportError::Note { target: target.name(), problem: error.to_string() })?;
        if note.archive == archive {
            return Ok(Some(note));
        }
        Err(ExportError::OtherArchive { target: target.name(), found: note.archive, own: archive.to_owned() })
    }

    pub(crate) fn write(&self, target: &dyn Target) -> Result<(), ExportError> {
        let bytes = serde_json::to_vec_pretty(self).expect("a note is plain data");
        Ok(target.put(KEY, Content::Bytes(&bytes), Kind::Note)?)
    }
}
