//! Reads the partition table of a disk image that others made: GPT with its checksums, or MBR.

use flate2::Crc;
use serde::{Deserialize, Serialize};

use crate::layout::SECTOR;

/// How much of the beginning of a disk holds its table: GPT with as many entries as anybody writes.
pub(crate) const FRONT: usize = 1 << 20;

/// Tables with more entries are not partition tables.
const MOST_ENTRIES: usize = 1024;

/// A partition that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPartition {
    /// Its number, from 1.
    pub number: u32,
    /// Its name; MBR has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The byte it begins at.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Why there is no partition table that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no disk image: {0}")]
pub struct NoTable(String);

/// The partitions of a disk of `size` bytes that begins with `front`.
pub(crate) fn partitions(front: &[u8], size: u64) -> Result<Vec<FoundPartition>, NoTable> {
    let wrong = |what: &str| NoTable(what.to_owned());
    if front.get(510..512) != Some(&[0x55, 0xaa]) {
        return Err(wrong("it has no partition table"));
    }
    let mbr: Vec<&[u8]> = front[446..510].chunks_exact(16).filter(|entry| entry[4] != 0).collect();
    let found = if mbr.iter().any(|entry| entry[4] == 0xee) {
        gpt(front).ok_or_else(|| wrong("its GPT is damaged"))?
    } else {
        let entries = front[446..510].chunks_exact(16).zip(1..).filter(|(entry, _)| entry[4] != 0);
        let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().expect("these are four")));
        entries
            .map(|(entry, index)| FoundPartition {
                number: index,
                name: String::new(),
                start: number(&entry[8..12]) * SECTOR,
                size: number(&entry[12..]) * SECTOR,
            })
            .collect()
    };
    if found.is_empty() {
        return Err(wrong("its partition table is empty"));
    }
    match found.iter().find(|partition| partition.start.saturating_add(partition.size) > size) {
        Some(partition) => Err(NoTable(format!(
            "it ends within partition {}: {size} bytes, and {} are needed",
            partition.number,
            partition.start.saturating_add(partition.size)
        ))),
        None => Ok(found),
    }
}

/// `None` if a checksum is wrong or something lies outside.
fn gpt(front: &[u8]) -> Option<Vec<FoundPartition>> {
    let header = front.get(512..1024)?;
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let long = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let length = word(12)? as usize;
    if &header[..8] != b"EFI PART" || !(92..=512).contains(&length) {
        return None;
    }
    let mut blank = header[..length].to_vec();
    blank[16..20].fill(0);
    let (count, each) = (word(80)? as usize, word(84)? as usize);
    if crc(&blank) != word(16)? || count > MOST_ENTRIES || !(128..=4096).contains(&each) {
        return None;
    }
    let at = usize::try_from(long(header, 72)?).ok()?.checked_mul(SECTOR as usize)?;
    let entries = front.get(at..at.checked_add(count * each)?)?;
    if crc(entries) != word(88)? {
        return None;
    }
    let used = entries.chunks_exact(each).zip(1..).filter(|(entry, _)| entry[..16] != [0; 16]);
    used.map(|(entry, number)| {
        let (first, last) = (long(entry, 32)?, long(entry, 40)?);
        let units: Vec<u16> =
            entry[56..128].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        let name = String::from_utf16_lossy(&units);
        Some(FoundPartition {
            number,
            name: name.trim_end_matches('\0').to_owned(),
            start: first.checked_mul(SECTOR)?,
            size: last.checked_sub(first)?.checked_add(1)?.checked_mul(SECTOR)?,
        })
    })
    .collect()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Layout, MIB, Sizes, TableKind, partition_table};

    fn front(table: TableKind) -> (Vec<u8>, Layout) {
        let sizes = Sizes { boot: 64 * MIB, root: 300 * MIB, data: 16 * MIB };
        let layout = Layout::two_slots(table, sizes, "x");
        let mut front = vec![0; FRONT];
        let first = &partition_table(&layout)[0].bytes;
        front[..first.len()].copy_from_slice(first);
        (front, layout)
    }

    #[test]
    fn what_is_written_is_read() {
        let (gpt, layout) = front(TableKind::Gpt);
        let found = partitions(&gpt, layout.size).unwrap();
        let expected: Vec<_> =
            layout.partitions.iter().map(|p| (p.number, p.name.to_owned(), p.start, p.size)).collect();
        let found: Vec<_> = found.into_iter().map(|p| (p.number, p.name, p.start, p.size)).collect();
        assert_eq!(found, expected);
        let (mbr, layout) = front(TableKind::Mbr);
        let found = partitions(&mbr, layout.size).unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!((found[1].start, found[1].size), (layout.partitions[1].start, layout.partitions[1].size));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let (gpt, layout) = front(TableKind::Gpt);
        let check = |front: &[u8], size: u64, expected: &str| {
            let error = partitions(front, size).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[0; 1024], 1024, "it has no partition table");
        check(&gpt, layout.size - 9 * MIB, "it ends within partition 5");
        let mut damaged = gpt.clone();
        damaged[1024 + 40] ^= 1;
        check(&damaged, layout.size, "its GPT is damaged");
        check(&gpt[..2000], layout.size, "its GPT is damaged");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec((0usize..1200, any::<u8>()), 1..40)) {
            let (mut front, layout) = front(TableKind::Gpt);
            for (at, byte) in bytes {
                front[at] = byte;
            }
            let _ = partitions(&front, layout.size);
        }
    }
}
