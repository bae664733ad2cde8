//! From a root file system to a disk image and an update artifact.
//!
//! [`build`] makes all of it from an [`Order`]. [`Layout`] says where partitions lie, [`partition_table`] writes that down as GPT or MBR, [`Bmap`]
//! names the blocks that count, and [`flash`] brings an image onto a card. Not here: git, the
//! server, and what a device does with an image.

#![warn(missing_docs)]

mod bill;
mod bmap;
mod boot_partition;
mod build;
mod contents;
mod disk;
mod error;
mod filesystem;
mod flash;
mod import;
mod layout;
mod open;
mod order;
mod read_table;
mod rootfs;
mod sweep;
mod table;
mod tools;

pub use bill::InstalledPackage;
pub use bmap::{BLOCK, Bmap, BmapError, MappedRange};
pub use build::{ImageFile, ImageRecord, RootfsRecord, build};
pub use error::BuildError;
pub use flash::{Disk, FlashError, Flashed, Progress, Refusal, flash, may_flash};
pub use import::{Import, ImportError, import};
pub use layout::{Layout, MIB, Partition, Purpose, SECTOR, Sizes, TableKind};
pub use open::{OpenImage, bmap_beside, open_image};
pub use order::{BuildEvent, Order};
pub use read_table::{FoundPartition, NoTable};
pub use table::{Write, partition_table};
