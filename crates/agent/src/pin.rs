//! The pin: before apt may use a suite, what the archive serves is what the signed lock names.

use std::collections::BTreeSet;

use volary_debian::clearsign;
use volary_debian::release::{Release, ReleaseError};
use volary_fleet::LockedRelease;
use volary_model::{Architecture, Component, Digest, IndexName, Suite};

use crate::http::{HttpError, Server};

/// An `InRelease` is a few kilobytes; more is not read.
pub(crate) const LIMIT: u64 = 4 << 20;

/// Why the archive is not believed.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The suite is not there.
    #[error("the archive has no suite {0}; was the release made on another server?")]
    NoSuite(Suite),
    /// Its `InRelease` cannot be understood.
    #[error("the InRelease of suite {suite} is not valid: {source}")]
    Release {
        /// The suite.
        suite: Suite,
        /// What is wrong.
        source: ReleaseError,
    },
    /// It names other indexes than the lock.
    #[error(
        "the archive serves other content than the signed lock: suite {suite} has {} for {index}, \
         volary.lock says {locked}", .found.as_deref().unwrap_or("no index")
    )]
    OtherContent {
        /// The suite.
        suite: Suite,
        /// The index.
        index: Box<IndexName>,
        /// The SHA-256 in the archive, if any.
        found: Option<String>,
        /// What the lock says.
        locked: Digest,
    },
    /// It names an index more, and apt would read that too.
    #[error(
        "the archive serves other content than the signed lock: suite {suite} also has {index}, which \
         volary.lock does not name"
    )]
    MoreContent {
        /// The suite.
        suite: Suite,
        /// The path of the index, or the field that makes apt look for one.
        index: String,
    },
    /// The lock has no index for this device.
    #[error("volary.lock names no index for {0}: this release was not built for this device")]
    NotLocked(Architecture),
}

/// The index of own packages that this device needs at least, and the digest that the lock has for
/// it.
fn own_index(locked: &LockedRelease, architecture: &Architecture) -> Result<(IndexName, Digest), PinError> {
    let own = IndexName { component: Component::main(), architecture: architecture.clone() };
    match locked.indexes.get(&own) {
        Some(digest) => Ok((own, *digest)),
        None => Err(PinError::NotLocked(architecture.clone())),
    }
}

/// Fetches the suite's `InRelease` and compares the index of packages that it names with the lock.
///
/// # Errors
/// [`PinError`].
pub fn check(server: &Server, locked: &LockedRelease, architecture: &Architecture) -> Result<(), PinError> {
    let suite = Suite::Release(locked.release.clone());
    let path = format!("/archive/dists/{suite}/InRelease");
    let bytes = server.file(&path, LIMIT)?.ok_or_else(|| PinError::NoSuite(suite.clone()))?;
    compare(&String::from_utf8_lossy(&bytes), locked, architecture)
}

/// Passes an `InRelease` whose every index of packages is one that the lock names. One more index,
/// as of `all`, of another component or of a foreign architecture, is one more that apt installs
/// from.
///
/// # Errors
/// [`PinError`].
pub fn compare(
    in_release: &str,
    locked: &LockedRelease,
    architecture: &Architecture,
) -> Result<(), PinError> {
    let suite = Suite::Release(locked.release.clone());
    let (own, wanted) = own_index(locked, architecture)?;
    let invalid = |source| PinError::Release { suite: suite.clone(), source };
    let release = Release::parse(in_release).map_err(invalid)?;
    let text = clearsign::payload(in_release).map_err(|error| invalid(error.into()))?;
    let architectures = release.fields.get("Architectures").unwrap_or_default();
    if architectures.split_whitespace().any(|name| name == "all") {
        return Err(PinError::MoreContent { suite, index: "all among its Architectures".to_owned() });
    }
    // Every word of the file is looked at, not only the list of SHA-256: apt takes an index from
    // the lists of other hash functions as well, and a path may stand in a list twice.
    let mut named = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(plain) = words.iter().find_map(|word| plain_index(word)) else { continue };
        let of = locked.indexes.iter().find(|(name, _)| plain == name.path());
        let (Some((of, digest)), [hash, _, path]) = (of, &words[..]) else {
            return Err(PinError::MoreContent { suite, index: plain });
        };
        if plain_index(path).as_ref() != Some(&plain) {
            return Err(PinError::MoreContent { suite, index: (*path).to_owned() });
        }
        if *path == plain && hash.len() == 64 && !hash.eq_ignore_ascii_case(&digest.hex()) {
            let (index, found) = (Box::new(of.clone()), Some((*hash).to_owned()));
            return Err(PinError::OtherContent { suite, index, found, locked: *digest });
        }
        named.insert(plain);
    }
    if let Some(index) = named.into_iter().find(|plain| !release.files.contains_key(plain)) {
        return Err(PinError::MoreContent { suite, index });
    }
    if release.files.contains_key(&own.path()) {
        return Ok(());
    }
    Err(PinError::OtherContent { suite, index: Box::new(own), found: None, locked: wanted })
}

/// The plain index that this path belongs to, if it is one of packages, packed, or its differences.
fn plain_index(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().position(|part| *part == "Packages" || part.starts_with("Packages."))?;
    let (folders, _) = parts.split_at(at);
    folders
        .iter()
        .any(|part| part.starts_with("binary-"))
        .then(|| [folders, &["Packages"]].concat().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Suite: v1/r1\nArchitectures: amd64 arm64\nSHA256:\n";

    fn check(text: &str) -> Result<(), String> {
        let indexes = [("main/amd64", 7), ("main/arm64", 8), ("debian/amd64", 6)];
        let locked = LockedRelease {
            release: "v1/r1".parse().unwrap(),
            digest: Digest::from_bytes([1; 32]),
            indexes: indexes
                .map(|(name, byte)| (name.parse().unwrap(), Digest::from_bytes([byte; 32])))
                .into(),
        };
        compare(text, &locked, &"amd64".parse().unwrap()).map_err(|error| error.to_string())
    }

    fn entry(byte: u8, path: &str) -> String {
        format!(" {} 10 {path}\n", Digest::from_bytes([byte; 32]).hex())
    }

    #[test]
    fn only_the_locked_index_passes() {
        let own = HEAD.to_owned() + &entry(7, "main/binary-amd64/Packages");
        assert_eq!(check(&own), Ok(()));
        let more = [(8, "binary-arm64/Packages"), (1, "binary-amd64/Packages.gz"), (2, "source/Sources.xz")];
        let more = more.map(|(byte, path)| entry(byte, &format!("main/{path}"))).concat();
        let more = more + &entry(6, "debian/binary-amd64/Packages");
        let differences = entry(3, "main/binary-amd64/Packages.diff/Index");
        assert_eq!(check(&(own + &more + &differences)), Ok(()));
        let other = check(&(HEAD.to_owned() + &entry(9, "main/binary-amd64/Packages"))).unwrap_err();
        assert!(other.contains("other content than the signed lock"), "{other}");
        let missing = check(&(HEAD.to_owned() + &entry(8, "main/binary-arm64/Packages"))).unwrap_err();
        assert!(missing.contains("no index for main/amd64"), "{missing}");
    }

    #[test]
    fn a_mixed_index_is_refused() {
        let own = HEAD.to_owned() + &entry(7, "main/binary-amd64/Packages");
        let sha512 = format!("SHA512:\n {} 10 main/binary-arm64/Packages\n", "ab".repeat(64));
        for more in [
            entry(1, "main/binary-all/Packages"),
            entry(1, "main/binary-all/Packages.xz"),
            entry(7, "other/binary-amd64/Packages"),
            entry(1, "main/binary-i386/Packages"),
            entry(1, "main/binary-arm64/Packages"),
            entry(1, "main/binary-arm64/Packages.zst"),
            sha512,
        ] {
            let said = check(&(own.clone() + &more)).unwrap_err();
            assert!(said.contains("other content than the signed lock"), "{more}: {said}");
        }
        let twice = check(&(own.clone() + &entry(1, "main/binary-amd64/Packages"))).unwrap_err();
        assert!(twice.contains("main/binary-amd64/Packages stands in SHA256 twice"), "{twice}");
        let all = check(&own.replace("amd64 arm64", "amd64 all")).unwrap_err();
        assert!(all.contains("Architectures"), "{all}");
    }
}
