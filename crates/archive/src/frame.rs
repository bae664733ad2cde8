//! A compressed piece of an index file. Members of gzip and frames of zstd may simply be put one
//! after the other, so a piece that did not change is never compressed again. (apt 2.6 and 3.0
//! read both; they stop after the first stream of concatenated xz.)

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use sha2::{Digest as _, Sha256};

/// One piece in the forms in which its index is served.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) gz: Box<[u8]>,
    /// Empty if the index is served as gzip only.
    pub(crate) zst: Box<[u8]>,
}

/// In which forms an index is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Forms {
    /// As gzip, which every apt reads.
    Gzip,
    /// Also as zstd, which costs a device a fifth of the time to unpack.
    GzipAndZstd,
}

/// Frames by their forms and the SHA-256 of their text.
type Frames = HashMap<(Forms, [u8; 32]), Weak<Frame>>;

/// Compresses pieces, and knows those that exist already.
#[derive(Debug, Default)]
pub(crate) struct FrameCache {
    frames: Mutex<Frames>,
}

/// Small gain beyond; level 9 of zlib costs half as much again for 1 %.
const GZIP_LEVEL: u32 = 7;
const ZSTD_LEVEL: i32 = 9;

impl FrameCache {
    /// The frame of this text.
    pub(crate) fn get(&self, text: &[u8], forms: Forms) -> Arc<Frame> {
        if text.is_empty() {
            static NOTHING: LazyLock<Arc<Frame>> =
                LazyLock::new(|| Arc::new(Frame { gz: Box::default(), zst: Box::default() }));
            return Arc::clone(&NOTHING);
        }
        let key = (forms, Sha256::digest(text).into());
        if let Some(frame) = self.lock().get(&key).and_then(Weak::upgrade) {
            return frame;
        }
        let frame = Arc::new(compress(text, forms));
        let mut frames = self.lock();
        // Dead entries are swept when they could be half of all.
        if frames.len() >= 1024 && frames.len().is_power_of_two() {
            frames.retain(|_, frame| frame.strong_count() > 0);
        }
        frames.insert(key, Arc::downgrade(&frame));
        frame
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Frames> {
        self.frames.lock().expect("nobody panics with this lock")
    }
}

impl Frame {
    /// A frame with nothing in it, for an index with no package.
    pub(crate) fn empty(forms: Forms) -> Self {
        compress(b"", forms)
    }
}

/// Compresses a text as one member of gzip.
pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
    gz.write_all(text).expect("a Vec takes any write");
    gz.finish().expect("a Vec takes any write")
}

fn compress(text: &[u8], forms: Forms) -> Frame {
    let zst = match forms {
        Forms::Gzip => Vec::new(),
        Forms::GzipAndZstd => {
            zstd::bulk::compress(text, ZSTD_LEVEL).expect("a buffer of the right size is made")
        }
    };
    Frame { gz: gzip(text).into(), zst: zst.into() }
}
