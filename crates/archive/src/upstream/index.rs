//! Fetches and unpacks the indexes of a publication.

use std::fs::File;
use std::io::BufReader;

use volary_host::FileError;
use volary_model::Digest;

use super::download::{Job, Wanted};
use super::error::UpstreamError;
use super::publication::{Index, Publication};
use super::unpack;

/// The texts of the indexes of a suite.
#[derive(Debug, Default)]
pub struct Indexes {
    /// The Packages indexes: path and text.
    pub packages: Vec<(String, String)>,
    /// The Sources indexes.
    pub sources: Vec<(String, String)>,
    /// The translated descriptions: language, path and text.
    pub translations: Vec<(String, String, String)>,
}

/// Which indexes are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The publication's components.
    pub components: &'a [String],
    /// Without `all`.
    pub architectures: &'a [volary_model::Architecture],
    /// Of translated descriptions, such as `en`.
    pub languages: &'a [String],
    /// With the Sources indexes.
    pub sources: bool,
}

impl Publication {
    /// Fetches the indexes of a scope. What a suite does not have of sources and translations is
    /// left out.
    ///
    /// # Errors
    /// [`UpstreamError`]: a component or architecture that is not there, a file that is not as
    /// listed.
    pub fn indexes(&self, job: &Job<'_>, scope: &Scope<'_>) -> Result<Indexes, UpstreamError> {
        let mut indexes = Indexes::default();
        let mut seen = std::collections::BTreeSet::new();
        for component in scope.components {
            for architecture in scope.architectures {
                for index in self.packages(component, architecture.as_str())? {
                    if seen.insert(index.path.clone()) {
                        let text = self.text(job, &index)?;
                        indexes.packages.push((index.path, text));
                    }
                }
            }
            if let Some(index) = self.index(&format!("{component}/source/Sources")).filter(|_| scope.sources)
            {
                let text = self.text(job, &index)?;
                indexes.sources.push((index.path, text));
            }
            for language in scope.languages {
                if let Some(index) = self.index(&format!("{component}/i18n/Translation-{language}")) {
                    let text = self.text(job, &index)?;
                    indexes.translations.push((language.clone(), index.path, text));
                }
            }
        }
        Ok(indexes)
    }

    /// The text of an index.
    fn text(&self, job: &Job<'_>, index: &Index) -> Result<String, UpstreamError> {
        if index.plain.size == 0 {
            return Ok(String::new());
        }
        let sha256 = Digest::from_hex(&index.packed.sha256).expect("a Release was checked when it was read");
        let wanted = Wanted {
            path: index.path.clone(),
            by_hash: index.by_hash.clone(),
            size: index.packed.size,
            sha256,
        };
        let path = job.fetch_one(&wanted)?;
        let file = File::open(&path).map_err(FileError::at("read", &path))?;
        unpack::unpack(BufReader::new(file), &index.path, &index.plain)
    }
}
