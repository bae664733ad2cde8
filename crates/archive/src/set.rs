//! A set of packages: one version of each package and architecture, in order.
//!
//! It is cut into chunks at names that a hash chooses, so that equal sets have equal chunks
//! whatever their history, and a change touches one chunk. Copies share their chunks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use volary_model::{Architecture, PackageName};

use crate::entry::PackageEntry;
use crate::frame::{Frame, FrameCache};
use crate::render::Rendered;

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
    chunks: Vec<Arc<Chunk>>,
    rendered: Arc<OnceLock<Rendered>>,
}

/// Neighbouring packages of a set, never changed, shared by all sets that have them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) entries: Vec<Arc<PackageEntry>>,
    pieces: Mutex<BTreeMap<Architecture, Piece>>,
}

/// What a chunk is in the Packages index of one architecture.
#[derive(Debug, Clone)]
struct Piece {
    frame: Arc<Frame>,
    lines: usize,
}

impl Chunk {
    fn new(entries: Vec<Arc<PackageEntry>>) -> Arc<Self> {
        Arc::new(Self { entries, pieces: Mutex::default() })
    }

    /// Its piece of the Packages index of an architecture, compressed.
    pub(crate) fn frame(&self, architecture: &Architecture, cache: &FrameCache) -> Arc<Frame> {
        let mut pieces = self.pieces.lock().expect("nobody panics with this lock");
        let piece = pieces.entry(architecture.clone()).or_insert_with(|| {
            let mut text = Vec::new();
            self.text(architecture, &mut |part| text.extend_from_slice(part));
            Piece { frame: cache.get(&text), lines: count_lines(&text) }
        });
        Arc::clone(&piece.frame)
    }

    /// How many lines its piece of the Packages index of an architecture has.
    pub(crate) fn lines(&self, architecture: &Architecture) -> usize {
        let pieces = self.pieces.lock().expect("nobody panics with this lock");
        if let Some(piece) = pieces.get(architecture) {
            return piece.lines;
        }
        let mut lines = 0;
        self.text(architecture, &mut |part| lines += count_lines(part));
        lines
    }

    /// Hands over its piece of the plain Packages index of an architecture.
    pub(crate) fn text(&self, architecture: &Architecture, to: &mut dyn FnMut(&[u8])) {
        for entry in self.entries.iter().filter(|entry| entry.serves(architecture)) {
            to(entry.stanza.as_bytes());
            to(b"\n");
        }
    }

    fn last_name(&self) -> &PackageName {
        &self.entries.last().expect("a chunk is never empty").name
    }
}

fn count_lines(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

/// True if a chunk ends after this name (FNV-1a; it must never change, or all index files would).
fn ends_chunk(name: &PackageName) -> bool {
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // The low bits of FNV are weak; the multiplication spreads into the high ones.
    (hash >> 8) % NAMES_PER_CHUNK == 0
}

pub(crate) fn key_of(entry: &PackageEntry) -> Key {
    (entry.name.clone(), entry.architecture.clone())
}

impl PackageSet {
    /// All entries in order of name and architecture.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.chunks.iter().flat_map(|chunk| &chunk.entries)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.entries.len()).sum()
    }

    pub(crate) fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// What this set looks like when it is published; worked out once and shared by copies.
    pub(crate) fn rendered(&self) -> &OnceLock<Rendered> {
        &self.rendered
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
        let mut edits = edits.iter().peekable();
        // Entries that wait for a name that ends a chunk.
        let mut open: Vec<Arc<PackageEntry>> = Vec::new();
        for (index, chunk) in self.chunks.iter().enumerate() {
            let is_last = index + 1 == self.chunks.len();
            let mut here: Vec<(&Key, &Option<Arc<PackageEntry>>)> = Vec::new();
            while let Some(edit) = edits.next_if(|(key, _)| is_last || key.0 <= *chunk.last_name()) {
                here.push(edit);
            }
            if here.is_empty() && open.is_empty() {
                chunks.push(Arc::clone(chunk));
                continue;
            }
            merge(&chunk.entries, &here, &mut open);
            split(&mut open, &mut chunks);
        }
        let here: Vec<_> = edits.collect();
        merge(&[], &here, &mut open);
        split(&mut open, &mut chunks);
        if !open.is_empty() {
            chunks.push(Chunk::new(open));
        }
        Self { chunks, rendered: Arc::default() }
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
