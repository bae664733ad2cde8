//! The readers of `.deb` files: the outer `ar`, the tar archives within, and the whole.

use std::io::Read;

use volary_debian::deb::{self, Deb};

use crate::memory::bounded;

const MAGIC: &[u8] = b"!<arch>\n";
const FORMAT: &[u8] = b"2.0\n";
const CONTROL: &[u8] = b"Package: hello\nVersion: 1.0\nArchitecture: amd64\n";
const BLOCK: usize = 512;

/// What the reader may hold beside the listing: buffers and copies of control texts.
const READER: usize = 8 << 20;

/// A whole file.
pub fn deb(data: &[u8]) {
    // A listing may hold 64 MiB of names, and a name costs its bytes in several places.
    let read = bounded(READER + (192 << 20), || deb::read(data, "fuzz.deb"));
    if let Ok(read) = read {
        is_sound(&read, data);
    }
}

/// The input is the outer archive; what is accepted must be what another reader of it sees.
pub fn ar(data: &[u8]) {
    let data = &[MAGIC, data].concat();
    let Ok(read) = bounded(READER + 64 * data.len(), || deb::read(&data[..], "fuzz.deb")) else { return };
    is_sound(&read, data);
    let members = members(data).expect("what was accepted is an ar archive");
    let names: Vec<&str> =
        members.iter().map(|member| member.name.as_str()).filter(|name| !name.starts_with('_')).collect();
    assert!(names[0].starts_with("debian-binary"), "{names:?}");
    assert!(names[1].starts_with("control.tar"), "{names:?}");
    assert!(names[2].starts_with("data.tar"), "{names:?}");
}

/// The input is a tar archive, first as the data, then as the control member. Wrong checksums in
/// headers are put right: they would stop every mutation at the door.
pub fn tar(data: &[u8]) {
    let mut archive = data.to_vec();
    fix_checksums(&mut archive);
    let control = tar_of("./control", CONTROL);
    let limit = READER + 64 * data.len();
    let package = package(&[("control.tar", &control), ("data.tar", &archive)]);
    if let Ok(read) = bounded(limit, || deb::read(&package[..], "fuzz.deb")) {
        is_sound(&read, &package);
        same_as_the_reference(&read.files, &archive);
    }
    let package = self::package(&[("control.tar", &archive), ("data.tar", &[0; 2 * BLOCK])]);
    if let Ok(read) = bounded(limit, || deb::read(&package[..], "fuzz.deb")) {
        is_sound(&read, &package);
    }
}

fn is_sound(read: &Deb, data: &[u8]) {
    assert_eq!(read.size, data.len() as u64, "it was not read to its end");
    assert!(
        volary_debian::is_package_name(&read.package) && volary_debian::is_architecture(&read.architecture)
    );
    for path in &read.files {
        assert!(!path.starts_with('/') && !path.chars().any(char::is_control), "{path:?}");
        assert!(!path.split('/').any(|part| part == ".." || part == "."), "{path:?}");
    }
    let written = read.control.to_string();
    assert_eq!(volary_debian::Paragraph::parse(&written).as_ref(), Ok(&read.control));
}

/// The crate `tar` is asked for the same listing. It has no idea of a package, so only names are
/// compared, and only of archives without the entries that the two take differently on purpose.
fn same_as_the_reference(files: &[String], archive: &[u8]) {
    let mut reference = Vec::new();
    let mut reader = tar::Archive::new(archive);
    let Ok(entries) = reader.entries() else { return };
    for entry in entries {
        let Ok(entry) = entry else { return };
        let kind = entry.header().entry_type();
        let has_content = entry.header().entry_size().is_ok_and(|size| size > 0);
        // We, as dpkg, take the size of links and folders for nothing.
        if has_content && !(kind.is_file() || kind.is_contiguous()) {
            return;
        }
        // A long name ends at its first NUL for us, as for dpkg; the crate goes on to the last one.
        let path = entry.path_bytes().split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let is_old_folder = kind.is_file() && path.ends_with(b"/");
        if kind.is_dir() || (is_old_folder && entry.header().as_bytes()[156] == 0) {
            continue;
        }
        let path = String::from_utf8_lossy(&path).into_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        reference.push(parts.join("/"));
    }
    assert_eq!(files, reference);
}

/// A member of an ar archive, and where its content stands.
struct Member {
    name: String,
    content: std::ops::Range<usize>,
}

/// Another reader of `ar`, plain and on the whole.
fn members(data: &[u8]) -> Option<Vec<Member>> {
    let mut at = MAGIC.len();
    let mut all = Vec::new();
    while at < data.len() {
        let header = std::str::from_utf8(data.get(at..at + 60)?).ok()?;
        let size: usize = header.get(48..58)?.trim_end().parse().ok()?;
        let name = header.get(..16)?.trim_end();
        let content = at + 60..(at + 60).checked_add(size)?;
        data.get(content.clone())?;
        at = content.end + size % 2;
        all.push(Member { name: name.strip_suffix('/').unwrap_or(name).to_owned(), content });
    }
    Some(all)
}

/// A `.deb` of members whose headers are right.
fn package(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (name, content) in [("debian-binary", FORMAT)].iter().chain(members) {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = vec![0; BLOCK];
    archive[..name.len()].copy_from_slice(name.as_bytes());
    archive[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    archive[156] = b'0';
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    fix_checksums(&mut archive);
    archive
}

/// Writes the right checksum into each header that a reader would come to.
fn fix_checksums(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + BLOCK) {
        if header.iter().all(|&byte| byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = std::str::from_utf8(&header[124..135]).unwrap_or("").trim_matches(['\0', ' ']);
        let size = if matches!(header[156], b'1'..=b'6') {
            0
        } else {
            usize::from_str_radix(digits, 8).unwrap_or(0)
        };
        at = at
            .saturating_add(BLOCK)
            .saturating_add(size.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX));
        if at > archive.len() {
            return;
        }
    }
}

/// Most that a mutation unpacks; seeds are far below.
const UNPACKED: u64 = 256 << 10;

/// Changes a package: every second time the content of one member, unpacked and packed again.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed.is_multiple_of(2)
        && let Some(changed) = mutate_member(&data[..size], seed / 2)
        && changed.len() <= max_size
    {
        data[..changed.len()].copy_from_slice(&changed);
        return changed.len();
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
}

fn mutate_member(data: &[u8], seed: u32) -> Option<Vec<u8>> {
    if !data.starts_with(MAGIC) {
        return None;
    }
    let members = members(data)?;
    let chosen = seed as usize % members.len().max(1);
    let mut made = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let packed = &data[member.content.clone()];
        let mut content = packed.to_vec();
        if index == chosen {
            let mut plain = unpack(&member.name, packed)?;
            let size = plain.len();
            plain.resize(size + 2 * BLOCK, 0);
            let size = libfuzzer_sys::fuzzer_mutate(&mut plain, size, size + 2 * BLOCK);
            plain.truncate(size);
            // One in eight keeps its wrong checksums.
            if !(seed >> 8).is_multiple_of(8) {
                fix_checksums(&mut plain);
            }
            content = pack(&member.name, &plain)?;
        }
        made.push((member.name.clone(), content));
    }
    let (_, rest) = made.split_first()?;
    let rest: Vec<(&str, &[u8])> = rest.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    Some(package(&rest))
}

fn unpack(name: &str, packed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let reader: Box<dyn Read> = match name.rsplit_once('.')?.1 {
        "gz" => Box::new(flate2::read::GzDecoder::new(packed)),
        "xz" => Box::new(liblzma::read::XzDecoder::new(packed)),
        "zst" => Box::new(zstd::stream::read::Decoder::new(packed).ok()?),
        _ => Box::new(packed),
    };
    reader.take(UNPACKED).read_to_end(&mut plain).ok()?;
    Some(plain)
}

fn pack(name: &str, plain: &[u8]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    match name.rsplit_once('.')?.1 {
        "gz" => {
            flate2::read::GzEncoder::new(plain, flate2::Compression::fast()).read_to_end(&mut packed).ok()?
        }
        "xz" => liblzma::read::XzEncoder::new(plain, 0).read_to_end(&mut packed).ok()?,
        "zst" => zstd::stream::read::Encoder::new(plain, 1).ok()?.read_to_end(&mut packed).ok()?,
        _ => return Some(plain.to_vec()),
    };
    Some(packed)
}
