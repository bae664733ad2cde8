//! Two root file systems: which one runs, what goes into the other, and which one boots next.
//!
//! The formats of the boot state are those of `volary-boot`, when what is done is for `volary-device`
//! to say. Here is how: [`install`] streams an image, [`carry`] takes along what must survive,
//! [`switch`] has the effects of the machine around them.

pub mod carry;
pub mod files;
#[cfg(test)]
pub mod fuse;
pub mod hash;
pub mod install;
pub mod journal;
pub mod lacking;
pub mod medium;
pub mod scripts;
pub mod source;
pub mod switch;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod writer;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use volary_artifact::PublicKey;
use volary_boot::{BootState, Found, Loader, Lost, Place, Trial};
use volary_device::{Image, Running};
use volary_fleet::LockedImage;
use volary_host::FileError;
use volary_model::Slot;

use crate::checkpoint::store::{Store, StoreError};
use crate::paths::Paths;
use files::{ImageFile, SlotsFile};
use medium::Medium;

/// Why nothing can be done with the slots.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A file or a device.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not what this agent understands.
    #[error("{}: {detail}; it comes with the image", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// `slots.json` is there and `image.json` is not.
    #[error("{} says that there are two slots, and {} is not there to say what runs", .0.display(), .1.display())]
    NoImage(PathBuf, PathBuf),
    /// The root file system is in neither slot.
    #[error("the root file system that runs is neither {} nor {}; correct slots.json", a.display(), b.display())]
    Neither {
        /// The device of slot A.
        a: PathBuf,
        /// The device of slot B.
        b: PathBuf,
    },
    /// The boot state is lost.
    #[error("{}: {source}", path.display())]
    Lost {
        /// Where it should be.
        path: PathBuf,
        /// What is there.
        source: Lost,
    },
    /// The boot state was written, and something else is read.
    #[error("the boot state was written as {wanted} and reads back as {found}")]
    NotKept {
        /// What was written.
        wanted: BootState,
        /// What is read.
        found: String,
    },
    /// The checkpoints.
    #[error(transparent)]
    Store(#[from] Box<StoreError>),
    /// A key that artifacts are checked with.
    #[error("{}: {detail}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A program that is needed, as `mount`.
    #[error(transparent)]
    Program(#[from] volary_host::CmdError),
    /// A script of the artifact, or an update module.
    #[error("{0}")]
    Script(String),
    /// The image is not there.
    #[error("slot {0} does not hold the image that is to boot")]
    NotInstalled(Slot),
}

/// The slots of this device.
#[derive(Debug, Clone)]
pub struct Slots {
    pub(crate) paths: Paths,
    file: SlotsFile,
    loader: Loader,
    /// What the running one says of itself.
    pub image: ImageFile,
    /// The one that runs.
    pub running: Slot,
}

impl Slots {
    /// `None` on a device without slots.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn open(paths: &Paths) -> Result<Option<Self>, SlotsError> {
        let Some(file) = SlotsFile::load(paths)? else { return Ok(None) };
        let loader = file.loader(paths)?;
        let image = ImageFile::load(&paths.image())?;
        let image = image.ok_or_else(|| SlotsError::NoImage(paths.slots(), paths.image()))?;
        let running = running(paths, &file)?;
        Ok(Some(Self { paths: paths.clone(), file, loader, image, running }))
    }

    /// The device of a slot.
    pub fn device(&self, slot: Slot) -> PathBuf {
        self.paths.on_device(self.file.device(slot))
    }

    /// The image to install, if the fleet pins another one than the one that runs.
    /// `before` is what was pinned by the commit that the device converged to last.
    pub fn wanted(&self, locked: Option<&LockedImage>, before: Option<&LockedImage>) -> Option<Box<Image>> {
        let locked = locked.filter(|locked| locked.name != self.image.name)?;
        Some(Box::new(Image {
            name: locked.name.clone(),
            artifact: locked.artifact,
            size: locked.size,
            rootfs: locked.rootfs,
            manifest: locked.manifest,
            from: before.filter(|before| before.name == self.image.name).map(|before| before.rootfs),
            into: self.running.other(),
        }))
    }

    /// What the machine has to know at its start.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn seen(&self) -> Result<Running, SlotsError> {
        let state = self.boot_state()?.state;
        let other_is_next = state.slot != self.running && state.trial == Some(Trial::New);
        Ok(Running { slot: self.running, other_is_next })
    }

    /// What boots next.
    ///
    /// # Errors
    /// [`SlotsError::Lost`], and those of reading.
    pub fn boot_state(&self) -> Result<Found, SlotsError> {
        let areas = self.areas()?;
        let path = self.file.bootenv.clone();
        self.loader.read(&areas).map_err(|source| SlotsError::Lost { path, source })
    }

    fn areas(&self) -> Result<Vec<Vec<u8>>, SlotsError> {
        let mut areas = Vec::new();
        for area in self.loader.areas() {
            let (path, offset) = self.place(area.place);
            let mut bytes = vec![0; area.length];
            // What cannot be read counts as damaged: the other copy may be whole.
            let count =
                Medium::open(&path, false).and_then(|medium| medium.read_at(&mut bytes, offset)).unwrap_or(0);
            bytes.truncate(count);
            areas.push(bytes);
        }
        Ok(areas)
    }

    fn place(&self, place: Place) -> (PathBuf, u64) {
        let bootenv = self.paths.on_device(&self.file.bootenv);
        match place {
            Place::Offset(offset) => (bootenv, offset),
            Place::File(file) => (bootenv.join(file), 0),
        }
    }

    /// Says what boots next. Each write is flushed before the next one, and the whole is read back.
    ///
    /// # Errors
    /// [`SlotsError`]; then what boots is what was said before, or this.
    pub fn set(&self, state: BootState) -> Result<(), SlotsError> {
        let areas = self.areas()?;
        for write in self.loader.writes(&areas, state) {
            let (path, offset) = self.place(write.place);
            let medium = Medium::open(&path, true)?;
            medium.write_at(&write.bytes, offset)?;
            medium.flush()?;
            medium.forget_cache();
        }
        match self.boot_state() {
            Ok(Found { state: found, damaged }) if found == state && damaged.is_empty() => Ok(()),
            Ok(found) => {
                let said = found.damaged.join("; ");
                Err(SlotsError::NotKept { wanted: state, found: format!("{} ({said})", found.state) })
            }
            Err(error) => Err(SlotsError::NotKept { wanted: state, found: error.to_string() }),
        }
    }

    /// The slot that runs boots from now on. What says so already is not written again.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn stay(&self) -> Result<(), SlotsError> {
        self.go(self.running)
    }

    /// A slot boots from now on, for ever.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn go(&self, slot: Slot) -> Result<(), SlotsError> {
        let wanted = BootState::confirmed(slot);
        match self.boot_state() {
            Ok(found) if found.state == wanted && found.damaged.is_empty() => Ok(()),
            Ok(_) | Err(_) => self.set(wanted),
        }
    }

    /// Mends a copy of the boot state that is damaged. A state that is lost becomes: the slot that runs.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn mend(&self) -> Result<(), SlotsError> {
        match self.boot_state() {
            Ok(found) if found.damaged.is_empty() => Ok(()),
            Ok(found) => {
                crate::log::say(format!("the boot state is mended: {}", found.damaged.join("; ")));
                self.set(found.state)
            }
            Err(error) => {
                crate::log::say(format!("{error}; from now on slot {} boots", self.running));
                self.set(BootState::confirmed(self.running))
            }
        }
    }

    /// Checkpoints that were made in a slot whose content is gone are nothing to go back to.
    fn forget_checkpoints_of(&self, slot: Slot) -> Result<(), SlotsError> {
        let store = Store::open(&self.paths).map_err(Box::new)?;
        store.forget_slot(slot).map_err(|error| SlotsError::Store(Box::new(error)))
    }
}

/// The keys of which one must have signed an artifact; none if the device demands no signature.
pub(crate) fn artifact_keys(paths: &Paths) -> Result<Vec<PublicKey>, SlotsError> {
    let folder = paths.artifact_keys();
    let mut names: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("list", &folder)(error).into()),
    };
    names.sort();
    let keys = names.into_iter().map(|path| {
        let pem = volary_host::read_to_string(&path)?;
        PublicKey::from_pem(&pem).map_err(|error| SlotsError::Key { path, detail: error.to_string() })
    });
    let keys: Vec<PublicKey> = keys.collect::<Result<_, _>>()?;
    if keys.is_empty() {
        let detail = "it is there and has no key in it; remove it, or put a public key (PEM) into it".into();
        return Err(SlotsError::Key { path: folder, detail });
    }
    Ok(keys)
}

/// Which slot runs: the one whose device is mounted as root. In a root of its own, which is no device,
/// the kernel's command line says so.
fn running(paths: &Paths, file: &SlotsFile) -> Result<Slot, SlotsError> {
    let neither = || SlotsError::Neither { a: file.a.clone(), b: file.b.clone() };
    if !paths.is_device() {
        let line = volary_host::read_to_string(&paths.on_device(Path::new("/proc/cmdline")))?;
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("volary.slot="));
        return word.and_then(|word| word.parse().ok()).ok_or_else(neither);
    }
    let root = std::fs::metadata("/").map_err(FileError::at("look at", Path::new("/")))?.dev();
    let is_root =
        |slot: &Slot| std::fs::metadata(file.device(*slot)).is_ok_and(|device| device.rdev() == root);
    Slot::BOTH.into_iter().find(is_root).ok_or_else(neither)
}
