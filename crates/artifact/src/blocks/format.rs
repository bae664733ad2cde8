//! The bytes of a block file, both ways.

use volary_model::Digest;

use super::{BLOCK, BlocksError, CONTEXT, GROUP, GROUP_BYTES, malformed};

const MAGIC: [u8; 8] = *b"VOLBLOCK";
const VERSION: u32 = 1;
/// Bytes of the head.
pub(super) const HEAD: usize = 64;
/// Bytes of a row of the table.
pub(super) const ROW: usize = 12;
/// Images are smaller than this: the table of one has 48 MiB.
pub(super) const LARGEST: u64 = 1 << 40;
/// Bits of a block's hash in a list.
pub(super) const SHORT: u64 = (1 << 40) - 1;

/// The head of a block file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The image's length in bytes.
    pub(super) length: u64,
    /// Where the lists begin.
    pub(super) lists: u64,
    /// The image's SHA-256.
    pub(super) image: Digest,
}

impl Head {
    #[cfg(feature = "write")]
    pub(super) fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(CONTEXT as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.lists.to_le_bytes());
        bytes[32..].copy_from_slice(self.image.as_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; HEAD]) -> Result<Self, BlocksError> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..8] != MAGIC {
            return Err(malformed("it does not begin with VOLBLOCK"));
        }
        let expected = (u64::from(CONTEXT as u32) << 32) | u64::from(VERSION);
        if number(8) != expected {
            return Err(malformed("its version is unknown"));
        }
        let image: [u8; 32] = bytes[32..].try_into().expect("32 bytes");
        let head = Self { length: number(16), lists: number(24), image: Digest::from_bytes(image) };
        if head.length == 0 || !head.length.is_multiple_of(BLOCK as u64) || head.length > LARGEST {
            return Err(malformed(format!("an image of {} bytes is not possible", head.length)));
        }
        Ok(head)
    }

    /// Groups of the image.
    pub(super) fn groups(&self) -> usize {
        self.length.div_ceil(GROUP_BYTES as u64) as usize
    }

    /// Blocks of a group: 64, but for the last.
    pub(super) fn blocks_of(&self, group: usize) -> usize {
        let rest = self.length - group as u64 * GROUP_BYTES as u64;
        (rest.min(GROUP_BYTES as u64) / BLOCK as u64) as usize
    }

    /// Bytes of the table.
    pub(super) fn table(&self) -> usize {
        self.groups() * ROW
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// The hash of the group's content.
    pub(super) hash: u64,
    /// Bytes of its data.
    pub(super) data: u32,
    /// Blocks that are not all zeros.
    pub(super) blocks: u8,
}

impl Row {
    #[cfg(feature = "write")]
    pub(super) fn to_bytes(self) -> [u8; ROW] {
        let mut bytes = [0; ROW];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..].copy_from_slice(&(self.data << 8 | u32::from(self.blocks)).to_le_bytes());
        bytes
    }

    /// Bytes of its list; none if it is all zeros.
    pub(super) fn list(&self) -> u64 {
        list_length(usize::from(self.blocks)) as u64
    }
}

/// The table, with where each group's data and list begin.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    data: Vec<u64>,
    lists: Vec<u64>,
}

impl Table {
    pub(super) fn parse(head: &Head, bytes: &[u8]) -> Result<Self, BlocksError> {
        let groups = head.groups();
        let mut table = Self {
            rows: Vec::with_capacity(groups),
            data: Vec::with_capacity(groups),
            lists: Vec::with_capacity(groups),
        };
        let mut data = (HEAD + head.table()) as u64;
        let mut lists = head.lists;
        for (group, row) in bytes.chunks_exact(ROW).enumerate() {
            let packed = u32::from_le_bytes(row[8..].try_into().expect("four bytes"));
            let hash = u64::from_le_bytes(row[..8].try_into().expect("eight bytes"));
            let row = Row { hash, data: packed >> 8, blocks: (packed & 0xFF) as u8 };
            let blocks = usize::from(row.blocks);
            if blocks > head.blocks_of(group)
                || row.data as usize > blocks * BLOCK
                || (blocks > 0) != (row.data > 0)
            {
                return Err(malformed(format!("group {group} has impossible sizes")));
            }
            table.data.push(data);
            table.lists.push(lists);
            data += u64::from(row.data);
            lists = lists.checked_add(row.list()).ok_or_else(|| malformed("the lists lie too far"))?;
            table.rows.push(row);
        }
        if data != head.lists {
            return Err(malformed("the lists do not begin where the data ends"));
        }
        Ok(table)
    }

    /// Where the data of a group begins.
    pub(super) fn data_at(&self, group: usize) -> u64 {
        self.data[group]
    }

    /// Where it ends.
    pub(super) fn data_end(&self, group: usize) -> u64 {
        self.data[group] + u64::from(self.rows[group].data)
    }

    /// Where the list of a group begins.
    pub(super) fn list_at(&self, group: usize) -> u64 {
        self.lists[group]
    }
}

/// A block that is not all zeros, in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place in the group.
    pub(super) place: u8,
    /// Bytes when packed; a whole block is not packed.
    pub(super) packed: u16,
    /// The low 40 bits of its hash.
    pub(super) hash: u64,
}

fn list_length(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { GROUP / 8 + (blocks * 12).div_ceil(8) + blocks * 5 }
}

#[cfg(feature = "write")]
pub(super) fn list_to_bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; list_length(entries.len())];
    let hashes = GROUP / 8 + (entries.len() * 12).div_ceil(8);
    for (index, entry) in entries.iter().enumerate() {
        bytes[usize::from(entry.place) / 8] |= 1 << (entry.place % 8);
        let code = entry.packed - 1;
        let at = GROUP / 8 + index / 2 * 3;
        if index % 2 == 0 {
            bytes[at] = code as u8;
            bytes[at + 1] |= (code >> 8) as u8;
        } else {
            bytes[at + 1] |= (code << 4) as u8;
            bytes[at + 2] = (code >> 4) as u8;
        }
        let at = hashes + index * 5;
        bytes[at..at + 5].copy_from_slice(&entry.hash.to_le_bytes()[..5]);
    }
    bytes
}

/// Parses the list of a group with `blocks` blocks in all.
pub(super) fn parse_list(row: &Row, blocks: usize, bytes: &[u8]) -> Result<Vec<Entry>, BlocksError> {
    let count = usize::from(row.blocks);
    if count == 0 {
        return Ok(Vec::new());
    }
    let places = (0..GROUP as u8).filter(|place| bytes[usize::from(*place) / 8] & (1 << (place % 8)) != 0);
    let hashes = GROUP / 8 + (count * 12).div_ceil(8);
    let entry = |(index, place): (usize, u8)| {
        let at = GROUP / 8 + index / 2 * 3;
        let code = if index % 2 == 0 {
            u16::from(bytes[at]) | u16::from(bytes[at + 1] & 0xF) << 8
        } else {
            u16::from(bytes[at + 1] >> 4) | u16::from(bytes[at + 2]) << 4
        };
        let at = hashes + index * 5;
        let mut hash = [0; 8];
        hash[..5].copy_from_slice(&bytes[at..at + 5]);
        Entry { place, packed: code + 1, hash: u64::from_le_bytes(hash) }
    };
    let places: Vec<u8> = places.collect();
    if places.len() != count || usize::from(*places.last().expect("there is one")) >= blocks {
        return Err(malformed("a list does not fit its row of the table"));
    }
    let entries: Vec<Entry> = places.into_iter().enumerate().map(entry).collect();
    if entries.iter().map(|entry| u32::from(entry.packed)).sum::<u32>() != row.data {
        return Err(malformed("a list does not fit the length of its data"));
    }
    Ok(entries)
}

#[cfg(all(test, feature = "write"))]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_a_round_trip_at_every_length() {
        for count in 1..=GROUP {
            let entry = |index: usize| Entry {
                place: index as u8,
                packed: [1, 4096, 2047, 256, 15][index % 5],
                hash: (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) & SHORT,
            };
            let entries: Vec<Entry> = (0..count).map(entry).collect();
            let data = entries.iter().map(|entry| u32::from(entry.packed)).sum();
            let row = Row { hash: 0, data, blocks: count as u8 };
            let bytes = list_to_bytes(&entries);
            assert_eq!(bytes.len() as u64, row.list());
            assert_eq!(parse_list(&row, GROUP, &bytes).unwrap(), entries);
            let other = Row { data: data + 1, ..row };
            assert!(parse_list(&other, GROUP, &bytes).is_err());
        }
    }
}
