//! A thread that proves, while a change is applied, that the device can still be reached.

use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::manifest::PathWas;
use super::{prove, store};
use crate::log;
use crate::path::{self, How, Proof};
use crate::paths::Paths;

/// How often the path is tried. A playbook that takes an hour costs 360 beginnings of TLS.
const BEAT: Duration = Duration::from_secs(10);

/// Moves the deadline for as long as it lives and the path works. Dropping it ends the thread.
#[derive(Debug)]
pub struct Lifeline {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lifeline {
    /// Starts it. `may_move` says whether the agent still wants it: one that was asked to end does
    /// not, for it may be the change that stopped it.
    pub fn start(paths: &Paths, path: PathWas, may_move: impl Fn() -> bool + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel();
        let paths = paths.clone();
        let thread = std::thread::spawn(move || {
            let mut away = false;
            while stopped.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                if !may_move() {
                    continue;
                }
                let proof = if path.worked { path::probe(&path.server, &path.ca) } else { unjudged() };
                match proof {
                    Proof::Works { .. } => {
                        away = false;
                        if let Err(error) = move_if_needed(&paths) {
                            log::say(format!("the time to confirm cannot be moved: {error}"));
                        }
                    }
                    Proof::Broken { reason } if !away => {
                        away = true;
                        log::say(format!("while this is applied the server cannot be reached: {reason}"));
                    }
                    Proof::Broken { .. } => {}
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

/// A path that did not work before is not judged: that the agent lives is what counts then.
fn unjudged() -> Proof {
    Proof::Works { how: How::Unjudged }
}

/// Each move is a flush of the disk, so it is not made before a quarter of the grace is over.
fn move_if_needed(paths: &Paths) -> Result<(), store::StoreError> {
    let Some(armed) = store::peek_armed(paths) else { return Ok(()) };
    let left = armed.deadline.saturating_sub(store::boot_seconds());
    let same_boot = armed.boot == volary_host::boot_id();
    if same_boot && left > armed.grace / 4 * 3 { Ok(()) } else { prove(paths) }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics never; if it did, the deadline would stand, which is the safe side.
            let _ = thread.join();
        }
    }
}
