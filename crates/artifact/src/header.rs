//! The header archive: what the artifact is, its scripts, and each payload's conditions. It is parsed
//! from memory, after its checksum was found right; nothing of a damaged header is ever looked at.

use ring::digest::{Context, SHA256};
use serde_json::{Map, Value};
use volary_model::Digest;

use crate::info::{Depends, FileInfo, Info, PayloadInfo, PayloadType, ScriptInfo, Signature};
use crate::manifest::Manifest;
use crate::tar::TarReader;
use crate::wire::{AugmentHeaderInfo, HeaderInfo, OneOrMany, PayloadEntry, TypeInfo, parse};
use crate::{Compression, Error, Limits, name};

/// A state script with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its name, `STATE_ACTION_NN` with an optional `_text`.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// A parsed header archive.
#[derive(Debug)]
pub(crate) struct Header<I> {
    pub(crate) info: I,
    pub(crate) raw_info: Vec<u8>,
    pub(crate) scripts: Vec<Script>,
    pub(crate) payloads: Vec<PayloadHeader>,
}

/// The members below `headers/NNNN`.
#[derive(Debug)]
pub(crate) struct PayloadHeader {
    pub(crate) type_info: TypeInfo,
    pub(crate) raw_type_info: Vec<u8>,
    pub(crate) meta_data: Option<Map<String, Value>>,
    pub(crate) raw_meta_data: Vec<u8>,
}

/// What a header-info says about payloads; the rest differs between header and augmented header.
pub(crate) trait Payloads: serde::de::DeserializeOwned {
    fn payloads(&self) -> &[PayloadEntry];
    /// Whether state scripts may stand in this archive.
    const SCRIPTS: bool;
}

impl Payloads for HeaderInfo {
    fn payloads(&self) -> &[PayloadEntry] {
        &self.payloads
    }
    const SCRIPTS: bool = true;
}

impl Payloads for AugmentHeaderInfo {
    fn payloads(&self) -> &[PayloadEntry] {
        &self.payloads
    }
    // Nobody signed an augmented header, and scripts run as root.
    const SCRIPTS: bool = false;
}

impl<I: Payloads> Header<I> {
    /// Reads an unpacked header archive; `member` is what messages call it.
    pub(crate) fn parse(member: &str, bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        let mut members = Members { tar: TarReader::new(member, bytes), limit: limits.header, next: None };
        members.advance()?;
        let raw_info = members.take("header-info")?.ok_or_else(|| members.unexpected("header-info"))?;
        let info: I = parse(&format!("{member}: header-info"), &raw_info)?;
        let count = info.payloads().len();
        if count == 0 || count > limits.payloads {
            let reason = format!("has {count} payloads; 1 to {} are allowed", limits.payloads);
            return Err(Error::Header { member: format!("{member}: header-info"), reason });
        }
        let mut scripts = Vec::new();
        while let Some(script) = members.name().and_then(|name| name.strip_prefix("scripts/")) {
            let script = script.to_owned();
            name::check_script(&script)?;
            let full = format!("scripts/{script}");
            if !I::SCRIPTS || scripts.iter().any(|seen: &Script| seen.name == script) {
                return Err(members.unexpected("no such script"));
            }
            let content = members.take(&full)?.expect("its name was just looked at");
            scripts.push(Script { name: script, content });
        }
        let payloads = (0..count).map(|index| members.payload(member, index)).collect::<Result<_, _>>()?;
        if members.name().is_some() {
            return Err(members.unexpected("the end of the header"));
        }
        members.tar.finish()?;
        Ok(Self { info, raw_info, scripts, payloads })
    }
}

/// The members of a header archive with one of look-ahead.
struct Members<'a> {
    tar: TarReader<&'a [u8]>,
    limit: u64,
    next: Option<(String, Vec<u8>)>,
}

impl Members<'_> {
    fn advance(&mut self) -> Result<(), Error> {
        self.next = match self.tar.next()? {
            Some(member) => {
                let content = self.tar.read_small(&member.name, self.limit)?;
                Some((member.name, content))
            }
            None => None,
        };
        Ok(())
    }

    fn name(&self) -> Option<&str> {
        self.next.as_ref().map(|(name, _)| name.as_str())
    }

    /// The content of the next member if it has this name.
    fn take(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if self.name() != Some(name) {
            return Ok(None);
        }
        let taken = self.next.take().map(|(_, content)| content);
        self.advance()?;
        Ok(taken)
    }

    fn unexpected(&self, expected: &str) -> Error {
        match self.name() {
            Some(found) => Error::Order { found: found.to_owned(), expected: expected.to_owned() },
            None => Error::Missing { member: expected.to_owned() },
        }
    }

    fn payload(&mut self, archive: &str, index: usize) -> Result<PayloadHeader, Error> {
        let type_name = format!("headers/{index:04}/type-info");
        let raw_type_info = self.take(&type_name)?.ok_or_else(|| self.unexpected(&type_name))?;
        let type_info = parse(&format!("{archive}: {type_name}"), &raw_type_info)?;
        let meta_name = format!("headers/{index:04}/meta-data");
        let raw_meta_data = self.take(&meta_name)?.unwrap_or_default();
        let meta_data = match raw_meta_data.is_empty() {
            true => None,
            false => Some(parse(&format!("{archive}: {meta_name}"), &raw_meta_data)?),
        };
        Ok(PayloadHeader { type_info, raw_type_info, meta_data, raw_meta_data })
    }
}

/// Puts header and manifest together and checks that they fit each other.
pub(crate) fn assemble(
    header: &Header<HeaderInfo>,
    manifest: &Manifest,
    compression: Compression,
    signature: Signature,
) -> Result<Info, Error> {
    let member = "header-info".to_owned();
    let refused = |reason: &str| Error::Header { member: member.clone(), reason: reason.to_owned() };
    let provides = &header.info.artifact_provides;
    let depends = &header.info.artifact_depends;
    name::check_text("artifact name", &provides.artifact_name)?;
    if depends.device_type.is_empty() {
        return Err(refused("artifact_depends.device_type is empty: no device could take this artifact"));
    }
    let texts = [
        ("artifact group", provides.artifact_group.as_slice()),
        ("device type", &depends.device_type),
        ("artifact name", &depends.artifact_name),
        ("artifact group", &depends.artifact_group),
    ];
    for (what, list) in texts {
        list.iter().try_for_each(|text| name::check_text(what, text))?;
    }
    let mut payloads = Vec::new();
    for (entry, payload) in header.info.payloads.iter().zip(&header.payloads) {
        payloads.push(payload_info(payloads.len(), entry, payload)?);
    }
    let mut info = Info {
        format: 3,
        name: provides.artifact_name.clone(),
        group: provides.artifact_group.clone(),
        depends: Depends {
            device_types: depends.device_type.clone(),
            names: depends.artifact_name.clone(),
            groups: depends.artifact_group.clone(),
        },
        scripts: header.scripts.iter().map(script_info).collect(),
        payloads,
        signature,
        manifest: manifest.digest,
        header_compression: compression,
    };
    add_files(&mut info, manifest, "manifest")?;
    Ok(info)
}

fn script_info(script: &Script) -> ScriptInfo {
    ScriptInfo {
        name: script.name.clone(),
        size: script.content.len() as u64,
        digest: digest(&script.content),
    }
}

fn payload_info(index: usize, entry: &PayloadEntry, payload: &PayloadHeader) -> Result<PayloadInfo, Error> {
    let member = format!("headers/{index:04}/type-info");
    let kind = PayloadType::from_wire(entry.kind.as_deref());
    if let Some(text) = kind.as_text() {
        name::check_text("payload type", text)?;
    }
    // Mender's tool up to 4.3 writes "" for a root file system; all clients read that.
    let same = payload.type_info.kind == entry.kind
        || (kind == PayloadType::RootfsImage && payload.type_info.kind.as_deref() == Some(""));
    if !same {
        let reason = format!("the type is not {kind:?}, as header-info says");
        return Err(Error::Header { member, reason });
    }
    let provides = payload.type_info.artifact_provides.0.clone();
    for global in ["artifact_name", "artifact_group", "device_type"] {
        if provides.contains_key(global) {
            let reason = format!("provides {global}, which only header-info may");
            return Err(Error::Header { member, reason });
        }
    }
    Ok(PayloadInfo {
        kind,
        provides,
        depends: depends(&payload.type_info, &member)?,
        clears_provides: payload.type_info.clears_artifact_provides.clone(),
        meta_data: payload.meta_data.clone(),
        augmented: false,
        compression: None,
        compressed_size: None,
        files: Vec::new(),
    })
}

fn depends(
    type_info: &TypeInfo,
    member: &str,
) -> Result<std::collections::BTreeMap<String, Vec<String>>, Error> {
    let entries = type_info.artifact_depends.0.clone().into_iter();
    let depends: std::collections::BTreeMap<_, _> =
        entries.map(|(key, value)| (key, OneOrMany::into_vec(value))).collect();
    if let Some((key, _)) = depends.iter().find(|(_, values)| values.is_empty()) {
        let reason = format!("depends on {key} with an empty list, which no device can meet");
        return Err(Error::Header { member: member.to_owned(), reason });
    }
    Ok(depends)
}

/// Applies an augmented header, which no signature covers: it may replace the type of a payload and add or
/// replace provides, depends, clears and meta-data, and its manifest names the files.
pub(crate) fn augment(
    info: &mut Info,
    header: &Header<AugmentHeaderInfo>,
    manifest: &Manifest,
) -> Result<(), Error> {
    let refused = |member: &str, reason: &str| Error::Header {
        member: format!("header-augment: {member}"),
        reason: reason.to_owned(),
    };
    let provides = header.info.artifact_provides.as_ref();
    if provides.is_some_and(|p| p.artifact_name != info.name || p.artifact_group != info.group) {
        return Err(refused("header-info", "changes the artifact's name or group, which are signed"));
    }
    let depends_on = header.info.artifact_depends.as_ref();
    if depends_on.is_some_and(|d| {
        d.device_type != info.depends.device_types
            || d.artifact_name != info.depends.names
            || d.artifact_group != info.depends.groups
    }) {
        return Err(refused("header-info", "changes which devices may take the artifact, which is signed"));
    }
    if header.info.payloads.len() != info.payloads.len() {
        return Err(refused("header-info", "has another number of payloads than the header"));
    }
    for (index, (entry, payload)) in header.info.payloads.iter().zip(&header.payloads).enumerate() {
        // An empty type means that the signed one stays.
        let stays = PayloadEntry { kind: info.payloads[index].kind.as_text().map(str::to_owned) };
        let entry = if entry.kind.as_deref() == Some("") { &stays } else { entry };
        let over = payload_info(index, entry, payload)?;
        let signed = &mut info.payloads[index];
        if over.kind == PayloadType::Empty || signed.kind == PayloadType::Empty {
            return Err(refused("header-info", "an empty payload cannot be augmented"));
        }
        signed.augmented = true;
        signed.kind = over.kind;
        signed.provides.extend(over.provides);
        signed.depends.extend(over.depends);
        signed.clears_provides = over.clears_provides.or(signed.clears_provides.take());
        if let Some(meta_data) = over.meta_data {
            signed.meta_data.get_or_insert_default().extend(meta_data);
        }
    }
    add_files(info, manifest, "manifest-augment")
}

/// Gives every payload the files that a manifest lists for it.
fn add_files(info: &mut Info, manifest: &Manifest, member: &'static str) -> Result<(), Error> {
    for (index, file, digest) in manifest.data() {
        let Some(payload) = info.payloads.get_mut(index) else {
            let reason = format!("data/{index:04}/{file} belongs to no payload");
            return Err(Error::Manifest { member, reason });
        };
        if payload.files.iter().any(|known| known.name == file) {
            let reason = format!("data/{index:04}/{file} is in both manifests");
            return Err(Error::Manifest { member, reason });
        }
        payload.files.push(FileInfo { name: file.to_owned(), digest, size: None });
    }
    Ok(())
}

/// Checks that each payload has as many files as its type takes; after augmenting.
pub(crate) fn check_files(info: &Info) -> Result<(), Error> {
    for (index, payload) in info.payloads.iter().enumerate() {
        let count = payload.files.len();
        let good = match payload.kind {
            PayloadType::RootfsImage => count == 1,
            PayloadType::Empty => count == 0,
            PayloadType::Module(_) => true,
        };
        if !good {
            let reason = format!("payload {index} of type {} cannot have {count} files", payload.kind);
            return Err(Error::Manifest { member: "manifest", reason });
        }
    }
    Ok(())
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut sum = Context::new(&SHA256);
    sum.update(bytes);
    to_digest(sum)
}

/// What a SHA-256 came to.
pub(crate) fn to_digest(sum: Context) -> Digest {
    Digest::from_bytes(sum.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}
