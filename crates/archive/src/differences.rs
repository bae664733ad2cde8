//! Writes the differences between the states of a suite, and finds those that were written. What
//! is in them is in `pdiff`.
//!
//! Each leads from one state to the next, and a device that is some states behind applies one
//! after the other. So a publish makes one, however many states are offered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use volary_debian::release::Release;
use volary_host::FileError;
use volary_model::Component;

use crate::files::Prepared;
use crate::listing::Listed;
use crate::pdiff::{self, Patch};
use crate::publish::make_dir;
use crate::render::Blob;
use crate::set::IndexKind;
use crate::state::Past;

/// How many earlier states are offered whatever their age. Each costs some 150 bytes in the list that
/// every device fetches when something changed; with four the whole update stays below 4 kB.
const LEAST: usize = 4;

/// States that were replaced less than this ago are offered too, as many as are remembered: who
/// updates while publishes come back to back holds one of them. apt 3.0 prints an error, though it
/// goes on with the whole index, when the state that it holds is not in the list. An update takes
/// some seconds on a slow machine.
const RECENT: SignedDuration = SignedDuration::from_secs(20);

/// The differences from earlier states to one Packages index.
pub(crate) struct Differences<'a> {
    pub(crate) component: &'a Component,
    pub(crate) kind: &'a IndexKind,
    pub(crate) listed: Listed<'a>,
    pub(crate) to: Blob,
    /// The size of the smallest form in which the whole index is fetched.
    pub(crate) packed: u64,
    /// Oldest first.
    pub(crate) history: &'a [Past<'a>],
    pub(crate) known: &'a KnownPatches,
    pub(crate) now: Timestamp,
}

/// What `Differences` wrote.
pub(crate) struct WrittenDifferences {
    /// The list of all.
    pub(crate) index: Blob,
    /// The list as apt fetches it, half as large; it wants the plain one listed as well.
    pub(crate) index_gz: Blob,
    /// The folders and what is in use in them.
    pub(crate) current: Vec<(PathBuf, Vec<String>)>,
}

/// A Packages index by its path, and the name of a difference to it.
type Key = (String, String);

/// What came of making a difference; `None` if it is too long to be offered.
type Made = Option<Arc<Patch>>;

/// The differences that were looked at last, so that each is made once and not by every publish.
/// That one is too long costs as much to find out as to make it.
#[derive(Debug, Default)]
pub(crate) struct KnownPatches {
    patches: Mutex<BTreeMap<Key, Made>>,
}

impl KnownPatches {
    fn get(&self, path: &str, name: &str) -> Option<Made> {
        let known = self.patches.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(path.to_owned(), name.to_owned())).cloned()
    }

    /// Knows these of an index by their names, and forgets its others.
    fn replace(&self, path: &str, made: Vec<(String, Made)>) {
        let mut known = self.patches.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, ..), _| of != path);
        known.extend(made.into_iter().map(|(name, made)| ((path.to_owned(), name), made)));
    }
}

impl Differences<'_> {
    /// Writes the scripts that are not there yet, and the list of all; `None` if none is offered.
    pub(crate) fn write(&self, folder: &Path) -> Result<Option<WrittenDifferences>, FileError> {
        let path = format!("{}/{}", self.component, self.kind);
        let patches = self.chain(&path, folder)?;
        if patches.is_empty() {
            return Ok(None);
        }
        let text = pdiff::index(&self.to, &patches).into_bytes();
        let packed = crate::frame::gzip(&text);
        let (index, index_gz) = (Blob::of(&text), Blob::of(&packed));
        let by_hash = folder.join("by-hash/SHA256");
        make_dir(&by_hash)?;
        for (blob, bytes) in [(index, text), (index_gz, packed)] {
            let path = by_hash.join(blob.sha256.hex());
            if fs::read(&path).ok().as_ref() != Some(&bytes) {
                Prepared::write(path, [&bytes[..]], None)?.place()?;
                volary_host::sync_dir(&by_hash)?;
            }
        }
        let names = patches.iter().map(|patch| format!("{}.gz", patch.name)).collect();
        let lists = vec![index.sha256.hex(), index_gz.sha256.hex()];
        let current = vec![(by_hash, lists), (folder.to_owned(), names)];
        Ok(Some(WrittenDifferences { index, index_gz, current }))
    }

    /// The differences from each state that is offered to the next one, oldest first. They are known
    /// from then on.
    fn chain(&self, path: &str, folder: &Path) -> Result<Vec<Arc<Patch>>, FileError> {
        let mut after = State { listed: self.listed, index: self.to };
        let mut patches: Vec<Arc<Patch>> = Vec::new();
        let mut all_made = Vec::new();
        let mut bytes = 0;
        for past in self.history.iter().rev() {
            let Some(&index) = past.indexes.get(path) else { break };
            // A publish leaves the indexes of other architectures as they are.
            if index == after.index {
                continue;
            }
            // A state that comes again has a shorter way already.
            let again = index == self.to || patches.iter().any(|patch| patch.from == index);
            let recent = self.now.duration_since(past.until) <= RECENT;
            if again || patches.len() >= LEAST && !recent {
                break;
            }
            let before = State { listed: past.listing.component(self.component), index };
            let name = pdiff::patch_name(past.number, &after.index);
            let known = self.known.get(path, &name);
            let made = match known.filter(|made| made.as_ref().is_none_or(|patch| is_there(folder, patch))) {
                Some(made) => made,
                None => self.make(folder, name.clone(), &before, &after)?.map(Arc::new),
            };
            all_made.push((name, made.clone()));
            let Some(patch) = made else { break };
            // apt refuses differences that are larger than the whole index.
            bytes += patch.gz.size;
            if bytes > self.packed {
                break;
            }
            patches.push(patch);
            after = before;
        }
        patches.reverse();
        self.known.replace(path, all_made);
        Ok(patches)
    }

    /// Makes and writes the difference between two states; `None` if it is too long.
    fn make(
        &self,
        folder: &Path,
        name: String,
        before: &State<'_>,
        after: &State<'_>,
    ) -> Result<Option<Patch>, FileError> {
        let limit = longest(after.index.size);
        let Some(script) = pdiff::script(before.listed, after.listed, self.kind, limit) else {
            return Ok(None);
        };
        let gz = crate::frame::gzip(script.as_bytes());
        make_dir(folder)?;
        // Not flushed: when a power cut takes it, apt fetches the whole index instead, and `open`
        // writes it again.
        Prepared::unflushed(folder.join(format!("{name}.gz")), &gz)?.place()?;
        let (plain, gz) = (Blob::of(script.as_bytes()), Blob::of(&gz));
        Ok(Some(Patch { name, from: before.index, plain, gz }))
    }
}

/// A state of the index.
struct State<'a> {
    listed: Listed<'a>,
    index: Blob,
}

fn is_there(folder: &Path, patch: &Patch) -> bool {
    fs::metadata(folder.join(format!("{}.gz", patch.name))).is_ok_and(|meta| meta.len() == patch.gz.size)
}

/// The longest script that is worth writing to an index of that many bytes. Beyond a quarter of it,
/// packed better as it is, there is nothing to gain for a device.
fn longest(size: u64) -> u64 {
    (size / 4).clamp(16 << 10, 256 << 10)
}

/// Where the differences lie that the lists of a Release file offer. A list that cannot be read
/// offers none.
pub(crate) fn offered<'a>(dir: &'a Path, release: &'a Release) -> impl Iterator<Item = PathBuf> + 'a {
    release.files.iter().flat_map(move |(path, file)| {
        let folder = path.strip_suffix("/Index").map(|folder| dir.join(folder));
        let list = folder.as_ref().map(|folder| folder.join("by-hash/SHA256").join(&file.sha256));
        let text = list.and_then(|list| fs::read_to_string(list).ok()).unwrap_or_default();
        let names: Vec<PathBuf> = folder
            .iter()
            .flat_map(|folder| pdiff::downloads(&text).map(|(name, ..)| folder.join(name)))
            .collect();
        names
    })
}
