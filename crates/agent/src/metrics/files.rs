//! Small files of the kernel and of programs, below a root so that a test has a machine of its own.
//! Whatever is wrong with one, it is not there: a look with holes is better than none.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// No file that is read in each look is longer than this in truth: `/proc/self/mountinfo` of a machine
/// with a thousand containers.
const LONGEST: u64 = 1 << 20;

/// The most entries of a folder that are looked at.
const ENTRIES: usize = 1000;

/// The machine's files.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Those below `root`, which is `/` on a device.
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Where a path of the machine really is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// What a file holds, its first mebibyte. Only of plain files: whoever puts a pipe there must not
    /// make the agent wait.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = self.at(path);
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(&path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The whole number that a file holds.
    pub fn number(&self, path: &str) -> Option<f64> {
        whole(self.text(path)?.trim())
    }

    /// The names in a folder, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.take(ENTRIES).filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// True if there is something at this path.
    pub fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }
}

/// A whole number of the kernel, which has no sign, no fraction and nothing else.
#[expect(clippy::cast_precision_loss, reason = "counters above 2^53 are off by a few")]
pub fn whole(text: &str) -> Option<f64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse::<u64>().ok().map(|number| number as f64) } else { None }
}
