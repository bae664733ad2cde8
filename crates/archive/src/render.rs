//! What a set of packages looks like to apt: the digests and sizes of its index files, and their
//! content. Not here: writing them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Digest};

use crate::error::Error;
use crate::frame::{Frame, FrameCache};
use crate::set::{Chunk, IndexKind, Listing, PackageSet};

/// An index file in its three forms.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) plain: Blob,
    pub(crate) gz: Blob,
    /// Means nothing if the index is served as gzip only.
    pub(crate) zst: Blob,
    pub(crate) frames: Vec<Arc<Frame>>,
    /// The state of the hashes before every `STRIDE`th chunk, so that the index of a later set
    /// need be hashed only from the first change on.
    checkpoints: Vec<Meters>,
}

/// How many chunks lie between two checkpoints: few enough to lose little, many enough that the
/// checkpoints of many sets stay small.
const STRIDE: usize = 8;

/// The hashes of the three forms of an index.
#[derive(Debug, Default, Clone)]
struct Meters {
    plain: Meter,
    gz: Meter,
    zst: Meter,
}

/// SHA-256 and size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blob {
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
}

/// Counts and hashes.
#[derive(Debug, Default, Clone)]
struct Meter {
    hash: Sha256,
    size: u64,
}

impl Blob {
    /// SHA-256 and size of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut meter = Meter::default();
        meter.update(bytes);
        meter.finish()
    }
}

impl Meter {
    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn finish(self) -> Blob {
        Blob { sha256: Digest::from_bytes(self.hash.finalize().into()), size: self.size }
    }
}

/// An index of a set, worked out once. `base` is a similar set whose index may be known; what both
/// begin with is not hashed again.
pub(crate) fn index(
    set: &PackageSet,
    kind: &IndexKind,
    cache: &FrameCache,
    base: Option<&PackageSet>,
) -> Arc<Index> {
    set.known_index(kind).unwrap_or_else(|| {
        let before = base.and_then(|base| Some((base.known_index(kind)?, common_chunks(base, set))));
        set.remember_index(kind, render(set, kind, cache, before))
    })
}

/// The Contents index of an architecture.
pub(crate) fn contents(
    set: &PackageSet,
    architecture: &Architecture,
    cache: &FrameCache,
    listing: &dyn Listing,
) -> Result<Index, Error> {
    let kind = IndexKind::Contents(architecture.clone());
    let mut meters = Meters::default();
    let mut frames = Vec::with_capacity(set.chunks().len());
    for chunk in set.chunks() {
        let text = chunk.contents(architecture, listing)?;
        meters.plain.update(&text);
        let frame = cache.get(&text, kind.forms());
        meters.gz.update(&frame.gz);
        frames.push(frame);
    }
    Ok(meters.finish(frames, Vec::new(), &kind))
}

/// With how many equal chunks two sets begin.
fn common_chunks(a: &PackageSet, b: &PackageSet) -> usize {
    a.chunks().iter().zip(b.chunks()).take_while(|(a, b)| Arc::ptr_eq(a, b)).count()
}

fn render(
    set: &PackageSet,
    kind: &IndexKind,
    cache: &FrameCache,
    before: Option<(Arc<Index>, usize)>,
) -> Index {
    let chunks = set.chunks();
    let mut meters = Meters::default();
    let mut frames = Vec::with_capacity(chunks.len());
    let mut checkpoints = Vec::with_capacity(chunks.len() / STRIDE + 1);
    if let Some((index, same)) = before {
        if is_unchanged(&index, same, chunks, kind, cache) {
            return Index::clone(&index);
        }
        // A checkpoint stands before its chunk, so the one at the first change is still good.
        let known = (same / STRIDE + 1).min(index.checkpoints.len());
        if let Some(last) = known.checked_sub(1) {
            checkpoints.extend_from_slice(&index.checkpoints[..last]);
            meters = index.checkpoints[last].clone();
            frames.extend_from_slice(&index.frames[..last * STRIDE]);
        }
    }
    for (number, chunk) in chunks.iter().enumerate().skip(frames.len()) {
        if number % STRIDE == 0 {
            checkpoints.push(meters.clone());
        }
        let frame = chunk.frame(kind, cache);
        meters.plain.update(&chunk.text(kind));
        meters.gz.update(&frame.gz);
        meters.zst.update(&frame.zst);
        frames.push(frame);
    }
    meters.finish(frames, checkpoints, kind)
}

/// True if chunks that differ from those of an earlier set do not differ in this index: most
/// packages are for one architecture.
fn is_unchanged(
    before: &Index,
    same: usize,
    chunks: &[Arc<Chunk>],
    kind: &IndexKind,
    cache: &FrameCache,
) -> bool {
    let rest = before.frames.get(same..).filter(|_| before.frames.len() == chunks.len());
    rest.is_some_and(|rest| {
        let frames = chunks[same..].iter().map(|chunk| chunk.frame(kind, cache));
        frames.zip(rest).all(|(frame, known)| Arc::ptr_eq(&frame, known))
    })
}

impl Meters {
    fn finish(mut self, mut frames: Vec<Arc<Frame>>, checkpoints: Vec<Self>, kind: &IndexKind) -> Index {
        if self.plain.size == 0 {
            // An empty file is no valid gzip or zstd file; an empty member is.
            let empty = Arc::new(Frame::empty(kind.forms()));
            self.gz.update(&empty.gz);
            self.zst.update(&empty.zst);
            frames.push(empty);
        }
        let Self { plain, gz, zst } = self;
        Index { plain: plain.finish(), gz: gz.finish(), zst: zst.finish(), frames, checkpoints }
    }
}
