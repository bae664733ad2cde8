//! From a root file system to a disk image and an update artifact.
//!
//! [`Layout`] says where partitions lie, [`partition_table`] writes that down as GPT or MBR, [`Bmap`]
//! names the blocks that count, and [`flash`] brings an image onto a card. Not here: git, the
//! server, and what a device does with an image.

#![warn(missing_docs)]

mod bmap;
mod flash;
mod layout;
mod open;
mod table;

pub use bmap::{BLOCK, Bmap, BmapError, MappedRange};
pub use flash::{Disk, FlashError, Flashed, Progress, Refusal, flash, may_flash};
pub use layout::{Layout, MIB, Partition, Purpose, SECTOR, Sizes, TableKind};
pub use open::{OpenImage, bmap_beside, open_image};
pub use table::{Write, partition_table};
