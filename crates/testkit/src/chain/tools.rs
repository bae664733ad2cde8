//! The programs under test: where cargo and `cargo xtask agent-deb` left them.

use std::path::{Path, PathBuf};

use crate::LabError;

/// The command line, the agent's package, and the checkout with the examples.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The program `volary`.
    pub volary: PathBuf,
    /// The top of the checkout.
    pub checkout: PathBuf,
    /// The folder that cargo builds into.
    pub target: PathBuf,
}

impl Tools {
    /// `$VOLARY_BIN`, or what was built beside the running program.
    ///
    /// # Errors
    /// [`LabError::NotBuilt`] with the command that builds it.
    pub fn find() -> Result<Self, LabError> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let checkout = checkout.canonicalize().unwrap_or(checkout);
        let target = target_folder().unwrap_or_else(|| checkout.join("target"));
        let volary = from_env("VOLARY_BIN").unwrap_or_else(|| target.join("debug/volary"));
        if !volary.is_file() {
            return Err(LabError::NotBuilt { path: volary, remedy: "make build" });
        }
        Ok(Self { volary, checkout, target })
    }

    /// The Debian package of the agent: `$VOLARY_AGENT_DEB`, or the newest that was built.
    ///
    /// # Errors
    /// [`LabError::NotBuilt`] with the command that builds it.
    pub fn agent_deb(&self) -> Result<PathBuf, LabError> {
        let folder = self.target.join("debian");
        let deb = from_env("VOLARY_AGENT_DEB").or_else(|| newest_deb(&folder)).filter(|path| path.is_file());
        let path = folder.join("volary-agent_*.deb");
        deb.ok_or(LabError::NotBuilt { path, remedy: "make agent-deb" })
    }
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The folder that cargo builds into, from where the running program is:
/// `TARGET/debug/volary-xtask` or `TARGET/debug/deps/some_test-0123`.
fn target_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let profile = if folder.ends_with("deps") { folder.parent()? } else { folder };
    Some(profile.parent()?.to_owned())
}

fn newest_deb(folder: &Path) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
    // There may be some for other devices too.
    let here = match std::env::consts::ARCH {
        "x86_64" => "_amd64.deb",
        "aarch64" => "_arm64.deb",
        _ => "_armhf.deb",
    };
    let debs = files.filter(|path| path.to_string_lossy().ends_with(here));
    debs.max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
}
