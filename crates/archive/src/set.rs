//! A set of packages: one version of each package and architecture, in order. A suite has one set
//! for each component.
//!
//! It is cut into chunks at names that a hash chooses, so that equal sets have equal chunks
//! whatever their history, and a change touches one chunk. Copies share their chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Digest, PackageName};

use crate::entry::PackageEntry;
use crate::frame::{Forms, Frame, FrameCache};
use crate::render::Index;

/// How many names a chunk has on average. Smaller ones are cheaper to compress again, larger
/// ones compress better; at 48 the index is a few per cent above its best.
const NAMES_PER_CHUNK: u32 = 48;

/// Package and architecture: the place of an entry in a set.
pub(crate) type Key = (PackageName, Architecture);

/// Changes to a set: an entry comes in the place of what was there, or what was there goes.
pub(crate) type Edits = BTreeMap<Key, Option<Arc<PackageEntry>>>;

/// A set of packages.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackageSet {
    chunks: Arc<[Arc<Chunk>]>,
    digest: Arc<OnceLock<Digest>>,
    /// What was worked out of it already.
    indexes: Arc<Mutex<BTreeMap<IndexKind, Arc<Index>>>>,
}

/// Neighbouring packages of a set, never changed, shared by all sets that have them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) entries: Vec<Arc<PackageEntry>>,
    /// How many of the entries are source packages.
    sources: usize,
    /// In which languages there are descriptions.
    languages: BTreeSet<String>,
    digest: OnceLock<[u8; 32]>,
    pieces: Mutex<BTreeMap<IndexKind, Piece>>,
}

/// What a chunk is in one index.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) frame: Arc<Frame>,
    pub(crate) lines: usize,
    /// In one block: gathering it from the entries again costs more than hashing it.
    pub(crate) text: Arc<[u8]>,
}

/// An index that packages of a set stand in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IndexKind {
    /// The packages that a device can install.
    Packages(Architecture),
    /// The source packages.
    Sources,
    /// Descriptions in a language.
    Translation(String),
    /// The files in the packages that a device can install.
    Contents(Architecture),
}

impl IndexKind {
    /// True if an entry stands in this Packages index.
    pub(crate) fn has(&self, entry: &PackageEntry) -> bool {
        matches!(self, Self::Packages(architecture) if entry.serves(architecture))
    }

    /// The paragraph of an entry in this index, if it stands there.
    fn stanza<'a>(&self, entry: &'a PackageEntry) -> Option<&'a str> {
        match self {
            Self::Packages(architecture) if entry.serves(architecture) => Some(&entry.stanza),
            Self::Sources if entry.is_source() => Some(&entry.stanza),
            Self::Translation(language) => entry.translations.get(language).map(AsRef::as_ref),
            _ => None,
        }
    }

    /// In which compressed forms it is served.
    pub(crate) fn forms(&self) -> Forms {
        match self {
            Self::Packages(_) => Forms::GzipAndZstd,
            Self::Sources | Self::Translation(_) | Self::Contents(_) => Forms::Gzip,
        }
    }
}

impl fmt::Display for IndexKind {
    /// Its path below the component.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(architecture) => write!(f, "binary-{architecture}/Packages"),
            Self::Sources => f.write_str("source/Sources"),
            Self::Translation(language) => write!(f, "i18n/Translation-{language}"),
            Self::Contents(architecture) => write!(f, "Contents-{architecture}"),
        }
    }
}

/// Gives the paths of the files in a package.
pub(crate) trait Listing {
    /// The paths, one a line.
    fn paths(&self, entry: &PackageEntry) -> Result<String, crate::Error>;
}

impl Chunk {
    fn new(entries: Vec<Arc<PackageEntry>>) -> Arc<Self> {
        let sources = entries.iter().filter(|entry| entry.is_source()).count();
        let languages = entries.iter().flat_map(|entry| entry.translations.keys().cloned()).collect();
        Arc::new(Self { entries, sources, languages, digest: OnceLock::new(), pieces: Mutex::default() })
    }

    /// SHA-256 over one line `name architecture version sha256` (the last in hexadecimal digits)
    /// for each entry, each ended by a newline.
    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut hash = Sha256::new();
            for entry in &self.entries {
                for part in [entry.name.as_str(), entry.architecture.as_str(), entry.version.as_str()] {
                    hash.update(part);
                    hash.update(b" ");
                }
                hash.update(entry.sha256.hex());
                hash.update(b"\n");
            }
            hash.finalize().into()
        })
    }

    /// Its piece of an index other than Contents.
    pub(crate) fn piece(&self, kind: &IndexKind, cache: &FrameCache) -> Piece {
        let mut pieces = self.pieces.lock().expect("nobody panics with this lock");
        if let Some(piece) = pieces.get(kind) {
            return piece.clone();
        }
        let text: Arc<[u8]> = self.gather(kind).into();
        let frame = cache.get(&text, kind.forms());
        let piece = Piece { frame, lines: count_lines(&text), text };
        pieces.insert(kind.clone(), piece.clone());
        piece
    }

    /// How many lines its piece of an index has.
    pub(crate) fn lines(&self, kind: &IndexKind) -> usize {
        let pieces = self.pieces.lock().expect("nobody panics with this lock");
        if let Some(piece) = pieces.get(kind) {
            return piece.lines;
        }
        count_lines(&self.gather(kind))
    }

    /// Its piece of a plain index other than Contents.
    pub(crate) fn text(&self, kind: &IndexKind) -> Arc<[u8]> {
        let pieces = self.pieces.lock().expect("nobody panics with this lock");
        pieces.get(kind).map_or_else(|| self.gather(kind).into(), |piece| Arc::clone(&piece.text))
    }

    fn gather(&self, kind: &IndexKind) -> Vec<u8> {
        let mut last = None;
        let mut text = Vec::new();
        for stanza in self.entries.iter().filter_map(|entry| kind.stanza(entry)) {
            // The package of each architecture has a translation, mostly the same.
            if matches!(kind, IndexKind::Translation(_)) && last.replace(stanza) == Some(stanza) {
                continue;
            }
            text.extend_from_slice(stanza.as_bytes());
            text.push(b'\n');
        }
        text
    }

    /// Its piece of the Contents of an architecture: one line for each file, with the section and
    /// the name of its package.
    pub(crate) fn contents(
        &self,
        architecture: &Architecture,
        listing: &dyn Listing,
    ) -> Result<Vec<u8>, crate::Error> {
        let mut text = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.serves(architecture)) {
            let paragraph = entry.paragraph();
            let place = paragraph.get("Section").map_or(String::new(), |section| format!("{section}/"));
            for path in listing.paths(entry)?.lines() {
                text.extend_from_slice(format!("{path} {place}{}\n", entry.name).as_bytes());
            }
        }
        Ok(text)
    }

    fn last_name(&self) -> &PackageName {
        &self.entries.last().expect("a chunk is never empty").name
    }
}

fn count_lines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// True if a chunk ends after this name (FNV-1a; it must never change, or the digests of all sets
/// would).
fn ends_chunk(name: &PackageName) -> bool {
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // The low bits of FNV are weak; the multiplication spreads into the high ones.
    (hash >> 8) % NAMES_PER_CHUNK == 0
}

impl PackageSet {
    /// All entries in order of name and architecture.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.chunks.iter().flat_map(|chunk| &chunk.entries)
    }

    /// How many binary packages there are.
    pub(crate) fn binaries(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries.len() - chunk.sources).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The digest of the set: SHA-256 over the digests of its chunks in order.
    pub(crate) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            // Gathered before any is hashed: they are all over memory, and are then waited for together.
            let digests: Vec<[u8; 32]> = self.chunks.iter().map(|chunk| *chunk.digest()).collect();
            Digest::from_bytes(Sha256::digest(digests.as_flattened()).into())
        })
    }

    /// The indexes that the set has for these architectures, without Contents.
    pub(crate) fn kinds(&self, architectures: &[Architecture]) -> Vec<IndexKind> {
        let mut kinds: Vec<IndexKind> = architectures.iter().cloned().map(IndexKind::Packages).collect();
        if self.chunks.iter().any(|chunk| chunk.sources > 0) {
            kinds.push(IndexKind::Sources);
        }
        let languages: BTreeSet<&String> = self.chunks.iter().flat_map(|chunk| &chunk.languages).collect();
        kinds.extend(languages.into_iter().cloned().map(IndexKind::Translation));
        kinds
    }

    pub(crate) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// With how many equal chunks this set and another one begin.
    pub(crate) fn common_start(&self, other: &Self) -> usize {
        let both = self.chunks.iter().zip(other.chunks());
        both.take_while(|(one, other)| Arc::ptr_eq(one, other)).count()
    }

    /// How many lines of an index come before its chunk with this number, counted from 0.
    pub(crate) fn lines_before(&self, chunk: usize, kind: &IndexKind) -> usize {
        match self.known_index(kind) {
            Some(index) => index.lines_before(chunk),
            None => self.chunks[..chunk].iter().map(|chunk| chunk.lines(kind)).sum(),
        }
    }

    /// An index of this set if it was worked out already. Copies share them.
    pub(crate) fn known_index(&self, kind: &IndexKind) -> Option<Arc<Index>> {
        self.indexes.lock().expect("nobody panics with this lock").get(kind).map(Arc::clone)
    }

    pub(crate) fn remember_index(&self, kind: &IndexKind, index: Arc<Index>) -> Arc<Index> {
        let mut indexes = self.indexes.lock().expect("nobody panics with this lock");
        indexes.insert(kind.clone(), Arc::clone(&index));
        index
    }

    /// The entries of one name.
    pub(crate) fn named(&self, name: &PackageName) -> &[Arc<PackageEntry>] {
        let index = self.chunks.partition_point(|chunk| chunk.last_name() < name);
        let Some(chunk) = self.chunks.get(index) else { return &[] };
        let start = chunk.entries.partition_point(|entry| entry.name < *name);
        let end = chunk.entries.partition_point(|entry| entry.name <= *name);
        &chunk.entries[start..end]
    }

    /// The entry in one place.
    pub(crate) fn get(&self, name: &PackageName, architecture: &Architecture) -> Option<&Arc<PackageEntry>> {
        self.named(name).iter().find(|entry| entry.architecture == *architecture)
    }

    /// The set after these changes. Chunks that they do not touch are shared.
    pub(crate) fn with(&self, edits: &Edits) -> Self {
        let mut chunks = Vec::with_capacity(self.chunks.len() + 1);
        let mut rest = &self.chunks[..];
        let mut edits = edits.iter().peekable();
        // Entries that wait for a name that ends a chunk.
        let mut open: Vec<Arc<PackageEntry>> = Vec::new();
        loop {
            if open.is_empty() {
                let same = match edits.peek() {
                    // What comes after all names belongs to the last chunk.
                    Some((key, _)) => rest
                        .partition_point(|chunk| *chunk.last_name() < key.0)
                        .min(rest.len().saturating_sub(1)),
                    None => rest.len(),
                };
                chunks.extend_from_slice(&rest[..same]);
                rest = &rest[same..];
            }
            let Some((chunk, later)) = rest.split_first() else { break };
            let mut here: Vec<(&Key, &Option<Arc<PackageEntry>>)> = Vec::new();
            while let Some(edit) = edits.next_if(|(key, _)| later.is_empty() || key.0 <= *chunk.last_name()) {
                here.push(edit);
            }
            merge(&chunk.entries, &here, &mut open);
            split(&mut open, &mut chunks);
            rest = later;
        }
        let here: Vec<_> = edits.collect();
        merge(&[], &here, &mut open);
        split(&mut open, &mut chunks);
        if !open.is_empty() {
            chunks.push(Chunk::new(open));
        }
        Self { chunks: chunks.into(), digest: Arc::default(), indexes: Arc::default() }
    }
}

/// Appends the entries with the changes made.
fn merge(
    entries: &[Arc<PackageEntry>],
    edits: &[(&Key, &Option<Arc<PackageEntry>>)],
    to: &mut Vec<Arc<PackageEntry>>,
) {
    let mut entries = entries.iter().peekable();
    for (key, edit) in edits {
        let place = |entry: &PackageEntry| (&entry.name, &entry.architecture).cmp(&(&key.0, &key.1));
        while let Some(entry) = entries.next_if(|entry| place(entry).is_lt()) {
            to.push(Arc::clone(entry));
        }
        entries.next_if(|entry| place(entry).is_eq());
        to.extend(edit.iter().map(Arc::clone));
    }
    to.extend(entries.map(Arc::clone));
}

/// Moves whole chunks out of `open`, and leaves the rest.
fn split(open: &mut Vec<Arc<PackageEntry>>, chunks: &mut Vec<Arc<Chunk>>) {
    let mut start = 0;
    for index in 0..open.len() {
        let name = &open[index].name;
        let is_last_of_name = open.get(index + 1).is_none_or(|next| next.name != *name);
        if is_last_of_name && ends_chunk(name) {
            chunks.push(Chunk::new(open[start..=index].to_vec()));
            start = index + 1;
        }
    }
    open.drain(..start);
}

#[cfg(test)]
pub(crate) mod samples {
    use jiff::Timestamp;

    use super::*;
    use crate::render::Blob;

    /// A package with nothing but its name and version.
    pub(crate) fn entry(name: &str, architecture: &str, version: &str) -> Arc<PackageEntry> {
        Arc::new(PackageEntry {
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
            architecture: architecture.parse().unwrap(),
            component: "main".parse().unwrap(),
            source: name.parse().unwrap(),
            source_version: version.parse().unwrap(),
            sha256: Blob::of(format!("{name} {architecture} {version}").as_bytes()).sha256,
            size: 1,
            stanza: format!("Package: {name}\nVersion: {version}\n").into(),
            files: Vec::new(),
            translations: BTreeMap::new(),
            provenance: Arc::default(),
            included_at: Timestamp::UNIX_EPOCH,
            relations: OnceLock::new(),
        })
    }

    /// That these come in.
    pub(crate) fn edits(entries: impl IntoIterator<Item = Arc<PackageEntry>>) -> Edits {
        let place = |entry: &PackageEntry| (entry.name.clone(), entry.architecture.clone());
        entries.into_iter().map(|entry| (place(&entry), Some(entry))).collect()
    }
}
