//! A compressed piece of an index file. Members of gzip and frames of zstd may simply be put one
//! after the other, so a piece that did not change is never compressed again. (apt 2.6 and 3.0
//! read both; they stop after the first stream of concatenated xz.)

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, Weak};

use sha2::{Digest as _, Sha256};

/// One piece in both forms.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) gz: Box<[u8]>,
    pub(crate) zst: Box<[u8]>,
}

/// Compresses pieces, and knows those that exist already.
#[derive(Debug, Default)]
pub(crate) struct FrameCache {
    frames: Mutex<HashMap<[u8; 32], Weak<Frame>>>,
}

/// Small gain beyond; level 9 of zlib costs half as much again for 1 %.
const GZIP_LEVEL: u32 = 7;
const ZSTD_LEVEL: i32 = 9;

impl FrameCache {
    /// The frame of this text.
    pub(crate) fn get(&self, text: &[u8]) -> Arc<Frame> {
        if text.is_empty() {
            return Arc::new(Frame { gz: Box::default(), zst: Box::default() });
        }
        let key: [u8; 32] = Sha256::digest(text).into();
        if let Some(frame) = self.lock().get(&key).and_then(Weak::upgrade) {
            return frame;
        }
        let frame = Arc::new(compress(text));
        let mut frames = self.lock();
        // Dead entries are swept when they could be half of all.
        if frames.len() >= 1024 && frames.len().is_power_of_two() {
            frames.retain(|_, frame| frame.strong_count() > 0);
        }
        frames.insert(key, Arc::downgrade(&frame));
        frame
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Weak<Frame>>> {
        self.frames.lock().expect("nobody panics with this lock")
    }
}

impl Frame {
    /// A frame with nothing in it, for an index with no package.
    pub(crate) fn empty() -> Self {
        compress(b"")
    }
}

/// Compresses a text as one member of gzip.
pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
    gz.write_all(text).expect("a Vec takes any write");
    gz.finish().expect("a Vec takes any write")
}

fn compress(text: &[u8]) -> Frame {
    let gz = gzip(text).into();
    let zst = zstd::bulk::compress(text, ZSTD_LEVEL).expect("a buffer of the right size is made").into();
    Frame { gz, zst }
}
