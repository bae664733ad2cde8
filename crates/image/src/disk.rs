//! Puts file systems together to a disk, with the map of what is used.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use volary_host::FileError;
use volary_model::Digest;

use crate::bmap::Bmap;
use crate::error::BuildError;
use crate::layout::Layout;
use crate::table::partition_table;

/// What is copied at once.
const PIECE: u64 = 1 << 20;

/// A file system or other content of a partition.
pub(crate) struct Part<'a> {
    pub name: &'static str,
    pub path: &'a Path,
    /// Which of its bytes count.
    pub used: Vec<Range<u64>>,
}

/// What was made of a disk.
pub(crate) struct Disk {
    pub bmap: Bmap,
    pub digest: Digest,
}

/// Writes the disk to `path`: the table, `raw` bytes at places of the partition `bootenv`, and the parts.
pub(crate) fn assemble(
    layout: &Layout,
    raw: &[(u64, Vec<u8>)],
    parts: &[Part<'_>],
    path: &Path,
) -> Result<Disk, BuildError> {
    let failed = || FileError::at("write", path);
    volary_host::remove_if_exists(path)?;
    let mut disk = File::options().read(true).write(true).create_new(true).open(path).map_err(failed())?;
    disk.set_len(layout.size).map_err(failed())?;
    let place = |name: &str| layout.partition(name).expect("every layout has it");
    let mut used = Vec::new();
    for write in partition_table(layout) {
        disk.write_all_at(&write.bytes, write.offset).map_err(failed())?;
        used.push(write.offset..write.offset + write.bytes.len() as u64);
    }
    let bootenv = place("bootenv");
    for (offset, bytes) in raw {
        disk.write_all_at(bytes, bootenv.start + offset).map_err(failed())?;
    }
    used.push(bootenv.start..bootenv.start + bootenv.size);
    for part in parts {
        let start = place(part.name).start;
        let input = File::open(part.path).map_err(FileError::at("read", part.path))?;
        for range in &part.used {
            copy(&input, range, &disk, start).map_err(failed())?;
            used.push(start + range.start..start + range.end);
        }
    }
    disk.sync_all().map_err(failed())?;
    let bmap = Bmap::of(&mut disk, &used).map_err(failed())?;
    disk.seek(SeekFrom::Start(0)).map_err(failed())?;
    let digest = sum(&mut disk).map_err(failed())?;
    Ok(Disk { bmap, digest })
}

fn copy(input: &File, range: &Range<u64>, output: &File, start: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE as usize];
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(PIECE) as usize;
        input.read_exact_at(&mut piece[..count], at)?;
        // The file stays sparse where nothing is.
        for (index, block) in piece[..count].chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                output.write_all_at(block, start + at + index as u64 * 4096)?;
            }
        }
        at += count as u64;
    }
    Ok(())
}

/// The SHA-256 of what is left of a file.
pub(crate) fn sum(file: &mut impl Read) -> io::Result<Digest> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE as usize];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(sum.finalize().into())),
            count => sum.update(&piece[..count]),
        }
    }
}
