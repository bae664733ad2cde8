//! Power cuts: what may be on a disk if the power goes in the middle of some writes.

use std::collections::BTreeMap;

use crate::{Loader, Place, Write};

/// What is at each place.
pub type Content = BTreeMap<Place, Vec<u8>>;

/// A small generator of random numbers, for cases that a seed brings back.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Writes them all.
pub fn apply(content: &mut Content, writes: &[Write]) {
    for write in writes {
        let old = content.entry(write.place).or_default();
        if old.len() < write.bytes.len() {
            old.resize(write.bytes.len(), 0);
        }
        old[..write.bytes.len()].copy_from_slice(&write.bytes);
    }
}

/// Writes a part of them: all up to some one, and some sectors of that.
pub fn cut(content: &mut Content, writes: &[Write], dice: &mut Dice) {
    let number = dice.below(writes.len());
    apply(content, &writes[..number]);
    let write = &writes[number];
    let old = content.entry(write.place).or_insert_with(|| vec![0; write.bytes.len()]);
    // Often all or none of them: then the order of the writes is what counts.
    let likely = [0, 2, 4, 6, 8][dice.below(5)];
    for (sector, bytes) in write.bytes.chunks(512).enumerate() {
        if dice.below(8) < likely {
            old[sector * 512..sector * 512 + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// What [`Loader::read`] wants.
pub fn areas(loader: Loader, content: &Content) -> Vec<Vec<u8>> {
    loader.areas().iter().map(|area| content.get(&area.place).cloned().unwrap_or_default()).collect()
}

/// How many cuts are judged, and from which seed: few by default, thousands in `make powercut`.
pub fn budget(default: usize) -> (usize, Dice) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("VOLARY_SEED").unwrap_or(1);
    let cuts = number("VOLARY_CUTS").map_or(default, |cuts| cuts as usize);
    eprintln_seed(seed, cuts);
    (cuts, Dice(seed))
}

#[allow(clippy::print_stderr, reason = "a failure is found again by its seed")]
fn eprintln_seed(seed: u64, cuts: usize) {
    eprintln!("VOLARY_SEED={seed} VOLARY_CUTS={cuts}");
}
