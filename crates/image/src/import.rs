//! Takes over images and artifacts that other tools made: checks them, gives them a name, and keeps
//! them beside ours with what is known of them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use volary_artifact::{PayloadType, Policy};
use volary_host::{FileError, NewFile, create_dir, write_atomic};
use volary_model::{DeviceType, Digest, ImageName, InvalidName};

use crate::bmap::{Bmap, BmapError};
use crate::build::{ImageFile, ImageRecord, RootfsRecord};
use crate::open::{bmap_beside, open_image};
use crate::read_table::{FRONT, NoTable, partitions};

/// What is copied at once, and what stays a hole if it is empty.
const PIECE: usize = 64 << 10;

/// No disk image is larger, packed or not.
const LARGEST: u64 = 1 << 40;

/// What is imported, and where it goes.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    /// The file: a disk image, packed or not, or an artifact.
    pub file: &'a Path,
    /// The device type; an artifact says its own.
    pub device_type: Option<&'a DeviceType>,
    /// The name; an artifact says its own.
    pub name: Option<&'a ImageName>,
    /// What may have signed an artifact; none takes any.
    pub policy: &'a Policy<'a>,
    /// The folder that it goes into.
    pub output: &'a Path,
}

/// Why something was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The artifact is not sound.
    #[error("{} is not a sound artifact", .0.display())]
    Artifact(PathBuf, #[source] volary_artifact::Error),
    /// The disk image is none.
    #[error("{}: {}", .0.display(), .1)]
    Disk(PathBuf, #[source] NoTable),
    /// The block map beside it cannot be used.
    #[error("{}: {}", .0.display(), .1)]
    Bmap(PathBuf, #[source] BmapError),
    /// The block map beside it is of another image.
    #[error("{} is not the map of this image: byte {} differs", .0.display(), .1)]
    OtherMap(PathBuf, u64),
    /// Something must be said.
    #[error("{} does not say which {} it has", .0.display(), .1)]
    Missing(PathBuf, &'static str),
    /// What it says is not what was asked for.
    #[error("{} is {says}, not {wanted}", .file.display())]
    Other {
        /// The file.
        file: PathBuf,
        /// What it says of itself.
        says: String,
        /// What was asked for.
        wanted: String,
    },
    /// Its own name cannot be one of ours.
    #[error("{}: {}; give another one", .0.display(), .1)]
    Name(PathBuf, #[source] InvalidName),
    /// There is one already.
    #[error("{} is there already, and it is another image", .0.display())]
    Taken(PathBuf),
}

/// Takes it over. What is there already under the same name may be extended (a disk beside its artifact),
/// never changed.
///
/// # Errors
/// [`ImportError`]; what was there stays as it was.
pub fn import(order: &Import<'_>) -> Result<ImageRecord, ImportError> {
    create_dir(order.output)?;
    let mut magic = [0; 512];
    let mut file = File::open(order.file).map_err(FileError::at("read", order.file))?;
    let is_tar = file.read_exact(&mut magic).is_ok() && &magic[257..262] == b"ustar";
    let record = if is_tar { artifact(order)? } else { disk(order)? };
    let path = order.output.join(format!("{}-{}.json", record.device_type, record.name));
    let text = serde_json::to_string_pretty(&record).expect("a record is plain data");
    write_atomic(&path, format!("{text}\n").as_bytes(), 0o644)?;
    Ok(record)
}

fn artifact(order: &Import<'_>) -> Result<ImageRecord, ImportError> {
    let file = || order.file.to_owned();
    let read = || FileError::at("read", order.file);
    let input = BufReader::with_capacity(1 << 20, File::open(order.file).map_err(read())?);
    let info =
        volary_artifact::verify(input, order.policy).map_err(|error| ImportError::Artifact(file(), error))?;
    let types = &info.depends.device_types;
    let device_type = match (order.device_type, types.as_slice()) {
        (Some(wanted), types) if types.iter().any(|known| known == wanted.as_str()) => wanted.clone(),
        (Some(wanted), types) => {
            let says = format!("for {}", types.join(", "));
            return Err(ImportError::Other { file: file(), says, wanted: format!("for {wanted}") });
        }
        (None, [one]) => one.parse().map_err(|error| ImportError::Name(file(), error))?,
        (None, _) => return Err(ImportError::Missing(file(), "of its device types it is for")),
    };
    let name: ImageName = info.name.parse().map_err(|error| ImportError::Name(file(), error))?;
    if let Some(wanted) = order.name.filter(|wanted| **wanted != name) {
        // It is what a device says of itself afterwards.
        return Err(ImportError::Other { file: file(), says: name.to_string(), wanted: wanted.to_string() });
    }
    let mut input = File::open(order.file).map_err(read())?;
    let target = format!("{device_type}-{name}.mender");
    let (size, digest) = store(&mut input, order.file, &order.output.join(&target))?;
    let rootfs = match info.payloads.as_slice() {
        [payload] if payload.kind == PayloadType::RootfsImage => match payload.files.as_slice() {
            [file] => file.size.map(|size| RootfsRecord { size, digest: file.digest }),
            _ => None,
        },
        _ => None,
    };
    let mut record = known(order, device_type, name)?;
    record.artifact = Some(ImageFile { file: target, size, digest });
    record.rootfs = rootfs;
    Ok(record)
}

fn disk(order: &Import<'_>) -> Result<ImageRecord, ImportError> {
    let file = || order.file.to_owned();
    let device_type = order.device_type.ok_or_else(|| ImportError::Missing(file(), "device type"))?.clone();
    let name = order.name.ok_or_else(|| ImportError::Missing(file(), "name"))?.clone();
    let mut content = open_image(order.file)?.content;
    let target = order.output.join(format!("{device_type}-{name}.img"));
    let map = match bmap_beside(order.file) {
        Some(path) => {
            let text = volary_host::read_to_string(&path)?;
            Some((Bmap::parse(&text).map_err(|error| ImportError::Bmap(path.clone(), error))?, path))
        }
        None => None,
    };
    // Looked at before a packed image fills the disk.
    let mut front = Vec::new();
    (&mut content).take(FRONT as u64).read_to_end(&mut front).map_err(FileError::at("read", order.file))?;
    partitions(&front, LARGEST).map_err(|error| ImportError::Disk(file(), error))?;
    let mut whole = io::Cursor::new(&front).chain(content).take(LARGEST);
    let mut new = NewFile::create(&target, 0o644)?;
    let (size, digest) = copy(&mut whole, new.file()).map_err(FileError::at("unpack", order.file))?;
    let found = partitions(&front, size).map_err(|error| ImportError::Disk(file(), error))?;
    if let Some((map, path)) = &map {
        fits(map, new.file(), size, path)?;
    }
    if target.exists() && sum_of(&target)? != digest {
        return Err(ImportError::Taken(target));
    }
    new.keep()?;
    if let Some((map, _)) = &map {
        write_atomic(&target.with_extension("img.bmap"), map.to_text().as_bytes(), 0o644)?;
    }
    let mut record = known(order, device_type, name)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    record.disk = Some(ImageFile { file: name, size, digest });
    record.partitions = found;
    Ok(record)
}

/// What is known of the image already, or nothing but its names.
fn known(order: &Import<'_>, device_type: DeviceType, name: ImageName) -> Result<ImageRecord, ImportError> {
    let path = order.output.join(format!("{device_type}-{name}.json"));
    let before = path.is_file().then(|| volary_host::read_to_string(&path)).transpose()?;
    let before = before.and_then(|text| serde_json::from_str(&text).ok());
    Ok(before.unwrap_or_else(|| ImageRecord {
        version: 1,
        device_type,
        name,
        stage: None,
        disk: None,
        artifact: None,
        rootfs: None,
        partitions: Vec::new(),
        maker: format!("imported from {}", order.file.file_name().unwrap_or_default().to_string_lossy()),
    }))
}

/// That a map was made of this image.
fn fits(map: &Bmap, image: &mut File, size: u64, path: &Path) -> Result<(), ImportError> {
    let other = |at| ImportError::OtherMap(path.to_owned(), at);
    if map.image_size != size {
        return Err(other(size.min(map.image_size)));
    }
    for range in &map.ranges {
        let bytes = map.bytes(range);
        let mut sum = Sha256::new();
        let read = image
            .seek(SeekFrom::Start(bytes.start))
            .and_then(|_| io::copy(&mut (&mut *image).take(bytes.end - bytes.start), &mut sum));
        read.map_err(FileError::at("read", path))?;
        let digest = Digest::from_bytes(sum.finalize().into());
        if range.digest.is_some_and(|wanted| wanted != digest) {
            return Err(other(bytes.start));
        }
    }
    Ok(())
}

/// Copies a file unless the same is there.
fn store(input: &mut File, from: &Path, target: &Path) -> Result<(u64, Digest), ImportError> {
    let mut new = NewFile::create(target, 0o644)?;
    let (size, digest) = copy(input, new.file()).map_err(FileError::at("copy", from))?;
    if target.exists() && sum_of(target)? != digest {
        return Err(ImportError::Taken(target.to_owned()));
    }
    new.keep()?;
    Ok((size, digest))
}

fn sum_of(path: &Path) -> Result<Digest, ImportError> {
    let sum = File::open(path).and_then(|mut file| crate::disk::sum(&mut file));
    Ok(sum.map_err(FileError::at("read", path))?)
}

/// Copies to a file that stays sparse where nothing is; gives size and sum.
fn copy(input: &mut dyn Read, output: &mut File) -> io::Result<(u64, Digest)> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        let mut count = 0;
        while count < PIECE {
            match input.read(&mut piece[count..])? {
                0 => break,
                more => count += more,
            }
        }
        sum.update(&piece[..count]);
        if piece[..count].iter().any(|&byte| byte != 0) {
            output.seek(SeekFrom::Start(size))?;
            output.write_all(&piece[..count])?;
        }
        size += count as u64;
        if count < PIECE {
            output.set_len(size)?;
            return Ok((size, Digest::from_bytes(sum.finalize().into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use volary_artifact::{Depends, Draft, PayloadDraft, Source, WriteOptions};
    use volary_host::Cmd;

    use super::*;
    use crate::{Layout, MIB, Sizes, TableKind, partition_table};

    fn order<'a>(file: &'a Path, output: &'a Path, policy: &'a Policy<'a>) -> Import<'a> {
        Import { file, device_type: None, name: None, policy, output }
    }

    fn disk_image() -> Vec<u8> {
        let layout = Layout::two_slots(TableKind::Gpt, Sizes { boot: MIB, root: MIB, data: MIB }, "x");
        let mut bytes = vec![0; layout.size as usize];
        for write in partition_table(&layout) {
            bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        bytes
    }

    #[test]
    fn a_packed_disk_is_unpacked_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let output = path("out");
        write_atomic(&path("their.wic"), &disk_image(), 0o644).unwrap();
        let run =
            |program: &str, args: &[&str]| Cmd::new(program).args(args).cwd(dir.path()).check().unwrap();
        run("bmaptool", &["create", "-o", "their.bmap", "their.wic"]);
        run("xz", &["-0", "their.wic"]);
        let (kind, name): (DeviceType, ImageName) = ("board".parse().unwrap(), "7".parse().unwrap());
        let (file, policy) = (path("their.wic.xz"), Policy::unsigned());
        let nameless = order(&file, &output, &policy);
        assert!(matches!(import(&nameless), Err(ImportError::Missing(_, "device type"))));
        let wanted = Import { device_type: Some(&kind), name: Some(&name), ..nameless };
        let record = import(&wanted).unwrap();
        assert_eq!(volary_host::read(&output.join("board-7.img")).unwrap(), disk_image());
        assert!(output.join("board-7.img.bmap").is_file());
        assert_eq!(record.partitions.len(), 5);
        assert_eq!(import(&wanted).unwrap(), record, "twice is as once");

        let mut other = disk_image();
        other[40 << 9] = 1;
        write_atomic(&path("other.img"), &other, 0o644).unwrap();
        let file = path("other.img");
        assert!(matches!(import(&Import { file: &file, ..wanted.clone() }), Err(ImportError::Taken(_))));
        std::fs::rename(path("their.bmap"), path("other.bmap")).unwrap();
        let eight: ImageName = "8".parse().unwrap();
        let mut damaged = disk_image();
        damaged[MIB as usize - 1] = 1;
        damaged[600] ^= 1;
        write_atomic(&path("other.img"), &damaged, 0o644).unwrap();
        let other = Import { file: &file, name: Some(&eight), ..wanted };
        assert!(matches!(import(&other), Err(ImportError::Disk(..))));
        assert!(!output.join("board-8.img").exists());
    }

    #[test]
    fn an_artifact_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (file, output) = (dir.path().join("their.mender"), dir.path().join("out"));
        let bytes = b"a root file system".as_slice();
        let draft = Draft {
            name: "2026-1".into(),
            depends: Depends { device_types: vec!["board".into(), "other".into()], ..Depends::default() },
            payloads: vec![PayloadDraft::rootfs_image("2026-1", Source::new("r.ext4", 18, bytes))],
            ..Draft::default()
        };
        volary_artifact::write(File::create(&file).unwrap(), draft, &WriteOptions::default()).unwrap();
        let policy = Policy::unsigned();
        let asked = order(&file, &output, &policy);
        assert!(matches!(import(&asked), Err(ImportError::Missing(_, _))), "it has two types");
        let kind: DeviceType = "board".parse().unwrap();
        let record = import(&Import { device_type: Some(&kind), ..asked.clone() }).unwrap();
        assert_eq!((record.name.as_str(), record.rootfs.unwrap().size), ("2026-1", 18));
        assert!(output.join("board-2026-1.mender").is_file());
        let kind: DeviceType = "third".parse().unwrap();
        let error = import(&Import { device_type: Some(&kind), ..asked.clone() }).unwrap_err();
        assert!(error.to_string().contains("is for board, other, not for third"), "{error}");
        let mut half = volary_host::read(&file).unwrap();
        half.truncate(half.len() - 2000);
        write_atomic(&file, &half, 0o644).unwrap();
        assert!(matches!(import(&asked), Err(ImportError::Artifact(..))));
    }
}
