//! Root file systems of Debian, made once by mmdebstrap, kept in the cache and used as the lower
//! layer of overlays: nothing ever writes to them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use volary_host::{Cmd, FileError, Lock, create_dir, write_atomic};

use crate::{Cache, LabError};

/// How long making one root may take on a slow network, including the wait for another process
/// that makes it right now.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Rises when what is done to a root after mmdebstrap changes, so that old roots are not used.
const RECIPE: u32 = 2;

/// A release of Debian that devices run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debian {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Debian {
    /// The name that mmdebstrap and apt know it by.
    pub const fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// An unpacked root file system. Read only by agreement.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What happens while a root is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootEvent<'a> {
    /// It is not in the cache; mmdebstrap starts.
    Making(&'a str),
    /// A line of mmdebstrap.
    Said(&'a str),
}

/// A root for device containers: systemd, apt, Ansible and what both need.
///
/// # Errors
/// That mmdebstrap fails, or the cache cannot be used.
pub fn device_root(
    cache: &Cache,
    debian: Debian,
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    const PACKAGES: &[&str] = &[
        "ansible-core",
        "ca-certificates",
        "dbus",
        "git",
        "iproute2",
        "less",
        "nftables",
        "openssh-client",
        "procps",
        "python3",
        "python3-apt",
        "systemd-sysv",
    ];
    make(cache, "device", debian, PACKAGES, &[], on_event)
}

/// A root for virtual machines: that of a device container with a kernel, and with an agent that
/// the host reaches without any network.
pub(crate) fn machine_root(
    cache: &Cache,
    debian: Debian,
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    const PACKAGES: &[&str] = &[
        "ansible-core",
        "ca-certificates",
        "dbus",
        "initramfs-tools",
        "iproute2",
        "linux-image-cloud-amd64",
        "nftables",
        "procps",
        "python3",
        "python3-apt",
        "qemu-guest-agent",
        "systemd-sysv",
        "udev",
    ];
    // Only what this machine is made of: a small first root file system boots sooner.
    const FIRST_ROOT: &str = "--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\" \
                              \"$1/usr/share/initramfs-tools/modules.d\" && echo MODULES=list > \
                              \"$1/etc/initramfs-tools/conf.d/lab\" && printf \"virtio_pci\\nvirtio_blk\\next4\\n\" > \
                              \"$1/usr/share/initramfs-tools/modules.d/lab\"";
    make(cache, "machine", debian, PACKAGES, &[FIRST_ROOT], on_event)
}

/// A root with little more than apt, for tests of apt itself.
///
/// # Errors
/// As [`device_root`].
pub fn apt_root(
    cache: &Cache,
    debian: Debian,
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    make(cache, "apt", debian, &["ca-certificates"], &[], on_event)
}

/// A root with the programs that read archives: apt with apt-file, debootstrap, gpgv, sqv.
///
/// # Errors
/// As [`device_root`].
pub fn client_root(
    cache: &Cache,
    debian: Debian,
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    const PACKAGES: &[&str] = &["apt-file", "ca-certificates", "debootstrap", "dpkg-dev", "gpgv", "sqv"];
    make(cache, "client", debian, PACKAGES, &[], on_event)
}

/// A root with Mender's client as Debian has it, and the tools of a U-Boot environment.
///
/// # Errors
/// As [`device_root`].
pub fn mender_root(
    cache: &Cache,
    debian: Debian,
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    const PACKAGES: &[&str] = &["ca-certificates", "libubootenv-tool", "mender-client", "procps"];
    make(cache, "mender", debian, PACKAGES, &[], on_event)
}

/// A kernel and a static busybox of this architecture, unpacked: none of its programs is run.
///
/// # Errors
/// As [`device_root`].
pub fn kernel_root(cache: &Cache, debian: Debian, architecture: &str) -> Result<Root, LabError> {
    let name = format!("kernel-{}-{architecture}", debian.codename());
    let path = cache.roots().join(&name);
    let _lock = Lock::acquire(&cache.roots().join(format!("{name}.lock")), PATIENCE)?;
    if path.is_dir() {
        return Ok(Root { path });
    }
    let unfinished = cache.roots().join(format!("{name}.unfinished"));
    remove_tree(&unfinished)?;
    create_dir(&unfinished)?;
    let tar = unfinished.join("root.tar");
    Cmd::new("mmdebstrap")
        .args(["--variant=extract", "--format=tar", "--skip=check/empty", "--mode=unshare"])
        .args(["--aptopt=APT::Install-Recommends \"no\"", "--aptopt=Acquire::Languages \"none\""])
        .arg(format!("--architectures={architecture}"))
        .arg(format!("--include=linux-image-cloud-{architecture},busybox-static"))
        .arg(debian.codename())
        .arg(&tar)
        .timeout(PATIENCE)
        .check()?;
    let unpack = Cmd::new("tar").args(["--extract", "--exclude=./dev", "--file"]).arg(&tar);
    unpack.arg("--directory").arg(&unfinished).timeout(PATIENCE).check()?;
    volary_host::remove_if_exists(&tar)?;
    fs::rename(&unfinished, &path).map_err(FileError::at("rename", &unfinished))?;
    Ok(Root { path })
}

fn make(
    cache: &Cache,
    kind: &str,
    debian: Debian,
    packages: &[&str],
    options: &[&str],
    on_event: &mut dyn FnMut(RootEvent<'_>),
) -> Result<Root, LabError> {
    let list = packages.join(",");
    // Without options the name is what it was before there were any.
    let digest = Sha256::digest(format!("{RECIPE} {list}{}", options.concat()));
    let name = format!("{kind}-{}-{:02x}{:02x}{:02x}", debian.codename(), digest[0], digest[1], digest[2]);
    let path = cache.roots().join(&name);
    let unfinished = cache.roots().join(format!("{name}.unfinished"));

    let _lock = Lock::acquire(&cache.roots().join(format!("{name}.lock")), PATIENCE)?;
    if path.is_dir() {
        return Ok(Root { path });
    }
    on_event(RootEvent::Making(&name));
    remove_tree(&unfinished)?;
    // Name spaces of its own: when this process is killed, all that mmdebstrap started is killed
    // too and no mount stays, so that removing an unfinished root can never reach into /dev.
    let mut mmdebstrap = Cmd::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "mmdebstrap"])
        .args(["--variant=minbase", "--mode=root", "--aptopt=Acquire::Languages \"none\""])
        .args(["--aptopt=APT::Install-Recommends \"no\"", "--dpkgopt=force-unsafe-io"]);
    for excluded in ["doc", "man", "info", "locale"] {
        mmdebstrap = mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{excluded}/*"));
    }
    mmdebstrap
        .args(options)
        .args([format!("--include={list}"), debian.codename().to_owned()])
        .arg(&unfinished)
        .timeout(PATIENCE)
        .check_lines(&mut |line| on_event(RootEvent::Said(line)))?;
    finish(&unfinished)?;
    fs::rename(&unfinished, &path).map_err(FileError::at("rename", &unfinished))?;
    Ok(Root { path })
}

/// Turns what mmdebstrap made into a lab's device: no outside package sources, since devices
/// see nothing but the lab; an address from a file; no work that runs by the clock.
fn finish(root: &Path) -> Result<(), LabError> {
    for file in ["etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "etc/hostname"] {
        volary_host::remove_if_exists(&root.join(file))?;
    }
    // What is left out stays left out; flushing is only skipped while the root is made.
    let dpkg = root.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap");
    let options = volary_host::read_to_string(&dpkg)?;
    write_atomic(&dpkg, options.replace("force-unsafe-io\n", "").as_bytes(), 0o644)?;
    // systemd is only in device roots.
    let units = root.join("etc/systemd/system");
    if !root.join("usr/lib/systemd/systemd").exists() && !root.join("lib/systemd/systemd").exists() {
        return Ok(());
    }
    let wanted = units.join("multi-user.target.wants");
    create_dir(&wanted)?;
    write_atomic(&units.join("lab-network.service"), NETWORK_UNIT.as_bytes(), 0o644)?;
    link("../lab-network.service", &wanted.join("lab-network.service"))?;
    for unit in [
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "console-getty.service",
        "getty.target",
    ] {
        link("/dev/null", &units.join(unit))?;
    }
    Ok(())
}

const NETWORK_UNIT: &str = "\
[Unit]
Description=Address in the lab
DefaultDependencies=no
Before=network.target network-online.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/etc/lab-network
ExecStart=/bin/ip address replace ${ADDRESS} dev host0
ExecStart=/bin/ip link set host0 up

[Install]
WantedBy=multi-user.target
";

fn link(target: &str, path: &Path) -> Result<(), LabError> {
    volary_host::remove_if_exists(path)?;
    Ok(symlink(target, path).map_err(FileError::at("link", path))?)
}

fn remove_tree(path: &Path) -> Result<(), LabError> {
    // rm and not std: --one-file-system stops at any mount.
    Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(path).timeout(PATIENCE).check()?;
    Ok(())
}
