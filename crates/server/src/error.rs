//! Why a server could not be made or started.

use std::path::PathBuf;

use volary_host::{CmdError, FileError};

/// An error of [`crate::init()`] and [`crate::serve()`]; what happens later is answered to the
/// one who asked, or logged.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// `init` on a folder that has something in it.
    #[error(
        "{0:?} is not empty; choose another folder, or start the server that is there with: volary serve {0:?}"
    )]
    NotEmpty(PathBuf),
    /// `serve` on a folder that `init` did not make.
    #[error("there is no server in {0:?}; make one with: volary init {0:?}")]
    NotInitialised(PathBuf),
    /// Two servers on one folder.
    #[error("another server runs on {}; stop it first", .0.display())]
    AlreadyRunning(PathBuf),
    /// The configuration is not valid.
    #[error("{}: {problem}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An option of `init` cannot be used.
    #[error("{0}")]
    Option(String),
    /// The port is taken.
    #[error(
        "port {port} is in use by another program (see which with: ss -ltnp 'sport = :{port}'); \
         stop it, or choose another port in server.toml"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate or key cannot be made or read.
    #[error("cannot {operation} {}: {detail}", .path.display())]
    Certificate {
        /// "read", "make".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The fleet repository cannot be used.
    #[error("the fleet repository {}: {detail}", .path.display())]
    Fleet {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] volary_archive::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] volary_store::StoreError),
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program failed.
    #[error(transparent)]
    Run(#[from] CmdError),
    /// The runtime could not start.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}
