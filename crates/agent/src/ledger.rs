//! The ledger's files. Its format and what it means are `volary-device`'s; what was accepted is
//! kept a second and third time by `accepted`.

use volary_device::{LedgerError, State};
use volary_host::{FileError, read, write_atomic};
use volary_model::Digest;

use crate::accepted::{self, Accepted, AcceptedError, Damaged};
use crate::config::Config;
use crate::log;
use crate::paths::Paths;

/// The ledger of this device, ready to be written.
#[derive(Debug)]
pub struct Ledger {
    paths: Paths,
    next: u64,
    fleet: Option<Digest>,
    /// The record of what was accepted, if it stands in all its places.
    recorded: Option<Accepted>,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The records of what was accepted are damaged.
    #[error(transparent)]
    Accepted(#[from] Damaged),
}

impl From<AcceptedError> for LoadError {
    fn from(error: AcceptedError) -> Self {
        match error {
            AcceptedError::File(error) => Self::File(error),
            AcceptedError::Damaged(error) => Self::Accepted(error),
        }
    }
}

impl Ledger {
    /// Opens the ledger and reads the state. A device without one begins anew, but remembers the
    /// commits that it accepted; of several records the furthest counts.
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
        let fleet = accepted::fleet(paths)?;
        let found = accepted::load(paths, fleet)?;
        let (mut state, mut next) = match volary_device::decode(copies.each_ref().map(Option::as_deref)) {
            Ok(loaded) => (loaded.state, loaded.next),
            // A newer agent was here and was taken back. What it was doing is over: its undo tells
            // of it, and what it accepted stands beside the key.
            Err(error @ LedgerError::Newer { next, .. }) => {
                log::say(format!("{error}: beginning anew, without forgetting what was accepted"));
                (State::new(config.stage.clone(), seed(config)), next)
            }
            Err(error @ (LedgerError::Missing | LedgerError::Damaged)) => {
                let known = found.best.as_ref().is_some_and(|record| !record.is_empty());
                if error == LedgerError::Damaged || known {
                    log::say(format!("{error}: beginning anew, without forgetting what was accepted"));
                }
                (State::new(config.stage.clone(), seed(config)), 1)
            }
        };
        if let Some(record) = &found.best {
            // A record of a write that the ledger does not have: it was cut off, or it was lost.
            if record.at() >= next || state.trusted.is_none() {
                record.remind(&mut state);
            }
            next = next.max(record.at().saturating_add(1));
        }
        let recorded = found.best.filter(|record| found.whole && record.tells(&state));
        Ok((Self { paths: paths.clone(), next, fleet, recorded }, state))
    }

    /// Writes the state.
    ///
    /// # Errors
    /// [`FileError`]; the state written before is then still there.
    pub fn save(&mut self, state: &State) -> Result<(), FileError> {
        if self.recorded.as_ref().is_none_or(|record| !record.tells(state)) {
            let record = Accepted::of(state, self.next, self.fleet);
            record.save(&self.paths)?;
            self.recorded = Some(record);
        }
        let bytes = volary_device::encode(state, self.next);
        write_atomic(&self.paths.ledger(volary_device::slot(self.next)), &bytes, 0o600)?;
        self.next += 1;
        Ok(())
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
    use std::fs;

    use volary_model::CommitId;

    use super::*;

    fn device() -> (tempfile::TempDir, Paths, Config) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.prepare().unwrap();
        write_atomic(&paths.ca(), b"one authority\n", 0o644).unwrap();
        let config = Config {
            version: 1,
            server: "https://volary.test".into(),
            name: "dev-1".parse().unwrap(),
            stage: "development".parse().unwrap(),
            elsewhere: Vec::new(),
        };
        (dir, paths, config)
    }

    fn commit(letter: &str) -> CommitId {
        letter.repeat(40).parse().unwrap()
    }

    /// Accepts a commit, as the machine does.
    fn accept(paths: &Paths, config: &Config, id: &CommitId) {
        let (mut ledger, mut state) = Ledger::open(paths, config).unwrap();
        state.trusted = Some(id.clone());
        state.accepted.insert(config.stage.clone(), id.clone());
        ledger.save(&state).unwrap();
    }

    fn remembered(paths: &Paths, config: &Config) -> Option<CommitId> {
        Ledger::open(paths, config).unwrap().1.trusted
    }

    #[test]
    fn what_was_accepted_outlives_any_two_of_its_three_places() {
        let places = ["var/lib/volary", "etc/volary/accepted.json", "var/backups/volary-agent"];
        for kept in places {
            let (dir, paths, config) = device();
            accept(&paths, &config, &commit("a"));
            for lost in places.iter().filter(|place| **place != kept) {
                let path = dir.path().join(lost);
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
            }
            paths.prepare().unwrap();
            assert_eq!(remembered(&paths, &config), Some(commit("a")), "only {kept} is left");
            // And the next write mends all three.
            let (mut ledger, state) = Ledger::open(&paths, &config).unwrap();
            ledger.save(&state).unwrap();
            assert!(places.iter().all(|place| dir.path().join(place).exists()), "{kept}");
        }
    }

    #[test]
    fn the_furthest_record_counts() {
        let (dir, paths, config) = device();
        accept(&paths, &config, &commit("a"));
        let place = |number: usize| paths.accepted()[number].clone();
        let old = read(&place(0)).unwrap();
        accept(&paths, &config, &commit("b"));
        // An old copy was put back, and the ledger is lost.
        write_atomic(&place(0), &old, 0o644).unwrap();
        fs::remove_dir_all(dir.path().join("var/lib/volary")).unwrap();
        paths.prepare().unwrap();
        assert_eq!(remembered(&paths, &config), Some(commit("b")));
        // The other way round, and with a ledger that begins anew: its numbers go on.
        write_atomic(&place(0), &read(&place(1)).unwrap(), 0o644).unwrap();
        write_atomic(&place(1), &old, 0o644).unwrap();
        accept(&paths, &config, &commit("c"));
        write_atomic(&place(0), &old, 0o644).unwrap();
        write_atomic(&place(1), &old, 0o644).unwrap();
        assert_eq!(remembered(&paths, &config), Some(commit("c")), "the ledger is further");
    }

    #[test]
    fn a_write_that_was_cut_off_between_the_record_and_the_ledger_counts() {
        let (_dir, paths, config) = device();
        accept(&paths, &config, &commit("a"));
        let ledgers = [0, 1].map(|slot| read(&paths.ledger(slot)).ok());
        accept(&paths, &config, &commit("b"));
        for (slot, bytes) in ledgers.iter().enumerate() {
            match bytes {
                Some(bytes) => write_atomic(&paths.ledger(slot), bytes, 0o600).unwrap(),
                None => volary_host::remove_if_exists(&paths.ledger(slot)).unwrap(),
            }
        }
        assert_eq!(remembered(&paths, &config), Some(commit("b")));
    }

    #[test]
    fn damage_is_survived_as_long_as_one_record_is_whole() {
        let (_dir, paths, config) = device();
        accept(&paths, &config, &commit("a"));
        let [first, second] = paths.accepted();
        write_atomic(&first, b"{\"version\"", 0o644).unwrap();
        assert_eq!(remembered(&paths, &config), Some(commit("a")));
        accept(&paths, &config, &commit("b"));
        assert_eq!(read(&first).unwrap(), read(&second).unwrap(), "mended");
        write_atomic(&first, b"", 0o644).unwrap();
        write_atomic(&second, b"x", 0o644).unwrap();
        let error = Ledger::open(&paths, &config).unwrap_err().to_string();
        assert!(error.contains("is damaged: it says which commits"), "{error}");
    }

    #[test]
    fn another_fleet_is_another_story() {
        let (dir, paths, config) = device();
        accept(&paths, &config, &commit("a"));
        fs::remove_dir_all(dir.path().join("var/lib/volary")).unwrap();
        paths.prepare().unwrap();
        write_atomic(&paths.ca(), b"another authority\n", 0o644).unwrap();
        assert_eq!(remembered(&paths, &config), None);
        accept(&paths, &config, &commit("b"));
        assert_eq!(remembered(&paths, &config), Some(commit("b")));
    }

    #[test]
    fn the_record_of_an_older_agent_is_read() {
        let (dir, paths, config) = device();
        let text = format!(
            "{{\"version\":1,\"accepted\":{{\"development\":\"{0}\"}},\"trusted\":\"{0}\"}}",
            commit("a")
        );
        write_atomic(&paths.accepted()[0], text.as_bytes(), 0o644).unwrap();
        assert_eq!(remembered(&paths, &config), Some(commit("a")));
        accept(&paths, &config, &commit("b"));
        assert!(dir.path().join("var/backups/volary-agent").exists());
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
