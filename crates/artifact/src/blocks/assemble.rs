//! Making the image on a device out of what it has and what it fetches.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ring::digest::{Context, SHA256};
use volary_model::Digest;
use zstd::zstd_safe::{DCtx, DParameter, FrameFormat, get_error_name};

use super::fetch::Fetch;
use super::format::{Entry, HEAD, Head, Table, parse_list};
use super::seen::Seen;
use super::{BLOCK, BlocksError, CONTEXT, GROUP_BYTES, group_hash, hash, malformed};
use crate::header::to_digest;

/// Something with bytes at offsets: a partition, a file.
pub trait ReadAt {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Fills the buffer.
    ///
    /// # Errors
    /// Of the medium, also if it ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Where the image is made.
pub trait WriteAt: ReadAt {
    /// Writes all of it.
    ///
    /// # Errors
    /// Of the medium.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A block file somewhere else.
pub trait Ranges {
    /// Fetches `length` bytes from `start`. What comes beyond them is not read.
    ///
    /// # Errors
    /// If the source does not answer, or not with these bytes.
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>>;
}

impl ReadAt for File {
    fn length(&self) -> u64 {
        use std::io::Seek;
        // A block device has no length in its metadata.
        let mut file = self;
        file.seek(io::SeekFrom::End(0)).unwrap_or(0)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl WriteAt for File {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
}

/// How an image came together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Assembled {
    /// Bytes fetched: head, table, lists and blocks.
    pub fetched: u64,
    /// Requests made for them.
    pub requests: u32,
    /// Bytes of the image that were fetched, unpacked.
    pub new: u64,
    /// Bytes that were written to the target; the others were there already.
    pub written: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the image that are in place, from its beginning.
    pub done: u64,
    /// Bytes of the image.
    pub of: u64,
    /// Bytes fetched so far.
    pub fetched: u64,
}

/// Gaps between wanted parts that are fetched with them: a request costs as much.
const GAP: u64 = 512;

/// Makes the image in `target`: out of `old`, out of what of it is in `target` already (an assembly that was cut off goes
/// on so), and out of `blocks`. Nothing is flushed; `progress` is called after each 256 KiB and may do so.
/// Memory: 12 bytes for each block of `old`, some 20 for each block of the image that `old` has not, 1 MiB.
///
/// # Errors
/// [`BlocksError`]. The target may be called again, or be written anew from the whole artifact.
pub fn assemble(
    blocks: &mut dyn Ranges,
    old: &dyn ReadAt,
    target: &mut dyn WriteAt,
    expected: &Digest,
    progress: &mut dyn FnMut(Progress) -> io::Result<()>,
) -> Result<Assembled, BlocksError> {
    let mut fetch = Fetch::new(blocks);
    let mut head = [0; HEAD];
    head.copy_from_slice(&fetch.all(0, HEAD as u64)?);
    let head = Head::parse(&head)?;
    if head.image != *expected {
        return Err(BlocksError::AnotherImage { expected: *expected, actual: head.image });
    }
    if head.length > target.length() {
        return Err(malformed(format!("an image of {} bytes does not fit", head.length)));
    }
    let table = fetch.all(HEAD as u64, head.table() as u64)?;
    let table = Table::parse(&head, &table)?;
    let seen = Seen::of(old)?;
    let mut sources = by_windows(&head, &table, &seen);
    in_place(&head, &table, target, &mut sources)?;
    by_lists(&head, &table, &seen, &mut sources, &mut fetch)?;
    drop(seen);

    let wanted = ranges(&table, &sources);
    let mut build = Build { head, table: &table, old, buffer: vec![0; CONTEXT + GROUP_BYTES], context: 0 };
    let mut told = Assembled::default();
    let mut whole = Context::new(&SHA256);
    let mut wanted = wanted.into_iter().peekable();
    let mut held = Held(Vec::new());
    for (group, source) in sources.iter().enumerate() {
        held.0.retain(|(start, bytes)| start + bytes.len() as u64 > table.data_at(group));
        while let Some(range) = wanted.next_if(|range| range.start < table.data_end(group)) {
            held.0.push((range.start, fetch.all(range.start, range.end - range.start)?));
        }
        let size = build.make(source, group, target, &held)?;
        if build.hash(size) != table.rows[group].hash {
            // Forty bits took one block for another, or what the device has changed meanwhile.
            build.make_whole(group, &mut fetch)?;
            if build.hash(size) != table.rows[group].hash {
                return Err(malformed(format!("group {group} does not come to its hash")));
            }
        }
        told.new += source.missing() as u64 * BLOCK as u64;
        let content = &build.buffer[build.context..build.context + size];
        whole.update(content);
        let at = group as u64 * GROUP_BYTES as u64;
        told.written += put(target, at, content, *source == Source::InPlace)?;
        build.forward(size);
        let state = Progress { done: at + size as u64, of: head.length, fetched: fetch.bytes };
        progress(state).map_err(|source| BlocksError::Write { what: "the slot", source })?;
    }
    let actual = to_digest(whole);
    if actual != *expected {
        return Err(BlocksError::AnotherImage { expected: *expected, actual });
    }
    Ok(Assembled { fetched: fetch.bytes, requests: fetch.requests, ..told })
}

/// Writes what is not there already, in runs of blocks that differ; the number of bytes written.
pub(super) fn put(
    target: &mut dyn WriteAt,
    at: u64,
    content: &[u8],
    is_there: bool,
) -> Result<u64, BlocksError> {
    if is_there {
        return Ok(0);
    }
    let mut present = vec![0; content.len()];
    target.read_at(at, &mut present).map_err(|source| BlocksError::Read { what: "the slot", source })?;
    let mut written = 0;
    let differs = |block: usize| {
        let bytes = block * BLOCK..(block + 1) * BLOCK;
        content[bytes.clone()] != present[bytes]
    };
    let blocks = content.len() / BLOCK;
    let mut block = 0;
    while block < blocks {
        let first = block;
        while block < blocks && differs(block) {
            block += 1;
        }
        if block > first {
            let bytes = &content[first * BLOCK..block * BLOCK];
            target
                .write_at(at + (first * BLOCK) as u64, bytes)
                .map_err(|source| BlocksError::Write { what: "the slot", source })?;
            written += bytes.len() as u64;
        }
        block += 1;
    }
    Ok(written)
}

/// Where a group comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// Nothing but zeros.
    Zeros,
    /// What the device has, from this block on.
    Old(u32),
    /// The target has it.
    InPlace,
    /// Block by block.
    Parts(Vec<Part>),
}

/// Where a block that is not all zeros comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    place: u8,
    packed: u16,
    from: From,
    /// Where it is in the group's data.
    offset: u32,
}

/// Where one block comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// The block file.
    Fetched,
    /// This block of what the device has.
    Old(u32),
    /// This block of the image, which is before it.
    Again(u32),
}

impl Source {
    fn missing(&self) -> usize {
        match self {
            Self::Parts(parts) => parts.iter().filter(|part| part.from == From::Fetched).count(),
            Self::Zeros | Self::Old(_) | Self::InPlace => 0,
        }
    }
}

/// Groups that are zeros or stand somewhere in what the device has; the others have no parts yet.
fn by_windows(head: &Head, table: &Table, seen: &Seen) -> Vec<Source> {
    let mut sources: Vec<Source> = table
        .rows
        .iter()
        .map(|row| if row.blocks == 0 { Source::Zeros } else { Source::Parts(Vec::new()) })
        .collect();
    let full =
        |group: &usize| head.blocks_of(*group) * BLOCK == GROUP_BYTES && sources[*group] != Source::Zeros;
    let mut wanted: Vec<(u64, usize)> =
        (0..sources.len()).filter(full).map(|group| (table.rows[group].hash, group)).collect();
    wanted.sort_unstable();
    seen.windows(&mut |block, window| {
        let mut at = wanted.partition_point(|&(hash, _)| hash < window);
        while let Some(&(_, group)) = wanted.get(at).filter(|&&(hash, _)| hash == window) {
            // The same place is better than another: it is read in order.
            let same = block as usize * BLOCK == group * GROUP_BYTES;
            if same || !matches!(sources[group], Source::Old(_)) {
                sources[group] = Source::Old(block);
            }
            at += 1;
        }
    });
    sources
}

/// Groups that the target has: of an image that resembles this one, or of an assembly that was cut off.
fn in_place(
    head: &Head,
    table: &Table,
    target: &dyn WriteAt,
    sources: &mut [Source],
) -> Result<(), BlocksError> {
    let mut buffer = vec![0; GROUP_BYTES];
    for (group, source) in sources.iter_mut().enumerate() {
        if !matches!(source, Source::Parts(_)) {
            continue;
        }
        let present = &mut buffer[..head.blocks_of(group) * BLOCK];
        target
            .read_at(group as u64 * GROUP_BYTES as u64, present)
            .map_err(|source| BlocksError::Read { what: "the slot", source })?;
        if group_hash(present.chunks_exact(BLOCK).map(hash)) == table.rows[group].hash {
            *source = Source::InPlace;
        }
    }
    Ok(())
}

/// Fetches the lists of the groups that are still open, and looks for their blocks one by one.
fn by_lists(
    head: &Head,
    table: &Table,
    seen: &Seen,
    sources: &mut [Source],
    fetch: &mut Fetch<'_>,
) -> Result<(), BlocksError> {
    let open: Vec<usize> =
        (0..sources.len()).filter(|&group| matches!(sources[group], Source::Parts(_))).collect();
    let mut rest = open.as_slice();
    let mut before = 0;
    let mut fetched = HashMap::new();
    while let Some((&first, _)) = rest.split_first() {
        let start = table.list_at(first);
        let end_of = |group: usize| table.list_at(group) + table.rows[group].list();
        let mut count = 1;
        while count < rest.len() && table.list_at(rest[count]) <= end_of(rest[count - 1]) + GAP {
            count += 1;
        }
        let lists = fetch.all(start, end_of(rest[count - 1]) - start)?;
        for &group in &rest[..count] {
            let row = &table.rows[group];
            let from = (table.list_at(group) - start) as usize;
            let entries = parse_list(row, head.blocks_of(group), &lists[from..from + row.list() as usize])?;
            sources[group] = Source::Parts(parts(&entries, group, seen, &mut before, &mut fetched));
        }
        rest = &rest[count..];
    }
    Ok(())
}

fn parts(
    entries: &[Entry],
    group: usize,
    seen: &Seen,
    before: &mut u32,
    fetched: &mut HashMap<u64, u32>,
) -> Vec<Part> {
    let mut offset = 0;
    let part = |entry: &Entry| {
        let here = (group * GROUP_BYTES / BLOCK) as u32 + u32::from(entry.place);
        // What follows the block before is most often the one; then the one at the same place.
        let old = seen.find(entry.hash, [before.wrapping_add(1), here]);
        *before = old.unwrap_or_else(|| before.wrapping_add(1));
        let from = match (old, fetched.get(&entry.hash)) {
            (Some(block), _) => From::Old(block),
            (None, Some(&block)) => From::Again(block),
            (None, None) => {
                fetched.insert(entry.hash, here);
                From::Fetched
            }
        };
        let part = Part { place: entry.place, packed: entry.packed, from, offset };
        offset += u32::from(entry.packed);
        part
    };
    entries.iter().map(part).collect()
}

/// The most that is fetched at once: more is held in memory.
const AT_ONCE: u64 = 1 << 20;

/// The data of blocks that the device lacks, in order; in one range if hardly anything lies between.
fn ranges(table: &Table, sources: &[Source]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (group, source) in sources.iter().enumerate() {
        let Source::Parts(parts) = source else { continue };
        for part in parts.iter().filter(|part| part.from == From::Fetched) {
            let start = table.data_at(group) + u64::from(part.offset);
            let end = start + u64::from(part.packed);
            match ranges.last_mut() {
                Some(range) if start <= range.end + GAP && end - range.start <= AT_ONCE => range.end = end,
                _ => ranges.push(start..end),
            }
        }
    }
    ranges
}

/// What was fetched and is still needed: where it begins, and the bytes.
struct Held(Vec<(u64, Vec<u8>)>);

impl Held {
    fn get(&self, start: u64, length: u16) -> Option<&[u8]> {
        self.0.iter().find_map(|(from, bytes)| {
            let at = usize::try_from(start.checked_sub(*from)?).ok()?;
            bytes.get(at..at + usize::from(length))
        })
    }
}

/// One group at a time, with the bytes of the image before it.
struct Build<'a> {
    head: Head,
    table: &'a Table,
    old: &'a dyn ReadAt,
    /// First the context, then the group.
    buffer: Vec<u8>,
    /// Bytes of context: less than 64 KiB at the image's beginning only.
    context: usize,
}

impl Build<'_> {
    /// Puts the group behind the context; the number of its bytes.
    fn make(
        &mut self,
        source: &Source,
        group: usize,
        target: &dyn WriteAt,
        held: &Held,
    ) -> Result<usize, BlocksError> {
        let size = self.head.blocks_of(group) * BLOCK;
        let old_failed = |source| BlocksError::Read { what: "the slot that runs", source };
        let target_failed = |source| BlocksError::Read { what: "the slot", source };
        let content = &mut self.buffer[self.context..self.context + size];
        match source {
            Source::Zeros => content.fill(0),
            Source::Old(block) => {
                self.old.read_at(u64::from(*block) * BLOCK as u64, content).map_err(old_failed)?;
            }
            Source::InPlace => {
                target.read_at(group as u64 * GROUP_BYTES as u64, content).map_err(target_failed)?;
            }
            Source::Parts(parts) => {
                content.fill(0);
                for part in parts {
                    let at = self.context + usize::from(part.place) * BLOCK;
                    match part.from {
                        From::Fetched => {
                            let start = self.table.data_at(group) + u64::from(part.offset);
                            // A wrong block before it makes this one impossible: the group is then made anew.
                            if let Some(packed) = held.get(start, part.packed) {
                                let _ = unpack(&mut self.buffer, at, packed);
                            }
                        }
                        From::Old(block) => self
                            .old
                            .read_at(u64::from(block) * BLOCK as u64, &mut self.buffer[at..at + BLOCK])
                            .map_err(old_failed)?,
                        From::Again(block) => {
                            let first = group as u64 * GROUP_BYTES as u64;
                            let offset = u64::from(block) * BLOCK as u64;
                            if let Some(place) = offset.checked_sub(first) {
                                let from = self.context + place as usize;
                                self.buffer.copy_within(from..from + BLOCK, at);
                            } else {
                                target
                                    .read_at(offset, &mut self.buffer[at..at + BLOCK])
                                    .map_err(target_failed)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(size)
    }

    /// Makes the group of fetched blocks alone.
    fn make_whole(&mut self, group: usize, fetch: &mut Fetch<'_>) -> Result<(), BlocksError> {
        let row = &self.table.rows[group];
        let blocks = self.head.blocks_of(group);
        let list = fetch.all(self.table.list_at(group), row.list())?;
        let data = fetch.all(self.table.data_at(group), u64::from(row.data))?;
        self.buffer[self.context..self.context + blocks * BLOCK].fill(0);
        let mut rest = data.as_slice();
        for entry in parse_list(row, blocks, &list)? {
            let (packed, after) = rest.split_at(usize::from(entry.packed));
            unpack(&mut self.buffer, self.context + usize::from(entry.place) * BLOCK, packed)?;
            rest = after;
        }
        Ok(())
    }

    fn hash(&self, size: usize) -> u64 {
        group_hash(self.buffer[self.context..self.context + size].chunks_exact(BLOCK).map(hash))
    }

    /// The end of what was made becomes the context of what follows.
    fn forward(&mut self, size: usize) {
        let end = self.context + size;
        let context = end.min(CONTEXT);
        self.buffer.copy_within(end - context..end, 0);
        self.context = context;
    }
}

/// Unpacks a block to its place in the buffer, against the bytes before it.
fn unpack(buffer: &mut [u8], at: usize, packed: &[u8]) -> Result<(), BlocksError> {
    let (before, rest) = buffer.split_at_mut(at);
    let block = &mut rest[..BLOCK];
    if packed.len() == BLOCK {
        block.copy_from_slice(packed);
        return Ok(());
    }
    let damaged = |code: usize| malformed(format!("a block cannot be unpacked: {}", get_error_name(code)));
    let mut decoder = DCtx::create();
    decoder.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(damaged)?;
    let context = &before[before.len().saturating_sub(CONTEXT)..];
    if !context.is_empty() {
        decoder.ref_prefix(context).map_err(damaged)?;
    }
    let size = decoder.decompress(block, packed).map_err(damaged)?;
    if size == BLOCK { Ok(()) } else { Err(malformed("a block is too short when unpacked")) }
}
