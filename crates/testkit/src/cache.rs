//! The folder that keeps roots between runs and holds what running labs write.

use std::path::{Path, PathBuf};

use volary_host::FileError;

use crate::LabError;

/// The cache folder. It must be on a real disk: an overlay cannot have its upper layer on
/// another overlay, and roots take some 350 MB each.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `$VOLARY_CACHE`, or `/var/cache/volary`.
    ///
    /// # Errors
    /// [`LabError::NotRoot`] for other users than root, who could not use what is in it.
    pub fn open() -> Result<Self, LabError> {
        let dir = std::env::var_os("VOLARY_CACHE").map_or_else(|| "/var/cache/volary".into(), PathBuf::from);
        Self::at(&dir)
    }

    /// A cache in the folder `dir`, made if it is not there.
    ///
    /// # Errors
    /// [`LabError::NotRoot`] for other users than root, or that the folder cannot be made.
    pub fn at(dir: &Path) -> Result<Self, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        for sub in ["roots", "labs"] {
            volary_host::create_dir(&dir.join(sub))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Takes down labs whose owner is gone and removes all roots; labs that run stay.
    ///
    /// # Errors
    /// That something cannot be removed.
    pub fn clear(&self) -> Result<(), LabError> {
        crate::Lab::cleanup_stale(self)?;
        let running = self.labs().read_dir().map_err(FileError::at("read", &self.labs()))?;
        // A running lab's devices stand on the roots.
        if running.flatten().any(|entry| entry.path().is_dir()) {
            return Err(LabError::InUse(self.dir.clone()));
        }
        let roots = self.roots();
        volary_host::Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(&roots).check()?;
        Ok(volary_host::create_dir(&roots)?)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where unpacked roots are.
    pub(crate) fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }

    /// Where labs keep the disks of their devices.
    pub(crate) fn labs(&self) -> PathBuf {
        self.dir.join("labs")
    }
}
