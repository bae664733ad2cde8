//! SHA-256 whose state can be kept on disk: a hash of an artifact goes on after a power cut.

use serde::{Deserialize, Serialize};
use sha2::digest::generic_array::GenericArray;
use volary_model::Digest;

const BLOCK: usize = 64;

/// A hash that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    state: [u32; 8],
    /// Bytes so far.
    length: u64,
    /// Those that do not fill a block yet.
    rest: Vec<u8>,
}

impl Default for Running {
    fn default() -> Self {
        // FIPS 180-4, section 5.3.3.
        let state = [
            0x6a09_e667,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ];
        Self { state, length: 0, rest: Vec::with_capacity(BLOCK) }
    }
}

impl Running {
    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if !self.rest.is_empty() {
            let wanted = (BLOCK - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.rest.len() < BLOCK {
                return;
            }
            compress(&mut self.state, &std::mem::take(&mut self.rest));
        }
        let whole = bytes.len() - bytes.len() % BLOCK;
        compress(&mut self.state, &bytes[..whole]);
        self.rest.extend_from_slice(&bytes[whole..]);
    }

    /// Bytes so far.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The hash of what was added.
    pub fn finish(mut self) -> Digest {
        let bits = self.length.wrapping_mul(8);
        let mut end = std::mem::take(&mut self.rest);
        end.push(0x80);
        while end.len() % BLOCK != BLOCK - 8 {
            end.push(0);
        }
        end.extend(bits.to_be_bytes());
        compress(&mut self.state, &end);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Digest::from_bytes(digest)
    }
}

fn compress(state: &mut [u32; 8], bytes: &[u8]) {
    for blocks in bytes.chunks_exact(BLOCK) {
        sha2::compress256(state, std::slice::from_ref(GenericArray::from_slice(blocks)));
    }
}

/// The hash of these bytes.
pub fn of(bytes: &[u8]) -> Digest {
    let mut running = Running::default();
    running.update(bytes);
    running.finish()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn it_is_sha_256_wherever_it_was_cut() {
        let bytes: Vec<u8> = (0..1000u32).map(|number| (number * 7 % 251) as u8).collect();
        for length in (0..200).chain([511, 512, 513, 1000]) {
            let expected = Digest::from_bytes(Sha256::digest(&bytes[..length]).into());
            assert_eq!(of(&bytes[..length]), expected, "{length}");
            for cut in [0, 1, 55, 63, 64, 65, 128] {
                let cut = cut.min(length);
                let mut first = Running::default();
                first.update(&bytes[..cut]);
                let kept = serde_json::to_vec(&first).unwrap();
                let mut second: Running = serde_json::from_slice(&kept).unwrap();
                second.update(&bytes[cut..length]);
                assert_eq!(second.length(), length as u64);
                assert_eq!(second.finish(), expected, "{length} cut at {cut}");
            }
        }
    }
}
