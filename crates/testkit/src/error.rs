//! Everything that can go wrong with a lab, each with what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use volary_host::{CmdError, FileError, LockError};

/// Why a lab, a root or a device could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Containers need root.
    #[error("device containers need root: run this as root, or with sudo")]
    NotRoot,
    /// This machine has no unified control group hierarchy.
    #[error(
        "no cgroup2 file system is mounted: run \"mkdir -p /sys/fs/cgroup/unified && \
         mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\""
    )]
    NoCgroup,
    /// All networks of labs are taken.
    #[error("all 250 networks 10.77.1.0/24 to 10.77.250.0/24 are in use: end other demos or tests")]
    NoNetwork,
    /// A lab has no address left.
    #[error("a lab has room for 200 devices; {0} does not fit")]
    Full(String),
    /// A name of a device was used twice.
    #[error("the lab has a device named {0} already")]
    Twice(String),
    /// Something was asked of a device that is not running.
    #[error("device {0} is not running")]
    NotRunning(String),
    /// A device did not come up.
    #[error("device {device} did not boot within {} s; state: {state}; its console ends:\n{console}", .timeout.as_secs())]
    Boot {
        /// The device.
        device: String,
        /// How long it was waited for.
        timeout: Duration,
        /// What systemd said last, with failed units and waiting jobs.
        state: String,
        /// The end of its console.
        console: String,
    },
    /// A condition did not come true.
    #[error("waited {} s for {what}; last seen: {last}", .timeout.as_secs())]
    Waited {
        /// The condition, as a noun phrase.
        what: String,
        /// How long it was waited for.
        timeout: Duration,
        /// What was there instead.
        last: String,
    },
    /// Something of a lab could not be removed.
    #[error("cannot take down lab {number}: {source}")]
    Clean {
        /// The lab's number.
        number: u8,
        /// Why.
        source: CmdError,
    },
    /// A process ended that should go on running.
    #[error("{what} ended on its own ({status}); the end of {}:\n{tail}", .log.display())]
    Ended {
        /// The process.
        what: String,
        /// How it ended.
        status: String,
        /// Where its output is.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// Roots cannot be removed while devices stand on them.
    #[error("a lab is running on {}: end the demo or the tests first", .0.display())]
    InUse(PathBuf),
    /// A program under test is not there.
    #[error("{} is not there: run {remedy}", .path.display())]
    NotBuilt {
        /// What is missing.
        path: PathBuf,
        /// The command that makes it.
        remedy: &'static str,
    },
    /// A command printed something else than it should.
    #[error("cannot read what {command} printed: {source}; it printed:\n{answer}")]
    Answer {
        /// The command line.
        command: String,
        /// What is wrong with it.
        source: serde_json::Error,
        /// What it printed.
        answer: String,
    },
    /// The server does not know a device.
    #[error("the server knows no device {0}")]
    Unknown(String),
    /// Something is not the name that it should be.
    #[error(transparent)]
    Name(#[from] volary_model::InvalidName),
    /// A program failed.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lock was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
}
