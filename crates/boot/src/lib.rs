//! Which slot boots: three values in the form of each boot loader, and the scripts that obey them.
//!
//! A [`BootState`] says which slot boots, and whether it is on trial. The rule of every boot loader
//! is [`BootState::at_boot`]: a slot on trial is booted once, and unless somebody takes the trial
//! away, the next boot goes back to the other slot. So a device is back by itself whatever happens
//! to the new system.
//!
//! A [`Loader`] names the [`Area`]s that its state lives in, turns their bytes into a state, and a
//! state into [`Write`]s. Whoever carries these out flushes after each; every one of them may be
//! cut, sector by sector, and the device still boots a slot that is whole. Each boot loader has a
//! file here; so does the script of each. Not here: devices, files, what is in a slot.

#![warn(missing_docs)]

mod block;
mod grub;
mod grub_script;
mod layout;
mod mender_grub;
mod state;
mod uboot;
mod uboot_script;

pub use grub_script::{GRUB_MODULES, grub_script};
pub use layout::{Layout, LayoutError, Table};
pub use state::{BootState, Trial};
pub use uboot::{ENVIRONMENT_OFFSETS, ENVIRONMENT_SIZE};
pub use uboot_script::{UBootDisk, boot_scr, uboot_script};

/// How a device boots, and where it keeps its boot state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// GRUB with two blocks of one sector in the partition `bootenv`.
    Grub,
    /// U-Boot's redundant environment in the partition `bootenv`.
    UBoot,
    /// GRUB as devices have it that come from Mender: files with locks on the boot partition.
    MenderGrub(MenderParts),
}

/// The numbers of the partitions that Mender's boot state knows the slots by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MenderParts {
    /// Of slot A.
    pub a: u32,
    /// Of slot B.
    pub b: u32,
}

/// Where a piece of the boot state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// So many bytes into the partition `bootenv`.
    Offset(u64),
    /// In a file below the folder that `bootenv` names then.
    File(&'static str),
}

/// A piece of the boot state that is read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Where it is.
    pub place: Place,
    /// How long it is.
    pub length: usize,
}

/// One write: over what is there, never longer than it, with a flush after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub place: Place,
    /// What.
    pub bytes: Vec<u8>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The state.
    pub state: BootState,
    /// What is damaged or differs, for a person. Writing the state once more mends it.
    pub damaged: Vec<String>,
}

/// No copy of the boot state is valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no copy of the boot state is valid ({})", .0.join("; "))]
pub struct Lost(pub Vec<String>);

impl Loader {
    /// What has to be read, in this order.
    pub fn areas(&self) -> Vec<Area> {
        match self {
            Self::Grub => grub::areas(),
            Self::UBoot => uboot::areas(),
            Self::MenderGrub(_) => mender_grub::areas(),
        }
    }

    /// The state in what was read: one entry for each of [`Loader::areas`], shorter or empty if
    /// it could not be read.
    ///
    /// # Errors
    /// [`Lost`] if no copy is valid, with what is wrong with each.
    pub fn read(&self, areas: &[Vec<u8>]) -> Result<Found, Lost> {
        match self {
            Self::Grub => grub::read(areas),
            Self::UBoot => uboot::read(areas),
            Self::MenderGrub(parts) => mender_grub::read(areas, *parts),
        }
    }

    /// What to write, in this order and with a flush after each, so that the state is `state`.
    /// `areas` is what [`Loader::read`] was given: variables of others in it are kept.
    pub fn writes(&self, areas: &[Vec<u8>], state: BootState) -> Vec<Write> {
        match self {
            Self::Grub => grub::writes(areas, state),
            Self::UBoot => uboot::writes(areas, state),
            Self::MenderGrub(parts) => mender_grub::writes(areas, *parts, state),
        }
    }

    /// The content of a new device, for an image builder: what `bootenv` holds beside zeros, or
    /// every file of Mender's folder.
    pub fn initial(&self, state: BootState) -> Vec<Write> {
        match self {
            Self::Grub => grub::writes(&[], state),
            Self::UBoot => uboot::writes(&[], state),
            Self::MenderGrub(parts) => mender_grub::initial(*parts, state),
        }
    }
}

#[cfg(test)]
mod tests;
