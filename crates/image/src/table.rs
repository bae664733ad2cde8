//! Partition tables as writes to a disk: GPT, and MBR with two partitions in an extended one.

use flate2::Crc;

use crate::layout::{Layout, Partition, Purpose, SECTOR, TableKind};

/// Entries of a GPT: what the standard wants at least, and what every tool writes.
const ENTRIES: usize = 128;

/// The size of one entry.
const ENTRY: usize = 128;

/// The sectors that all entries take.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;

/// The revision of the standard, 1.0.
const REVISION: u32 = 0x0001_0000;

/// The size of a GPT header.
const HEADER: usize = 92;

/// Bytes for a place on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The byte it begins at.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The partition table of a disk.
pub fn partition_table(layout: &Layout) -> Vec<Write> {
    match layout.table {
        TableKind::Gpt => gpt(layout),
        TableKind::Mbr => mbr(layout),
    }
}

fn sectors(bytes: u64) -> u64 {
    debug_assert_eq!(bytes % SECTOR, 0, "partitions are aligned");
    bytes / SECTOR
}

fn gpt(layout: &Layout) -> Vec<Write> {
    let last = sectors(layout.size) - 1;
    let mut entries = vec![0; ENTRIES * ENTRY];
    for partition in &layout.partitions {
        let at = (partition.number as usize - 1) * ENTRY;
        entries[at..at + ENTRY].copy_from_slice(&gpt_entry(layout, partition));
    }
    let header = |here: u64, other: u64, table: u64| {
        let mut header = Vec::with_capacity(SECTOR as usize);
        header.extend(b"EFI PART");
        header.extend(REVISION.to_le_bytes());
        header.extend((HEADER as u32).to_le_bytes());
        header.extend([0; 8]);
        for address in [here, other, 2 + ENTRY_SECTORS, last - 1 - ENTRY_SECTORS] {
            header.extend(address.to_le_bytes());
        }
        header.extend(guid(layout.uuid("disk")));
        header.extend(table.to_le_bytes());
        header.extend((ENTRIES as u32).to_le_bytes());
        header.extend((ENTRY as u32).to_le_bytes());
        header.extend(crc(&entries).to_le_bytes());
        debug_assert_eq!(header.len(), HEADER, "the standard's size");
        let sum = crc(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header.resize(SECTOR as usize, 0);
        header
    };
    let front = [protective(last), header(1, last, 2), entries.clone()].concat();
    let back = [entries.clone(), header(last, 1, last - ENTRY_SECTORS)].concat();
    vec![Write { offset: 0, bytes: front }, Write { offset: (last - ENTRY_SECTORS) * SECTOR, bytes: back }]
}

fn gpt_entry(layout: &Layout, partition: &Partition) -> [u8; ENTRY] {
    let kind = match partition.purpose {
        Purpose::Boot => "c12a7328f81f11d2ba4b00a0c93ec93b",
        Purpose::BootEnv | Purpose::Root | Purpose::Data => "0fc63daf848347728e793d69d8477de4",
    };
    let kind: Vec<u8> =
        (0..16).map(|i| u8::from_str_radix(&kind[2 * i..2 * i + 2], 16).expect("it is hex")).collect();
    let mut entry = [0; ENTRY];
    entry[..16].copy_from_slice(&guid(kind.try_into().expect("a GUID has 16 bytes")));
    entry[16..32].copy_from_slice(&guid(layout.uuid(partition.name)));
    entry[32..40].copy_from_slice(&sectors(partition.start).to_le_bytes());
    entry[40..48].copy_from_slice(&(sectors(partition.start + partition.size) - 1).to_le_bytes());
    for (place, unit) in entry[56..].chunks_exact_mut(2).zip(partition.name.encode_utf16()) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
    entry
}

/// GPT stores the first three parts of an identifier with the lowest byte first.
fn guid(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The MBR that tells tools which know no GPT that the disk is full.
fn protective(last: u64) -> Vec<u8> {
    let mut entry = mbr_entry(0xee, 1, last.min(u32::MAX.into()));
    // The standard wants the address of the second sector in the old notation.
    entry[1..4].copy_from_slice(&[0, 2, 0]);
    boot_record(0, &[entry])
}

fn mbr(layout: &Layout) -> Vec<Write> {
    let kind = |partition: &Partition| match partition.purpose {
        Purpose::Boot => 0x0c,
        Purpose::BootEnv | Purpose::Root | Purpose::Data => 0x83,
    };
    let (inner, outer): (Vec<_>, Vec<_>) =
        layout.partitions.iter().partition(|partition| partition.number > 4);
    let link = |partition: &Partition| sectors(partition.start - crate::layout::MIB);
    let end = sectors(layout.size);
    let first = link(inner[0]);
    let mut entries: Vec<_> = outer
        .iter()
        .map(|partition| mbr_entry(kind(partition), sectors(partition.start), sectors(partition.size)))
        .collect();
    entries.push(mbr_entry(0x0f, first, end - first));
    let mut writes = vec![Write { offset: 0, bytes: boot_record(layout.disk_signature(), &entries) }];
    for (index, partition) in inner.iter().enumerate() {
        let here = link(partition);
        let own = mbr_entry(kind(partition), sectors(partition.start) - here, sectors(partition.size));
        // The next link counts from the first one, and reaches to the end of its partition.
        let next = inner.get(index + 1).map(|next| {
            let at = link(next);
            mbr_entry(0x05, at - first, sectors(next.start + next.size) - at)
        });
        let entries: Vec<_> = [Some(own), next].into_iter().flatten().collect();
        writes.push(Write { offset: here * SECTOR, bytes: boot_record(0, &entries) });
    }
    writes
}

fn boot_record(signature: u32, entries: &[[u8; 16]]) -> Vec<u8> {
    let mut record = vec![0; SECTOR as usize];
    record[440..444].copy_from_slice(&signature.to_le_bytes());
    for (place, entry) in record[446..510].chunks_exact_mut(16).zip(entries) {
        place.copy_from_slice(entry);
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

fn mbr_entry(kind: u8, start: u64, count: u64) -> [u8; 16] {
    let number = |value: u64| u32::try_from(value).expect("MBR disks have at most 2 TiB").to_le_bytes();
    // Cylinders and heads end at 8 GB; this value says that the sector numbers count.
    let beyond = [0xfe, 0xff, 0xff];
    let mut entry = [0; 16];
    entry[1..4].copy_from_slice(&beyond);
    entry[4] = kind;
    entry[5..8].copy_from_slice(&beyond);
    entry[8..12].copy_from_slice(&number(start));
    entry[12..].copy_from_slice(&number(count));
    entry
}
