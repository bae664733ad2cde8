//! What each fuzzer holds against an input beside "it returns": memory within a bound that
//! follows from the input, and laws such as that what is printed reads back as the same.
//!
//! The targets in `fuzz_targets/` only call one function here. Not here: seeds, dictionaries and
//! how it is run (`cargo xtask fuzz`).

mod memory;

#[cfg(feature = "git")]
pub mod git;
pub mod package;
pub mod text;
pub mod version;

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;

#[cfg(feature = "artifact")]
/// Reads any bytes as an artifact and as each part of one. Its own limits are those of
/// `volary_artifact::fuzz_one`: 8 MiB for a decoder, 1 MiB for a header, and buffers beside them.
pub fn artifact(data: &[u8]) {
    memory::bounded(128 << 20, || volary_artifact::fuzz_one(data));
}

#[cfg(feature = "artifact")]
/// Assembles an image from any bytes as a block file. The slot has 768 KiB, and zstd decoders their windows.
pub fn blocks(data: &[u8]) {
    memory::bounded(16 << 20, || volary_artifact::blocks::fuzz_blocks(data));
}

#[cfg(feature = "artifact")]
/// Makes an image from any bytes as a pair. A segment has 6 MiB of references and 1 MiB of new blocks.
pub fn pair(data: &[u8]) {
    memory::bounded(24 << 20, || volary_artifact::blocks::fuzz_pair(data));
}
