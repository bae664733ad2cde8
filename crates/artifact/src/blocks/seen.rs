//! What a device has: the hash of each of its blocks, and where to find one.

use super::format::SHORT;
use super::{BLOCK, BlocksError, GROUP, ROLL, ReadAt, hash, roll};

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// The blocks of what the device has, 12 bytes of memory for each.
pub(super) struct Seen {
    hashes: Vec<u64>,
    /// Numbers of blocks, ordered by the part of the hash that lists have.
    ordered: Vec<u32>,
}

impl Seen {
    /// Reads all of it. What is behind the last whole block is not looked at.
    pub(super) fn of(old: &dyn ReadAt) -> Result<Self, BlocksError> {
        let blocks = (old.length() / BLOCK as u64).min(u64::from(u32::MAX)) as usize;
        let mut hashes = Vec::with_capacity(blocks);
        let mut piece = vec![0; PIECE];
        while hashes.len() < blocks {
            let wanted = (blocks - hashes.len()).min(PIECE / BLOCK) * BLOCK;
            let at = hashes.len() as u64 * BLOCK as u64;
            old.read_at(at, &mut piece[..wanted])
                .map_err(|source| BlocksError::Read { what: "the slot that runs", source })?;
            hashes.extend(piece[..wanted].chunks_exact(BLOCK).map(hash));
        }
        let mut ordered: Vec<u32> = (0..blocks as u32).collect();
        ordered.sort_by_key(|&block| (hashes[block as usize] & SHORT, block));
        Ok(Self { hashes, ordered })
    }

    /// A block whose hash ends in these 40 bits; the preferred ones first.
    pub(super) fn find(&self, short: u64, preferred: [u32; 2]) -> Option<u32> {
        let fits = |block: u32| self.hashes.get(block as usize).is_some_and(|hash| hash & SHORT == short);
        if let Some(block) = preferred.into_iter().find(|&block| fits(block)) {
            return Some(block);
        }
        let key = |&block: &u32| self.hashes[block as usize] & SHORT;
        let first = self.ordered.partition_point(|block| key(block) < short);
        self.ordered.get(first).copied().filter(|&block| fits(block))
    }

    /// Calls with the first block and the hash of each window as large as a group.
    pub(super) fn windows(&self, each: &mut dyn FnMut(u32, u64)) {
        let leaving = (1..GROUP).fold(1u64, |power, _| power.wrapping_mul(ROLL));
        let mut window = 0;
        for (index, &block) in self.hashes.iter().enumerate() {
            if index >= GROUP {
                window = u64::wrapping_sub(window, self.hashes[index - GROUP].wrapping_mul(leaving));
            }
            window = roll(window, block);
            if index + 1 >= GROUP {
                each((index + 1 - GROUP) as u32, window);
            }
        }
    }
}
