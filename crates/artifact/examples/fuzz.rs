//! Mutates good artifacts and their parts for a while and reads the result.
//!
//!     cargo run --release -p volary-artifact --example fuzz SECONDS [SEED]
//!
//! A panic ends it with the seed and the number of the input, which make it again. A coverage-guided fuzzer
//! calls the same function, `volary_artifact::fuzz_one`.

#![allow(clippy::print_stdout, reason = "printing is what a campaign is for")]

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use volary_artifact::{
    Depends, Draft, Encoding, PayloadDraft, Script, Source, WriteOptions, fuzz_one, write,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds: u64 = args.first().ok_or("usage: fuzz SECONDS [SEED]")?.parse()?;
    let seed: u64 = args.get(1).map_or(Ok(1), |seed| seed.parse())?;
    let corpus = corpus()?;
    let started = Instant::now();
    let (mut inputs, mut slowest) = (0_u64, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(seconds) {
        let mut random = Random(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (inputs + 1).wrapping_mul(0xd134_2543_de82_ef95),
        );
        let input = mutate(&corpus, &mut random);
        let begun = Instant::now();
        if std::panic::catch_unwind(|| fuzz_one(&input)).is_err() {
            return Err(format!("panic at input {inputs} of seed {seed}").into());
        }
        slowest = slowest.max(begun.elapsed());
        inputs += 1;
    }
    let status = volary_host::read_to_string(Path::new("/proc/self/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim();
    println!(
        "fuzz: seed {seed}, {inputs} inputs in {seconds} s, no panic, slowest {slowest:?}, most memory {memory}"
    );
    Ok(())
}

/// Whole artifacts of each compression and shape, and the members of one.
fn corpus() -> Result<Vec<Vec<u8>>> {
    let image: Vec<u8> = (0..6000_u32).flat_map(|n| (n * n / 7).to_le_bytes()).collect();
    let mut all = Vec::new();
    for encoding in [Encoding::None, Encoding::Gzip(1), Encoding::Xz(0), Encoding::Zstd(1)] {
        let mut output = Cursor::new(Vec::new());
        let source = Source::new("root.ext4", image.len() as u64, &image[..]);
        let mut payload = PayloadDraft::rootfs_image("r", source);
        payload.meta_data = Some(serde_json::from_str(r#"{"a":[1,"b"],"c":{"d":null}}"#)?);
        payload.depends.insert("k".into(), vec!["v".into(), "w".into()]);
        let draft = Draft {
            name: "r".into(),
            group: Some("g".into()),
            depends: Depends { device_types: vec!["board".into()], names: vec!["q".into()], groups: vec![] },
            scripts: vec![Script {
                name: "ArtifactInstall_Enter_00".into(),
                content: b"#!/bin/sh\n".to_vec(),
            }],
            payloads: vec![payload],
        };
        write(&mut output, draft, &WriteOptions { encoding, key: None, threads: 1 })?;
        let bytes = output.into_inner();
        // version, manifest and the header come in known places: 1024 bytes each for the first two.
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[2048 + 124..2048 + 135])?, 8)?;
        let data = 2048 + 512 + size.next_multiple_of(512) + 512;
        all.push(bytes[1536..1536 + 230].to_vec());
        all.push(bytes[2560..2560 + size].to_vec());
        all.push(bytes[data..bytes.len() - 1024].to_vec());
        all.push(bytes);
    }
    all.push(
        b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
            .to_vec(),
    );
    Ok(all)
}

/// Numbers that follow from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % end.max(1)
    }
}

/// Up to six changes: bits, bytes, numbers, pieces removed, repeated or taken from another input.
fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        if input.is_empty() {
            break;
        }
        let at = random.below(input.len());
        let longest = if random.below(4) == 0 { 2048 } else { 8 };
        let end = (at + 1 + random.below(longest)).min(input.len());
        match random.below(7) {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.below(256) as u8,
            2 => input[at..end].fill([0, 0xff, b'0', b'7', b'/'][random.below(5)]),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let piece = other[from..(from + end - at).min(other.len())].to_vec();
                input.splice(at..at, piece);
            }
            _ => input.truncate(at),
        }
        // Tar headers with a wrong checksum are refused at once, which would hide what is behind.
        if random.below(2) == 0 {
            fix_tar_checksums(&mut input);
        }
    }
    input
}

fn fix_tar_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
