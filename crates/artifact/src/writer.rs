//! Writing an artifact in one pass over its payload and without a temporary copy.
//!
//! What stands before the payload names its checksum, yet the size of all that is known beforehand:
//! checksums and signatures have a fixed length, and the header is not compressed. So the front is
//! left empty, the payload is hashed and packed as it streams, and then the front is written.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use ring::digest::{Context, SHA256};
use serde_json::{Map, Value};
use volary_model::Digest;

use crate::codec::{Encoder, Encoding};
use crate::header::{self, Header, Script};
use crate::info::{Depends, Info, PayloadType, Signature};
use crate::manifest::{self, Manifest};
use crate::tar::{self, BLOCK, END, padding};
use crate::wire::{GlobalDepends, GlobalProvides, HeaderInfo, OneOrMany, PayloadEntry, TypeInfo, Unique};
use crate::{Compression, Error, Limits, PrivateKey, name};

/// The only content that `version` may have.
const VERSION: &[u8] = br#"{"format":"mender","version":3}"#;
/// Mender's C++ client reads at most 100 characters for a name in the manifest, `data/0000/` included.
const FILE_AT_MOST: usize = 90;
/// `scripts/` and the name fit into a tar header.
const SCRIPT_AT_MOST: usize = 92;

/// A file that goes into a payload.
pub struct Source<'a> {
    /// Its name in the payload.
    pub name: String,
    /// Its size in bytes, which the content must have exactly.
    pub size: u64,
    /// Its bytes; read once, from front to end.
    pub content: Box<dyn Read + 'a>,
}

impl<'a> Source<'a> {
    /// A file of this name, size in bytes and content.
    pub fn new(name: impl Into<String>, size: u64, content: impl Read + 'a) -> Self {
        Self { name: name.into(), size, content: Box::new(content) }
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// An artifact to be written.
#[derive(Debug, Default)]
pub struct Draft<'a> {
    /// The artifact's name.
    pub name: String,
    /// The group that devices belong to afterwards.
    pub group: Option<String>,
    /// Which devices may take it; at least one device type.
    pub depends: Depends,
    /// State scripts, written in the order of their names.
    pub scripts: Vec<Script>,
    /// The payloads; Mender's own clients take exactly one.
    pub payloads: Vec<PayloadDraft<'a>>,
}

/// A payload to be written.
#[derive(Debug)]
pub struct PayloadDraft<'a> {
    /// Who installs it.
    pub kind: PayloadType,
    /// What the device provides afterwards.
    pub provides: BTreeMap<String, String>,
    /// The key that is provided with the SHA-256 of the only file, which is known only after writing.
    pub checksum_key: Option<String>,
    /// What the device must provide before. Mender's C++ client takes only one alternative for a key.
    pub depends: BTreeMap<String, Vec<String>>,
    /// Which stored keys are dropped first.
    pub clears_provides: Option<Vec<String>>,
    /// The payload's meta-data.
    pub meta_data: Option<Map<String, Value>>,
    /// Its files.
    pub files: Vec<Source<'a>>,
}

impl<'a> PayloadDraft<'a> {
    /// A root file system, with the provides that Mender's tool gives it: its checksum and the artifact's name
    /// as its version.
    pub fn rootfs_image(artifact_name: &str, image: Source<'a>) -> Self {
        let clears = ["artifact_group", "rootfs_image_checksum", "rootfs-image.*"];
        Self {
            kind: PayloadType::RootfsImage,
            provides: BTreeMap::from([("rootfs-image.version".to_owned(), artifact_name.to_owned())]),
            checksum_key: Some("rootfs-image.checksum".into()),
            clears_provides: Some(clears.map(str::to_owned).to_vec()),
            files: vec![image],
            ..Self::empty()
        }
    }

    /// Files for an update module, with the provides that Mender's tool gives them: the artifact's name as the
    /// version of the module's software.
    pub fn module(module: &str, artifact_name: &str, files: Vec<Source<'a>>) -> Self {
        Self { kind: PayloadType::Module(module.to_owned()), files, ..Self::empty() }.with_software(
            "rootfs-image",
            module,
            artifact_name,
        )
    }

    /// No payload: the artifact only says what the device provides.
    pub fn empty() -> Self {
        Self {
            kind: PayloadType::Empty,
            provides: BTreeMap::new(),
            checksum_key: None,
            depends: BTreeMap::new(),
            clears_provides: None,
            meta_data: None,
            files: Vec::new(),
        }
    }

    /// Provides `FILESYSTEM.SOFTWARE.version` and clears what was known of that software, instead of the
    /// provides so far.
    #[must_use]
    pub fn with_software(mut self, filesystem: &str, software: &str, version: &str) -> Self {
        self.provides = BTreeMap::from([(format!("{filesystem}.{software}.version"), version.to_owned())]);
        self.clears_provides = Some(vec![format!("{filesystem}.{software}.*")]);
        self
    }
}

/// How an artifact is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions<'a> {
    /// How the payload is packed.
    pub encoding: Encoding,
    /// The key to sign with; none leaves the artifact unsigned.
    pub key: Option<&'a PrivateKey>,
    /// Threads that pack. The bytes are the same for any number.
    pub threads: usize,
}

impl Default for WriteOptions<'_> {
    /// Mender's default compression, unsigned, all processors.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { encoding: Encoding::default(), key: None, threads }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What the artifact says about itself.
    pub info: Info,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes an artifact. `output` must be empty from its current position on. The payload's bytes are read once;
/// memory stays below about 20 blocks of the compression for two threads. Equal input gives equal bytes.
///
/// # Errors
/// [`Error::Draft`] and [`Error::Name`] if no valid artifact can be made of it, before anything is written;
/// [`Error::Source`] and [`Error::Write`]. What was written up to then is no artifact and should be removed.
pub fn write(
    output: impl Write + Seek,
    draft: Draft<'_>,
    options: &WriteOptions<'_>,
) -> Result<Written, Error> {
    let mut plan = Plan::check(draft, options)?;
    let mut output = output;
    let base = output.stream_position().map_err(Error::Write)?;
    let front = plan.front(options)?.len() as u64;
    output.seek(SeekFrom::Start(base + front)).map_err(Error::Write)?;
    let mut at = base + front;
    for index in 0..plan.draft.payloads.len() {
        at = plan.write_payload(&mut output, at, index, options)?;
    }
    output.write_all(&END).map_err(Error::Write)?;
    let raw = plan.front(options)?;
    assert_eq!(raw.len() as u64, front, "checksums and signatures have a fixed length");
    output.seek(SeekFrom::Start(base)).map_err(Error::Write)?;
    output.write_all(&raw).and_then(|()| output.flush()).map_err(Error::Write)?;
    let end = at + END.len() as u64;
    output.seek(SeekFrom::Start(end)).map_err(Error::Write)?;
    Ok(Written { info: plan.info(options)?, size: end - base })
}

/// A draft and what is known of its payloads.
struct Plan<'a> {
    draft: Draft<'a>,
    /// For each payload the sums of its files; zeros until they were read.
    sums: Vec<Vec<Digest>>,
    /// For each payload the size of its compressed member.
    packed: Vec<u64>,
}

impl<'a> Plan<'a> {
    /// Refuses what our own reader, or Mender's, would refuse.
    fn check(mut draft: Draft<'a>, options: &WriteOptions<'_>) -> Result<Self, Error> {
        draft.scripts.sort_by(|a, b| a.name.cmp(&b.name));
        let refused = |reason: String| Err(Error::Draft { reason });
        if let Some(script) = draft.scripts.iter().find(|script| script.name.len() > SCRIPT_AT_MOST) {
            return refused(format!("script name {:?} has more than {SCRIPT_AT_MOST} bytes", script.name));
        }
        for payload in &draft.payloads {
            for file in &payload.files {
                name::check_file(&file.name)?;
                if file.name.len() > FILE_AT_MOST {
                    return refused(format!(
                        "file name {:?} has more than {FILE_AT_MOST} bytes, which Mender's client cannot read",
                        file.name
                    ));
                }
            }
            if payload.checksum_key.is_some() && payload.files.len() != 1 {
                return refused(format!(
                    "a checksum is provided of exactly one file, not {}",
                    payload.files.len()
                ));
            }
        }
        let zero = Digest::from_bytes([0; 32]);
        let sums = draft.payloads.iter().map(|payload| vec![zero; payload.files.len()]).collect();
        let packed = vec![0; draft.payloads.len()];
        let plan = Self { draft, sums, packed };
        header::check_files(&plan.info(options)?)?;
        Ok(plan)
    }

    /// What a reader makes of it.
    fn info(&self, options: &WriteOptions<'_>) -> Result<Info, Error> {
        let limits = Limits { payloads: 10_000, ..Limits::default() };
        let header = self.header()?;
        if header.len() as u64 > limits.header {
            return Err(Error::Limit { what: "the header with its scripts".into(), limit: limits.header });
        }
        let manifest = Manifest::parse("manifest", self.manifest(&header).as_bytes())?;
        let parsed = Header::<HeaderInfo>::parse("header.tar", &header, &limits)?;
        let signature = match options.key {
            Some(key) => Signature::Verified { key: key.public_key().fingerprint() },
            None => Signature::Absent,
        };
        let mut info = header::assemble(&parsed, &manifest, Compression::None, signature)?;
        for (index, payload) in info.payloads.iter_mut().enumerate() {
            payload.compression = Some(options.encoding.compression());
            payload.compressed_size = Some(self.packed[index]);
            let order: Vec<&Source<'_>> = self.draft.payloads[index].files.iter().collect();
            payload.files.sort_by_key(|file| order.iter().position(|source| source.name == file.name));
            for (file, source) in payload.files.iter_mut().zip(order) {
                file.size = Some(source.size);
            }
        }
        Ok(info)
    }

    /// Everything before the payload.
    fn front(&self, options: &WriteOptions<'_>) -> Result<Vec<u8>, Error> {
        let header = self.header()?;
        let manifest = self.manifest(&header);
        let mut all = tar::member("version", VERSION, 0o600);
        all.extend(tar::member("manifest", manifest.as_bytes(), 0o600));
        if let Some(key) = options.key {
            let signature = key.sign(manifest.as_bytes());
            debug_assert_eq!(signature.len(), key.signature_len());
            all.extend(tar::member("manifest.sig", signature.as_bytes(), 0o600));
        }
        all.extend(tar::member("header.tar", &header, 0o600));
        Ok(all)
    }

    /// In the order of Mender's tool: data, header, version.
    fn manifest(&self, header: &[u8]) -> String {
        let mut text = String::new();
        for (index, (payload, sums)) in self.draft.payloads.iter().zip(&self.sums).enumerate() {
            for (file, sum) in payload.files.iter().zip(sums) {
                text += &manifest::line(sum, &format!("data/{index:04}/{}", file.name));
            }
        }
        text += &manifest::line(&header::digest(header), "header.tar");
        text + &manifest::line(&header::digest(VERSION), "version")
    }

    fn header(&self) -> Result<Vec<u8>, Error> {
        let draft = &self.draft;
        let info = HeaderInfo {
            payloads: draft.payloads.iter().map(|p| PayloadEntry { kind: kind_text(p) }).collect(),
            artifact_provides: GlobalProvides {
                artifact_name: draft.name.clone(),
                artifact_group: draft.group.clone(),
            },
            artifact_depends: GlobalDepends {
                artifact_name: draft.depends.names.clone(),
                device_type: draft.depends.device_types.clone(),
                artifact_group: draft.depends.groups.clone(),
            },
        };
        let mut all = tar::member("header-info", &json(&info)?, 0o600);
        for script in &draft.scripts {
            name::check_script(&script.name)?;
            all.extend(tar::member(&format!("scripts/{}", script.name), &script.content, 0o755));
        }
        for (index, payload) in draft.payloads.iter().enumerate() {
            let mut provides = payload.provides.clone();
            if let Some(key) = &payload.checksum_key {
                provides.insert(key.clone(), self.sums[index][0].hex());
            }
            let depends = payload.depends.iter();
            let type_info = TypeInfo {
                kind: kind_text(payload),
                artifact_depends: Unique(
                    depends.map(|(k, v)| (k.clone(), OneOrMany::from_slice(v))).collect(),
                ),
                artifact_provides: Unique(provides),
                clears_artifact_provides: payload.clears_provides.clone(),
            };
            all.extend(tar::member(&format!("headers/{index:04}/type-info"), &json(&type_info)?, 0o600));
            if let Some(meta_data) = &payload.meta_data {
                all.extend(tar::member(&format!("headers/{index:04}/meta-data"), &json(meta_data)?, 0o600));
            }
        }
        all.extend(END);
        Ok(all)
    }

    /// Packs a payload's files behind room for its member's header at `at`, then writes that header.
    /// Returns where the next member begins.
    fn write_payload<W: Write + Seek>(
        &mut self,
        output: &mut W,
        at: u64,
        index: usize,
        options: &WriteOptions<'_>,
    ) -> Result<u64, Error> {
        output.write_all(&[0; BLOCK]).map_err(Error::Write)?;
        let mut encoder =
            Encoder::new(options.encoding, options.threads, &mut *output).map_err(Error::Write)?;
        for (file, sum) in self.draft.payloads[index].files.iter_mut().zip(&mut self.sums[index]) {
            *sum = pack_file(&mut encoder, file)?;
        }
        encoder.write_all(&END).map_err(Error::Write)?;
        encoder.finish().map_err(Error::Write)?;
        let packed = output.stream_position().map_err(Error::Write)? - at - BLOCK as u64;
        self.packed[index] = packed;
        let zeros = [0; BLOCK];
        output.write_all(&zeros[..padding(packed)]).map_err(Error::Write)?;
        let suffix = options.encoding.compression().suffix();
        let header = tar::header(&format!("data/{index:04}.tar{suffix}"), packed, 0o600);
        output.seek(SeekFrom::Start(at)).map_err(Error::Write)?;
        output.write_all(&header).map_err(Error::Write)?;
        let next = at + BLOCK as u64 + packed + padding(packed) as u64;
        output.seek(SeekFrom::Start(next)).map_err(Error::Write)?;
        Ok(next)
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|error| Error::Draft { reason: format!("the meta-data is no JSON: {error}") })
}

fn kind_text(payload: &PayloadDraft<'_>) -> Option<String> {
    payload.kind.as_text().map(str::to_owned)
}

/// Reads a file into the encoder and returns its sum.
fn pack_file<W: Write>(encoder: &mut Encoder<W>, file: &mut Source<'_>) -> Result<Digest, Error> {
    encoder.write_all(&tar::header(&file.name, file.size, 0o644)).map_err(Error::Write)?;
    let mut sum = Context::new(&SHA256);
    let mut left = file.size;
    let name = &file.name;
    let mut read = |buffer: &mut [u8]| loop {
        match file.content.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(|source| Error::Source { name: name.clone(), source }),
        }
    };
    let wrong_size = |how: &str| Error::Draft {
        reason: format!("payload file {name} is {how} than the {} bytes it was said to have", file.size),
    };
    while left > 0 {
        let space = encoder.space();
        let most = usize::try_from(left).map_or(space.len(), |left| left.min(space.len()));
        // In steps that stay in the processor's cache between reading and hashing.
        let most = most.min(256 * 1024);
        let count = read(&mut space[..most])?;
        if count == 0 {
            return Err(wrong_size("shorter"));
        }
        sum.update(&space[..count]);
        encoder.advance(count).map_err(Error::Write)?;
        left -= count as u64;
    }
    if read(&mut [0])? > 0 {
        return Err(wrong_size("longer"));
    }
    encoder.write_all(&[0; BLOCK][..padding(file.size)]).map_err(Error::Write)?;
    Ok(header::to_digest(sum))
}
