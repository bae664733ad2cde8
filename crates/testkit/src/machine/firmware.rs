//! Machines that boot as devices do: by their firmware, from their disk.

use std::fs;
use std::path::{Path, PathBuf};

use volary_host::{Cmd, FileError};

use super::DISK;
use crate::LabError;

/// What UEFI keeps when the machine is off.
const VARIABLES: &str = "variables.fd";

/// What starts the boot loader on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A PC with UEFI.
    UefiAmd64,
    /// An ARM board with U-Boot.
    UBootArm64,
}

impl Firmware {
    /// Makes what the machine needs before its first start.
    pub(super) fn prepare(self, image: &Path, size: u64, folder: &Path) -> Result<(), LabError> {
        let image = image.canonicalize().map_err(FileError::at("read", image))?;
        Cmd::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&image, &folder.join(DISK)])
            .arg(size.to_string())
            .check()?;
        if self == Self::UefiAmd64 {
            let (_, variables) = ovmf()?;
            fs::copy(&variables, folder.join(VARIABLES)).map_err(FileError::at("copy", &variables))?;
        }
        Ok(())
    }

    /// Gives QEMU its arguments, and names the program.
    pub(super) fn arguments(self, folder: &Path, give: &mut dyn FnMut(&str, String)) -> &'static str {
        match self {
            Self::UefiAmd64 => {
                let (code, _) = ovmf().expect("it was there when the machine was made");
                let flash = |unit: u8, file: &Path, options: &str| {
                    format!("if=pflash,format=raw,unit={unit}{options},file={}", file.display())
                };
                give("-machine", "q35".to_owned());
                give("-m", "768".to_owned());
                give("-drive", flash(0, &code, ",readonly=on"));
                give("-drive", flash(1, &folder.join(VARIABLES), ""));
                "qemu-system-x86_64"
            }
            Self::UBootArm64 => {
                give("-machine", "virt".to_owned());
                give("-cpu", "cortex-a57".to_owned());
                give("-m", "1024".to_owned());
                give("-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin".to_owned());
                "qemu-system-aarch64"
            }
        }
    }
}

/// UEFI's program and its first variables, under the names of Debian 12 or 13.
fn ovmf() -> Result<(PathBuf, PathBuf), LabError> {
    let path = |kind: &str| PathBuf::from(format!("/usr/share/OVMF/OVMF_{kind}_4M.fd"));
    let (code, variables) = (path("CODE"), path("VARS"));
    fs::metadata(&code).map_err(FileError::at("read", &code))?;
    Ok((code, variables))
}
