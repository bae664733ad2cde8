//! How much an artifact may ask of the machine that reads it.

/// Bounds on what a reader takes into memory. The payload itself streams and needs no bound here:
/// its declared size is known before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a manifest. One line is about 100 bytes.
    pub manifest: u64,
    /// Most bytes of a header, packed and unpacked each. State scripts are in it and stay in memory
    /// until the header's checksum is known to be right.
    pub header: u64,
    /// Most payloads. Mender's own clients take one.
    pub payloads: usize,
    /// Most memory of one decompressor, in bytes; with several threads each may use as much. Mender's
    /// `zstd_best` asks for a window of 32 MiB, its `lzma` for 65 MiB.
    pub decoder_memory: u64,
    /// Threads that unpack, where the compressed stream allows it; 1 starts none.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { manifest: 1 << 20, header: 16 << 20, payloads: 16, decoder_memory: 72 << 20, threads: 1 }
    }
}

impl Limits {
    /// The limits for a server or a workstation: as the default, and all processors unpack.
    pub fn all_cores() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, ..Self::default() }
    }
}
