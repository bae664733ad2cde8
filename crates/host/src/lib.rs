//! The only door to processes, files and the clock.
//!
//! Everything that touches the machine goes through here: programs run with a time limit and
//! captured output, files are replaced atomically, folders are flushed. No word of Volary's
//! domain appears in this crate.

#![warn(missing_docs)]

mod clock;
mod cmd;
mod file;
mod lock;
mod mounts;

pub use clock::{awake, boot_id, now, set_clock, since_boot};
pub use cmd::{Cmd, CmdError, Output, Stop, tail};
pub use file::{
    FileError, NewFile, create_dir, read, read_to_string, remove_if_exists, sync_dir, write_atomic,
};
pub use lock::{Lock, LockError};
pub use mounts::mount_points;
