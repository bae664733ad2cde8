//! What a mirror takes, from where, and over which link.

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Digest};

use super::download::{Patience, Watch};
use super::fetch::Fetch;
use super::keyring::Trust;
use super::select::Filter;

/// What a mirror takes of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spec {
    /// The suite.
    pub suite: String,
    /// The publication's components.
    pub components: Vec<String>,
    /// Without `all`.
    pub architectures: Vec<Architecture>,
    /// Languages of the descriptions.
    pub languages: Vec<String>,
    /// Which packages.
    pub filter: Filter,
}

impl Spec {
    /// Changes with anything that changes the choice.
    pub fn digest(&self) -> Digest {
        let json = serde_json::to_vec(self).expect("plain data is JSON");
        Digest::from_bytes(Sha256::digest(json).into())
    }
}

/// The way to a publication.
#[derive(Clone, Copy)]
pub struct Link<'a> {
    /// Where files come from.
    pub fetch: &'a dyn Fetch,
    /// Whom to believe.
    pub trust: &'a Trust,
    /// Who wants to know.
    pub watch: &'a dyn Watch,
    /// With a bad link.
    pub patience: Patience,
    /// How many files are fetched at once.
    pub parallel: usize,
}

impl std::fmt::Debug for Link<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("place", &self.fetch.place()).finish_non_exhaustive()
    }
}
