//! What a set of packages looks like to apt: the digests and sizes of its index files, and their
//! content. Not here: writing them.

use std::collections::BTreeMap;
use std::sync::Arc;

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
}

/// SHA-256 and size of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Works out the index files of a set.
pub(crate) fn render(set: &PackageSet, architectures: &[Architecture], cache: &FrameCache) -> Rendered {
    let indexes = architectures
        .iter()
        .map(|architecture| (architecture.clone(), render_index(set, architecture, cache)))
        .collect();
    Rendered { digest: set_digest(set), indexes }
}

fn render_index(set: &PackageSet, architecture: &Architecture, cache: &FrameCache) -> Index {
    let mut plain = Meter::default();
    let mut gz = Meter::default();
    let mut zst = Meter::default();
    let mut frames = Vec::with_capacity(set.chunks().len());
    for chunk in set.chunks() {
        chunk.text(architecture, &mut |part| plain.update(part));
        let frame = chunk.frame(architecture, cache);
        gz.update(&frame.gz);
        zst.update(&frame.zst);
        frames.push(frame);
    }
    if plain.size == 0 {
        // An empty file is no valid gzip or zstd file; an empty member is.
        let empty = Arc::new(Frame::empty());
        gz.update(&empty.gz);
        zst.update(&empty.zst);
        frames.push(empty);
    }
    Index { plain: plain.finish(), gz: gz.finish(), zst: zst.finish(), frames }
}
