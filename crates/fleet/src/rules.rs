//! What a commit says about the fleet itself: its stages and whose signatures count.

use volary_model::CommitId;

use crate::config::{self, FleetConfig, TooOld};
use crate::fields::FieldError;
use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::signers::{AllowedSigners, SignersError};
use crate::tree::file_at;

/// The path of the fleet's configuration in its repository.
pub const CONFIG_FILE: &str = "volary.yml";
/// The path of the pinned release.
pub const LOCK_FILE: &str = "volary.lock";
/// The path of the list of signers.
pub const SIGNERS_FILE: &str = ".volary/allowed_signers";
/// The path of the archive's public OpenPGP key.
pub const ARCHIVE_KEY_FILE: &str = ".volary/archive.asc";
/// The path of the certificate of the server's own authority.
pub const CA_FILE: &str = ".volary/ca.pem";

/// The rules that stand in one commit and judge the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `volary.yml`.
    pub config: FleetConfig,
    /// `.volary/allowed_signers`.
    pub signers: AllowedSigners,
}

/// Why a commit's rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file is not there.
    #[error("{file} is not in it; a fleet cannot be without it")]
    Absent {
        /// The path.
        file: &'static str,
    },
    /// A file is not UTF-8.
    #[error("{file} is not UTF-8 text")]
    NotText {
        /// The path.
        file: &'static str,
    },
    /// `volary.yml` is for newer agents.
    #[error("volary.yml: {0}")]
    TooOld(#[from] TooOld),
    /// `volary.yml` is not valid.
    #[error("volary.yml, {0}")]
    Config(#[from] FieldError),
    /// `.volary/allowed_signers` is not valid.
    #[error(transparent)]
    Signers(#[from] SignersError),
    /// An object cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Rules {
    /// Reads the rules in a commit.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn at(objects: &dyn ObjectSource, commit: &CommitId) -> Result<Self, RulesError> {
        let tree = objects.commit(commit)?.tree;
        Self::in_tree(objects, &tree)
    }

    /// Reads the rules in a folder.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn in_tree(objects: &dyn ObjectSource, tree: &ObjectId) -> Result<Self, RulesError> {
        let text = text_at(objects, tree, CONFIG_FILE)?;
        config::check_age(&text)?;
        let config = FleetConfig::parse(&text)?;
        let signers = AllowedSigners::parse(&text_at(objects, tree, SIGNERS_FILE)?)?;
        Ok(Self { config, signers })
    }
}

fn text_at(objects: &dyn ObjectSource, tree: &ObjectId, file: &'static str) -> Result<String, RulesError> {
    let bytes = file_at(objects, tree, file)?.ok_or(RulesError::Absent { file })?;
    String::from_utf8(bytes).map_err(|_| RulesError::NotText { file })
}
