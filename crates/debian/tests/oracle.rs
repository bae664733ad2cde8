//! dpkg itself as the judge: version order, and packages made by dpkg-deb.

mod common;

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use common::Random;
use volary_debian::{Version, deb};
use volary_host::Cmd;

impl Random {
    fn version(&mut self) -> String {
        let mut text = ["", "", "", "0:", "1:", "2:"][self.below(6)].to_owned();
        let parts = [
            "0", "1", "9", "10", "00", "a", "z", "+", "~", "~~", ".", ".0", "rc", "git", "A", "-", "+b1",
            "007",
        ];
        write!(text, "{}", self.below(3)).unwrap();
        for _ in 0..self.below(7) {
            text.push_str(parts[self.below(parts.len())]);
        }
        text
    }
}

/// Asks dpkg for many pairs at once: one shell, so that hundreds of pairs cost a second.
fn dpkg_orders(pairs: &[(String, String)]) -> Vec<Ordering> {
    let mut script = String::new();
    for (a, b) in pairs {
        writeln!(
            script,
            "if dpkg --compare-versions '{a}' lt '{b}'; then echo lt; \
             elif dpkg --compare-versions '{a}' eq '{b}'; then echo eq; else echo gt; fi"
        )
        .unwrap();
    }
    let output = Cmd::new("sh").stdin(script).run().unwrap();
    let orders: Vec<Ordering> = output
        .text()
        .lines()
        .map(|line| match line {
            "lt" => Ordering::Less,
            "eq" => Ordering::Equal,
            _ => Ordering::Greater,
        })
        .collect();
    assert_eq!(orders.len(), pairs.len());
    orders
}

#[test]
fn version_order_is_that_of_dpkg() {
    let mut random = Random(0x5eed_0001);
    let mut pairs = Vec::new();
    while pairs.len() < 400 {
        let (a, b) = (random.version(), random.version());
        if a.parse::<Version>().is_ok() && b.parse::<Version>().is_ok() {
            pairs.push((a, b));
        }
    }
    for ((a, b), expected) in pairs.iter().zip(dpkg_orders(&pairs)) {
        assert_eq!(a.parse::<Version>().unwrap().cmp(&b.parse().unwrap()), expected, "{a} and {b}");
    }
}

fn build(dir: &Path, compression: &str) -> PathBuf {
    let tree = dir.join(format!("tree-{compression}"));
    let long = "d".repeat(120);
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/share").join(&long)).unwrap();
    let control = "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: A B <a@example.com>\n\
                   Depends: libc6 (>= 2.30)\nDescription: greets\n More about it.\n";
    volary_host::write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    volary_host::write_atomic(&tree.join("usr/share").join(&long).join("file"), &[b'x'; 70_000], 0o644)
        .unwrap();
    let deb = dir.join(format!("hello-{compression}.deb"));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", &format!("-Z{compression}"), "--build"])
        .args([&tree, &deb])
        // dpkg-deb takes no later times, so its packages have the same bytes whenever this runs.
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .run()
        .unwrap();
    deb
}

#[test]
fn packages_of_every_compression_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["xz", "gzip", "zstd", "none"] {
        let path = build(dir.path(), compression);
        let bytes = volary_host::read(&path).unwrap();
        let read = deb::read(&bytes[..], "hello.deb").unwrap();
        assert_eq!((read.package.as_str(), read.version.as_str()), ("hello", "1:2.0-1"));
        assert_eq!(read.control.get("Description"), Some("greets\n More about it."));
        assert_eq!(read.size, bytes.len() as u64);
        assert_eq!(read.files, [format!("usr/share/{}/file", "d".repeat(120))]);
        let expected = Cmd::new("sha256sum").arg(&path).run().unwrap().text();
        let hex = read.sha256.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert!(expected.starts_with(&hex));
    }
}

#[test]
fn every_cut_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    for compression in ["xz", "gzip", "zstd", "none"] {
        let bytes = volary_host::read(&build(dir.path(), compression)).unwrap();
        for end in (0..bytes.len()).step_by(if bytes.len() > 10_000 { 97 } else { 7 }) {
            let error = deb::read(&bytes[..end], "cut.deb").expect_err("a part is no package").to_string();
            assert!(
                error.starts_with("cut.deb is not a usable Debian package: it"),
                "{compression} {end}: {error}"
            );
        }
    }
}

#[test]
fn random_damage_never_panics_or_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(0x5eed_0002);
    for compression in ["xz", "gzip", "zstd", "none"] {
        let bytes = volary_host::read(&build(dir.path(), compression)).unwrap();
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(damaged.len().min(4096));
                damaged[at] = random.below(256) as u8;
            }
            let _ = deb::read(&damaged[..], "damaged.deb");
        }
    }
}

#[test]
fn garbage_and_traps_are_refused() {
    let check = |bytes: &[u8], expected: &str| {
        let error = deb::read(bytes, "x.deb").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(b"", "does not begin with");
    check(b"PK\x03\x04 a zip file", "does not begin with");
    check(b"!<arch>\n", "first member must be debian-binary");
    check(&member("!<arch>\n", "debian-binary", b"3.0\n"), "format version is \"3.0\"");
    let start = member("!<arch>\n", "debian-binary", b"2.0\n");
    let start = String::from_utf8(start).unwrap();
    check(&member(&start, "data.tar", b""), "second member must be control.tar");
    check(&member(&start, "control.tar.bz2", b""), "use xz, zstd, gzip or none");
    check(&member(&start, "control.tar", &tar_entry("../../etc/passwd", b"x")), "could lead out");
    check(&member(&start, "control.tar", &tar_entry("/control", b"x")), "could lead out");
    check(&member(&start, "control.tar", &tar_entry("md5sums", b"x")), "no control file");
    check(&member(&start, "control.tar", &tar_entry("./control", &vec![b'A'; 2 << 20])), "more than");
    check(&member(&start, "control.tar", &tar_entry("./control", b"\xff\xfe")), "not UTF-8");
    let control = member(&start, "control.tar", &tar_entry("./control", b"Package: a/b\nVersion: 1\n"));
    check(&control, "third member must be data.tar");
    let bomb = bomb();
    check(&member(&start, "control.tar.xz", &bomb), "which only a trap does");
}

fn member(before: &str, name: &str, content: &[u8]) -> Vec<u8> {
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, content.len());
    let mut bytes = [before.as_bytes(), header.as_bytes(), content].concat();
    if content.len() % 2 == 1 {
        bytes.push(b'\n');
    }
    bytes
}

fn tar_entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

/// A tar archive with a file of 300 MB of zeros, in a few KB of xz.
fn bomb() -> Vec<u8> {
    let mut header = tar_entry("junk", b"")[..512].to_vec();
    header[124..135].copy_from_slice(format!("{:011o}", 300_000_000).as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let script = "{ cat; head -c 300000000 /dev/zero; } | xz -0";
    Cmd::new("sh").args(["-c", script]).stdin(header).run().unwrap().stdout
}
