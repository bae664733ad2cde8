//! How far a sync or an import is, for those who ask meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use volary_api::v1::mirror::Progress;
use volary_archive::upstream::{Step, Watch};

/// Counted while it runs.
#[derive(Debug)]
pub(crate) struct Live {
    since: Timestamp,
    /// What it does, with the files and bytes that there are in all.
    step: Mutex<(&'static str, u64, u64)>,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Over all steps.
    fetched: AtomicU64,
    stopping: Arc<AtomicBool>,
}

impl Live {
    /// Begins now.
    pub(crate) fn new(stopping: Arc<AtomicBool>, since: Timestamp) -> Self {
        Self {
            since,
            step: Mutex::new(("waiting", 0, 0)),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            stopping,
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let (step, files, bytes) = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            step: step.to_owned(),
            files: (self.files.load(Ordering::Relaxed), files),
            bytes: (self.bytes.load(Ordering::Relaxed), bytes),
            since: self.since,
        }
    }

    /// Bytes that came, the indexes included.
    pub(crate) fn fetched_in_all(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }
}

impl Watch for Live {
    fn step(&self, step: Step) {
        let new = match step {
            Step::Reading => ("reading indexes", 0, 0),
            Step::Fetching { files, bytes } => ("fetching", files, bytes),
            Step::Publishing => ("publishing", 0, 0),
        };
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.files.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    fn whole(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
