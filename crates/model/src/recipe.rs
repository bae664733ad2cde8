//! How the image of a device type is made.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Architecture, PackageName, Suite};

/// The content of `device-types/NAME.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What the device's programs are made for.
    pub architecture: Architecture,
    /// The codename of the Debian release: `bookworm`.
    pub suite: String,
    /// Where Debian comes from.
    pub mirror: Mirror,
    /// Components of the mirror.
    pub components: Vec<String>,
    /// The fleet's own archive.
    pub archive: Option<ArchiveSource>,
    /// Further apt sources.
    pub sources: Vec<AptSource>,
    /// Packages beside those that every image has.
    pub packages: Vec<PackageName>,
    /// The package with the kernel.
    pub kernel: PackageName,
    /// Kernel modules that are loaded at boot, for hardware that does not ask for its own.
    pub modules: Vec<String>,
    /// Words for the kernel's command line.
    pub command_line: Vec<String>,
    /// Who starts the kernel.
    pub loader: BootLoader,
    /// Where in the root the device tree is that the boot loader gives the kernel; without one the
    /// kernel gets the firmware's.
    pub device_tree: Option<String>,
    /// True for a GUID partition table, false for an MBR.
    pub gpt: bool,
    /// The size of the boot partition in bytes.
    pub boot_size: u64,
    /// The size of each root file system in bytes.
    pub root_size: u64,
    /// The size of the data partition in bytes, before it grows to the disk.
    pub data_size: u64,
    /// A playbook of the fleet repository that is applied to the root before it is packed.
    pub playbook: Option<String>,
    /// Files of the boot partition, and where they come from.
    pub boot_files: BTreeMap<String, BootFile>,
    /// How long the device may hang before its hardware resets it; never if zero.
    pub watchdog: Duration,
}

impl Recipe {
    /// The files of the fleet repository that it names.
    pub fn files(&self) -> Vec<&str> {
        let keys = self.archive.iter().map(|archive| &archive.key);
        let keys = keys.chain(self.sources.iter().filter_map(|source| source.key.as_ref()));
        let boot = self.boot_files.values().filter_map(|file| match file {
            BootFile::Fleet(path) => Some(path),
            BootFile::Root(_) => None,
        });
        keys.chain(&self.playbook).chain(boot).map(String::as_str).collect()
    }
}

/// Where Debian comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirror {
    /// Where this machine gets it from.
    Default,
    /// From this address.
    Url(String),
    /// It is all in the fleet's archive, or in the further sources.
    None,
}

/// The fleet's archive as a source of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSource {
    /// Its address.
    pub url: String,
    /// The file of the fleet repository with its public key.
    pub key: String,
    /// Its components.
    pub components: Vec<String>,
    /// The suite, if it is not the stage's own.
    pub suite: Option<Suite>,
}

/// Another apt source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// Its address.
    pub url: String,
    /// Its suite.
    pub suite: String,
    /// Its components.
    pub components: Vec<String>,
    /// The file of the fleet repository with its public key; Debian's own keys if absent.
    pub key: Option<String>,
}

/// Who starts the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootLoader {
    /// GRUB, started by UEFI.
    GrubEfi,
    /// U-Boot, which the board has in itself; it runs `boot.scr` from the boot partition.
    UBoot,
    /// The firmware of a Raspberry Pi, which starts U-Boot.
    RaspberryPi,
}

/// Where a file of the boot partition comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// A path in the root file system: what a package brings. A folder, if it ends with a slash.
    Root(String),
    /// A file of the fleet repository.
    Fleet(String),
}
