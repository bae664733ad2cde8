//! What a set of packages looks like to apt: the digests and sizes of its index files, and their
//! content. Not here: writing them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use volary_model::{Architecture, Digest};

use crate::frame::{Frame, FrameCache};
use crate::set::PackageSet;

/// A set as it is published.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// The name of the set itself.
    pub(crate) digest: Digest,
    pub(crate) indexes: BTreeMap<Architecture, Index>,
}

/// The Packages index of one architecture.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) plain: Blob,
    pub(crate) gz: Blob,
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

/// The digest of a set: SHA-256 over one line `name architecture version sha256` (the last in
/// hexadecimal digits) for each package, each ended by a newline, in the order of name and
/// architecture as bytes. Anybody can work it out from the Packages indexes.
pub(crate) fn set_digest(set: &PackageSet) -> Digest {
    let mut meter = Meter::default();
    let mut line = String::with_capacity(256);
    for entry in set.iter() {
        line.clear();
        for part in [entry.name.as_str(), entry.architecture.as_str(), entry.version.as_str()] {
            line.push_str(part);
            line.push(' ');
        }
        line.push_str(&entry.sha256.hex());
        line.push('\n');
        meter.update(line.as_bytes());
    }
    meter.finish().sha256
}

/// Works out the index files of a set. `base` is a similar set that was rendered before; what
/// both begin with is not hashed again.
pub(crate) fn render(
    set: &PackageSet,
    architectures: &[Architecture],
    cache: &FrameCache,
    base: Option<&PackageSet>,
) -> Rendered {
    let base = base.and_then(|base| Some((base, base.rendered().get()?)));
    let same = base.map_or(0, |(base, _)| common_chunks(base, set));
    let indexes = architectures.iter().map(|architecture| {
        let before = base.and_then(|(_, rendered)| rendered.indexes.get(architecture));
        (architecture.clone(), render_index(set, architecture, cache, before.map(|index| (index, same))))
    });
    Rendered { digest: set_digest(set), indexes: indexes.collect() }
}

/// With how many equal chunks two sets begin.
fn common_chunks(a: &PackageSet, b: &PackageSet) -> usize {
    a.chunks().iter().zip(b.chunks()).take_while(|(a, b)| Arc::ptr_eq(a, b)).count()
}

fn render_index(
    set: &PackageSet,
    architecture: &Architecture,
    cache: &FrameCache,
    before: Option<(&Index, usize)>,
) -> Index {
    let chunks = set.chunks();
    let mut meters = Meters::default();
    let mut frames = Vec::with_capacity(chunks.len());
    let mut checkpoints = Vec::with_capacity(chunks.len() / STRIDE + 1);
    if let Some((index, same)) = before {
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
        chunk.text(architecture, &mut |part| meters.plain.update(part));
        let frame = chunk.frame(architecture, cache);
        meters.gz.update(&frame.gz);
        meters.zst.update(&frame.zst);
        frames.push(frame);
    }
    if meters.plain.size == 0 {
        // An empty file is no valid gzip or zstd file; an empty member is.
        let empty = Arc::new(Frame::empty());
        meters.gz.update(&empty.gz);
        meters.zst.update(&empty.zst);
        frames.push(empty);
    }
    let Meters { plain, gz, zst } = meters;
    Index { plain: plain.finish(), gz: gz.finish(), zst: zst.finish(), frames, checkpoints }
}
