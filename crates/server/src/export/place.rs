//! An export as it is declared: in `server.toml` under `[[export]]`, or by the options of
//! `volary archive export`.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use volary_archive::export::{ExportOptions, FolderTarget, SuiteChoice, Target};

use crate::address;
use crate::export::ExportFailure;
use crate::export::bucket::{Bucket, BucketTarget};
use crate::export::credentials::Credentials;

/// An export: what goes where, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Its name, as the status shows it.
    pub name: String,
    /// A folder, or `s3://bucket/prefix`.
    pub to: String,
    /// `all`, `rolling`, a release (all its revisions), or a revision such as `v1.0/r2`.
    pub suites: Vec<String>,
    /// The address of a bucket that is not Amazon's, such as `https://storage.example:9000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The bucket's region.
    #[serde(default = "default_region")]
    pub region: String,
    /// A file with `access_key_id` and `secret_access_key` that only its owner can read; default:
    /// the environment's `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// How many days what nothing names any more stays in the target.
    #[serde(default = "default_grace_days")]
    pub grace_days: u32,
    /// Also a `Release` with a `Release.gpg`, for clients that read no `InRelease`.
    #[serde(default)]
    pub release_gpg: bool,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_grace_days() -> u32 {
    7
}

impl ExportConfig {
    /// An export with the usual values.
    pub fn new(to: String, suites: Vec<String>) -> Self {
        Self {
            name: "export".to_owned(),
            to,
            suites,
            endpoint: None,
            region: default_region(),
            credentials: None,
            grace_days: default_grace_days(),
            release_gpg: false,
        }
    }

    /// What types do not say of all exports of a server.
    pub(crate) fn check_all(exports: &[Self]) -> Result<(), String> {
        for (index, export) in exports.iter().enumerate() {
            export.check()?;
            if exports[..index].iter().any(|other| other.name == export.name) {
                return Err(format!("there are two exports {}", export.name));
            }
            if exports[..index].iter().any(|other| other.to == export.to) {
                return Err(format!("two exports go to {}; name all suites in one", export.to));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(format!("export {:?} needs a name of letters, digits and -_.", self.name));
        }
        self.choices().map_err(|problem| format!("export {}: {problem}", self.name))?;
        self.place().map(drop).map_err(|problem| format!("export {}: {problem}", self.name))
    }

    /// The suites.
    pub(crate) fn choices(&self) -> Result<Vec<SuiteChoice>, String> {
        if self.suites.is_empty() {
            return Err("suites is empty; name at least one suite, or write [\"all\"]".to_owned());
        }
        let choice = |text: &String| {
            text.parse().map_err(|error| {
                format!("{text:?} is neither all, rolling, a release nor a revision such as v1.0/r2: {error}")
            })
        };
        self.suites.iter().map(choice).collect()
    }

    /// How to export, as the declaration says it.
    pub(crate) fn options(&self) -> ExportOptions {
        ExportOptions {
            detached: self.release_gpg,
            grace: SignedDuration::from_hours(24 * i64::from(self.grace_days)),
            ..ExportOptions::default()
        }
    }

    /// The target, ready for use. It must not be dropped where a runtime runs.
    pub(crate) fn target(&self) -> Result<Box<dyn Target>, ExportFailure> {
        match self.place().map_err(ExportFailure::Place)? {
            Place::Folder(path) => Ok(Box::new(FolderTarget::new(&path))),
            Place::Bucket { name, prefix } => {
                let bucket = Bucket {
                    name,
                    prefix,
                    endpoint: self.endpoint.clone(),
                    region: self.region.clone(),
                    credentials: Credentials::find(self.credentials.as_deref())?,
                };
                Ok(Box::new(BucketTarget::new(bucket)?))
            }
        }
    }

    fn place(&self) -> Result<Place, String> {
        let place = Place::parse(&self.to)?;
        if matches!(place, Place::Folder(_)) && (self.endpoint.is_some() || self.credentials.is_some()) {
            return Err("endpoint and credentials are for buckets; to is a folder".to_owned());
        }
        if self.endpoint.as_deref().is_some_and(|url| !address::is_web(url)) {
            return Err("endpoint must begin with https:// or http://".to_owned());
        }
        Ok(place)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    Bucket { name: String, prefix: String },
}

impl Place {
    fn parse(to: &str) -> Result<Self, String> {
        let Some(rest) = to.strip_prefix("s3://") else {
            if to.is_empty() || to.contains("://") {
                return Err(format!("{to:?} is neither a folder nor s3://bucket/prefix"));
            }
            return Ok(Self::Folder(Path::new(to).to_owned()));
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
        if !part(name) || (!prefix.is_empty() && !prefix.split('/').all(part)) {
            return Err(format!("{to:?} is not s3://bucket/prefix of letters, digits and -_."));
        }
        Ok(Self::Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        let bucket = |name: &str, prefix: &str| Place::Bucket { name: name.into(), prefix: prefix.into() };
        assert_eq!(Place::parse("s3://b").unwrap(), bucket("b", ""));
        assert_eq!(Place::parse("s3://b/apt/x/").unwrap(), bucket("b", "apt/x"));
        assert_eq!(Place::parse("/srv/www").unwrap(), Place::Folder("/srv/www".into()));
        for wrong in ["", "s3://", "s3:///x", "s3://b/../x", "gs://b", "s3://b/a//b", "s3://b/a b"] {
            assert!(Place::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    fn check(change: impl FnOnce(&mut ExportConfig), expected: &str) {
        let mut config = ExportConfig::new("s3://b/p".into(), vec!["rolling".into()]);
        assert_eq!(config.check(), Ok(()));
        change(&mut config);
        let problem = config.check().unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn mistakes_are_named() {
        check(|config| config.suites.clear(), "suites is empty");
        check(|config| config.suites = vec!["v1/r0".into()], "v1/r0");
        check(|config| config.name = "a b".into(), "needs a name");
        check(|config| config.endpoint = Some("host:9000".into()), "must begin with https://");
        check(
            |config| (config.to, config.endpoint) = ("/srv".into(), Some("http://h".into())),
            "are for buckets",
        );
        check(|config| config.to = "ftp://h".into(), "neither a folder nor");
    }
}
