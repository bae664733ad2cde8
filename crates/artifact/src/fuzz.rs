//! What a fuzzer calls with bytes of its own: nothing may panic, and memory stays within the limits.

use std::io::Read;

use crate::codec::Decoder;
use crate::header::Header;
use crate::manifest::Manifest;
use crate::wire::{AugmentHeaderInfo, HeaderInfo};
use crate::{Augment, Compression, Limits, Policy, PublicKey, Reader, Signatures};

/// A few kilobytes can unpack to gigabytes, which a device would write to its slot; here it is time only.
const UNPACKED_AT_MOST: usize = 4 << 20;

/// Reads any bytes as an artifact and as each of its parts: checksums stop a fuzzer at the door of the whole,
/// so that the parts behind it get the bytes directly. For `fuzz_target!`, and for `examples/fuzz.rs`.
pub fn fuzz_one(data: &[u8]) {
    for threads in [1, 2] {
        let limits =
            Limits { manifest: 1 << 16, header: 1 << 20, payloads: 4, decoder_memory: 8 << 20, threads };
        whole(data, limits);
        for kind in Compression::ALL {
            if let Ok(decoder) = Decoder::new("fuzz", kind, data, &limits) {
                drain(decoder);
            }
        }
        // Whatever these return is right; that they return is what counts.
        let _ = Header::<HeaderInfo>::parse("header.tar", data, &limits).map(|header| {
            let _ = Manifest::parse("manifest", data).map(|manifest| {
                crate::header::assemble(&header, &manifest, Compression::None, crate::Signature::Absent)
            });
        });
        let _ = Header::<AugmentHeaderInfo>::parse("header-augment.tar", data, &limits);
    }
    let _ = Manifest::parse("manifest", data);
    let _ = Manifest::parse("manifest-augment", data);
    let _ = crate::key::decode_signature(data);
    let _ = std::str::from_utf8(data).map(PublicKey::from_pem);
}

fn whole(data: &[u8], limits: Limits) {
    let policy = Policy { signatures: Signatures::Ignore, augment: Augment::Accept, limits };
    let Ok(mut reader) = Reader::open(data, &policy) else {
        return;
    };
    while let Ok(Some(file)) = reader.next_file() {
        if !drain(file) {
            return;
        }
    }
}

/// Reads to the end or an error; false if the budget ended first.
fn drain(mut input: impl Read) -> bool {
    let mut budget = UNPACKED_AT_MOST;
    let mut buffer = [0; 16 * 1024];
    while budget > 0 {
        match input.read(&mut buffer) {
            Ok(0) | Err(_) => return true,
            Ok(count) => budget -= count.min(budget),
        }
    }
    false
}
