//! Brings an image onto a card or stick: refuses what is not meant, writes only the blocks that
//! count, and reads them back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise, major, minor};
use sha2::{Digest as _, Sha256};
use volary_host::FileError;
use volary_model::Digest;

use crate::bmap::{Bmap, MappedRange};
use crate::layout::SECTOR;
use crate::open::OpenImage;

/// What is read, written and hashed at once.
const PIECE: usize = 1 << 20;

/// Without a block map every so many bytes get a checksum of their own, for reading back.
const STRETCH: u64 = 64 << 20;

/// A block device as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// Its path, as given.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// What it calls itself; may be empty.
    pub model: String,
    /// A card, a stick, or anything else that is plugged in.
    pub is_removable: bool,
    /// It takes no writes.
    pub is_read_only: bool,
    /// It is a part of a disk.
    pub is_partition: bool,
    /// Where it, or a part of it, is mounted; `swap` and what holds it otherwise stand here too.
    pub users: Vec<String>,
}

/// Why a disk is not written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A partition was named.
    #[error("{} is a partition, not a disk", .0.display())]
    Partition(PathBuf),
    /// It is fixed.
    #[error("{} is not a removable disk{}", .path.display(), called(.model))]
    Fixed {
        /// The disk.
        path: PathBuf,
        /// What it calls itself.
        model: String,
    },
    /// It is mounted, or swap, or part of a volume.
    #[error("{} is in use: {}", .path.display(), .users.join(", "))]
    InUse {
        /// The disk.
        path: PathBuf,
        /// By what.
        users: Vec<String>,
    },
    /// It takes no writes.
    #[error("{} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The image does not fit.
    #[error("{} has {size} bytes, the image needs {needs}", .path.display())]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The image's.
        needs: u64,
    },
}

fn called(model: &str) -> String {
    if model.is_empty() { String::new() } else { format!(" ({model})") }
}

impl Refusal {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Partition(_) => "name the whole disk",
            Self::Fixed { .. } => "lsblk shows which disk is which; if you mean this one: --fixed-disk",
            Self::InUse { .. } => "unmount it first",
            Self::ReadOnly(_) => "many cards have a switch on their side",
            Self::TooSmall { .. } => "take a larger disk, or smaller sizes in the device type",
        }
    }
}

/// Why a flash did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The disk is not written to.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is no block device.
    #[error("{} is not a block device", .0.display())]
    NoDisk(PathBuf),
    /// The disk cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image cannot be read or unpacked.
    #[error("the image cannot be read: {0}")]
    Image(io::Error),
    /// The image is not the one that the block map was made of.
    #[error(
        "the image does not fit its block map at byte {0}: one of the two is damaged, or of another image"
    )]
    NotTheMap(u64),
    /// The disk gives back something else.
    #[error("{} does not give back what was written at byte {at}: it is worn out, or not as large as it says", .path.display())]
    Lost {
        /// The disk.
        path: PathBuf,
        /// Where the stretch begins that is wrong.
        at: u64,
    },
}

/// How far a flash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are written, of so many if that is known.
    Written(u64, Option<u64>),
    /// The disk is asked to finish.
    Flushing,
    /// So many bytes are read back, of so many.
    Verified(u64, u64),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Flashed {
    /// The size of the image in bytes.
    pub image: u64,
    /// How many bytes of it were written and read back.
    pub written: u64,
}

impl Disk {
    /// Asks the kernel about a block device.
    ///
    /// # Errors
    /// [`FlashError::NoDisk`], or that the kernel's description cannot be read.
    pub fn at(path: &Path) -> Result<Self, FlashError> {
        let meta = std::fs::metadata(path).map_err(FileError::at("read", path))?;
        if !meta.file_type().is_block_device() {
            return Err(FlashError::NoDisk(path.to_owned()));
        }
        let number = format!("{}:{}", major(meta.rdev()), minor(meta.rdev()));
        let proc = Path::new("/proc");
        Self::described(path, &Path::new("/sys/dev/block").join(number), proc)
    }

    /// As `sys`, its folder in sysfs, and `proc` describe it.
    fn described(path: &Path, sys: &Path, proc: &Path) -> Result<Self, FlashError> {
        let text = |name: &str| {
            volary_host::read_to_string(&sys.join(name))
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let sectors: u64 = text("size").parse().unwrap_or(0);
        let real = sys.canonicalize().map_err(FileError::at("read", sys))?;
        // Disks behind USB call themselves fixed as often as not, and so do some card readers; what is
        // soldered on says MMC where a card says SD.
        let is_plugged = real.to_string_lossy().contains("/usb") || text("device/type") == "SD";
        Ok(Self {
            path: path.to_owned(),
            size: sectors * SECTOR,
            model: [text("device/vendor"), text("device/model"), text("device/name")]
                .join(" ")
                .trim()
                .to_owned(),
            is_removable: text("removable") == "1" || is_plugged,
            is_read_only: text("ro") == "1",
            is_partition: sys.join("partition").exists(),
            users: users(&real, proc),
        })
    }
}

/// Who uses a disk or a part of it.
fn users(sys: &Path, proc: &Path) -> Vec<String> {
    let folders = |dir: &Path| {
        let entries = dir.read_dir().into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let parts = folders(sys).into_iter().filter(|path| path.join("partition").exists());
    let devices: Vec<PathBuf> = std::iter::once(sys.to_owned()).chain(parts).collect();
    let mounts = volary_host::read_to_string(&proc.join("self/mountinfo")).unwrap_or_default();
    let swaps = volary_host::read_to_string(&proc.join("swaps")).unwrap_or_default();
    let mut users = Vec::new();
    for device in devices {
        let number = volary_host::read_to_string(&device.join("dev")).unwrap_or_default();
        let fields = |line: &'_ str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mounted =
            mounts.lines().map(fields).filter(|fields| fields.get(2).is_some_and(|n| n == number.trim()));
        users.extend(mounted.filter_map(|fields| fields.get(4).map(|at| format!("mounted on {at}"))));
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_swap = |line: &str| line.split(' ').next() == Some(&format!("/dev/{name}"));
        if swaps.lines().any(is_swap) {
            users.push(format!("{name} is swap"));
        }
        for holder in folders(&device.join("holders")) {
            users.push(format!("part of {}", holder.file_name().unwrap_or_default().to_string_lossy()));
        }
    }
    users.dedup();
    users
}

/// Whether an image of so many bytes, if that is known, may go onto a disk.
///
/// # Errors
/// [`Refusal`] with the reason.
pub fn may_flash(disk: &Disk, needs: Option<u64>, also_fixed: bool) -> Result<(), Refusal> {
    let path = || disk.path.clone();
    if disk.is_partition {
        return Err(Refusal::Partition(path()));
    }
    if !disk.users.is_empty() {
        return Err(Refusal::InUse { path: path(), users: disk.users.clone() });
    }
    if !disk.is_removable && !also_fixed {
        return Err(Refusal::Fixed { path: path(), model: disk.model.clone() });
    }
    if disk.is_read_only {
        return Err(Refusal::ReadOnly(path()));
    }
    match needs {
        Some(needs) if needs > disk.size => Err(Refusal::TooSmall { path: path(), size: disk.size, needs }),
        Some(_) | None => Ok(()),
    }
}

/// Writes an image onto a disk that [`may_flash`] let pass, and reads it back.
///
/// # Errors
/// [`FlashError`]; the disk is then not to be used before another flash succeeds.
pub fn flash(
    image: OpenImage,
    bmap: Option<&Bmap>,
    disk: &Disk,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Flashed, FlashError> {
    // The kernel refuses if somebody mounted it meanwhile.
    let exclusive = i32::try_from(OFlags::EXCL.bits()).expect("a flag of open(2) fits");
    let failed = |action| FileError::at(action, &disk.path);
    let mut target = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(exclusive)
        .open(&disk.path)
        .map_err(failed("open"))?;
    let mut writer = Writer { disk, target: &mut target, content: image.content, at: 0, written: 0 };
    let total = bmap.map(Bmap::mapped).or(image.size);
    let mut tell = |written| on_progress(Progress::Written(written, total));
    let (written, size) = match bmap {
        Some(bmap) => (writer.mapped(bmap, &mut tell)?, bmap.image_size),
        None => {
            let written = writer.all(&mut tell)?;
            let size = writer.at;
            (written, size)
        }
    };
    on_progress(Progress::Flushing);
    target.sync_all().map_err(failed("flush"))?;
    // So that what is read back comes from the disk.
    fadvise(&target, 0, None, Advice::DontNeed).map_err(|error| failed("flush")(error.into()))?;
    let total: u64 = written.iter().map(|stretch| stretch.size).sum();
    let mut done = 0;
    for stretch in &written {
        let sum = read_back(&mut target, stretch, &mut |count| {
            done += count;
            on_progress(Progress::Verified(done, total));
        });
        if sum.map_err(failed("read"))? != stretch.digest {
            return Err(FlashError::Lost { path: disk.path.clone(), at: stretch.start });
        }
    }
    Ok(Flashed { image: size, written: total })
}

/// Bytes that were written, one after the other.
struct Stretch {
    start: u64,
    size: u64,
    digest: Digest,
}

struct Writer<'a> {
    disk: &'a Disk,
    target: &'a mut File,
    content: Box<dyn Read + Send>,
    /// How far the image is read.
    at: u64,
    written: u64,
}

impl Writer<'_> {
    fn mapped(&mut self, bmap: &Bmap, tell: &mut dyn FnMut(u64)) -> Result<Vec<Stretch>, FlashError> {
        let mut stretches = Vec::new();
        for range in &bmap.ranges {
            let bytes = bmap.bytes(range);
            let between = bytes.start - self.at;
            let skipped = io::copy(&mut (&mut self.content).take(between), &mut io::sink());
            if skipped.map_err(FlashError::Image)? != between {
                return Err(FlashError::NotTheMap(self.at));
            }
            self.at = bytes.start;
            let stretch = self.stretch(bytes.end - bytes.start, tell)?;
            let MappedRange { digest, .. } = range;
            if stretch.size != bytes.end - bytes.start
                || digest.is_some_and(|digest| digest != stretch.digest)
            {
                return Err(FlashError::NotTheMap(bytes.start));
            }
            stretches.push(stretch);
        }
        Ok(stretches)
    }

    fn all(&mut self, tell: &mut dyn FnMut(u64)) -> Result<Vec<Stretch>, FlashError> {
        let mut stretches = Vec::new();
        loop {
            let stretch = self.stretch(STRETCH, tell)?;
            let is_last = stretch.size < STRETCH;
            stretches.push(stretch);
            if is_last {
                return Ok(stretches);
            }
        }
    }

    /// Writes the next `most` bytes of the image, or what is left of it.
    fn stretch(&mut self, most: u64, tell: &mut dyn FnMut(u64)) -> Result<Stretch, FlashError> {
        let failed = || FileError::at("write", &self.disk.path);
        let start = self.at;
        self.target.seek(SeekFrom::Start(start)).map_err(failed())?;
        let mut sum = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut left = most;
        while left > 0 {
            let room = left.min(PIECE as u64) as usize;
            let count = self.content.read(&mut piece[..room]).map_err(FlashError::Image)?;
            if count == 0 {
                break;
            }
            let end = self.at + count as u64;
            if end > self.disk.size {
                let (path, size) = (self.disk.path.clone(), self.disk.size);
                return Err(Refusal::TooSmall { path, size, needs: end }.into());
            }
            sum.update(&piece[..count]);
            self.target.write_all(&piece[..count]).map_err(failed())?;
            self.at = end;
            left -= count as u64;
            self.written += count as u64;
            tell(self.written);
        }
        Ok(Stretch { start, size: self.at - start, digest: Digest::from_bytes(sum.finalize().into()) })
    }
}

fn read_back(target: &mut File, stretch: &Stretch, tell: &mut dyn FnMut(u64)) -> io::Result<Digest> {
    target.seek(SeekFrom::Start(stretch.start))?;
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut left = stretch.size;
    while left > 0 {
        let room = left.min(PIECE as u64) as usize;
        let count = target.read(&mut piece[..room])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.update(&piece[..count]);
        left -= count as u64;
        tell(count as u64);
    }
    Ok(Digest::from_bytes(sum.finalize().into()))
}

#[cfg(test)]
mod tests {
    use volary_host::{create_dir, write_atomic};

    use super::*;

    fn stick() -> Disk {
        Disk {
            path: "/dev/sdb".into(),
            size: 1000,
            model: "Stick".into(),
            is_removable: true,
            is_read_only: false,
            is_partition: false,
            users: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_meant_is_written_to() {
        let check = |disk: Disk, also_fixed: bool, expected: Result<(), &str>| {
            let got = may_flash(&disk, Some(1000), also_fixed).map_err(|refusal| refusal.to_string());
            assert_eq!(got, expected.map_err(str::to_owned));
        };
        check(stick(), false, Ok(()));
        check(
            Disk { is_removable: false, ..stick() },
            false,
            Err("/dev/sdb is not a removable disk (Stick)"),
        );
        check(Disk { is_removable: false, ..stick() }, true, Ok(()));
        check(Disk { is_partition: true, ..stick() }, true, Err("/dev/sdb is a partition, not a disk"));
        check(Disk { is_read_only: true, ..stick() }, true, Err("/dev/sdb is read-only"));
        check(Disk { size: 999, ..stick() }, true, Err("/dev/sdb has 999 bytes, the image needs 1000"));
        let users = vec!["mounted on /".to_owned()];
        check(Disk { users, ..stick() }, true, Err("/dev/sdb is in use: mounted on /"));
    }

    #[test]
    fn the_kernel_is_read_as_it_writes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            create_dir(path.parent().unwrap()).unwrap();
            write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        };
        write("usb1/sdb/size", "16\n");
        write("usb1/sdb/removable", "0\n");
        write("usb1/sdb/ro", "0\n");
        write("usb1/sdb/dev", "8:16\n");
        write("usb1/sdb/device/model", "Ultra           \n");
        write("usb1/sdb/sdb1/partition", "1\n");
        write("usb1/sdb/sdb1/dev", "8:17\n");
        write("usb1/sdb/sdb2/partition", "2\n");
        write("usb1/sdb/sdb2/dev", "8:18\n");
        create_dir(&dir.path().join("usb1/sdb/sdb2/holders/dm-0")).unwrap();
        write(
            "proc/self/mountinfo",
            "36 25 8:17 / /media/card rw - vfat /dev/sdb1 rw\n1 1 8:1 / / rw - ext4 x rw\n",
        );
        write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 8 0 -2\n");
        let sys = dir.path().join("usb1/sdb");
        let disk = Disk::described(Path::new("/dev/sdb"), &sys, &dir.path().join("proc")).unwrap();
        let users = ["mounted on /media/card", "sdb1 is swap", "part of dm-0"].map(str::to_owned).to_vec();
        assert_eq!(disk, Disk { size: 8192, model: "Ultra".into(), users, ..stick() });
    }
}
