//! Block maps: which blocks of a disk image hold something, with a checksum for each range, so that
//! a flash writes and checks these only. Version 2.0 of the format of Debian's `bmap-tools`.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use sha2::{Digest as _, Sha256};
use volary_model::Digest;

/// The size of a block in bytes. All of ours have this one.
pub const BLOCK: u64 = 4096;

/// No bmap of a disk is longer; a hostile one is refused before it fills the memory.
const LONGEST: usize = 64 << 20;

/// Blocks that are next to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedRange {
    /// The first block and the one after the last.
    pub blocks: Range<u64>,
    /// The SHA-256 of their bytes; old writers left it out.
    pub digest: Option<Digest>,
}

/// A block map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    /// The size of the image in bytes.
    pub image_size: u64,
    /// The size of a block in bytes.
    pub block_size: u64,
    /// The ranges that hold something, in order.
    pub ranges: Vec<MappedRange>,
}

/// Text that is no block map that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no usable block map: {0}")]
pub struct BmapError(String);

impl Bmap {
    /// The map of an image of which only these bytes count. Ranges are widened to whole blocks and joined.
    ///
    /// # Errors
    /// That the image cannot be read.
    pub fn of(image: &mut (impl Read + Seek), used: &[Range<u64>]) -> io::Result<Self> {
        let image_size = image.seek(SeekFrom::End(0))?;
        let mut ranges = Vec::new();
        for blocks in joined(used, image_size) {
            let bytes = blocks.start * BLOCK..(blocks.end * BLOCK).min(image_size);
            image.seek(SeekFrom::Start(bytes.start))?;
            let mut sum = Sha256::new();
            let copied = io::copy(&mut image.take(bytes.end - bytes.start), &mut sum)?;
            if copied != bytes.end - bytes.start {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            ranges.push(MappedRange { blocks, digest: Some(Digest::from_bytes(sum.finalize().into())) });
        }
        Ok(Self { image_size, block_size: BLOCK, ranges })
    }

    /// How many bytes of the image are mapped.
    pub fn mapped(&self) -> u64 {
        self.ranges.iter().map(|range| self.bytes(range)).map(|bytes| bytes.end - bytes.start).sum()
    }

    /// The bytes of a range; the last block of an image may be short.
    pub fn bytes(&self, range: &MappedRange) -> Range<u64> {
        range.blocks.start * self.block_size..(range.blocks.end * self.block_size).min(self.image_size)
    }

    fn block_count(&self) -> u64 {
        self.image_size.div_ceil(self.block_size)
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let zeros = "0".repeat(64);
        let text = self.text_with(&zeros);
        let sum = Digest::from_bytes(Sha256::digest(&text).into());
        text.replacen(&zeros, &sum.hex(), 1)
    }

    fn text_with(&self, sum: &str) -> String {
        let mut ranges = String::new();
        for MappedRange { blocks, digest } in &self.ranges {
            let sum = digest.map(|digest| format!(" chksum=\"{}\"", digest.hex())).unwrap_or_default();
            let last = blocks.end - 1;
            let numbers =
                if blocks.start == last { last.to_string() } else { format!("{}-{last}", blocks.start) };
            ranges += &format!("        <Range{sum}> {numbers} </Range>\n");
        }
        let mapped: u64 = self.ranges.iter().map(|range| range.blocks.end - range.blocks.start).sum();
        format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {} </ImageSize>\n    \
             <BlockSize> {} </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    \
             <MappedBlocksCount> {mapped} </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    \
             <BmapFileChecksum> {sum} </BmapFileChecksum>\n    <BlockMap>\n{ranges}    </BlockMap>\n</bmap>\n",
            self.image_size,
            self.block_size,
            self.block_count(),
        )
    }

    /// Parses a block map of version 2.0 with SHA-256 and checks its own checksum.
    ///
    /// # Errors
    /// [`BmapError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, BmapError> {
        let wrong = |what: &str| BmapError(what.to_owned());
        if text.len() > LONGEST {
            return Err(wrong("it is too long"));
        }
        let elements = elements(text).map_err(BmapError)?;
        let one = |name: &str| -> Result<&Element<'_>, BmapError> {
            let mut named = elements.iter().filter(|element| element.name == name);
            match (named.next(), named.next()) {
                (Some(element), None) => Ok(element),
                (None, _) => Err(BmapError(format!("it has no {name}"))),
                (Some(_), Some(_)) => Err(BmapError(format!("it has {name} twice"))),
            }
        };
        let version = one("bmap")?.attribute("version").ok_or_else(|| wrong("it has no version"))?;
        if !version.starts_with("2.") {
            return Err(BmapError(format!(
                "its version is {version}; make a new one with `bmaptool create`"
            )));
        }
        if one("ChecksumType")?.text != "sha256" {
            return Err(wrong("its checksums are not SHA-256"));
        }
        let sum = one("BmapFileChecksum")?.text;
        let plain = text.replacen(sum, &"0".repeat(sum.len()), 1);
        if Digest::from_bytes(Sha256::digest(plain).into()).hex() != sum {
            return Err(wrong("its own checksum is wrong: the file was changed or is damaged"));
        }
        let number = |name: &str| -> Result<u64, BmapError> {
            one(name)?.text.parse().map_err(|_| BmapError(format!("{name} is no number")))
        };
        let (image_size, block_size) = (number("ImageSize")?, number("BlockSize")?);
        if !(512..=1 << 20).contains(&block_size) || !block_size.is_power_of_two() || image_size > 1 << 50 {
            return Err(wrong("its sizes make no sense"));
        }
        let mut bmap = Self { image_size, block_size, ranges: Vec::new() };
        for element in elements.iter().filter(|element| element.name == "Range") {
            let range = range(element).ok_or_else(|| BmapError(format!("{:?} is no range", element.text)))?;
            let after = bmap.ranges.last().map_or(0, |last| last.blocks.end);
            if range.blocks.start < after || range.blocks.end > bmap.block_count() {
                return Err(wrong("its ranges are not in order, or reach beyond the image"));
            }
            bmap.ranges.push(range);
        }
        let mapped: u64 = bmap.ranges.iter().map(|range| range.blocks.end - range.blocks.start).sum();
        if number("BlocksCount")? != bmap.block_count() || number("MappedBlocksCount")? != mapped {
            return Err(wrong("its counts do not agree with its ranges"));
        }
        Ok(bmap)
    }
}

fn range(element: &Element<'_>) -> Option<MappedRange> {
    let (first, last) = match element.text.split_once('-') {
        Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
        None => {
            let only: u64 = element.text.parse().ok()?;
            (only, only)
        }
    };
    let digest = match element.attribute("chksum") {
        Some(hex) => Some(Digest::from_hex(hex).ok()?),
        None => None,
    };
    (first <= last && last < u64::MAX).then(|| MappedRange { blocks: first..last + 1, digest })
}

/// An XML element with text; one with children has the text before the first of them.
struct Element<'a> {
    name: &'a str,
    attributes: &'a str,
    text: &'a str,
}

impl<'a> Element<'a> {
    fn attribute(&self, name: &str) -> Option<&'a str> {
        let (_, after) = self.attributes.split_once(&format!("{name}=\""))?;
        after.split_once('"').map(|(value, _)| value)
    }
}

/// The elements of the small part of XML that block maps are written in.
fn elements(text: &str) -> Result<Vec<Element<'_>>, String> {
    let mut elements = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let until = if rest.starts_with("<!--") { "-->" } else { ">" };
        let end = rest.find(until).ok_or("a < is never closed")? + until.len();
        let tag = &rest[1..end - 1];
        rest = &rest[end..];
        if tag.starts_with(['!', '?', '/']) {
            continue;
        }
        let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        let text = rest[..rest.find('<').unwrap_or(rest.len())].trim();
        elements.push(Element { name, attributes, text });
    }
    Ok(elements)
}

/// Byte ranges as ranges of whole blocks, in order, joined where they touch.
fn joined(used: &[Range<u64>], image_size: u64) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = used
        .iter()
        .map(|bytes| bytes.start / BLOCK..bytes.end.min(image_size).div_ceil(BLOCK))
        .filter(|blocks| !blocks.is_empty())
        .collect();
    blocks.sort_by_key(|blocks| blocks.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for next in blocks {
        match joined.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => joined.push(next),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use volary_host::Cmd;

    use super::*;

    fn image(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK as usize + 100).map(|at| (at / 512 % 251) as u8).collect()
    }

    #[test]
    fn a_map_survives_its_text() {
        let image = image(20);
        let map =
            Bmap::of(&mut Cursor::new(&image), &[0..1, 5000..9000, 8000..12_288, 81_900..82_020]).unwrap();
        let blocks: Vec<_> = map.ranges.iter().map(|range| range.blocks.clone()).collect();
        assert_eq!(blocks, [0..3, 19..21]);
        assert_eq!(map.mapped(), 4 * BLOCK + 100);
        assert_eq!(Bmap::parse(&map.to_text()).unwrap(), map);
    }

    #[test]
    fn bmaptool_copies_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(300);
        let map = Bmap::of(&mut Cursor::new(&image), &[0..4096, 100_000..200_000]).unwrap();
        let path = |name: &str| dir.path().join(name);
        volary_host::write_atomic(&path("disk.img"), &image, 0o644).unwrap();
        volary_host::write_atomic(&path("disk.bmap"), map.to_text().as_bytes(), 0o644).unwrap();
        let bmaptool = |args: &[&str]| Cmd::new("bmaptool").args(args).cwd(dir.path()).check().unwrap();
        bmaptool(&["copy", "--bmap", "disk.bmap", "disk.img", "copy.img"]);
        let copy = volary_host::read(&path("copy.img")).unwrap();
        for range in &map.ranges {
            let bytes = map.bytes(range);
            let bytes = bytes.start as usize..bytes.end as usize;
            assert_eq!(copy[bytes.clone()], image[bytes]);
        }
        assert!(copy[300_000..].iter().all(|&byte| byte == 0), "what is not mapped is not copied");

        bmaptool(&["create", "--output", "theirs.bmap", "copy.img"]);
        let theirs = Bmap::parse(&volary_host::read_to_string(&path("theirs.bmap")).unwrap()).unwrap();
        for range in &theirs.ranges {
            let bytes = theirs.bytes(range);
            let sum = Sha256::digest(&copy[bytes.start as usize..bytes.end as usize]);
            assert_eq!(range.digest, Some(Digest::from_bytes(sum.into())));
        }
    }

    #[test]
    fn what_was_changed_is_refused() {
        let text = Bmap::of(&mut Cursor::new(image(9)), &[0..5000, 5000..9000]).unwrap().to_text();
        let check = |text: &str, reason: &str| {
            let error = Bmap::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        };
        check(&text.replace("0-2", "0-1"), "its own checksum");
        check(&text.replace("bmap version=\"2.0\"", "bmap version=\"1.3\""), "its version is 1.3");
        check(&text.replace("BmapFileChecksum", "Checksum"), "it has no BmapFileChecksum");
        check("", "it has no bmap");
        check("<bmap", "never closed");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[<>!?/=\"a-zA-Z0-9 -]{0,200}") {
            let _ = Bmap::parse(&text);
        }
    }
}
