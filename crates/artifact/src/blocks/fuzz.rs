//! What a fuzzer calls with bytes of its own, as a block file and as a pair: nothing may panic, and what counts as
//! the image is the image.

use std::io::{self, Read};
use std::sync::OnceLock;

use ring::digest::{SHA256, digest};
use volary_model::Digest;

use super::{BLOCK, Ranges, ReadAt, WriteAt, apply_pair, assemble, hash};

/// Blocks of what the device has.
const OLD: usize = 96;
/// Blocks of the other slot: larger images are refused.
const SLOT: usize = 192;

/// A slot, or the file of a server.
struct Memory<'a>(std::borrow::Cow<'a, [u8]>);

impl Memory<'_> {
    fn part(&self, offset: u64, length: u64) -> io::Result<&[u8]> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        self.0.get(start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl ReadAt for Memory<'_> {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(self.part(offset, buffer.len() as u64)?);
        Ok(())
    }
}

impl WriteAt for Memory<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.part(offset, bytes.len() as u64)?;
        self.0.to_mut()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Ranges for Memory<'_> {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.part(start, length)?))
    }
}

/// A block that no other resembles, and the same each time. It packs well, so that a fuzzer's files stay short.
fn noise(number: u64) -> Vec<u8> {
    let line: Vec<u8> =
        (0..8).flat_map(|word: u64| hash(&(number << 3 | word).to_le_bytes()).to_le_bytes()).collect();
    line.repeat(BLOCK / line.len())
}

/// What the device has.
fn old() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| (0..OLD as u64).flat_map(noise).collect())
}

fn slot() -> Memory<'static> {
    Memory(vec![0; SLOT * BLOCK].into())
}

/// The digest that a file names at `at`: as if the fleet had pinned just that.
fn named(file: &[u8], at: usize) -> Option<Digest> {
    Some(Digest::from_bytes(file.get(at..at + 32)?.try_into().ok()?))
}

/// That the image in the slot has the digest.
fn is_right(slot: &Memory<'_>, file: &[u8], expected: &Digest) {
    let length = u64::from_le_bytes(file[16..24].try_into().expect("eight bytes"));
    let image = slot.part(0, length).expect("a longer one is refused");
    assert_eq!(digest(&SHA256, image).as_ref(), expected.as_bytes());
}

/// Assembles an image from any bytes as a block file.
pub fn fuzz_blocks(data: &[u8]) {
    let Some(expected) = named(data, 32) else { return };
    let mut slot = slot();
    let mut file = Memory(data.into());
    if assemble(&mut file, &Memory(old().into()), &mut slot, &expected, &mut |_| Ok(())).is_ok() {
        is_right(&slot, data, &expected);
    }
}

/// Applies any bytes as a pair.
pub fn fuzz_pair(data: &[u8]) {
    let Some(expected) = named(data, 72) else { return };
    let mut slot = slot();
    let mut file = Memory(data.into());
    let applied = apply_pair(&mut file, &Memory(old().into()), &mut slot, &expected, &mut |_| Ok(()));
    if applied.is_ok_and(|applied| applied.complete) {
        is_right(&slot, data, &expected);
    }
}

/// Good files of both kinds with their names, which a fuzzer begins with.
#[cfg(feature = "write")]
pub fn fuzz_seeds() -> Vec<(String, Vec<u8>)> {
    let block = |number: usize| old()[number * BLOCK..][..BLOCK].to_vec();
    // Blocks that the old image has elsewhere, zeros, new ones, one twice, and one that resembles an old one.
    let mut like = block(40);
    like[100..140].fill(7);
    let text = b"a text that packs well\n".repeat(200)[..BLOCK].to_vec();
    let moved: Vec<u8> = (8..72).chain([2, 1]).flat_map(block).collect();
    let mixed =
        [block(3), vec![0; BLOCK], text.clone(), noise(1000), block(90), like, text, noise(1000)].concat();
    let long = [moved.clone(), mixed.clone(), vec![0; 30 * BLOCK], mixed.clone()].concat();
    let mut seeds = Vec::new();
    for (name, image) in [("moved", moved), ("mixed", mixed), ("long", long)] {
        let mut file = io::Cursor::new(Vec::new());
        super::write_blocks(&image[..], image.len() as u64, &mut file, 19, 1).expect("it is in memory");
        seeds.push((format!("blocks/{name}"), file.into_inner()));
        let mut file = Vec::new();
        super::write_pair(&Memory(old().into()), &Memory((&image[..]).into()), &mut file, 19)
            .expect("it is in memory");
        seeds.push((format!("pair/{name}"), file));
    }
    seeds
}

#[cfg(all(test, feature = "write"))]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_an_image_that_comes_out() {
        for (name, file) in fuzz_seeds() {
            let (old, mut slot, mut ranges) = (Memory(old().into()), slot(), Memory((&file[..]).into()));
            if name.starts_with("blocks/") {
                let expected = named(&file, 32).unwrap();
                assemble(&mut ranges, &old, &mut slot, &expected, &mut |_| Ok(())).unwrap();
                fuzz_blocks(&file);
            } else {
                let expected = named(&file, 72).unwrap();
                let applied = apply_pair(&mut ranges, &old, &mut slot, &expected, &mut |_| Ok(())).unwrap();
                assert!(applied.complete, "{name}");
                fuzz_pair(&file);
            }
        }
    }
    /// A pair of one segment whose body is these numbers.
    fn pair_of(numbers: &[u64]) -> Vec<u8> {
        use super::super::pair::{Head, Row, push_number};
        let digest = Digest::from_bytes([1; 32]);
        let length = BLOCK as u64;
        let head = Head { old_length: length, new_length: length, segments: 1, old: digest, new: digest };
        let mut body = Vec::new();
        for number in numbers {
            push_number(&mut body, *number);
        }
        let row = Row { hash: 1, blocks: 1, body: body.len() as u32 };
        [head.to_bytes(), row.to_bytes().to_vec(), body].concat()
    }

    #[test]
    fn a_segment_may_name_any_place() {
        let (old, again) = (1 << 2 | 1, 1 << 2 | 2);
        for far in [1 << 52, u64::MAX >> 1] {
            fuzz_pair(&pair_of(&[0, 1, old, far, 0]));
            fuzz_pair(&pair_of(&[0, 1, again, far, 0]));
            // What all of them make together is beyond any number.
            let blocks = u64::MAX >> 1 & !3;
            let zeros = std::iter::repeat_n(blocks, 9).chain([again, 0, 0]);
            fuzz_pair(&pair_of(&[0, 10].into_iter().chain(zeros).collect::<Vec<_>>()));
        }
    }
}
