//! Making a pair: which blocks are new, what in the old image resembles them, and packing them against it.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use ring::digest::{Context, SHA256};
use volary_model::Digest;
use zstd::zstd_safe::{CCtx, CParameter, FrameFormat, get_error_name};

use super::format::{LARGEST, SHORT};
use super::pair::{Head, MAKES, NEW, Operation, REFERENCES, Reference, Row, push_number};
use super::seen::Seen;
use super::{BLOCK, BlocksError, ReadAt, group_hash, hash, is_zero};
use crate::header::to_digest;

/// What a pair came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paired {
    /// Bytes of the pair.
    pub size: u64,
    /// Bytes that are new, unpacked.
    pub new: u64,
}

/// Bytes that an anchor is made of.
const ANCHOR: usize = 24;
/// One in so many positions has an anchor.
const ONE_IN: u64 = 32;
/// Blocks that are referred to together: what stands around a likeness is often alike too.
const CHUNK: usize = 16;
/// The most places of one anchor that are remembered. What is everywhere tells nothing.
const PLACES: usize = 4;

/// Writes the pair that turns `old` into `new`. Memory: some 250 MiB for each GiB of `old`.
/// `level` is zstd's, 1 to 22; below 10 it overlooks much of the likeness.
///
/// # Errors
/// [`BlocksError::Image`], `Read` and `Write`.
pub fn write_pair(
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    mut output: impl Write,
    level: i32,
) -> Result<Paired, BlocksError> {
    let length = new.length();
    if length == 0 || !length.is_multiple_of(BLOCK as u64) || length > LARGEST {
        return Err(BlocksError::Image {
            length,
            reason: "it must be made of blocks of 4096 bytes, 1 TiB at most",
        });
    }
    let old_digest = digest(old)?;
    let seen = Seen::of(old)?;
    let mut likeness = Likeness::default();
    likeness.learn_old(old)?;
    let mut pack = Pack {
        new,
        old,
        seen,
        likeness,
        level,
        rows: Vec::new(),
        bodies: Vec::new(),
        new_bytes: 0,
        whole: Context::new(&SHA256),
        twice: HashMap::new(),
        before: 0,
    };
    let blocks = length / BLOCK as u64;
    let mut at = 0;
    while at < blocks {
        at = pack.segment(at, blocks)?;
    }
    let image = to_digest(pack.whole);
    let head = Head {
        old_length: old.length(),
        new_length: length,
        segments: pack.rows.len() as u64,
        old: old_digest,
        new: image,
    };
    let mut bytes = head.to_bytes();
    bytes.extend(pack.rows.iter().flat_map(|row| row.to_bytes()));
    let failed = |source| BlocksError::Write { what: "the pair", source };
    output.write_all(&bytes).map_err(failed)?;
    output.write_all(&pack.bodies).map_err(failed)?;
    output.flush().map_err(failed)?;
    Ok(Paired { size: (bytes.len() + pack.bodies.len()) as u64, new: pack.new_bytes })
}

fn read(from: &dyn ReadAt, block: u64, buffer: &mut [u8]) -> Result<(), BlocksError> {
    from.read_at(block * BLOCK as u64, buffer)
        .map_err(|source| BlocksError::Read { what: "an image", source })
}

fn digest(image: &dyn ReadAt) -> Result<Digest, BlocksError> {
    let mut whole = Context::new(&SHA256);
    let mut piece = vec![0; 256 * BLOCK];
    let mut at = 0;
    while at < image.length() {
        let size = (image.length() - at).min(piece.len() as u64) as usize;
        image
            .read_at(at, &mut piece[..size])
            .map_err(|source| BlocksError::Read { what: "an image", source })?;
        whole.update(&piece[..size]);
        at += size as u64;
    }
    Ok(to_digest(whole))
}

struct Pack<'a> {
    new: &'a dyn ReadAt,
    old: &'a dyn ReadAt,
    seen: Seen,
    likeness: Likeness,
    level: i32,
    rows: Vec<Row>,
    bodies: Vec<u8>,
    new_bytes: u64,
    whole: Context,
    /// New blocks by their hash.
    twice: HashMap<u64, u64>,
    /// The place in the old image that the block before corresponds to.
    before: u32,
}

impl Pack<'_> {
    /// Packs a segment that begins with block `first`; the block after it.
    fn segment(&mut self, first: u64, blocks: u64) -> Result<u64, BlocksError> {
        let mut operations: Vec<Operation> = Vec::new();
        let (mut fresh, mut hashes) = (Vec::new(), Vec::new());
        // Where in the old image, or in the new one, the new blocks would be expected.
        let mut expected: Vec<u32> = Vec::new();
        let mut block = vec![0; BLOCK];
        let mut other = vec![0; BLOCK];
        let mut at = first;
        while at < blocks && (at - first) < MAKES as u64 && fresh.len() < NEW * BLOCK {
            read(self.new, at, &mut block)?;
            self.whole.update(&block);
            let full = hash(&block);
            hashes.push(full);
            let mut same = |from: &dyn ReadAt, place: u64| -> Result<bool, BlocksError> {
                read(from, place, &mut other)?;
                Ok(other == block)
            };
            let found = self.seen.find(full & SHORT, [self.before.wrapping_add(1), at as u32]);
            if is_zero(&block) {
                extend(&mut operations, Operation::Zeros { blocks: 1 });
            } else if let Some(place) = found
                && same(self.old, u64::from(place))?
            {
                extend(&mut operations, Operation::Old { at: u64::from(place), blocks: 1 });
                self.before = place;
            } else if let Some(&place) = self.twice.get(&full)
                && same(self.new, place)?
            {
                extend(&mut operations, Operation::Again { at: place, blocks: 1 });
            } else {
                extend(&mut operations, Operation::New { blocks: 1 });
                fresh.extend_from_slice(&block);
                self.before = self.before.wrapping_add(1);
                expected.push(self.before);
                self.twice.insert(full, at);
            }
            at += 1;
        }
        let references = self.likeness.references(&fresh, &expected, self.old.length(), first);
        let body = self.body(&references, &operations, &fresh)?;
        self.rows.push(Row {
            hash: group_hash(hashes),
            blocks: (at - first) as u32,
            body: body.len() as u32,
        });
        self.bodies.extend_from_slice(&body);
        self.new_bytes += fresh.len() as u64;
        self.learn(first, &operations, &fresh);
        Ok(at)
    }

    fn body(
        &self,
        references: &[Reference],
        operations: &[Operation],
        fresh: &[u8],
    ) -> Result<Vec<u8>, BlocksError> {
        let mut body = Vec::new();
        push_number(&mut body, references.len() as u64);
        let mut context = Vec::new();
        for reference in references {
            push_number(&mut body, reference.at << 1 | u64::from(reference.of_new));
            push_number(&mut body, reference.blocks);
            let start = context.len();
            context.resize(start + reference.blocks as usize * BLOCK, 0);
            read(if reference.of_new { self.new } else { self.old }, reference.at, &mut context[start..])?;
        }
        push_number(&mut body, operations.len() as u64);
        for operation in operations {
            match *operation {
                Operation::Zeros { blocks } => push_number(&mut body, blocks << 2),
                Operation::Old { at, blocks } => {
                    push_number(&mut body, blocks << 2 | 1);
                    push_number(&mut body, at);
                }
                Operation::Again { at, blocks } => {
                    push_number(&mut body, blocks << 2 | 2);
                    push_number(&mut body, at);
                }
                Operation::New { blocks } => push_number(&mut body, blocks << 2 | 3),
            }
        }
        push_number(&mut body, (fresh.len() / BLOCK) as u64);
        if !fresh.is_empty() {
            let packed = packed(&context, fresh, self.level).map_err(|code| BlocksError::Write {
                what: "the pair",
                source: std::io::Error::other(get_error_name(code)),
            })?;
            body.extend_from_slice(&packed);
        }
        Ok(body)
    }

    /// What is new may resemble what comes later.
    fn learn(&mut self, first: u64, operations: &[Operation], fresh: &[u8]) {
        let mut at = first;
        let mut taken = 0;
        for operation in operations {
            match *operation {
                Operation::New { blocks } => {
                    let bytes = &fresh[taken..taken + blocks as usize * BLOCK];
                    self.likeness.learn_new(bytes, at);
                    taken += bytes.len();
                    at += blocks;
                }
                Operation::Zeros { blocks }
                | Operation::Old { blocks, .. }
                | Operation::Again { blocks, .. } => {
                    at += blocks;
                }
            }
        }
    }
}

fn packed(context: &[u8], fresh: &[u8], level: i32) -> Result<Vec<u8>, usize> {
    let mut compressor = CCtx::create();
    compressor.set_parameter(CParameter::CompressionLevel(level))?;
    compressor.set_parameter(CParameter::Format(FrameFormat::Magicless))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
    let window = usize::BITS - (context.len() + fresh.len()).leading_zeros();
    compressor.set_parameter(CParameter::WindowLog(window.clamp(17, 24)))?;
    if !context.is_empty() {
        compressor.ref_prefix(context)?;
    }
    let mut packed = vec![0; zstd::zstd_safe::compress_bound(fresh.len())];
    let size = compressor.compress2(&mut packed[..], fresh)?;
    packed.truncate(size);
    Ok(packed)
}

/// Adds a block to the last operation if it goes on.
fn extend(operations: &mut Vec<Operation>, next: Operation) {
    use Operation::{Again, New, Old, Zeros};
    match (operations.last_mut(), next) {
        (Some(Zeros { blocks }), Zeros { .. }) | (Some(New { blocks }), New { .. }) => *blocks += 1,
        (Some(Old { at, blocks }), Old { at: next, .. })
        | (Some(Again { at, blocks }), Again { at: next, .. })
            if *at + *blocks == next =>
        {
            *blocks += 1;
        }
        _ => operations.push(next),
    }
}

/// Where bytes like these stand: anchors of both images, each with its block.
#[derive(Default)]
struct Likeness {
    /// Ordered by anchor; eight bytes for each.
    old: Vec<(u32, u32)>,
    new: HashMap<u32, Vec<u32>>,
}

impl Likeness {
    fn learn_old(&mut self, old: &dyn ReadAt) -> Result<(), BlocksError> {
        let blocks = old.length() / BLOCK as u64;
        let mut piece = vec![0; 256 * BLOCK];
        let mut at = 0;
        while at < blocks {
            let size = (blocks - at).min(256) as usize * BLOCK;
            read(old, at, &mut piece[..size])?;
            if !is_zero(&piece[..size]) {
                each_anchor(&piece[..size], &mut |offset, anchor| {
                    self.old.push((anchor, (at + (offset / BLOCK) as u64) as u32));
                });
            }
            at += 256;
        }
        self.old.sort_unstable();
        self.old.dedup();
        Ok(())
    }

    fn learn_new(&mut self, bytes: &[u8], first: u64) {
        each_anchor(bytes, &mut |offset, anchor| {
            let places = self.new.entry(anchor).or_default();
            let block = (first + (offset / BLOCK) as u64) as u32;
            if places.len() < PLACES && places.last() != Some(&block) {
                places.push(block);
            }
        });
    }

    fn places(&self, anchor: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let first = self.old.partition_point(|&(other, _)| other < anchor);
        let old = self.old[first..].iter().take_while(move |&&(other, _)| other == anchor).take(PLACES);
        let new = self.new.get(&anchor).into_iter().flatten();
        old.map(|&(_, block)| (0, block)).chain(new.map(|&block| (1, block)))
    }

    /// What the new blocks are packed against: chunks that share anchors with them, the richest first, and what stands where
    /// they would be expected.
    fn references(&self, fresh: &[u8], expected: &[u32], old_length: u64, before: u64) -> Vec<Reference> {
        let chunk_of = |(of_new, block): (u32, u32)| (of_new, block / CHUNK as u32);
        let mut anchors: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        each_anchor(fresh, &mut |_, anchor| {
            for place in self.places(anchor) {
                *anchors.entry(chunk_of(place)).or_default() += 1;
            }
        });
        for &block in expected {
            *anchors.entry(chunk_of((0, block))).or_default() += 1;
        }
        let mut chunks: Vec<((u32, u32), u32)> = anchors.into_iter().collect();
        chunks.sort_by_key(|&(chunk, anchors)| (std::cmp::Reverse(anchors), chunk));
        chunks.truncate(REFERENCES / CHUNK);
        let mut chunks: Vec<(u32, u32)> = chunks.into_iter().map(|(chunk, _)| chunk).collect();
        chunks.sort_unstable();
        let mut references: Vec<Reference> = Vec::new();
        for (of_new, chunk) in chunks {
            let at = u64::from(chunk) * CHUNK as u64;
            let end = if of_new == 1 { before } else { old_length / BLOCK as u64 };
            let blocks = (CHUNK as u64).min(end.saturating_sub(at));
            let of_new = of_new == 1;
            match references.last_mut() {
                _ if blocks == 0 => {}
                Some(last) if last.of_new == of_new && last.at + last.blocks == at => last.blocks += blocks,
                _ => references.push(Reference { of_new, at, blocks }),
            }
        }
        references
    }
}

/// Calls with each position whose anchor says so itself, so that the same bytes have the same anchors wherever they are.
fn each_anchor(bytes: &[u8], each: &mut dyn FnMut(usize, u32)) {
    const BY: u64 = 0x0000_0100_0000_01B3;
    let leaving = (0..ANCHOR).fold(1u64, |power, _| power.wrapping_mul(BY));
    let mut rolling = 0u64;
    for (index, &byte) in bytes.iter().enumerate() {
        rolling = rolling.wrapping_mul(BY).wrapping_add(u64::from(byte) + 1);
        if index >= ANCHOR {
            rolling = rolling.wrapping_sub(leaving.wrapping_mul(u64::from(bytes[index - ANCHOR]) + 1));
        }
        if index + 1 >= ANCHOR {
            let anchor = (rolling ^ rolling >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            if anchor >> 32 & (ONE_IN - 1) == 0 {
                each(index + 1 - ANCHOR, anchor as u32);
            }
        }
    }
}
