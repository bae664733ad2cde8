//! Where the partitions of a disk lie and what they are called.

use sha2::{Digest, Sha256};

/// One MiB: where the first partition begins and what all are aligned to, the erase blocks of most
/// cards included.
pub const MIB: u64 = 1 << 20;

/// What addresses on a disk count.
pub const SECTOR: u64 = 512;

/// How the partitions are written down on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// The older one with four entries, of which the last holds two further partitions.
    Mbr,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// EFI system partition, or the firmware's files: FAT32.
    Boot,
    /// The boot state, raw.
    BootEnv,
    /// A root file system: ext4.
    Root,
    /// What outlives updates: ext4, the last one.
    Data,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name; GPT knows it.
    pub name: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// The byte it begins at.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its number on the disk, from 1.
    pub number: u32,
}

/// The sizes that a device type chooses, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The boot partition.
    pub boot: u64,
    /// Each of the two slots.
    pub root: u64,
    /// The data partition as it is flashed.
    pub data: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// How the partitions are written down.
    pub table: TableKind,
    /// What all its identifiers are made from, so that equal input gives equal disks.
    pub seed: String,
    /// In the order they lie on the disk.
    pub partitions: Vec<Partition>,
    /// The size of the whole disk in bytes.
    pub size: u64,
}

impl Layout {
    /// The disk with two slots. Sizes are rounded up to whole MiB.
    pub fn two_slots(table: TableKind, sizes: Sizes, seed: &str) -> Self {
        // What GPT numbers 1 to 5. MBR has room for four: two lie in the last of them, `data` at its
        // end, where it can grow.
        let wanted: [(_, _, _, u32); 5] = match table {
            TableKind::Gpt => [
                ("boot", Purpose::Boot, sizes.boot, 1),
                ("bootenv", Purpose::BootEnv, MIB, 2),
                ("root-a", Purpose::Root, sizes.root, 3),
                ("root-b", Purpose::Root, sizes.root, 4),
                ("data", Purpose::Data, sizes.data, 5),
            ],
            TableKind::Mbr => [
                ("boot", Purpose::Boot, sizes.boot, 1),
                ("root-a", Purpose::Root, sizes.root, 2),
                ("root-b", Purpose::Root, sizes.root, 3),
                ("bootenv", Purpose::BootEnv, MIB, 5),
                ("data", Purpose::Data, sizes.data, 6),
            ],
        };
        let mut at = MIB;
        let mut partitions = Vec::new();
        for (name, purpose, size, number) in wanted {
            if table == TableKind::Mbr && number > 4 {
                // The link to the next partition inside the last entry.
                at += MIB;
            }
            let size = size.next_multiple_of(MIB);
            partitions.push(Partition { name, purpose, start: at, size, number });
            at += size;
        }
        // Room for GPT's second copy.
        let size = if table == TableKind::Gpt { at + MIB } else { at };
        Self { table, seed: seed.to_owned(), partitions, size }
    }

    /// The partition of this name.
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.name == name)
    }

    /// The path that udev gives a partition.
    ///
    /// # Panics
    /// If there is no partition of this name.
    pub fn device(&self, name: &str) -> String {
        match self.table {
            TableKind::Gpt => format!("/dev/disk/by-partlabel/{name}"),
            TableKind::Mbr => format!("/dev/disk/by-partuuid/{}", self.part_uuid(name)),
        }
    }

    /// How the kernel's `root=` and fstab name a partition.
    ///
    /// # Panics
    /// If there is no partition of this name.
    pub fn tag(&self, name: &str) -> String {
        match self.table {
            TableKind::Gpt => format!("PARTLABEL={name}"),
            TableKind::Mbr => format!("PARTUUID={}", self.part_uuid(name)),
        }
    }

    fn part_uuid(&self, name: &str) -> String {
        let partition = self.partition(name).expect("only names of this layout are asked for");
        format!("{:08x}-{:02x}", self.disk_signature(), partition.number)
    }

    /// What MBR knows the disk by.
    pub fn disk_signature(&self) -> u32 {
        let bytes = identifier(&[&self.seed, "disk"]);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// An identifier of something on this disk.
    pub(crate) fn uuid(&self, of: &str) -> [u8; 16] {
        identifier(&[&self.seed, of])
    }
}

/// An identifier that depends on these words only, with the marks of a custom UUID (version 8 of RFC 9562).
pub(crate) fn identifier(words: &[&str]) -> [u8; 16] {
    let mut sum = Sha256::new();
    for word in words {
        sum.update((word.len() as u64).to_le_bytes());
        sum.update(word);
    }
    let mut bytes: [u8; 16] = sum.finalize()[..16].try_into().expect("SHA-256 has 32 bytes");
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// The usual text of an identifier.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
