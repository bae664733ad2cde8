//! The boot state of GRUB: one variable in each of two blocks of one sector.
//!
//! GRUB (2.06 and 2.12) reads a block from bare sectors, but writes only to a file. So the partition
//! begins with a file system that never changes: FAT12 with two files of one sector, and every other
//! cluster marked as bad. GRUB finds the sectors by it when it writes; it and we write nothing but
//! these two sectors, and both read them without it. A sector is written whole or not at all. The
//! first block that is valid counts.

use crate::state::BootState;
use crate::{Area, Found, Lost, Place, Write, block};

/// The variable.
pub const VARIABLE: &str = "volary";

/// One sector.
pub const LENGTH: usize = 512;

/// The sectors of the two blocks, from the beginning of the partition. They are a quarter of a
/// mebibyte from each other and from the file system: flash that loses more than it writes loses
/// it near by.
pub const SECTORS: [u64; 2] = [512, 1024];

/// The names that GRUB writes them by.
pub const FILES: [&str; 2] = ["/env1", "/env2"];

/// The boot sector, six of the allocation table, one of the folder.
const FILE_SYSTEM: usize = 8 * LENGTH;

pub fn areas() -> Vec<Area> {
    let mut areas = vec![Area { place: Place::Offset(0), length: FILE_SYSTEM }];
    areas.extend(SECTORS.map(|sector| Area { place: place(sector), length: LENGTH }));
    areas
}

const fn place(sector: u64) -> Place {
    Place::Offset(sector * LENGTH as u64)
}

pub fn read(areas: &[Vec<u8>]) -> Result<Found, Lost> {
    let area = |number: usize| areas.get(number).map_or(&[][..], Vec::as_slice);
    let mut state = None;
    let mut damaged = Vec::new();
    for number in 1..=SECTORS.len() {
        match (one(area(number)), state) {
            (Ok(found), None) => state = Some(found),
            (Ok(found), Some(state)) if found != state => damaged.push(format!("copy {number} says {found}")),
            (Ok(_), Some(_)) => {}
            (Err(why), _) => damaged.push(format!("copy {number}: {why}")),
        }
    }
    if area(0) != file_system() {
        damaged.push("the file system that GRUB finds the copies by is damaged".to_owned());
    }
    match state {
        Some(state) => Ok(Found { state, damaged }),
        None => Err(Lost(damaged)),
    }
}

fn one(bytes: &[u8]) -> Result<BootState, String> {
    let variables = block::decode(bytes)?;
    block::get(&variables, VARIABLE).ok_or_else(|| format!("it has no variable {VARIABLE}"))?.parse()
}

pub fn writes(areas: &[Vec<u8>], state: BootState) -> Vec<Write> {
    let bytes = block::encode(LENGTH, [(VARIABLE, state.word())]);
    let mut writes = SECTORS.map(|sector| Write { place: place(sector), bytes: bytes.clone() }).to_vec();
    let file_system = file_system();
    if areas.first() != Some(&file_system) {
        // First: a trial that GRUB cannot note is none.
        writes.insert(0, Write { place: Place::Offset(0), bytes: file_system });
    }
    writes
}

/// The first sectors of the partition.
fn file_system() -> Vec<u8> {
    const CLUSTERS: usize = 2048 - FILE_SYSTEM / LENGTH;
    let mut bytes = vec![0; FILE_SYSTEM];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, b"\xEB\x3C\x90VOLARY  ");
    // 512 bytes a sector, one sector a cluster, one reserved, one table, 16 entries in the folder,
    // 2048 sectors, a fixed disk, 6 sectors for the table, and a geometry that nobody asks for.
    put(11, &[0, 2, 1, 1, 0, 1, 16, 0, 0, 8, 0xF8, 6, 0, 32, 0, 2, 0]);
    put(36, b"\x80\0\x29VLRYBOOTENV    FAT12   ");
    put(510, &[0x55, 0xAA]);
    // A cluster's number is that of its sector, less the eight before, plus the two that do not exist.
    let clusters = SECTORS.map(|sector| sector as usize - FILE_SYSTEM / LENGTH + 2);
    for number in 0..CLUSTERS + 2 {
        let entry: u16 = match number {
            0 => 0xFF8,
            1 => 0xFFF,
            number if clusters.contains(&number) => 0xFFF,
            _ => 0xFF7,
        };
        // Two entries in three bytes, the lower half first.
        let at = LENGTH + number * 3 / 2;
        let shifted = if number % 2 == 0 { entry } else { entry << 4 };
        bytes[at] |= shifted.to_le_bytes()[0];
        bytes[at + 1] |= shifted.to_le_bytes()[1];
    }
    let folder = FILE_SYSTEM - LENGTH;
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(folder, b"BOOTENV    \x08");
    for (number, cluster) in (1..).zip(clusters) {
        let at = folder + 32 * number;
        put(at, if number == 1 { b"ENV1       \x21" } else { b"ENV2       \x21" });
        put(at + 26, &(cluster as u16).to_le_bytes());
        put(at + 28, &(LENGTH as u32).to_le_bytes());
    }
    bytes
}
