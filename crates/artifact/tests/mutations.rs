//! Random damage: whatever the bytes, reading ends with an error or with the same content, soon, and
//! without a panic. The longer campaign with a fuzzer calls `fuzz_one` as well.

mod common;

use std::time::{Duration, Instant};

use common::{draft, full_draft, noise, unsigned, written};
use volary_artifact::{Encoding, PayloadDraft, Source, fuzz_one, verify};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// Reading one of the small artifacts takes milliseconds; a minute is a hang.
const AT_MOST: Duration = Duration::from_secs(60);

fn samples() -> Vec<Vec<u8>> {
    let image = noise(30_000);
    let encodings = [Encoding::None, Encoding::Gzip(1), Encoding::Xz(0), Encoding::Zstd(1)];
    let mut all: Vec<Vec<u8>> =
        encodings.into_iter().map(|encoding| written(full_draft(&image), encoding, None)).collect();
    let files = vec![Source::new("a", 3, &b"abc"[..]), Source::new("b", 30_000, &image[..])];
    all.push(written(draft(vec![PayloadDraft::module("m", "r", files)]), Encoding::Gzip(1), None));
    all
}

#[test]
fn flipped_bits_are_noticed_or_harmless() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    for sample in samples() {
        let good = verify(&sample[..], &unsigned(1)).unwrap();
        for _ in 0..400 {
            let mut damaged = sample.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(damaged.len());
                damaged[at] ^= 1 << random.below(8);
            }
            let started = Instant::now();
            for threads in [1, 2] {
                if let Ok(mut info) = verify(&damaged[..], &unsigned(threads)) {
                    // What is not checked (owners and times in tar headers) may change, nothing else.
                    for (payload, known) in info.payloads.iter_mut().zip(&good.payloads) {
                        payload.compressed_size = known.compressed_size;
                    }
                    assert_eq!(info, good);
                }
            }
            fuzz_one(&damaged);
            assert!(started.elapsed() < AT_MOST);
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for sample in samples() {
        for end in (0..sample.len()).step_by(97).chain([sample.len() - 1]) {
            assert!(verify(&sample[..end], &unsigned(1 + end % 2)).is_err(), "{end} of {}", sample.len());
        }
    }
}

#[test]
fn removed_and_repeated_blocks_are_noticed() {
    let mut random = Random(0xfedc_ba98_7654_3210);
    for sample in samples() {
        let good = verify(&sample[..], &unsigned(2)).unwrap();
        for _ in 0..100 {
            let at = random.below(sample.len() / 512) * 512;
            let size = (1 + random.below(4)) * 512;
            let end = (at + size).min(sample.len() - 1024);
            if at >= end {
                continue;
            }
            let removed = [&sample[..at], &sample[end..]].concat();
            assert!(verify(&removed[..], &unsigned(1)).is_err(), "{at}..{end} removed");
            let repeated = [&sample[..end], &sample[at..]].concat();
            // One more block of the zeros at the end is no damage.
            if let Ok(info) = verify(&repeated[..], &unsigned(2)) {
                assert_eq!(info, good, "{at}..{end} repeated");
                assert!(repeated[at..].iter().all(|&byte| byte == 0));
            }
        }
    }
}
