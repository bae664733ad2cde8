//! `volary.lock`: the release revision that pinned stages install. `volary bump` writes it,
//! people review it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use volary_model::{Digest, IndexName, ReleaseRef, Suite};

use crate::config::{Packages, Stage};
use crate::fields::{FieldError, Fields, invalid};

/// The content of `volary.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetLock {
    /// The release revision; a new fleet has none yet.
    pub release: Option<LockedRelease>,
}

/// A release revision with what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedRelease {
    /// Which one.
    pub release: ReleaseRef,
    /// The content digest of its package set.
    pub digest: Digest,
    /// The SHA-256 of each plain `Packages` file, by component and architecture.
    pub indexes: BTreeMap<IndexName, Digest>,
}

impl FleetLock {
    /// Parses the text of `volary.lock`.
    ///
    /// # Errors
    /// [`FieldError`] with line, field and remedy.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let root = crate::yaml::parse(text).map_err(FieldError::from)?;
        let fields = Fields::new(&root, "", &["version", "release", "revision", "digest", "indexes"])?;
        fields.version()?;
        let parts = ["release", "revision", "digest", "indexes"];
        if parts.iter().all(|part| fields.get(part).is_none()) {
            return Ok(Self::default());
        }
        let mut indexes = BTreeMap::new();
        for (name, line, node) in fields.entries("indexes")? {
            let field = format!("indexes.{name}");
            let index: IndexName = name.parse().map_err(|error| invalid(line, &field, error))?;
            let crate::yaml::Value::Scalar(digest) = &node.value else {
                return Err(invalid(line, &field, "this is not a digest"));
            };
            indexes.insert(index, digest.parse().map_err(|error| invalid(line, &field, error))?);
        }
        if indexes.is_empty() {
            let remedy = "write the file with `volary bump RELEASE`";
            return Err(fields.complain("indexes", "no index is listed", remedy));
        }
        let release = ReleaseRef { name: fields.parsed("release")?, revision: fields.parsed("revision")? };
        Ok(Self { release: Some(LockedRelease { release, digest: fields.parsed("digest")?, indexes }) })
    }

    /// The file's text; equal content gives equal text.
    pub fn to_text(&self) -> String {
        let mut text =
            String::from("# Written by `volary bump`; review it like any other change.\nversion: 1\n");
        if let Some(LockedRelease { release, digest, indexes }) = &self.release {
            // Quoted, because a release named 1.10 would otherwise be read as a number by others.
            writeln!(text, "release: \"{}\"\nrevision: {}\ndigest: {digest}", release.name, release.revision)
                .expect("a String takes any write");
            text.push_str("indexes:\n");
            for (index, digest) in indexes {
                writeln!(text, "  {index}: {digest}").expect("a String takes any write");
            }
        }
        text
    }

    /// The suite that devices of a stage install from; `None` for a pinned stage without a release.
    pub fn suite_for(&self, stage: &Stage) -> Option<Suite> {
        match stage.packages {
            Packages::Rolling => Some(Suite::Rolling),
            Packages::Lock => self.release.as_ref().map(|locked| Suite::Release(locked.release.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        let digest = Digest::from_bytes([7; 32]);
        let lock = FleetLock {
            release: Some(LockedRelease {
                release: "1.10/r2".parse().unwrap(),
                digest,
                indexes: ["main/amd64", "debian/arm64"].map(|name| (name.parse().unwrap(), digest)).into(),
            }),
        };
        assert_eq!(FleetLock::parse(&lock.to_text()).unwrap(), lock);
        assert_eq!(FleetLock::parse("version: 1\n").unwrap(), FleetLock::default());
        assert_eq!(FleetLock::parse(&FleetLock::default().to_text()).unwrap(), FleetLock::default());
    }

    #[test]
    fn half_a_lock_is_refused() {
        let hex = "07".repeat(32);
        let check = |text: String, expected: &str| {
            let error = FleetLock::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("version: 1\nrelease: v1\n".into(), "\"indexes\" is missing");
        check(
            format!("version: 1\nrelease: v1\nindexes: {{main/amd64: sha256:{hex}}}\n"),
            "\"revision\" is missing",
        );
        check(
            format!(
                "version: 1\nrelease: v1\nrevision: 2\ndigest: sha256:{hex}\nindexes: {{main/amd64: sha256:{hex}}}"
            ),
            "revision",
        );
        check("version: 1\nreleese: v1\n".into(), "did you mean \"release\"?");
        check("version: 2\n".into(), "version 2 is unknown");
        check("release: v1\n".into(), "\"version\" is missing");
    }
}
