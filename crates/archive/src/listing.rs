//! In which order the Packages indexes of rolling list it. Not here: the indexes themselves.
//!
//! An index is hashed from its first change on, and one SHA-256 is a chain: in a large index that is
//! much of what a publish costs. So there the newest packages come at the end, where next to nothing
//! follows them, and the versions whose place they take are listed as well until the index is written
//! in order of name again: when there are too many, or after a quiet hour (`upkeep`). apt takes the
//! highest version. Releases are always in order of name.

use std::sync::{Arc, LazyLock};

use volary_model::Component;

use crate::content::{Content, Edits, Place};
use crate::entry::PackageEntry;
use crate::set::PackageSet;

/// How many packages may stand at the end. To write the index in order again costs what it costs to
/// compress as many chunks, and a device fetches some 100 bytes for each of them.
const NEWS: usize = 64;

/// The packages of rolling in the order in which its Packages indexes list them. Copies share what
/// they have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// What comes first, in order of name: rolling as it was at some time.
    pub(crate) base: Content,
    /// What came since then, in order of name.
    pub(crate) news: Content,
}

impl Listing {
    /// All in order of name.
    pub(crate) fn in_order(content: Content) -> Self {
        Self { base: content, news: Content::default() }
    }

    /// The listing after these changes, which come to its end.
    pub(crate) fn with_news(&self, edits: &Edits) -> Self {
        Self { base: self.base.clone(), news: self.news.with(edits) }
    }

    /// True if changes come to the end, in an archive that does so with components of `from` packages on.
    /// They may not if a package goes or comes back in an earlier version, since what stands before would be
    /// taken for the newest.
    pub(crate) fn takes(&self, edits: &Edits, from: usize) -> bool {
        let rises = |((component, name, architecture), edit): (&Place, &Option<Arc<PackageEntry>>)| {
            let (Some(set), Some(entry)) = (self.base.component(component), edit) else { return false };
            set.get(name, architecture).is_none_or(|there| there.version < entry.version)
        };
        let is_large = |(component, ..): &Place| {
            self.base.component(component).is_some_and(|set| set.binaries() >= from)
        };
        edits.keys().any(is_large)
            && self.news.iter().count() + edits.len() <= NEWS
            && edits.iter().all(rises)
    }

    /// What is listed of a component.
    pub(crate) fn component(&self, component: &Component) -> Listed<'_> {
        let [base, news] = [&self.base, &self.news].map(|content| content.component(component));
        Listed { base: base.unwrap_or(&NOTHING), news: news.unwrap_or(&NOTHING) }
    }
}

static NOTHING: LazyLock<PackageSet> = LazyLock::new(PackageSet::default);

/// What an index lists: first one set, then another one, each in order of name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub(crate) base: &'a PackageSet,
    pub(crate) news: &'a PackageSet,
}

impl<'a> Listed<'a> {
    /// One set alone.
    pub(crate) fn in_order(set: &'a PackageSet) -> Self {
        Self { base: set, news: &NOTHING }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::place_of;
    use crate::frame::FrameCache;
    use crate::pdiff;
    use crate::render::{self, Blob, Index};
    use crate::set::IndexKind;
    use crate::set::samples::entry;

    fn edits(entries: &[(u32, &str, u32)]) -> Edits {
        let entry = |&(number, architecture, version): &(u32, &str, u32)| {
            entry(&format!("package-{number:04}"), architecture, &version.to_string())
        };
        entries.iter().map(entry).map(|entry| (place_of(&entry), Some(entry))).collect()
    }

    fn gone(entries: &[(u32, &str, u32)]) -> Edits {
        edits(entries).into_keys().map(|place| (place, None)).collect()
    }

    fn kind(architecture: &str) -> IndexKind {
        IndexKind::Packages(architecture.parse().unwrap())
    }

    fn text(listing: &Listing, kind: &IndexKind) -> String {
        let Listed { base, news } = listing.component(&Component::main());
        let chunks = base.chunks().iter().chain(news.chunks());
        chunks.map(|chunk| String::from_utf8(chunk.text(kind).to_vec()).unwrap()).collect()
    }

    #[test]
    fn only_what_rises_comes_to_the_end() {
        let whole = Content::default().with(&edits(&[(1, "amd64", 5), (2, "all", 5)]));
        let listing = Listing::in_order(whole);
        assert!(listing.takes(&edits(&[(1, "amd64", 6), (3, "arm64", 1)]), 0));
        assert!(
            listing.takes(&edits(&[(3, "arm64", 1)]), 2) && !listing.takes(&edits(&[(3, "arm64", 1)]), 3)
        );
        for no in [edits(&[(1, "amd64", 5)]), edits(&[(1, "amd64", 4)]), gone(&[(1, "amd64", 5)])] {
            assert!(!listing.takes(&no, 0), "{no:?}");
        }
        // A second rise takes the place of the first at the end; a fall below the base is none.
        let listing = listing.with_news(&edits(&[(1, "amd64", 9)]));
        assert!(
            listing.takes(&edits(&[(1, "amd64", 7)]), 0) && !listing.takes(&edits(&[(1, "amd64", 3)]), 0)
        );
    }

    #[test]
    fn the_end_takes_so_many() {
        let mut listing = Listing::in_order(Content::default().with(&edits(&[(1, "amd64", 1)])));
        for number in 0..NEWS as u32 {
            let next = edits(&[(100 + number, "amd64", 1)]);
            assert!(listing.takes(&next, 0));
            listing = listing.with_news(&next);
        }
        assert!(!listing.takes(&edits(&[(500, "amd64", 1)]), 0));
    }

    /// Applies an ed script as apt does: from its first command on, each to the lines as they are then.
    fn apply(script: &str, text: &str) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        let mut script = script.lines();
        while let Some(command) = script.next() {
            let (range, verb) = command.split_at(command.len() - 1);
            let (first, last) = range.split_once(',').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let put: Vec<&str> = if verb == "d" {
                Vec::new()
            } else {
                script.by_ref().take_while(|line| *line != ".").collect()
            };
            let range = if verb == "a" { first..first } else { first - 1..last };
            lines.splice(range, put);
        }
        lines.iter().flat_map(|line| [*line, "\n"]).collect()
    }

    #[test]
    fn indexes_are_what_is_listed_and_differences_lead_from_each_to_the_next() {
        let cache = FrameCache::default();
        let all: Vec<_> = (0..600).flat_map(|number| [(number, "amd64", 1), (number, "arm64", 1)]).collect();
        let mut listing = Listing::in_order(Content::default().with(&edits(&all)));
        let mut content = listing.base.clone();
        let mut seed = 7_u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        let (mut at_end, mut in_order) = (0, 0);
        for step in 2..200 {
            let number = next(700);
            let architecture = ["amd64", "arm64", "all"][next(3) as usize];
            let change = match next(30) {
                0 => gone(&[(number, architecture, 0)]),
                _ => edits(&[(number, architecture, step)]),
            };
            content = content.with(&change);
            let before = listing.clone();
            listing = if listing.takes(&change, 0) {
                at_end += 1;
                listing.with_news(&change)
            } else {
                in_order += 1;
                Listing::in_order(content.clone())
            };
            let main = Component::main();
            for kind in ["amd64", "arm64", "armhf"].map(kind) {
                let base = before.base.component(&main);
                let index: Arc<Index> = render::listed(listing.component(&main), &kind, &cache, base);
                let expected = text(&listing, &kind);
                assert_eq!(index.plain, Blob::of(expected.as_bytes()), "{kind} after change {step}");
                let gz: Vec<u8> = index.frames().flat_map(|frame| frame.gz.iter().copied()).collect();
                assert_eq!(index.gz, Blob::of(&gz));
                let unpacked = std::io::read_to_string(flate2::read::MultiGzDecoder::new(&gz[..])).unwrap();
                assert_eq!(unpacked, expected, "{kind} after change {step}");
                let (old, new) = (before.component(&main), listing.component(&main));
                let script = pdiff::script(old, new, &kind, u64::MAX).unwrap();
                assert_eq!(
                    apply(&script, &text(&before, &kind)),
                    expected,
                    "{kind} after change {step}: {script}"
                );
                // Whatever is in the suite is listed.
                for entry in content.iter().filter(|entry| kind.has(entry)) {
                    assert!(expected.contains(&*entry.stanza), "{entry} after change {step}");
                }
            }
        }
        assert!(at_end > 100 && in_order > 5, "{at_end} and {in_order}");
    }
}
