//! What a boot script has to know about a disk.

use volary_model::Slot;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// GUID.
    Gpt,
    /// Master boot record.
    Mbr,
}

/// What a boot script has to know about a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The partition table.
    pub table: Table,
    /// The number of the partition `bootenv`, from 1.
    pub bootenv: u32,
    /// The number of slot A's partition.
    pub root_a: u32,
    /// The number of slot B's.
    pub root_b: u32,
    /// What the kernel knows slot A by, after `root=`: `PARTLABEL=root-a`.
    pub device_a: String,
    /// What the kernel knows slot B by.
    pub device_b: String,
    /// The kernel in each slot: `/vmlinuz`.
    pub kernel: String,
    /// The initial RAM disk in each slot, which need not be there: `/initrd.img`.
    pub initrd: String,
    /// The kernel's command line without `root=`; at least `ro panic=10` and what a console needs.
    pub arguments: Vec<String>,
    /// Lines that the script begins with: what the boot loader's own console needs.
    pub preamble: Vec<String>,
}

/// Something in a [`Layout`] would break the script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} cannot stand in a boot script: use letters, digits and any of \"{ALLOWED}\"")]
pub struct LayoutError {
    text: String,
}

/// What neither shell gives a meaning to.
const ALLOWED: &str = "-_.,:=/+@%";

impl Layout {
    /// That every word of it can stand in a script as it is.
    pub(crate) fn check(&self) -> Result<(), LayoutError> {
        let words = [&self.device_a, &self.device_b, &self.kernel, &self.initrd];
        Self::check_words(words.into_iter().chain(&self.arguments))
    }

    pub(crate) fn check_words<'a>(words: impl IntoIterator<Item = &'a String>) -> Result<(), LayoutError> {
        for word in words {
            let fits = |c: char| c.is_ascii_alphanumeric() || ALLOWED.contains(c);
            if word.is_empty() || !word.chars().all(fits) {
                return Err(LayoutError { text: word.clone() });
            }
        }
        Ok(())
    }

    /// The number of a slot's partition.
    pub const fn root(&self, slot: Slot) -> u32 {
        match slot {
            Slot::A => self.root_a,
            Slot::B => self.root_b,
        }
    }

    /// What the kernel knows a slot by.
    pub fn device(&self, slot: Slot) -> &str {
        match slot {
            Slot::A => &self.device_a,
            Slot::B => &self.device_b,
        }
    }
}
