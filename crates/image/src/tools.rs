//! The programs that make file systems and boot loaders, of one release of Debian whatever this
//! machine runs: the same versions make the same images everywhere.
//!
//! They are unpacked into a folder and started by their own dynamic loader, so that neither root
//! nor a chroot is needed for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use volary_host::{Cmd, FileError, Lock, create_dir};
use volary_model::{Architecture, Digest, Mirror};

use crate::error::BuildError;
use crate::rootfs::machine_architecture;

/// The first release whose mke2fs reads a tar.
const SUITE: &str = "trixie";

/// What they are in. libarchive is loaded by mke2fs when it reads a tar.
const PACKAGES: &str = "e2fsprogs,libarchive13t64,dosfstools,mtools,grub-common,libc-bin";

/// The configuration of mke2fs: its features as older kernels and GRUB read them, whatever the
/// version that runs.
const MKE2FS_CONF: &str = "\
[defaults]
	base_features = none
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum
	}
	small = {
	}
";

/// How long unpacking them may take on a slow network.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The unpacked programs.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    dir: PathBuf,
    library_path: String,
    loader: PathBuf,
}

impl Tools {
    /// Those in the cache, fetched if they are not there. `grub` names the architecture that GRUB is
    /// needed for.
    pub(crate) fn ensure(
        cache: &Path,
        mirror: &Mirror,
        grub: Option<&Architecture>,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Self, BuildError> {
        let here = machine_architecture()?;
        let mut packages = PACKAGES.to_owned();
        let mut architectures = here.clone();
        if let Some(target) = grub {
            packages += &format!(",grub-efi-{target}-bin:{target}");
            if target.as_str() != here {
                architectures += &format!(",{target}");
            }
        }
        let sum = Digest::from_bytes(Sha256::digest(format!("{SUITE} {architectures} {packages}")).into());
        let dir = cache.join(format!("tools-{}", &sum.hex()[..12]));
        create_dir(cache)?;
        let _lock = Lock::acquire(&dir.with_extension("lock"), PATIENCE)?;
        if !dir.is_dir() {
            let unfinished = dir.with_extension("unfinished");
            remove(&unfinished)?;
            create_dir(&unfinished)?;
            let tar = unfinished.join("tools.tar");
            let mut command = Cmd::new("mmdebstrap")
                .args(["--variant=extract", "--format=tar", "--skip=check/empty"])
                .arg(format!("--architectures={architectures}"))
                .arg(format!("--include={packages}"))
                .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
                .args(crate::rootfs::mode())
                .arg(SUITE)
                .arg(&tar);
            if let Mirror::Url(url) = mirror {
                command = command.arg(url);
            }
            command.timeout(PATIENCE).check_lines(on_line)?;
            Cmd::new("tar")
                .args(["--extract", "--no-same-owner", "--exclude=./dev", "--file"])
                .arg(&tar)
                .arg("--directory")
                .arg(&unfinished)
                .timeout(PATIENCE)
                .check()?;
            volary_host::remove_if_exists(&tar)?;
            volary_host::write_atomic(&unfinished.join("mke2fs.conf"), MKE2FS_CONF.as_bytes(), 0o644)?;
            fs::rename(&unfinished, &dir).map_err(FileError::at("rename", &unfinished))?;
        }
        Self::in_folder(dir, &here)
    }

    fn in_folder(dir: PathBuf, architecture: &str) -> Result<Self, BuildError> {
        let (triplet, loader) = match architecture {
            "amd64" => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
            "arm64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            other => return Err(BuildError::Machine(other.to_owned())),
        };
        let libraries = dir.join("usr/lib").join(triplet);
        Ok(Self { loader: libraries.join(loader), library_path: libraries.display().to_string(), dir })
    }

    /// A program of theirs, by its path.
    pub(crate) fn program(&self, path: &str, time: u64) -> Cmd {
        let name = path.rsplit('/').next().unwrap_or(path);
        Cmd::new(&self.loader)
            .args(["--library-path", &self.library_path, "--argv0", name])
            .arg(self.dir.join(path))
            .env("SOURCE_DATE_EPOCH", time.to_string())
            .env("MKE2FS_CONFIG", self.dir.join("mke2fs.conf"))
            .env("LOCPATH", self.dir.join("usr/lib/locale"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("MTOOLS_SKIP_CHECK", "1")
            .env("MTOOLSRC", "/dev/null")
            .timeout(PATIENCE)
    }

    /// A file of theirs.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// What made the image, by name and digest.
    pub(crate) fn digests(&self) -> Result<Vec<(String, Digest)>, BuildError> {
        let mut digests = Vec::new();
        for path in ["usr/sbin/mke2fs", "usr/sbin/mkfs.fat", "usr/bin/mtools", "usr/bin/grub-mkimage"] {
            let bytes = volary_host::read(&self.dir.join(path))?;
            digests.push((path.to_owned(), Digest::from_bytes(Sha256::digest(bytes).into())));
        }
        Ok(digests)
    }
}

fn remove(path: &Path) -> Result<(), BuildError> {
    Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(path).check()?;
    Ok(())
}
