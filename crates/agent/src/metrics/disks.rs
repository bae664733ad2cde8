//! Local file systems, and the disks that they are on.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{Root, whole};
use super::sink::{Sink, rounded};

/// The most file systems and the most disks that are told apart.
const MOUNTS: usize = 12;
const DISKS: usize = 8;

/// File systems on local disks that can fill up. Not here: those of the network, which can hang whoever
/// asks them, those in memory, and those that are always full.
const LOCAL: [&str; 15] = [
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jffs2", "jfs", "ntfs3",
    "ubifs", "vfat", "xfs", "zfs",
];

/// Block devices that are no disks of their own.
const NOT_DISKS: [&str; 9] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock"];

/// The size of a sector of `/proc/diskstats`, on every disk.
const SECTOR: f64 = 512.0;

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Space {
    /// Bytes.
    pub size: f64,
    /// Bytes that root can fill.
    pub free: f64,
    /// Inodes; 0 where they are made as needed.
    pub inodes: f64,
    /// Those that are not used.
    pub inodes_free: f64,
}

/// Asks the kernel about the file system at a path.
#[expect(clippy::cast_precision_loss, reason = "a disk of more than 8 PiB is off by a few bytes")]
pub fn space(path: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Space {
        size: stat.f_blocks.saturating_mul(stat.f_frsize) as f64,
        free: stat.f_bfree.saturating_mul(stat.f_frsize) as f64,
        inodes: stat.f_files as f64,
        inodes_free: stat.f_ffree as f64,
    })
}

/// Looks; `ask` tells the space at a path.
pub fn look(root: &Root, ask: fn(&Path) -> Option<Space>, sink: &mut Sink<'_>) {
    if sink.wants(&["disk_size_bytes", "disk_free_bytes", "inodes_total", "inodes_free"]) {
        for mount in mounts(&root.text("/proc/self/mountinfo").unwrap_or_default()) {
            let path = root.at(&mount);
            let Some(space) = Some(path).filter(|path| path.is_dir()).and_then(|path| ask(&path)) else {
                continue;
            };
            sink.put_of("disk_size_bytes", "mount", &mount, space.size);
            sink.put_of("disk_free_bytes", "mount", &mount, space.free);
            if space.inodes > 0.0 {
                sink.put_of("inodes_total", "mount", &mount, space.inodes);
                sink.put_of("inodes_free", "mount", &mount, space.inodes_free);
            }
        }
    }
    let names = ["disk_written_bytes_total", "flash_life_used_ratio", "flash_pre_eol"];
    if !sink.wants(&names) {
        return;
    }
    let disks: Vec<String> = root.names("/sys/block").into_iter().filter(|name| is_disk(name)).collect();
    let diskstats = root.text("/proc/diskstats").unwrap_or_default();
    for disk in disks.iter().take(DISKS) {
        sink.put_of(names[0], "disk", disk, written(&diskstats, disk));
        let told = |file: &str| root.text(&format!("/sys/block/{disk}/device/{file}"));
        sink.put_of(names[1], "disk", disk, told("life_time").and_then(|text| life_used(&text)));
        let pre_eol = told("pre_eol_info").and_then(|text| hexadecimal(text.trim()));
        sink.put_of(names[2], "disk", disk, pre_eol.filter(|value| (1..=3).contains(value)).map(f64::from));
    }
}

/// Where local file systems are mounted, each once, at its shortest path.
fn mounts(mountinfo: &str) -> Vec<String> {
    let mut by_device: BTreeMap<&str, String> = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let before: Vec<&str> = before.split(' ').collect();
        let kind = after.split(' ').next().unwrap_or_default();
        let [_, _, device, _, path, ..] = before[..] else { continue };
        // Each container has an overlay; only that below everything is this machine's. What is mounted
        // below /run is somebody's for a while.
        let is_local = LOCAL.contains(&kind) && !path.starts_with("/run/");
        if !is_local && (kind != "overlay" || path != "/") {
            continue;
        }
        let path = unescaped(path);
        let known = by_device.entry(device).or_insert_with(|| path.clone());
        if path.len() < known.len() {
            *known = path;
        }
    }
    let mut mounts: Vec<String> = by_device.into_values().collect();
    mounts.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    mounts.dedup();
    mounts.truncate(MOUNTS);
    mounts
}

/// The kernel writes blanks as octal numbers (proc_pid_mountinfo(5)).
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn is_disk(name: &str) -> bool {
    let of_mmc = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    !of_mmc && !NOT_DISKS.iter().any(|not| name.starts_with(not))
}

fn written(diskstats: &str, disk: &str) -> Option<f64> {
    let fields = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = fields.into_iter().find(|fields| fields.get(2) == Some(&disk))?;
    Some(whole(line.get(9)?)? * SECTOR)
}

/// `0x01 0x03`: tenths of the life that two kinds of cells have used; 0 is unknown, 0x0b is over.
fn life_used(text: &str) -> Option<f64> {
    let kinds = text.split_whitespace().filter_map(hexadecimal);
    let worst = kinds.filter(|tenths| (1..=11).contains(tenths)).max()?;
    Some(rounded((f64::from(worst) / 10.0).min(1.0)))
}

fn hexadecimal(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}
