//! Why a file could not be read as an inventory of one format.

use super::document::LoadError;
use super::graph::GraphError;

/// What stopped the reading of one file in one format. What was read before it stays, as in Ansible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceError {
    /// Ansible refuses it too, and tries the next format.
    Refused {
        /// From 1; 0 if it can't be told.
        line: usize,
        message: String,
    },
    /// Ansible may read it, this reader can't.
    Beyond(String),
}

impl SourceError {
    pub fn at(line: usize, message: impl Into<String>) -> Self {
        Self::Refused { line, message: message.into() }
    }
}

impl From<GraphError> for SourceError {
    fn from(error: GraphError) -> Self {
        Self::at(0, error.to_string())
    }
}

impl From<LoadError> for SourceError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Syntax { line, message } => Self::at(line, message),
            LoadError::Sealed => Self::Beyond("an inventory that is vaulted as a whole".to_owned()),
            LoadError::Beyond { what } => Self::Beyond(what),
        }
    }
}
