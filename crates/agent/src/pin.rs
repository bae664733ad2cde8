//! The pin: before apt may use a suite, what the archive serves is what the signed lock names.

use volary_debian::release::{Release, ReleaseError};
use volary_fleet::LockedRelease;
use volary_model::{Architecture, Digest, Suite};

use crate::http::{HttpError, Server};

/// An `InRelease` is a few kilobytes; more is not read.
const LIMIT: u64 = 4 << 20;

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
        "the archive serves other content than the signed lock: suite {suite} has {} for {architecture}, \
         volary.lock says {locked}", .found.as_deref().unwrap_or("no index")
    )]
    OtherContent {
        /// The suite.
        suite: Suite,
        /// The architecture.
        architecture: Architecture,
        /// The SHA-256 in the archive, if any.
        found: Option<String>,
        /// What the lock says.
        locked: Digest,
    },
    /// The lock has no index for this device.
    #[error("volary.lock names no index for {0}: this release was not built for this device")]
    NotLocked(Architecture),
}

/// The digest that the lock has for this device's architecture.
///
/// # Errors
/// [`PinError::NotLocked`].
pub fn locked_index(locked: &LockedRelease, architecture: &Architecture) -> Result<Digest, PinError> {
    locked.indexes.get(architecture).copied().ok_or_else(|| PinError::NotLocked(architecture.clone()))
}

/// Fetches the suite's `InRelease` and compares the index of packages that it names with the lock.
///
/// # Errors
/// [`PinError`].
pub fn check(server: &Server, locked: &LockedRelease, architecture: &Architecture) -> Result<(), PinError> {
    let wanted = locked_index(locked, architecture)?;
    let suite = Suite::Release(locked.release.clone());
    let path = format!("/archive/dists/{suite}/InRelease");
    let bytes = server.file(&path, LIMIT)?.ok_or_else(|| PinError::NoSuite(suite.clone()))?;
    compare(&String::from_utf8_lossy(&bytes), &suite, architecture, &wanted)
}

fn compare(
    in_release: &str,
    suite: &Suite,
    architecture: &Architecture,
    locked: &Digest,
) -> Result<(), PinError> {
    let release =
        Release::parse(in_release).map_err(|source| PinError::Release { suite: suite.clone(), source })?;
    let path = format!("main/binary-{architecture}/Packages");
    let found = release.files.get(&path).map(|file| file.sha256.clone());
    if found.as_deref() == Some(locked.hex().as_str()) {
        return Ok(());
    }
    Err(PinError::OtherContent {
        suite: suite.clone(),
        architecture: architecture.clone(),
        found,
        locked: *locked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_locked_index_passes() {
        let digest = Digest::from_bytes([7; 32]);
        let text = |sha256: &str, path: &str| format!("Suite: v1/r1\nSHA256:\n {sha256} 10 {path}\n");
        let check = |text: &str| {
            compare(text, &"v1/r1".parse().unwrap(), &"amd64".parse().unwrap(), &digest)
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&text(&digest.hex(), "main/binary-amd64/Packages")), Ok(()));
        let other = check(&text(&"ab".repeat(32), "main/binary-amd64/Packages")).unwrap_err();
        assert!(other.contains("other content than the signed lock"), "{other}");
        let missing = check(&text(&digest.hex(), "main/binary-arm64/Packages")).unwrap_err();
        assert!(missing.contains("no index for amd64"), "{missing}");
    }
}
