//! What is made of images so that devices fetch little: a block file for each, and pairs for the ways that
//! most devices go. What is wanted is a pure decision; making it takes seconds to minutes of one processor.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use volary_artifact::blocks::{BLOCK, BlocksError, write_blocks, write_pair};
use volary_artifact::{Error, Policy, Reader};
use volary_host::{FileError, NewFile};
use volary_model::Digest;
use volary_store::Image;

use crate::image_use::Pin;
use crate::images::Images;

/// How hard a block file is packed: 25 seconds for each GiB. With 12 it takes five minutes and is hardly smaller.
const BLOCKS_LEVEL: i32 = 9;
/// How hard a pair is packed: two seconds for each MiB that is new.
const PAIR_LEVEL: i32 = 19;
/// To a pinned image, pairs are made from so many others.
const PAIRS: usize = 2;

/// Something that is made of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delta {
    /// The block file of this artifact.
    Blocks { artifact: Digest },
    /// The pair from the root file system of one artifact to that of another.
    Pair { from: Digest, from_rootfs: Digest, to: Digest },
}

/// Why one could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeltaError {
    /// The artifact cannot be read, though it was sound when it came.
    #[error(transparent)]
    Artifact(#[from] Error),
    /// It cannot be packed.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The disk is full or broken.
    #[error(transparent)]
    File(#[from] FileError),
}

/// All that should be there, the most useful first.
pub(crate) fn wanted(images: &[Image], pins: &[Pin]) -> Vec<Delta> {
    let whole = |image: &&Image| {
        let blocks = image.rootfs_size.is_some_and(|size| size > 0 && size.is_multiple_of(BLOCK as u64));
        blocks && image.kind == "rootfs-image"
    };
    let mut images: Vec<&Image> = images.iter().filter(whole).collect();
    images.sort_by_key(|image| std::cmp::Reverse((image.wanted_at, image.published_at)));
    let pinned: BTreeSet<Digest> = pins.iter().map(|pin| pin.image.artifact).collect();
    let blocks = |image: &&Image| Delta::Blocks { artifact: image.artifact };
    let (first, later): (Vec<&Image>, Vec<&Image>) =
        images.iter().partition(|image| pinned.contains(&image.artifact));
    let mut all: Vec<Delta> = first.iter().map(blocks).collect();
    for to in first {
        let same = |from: &&&Image| {
            from.rootfs != to.rootfs && from.device_types.iter().any(|of| to.device_types.contains(of))
        };
        let from = images.iter().filter(same).take(PAIRS);
        all.extend(from.map(|from| Delta::Pair {
            from: from.artifact,
            from_rootfs: from.rootfs,
            to: to.artifact,
        }));
    }
    all.extend(later.iter().map(blocks));
    all
}

impl Images {
    /// Where it is, if it was made.
    pub(crate) fn delta(&self, delta: &Delta) -> PathBuf {
        match delta {
            Delta::Blocks { artifact } => self.blocks(artifact),
            Delta::Pair { from_rootfs, to, .. } => self.pair(to, from_rootfs),
        }
    }

    /// Makes it. Blocks for as long as that takes; what is half done is gone after a kill.
    pub(crate) fn make(&self, delta: &Delta) -> Result<(), DeltaError> {
        let path = self.delta(delta);
        match delta {
            Delta::Blocks { artifact } => {
                let mut made = NewFile::create(&path, 0o644)?;
                let source = self.path(artifact);
                let mut reader = open(&source)?;
                if let Some(image) = reader.next_file()? {
                    let length = image.size();
                    write_blocks(image, length, made.file(), BLOCKS_LEVEL, 1)?;
                }
                made.keep()?;
            }
            Delta::Pair { from, to, .. } => {
                let (old, new) = (self.unpacked(from)?, self.unpacked(to)?);
                let mut made = NewFile::create(&path, 0o644)?;
                write_pair(&old, &new, made.file(), PAIR_LEVEL)?;
                made.keep()?;
            }
        }
        Ok(())
    }

    /// The root file system of an artifact as a file without a name.
    fn unpacked(&self, artifact: &Digest) -> Result<File, DeltaError> {
        let mut file = tempfile::tempfile_in(self.dir()).map_err(FileError::at("create", self.dir()))?;
        let mut reader = open(&self.path(artifact))?;
        if let Some(image) = reader.next_file()? {
            image.copy_to(&mut file)?;
        }
        Ok(file)
    }
}

fn open(path: &Path) -> Result<Reader<File>, DeltaError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    // It was checked when it came, and its name is its digest.
    Ok(Reader::open(file, &Policy::unsigned())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use volary_fleet::LockedImage;

    use super::*;

    fn image(number: u8, wanted: i64) -> Image {
        Image {
            artifact: Digest::from_bytes([number; 32]),
            size: 1,
            name: format!("image-{number}").parse().unwrap(),
            device_types: vec!["board".parse().unwrap()],
            rootfs: Digest::from_bytes([100 + number; 32]),
            manifest: None,
            rootfs_size: Some(8192),
            kind: "rootfs-image".into(),
            provides: BTreeMap::new(),
            depends: BTreeMap::new(),
            signed_by: None,
            published_at: Timestamp::from_second(i64::from(number)).unwrap(),
            published_by: "somebody".into(),
            wanted_at: Timestamp::from_second(wanted).unwrap(),
        }
    }

    fn pin(image: &Image) -> Pin {
        let image = LockedImage {
            name: image.name.clone(),
            artifact: image.artifact,
            size: image.size,
            rootfs: image.rootfs,
            manifest: None,
        };
        Pin { stage: "canary".parse().unwrap(), device_type: "board".parse().unwrap(), image }
    }

    fn words(images: &[Image], pins: &[Pin]) -> Vec<String> {
        let number = |digest: &Digest| digest.as_bytes()[0].to_string();
        let word = |delta: Delta| match delta {
            Delta::Blocks { artifact } => number(&artifact),
            Delta::Pair { from, to, .. } => format!("{}-{}", number(&from), number(&to)),
        };
        wanted(images, pins).into_iter().map(word).collect()
    }

    #[test]
    fn what_stages_pin_comes_first_and_has_pairs_from_the_last_two() {
        let images = [image(1, 10), image(2, 40), image(3, 30), image(4, 20)];
        assert_eq!(words(&images, &[]), ["2", "3", "4", "1"]);
        assert_eq!(words(&images, &[pin(&images[2])]), ["3", "2-3", "4-3", "2", "4", "1"]);
        let both = [pin(&images[2]), pin(&images[1]), pin(&images[2])];
        assert_eq!(words(&images, &both), ["2", "3", "3-2", "4-2", "2-3", "4-3", "4", "1"]);
    }

    #[test]
    fn other_hardware_and_what_has_no_blocks_are_left_out() {
        let other = Image { device_types: vec!["other".parse().unwrap()], ..image(5, 50) };
        let odd = Image { rootfs_size: Some(8193), ..image(6, 60) };
        let module = Image { kind: "single-file".into(), ..image(7, 70) };
        let images = [image(1, 10), other, odd, module];
        assert_eq!(words(&images, &[pin(&images[0])]), ["1", "5"]);
    }
}
