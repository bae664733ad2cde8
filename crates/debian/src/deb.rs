//! Reads a `.deb` (deb(5)) from one end to the other: control fields, file list, SHA-256, size.
//!
//! The whole file is read exactly once, so that what was checked is what was hashed. Not here:
//! unpacking anything, or making a package.

mod ar;
mod compare;
mod tar;
mod unpack;

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::control::{ControlError, Paragraph};
use crate::relation::RelationError;
use crate::version::{InvalidVersion, Version};
use ar::Members;

pub use compare::{Difference, Open, compare};

/// What a `.deb` says of itself, and what it is.
#[derive(Debug, Clone)]
pub struct Deb {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// All control fields.
    pub control: Paragraph,
    /// The files in it, without a leading slash and without folders: `usr/bin/hello`.
    pub files: Vec<String>,
    /// Its Debian changelog (Debian policy 12.7), if it has one of its own and of sane size.
    pub changelog: Option<String>,
    /// Bytes of the `.deb`.
    pub size: u64,
    /// SHA-256 of the `.deb`.
    pub sha256: [u8; 32],
}

/// A file that is no usable Debian package, and why.
#[derive(Debug, thiserror::Error)]
#[error("{file} is not a usable Debian package: {problem}")]
pub struct DebError {
    /// The file, as the caller named it.
    pub file: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with a `.deb`.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// It does not begin like an `ar` archive.
    #[error("it does not begin with \"!<arch>\"")]
    NotAr,
    /// It ends before it is whole.
    #[error("it is cut off: {0} is not whole")]
    Truncated(String),
    /// A header between its members is damaged.
    #[error("it is damaged: after {0} bytes there is no member header")]
    MemberHeader(u64),
    /// A member is missing or another stands in its place.
    #[error("its {position} member must be {expected}, and it is {found}")]
    Member {
        /// Which one: "first".
        position: &'static str,
        /// What must be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A format of the future, or none.
    #[error("its format version is {0:?}; only 2.x is known")]
    FormatVersion(String),
    /// A way of compression that is not taken.
    #[error("{0} is compressed in a way that is not taken; use xz, zstd, gzip or none")]
    Compression(String),
    /// Compressed data that is damaged.
    #[error("{member} cannot be unpacked: {source}")]
    Unpack {
        /// The member.
        member: String,
        /// What the decompressor said.
        source: io::Error,
    },
    /// It unpacks to more than any honest package.
    #[error("{member} unpacks to more than {limit} bytes, which only a trap does")]
    Bomb {
        /// The member.
        member: String,
        /// The limit.
        limit: u64,
    },
    /// A damaged tar archive inside.
    #[error("{member} is damaged: {what}")]
    Tar {
        /// The member.
        member: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A name in a tar archive that leads elsewhere.
    #[error("{member} has a file with the name {name:?}, which could lead out of its folder")]
    Path {
        /// The member.
        member: String,
        /// The name.
        name: String,
    },
    /// No control file in the control member.
    #[error("it has no control file")]
    NoControl,
    /// The control file is too large.
    #[error("its control file has more than {CONTROL_LIMIT} bytes")]
    ControlSize,
    /// The control file is not UTF-8.
    #[error("its control file is not UTF-8")]
    ControlEncoding,
    /// The control file is not well-formed.
    #[error("its control file is wrong: {0}")]
    Control(#[from] ControlError),
    /// The name of the package.
    #[error("its package name {0:?} is not valid; lower-case letters, digits, +, - and . are")]
    Name(String),
    /// The version of the package.
    #[error("its {0}")]
    Version(#[from] InvalidVersion),
    /// The architecture of the package.
    #[error("its architecture {0:?} is not valid")]
    Architecture(String),
    /// A dependency field.
    #[error("its field {field} is wrong: {error}")]
    Relation {
        /// The field.
        field: &'static str,
        /// Why.
        error: RelationError,
    },
}

/// Most bytes of a control file. Debian's largest has 60 KB.
const CONTROL_LIMIT: u64 = 1 << 20;
/// Most bytes of a packed changelog that is read, and of what it unpacks to.
const CHANGELOG_LIMIT: (u64, u64) = (4 << 20, 32 << 20);
/// Most bytes of a packed or unpacked control member; it also holds scripts and md5sums.
const CONTROL_MEMBER_LIMIT: u64 = 64 << 20;
/// What any data member may unpack to; above that, what its packed size allows.
const DATA_FLOOR: u64 = 1 << 30;
/// How many times its packed size a data member may unpack to. Honest ones stay below 50.
const DATA_RATIO: u64 = 200;

/// The fields that relate a package to others.
const RELATIONS: [&str; 9] = [
    "Pre-Depends",
    "Depends",
    "Recommends",
    "Suggests",
    "Enhances",
    "Breaks",
    "Conflicts",
    "Replaces",
    "Provides",
];

/// Reads a `.deb` to its end and checks all that can be checked without a second package.
/// `file` is how errors name it.
///
/// # Errors
/// [`DebError`] that says what is wrong.
pub fn read(reader: impl Read, file: &str) -> Result<Deb, DebError> {
    read_package(reader).map_err(|problem| DebError { file: file.to_owned(), problem })
}

/// Counts and hashes what passes through.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

fn read_package(reader: impl Read) -> Result<Deb, Problem> {
    let hashing = Hashing { inner: reader, hash: Sha256::new(), size: 0 };
    // Larger than most packages' members, so that the hash sees long runs.
    let mut members = Members::begin(io::BufReader::with_capacity(64 << 10, hashing))?;
    check_format(&mut members)?;
    let control = read_control(&mut members)?;
    let (files, changelog) = read_data(&mut members, control.get("Package").unwrap_or_default())?;
    // dpkg ignores what follows; it still has to be members, not something hidden.
    while members.next()?.is_some() {}
    let hashing = members.into_inner().into_inner();
    let package = control.require("Package")?.to_owned();
    if !crate::is_package_name(&package) {
        return Err(Problem::Name(package.chars().take(120).collect()));
    }
    let version = control.require("Version")?.parse()?;
    let architecture = control.require("Architecture")?.to_owned();
    if !crate::is_architecture(&architecture) {
        return Err(Problem::Architecture(architecture.chars().take(120).collect()));
    }
    for field in RELATIONS {
        let relations = crate::relation::parse(control.get(field).unwrap_or(""));
        relations.map_err(|error| Problem::Relation { field, error })?;
    }
    let (size, sha256) = (hashing.size, hashing.hash.finalize().into());
    Ok(Deb { package, version, architecture, control, files, changelog, size, sha256 })
}

/// Steps to the next member, whose name must begin with `expected`.
fn expect<R: Read>(
    members: &mut Members<R>,
    position: &'static str,
    expected: &'static str,
) -> Result<String, Problem> {
    loop {
        match members.next()? {
            // deb(5): members whose names begin with an underscore are to be skipped.
            Some(name) if name.starts_with('_') => {}
            Some(name) if name.starts_with(expected) => return Ok(name),
            found => {
                let found = found.unwrap_or_else(|| "missing".to_owned());
                return Err(Problem::Member { position, expected, found });
            }
        }
    }
}

fn check_format<R: Read>(members: &mut Members<R>) -> Result<(), Problem> {
    let name = expect(members, "first", "debian-binary")?;
    let mut text = Vec::new();
    members.take(64).read_to_end(&mut text).map_err(|error| unpack::problem(&name, error))?;
    if text.starts_with(b"2.") && text.contains(&b'\n') {
        Ok(())
    } else {
        Err(Problem::FormatVersion(String::from_utf8_lossy(&text).trim_end().to_owned()))
    }
}

fn read_control<R: Read>(members: &mut Members<R>) -> Result<Paragraph, Problem> {
    let name = expect(members, "second", "control.tar")?;
    if members.size() > CONTROL_MEMBER_LIMIT {
        return Err(Problem::Bomb { member: name, limit: CONTROL_MEMBER_LIMIT });
    }
    let mut entries = tar::Entries::new(unpack::open(members, &name, CONTROL_MEMBER_LIMIT)?, &name);
    let mut found = None;
    while let Some(entry) = entries.next()? {
        if entry.path == "control" && entry.kind == tar::Kind::File && found.is_none() {
            if entry.size > CONTROL_LIMIT {
                return Err(Problem::ControlSize);
            }
            found = Some(entries.content()?);
        }
    }
    let text = String::from_utf8(found.ok_or(Problem::NoControl)?).map_err(|_| Problem::ControlEncoding)?;
    Ok(Paragraph::parse(&text)?)
}

/// The paths and the changelog in the data member of a package.
fn read_data<R: Read>(
    members: &mut Members<R>,
    package: &str,
) -> Result<(Vec<String>, Option<String>), Problem> {
    let name = expect(members, "third", "data.tar")?;
    let limit = DATA_FLOOR.max(members.size().saturating_mul(DATA_RATIO));
    let mut entries = tar::Entries::new(unpack::open(members, &name, limit)?, &name);
    let mut files = Vec::new();
    // A package that was made for Debian alone has no second one, so the file has the plain name.
    let plain = format!("usr/share/doc/{package}/changelog.gz");
    let debian = format!("usr/share/doc/{package}/changelog.Debian.gz");
    let (mut of_plain, mut of_debian) = (None, None);
    while let Some(entry) = entries.next()? {
        if entry.kind == tar::Kind::Folder {
            continue;
        }
        let wanted = if entry.path == debian {
            Some(&mut of_debian)
        } else if entry.path == plain {
            Some(&mut of_plain)
        } else {
            None
        };
        if let Some(found) = wanted.filter(|_| entry.size > 0 && entry.size <= CHANGELOG_LIMIT.0) {
            *found = unpack_changelog(&entries.content()?);
        }
        files.push(entry.path);
    }
    Ok((files, of_debian.or(of_plain)))
}

/// The text of a packed changelog. Nothing depends on it, so one that is damaged is none.
fn unpack_changelog(packed: &[u8]) -> Option<String> {
    let mut text = Vec::new();
    let unpacked = flate2::read::MultiGzDecoder::new(packed).take(CHANGELOG_LIMIT.1).read_to_end(&mut text);
    unpacked.ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
