//! The artifacts of images as files, each called by its SHA-256, and what one says of itself. A file
//! comes into the folder only when all of it was read and found sound. Not here: the records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use volary_artifact::{Error, Info, Limits, PayloadInfo, PayloadType, Policy, PublicKey, Reader, Signature};
use volary_host::{FileError, NewFile};
use volary_model::{DeviceType, Digest, ImageName};

/// What Mender calls the SHA-256 of the root file system among what a device provides.
pub(crate) const ROOTFS_CHECKSUM: &str = "rootfs-image.checksum";

/// Between an artifact and the root file system from which a pair leads to it.
pub(crate) const FROM: &str = ".from-";

/// The largest artifact: Mender's own limit is 10 GiB.
const LARGEST: u64 = 16 << 30;

/// The folder of the artifacts.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    keys: Vec<PublicKey>,
}

/// Why an artifact is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    /// It is not a sound artifact, or not signed as it must be.
    #[error("the artifact is refused: {0}")]
    Artifact(#[from] Error),
    /// It is sound, and no image that could be pinned.
    #[error("the artifact is refused: {0}")]
    NoImage(String),
    /// It is not what the sender wanted to send.
    #[error("what arrived has the digest {found}, and {wanted} was announced; send it again")]
    Other {
        /// The digest of what arrived.
        found: Digest,
        /// The digest that was announced.
        wanted: Digest,
    },
    /// It is larger than any image.
    #[error("the artifact is larger than {} GiB", LARGEST >> 30)]
    TooLarge,
    /// The disk is full or broken.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What an artifact says of itself, with what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) artifact: Digest,
    pub(crate) size: u64,
    pub(crate) name: ImageName,
    pub(crate) device_types: Vec<DeviceType>,
    pub(crate) rootfs: Digest,
    pub(crate) manifest: Digest,
    pub(crate) rootfs_size: Option<u64>,
    pub(crate) kind: String,
    pub(crate) provides: BTreeMap<String, String>,
    pub(crate) depends: BTreeMap<String, Vec<String>>,
    pub(crate) signed_by: Option<String>,
}

/// An artifact that was read and found sound, and that nobody sees yet.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: NewFile,
    pub(crate) facts: Facts,
}

impl Images {
    /// Opens the folder, and removes what a killed server had not finished.
    pub(crate) fn open(dir: &Path, keys: Vec<PublicKey>) -> Result<Self, FileError> {
        volary_host::create_dir(dir)?;
        let images = Self { dir: dir.to_owned(), keys };
        for path in images.files()? {
            if digest_of(&path).is_none() {
                volary_host::remove_if_exists(&path)?;
            }
        }
        Ok(images)
    }

    /// Where an artifact is, if the server has it.
    pub(crate) fn path(&self, artifact: &Digest) -> PathBuf {
        self.dir.join(artifact.hex())
    }

    /// Where its block index is, if somebody made one.
    pub(crate) fn blocks(&self, artifact: &Digest) -> PathBuf {
        self.dir.join(format!("{}.blocks", artifact.hex()))
    }

    /// Where the pair is that leads to it from a root file system, if it was made.
    pub(crate) fn pair(&self, artifact: &Digest, from_rootfs: &Digest) -> PathBuf {
        self.dir.join(format!("{}{FROM}{}", artifact.hex(), from_rootfs.hex()))
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// True if the server has the artifact.
    pub(crate) fn has(&self, artifact: &Digest) -> bool {
        self.path(artifact).is_file()
    }

    /// Reads an artifact to its end, keeps a copy, and checks all of it on the way. `wanted` is the
    /// digest that was announced, if any.
    pub(crate) fn take_in(&self, bytes: impl Read, wanted: Option<Digest>) -> Result<Incoming, IntakeError> {
        let mut file = NewFile::create(&self.dir.join("incoming"), 0o644)?;
        let mut copied = Copied::new(bytes, file.file());
        let policy = match self.keys.is_empty() {
            true => Policy::unsigned(),
            false => Policy::signed_by(&self.keys),
        };
        let policy = Policy { limits: Limits { threads: 1, ..Limits::default() }, ..policy };
        let read = Reader::open(&mut copied, &policy).and_then(Reader::finish);
        if let Some(trouble) = copied.trouble.take() {
            return Err(trouble);
        }
        let info = read?;
        let (artifact, size) = copied.end();
        if let Some(wanted) = wanted.filter(|wanted| *wanted != artifact) {
            return Err(IntakeError::Other { found: artifact, wanted });
        }
        Ok(Incoming { file, facts: facts(&info, artifact, size).map_err(IntakeError::NoImage)? })
    }

    /// Gives an artifact its name, so that it survives a power cut from then on.
    pub(crate) fn keep(&self, incoming: Incoming) -> Result<Facts, FileError> {
        incoming.file.keep_as(&self.path(&incoming.facts.artifact))?;
        Ok(incoming.facts)
    }

    /// Removes an artifact with what was made of it.
    pub(crate) fn remove(&self, artifact: &Digest) -> Result<(), FileError> {
        for path in self.files()? {
            if digest_of(&path) == Some(*artifact) && path != self.path(artifact) {
                volary_host::remove_if_exists(&path)?;
            }
        }
        volary_host::remove_if_exists(&self.path(artifact))
    }

    /// The artifacts that are there.
    pub(crate) fn all(&self) -> Result<Vec<Digest>, FileError> {
        let mut all: Vec<Digest> = self.files()?.iter().filter_map(|path| digest_of(path)).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn files(&self) -> Result<Vec<PathBuf>, FileError> {
        let failed = |error| FileError::at("read", &self.dir)(error);
        let entries = std::fs::read_dir(&self.dir).map_err(failed)?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
    }
}

/// The artifact that a file of the folder belongs to.
fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    let (artifact, from) = name.split_once(FROM).map_or((name, None), |(to, from)| (to, Some(from)));
    if from.is_some_and(|from| Digest::from_hex(from).is_err()) {
        return None;
    }
    Digest::from_hex(artifact.strip_suffix(".blocks").unwrap_or(artifact)).ok()
}

/// What is read, copied to a file and hashed on the way.
struct Copied<'a, R> {
    bytes: R,
    file: &'a mut File,
    sum: Sha256,
    size: u64,
    /// Why it cannot go on, if that is not the artifact's fault.
    trouble: Option<IntakeError>,
}

impl<'a, R> Copied<'a, R> {
    fn new(bytes: R, file: &'a mut File) -> Self {
        Self { bytes, file, sum: Sha256::new(), size: 0, trouble: None }
    }

    fn end(self) -> (Digest, u64) {
        (Digest::from_bytes(self.sum.finalize().into()), self.size)
    }
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.size += count as u64;
        if self.size > LARGEST {
            self.trouble = Some(IntakeError::TooLarge);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.sum.update(&buffer[..count]);
        if let Err(error) = self.file.write_all(&buffer[..count]) {
            let kind = error.kind();
            self.trouble = Some(IntakeError::File(FileError::at("write", Path::new("images/"))(error)));
            return Err(kind.into());
        }
        Ok(count)
    }
}

/// What can be pinned of an artifact, or why nothing can.
fn facts(info: &Info, artifact: Digest, size: u64) -> Result<Facts, String> {
    let name: ImageName = info
        .name
        .parse()
        .map_err(|error| format!("{error}; write it anew with: volary artifact write --name NAME"))?;
    let types: Result<Vec<DeviceType>, _> =
        info.depends.device_types.iter().map(|name| name.parse()).collect();
    let device_types = types.map_err(|error| format!("{error}; devices must call themselves so too"))?;
    let [payload] = &info.payloads[..] else {
        return Err(format!("it has {} payloads, and Mender's clients take one", info.payloads.len()));
    };
    let (rootfs, rootfs_size) = rootfs(payload)?;
    let mut depends = payload.depends.clone();
    let of_header = [("artifact_name", &info.depends.names), ("artifact_group", &info.depends.groups)];
    for (key, values) in of_header.into_iter().filter(|(_, values)| !values.is_empty()) {
        depends.insert(key.to_owned(), values.clone());
    }
    Ok(Facts {
        artifact,
        size,
        name,
        device_types,
        rootfs,
        manifest: info.manifest,
        rootfs_size,
        kind: payload.kind.to_string(),
        provides: info.all_provides(),
        depends,
        signed_by: match &info.signature {
            Signature::Verified { key } => Some(key.clone()),
            Signature::Absent | Signature::Unchecked => None,
        },
    })
}

/// The root file system that a payload leads to, with its length if it is in there as a whole.
fn rootfs(payload: &PayloadInfo) -> Result<(Digest, Option<u64>), String> {
    let said = payload.provides.get(ROOTFS_CHECKSUM).map(|text| {
        Digest::from_hex(text).map_err(|_| format!("its {ROOTFS_CHECKSUM} {text:?} is no SHA-256"))
    });
    let said = said.transpose()?;
    match (&payload.kind, &payload.files[..], said) {
        (PayloadType::RootfsImage, [file], said) => match said {
            Some(said) if said != file.digest => Err(format!(
                "it provides {ROOTFS_CHECKSUM} {}, and its root file system is {}",
                said.hex(),
                file.digest.hex()
            )),
            Some(_) | None => Ok((file.digest, file.size)),
        },
        (PayloadType::RootfsImage, files, _) => Err(format!("it has {} root file systems", files.len())),
        (PayloadType::Module(_), _, Some(said)) => Ok((said, None)),
        (PayloadType::Module(module), _, None) => Err(format!(
            "its payload is for the update module {module:?} and leads to no root file system: nothing could pin it"
        )),
        (PayloadType::Empty, _, _) => Err("it has no payload".to_owned()),
    }
}
