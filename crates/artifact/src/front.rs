//! What stands before the payload: version, manifest, signature, and how a header is checked before it
//! is unpacked.

use std::io::Read;

use volary_model::Digest;

use crate::codec::Decoder;
use crate::header;
use crate::manifest::{Entry, Manifest};
use crate::reader::Outer;
use crate::tar::Member;
use crate::{Augment, Compression, Error, Limits, Policy, Signature, Signatures, wire};

/// The version member is 31 bytes; white space is allowed.
const VERSION_AT_MOST: u64 = 1024;
/// RSA with 8192 bits is 1368 characters.
const SIGNATURE_AT_MOST: u64 = 4096;

/// The members before the header, checked.
pub(crate) struct Front {
    pub(crate) manifest: Manifest,
    pub(crate) signature: Signature,
    pub(crate) header_name: String,
    pub(crate) compression: Compression,
    pub(crate) augment: Option<Manifest>,
}

impl Front {
    pub(crate) fn read<R: Read>(tar: &mut Outer<R>, policy: &Policy<'_>) -> Result<Self, Error> {
        exactly(tar, "version")?;
        let version = tar.read_small("version", VERSION_AT_MOST)?;
        check_version(&version)?;
        exactly(tar, "manifest")?;
        let raw = tar.read_small("manifest", policy.limits.manifest)?;

        let mut member = next_member(tar, "manifest.sig, manifest-augment or header.tar")?;
        let signature = if member.name == "manifest.sig" {
            let text = tar.read_small("manifest.sig", SIGNATURE_AT_MOST)?;
            member = next_member(tar, "manifest-augment or header.tar")?;
            check_signature(&raw, &text, policy)?
        } else if matches!(policy.signatures, Signatures::Require(_)) {
            return Err(Error::NotSigned);
        } else {
            Signature::Absent
        };
        let manifest = Manifest::parse("manifest", &raw)?;
        let Some(expected) = manifest.entries.get(&Entry::Version).copied() else {
            return Err(Error::Manifest { member: "manifest", reason: "version is not listed".into() });
        };
        compare("version", expected, header::digest(&version))?;

        let mut augment = None;
        if member.name == "manifest-augment" {
            if policy.augment == Augment::Refuse {
                return Err(Error::Augmented);
            }
            let raw = tar.read_small("manifest-augment", policy.limits.manifest)?;
            augment = Some(Manifest::parse("manifest-augment", &raw)?);
            member = next_member(tar, "header.tar")?;
        }
        let Some(compression) = Compression::of_member(&member.name, "header.tar") else {
            return Err(Error::Order { found: member.name, expected: "header.tar[.gz|.xz|.zst]".into() });
        };
        Ok(Self { manifest, signature, header_name: member.name, compression, augment })
    }
}

pub(crate) fn next_member<R: Read>(tar: &mut Outer<R>, expected: &str) -> Result<Member, Error> {
    tar.next()?.ok_or_else(|| Error::Missing { member: expected.to_owned() })
}

fn exactly<R: Read>(tar: &mut Outer<R>, name: &str) -> Result<(), Error> {
    let member = next_member(tar, name)?;
    if member.name == name {
        return Ok(());
    }
    Err(Error::Order { found: member.name, expected: name.to_owned() })
}

fn check_version(raw: &[u8]) -> Result<(), Error> {
    let version: wire::Version = wire::parse("version", raw)?;
    let refused = |reason: String| Err(Error::Version { reason });
    match (version.format.as_str(), version.version) {
        ("mender", 3) => Ok(()),
        ("mender", old @ 1..=2) => refused(format!(
            "the artifact is of format version {old}; write it again with a current tool (version 3)"
        )),
        ("mender", new) => refused(format!("the artifact is of format version {new}; only 3 is known")),
        (other, _) => refused(format!("the artifact is of format {other:?}, not mender")),
    }
}

fn check_signature(manifest: &[u8], text: &[u8], policy: &Policy<'_>) -> Result<Signature, Error> {
    let signature = crate::key::decode_signature(text)?;
    let keys = match policy.signatures {
        Signatures::Ignore => return Ok(Signature::Unchecked),
        Signatures::Require(keys) => keys,
    };
    match keys.iter().find(|key| key.verify(manifest, &signature)) {
        Some(key) => Ok(Signature::Verified { key: key.fingerprint() }),
        None => Err(Error::Signature {
            reason: format!(
                "it is by none of the {} keys that are trusted, or the manifest was changed",
                keys.len()
            ),
        }),
    }
}

fn compare(name: &str, expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::Checksum { name: name.to_owned(), expected, actual })
}

/// Reads a header member that was just found, checks it and unpacks it.
pub(crate) fn read_header<R: Read>(
    tar: &mut Outer<R>,
    name: &str,
    stem: &str,
    manifest: &Manifest,
    limits: &Limits,
) -> Result<Vec<u8>, Error> {
    let Some(kind) = Compression::of_member(name, stem) else {
        return Err(Error::Order { found: name.to_owned(), expected: format!("{stem}[.gz|.xz|.zst]") });
    };
    let Some(expected) = manifest.header(name).filter(|_| manifest.only_header_is(name)) else {
        let reason = format!("{name} has to be listed, and no other header");
        return Err(Error::Manifest { member: "manifest", reason });
    };
    let packed = tar.read_small(name, limits.header)?;
    compare(name, expected, header::digest(&packed))?;
    let mut unpacked = Vec::new();
    let one_thread = Limits { threads: 1, ..*limits };
    let decoder = Decoder::new(name, kind, &packed[..], &one_thread)?;
    decoder.take(limits.header + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > limits.header {
        return Err(Error::Limit { what: format!("{name}, unpacked,"), limit: limits.header });
    }
    Ok(unpacked)
}
