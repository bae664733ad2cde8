//! Small packages by the thousand, for measurements and campaigns: real `.deb` files, made here
//! without a process for each. Package number N looks the same on every machine and in every run.
//!
//! Of five files two are for amd64, two the same packages for arm64, and one is for all
//! architectures; a file has some 6 KB. What a package depends on is in the set too, so each can be
//! installed. Not here: packages that do anything.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use volary_host::{FileError, create_dir, write_atomic};

use crate::LabError;

/// The time that all files carry: reproducible, and later than what any tool finds implausible.
const EPOCH: u64 = 1_700_000_000;

const WORDS: [&str; 32] = [
    "agent", "audio", "battery", "bridge", "bus", "camera", "charger", "clock", "codec", "config", "daemon",
    "display", "driver", "energy", "fan", "fleet", "gate", "gpio", "health", "image", "kernel", "loader",
    "mesh", "modem", "motor", "panel", "probe", "radio", "sensor", "stream", "update", "valve",
];
const SECTIONS: [&str; 6] = ["admin", "libs", "net", "utils", "embedded", "misc"];

/// One package file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deb {
    /// The number of its name.
    pub number: u64,
    /// Its architecture, or `all`.
    pub architecture: &'static str,
    /// 0 for the first version; higher ones are newer.
    pub round: u64,
}

/// The files of a set with `count` of them.
pub fn set(count: usize) -> impl Iterator<Item = Deb> {
    let files = (0..).flat_map(|number| {
        // Of three names two exist for both architectures.
        let architectures: &[&str] = if number % 3 == 2 { &["all"] } else { &["amd64", "arm64"] };
        architectures.iter().map(move |architecture| Deb { number, architecture, round: 0 })
    });
    files.take(count)
}

/// Newer versions of packages for amd64 of a set, from all over the alphabet.
pub fn newer(count: usize, round: u64) -> impl Iterator<Item = Deb> {
    let names = count as u64 * 3 / 5;
    // A prime step that is no divisor of any round number visits every name.
    let numbers = (0..names).map(move |step| (step * 7919 + 13) % names.max(1));
    numbers.filter(|number| number % 3 != 2).map(move |number| Deb { number, architecture: "amd64", round })
}

/// Makes a set in a folder, or finds it there whole from an earlier run.
///
/// # Errors
/// That the folder cannot be written.
pub fn write_set(dir: &Path, count: usize) -> Result<Vec<PathBuf>, LabError> {
    let whole = dir.join(".whole");
    let is_whole = whole.exists();
    create_dir(dir)?;
    let mut paths = Vec::with_capacity(count);
    for deb in set(count) {
        paths.push(if is_whole { dir.join(deb.file_name()) } else { deb.write_unflushed(dir)? });
    }
    // Last: its presence says that all is there.
    write_atomic(&whole, b"", 0o644)?;
    Ok(paths)
}

impl Deb {
    /// The name of the package.
    pub fn name(&self) -> String {
        let mut random = Random::new(self.number, 1);
        let prefix = ["", "", "lib", "python3-", "acme-"][random.below(5)];
        format!("{prefix}{}-{}{:05}", random.word(), random.word(), self.number)
    }

    /// Its version.
    pub fn version(&self) -> String {
        let mut random = Random::new(self.number, 2);
        let (major, minor) = (random.below(10), random.below(30));
        format!("{major}.{minor}.{}-{}", self.round, 1 + random.below(9))
    }

    /// The usual name of its file.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name(), self.version(), self.architecture)
    }

    /// Writes it into a folder, flushed.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, LabError> {
        let path = dir.join(self.file_name());
        write_atomic(&path, &self.bytes(), 0o644)?;
        Ok(path)
    }

    /// As `write`, for thousands at once: a power cut may take it.
    fn write_unflushed(&self, dir: &Path) -> Result<PathBuf, LabError> {
        let path = dir.join(self.file_name());
        let failed = FileError::at("write", &path);
        std::fs::File::create(&path).and_then(|mut file| file.write_all(&self.bytes())).map_err(failed)?;
        Ok(path)
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let name = self.name();
        let files = self.files(&name);
        let installed: usize = files.iter().map(|(_, content)| content.len()).sum();
        let control = self.control(&name, installed / 1024 + 1);
        let mut bytes = b"!<arch>\n".to_vec();
        member(&mut bytes, "debian-binary", b"2.0\n");
        member(&mut bytes, "control.tar.xz", &archive(&[("./control".to_owned(), control.into_bytes())]));
        member(&mut bytes, "data.tar.xz", &archive(&files));
        bytes
    }

    fn files(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let architecture = self.architecture.bytes().map(u64::from).sum::<u64>();
        let mut random = Random::new(self.number, 3 + architecture + (self.round << 16));
        let version = self.version();
        let changelog = format!(
            "{name} ({version}) rolling; urgency=medium\n\n  * Change {:016x}.\n\n \
             -- ACME CI <ci@acme.invalid>  Tue, 14 Nov 2023 22:13:20 +0000\n",
            random.next()
        );
        let mut files = vec![
            (format!("./usr/bin/{name}"), random.bytes(1500, 4500)),
            (format!("./usr/share/doc/{name}/changelog.Debian"), changelog.into_bytes()),
            (
                format!("./usr/share/doc/{name}/copyright"),
                b"Copyright: 2024 ACME\nLicense: Apache-2.0\n".to_vec(),
            ),
        ];
        for part in 0..1 + random.below(4) {
            let path = format!("./usr/share/{name}/{}{part}.bin", random.word());
            files.push((path, random.bytes(150, 1200)));
        }
        files
    }

    fn control(&self, name: &str, installed: usize) -> String {
        let mut random = Random::new(self.number, 4);
        let mut text = format!("Package: {name}\n");
        if random.below(10) < 3 {
            writeln!(text, "Source: {name}-src").expect("a String takes any write");
        }
        write!(
            text,
            "Version: {}\nArchitecture: {}\nMaintainer: ACME Release Team <release@acme.invalid>\n\
             Installed-Size: {installed}\n",
            self.version(),
            self.architecture
        )
        .expect("a String takes any write");
        let needed = self.depends(&mut random);
        if !needed.is_empty() {
            writeln!(text, "Depends: {}", needed.join(", ")).expect("a String takes any write");
        }
        let section = SECTIONS[random.below(SECTIONS.len())];
        write!(
            text,
            "Section: {section}\nPriority: optional\nHomepage: https://acme.invalid/{name}\n\
             Description: {} {} service for embedded devices ({name})\n",
            random.word(),
            random.word()
        )
        .expect("a String takes any write");
        for _ in 0..2 + random.below(5) {
            let line: Vec<&str> = (0..10).map(|_| random.word()).collect();
            writeln!(text, " {}.", line.join(" ")).expect("a String takes any write");
        }
        text
    }

    /// Packages with lower numbers, which are in every set that this one is in.
    fn depends(&self, random: &mut Random) -> Vec<String> {
        let count = [0, 0, 1, 1, 2, 3, 4][random.below(7)];
        let mut needed: Vec<String> = (0..count)
            .filter(|_| self.number > 0)
            .map(|_| {
                let back = 1 + random.below(usize::try_from(self.number.min(400)).unwrap_or(400)) as u64;
                let other = Deb { number: self.number - back, round: 0, ..*self };
                match random.below(2) {
                    0 => other.name(),
                    _ => format!("{} (>= {})", other.name(), other.version()),
                }
            })
            .collect();
        needed.sort();
        needed.dedup();
        needed
    }
}

/// Numbers that look random and are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn new(number: u64, purpose: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.rotate_left(40))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len())]
    }

    fn bytes(&mut self, least: usize, most: usize) -> Vec<u8> {
        let length = least + self.below(most - least);
        let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// A tar as dpkg-deb writes it, compressed with xz.
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let packed = || -> io::Result<Vec<u8>> {
        // The lowest level: these files are too small for more to pay.
        let encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        let mut tar = tar::Builder::new(encoder);
        let mut made = std::collections::BTreeSet::new();
        for (path, content) in files {
            let above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
            for folder in above.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
                if made.insert(folder.to_owned()) {
                    entry(
                        &mut tar,
                        &format!("{}/", folder.display()),
                        tar::EntryType::Directory,
                        0o755,
                        b"",
                    )?;
                }
            }
            let mode = if path.starts_with("./usr/bin/") { 0o755 } else { 0o644 };
            entry(&mut tar, path, tar::EntryType::Regular, mode, content)?;
        }
        tar.into_inner()?.finish()
    };
    packed().expect("memory takes any write")
}

fn entry(
    tar: &mut tar::Builder<impl io::Write>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    // By hand, because the crate takes a leading "./" away, which dpkg-deb writes.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    header.set_size(content.len() as u64);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_cksum();
    tar.append(&header, content)
}

fn member(to: &mut Vec<u8>, name: &str, content: &[u8]) {
    to.extend(format!("{name:<16}{EPOCH:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 100_644, content.len()).bytes());
    to.extend(content);
    if content.len() % 2 == 1 {
        to.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use volary_host::Cmd;

    use super::*;

    #[test]
    fn dpkg_reads_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write_set(dir.path(), 12).unwrap();
        assert_eq!(paths.len(), 12);
        for (path, deb) in paths.iter().zip(set(12)) {
            let fields = Cmd::new("dpkg-deb").arg("--field").arg(path).check().unwrap().text();
            for field in [
                format!("Package: {}", deb.name()),
                format!("Version: {}", deb.version()),
                format!("Architecture: {}", deb.architecture),
            ] {
                assert!(fields.lines().any(|line| line == field), "{field} is not in\n{fields}");
            }
            let listed = Cmd::new("dpkg-deb").arg("--contents").arg(path).check().unwrap().text();
            assert!(listed.contains(&format!("./usr/bin/{}", deb.name())), "{listed}");
        }
        assert_eq!(write_set(dir.path(), 12).unwrap(), paths);
    }

    #[test]
    fn newer_ones_are_newer_and_each_another() {
        let chosen: Vec<Deb> = newer(100, 3).take(30).collect();
        let mut names: Vec<u64> = chosen.iter().map(|deb| deb.number).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 30);
        for deb in chosen {
            let first = Deb { round: 0, ..deb };
            assert!(set(100).any(|known| known == first), "{deb:?} is not in the set");
            let newer = ["--compare-versions", &first.version(), "lt", &deb.version()];
            Cmd::new("dpkg").args(newer).check().unwrap();
        }
    }
}
