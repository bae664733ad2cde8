//! Why an image was not made.

use volary_host::{CmdError, FileError, LockError};

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A program failed.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// mmdebstrap, a package or the playbook failed.
    #[error("the root file system cannot be made:\n  {0}")]
    Root(String),
    /// Programs of the device's architecture cannot be run here.
    #[error(transparent)]
    Foreign(#[from] volary_build::SetupError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody else uses the cache.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The artifact cannot be made.
    #[error("cannot make the update artifact: {0}")]
    Artifact(#[from] volary_artifact::Error),
    /// A word of the device type cannot stand in a boot script.
    #[error(transparent)]
    Script(#[from] volary_boot::LayoutError),
    /// The root file system's packages cannot be read.
    #[error("the list of installed packages cannot be read: {0}")]
    Packages(String),
    /// Images are made on amd64 and arm64.
    #[error("images cannot be made on {0}, only on amd64 and arm64")]
    Machine(String),
    /// A file for the boot partition is in no package.
    #[error("boot_files: {0} is not in the root file system; is the package that brings it in `packages`?")]
    NoBootFile(String),
    /// The root has no kernel.
    #[error("there is no /vmlinuz in the root file system: the package {0} brings none")]
    NoKernel(String),
    /// No suite to install from.
    #[error("{0} follows the release in volary.lock, and there is none yet")]
    NoSuite(String),
    /// What goes in does not fit.
    #[error("the {what} partition is too small: {reason}")]
    TooSmall {
        /// Which one.
        what: &'static str,
        /// What the program said that filled it.
        reason: String,
    },
}
