//! Measures what includes, cuts and picks cost in an archive of many small packages.
//!
//! `cargo run --release -p volary-archive --example publish_cost -- [PACKAGES [ROUNDS [DIR]]]`
//! prints the CPU seconds of this process and the wall seconds of each operation (median of the
//! rounds). Two fifths of the packages are for amd64, as many for arm64, the rest for all.

#![allow(clippy::print_stdout, reason = "a measurement is for reading")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use volary_archive::{Archive, Pick, Provenance, Settings, UploadPolicy};

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs an operation and prints what it cost.
fn measure<T>(name: &str, rounds: usize, mut operation: impl FnMut(usize) -> T) {
    let (mut cpus, mut walls) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (cpu_before, started) = (cpu(), Instant::now());
        operation(round);
        cpus.push(cpu() - cpu_before);
        walls.push(started.elapsed().as_secs_f64());
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("{name:<32} {:>9.4} CPU s {:>9.4} wall s", median(cpus), median(walls));
}

fn main() {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().map_or(10_000, |text| text.parse().expect("a number of packages"));
    let rounds: usize = args.next().map_or(9, |text| text.parse().expect("a number of rounds"));
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let dir = args.next().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let debs = dir.join("debs");
    volary_host::create_dir(&debs).expect("a folder");
    let all: Vec<PathBuf> = (0..count).map(|number| write_deb(&debs, number, 1)).collect();
    let settings = Settings::new(
        "Bench",
        "Bench",
        vec!["amd64".parse().expect("valid"), "arm64".parse().expect("valid")],
    );
    let path = dir.join("archive");
    let archive = Archive::create(&path, &settings, volary_host::now()).expect("a new archive");
    let include = |archive: &Archive, files: &[PathBuf]| {
        let included =
            archive.include(files, &Provenance::default(), &UploadPolicy::Refuse, volary_host::now());
        included.expect("good packages").added.len()
    };
    println!("{count} packages");
    measure("import all", 1, |_| include(&archive, &all));
    // Spread over the whole index, so that no place is favoured.
    let one = |round: usize| (round * 7919 + 13) % count;
    let next: Vec<PathBuf> = (0..rounds).map(|round| write_deb(&debs, one(round), 2)).collect();
    measure("include 1", rounds, |round| include(&archive, &next[round..=round]));
    measure("cut", rounds, |round| archive.cut(&release(round), volary_host::now()).expect("a new release"));
    let more: Vec<PathBuf> = (0..rounds).map(|round| write_deb(&debs, one(round), 3)).collect();
    include(&archive, &more);
    measure("pick 1", rounds, |round| {
        let pick = Pick { name: package(one(round)).parse().expect("valid"), version: None };
        archive.pick(&release(round), &[pick], false, volary_host::now()).expect("a good pick")
    });
    measure("open", rounds, |_| Archive::open(&path).expect("a good archive"));
    let again: Vec<PathBuf> = (0..rounds).map(|round| write_deb(&debs, one(round), 4)).collect();
    measure("include 1 after a restart", rounds, |round| {
        let archive = Archive::open(&path).expect("a good archive");
        include(&archive, &again[round..=round])
    });
}

fn release(round: usize) -> volary_model::ReleaseName {
    format!("v{round}").parse().expect("valid")
}

fn package(number: usize) -> String {
    // Pairs of amd64 and arm64 share a name.
    let (name, _) = kind(number);
    format!("lib{:04x}-package-{name}", (name as u32).wrapping_mul(0x9e37_79b1) >> 16)
}

/// The number of the name, and the architecture.
fn kind(number: usize) -> (usize, &'static str) {
    match number % 5 {
        0 => (number, "amd64"),
        1 => (number - 1, "arm64"),
        2 => (number, "amd64"),
        3 => (number - 1, "arm64"),
        _ => (number, "all"),
    }
}

/// Writes a .deb of a few KB as dpkg-deb would, without a process for each.
fn write_deb(dir: &Path, number: usize, version: u32) -> PathBuf {
    let (_, architecture) = kind(number);
    let name = package(number);
    let noise: String = (0..12_u64)
        .map(|part| {
            format!(
                "{:016x}",
                (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(part as u32 * 5)
            )
        })
        .collect();
    let control = format!(
        "Package: {name}\nSource: source-{}\nVersion: 1.{version}-{number}\nArchitecture: {architecture}\n\
         Maintainer: Packagers <packages@example.com>\nInstalled-Size: {}\nDepends: libc6 (>= 2.34), libgcc-s1\n\
         Section: misc\nPriority: optional\nMulti-Arch: foreign\nHomepage: https://example.com/{name}\n\
         Description: package number {number} of a benchmark\n It has a description of several lines, as packages have,\n \
         with some text that does not compress: {}.\n .\n Its files do nothing.\n",
        number / 3,
        number % 977,
        &noise[..48]
    );
    let mut bytes = b"!<arch>\n".to_vec();
    member(&mut bytes, "debian-binary", b"2.0\n");
    member(&mut bytes, "control.tar", &tar("./control", control.as_bytes()));
    member(
        &mut bytes,
        "data.tar",
        &tar(&format!("./usr/share/doc/{name}/copyright"), noise.repeat(20).as_bytes()),
    );
    let path = dir.join(format!("{name}_{version}_{architecture}.deb"));
    std::fs::File::create(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
        .expect("a file in the temporary folder");
    path
}

fn member(to: &mut Vec<u8>, name: &str, content: &[u8]) {
    to.extend(
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
    );
    to.extend(content);
    if content.len() % 2 == 1 {
        to.push(b'\n');
    }
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    bytes[148..156].fill(b' ');
    bytes[156] = b'0';
    bytes[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    bytes
}
