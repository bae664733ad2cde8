//! Block files: the image in parts that a device fetches by range, only those that it lacks.
//!
//! A block file stands beside an artifact on any static HTTP server. It is made once for each image and serves
//! every device, whatever it runs: [`assemble`] looks for the image's 4 KiB blocks in what the device has, at
//! any place, and fetches the rest. Trust is not needed: the caller names the SHA-256 of the image, and what does
//! not come to that is an error.
//!
//! ```text
//! head    64 bytes: "VOLBLOCK", version, context, length of the image (at byte 16, as in a pair), where the lists begin, SHA-256 of the image
//! table   12 bytes for each group of 64 blocks: hash of its content, length of its data, number of its blocks
//! data    each block that is not all zeros, packed by itself, in order
//! lists   for each group: which blocks are zeros; 12 bits for each packed length; 40 bits for each hash
//! ```
//!
//! - Numbers are little-endian. All is static, so that a CDN can hold it.
//! - A block is a zstd frame without magic number whose dictionary is the 64 KiB of *the new image* before it. The
//!   device has those when it comes to the block, wherever it had them from: each block can be fetched alone and is
//!   yet hardly larger than in a stream.
//! - A group's hash is that of a window that can be rolled over what the device has, block by block, so that
//!   content which only moved is found by the table, and its list is never fetched. ext4 keeps files aligned to blocks, which
//!   is why fixed blocks do better here than chunks cut by content.
//! - The hash is XXH3: it finds, and proves nothing.
//!
//! For the few pairs of images that most of a fleet needs there is a *pair*: [`write_pair`] packs what is new against what
//! resembles it in the old image, and [`apply_pair`] puts it in place. Where the device differs from the old
//! image, its parts do not come out; [`assemble`] fetches those and finds the others there.

mod assemble;
mod fetch;
mod format;
mod fuzz;
#[cfg(feature = "write")]
mod pack;
mod pair;
#[cfg(feature = "write")]
mod pair_pack;
mod seen;

use std::io;

use volary_model::Digest;

pub use assemble::{Assembled, Progress, Ranges, ReadAt, WriteAt, assemble};
#[cfg(feature = "write")]
pub use fuzz::fuzz_seeds;
pub use fuzz::{fuzz_blocks, fuzz_pair};
#[cfg(feature = "write")]
pub use pack::{Packed, write_blocks};
pub use pair::{Applied, apply_pair};
#[cfg(feature = "write")]
pub use pair_pack::{Paired, write_pair};

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of a group.
const GROUP: usize = 64;
/// Bytes of a group.
const GROUP_BYTES: usize = GROUP * BLOCK;
/// Bytes before a block that it is packed against.
const CONTEXT: usize = 64 << 10;

/// Why a block file could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The image, or what the device has, cannot be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was read.
        what: &'static str,
        /// What its reader said.
        source: io::Error,
    },
    /// The block file or the image cannot be written.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What was written.
        what: &'static str,
        /// What its writer said.
        source: io::Error,
    },
    /// A part of the block file did not come.
    #[error("cannot fetch bytes {start} to {end} of the block file: {source}")]
    Fetch {
        /// The first byte.
        start: u64,
        /// The byte after the last.
        end: u64,
        /// What the source said.
        source: io::Error,
    },
    /// The image is not made of whole blocks, or too large.
    #[error("an image of {length} bytes has no block file: {reason}")]
    Image {
        /// Its length in bytes.
        length: u64,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// It is not a block file, or a damaged one.
    #[error("it is damaged: {reason}; fetch the whole artifact instead")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// All parts fit together, and it is not the image that was wanted.
    #[error("it makes an image with the SHA-256 {actual}, not {expected}; fetch the whole artifact instead", actual = .actual.hex(), expected = .expected.hex())]
    AnotherImage {
        /// What was wanted.
        expected: Digest,
        /// What came out.
        actual: Digest,
    },
}

fn malformed(reason: impl Into<String>) -> BlocksError {
    BlocksError::Malformed { reason: reason.into() }
}

/// What a block is found by.
fn hash(block: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(block)
}

#[cfg(feature = "write")]
fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// The multiplier of [`roll`]: odd, so that it loses nothing.
const ROLL: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of a group whose first blocks have the hash `so_far`, with one more block.
fn roll(so_far: u64, block: u64) -> u64 {
    so_far.wrapping_mul(ROLL).wrapping_add(block)
}

/// The hash of a group from the hashes of its blocks.
fn group_hash(blocks: impl IntoIterator<Item = u64>) -> u64 {
    blocks.into_iter().fold(0, roll)
}
