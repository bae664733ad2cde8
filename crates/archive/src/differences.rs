//! Writes the differences between the states of a suite, and finds those that were written. What
//! is in them is in `pdiff`.

use std::path::{Path, PathBuf};

use volary_debian::release::Release;
use volary_host::FileError;
use volary_model::Component;

use crate::files::{self, Prepared};
use crate::pdiff::{self, Patch};
use crate::publish::make_dir;
use crate::render::Blob;
use crate::set::{IndexKind, PackageSet};
use crate::state::Past;

/// The differences from earlier states to one Packages index.
pub(crate) struct Differences<'a> {
    pub(crate) component: &'a Component,
    pub(crate) kind: &'a IndexKind,
    pub(crate) set: &'a PackageSet,
    pub(crate) to: Blob,
    pub(crate) history: &'a [Past<'a>],
}

/// What `Differences` wrote.
pub(crate) struct WrittenDifferences {
    pub(crate) index: Blob,
    /// The folders and what is in use in them.
    pub(crate) current: Vec<(PathBuf, Vec<String>)>,
}

impl Differences<'_> {
    /// Writes the scripts and the list of them; `None` if there is no earlier state.
    pub(crate) fn write(&self, folder: &Path) -> Result<Option<WrittenDifferences>, FileError> {
        let path = format!("{}/{}", self.component, self.kind);
        let nothing = PackageSet::default();
        let limit = longest(self.to.size);
        let mut patches: Vec<Patch> = Vec::new();
        for past in self.history {
            let Some(from) = past.indexes.get(&path).filter(|from| **from != self.to) else {
                continue;
            };
            let name = pdiff::patch_name(from, &self.to);
            if patches.iter().any(|patch| patch.name == name) {
                continue;
            }
            let set = past.content.component(self.component).unwrap_or(&nothing);
            let Some(script) = pdiff::script(set, self.set, self.kind, limit) else { continue };
            let gz = crate::frame::gzip(script.as_bytes());
            make_dir(folder)?;
            let path = folder.join(format!("{name}.gz"));
            // Not flushed: when a power cut takes it, apt fetches the whole index instead, and
            // `open` writes it again.
            Prepared::unflushed(path, &gz)?.place()?;
            patches.push(Patch { name, from: *from, plain: Blob::of(script.as_bytes()), gz: Blob::of(&gz) });
        }
        if patches.is_empty() {
            return Ok(None);
        }
        let text = pdiff::index(&self.to, &patches);
        let index = Blob::of(text.as_bytes());
        let by_hash = folder.join("by-hash/SHA256");
        make_dir(&by_hash)?;
        let path = by_hash.join(index.sha256.hex());
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            Prepared::write(path, [text.as_bytes()], None)?.place()?;
            volary_host::sync_dir(&by_hash)?;
        }
        let names = patches.iter().map(|patch| format!("{}.gz", patch.name)).collect();
        let current = vec![(by_hash, vec![index.sha256.hex()]), (folder.to_owned(), names)];
        Ok(Some(WrittenDifferences { index, current }))
    }
}

/// The longest script that is worth writing to an index of that many bytes. Beyond a quarter of it,
/// packed better as it is, there is nothing to gain for a device, and each publish after a large
/// import would write all of the import again, for as long as the state before it is remembered.
fn longest(size: u64) -> u64 {
    (size / 4).clamp(16 << 10, 256 << 10)
}

/// Where the differences lie that lead to a Packages index (its path) of a Release file.
pub(crate) fn patches_to(dir: &Path, release: &Release, path: &str) -> Result<Vec<PathBuf>, FileError> {
    let Some(file) = release.files.get(path) else { return Ok(Vec::new()) };
    let ending = format!("{}.gz", pdiff::patch_ending(&file.sha256));
    let folder = dir.join(format!("{path}.diff"));
    let names = files::list(&folder)?.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| name.ends_with(&ending)).map(|name| folder.join(name)).collect())
}
