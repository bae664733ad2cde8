//! Partition tables, as the tools of Debian read them.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use volary_host::Cmd;
use volary_image::{Layout, MIB, Sizes, TableKind, partition_table};

const SIZES: Sizes = Sizes { boot: 64 * MIB, root: 300 * MIB + 5, data: 16 * MIB };

fn disk(dir: &Path, layout: &Layout) -> PathBuf {
    let path = dir.join("disk.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(layout.size).unwrap();
    for write in partition_table(layout) {
        file.write_all_at(&write.bytes, write.offset).unwrap();
    }
    path
}

/// What `sfdisk --json` says: the whole, and each partition's number, start, size and name.
fn sfdisk(path: &Path) -> (serde_json::Value, Vec<(u32, u64, u64, String)>) {
    let json = Cmd::new("sfdisk").arg("--json").arg(path).check().unwrap().text();
    let table = serde_json::from_str::<serde_json::Value>(&json).unwrap()["partitiontable"].take();
    let partitions = table["partitions"].as_array().unwrap().iter().map(|partition| {
        let node = partition["node"].as_str().unwrap();
        let number = node[path.to_str().unwrap().len()..].parse().unwrap();
        let number_of = |key: &str| partition[key].as_u64().unwrap() * 512;
        let name = partition["name"].as_str().unwrap_or_default().to_owned();
        (number, number_of("start"), number_of("size"), name)
    });
    let partitions = partitions.collect();
    (table, partitions)
}

#[test]
fn gpt_is_what_sfdisk_and_sgdisk_read() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::two_slots(TableKind::Gpt, SIZES, "qemu-amd64");
    let path = disk(dir.path(), &layout);
    let (table, partitions) = sfdisk(&path);
    assert_eq!(table["label"], "gpt");
    let expected: Vec<_> =
        layout.partitions.iter().map(|p| (p.number, p.start, p.size, p.name.to_owned())).collect();
    assert_eq!(partitions, expected);
    assert_eq!(partitions[2].2, 301 * MIB, "sizes are rounded up");
    let said = Cmd::new("sgdisk").arg("--verify").arg(&path).check().unwrap().text();
    assert!(said.contains("No problems found"), "{said}");
    let said = Cmd::new("sfdisk").arg("--verify").arg(&path).check().unwrap();
    assert!(said.text().contains("No errors detected"), "{}", said.text());
}

#[test]
fn the_second_copy_of_gpt_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::two_slots(TableKind::Gpt, SIZES, "qemu-amd64");
    let path = disk(dir.path(), &layout);
    let (_, before) = sfdisk(&path);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 512], 512).unwrap();
    let (_, after) = sfdisk(&path);
    assert_eq!(after, before);
}

#[test]
fn mbr_is_what_sfdisk_reads() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::two_slots(TableKind::Mbr, SIZES, "raspberrypi4");
    let path = disk(dir.path(), &layout);
    let (table, partitions) = sfdisk(&path);
    assert_eq!(table["label"], "dos");
    assert_eq!(table["id"], format!("0x{:08x}", layout.disk_signature()));
    let ours: Vec<_> = layout.partitions.iter().map(|p| (p.number, p.start, p.size)).collect();
    let theirs: Vec<_> = partitions.iter().filter(|p| p.0 != 4).map(|p| (p.0, p.1, p.2)).collect();
    assert_eq!(theirs, ours);
    let said = Cmd::new("sfdisk").arg("--verify").arg(&path).check().unwrap();
    assert!(said.text().contains("No errors detected"), "{}", said.text());
    assert_eq!(layout.tag("root-b"), format!("PARTUUID={:08x}-03", layout.disk_signature()));
    assert_eq!(layout.device("data"), format!("/dev/disk/by-partuuid/{:08x}-06", layout.disk_signature()));
}

#[test]
fn the_last_partition_of_an_mbr_grows_as_a_device_grows_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::two_slots(TableKind::Mbr, SIZES, "raspberrypi4");
    let path = disk(dir.path(), &layout);
    let (_, before) = sfdisk(&path);
    // A card is larger than the image.
    let card = layout.size + 777 * MIB;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(card).unwrap();
    // As in grow-data.sh: the one that the others lie in, then the last.
    for number in ["4", "6"] {
        let grow =
            Cmd::new("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel", "--force", "-N", number]);
        grow.arg(&path).stdin(", +\n").check().unwrap();
    }
    let (table, after) = sfdisk(&path);
    assert_eq!(table["id"], format!("0x{:08x}", layout.disk_signature()));
    for (old, new) in before.iter().zip(&after) {
        match old.0 {
            4 | 6 => assert_eq!((new.0, new.1, new.1 + new.2), (old.0, old.1, card)),
            _ => assert_eq!(new, old),
        }
    }
    assert_eq!(after.len(), before.len());
}
