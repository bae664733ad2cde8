//! Where an export goes: a tree of files that a web server or a bucket shows to apt. Not here:
//! which files, and buckets, which are reached through HTTP.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use volary_model::Digest;

/// The keys (paths from the root, with slashes) of all that is there, with sizes.
pub type Inventory = BTreeMap<String, u64>;

/// A place that takes an export. All operations block; several threads use it at once.
pub trait Target: fmt::Debug + Send + Sync {
    /// How people name it.
    fn name(&self) -> String;

    /// All that is there.
    ///
    /// # Errors
    /// [`TargetError`].
    fn list(&self) -> Result<Inventory, TargetError>;

    /// A small object as a whole; `None` if it is not there.
    ///
    /// # Errors
    /// [`TargetError`].
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, TargetError>;

    /// The hash of an object as it is given out; `None` if it is not there.
    ///
    /// # Errors
    /// [`TargetError`].
    fn digest(&self, key: &str) -> Result<Option<Digest>, TargetError>;

    /// Size and time of modification as clients see them; `None` if it is not there.
    ///
    /// # Errors
    /// [`TargetError`].
    fn stat(&self, key: &str) -> Result<Option<Stat>, TargetError>;

    /// Puts an object in place of what had its key, whole or not at all.
    ///
    /// # Errors
    /// [`TargetError`].
    fn put(&self, key: &str, content: Content<'_>, kind: Kind) -> Result<(), TargetError>;

    /// Removes an object; that it is gone is fine.
    ///
    /// # Errors
    /// [`TargetError`].
    fn remove(&self, key: &str) -> Result<(), TargetError>;

    /// Returns once all that was put survives a power cut.
    ///
    /// # Errors
    /// [`TargetError`].
    fn flush(&self) -> Result<(), TargetError>;
}

/// What clients see of an object without fetching it.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// `Last-Modified`.
    pub modified: SystemTime,
}

/// What to put.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// A file, which may be larger than memory.
    File(&'a Path),
}

/// What an object is, in the order in which objects are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In the pool; its content never changes.
    Package,
    /// An index under its hash, or a difference; its content never changes.
    Index,
    /// An index under the name that simple clients know, or a changelog.
    Named,
    /// What names all else: `InRelease`, and what goes with it.
    Release,
    /// The exporter's own note.
    Note,
}

impl Kind {
    /// The `Cache-Control` of such objects. A cache may keep what never changes for ever, and
    /// must ask each time for the rest: an old `InRelease` hides an update.
    pub const fn cache_control(self) -> &'static str {
        match self {
            Self::Package | Self::Index => "public, max-age=31536000, immutable",
            Self::Named | Self::Release | Self::Note => "no-cache, max-age=0, must-revalidate",
        }
    }
}

/// The `Content-Type` of a file of an archive. None of them says that a body is compressed on the
/// way: apt wants exactly these bytes.
pub fn content_type(key: &str) -> &'static str {
    let name = key.rsplit('/').next().unwrap_or(key);
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("deb" | "udeb") => "application/vnd.debian.binary-package",
        Some("dsc") => "text/plain; charset=utf-8",
        Some("gz") => "application/gzip",
        Some("xz") => "application/x-xz",
        Some("zst") => "application/zstd",
        Some("asc" | "gpg") => "application/pgp-keys",
        Some("json") => "application/json",
        _ if name.ends_with("_changelog") => "text/plain; charset=utf-8",
        _ if ["InRelease", "Release", "Packages", "Sources", "Index"].contains(&name) => {
            "text/plain; charset=utf-8"
        }
        _ => "application/octet-stream",
    }
}

/// Why a target did not do something.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {what}: {problem}")]
pub struct TargetError {
    /// "read", "write", …
    pub operation: &'static str,
    /// The object or the target.
    pub what: String,
    /// What the system or the other side said, and what to do about it.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_keeps_what_never_changes() {
        assert!(Kind::Package.cache_control().contains("immutable"));
        assert!(Kind::Release.cache_control().contains("no-cache"));
        assert_eq!(content_type("pool/sha256/aa/aa.deb"), "application/vnd.debian.binary-package");
        assert_eq!(content_type("dists/rolling/InRelease"), "text/plain; charset=utf-8");
        assert_eq!(content_type("dists/x/main/binary-amd64/by-hash/SHA256/aa"), "application/octet-stream");
    }
}
