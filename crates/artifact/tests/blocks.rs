//! Images made out of what a device has and a block file, whatever happens in between.

use std::cell::RefCell;
use std::io::{self, Cursor, Read};

use ring::digest::{SHA256, digest};
use volary_artifact::blocks::{
    Applied, Assembled, BLOCK, BlocksError, Ranges, ReadAt, WriteAt, apply_pair, assemble, write_blocks,
    write_pair,
};
use volary_artifact::fuzz_one;
use volary_model::Digest;

/// Bytes that look like a file's: words out of a small dictionary, the same for the same seed.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(format!("word{} ", state % 5000).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn sha(bytes: &[u8]) -> Digest {
    Digest::from_bytes(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

fn block_file(image: &[u8]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let packed = write_blocks(image, image.len() as u64, &mut file, 3, 2).unwrap();
    assert_eq!((packed.image, packed.size), (sha(image), file.get_ref().len() as u64));
    file.into_inner()
}

struct Memory(Vec<u8>);

impl ReadAt for Memory {
    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl WriteAt for Memory {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct Served<'a>(&'a [u8]);

impl Ranges for Served<'_> {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        let rest = self.0.get(start as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Box::new(&rest[..rest.len().min(length as usize)]))
    }
}

fn made(file: &[u8], old: &[u8], target: &mut Memory, image: &[u8]) -> Result<Assembled, BlocksError> {
    assemble(&mut Served(file), &Memory(old.to_vec()), target, &sha(image), &mut |_| Ok(()))
}

/// Makes the image in a slot full of something else, and says what it cost.
fn cost(old: &[u8], image: &[u8]) -> Assembled {
    let mut target = Memory(vec![0x55; image.len() + BLOCK]);
    let told = made(&block_file(image), old, &mut target, image).unwrap();
    assert!(target.0[..image.len()] == *image, "the image is not the one");
    told
}

const IMAGE: usize = 6 << 20;

#[test]
fn the_same_image_costs_the_table_alone() {
    let image = text(1, IMAGE);
    let told = cost(&image, &image);
    assert_eq!((told.fetched, told.requests, told.new), (64 + 24 * 12, 2, 0));
}

#[test]
fn what_only_moved_is_found_by_the_table() {
    let old = text(2, IMAGE);
    let mut image = text(3, 7 * BLOCK);
    image.extend_from_slice(&old);
    image.truncate(IMAGE);
    let told = cost(&old, &image);
    assert_eq!(told.new, 7 * BLOCK as u64);
    assert!(told.fetched < 32 << 10, "{told:?}");
}

#[test]
fn nothing_in_common_costs_the_packed_image() {
    let image = text(4, IMAGE);
    let told = cost(&text(5, IMAGE), &image);
    assert_eq!(told.new, IMAGE as u64);
    assert!(told.fetched < IMAGE as u64 / 2, "{told:?}");
}

#[test]
fn what_is_new_and_there_twice_is_fetched_once() {
    let old = text(6, IMAGE);
    let mut image = old.clone();
    let new = text(14, 10 * BLOCK);
    for at in [3, 17, 200, 900] {
        image[at * BLOCK..(at + 10) * BLOCK].copy_from_slice(&new);
    }
    assert_eq!(cost(&old, &image).new, 10 * BLOCK as u64);
}

#[test]
fn one_block_costs_one_block() {
    let old = text(6, IMAGE);
    let mut image = old.clone();
    image[1_000_000..1_000_100].fill(b'x');
    let told = cost(&old, &image);
    assert_eq!(told.new, BLOCK as u64);
    assert!(told.fetched < 4 << 10, "{told:?}");
}

#[test]
fn zeros_short_ends_and_blocks_that_do_not_pack_are_right() {
    for blocks in [1, 63, 64, 65, 130] {
        let mut image = vec![0; blocks * BLOCK];
        image[..BLOCK / 2].copy_from_slice(&text(7, BLOCK / 2));
        let mut state = 1u64;
        for byte in image.iter_mut().rev().take(BLOCK) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        cost(&[], &image);
        cost(&image[BLOCK..], &image);
        cost(&text(8, 100), &image);
    }
}

/// A slot that fails at the n-th write and keeps what was written before.
struct Failing {
    memory: Memory,
    left: usize,
}

impl ReadAt for Failing {
    fn length(&self) -> u64 {
        self.memory.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.memory.read_at(offset, buffer)
    }
}

impl WriteAt for Failing {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.left == 0 {
            // Half of it is there.
            self.memory.write_at(offset, &bytes[..bytes.len() / 2])?;
            return Err(io::Error::other("cut"));
        }
        self.left -= 1;
        self.memory.write_at(offset, bytes)
    }
}

#[test]
fn it_goes_on_after_every_cut_and_fetches_no_more_than_what_was_cut() {
    let old = text(9, IMAGE);
    let mut image = old.clone();
    for part in 0..12 {
        let at = part * (IMAGE / 12) + 5000;
        image[at..at + 40_000].copy_from_slice(&text(100 + part as u64, 40_000));
    }
    let file = block_file(&image);
    let expected = sha(&image);
    let mut empty = Memory(vec![0; IMAGE]);
    let all = made(&file, &old, &mut empty, &image).unwrap();
    for cut in 0.. {
        let mut target = Failing { memory: Memory(vec![0; IMAGE]), left: cut };
        let old = Memory(old.clone());
        match assemble(&mut Served(&file), &old, &mut target, &expected, &mut |_| Ok(())) {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, BlocksError::Write { .. }), "{error}"),
        }
        let told =
            assemble(&mut Served(&file), &old, &mut target.memory, &expected, &mut |_| Ok(())).unwrap();
        assert!(target.memory.0 == image);
        // What stands in the slot is not fetched again.
        let groups_done = cut.saturating_sub(1) as u64;
        assert!(told.fetched <= all.fetched && told.written <= all.written - groups_done * 4096, "{told:?}");
    }
}

/// A running system: it changes after it was looked at.
struct Changing {
    memory: RefCell<Vec<u8>>,
    reads: RefCell<usize>,
}

impl ReadAt for Changing {
    fn length(&self) -> u64 {
        self.memory.borrow().len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        *self.reads.borrow_mut() += 1;
        if *self.reads.borrow() == IMAGE / (1 << 20) + 1 {
            for at in (0..IMAGE).step_by(300_000) {
                self.memory.borrow_mut()[at] ^= 1;
            }
        }
        buffer.copy_from_slice(&self.memory.borrow()[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

#[test]
fn what_changes_on_the_device_meanwhile_is_fetched() {
    let old = text(10, IMAGE);
    let mut image = old.clone();
    image[2_000_000..2_100_000].fill(7);
    let file = block_file(&image);
    let changing = Changing { memory: old.into(), reads: 0.into() };
    let mut target = Memory(vec![0; IMAGE]);
    let told = assemble(&mut Served(&file), &changing, &mut target, &sha(&image), &mut |_| Ok(())).unwrap();
    assert!(target.0 == image);
    assert!(told.fetched > 1 << 20, "{told:?}");
}

#[test]
fn a_damaged_block_file_makes_the_image_or_an_error_and_never_another_image() {
    let old = text(11, 100 * BLOCK);
    let mut image = old.clone();
    image[100_000..200_000].copy_from_slice(&text(12, 100_000));
    image[350_000..].fill(0);
    let file = block_file(&image);
    for at in (0..file.len()).step_by(211).chain(0..100).chain(file.len() - 300..file.len()) {
        {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            fuzz_one(&damaged);
            let mut target = Memory(vec![0; image.len()]);
            if made(&damaged, &old, &mut target, &image).is_ok() {
                assert!(target.0 == image, "byte {at}");
            }
        }
    }
    for end in (0..file.len()).step_by(1013) {
        let mut target = Memory(vec![0; image.len()]);
        let error = made(&file[..end], &old, &mut target, &image).unwrap_err();
        assert!(matches!(error, BlocksError::Fetch { .. }), "{error}");
    }
    let mut small = Memory(vec![0; image.len() - 1]);
    let error = made(&file, &old, &mut small, &image).unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    let error = made(&file, &old, &mut Memory(vec![0; image.len()]), &old).unwrap_err();
    assert!(matches!(error, BlocksError::AnotherImage { .. }), "{error}");
}

#[test]
fn images_without_whole_blocks_are_refused() {
    for length in [0, 1, 4095, 4097] {
        let error =
            write_blocks(&*vec![1; length], length as u64, Cursor::new(Vec::new()), 3, 1).unwrap_err();
        assert!(error.to_string().contains("blocks of 4096 bytes"), "{error}");
    }
    let error = write_blocks(&[1; 4096][..], 8192, Cursor::new(Vec::new()), 3, 1).unwrap_err();
    assert!(matches!(error, BlocksError::Read { .. }), "{error}");
}

#[test]
fn the_same_image_gives_the_same_file_whatever_the_threads() {
    let image = text(13, 2 << 20);
    let file = |threads| {
        let mut file = Cursor::new(Vec::new());
        write_blocks(&*image, image.len() as u64, &mut file, 3, threads).unwrap();
        file.into_inner()
    };
    assert!(file(1) == file(3));
}

fn pair(old: &[u8], image: &[u8]) -> Vec<u8> {
    let mut pair = Vec::new();
    let paired = write_pair(&Memory(old.to_vec()), &Memory(image.to_vec()), &mut pair, 12).unwrap();
    assert_eq!(paired.size, pair.len() as u64);
    pair
}

fn applied(pair: &[u8], old: &[u8], target: &mut Memory, image: &[u8]) -> Result<Applied, BlocksError> {
    apply_pair(&mut Served(pair), &Memory(old.to_vec()), target, &sha(image), &mut |_| Ok(()))
}

/// An image and its successor: something moved, something new that resembles the old, something twice.
fn two_images() -> (Vec<u8>, Vec<u8>) {
    let mut old = text(20, IMAGE);
    old[3 << 20..(3 << 20) + 40 * BLOCK].fill(0);
    let mut image = text(21, 3 * BLOCK);
    image.extend_from_slice(&old);
    image.truncate(IMAGE);
    for at in (1 << 20..2 << 20).step_by(700) {
        image[at] ^= 0x20;
    }
    let again = text(22, 20 * BLOCK);
    for block in [1000, 1400] {
        image[block * BLOCK..(block + 20) * BLOCK].copy_from_slice(&again);
    }
    (old, image)
}

#[test]
fn a_pair_is_much_smaller_than_the_blocks() {
    let (old, image) = two_images();
    let pair = pair(&old, &image);
    let mut target = Memory(vec![0x55; IMAGE]);
    let told = applied(&pair, &old, &mut target, &image).unwrap();
    assert!(told.complete && target.0 == image, "{told:?}");
    assert_eq!(told.fetched, pair.len() as u64);
    let blocks = cost(&old, &image).fetched;
    assert!(told.fetched * 3 < blocks, "{} and {blocks}", told.fetched);
}

#[test]
fn where_the_device_differs_the_blocks_complete_the_pair() {
    let (old, image) = two_images();
    let (pair, file) = (pair(&old, &image), block_file(&image));
    let mut used = old.clone();
    for at in [5000, 1_200_000, 4_000_000] {
        used[at] ^= 1;
    }
    let mut target = Memory(vec![0; IMAGE]);
    let told = applied(&pair, &used, &mut target, &image).unwrap();
    assert!(!told.complete && told.failed > 0, "{told:?}");
    let rest = made(&file, &used, &mut target, &image).unwrap();
    assert!(target.0 == image);
    let alone = cost(&used, &image).fetched;
    assert!(rest.fetched < alone * 2 / 3, "{} and {alone}", rest.fetched);
    // Another slot, smaller or empty, breaks nothing.
    for other in [&used[..IMAGE / 2], &[]] {
        assert!(!applied(&pair, other, &mut Memory(vec![0; IMAGE]), &image).unwrap().complete);
    }
}

#[test]
fn a_pair_goes_on_after_every_cut() {
    let (old, image) = two_images();
    let pair = pair(&old, &image);
    let expected = sha(&image);
    let old = Memory(old);
    for cut in (0..).step_by(3) {
        let mut target = Failing { memory: Memory(vec![0; IMAGE]), left: cut };
        if apply_pair(&mut Served(&pair), &old, &mut target, &expected, &mut |_| Ok(())).is_ok() {
            break;
        }
        let told =
            apply_pair(&mut Served(&pair), &old, &mut target.memory, &expected, &mut |_| Ok(())).unwrap();
        assert!(told.complete && target.memory.0 == image);
    }
    // All is there: only what is hardly worth a look is fetched again.
    let mut target = Memory(image.clone());
    let told = applied(&pair, &old.0, &mut target, &image).unwrap();
    assert!(told.complete && told.written == 0 && told.fetched < pair.len() as u64 / 4, "{told:?}");
}

#[test]
fn a_damaged_pair_never_makes_another_image() {
    let (old, image) = two_images();
    let (old, image) = (&old[..1 << 20], &image[..1 << 20]);
    let pair = pair(old, image);
    for at in (0..pair.len()).step_by(101).chain(0..160) {
        let mut damaged = pair.clone();
        damaged[at] ^= 1 << (at % 8);
        let mut target = Memory(vec![0; image.len()]);
        if let Ok(told) = applied(&damaged, old, &mut target, image) {
            assert!(!told.complete || target.0 == image, "byte {at}");
        }
    }
    for end in (0..pair.len()).step_by(509) {
        let error = applied(&pair[..end], old, &mut Memory(vec![0; image.len()]), image).unwrap_err();
        assert!(matches!(error, BlocksError::Fetch { .. }), "{error}");
    }
}
