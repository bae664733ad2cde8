//! Looks at an artifact as it streams by: its hash, and where it could be read on from after a power
//! cut. Those are the beginnings of blocks that can be unpacked on their own: our gzip members and
//! zstd frames, and any byte of what is not compressed. What Mender's own tool packs has none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use volary_artifact::Compression;
use volary_model::Digest;

use super::hash::Running;
use super::journal::Mark;

/// One block of tar.
const BLOCK: usize = 512;

/// Between two marks of a payload that is not compressed.
const PLAIN: u64 = 1 << 20;

/// Marks that are kept: those for bytes that are not on the disk yet.
const MARKS: usize = 64;

/// A reader of an artifact that is looked at.
pub struct Tap<R> {
    inner: R,
    seen: Rc<RefCell<Seen>>,
}

/// What was seen.
pub struct Seen {
    hash: Running,
    scan: Scan,
    /// The payload's member, once it began.
    member: Option<Member>,
    marks: VecDeque<(u64, u64, Running)>,
}

#[derive(Clone)]
struct Member {
    range: (u64, u64),
    front: Digest,
    kind: Compression,
}

/// What comes next.
enum Scan {
    /// A header of the outer archive, of which this was read.
    Header(Vec<u8>),
    /// So many bytes of no interest, then a header.
    Skip(u64),
    /// Inside of the payload's member.
    Blocks(Blocks),
    /// Nothing that is of interest.
    Rest,
}

struct Blocks {
    /// Bytes of the unpacked payload before the block that is looked at.
    unpacked: u64,
    part: Part,
    /// The bytes of a part that must be read together.
    read: Vec<u8>,
    wanted: usize,
}

#[derive(Clone, Copy)]
enum Part {
    Gzip,
    GzipBody { left: u64 },
    GzipEnd,
    Zstd,
    ZstdSize { checksum: bool, size_bytes: usize },
    ZstdBlock { checksum: bool, size: u64 },
    ZstdBody { checksum: bool, size: u64, left: u64, last: bool },
    Plain { left: u64 },
}

impl<R: Read> Tap<R> {
    /// Looks at an artifact from its beginning on.
    pub fn new(inner: R) -> (Self, Rc<RefCell<Seen>>) {
        Self::with(
            inner,
            Seen {
                hash: Running::default(),
                scan: Scan::Header(Vec::with_capacity(BLOCK)),
                member: None,
                marks: VecDeque::new(),
            },
        )
    }

    /// Looks at what follows a mark.
    pub fn resumed(inner: R, mark: &Mark, kind: Compression) -> (Self, Rc<RefCell<Seen>>) {
        let member = Member { range: mark.member, front: mark.front, kind };
        let blocks = Blocks::new(kind, mark.unpacked);
        Self::with(
            inner,
            Seen {
                hash: mark.hash.clone(),
                scan: blocks.map_or(Scan::Rest, Scan::Blocks),
                member: Some(member),
                marks: VecDeque::new(),
            },
        )
    }

    fn with(inner: R, seen: Seen) -> (Self, Rc<RefCell<Seen>>) {
        let seen = Rc::new(RefCell::new(seen));
        (Self { inner, seen: Rc::clone(&seen) }, seen)
    }
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seen.borrow_mut().pass(&buffer[..count]);
        Ok(count)
    }
}

impl Seen {
    /// How many bytes came, from the beginning of the artifact on.
    pub const fn length(&self) -> u64 {
        self.hash.length()
    }

    /// The hash of them.
    pub fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }

    /// The last place to go on from if the first `durable` bytes of the unpacked payload archive are on
    /// the disk. `file` is where the root file system is in it.
    pub fn mark(&mut self, durable: u64, file: (u64, u64)) -> Option<Mark> {
        let member = self.member.clone()?;
        while self.marks.len() > 1 && self.marks[1].1 <= durable {
            self.marks.pop_front();
        }
        let (at, unpacked, hash) = self.marks.front().filter(|(_, unpacked, _)| *unpacked <= durable)?;
        Some(Mark {
            at: *at,
            unpacked: *unpacked,
            hash: hash.clone(),
            member: member.range,
            file,
            front: member.front,
        })
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = self.look(bytes);
            bytes = &bytes[used..];
        }
    }

    /// Takes some of the bytes.
    fn look(&mut self, bytes: &[u8]) -> usize {
        match &mut self.scan {
            Scan::Rest => {
                self.hash.update(bytes);
                bytes.len()
            }
            Scan::Skip(left) => {
                let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= used as u64;
                if *left == 0 {
                    self.scan = Scan::Header(Vec::with_capacity(BLOCK));
                }
                self.hash.update(&bytes[..used]);
                used
            }
            Scan::Header(header) => {
                let used = (BLOCK - header.len()).min(bytes.len());
                header.extend_from_slice(&bytes[..used]);
                let whole = (header.len() == BLOCK).then(|| std::mem::take(header));
                self.hash.update(&bytes[..used]);
                if let Some(header) = whole {
                    self.header(&header);
                }
                used
            }
            Scan::Blocks(blocks) => {
                let (used, next) = blocks.look(bytes);
                self.hash.update(&bytes[..used]);
                match next {
                    Next::More => {}
                    Next::Block => self.block(),
                    Next::Lost => self.scan = Scan::Rest,
                }
                used
            }
        }
    }

    fn header(&mut self, header: &[u8]) {
        let Some((name, size)) = parse(header) else {
            self.scan = Scan::Rest;
            return;
        };
        let Some(kind) = Compression::of_member(&name, "data/0000.tar") else {
            let padded = size.div_ceil(BLOCK as u64) * BLOCK as u64;
            self.scan =
                if padded == 0 { Scan::Header(Vec::with_capacity(BLOCK)) } else { Scan::Skip(padded) };
            return;
        };
        let begin = self.hash.length();
        self.member = Some(Member { range: (begin, begin + size), front: self.digest(), kind });
        match Blocks::new(kind, 0) {
            Some(blocks) => {
                self.scan = Scan::Blocks(blocks);
                self.block();
            }
            None => self.scan = Scan::Rest,
        }
    }

    /// A block begins here, or the member is over.
    fn block(&mut self) {
        let (Scan::Blocks(blocks), Some(member)) = (&self.scan, &self.member) else { return };
        if self.hash.length() >= member.range.1 {
            self.scan = Scan::Rest;
            return;
        }
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((self.hash.length(), blocks.unpacked, self.hash.clone()));
        self.scan = Blocks::new(member.kind, blocks.unpacked).map_or(Scan::Rest, Scan::Blocks);
    }
}

/// What follows what was looked at.
enum Next {
    More,
    /// Another block.
    Block,
    /// Something that cannot be unpacked on its own.
    Lost,
}

impl Blocks {
    fn new(kind: Compression, unpacked: u64) -> Option<Self> {
        let (part, wanted) = match kind {
            Compression::Gzip => (Part::Gzip, 20),
            Compression::Zstd => (Part::Zstd, 5),
            Compression::None => (Part::Plain { left: PLAIN }, 0),
            Compression::Xz => return None,
        };
        Some(Self { unpacked, part, read: Vec::new(), wanted })
    }

    /// Passes over bytes; true once none is left.
    fn skip(left: &mut u64, bytes: &[u8]) -> (usize, bool) {
        let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
        *left -= used as u64;
        (used, *left == 0)
    }

    fn look(&mut self, bytes: &[u8]) -> (usize, Next) {
        match &mut self.part {
            Part::Plain { left } => {
                let (used, done) = Self::skip(left, bytes);
                self.unpacked += used as u64;
                return (used, if done { Next::Block } else { Next::More });
            }
            Part::GzipBody { left } => {
                let (used, done) = Self::skip(left, bytes);
                if done {
                    self.want(Part::GzipEnd, 4);
                }
                return (used, Next::More);
            }
            Part::ZstdBody { checksum, size, left, last } => {
                let (checksum, size, last) = (*checksum, *size, *last);
                let (used, done) = Self::skip(left, bytes);
                if done && last {
                    self.unpacked += size;
                    return (used, Next::Block);
                }
                if done {
                    self.want(Part::ZstdBlock { checksum, size }, 3);
                }
                return (used, Next::More);
            }
            Part::Gzip | Part::GzipEnd | Part::Zstd | Part::ZstdSize { .. } | Part::ZstdBlock { .. } => {}
        }
        let used = (self.wanted - self.read.len()).min(bytes.len());
        self.read.extend_from_slice(&bytes[..used]);
        if self.read.len() < self.wanted {
            return (used, Next::More);
        }
        let read = std::mem::take(&mut self.read);
        (used, self.understand(&read))
    }

    fn want(&mut self, part: Part, wanted: usize) {
        self.part = part;
        self.wanted = wanted;
    }

    fn understand(&mut self, read: &[u8]) -> Next {
        let le32 = |at: usize| u32::from_le_bytes([read[at], read[at + 1], read[at + 2], read[at + 3]]);
        match self.part {
            Part::Gzip => {
                // A header with one extra field, which is ours: the length of the whole member.
                let ours = read[..4] == [0x1f, 0x8b, 8, 4]
                    && read[10..16] == [8, 0, b'V', b'o', 4, 0]
                    && le32(16) as usize > 20 + 4;
                if !ours {
                    return Next::Lost;
                }
                self.part = Part::GzipBody { left: u64::from(le32(16)) - 20 - 4 };
                Next::More
            }
            Part::GzipEnd => {
                self.unpacked += u64::from(le32(0));
                Next::Block
            }
            Part::Zstd => {
                let descriptor = read[4];
                let single = descriptor & 0x20 != 0;
                let size_bytes = match descriptor >> 6 {
                    0 => usize::from(single),
                    flag => 1 << flag,
                };
                if le32(0) != 0xFD2F_B528 || size_bytes == 0 || descriptor & 3 != 0 {
                    return Next::Lost;
                }
                let checksum = descriptor & 4 != 0;
                self.want(Part::ZstdSize { checksum, size_bytes }, usize::from(!single) + size_bytes);
                Next::More
            }
            Part::ZstdSize { checksum, size_bytes } => {
                let mut field = [0; 8];
                field[..size_bytes].copy_from_slice(&read[read.len() - size_bytes..]);
                // A size of two bytes counts from 256 on.
                let size = u64::from_le_bytes(field) + if size_bytes == 2 { 256 } else { 0 };
                self.want(Part::ZstdBlock { checksum, size }, 3);
                Next::More
            }
            Part::ZstdBlock { checksum, size } => {
                let header = u32::from_le_bytes([read[0], read[1], read[2], 0]);
                let last = header & 1 == 1;
                // A block of type 1 is one byte that is repeated.
                let body = if header >> 1 & 3 == 1 { 1 } else { u64::from(header >> 3) };
                let left = body + if last && checksum { 4 } else { 0 };
                self.part = Part::ZstdBody { checksum, size, left, last };
                if left > 0 {
                    return Next::More;
                }
                if last {
                    self.unpacked += size;
                    return Next::Block;
                }
                self.want(Part::ZstdBlock { checksum, size }, 3);
                Next::More
            }
            Part::Plain { .. } | Part::GzipBody { .. } | Part::ZstdBody { .. } => Next::More,
        }
    }
}

/// Name and size of a member of the outer archive; `None` at its end, or if it is strange.
fn parse(header: &[u8]) -> Option<(String, u64)> {
    let header = tar::Header::from_byte_slice(header);
    let name = header.path_bytes();
    let name = std::str::from_utf8(&name).ok().filter(|name| !name.is_empty())?.to_owned();
    Some((name, header.entry_size().ok()?))
}
