//! What a fuzzer calls with bytes of its own: nothing may panic, and memory stays within the limits.

use std::io::Read;

use crate::{Augment, Limits, Policy, Reader, Signatures};

/// Reads any bytes as an artifact, as far as they can be read; with one thread and with two.
pub fn fuzz_one(data: &[u8]) {
    for threads in [1, 2] {
        let limits =
            Limits { manifest: 1 << 16, header: 1 << 20, payloads: 4, decoder_memory: 8 << 20, threads };
        let policy = Policy { signatures: Signatures::Ignore, augment: Augment::Accept, limits };
        let Ok(mut reader) = Reader::open(data, &policy) else {
            continue;
        };
        // A few kilobytes can unpack to gigabytes, which a device would write to its slot; here it is time only.
        let mut budget = 4 << 20;
        while let Ok(Some(mut file)) = reader.next_file() {
            let mut buffer = [0; 8192];
            while budget > 0 {
                match file.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => budget -= count.min(budget),
                }
            }
            if budget == 0 {
                break;
            }
        }
    }
}
