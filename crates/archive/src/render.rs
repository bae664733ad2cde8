//! What a set of packages looks like to apt: the digests and sizes of its index files, and their
//! content. Not here: writing them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Digest};

use crate::error::Error;
use crate::frame::{Frame, FrameCache};
use crate::listing::Listed;
use crate::set::{Chunk, IndexKind, Listing, PackageSet, Piece};

/// An index file in its three forms.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) plain: Blob,
    pub(crate) gz: Blob,
    /// Means nothing if the index is served as gzip only.
    pub(crate) zst: Blob,
    /// At least one.
    strides: Vec<Arc<Stride>>,
    /// What comes before anything that is put at its end.
    end: Meters,
}

/// How many chunks have their place in the index noted and are taken over together: few enough to
/// lose little, many enough that nothing is done for each chunk of a large index.
const STRIDE: usize = 8;

/// `STRIDE` neighbouring chunks in an index; fewer at its end. Indexes of similar sets share them.
#[derive(Debug)]
struct Stride {
    /// What comes before it, so that the index of a later set need be hashed only from the first
    /// change on.
    before: Meters,
    pieces: Arc<[Piece]>,
}

/// The hashes of the three forms of an index, or of its beginning.
#[derive(Debug, Default, Clone)]
struct Meters {
    plain: Meter,
    gz: Meter,
    zst: Meter,
    /// Of the plain one.
    lines: usize,
}

/// A Contents index, which is served as gzip only.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) plain: Blob,
    pub(crate) gz: Blob,
    pub(crate) frames: Vec<Arc<Frame>>,
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

/// Bytes that SHA-256 takes at a time.
const BLOCK: usize = 64;

impl Meter {
    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// As `update` of each, a block of one and a block of the other in turn. In a hash each step waits
    /// for the one before; of two hashes the processor works on both.
    fn update_in_turn(&mut self, bytes: &[u8], other: &mut Self, other_bytes: &[u8]) {
        let (bytes, other_bytes) = (self.fill_block(bytes), other.fill_block(other_bytes));
        let (blocks, other_blocks) = (bytes.as_chunks::<BLOCK>().0, other_bytes.as_chunks::<BLOCK>().0);
        for (block, other_block) in blocks.iter().zip(other_blocks) {
            self.update(block);
            other.update(other_block);
        }
        let done = blocks.len().min(other_blocks.len()) * BLOCK;
        self.update(&bytes[done..]);
        other.update(&other_bytes[done..]);
    }

    /// Takes what is missing of the block that was begun, and returns the rest.
    fn fill_block<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let missing = self.size.next_multiple_of(BLOCK as u64) - self.size;
        let (now, later) = bytes.split_at(bytes.len().min(missing as usize));
        self.update(now);
        later
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
        let before = base.and_then(|set| Some(Before { index: set.known_index(kind)?, set }));
        let index = match before {
            Some(before) if before.looks_like(set, kind, cache) => before.index,
            before => Arc::new(render(set, kind, cache, before.as_ref())),
        };
        set.remember_index(kind, index)
    })
}

/// An index of what is listed. `base` is as for `index`, for what comes first.
pub(crate) fn listed(
    listed: Listed<'_>,
    kind: &IndexKind,
    cache: &FrameCache,
    base: Option<&PackageSet>,
) -> Arc<Index> {
    let first = index(listed.base, kind, cache, base);
    if first.plain.size == 0 {
        return index(listed.news, kind, cache, None);
    }
    let pieces: Arc<[Piece]> = listed.news.chunks().iter().map(|chunk| chunk.piece(kind, cache)).collect();
    if pieces.iter().all(|piece| piece.lines == 0) {
        return first;
    }
    let (mut meters, mut strides) = (first.end.clone(), first.strides.clone());
    meters.append(pieces, &mut strides);
    Arc::new(meters.index(strides))
}

/// The Contents index of an architecture.
pub(crate) fn contents(
    set: &PackageSet,
    architecture: &Architecture,
    cache: &FrameCache,
    listing: &dyn Listing,
) -> Result<Contents, Error> {
    let forms = IndexKind::Contents(architecture.clone()).forms();
    let (mut plain, mut gz) = (Meter::default(), Meter::default());
    let mut frames = Vec::with_capacity(set.chunks().len());
    for chunk in set.chunks() {
        let text = chunk.contents(architecture, listing)?;
        plain.update(&text);
        let frame = cache.get(&text, forms);
        gz.update(&frame.gz);
        frames.push(frame);
    }
    if plain.size == 0 {
        let empty = Frame::empty(forms);
        gz.update(&empty.gz);
        frames.push(Arc::new(empty));
    }
    Ok(Contents { plain: plain.finish(), gz: gz.finish(), frames })
}

/// A set that is much like another one, and its index.
struct Before<'a> {
    set: &'a PackageSet,
    index: Arc<Index>,
}

impl Before<'_> {
    /// True if chunks that differ do not differ in this index: most packages are for one
    /// architecture.
    fn looks_like(&self, set: &PackageSet, kind: &IndexKind, cache: &FrameCache) -> bool {
        let frame = |chunk: &Arc<Chunk>| chunk.piece(kind, cache).frame;
        self.set.chunks().len() == set.chunks().len()
            && self
                .set
                .chunks()
                .iter()
                .zip(set.chunks())
                .all(|(old, new)| Arc::ptr_eq(old, new) || Arc::ptr_eq(&frame(old), &frame(new)))
    }

    /// The pieces of the stride with this number, if it has these chunks.
    fn pieces(&self, number: usize, chunks: &[Arc<Chunk>]) -> Option<Arc<[Piece]>> {
        let own = self.set.chunks().chunks(STRIDE).nth(number)?;
        let same = own.len() == chunks.len() && own.iter().zip(chunks).all(|(a, b)| Arc::ptr_eq(a, b));
        same.then(|| Arc::clone(&self.index.strides[number].pieces))
    }
}

fn render(set: &PackageSet, kind: &IndexKind, cache: &FrameCache, before: Option<&Before<'_>>) -> Index {
    let mut meters = Meters::default();
    let mut strides = Vec::with_capacity(set.chunks().len() / STRIDE + 1);
    if let Some(Before { set: old, index }) = before {
        // What comes before the stride with the first change is known.
        let known = (old.common_start(set) / STRIDE).min(index.strides.len() - 1);
        strides.extend_from_slice(&index.strides[..known]);
        meters = index.strides[known].before.clone();
    }
    for (number, chunks) in set.chunks().chunks(STRIDE).enumerate().skip(strides.len()) {
        let pieces = before.and_then(|before| before.pieces(number, chunks));
        let pieces = pieces.unwrap_or_else(|| chunks.iter().map(|chunk| chunk.piece(kind, cache)).collect());
        meters.append(pieces, &mut strides);
    }
    if meters.plain.size == 0 {
        // An empty file is no valid gzip or zstd file; an empty member is.
        let empty = Piece { frame: Arc::new(Frame::empty(kind.forms())), lines: 0, text: Arc::default() };
        meters.append(Arc::new([empty]), &mut strides);
    }
    meters.index(strides)
}

impl Meters {
    /// Counts pieces in, and puts them at the end of these strides.
    fn append(&mut self, pieces: Arc<[Piece]>, strides: &mut Vec<Arc<Stride>>) {
        let before = self.clone();
        for Piece { frame, lines, text } in &*pieces {
            let Frame { gz, zst } = &**frame;
            let (start, rest) = text.split_at(text.len().min(gz.len()));
            self.plain.update_in_turn(start, &mut self.gz, gz);
            self.plain.update_in_turn(rest, &mut self.zst, zst);
            self.lines += lines;
        }
        strides.push(Arc::new(Stride { before, pieces }));
    }

    /// The index of these strides, which were counted in.
    fn index(self, strides: Vec<Arc<Stride>>) -> Index {
        let Self { plain, gz, zst, lines: _ } = self.clone();
        Index { plain: plain.finish(), gz: gz.finish(), zst: zst.finish(), strides, end: self }
    }
}

impl Index {
    /// What its compressed forms are put together of.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.strides.iter().flat_map(|stride| stride.pieces.iter()).map(|piece| &*piece.frame)
    }

    /// How many lines come before the chunk with this number, counted from 0.
    pub(crate) fn lines_before(&self, chunk: usize) -> usize {
        let number = (chunk / STRIDE).min(self.strides.len() - 1);
        let Stride { before, pieces } = &*self.strides[number];
        let further = pieces.iter().take(chunk - number * STRIDE);
        before.lines + further.map(|piece| piece.lines).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::Edits;
    use crate::set::samples::{edits, entry};

    fn digests(index: &Index) -> [Blob; 3] {
        [index.plain, index.gz, index.zst]
    }

    /// The index of one set after another is what it is of that set alone.
    #[test]
    fn an_index_does_not_depend_on_what_was_known() {
        let name = |number: u32| format!("package-{:04}", number % 2000);
        let of = |numbers: std::ops::Range<u32>, architecture: &str, version: &str| {
            edits(numbers.map(|number| entry(&name(number), architecture, version)))
        };
        let without = |mut edits: Edits| {
            edits.values_mut().for_each(|edit| *edit = None);
            edits
        };
        let changes = [
            of(0..1500, "amd64", "1"),
            of(0..1400, "arm64", "1"),
            of(700..701, "amd64", "2"),
            of(701..702, "arm64", "2"),
            of(3..4, "all", "2"),
            of(1500..2000, "amd64", "1"),
            of(1999..2000, "amd64", "2"),
            without(of(900..1100, "amd64", "1")),
            of(950..960, "amd64", "3"),
            without(of(0..100, "arm64", "1")),
            without(of(0..2000, "amd64", "1")),
            of(20..21, "arm64", "5"),
        ];
        let cache = FrameCache::default();
        let (mut set, mut all) = (PackageSet::default(), Edits::new());
        for (step, change) in changes.into_iter().enumerate() {
            let next = set.with(&change);
            all.extend(change);
            let alone = PackageSet::default().with(&all);
            assert_eq!(next.digest(), alone.digest(), "after change {step}");
            for architecture in ["amd64", "arm64", "armhf"] {
                let kind = IndexKind::Packages(architecture.parse().unwrap());
                let found = index(&next, &kind, &cache, Some(&set));
                let expected = index(&alone, &kind, &FrameCache::default(), None);
                assert_eq!(digests(&found), digests(&expected), "{kind} after change {step}");
                let gz: Vec<u8> = found.frames().flat_map(|frame| frame.gz.iter().copied()).collect();
                assert_eq!(Blob::of(&gz), found.gz, "{kind} after change {step}");
                let lines: usize = next.chunks().iter().map(|chunk| chunk.lines(&kind)).sum();
                assert_eq!(found.lines_before(next.chunks().len()), lines, "{kind} after change {step}");
            }
            set = next;
        }
        assert!(set.chunks().len() > 2 * STRIDE);
    }

    #[test]
    fn hashing_in_turn_gives_the_same_hashes() {
        let bytes: Vec<u8> = (0..1000_u32).map(|number| (number % 251) as u8).collect();
        for a in [0, 1, 63, 64, 65, 127, 128, 400] {
            for b in [0, 1, 63, 64, 65, 127, 128, 400] {
                let mut meters = [Meter::default(), Meter::default()];
                let [one, other] = &mut meters;
                // Again, so that both begin within a block.
                for start in [0, 100, 7] {
                    one.update_in_turn(&bytes[start..start + a], other, &bytes[start + 1..start + 1 + b]);
                }
                let expected = [(a, 0), (b, 1)].map(|(length, shift)| {
                    let parts = [0, 100, 7].map(|start| &bytes[start + shift..start + shift + length]);
                    Blob::of(&parts.concat())
                });
                assert_eq!(meters.map(Meter::finish), expected, "{a} and {b} bytes");
            }
        }
    }
}
