//! The ledger's files. Its format and what it means are `volary-device`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use volary_device::{LedgerError, State};
use volary_host::{FileError, read, write_atomic};
use volary_model::{CommitId, StageName};

use crate::config::Config;
use crate::log;
use crate::paths::Paths;

/// The ledger of this device, ready to be written.
#[derive(Debug)]
pub struct Ledger {
    paths: Paths,
    next: u64,
    accepted: Accepted,
}

/// The accepted commits, kept apart from the ledger too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    version: u32,
    accepted: BTreeMap<StageName, CommitId>,
    trusted: Option<CommitId>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The record beside the key is there and cannot be read. Going on without it would let a
    /// server send the device back in time.
    #[error(
        "{path} is damaged: it says which commits this device accepted; restore it, or remove it if the \
         ledger in /var/lib/volary is whole"
    )]
    Accepted {
        /// The file.
        path: String,
    },
}

impl Ledger {
    /// Opens the ledger and reads the state. A device without one begins anew, but remembers the
    /// commits that it accepted.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open(paths: &Paths, config: &Config) -> Result<(Self, State), LoadError> {
        let copy = |slot| match read(&paths.ledger(slot)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        let copies = [copy(0)?, copy(1)?];
        let accepted = Accepted::load(paths)?;
        let (mut state, next) = match volary_device::decode(copies.each_ref().map(Option::as_deref)) {
            Ok(loaded) => (loaded.state, loaded.next),
            // A newer agent was here and was taken back. What it was doing is over: its undo tells
            // of it, and what it accepted stands beside the key.
            Err(error @ LedgerError::Newer { next, .. }) => {
                log::say(format!("{error}: beginning anew, without forgetting what was accepted"));
                (State::new(config.stage.clone(), seed(config)), next)
            }
            Err(error @ (LedgerError::Missing | LedgerError::Damaged)) => {
                if error == LedgerError::Damaged || !accepted.accepted.is_empty() {
                    log::say(format!("{error}: beginning anew, without forgetting what was accepted"));
                }
                (State::new(config.stage.clone(), seed(config)), 1)
            }
        };
        if state.trusted.is_none() && accepted.trusted.is_some() {
            state.trusted.clone_from(&accepted.trusted);
            state.accepted.clone_from(&accepted.accepted);
        }
        Ok((Self { paths: paths.clone(), next, accepted }, state))
    }

    /// Writes the state.
    ///
    /// # Errors
    /// [`FileError`]; the state written before is then still there.
    pub fn save(&mut self, state: &State) -> Result<(), FileError> {
        let accepted =
            Accepted { version: 1, accepted: state.accepted.clone(), trusted: state.trusted.clone() };
        if accepted != self.accepted {
            accepted.save(&self.paths)?;
            self.accepted = accepted;
        }
        let bytes = volary_device::encode(state, self.next);
        write_atomic(&self.paths.ledger(volary_device::slot(self.next)), &bytes, 0o600)?;
        self.next += 1;
        Ok(())
    }
}

impl Accepted {
    fn load(paths: &Paths) -> Result<Self, LoadError> {
        let path = paths.accepted();
        match read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| LoadError::Accepted { path: path.display().to_string() }),
            Err(error) if error.is_not_found() => {
                Ok(Self { version: 1, accepted: BTreeMap::new(), trusted: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn save(&self, paths: &Paths) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).expect("a record of commits is text");
        write_atomic(&paths.accepted(), &bytes, 0o644)
    }
}

/// Devices of one fleet differ in their names, so their jitter differs (FNV-1a).
fn seed(config: &Config) -> u64 {
    config
        .name
        .as_str()
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (tempfile::TempDir, Paths, Config) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.prepare().unwrap();
        let config = Config {
            version: 1,
            server: "https://volary.test".into(),
            name: "dev-1".parse().unwrap(),
            stage: "development".parse().unwrap(),
        };
        (dir, paths, config)
    }

    #[test]
    fn what_was_accepted_outlives_the_state_folder() {
        let (dir, paths, config) = device();
        let (mut ledger, mut state) = Ledger::open(&paths, &config).unwrap();
        let commit: CommitId = "a".repeat(40).parse().unwrap();
        state.trusted = Some(commit.clone());
        state.accepted.insert(config.stage.clone(), commit.clone());
        state.last_report = 7;
        ledger.save(&state).unwrap();
        ledger.save(&state).unwrap();
        assert_eq!(Ledger::open(&paths, &config).unwrap().1, state);
        std::fs::remove_dir_all(dir.path().join("var/lib/volary")).unwrap();
        paths.prepare().unwrap();
        let (_, state) = Ledger::open(&paths, &config).unwrap();
        assert_eq!((state.trusted, state.last_report), (Some(commit), 0));
    }

    #[test]
    fn a_torn_copy_is_survived() {
        let (_dir, paths, config) = device();
        let (mut ledger, mut state) = Ledger::open(&paths, &config).unwrap();
        for report in 1..=4 {
            state.last_report = report;
            ledger.save(&state).unwrap();
        }
        write_atomic(&paths.ledger(volary_device::slot(4)), b"volary-led", 0o600).unwrap();
        let (_, state) = Ledger::open(&paths, &config).unwrap();
        assert_eq!(state.last_report, 3);
    }
}
