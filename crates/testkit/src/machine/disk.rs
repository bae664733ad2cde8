//! The disk that every machine begins with: a Debian root as one ext4 file system, made without
//! mounting anything, and kept in the cache with its kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, FileError, Lock, create_dir, write_atomic};

use crate::{Cache, Debian, LabError, Root, roots};

/// How long making the disk may take, including the wait for another process that makes it.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The disk's size; the file is sparse. Packages, checkouts and checkpoints fit.
const SIZE: &str = "3G";

/// The disk as it is before the first boot, and what boots it. Never written to.
#[derive(Debug, Clone)]
pub(super) struct Base {
    image: PathBuf,
    root: Root,
}

impl Base {
    /// The one in the cache, made if it is not there.
    pub(super) fn in_cache(cache: &Cache, debian: Debian) -> Result<Self, LabError> {
        let root = roots::machine_root(cache, debian, &mut |_| {})?;
        let image = root.path().with_extension("ext4");
        let _lock = Lock::acquire(&image.with_extension("ext4.lock"), PATIENCE)?;
        if !image.is_file() {
            finish(root.path())?;
            let unfinished = image.with_extension("unfinished");
            volary_host::remove_if_exists(&unfinished)?;
            Cmd::new("mke2fs")
                .args([
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-L",
                    "root",
                    "-m",
                    "0",
                    "-E",
                    "lazy_itable_init=1,nodiscard",
                ])
                .arg("-d")
                .args([root.path(), &unfinished])
                .arg(SIZE)
                .timeout(PATIENCE)
                .check()?;
            fs::rename(&unfinished, &image).map_err(FileError::at("rename", &unfinished))?;
        }
        Ok(Self { image, root })
    }

    /// A disk of one machine: it holds what differs from this one.
    pub(super) fn new_disk(&self, path: &Path) -> Result<(), LabError> {
        Cmd::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&self.image, path])
            .check()?;
        Ok(())
    }

    /// The kernel.
    pub(super) fn kernel(&self) -> PathBuf {
        self.root.path().join("vmlinuz")
    }

    /// The first root file system, which mounts the true one.
    pub(super) fn first_root(&self) -> PathBuf {
        self.root.path().join("initrd.img")
    }
}

/// Makes the root one of a machine: its network, and nothing that waits for hardware it has not.
fn finish(root: &Path) -> Result<(), LabError> {
    let network = root.join("etc/systemd/network");
    create_dir(&network)?;
    // The addresses are QEMU's; the lab's server is behind the gateway.
    let text = "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n\
                IPv6AcceptRA=no\n";
    write_atomic(&network.join("10-lab.network"), text.as_bytes(), 0o644)?;
    let units = root.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    create_dir(&wanted)?;
    // It configures the card of a container.
    volary_host::remove_if_exists(&wanted.join("lab-network.service"))?;
    link("/lib/systemd/system/systemd-networkd.service", &wanted.join("systemd-networkd.service"))?;
    for unit in ["systemd-networkd-wait-online.service", "serial-getty@ttyS0.service", "fstrim.timer"] {
        link("/dev/null", &units.join(unit))?;
    }
    // Valid, so that no boot is taken for the first one; the machine's own is given to the kernel.
    write_atomic(&root.join("etc/machine-id"), format!("{:032x}\n", 1).as_bytes(), 0o444)?;
    // What was said before a power cut helps to understand what came after it.
    create_dir(&root.join("var/log/journal"))?;
    write_atomic(&root.join("etc/fstab"), b"/dev/vda / ext4 rw,errors=remount-ro 0 1\n", 0o644)?;
    Ok(write_atomic(&root.join("etc/hosts"), b"127.0.0.1 localhost\n", 0o644)?)
}

fn link(target: &str, path: &Path) -> Result<(), LabError> {
    volary_host::remove_if_exists(path)?;
    Ok(std::os::unix::fs::symlink(target, path).map_err(FileError::at("link", path))?)
}
