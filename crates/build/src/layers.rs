//! Installed dependencies that are kept: a layer per set of packages, and which set answered which
//! question. All of it belongs to one base and goes with it.
//!
//! A layer is not flushed to the disk, which takes seconds on a busy machine, so it must not be
//! trusted after a power cut: its name has the machine's boot id, and one of an earlier boot is
//! never used.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use volary_host::{create_dir, write_atomic};

use crate::base::Base;
use crate::cache::{Cache, Place};
use crate::error::SetupError;
use crate::repository::at;

/// How many layers a base keeps; the least recently used go. One takes about 150 MiB.
const LAYERS: usize = 16;

/// The package lists of Debian itself are fetched again when they are older.
pub(crate) const LISTS_FRESH: SignedDuration = SignedDuration::from_hours(24);

/// The layers of one base, for one build.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub cache: &'a Cache,
    pub base: &'a Base,
    pub place: &'a Place,
}

/// Which packages apt would install, asked earlier. Stored in `resolved/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    version: u32,
    /// The layer's name; none if nothing has to be installed.
    layer: Option<String>,
    /// How old the package lists were that apt looked at.
    lists: Timestamp,
}

impl Layers<'_> {
    fn name(&self, key: &str) -> String {
        format!("{key}.{}", self.cache.boot())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.base.layers().join(self.name(key))
    }

    fn parts(&self, key: &str) -> [String; 2] {
        [self.base.id.clone(), format!("{}/{}", self.base.id, self.name(key))]
    }

    /// What to build over with this layer, the topmost first.
    pub(crate) fn over(&self, key: Option<&str>) -> Vec<PathBuf> {
        key.map(|key| self.path(key)).into_iter().chain([self.base.rootfs()]).collect()
    }

    /// True if the layer is there; then it is noted as used.
    pub(crate) fn claim(&self, key: &str) -> Result<bool, SetupError> {
        let _books = self.cache.lock()?;
        let layer = self.path(key);
        if !layer.exists() {
            return Ok(false);
        }
        self.place.uses(&self.parts(key))?;
        touch(&layer)?;
        Ok(true)
    }

    /// Makes what an installation wrote a layer, and lets the least recently used ones go.
    pub(crate) fn keep(&self, upper: &Path, key: &str) -> Result<(), SetupError> {
        let trash = self.cache.place("old-layers")?;
        let _books = self.cache.lock()?;
        let layer = self.path(key);
        if !layer.exists() {
            fs::rename(upper, &layer).map_err(at("move the new layer to", &layer))?;
            touch(&layer)?;
        }
        self.place.uses(&self.parts(key))?;

        let used = self.cache.in_use()?;
        let all = by_age(&self.base.layers())?;
        let surplus = all.len().saturating_sub(LAYERS);
        for name in all.into_iter().take(surplus) {
            if !used.contains(&format!("{}/{name}", self.base.id)) {
                let from = self.base.layers().join(&name);
                fs::rename(&from, trash.dir().join(&name)).map_err(at("remove", &from))?;
            }
        }
        Ok(())
    }

    fn answer_path(&self, question: &str) -> PathBuf {
        self.base.resolved().join(question)
    }

    /// What was answered to the same question, if the package lists were fresh enough: the layer,
    /// or that nothing has to be installed. It is noted as used.
    pub(crate) fn recall(&self, question: &str) -> Result<Option<Option<String>>, SetupError> {
        let text = fs::read_to_string(self.answer_path(question)).unwrap_or_default();
        // An answer that cannot be read is none: apt gives another.
        let Ok(answer) = serde_json::from_str::<Answer>(&text) else { return Ok(None) };
        let fresh = volary_host::now().duration_since(answer.lists) <= LISTS_FRESH;
        if answer.version != 1 || !fresh {
            return Ok(None);
        }
        match &answer.layer {
            Some(key) if !self.claim(key)? => Ok(None),
            _ => Ok(Some(answer.layer)),
        }
    }

    /// Notes an answer for next time.
    pub(crate) fn remember(
        &self,
        question: &str,
        layer: Option<&str>,
        lists: Timestamp,
    ) -> Result<(), SetupError> {
        let answer = Answer { version: 1, layer: layer.map(str::to_owned), lists };
        let text = serde_json::to_vec(&answer).expect("an answer is plain data");
        create_dir(&self.base.resolved())?;
        Ok(write_atomic(&self.answer_path(question), &text, 0o644)?)
    }
}

fn touch(folder: &Path) -> Result<(), SetupError> {
    let touched = fs::File::open(folder).and_then(|file| file.set_modified(SystemTime::now()));
    Ok(touched.map_err(at("touch", folder))?)
}

/// The names in a folder, the least recently touched first.
fn by_age(folder: &Path) -> Result<Vec<String>, SetupError> {
    let entries = fs::read_dir(folder).map_err(at("read", folder))?.flatten();
    let mut all: Vec<(SystemTime, String)> = entries
        .filter_map(|entry| {
            let age = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            Some((age, entry.file_name().to_string_lossy().into_owned()))
        })
        .collect();
    all.sort();
    Ok(all.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::Isolation;

    struct Fixture {
        _dir: tempfile::TempDir,
        cache: Cache,
        base: Base,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), Isolation::here()).unwrap();
        let base = Base::at(cache.root().join("chroots/x/1"), "x/1", volary_host::now());
        create_dir(&base.layers()).unwrap();
        Fixture { _dir: dir, cache, base }
    }

    impl Fixture {
        fn layers<'a>(&'a self, place: &'a Place) -> Layers<'a> {
            Layers { cache: &self.cache, base: &self.base, place }
        }
    }

    #[test]
    fn the_least_recently_used_layers_go_but_never_one_in_use() {
        let fixture = fixture();
        let first = fixture.cache.place("first").unwrap();
        let other = fixture.cache.place("other").unwrap();
        let keep = |place: &Place, key: &str| {
            let upper = place.dir().join("upper");
            create_dir(&upper).unwrap();
            fixture.layers(place).keep(&upper, key).unwrap();
        };
        keep(&first, "in-use");
        for number in 0..LAYERS {
            keep(&other, &format!("{number:02}"));
        }
        assert!(fixture.layers(&other).claim("00").unwrap());
        keep(&other, "last");
        let is_there = |key: &str| fixture.layers(&other).path(key).exists();
        assert!(is_there("00"), "it was used again");
        assert!(!is_there("01"), "it was the oldest");
        assert!(is_there("02") && is_there("last"));
        assert!(is_there("in-use"));
    }

    #[test]
    fn an_answer_holds_while_its_lists_are_fresh_and_its_layer_is_there() {
        let fixture = fixture();
        let place = fixture.cache.place("p").unwrap();
        let layers = fixture.layers(&place);
        let check = |expected: Option<Option<&str>>| {
            let recalled = layers.recall("q").unwrap();
            assert_eq!(recalled.as_ref().map(Option::as_deref), expected);
        };
        let now = volary_host::now();
        check(None);
        layers.remember("q", Some("k"), now).unwrap();
        check(None);
        create_dir(&fixture.base.layers().join("k.another-boot")).unwrap();
        check(None);
        create_dir(&layers.path("k")).unwrap();
        check(Some(Some("k")));
        layers.remember("q", None, now).unwrap();
        check(Some(None));
        layers.remember("q", None, now - LISTS_FRESH - SignedDuration::from_secs(1)).unwrap();
        check(None);
        write_atomic(&layers.answer_path("q"), b"{\"version\":1", 0o644).unwrap();
        check(None);
    }
}
