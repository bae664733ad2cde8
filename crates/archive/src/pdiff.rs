//! Differences between Packages indexes, as apt applies them: ed scripts that lead from one index
//! to the next, and the `Index` that lists them.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::entry::PackageEntry;
use crate::listing::Listed;
use crate::render::Blob;
use crate::set::{Chunk, IndexKind, PackageSet};

/// A difference as the `Index` lists it.
#[derive(Debug)]
pub(crate) struct Patch {
    /// Unique: apt fetches it by this name and not by its hash.
    pub(crate) name: String,
    /// The plain Packages index that it starts from.
    pub(crate) from: Blob,
    /// The script.
    pub(crate) plain: Blob,
    /// The script as it is fetched.
    pub(crate) gz: Blob,
}

/// The name of the difference from the state with this number to an index. apt applies those that
/// it fetched in the order of their names. Short, because it stands in the list three times.
pub(crate) fn patch_name(number: u64, to: &Blob) -> String {
    format!("{number:08x}-{}", &to.sha256.hex()[..8])
}

/// The text of `Packages.diff/Index` for differences that lead from each to the next one and the
/// last to `current`: apt fetches those from its own state on, and applies them in this order. It
/// wants all four lists with SHA-256, and does without differences when one is missing.
pub(crate) fn index(current: &Blob, patches: &[Arc<Patch>]) -> String {
    let mut text = format!("SHA256-Current: {} {}\n", current.sha256.hex(), current.size);
    type Line = fn(&Patch) -> (&Blob, &'static str);
    let lists: [(&str, Line); 3] = [
        ("History", |patch| (&patch.from, "")),
        ("Patches", |patch| (&patch.plain, "")),
        ("Download", |patch| (&patch.gz, ".gz")),
    ];
    for (list, line) in lists {
        writeln!(text, "SHA256-{list}:").expect("a String takes any write");
        for patch in patches {
            let (blob, ending) = line(patch);
            writeln!(text, " {} {} {}{ending}", blob.sha256.hex(), blob.size, patch.name)
                .expect("a String takes any write");
        }
    }
    text
}

/// The files that an `Index` offers, with their sizes and hashes.
pub(crate) fn downloads(index: &str) -> impl Iterator<Item = (&str, u64, &str)> {
    index.lines().filter_map(|line| {
        let mut words = line.strip_prefix(' ')?.split(' ');
        let (sha256, size) = (words.next()?, words.next()?.parse().ok()?);
        words.next().filter(|name| name.ends_with(".gz")).map(|name| (name, size, sha256))
    })
}

/// Lines of the old index that are replaced by others.
#[derive(Debug, Default)]
struct Hunk {
    /// Counted from 1.
    start: usize,
    count: usize,
    text: String,
}

/// Collects hunks from the first line to the last.
#[derive(Debug)]
struct Hunks {
    all: Vec<Hunk>,
    open: Hunk,
    /// The next line of the old index, counted from 1.
    line: usize,
    /// What the script will have at least.
    bytes: u64,
}

impl Hunks {
    /// Steps over lines that stay.
    fn keep(&mut self, lines: usize) {
        if lines == 0 {
            return;
        }
        self.close();
        self.line += lines;
    }

    fn remove(&mut self, lines: usize) {
        self.begin();
        self.open.count += lines;
        self.line += lines;
    }

    fn add(&mut self, text: &str) {
        self.begin();
        self.bytes += text.len() as u64;
        self.open.text.push_str(text);
    }

    fn begin(&mut self) {
        if self.open.count == 0 && self.open.text.is_empty() {
            self.open.start = self.line;
            self.bytes += SHORTEST;
        }
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        if open.count > 0 || !open.text.is_empty() {
            self.all.push(open);
        }
    }

    /// The ed script: from the last hunk to the first, so that line numbers stay right.
    fn script(mut self) -> String {
        self.close();
        let mut script = String::new();
        for hunk in self.all.iter().rev() {
            let last = hunk.start + hunk.count - 1;
            match (hunk.count, hunk.text.is_empty()) {
                (0, _) => write!(script, "{}a", hunk.start - 1),
                (1, true) => write!(script, "{}d", hunk.start),
                (1, false) => write!(script, "{}c", hunk.start),
                (_, true) => write!(script, "{},{last}d", hunk.start),
                (_, false) => write!(script, "{},{last}c", hunk.start),
            }
            .expect("a String takes any write");
            script.push('\n');
            if !hunk.text.is_empty() {
                script.push_str(&hunk.text);
                script.push_str(".\n");
            }
        }
        script
    }
}

/// The entries of a set in one Packages index, or whole chunks where both sides stand at the
/// beginning of the same one.
struct Cursor<'a> {
    chunks: &'a [Arc<Chunk>],
    at: usize,
    kind: &'a IndexKind,
}

impl<'a> Cursor<'a> {
    fn chunk(&self) -> Option<&'a Arc<Chunk>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn peek(&mut self) -> Option<&'a Arc<PackageEntry>> {
        loop {
            let chunk = self.chunks.first()?;
            match chunk.entries.get(self.at) {
                Some(entry) if self.kind.has(entry) => return Some(entry),
                Some(_) => self.at += 1,
                None => self.skip(),
            }
        }
    }

    fn skip(&mut self) {
        (self.chunks, self.at) = (&self.chunks[1..], 0);
    }

    /// Leaves a chunk of which nothing is left in this index, so that `chunk` sees the next one.
    fn settle(&mut self) {
        if self.at == 0 {
            return;
        }
        let rest = self.chunks.first().map_or(&[][..], |chunk| &chunk.entries[self.at..]);
        match rest.iter().position(|entry| self.kind.has(entry)) {
            Some(others) => self.at += others,
            None => self.skip(),
        }
    }
}

fn lines(entry: &PackageEntry) -> usize {
    // The empty line after a stanza belongs to it.
    entry.stanza.matches('\n').count() + 1
}

/// Bytes of the shortest command of a script: `1d` and the end of the line.
const SHORTEST: u64 = 3;

/// The ed script that makes the index of `new` out of that of `old`; `None` as soon as it is
/// longer than `limit` bytes.
pub(crate) fn script(old: Listed<'_>, new: Listed<'_>, kind: &IndexKind, limit: u64) -> Option<String> {
    let mut hunks = Hunks { all: Vec::new(), open: Hunk::default(), line: 1, bytes: 0 };
    compare(old.base, new.base, kind, limit, &mut hunks)?;
    if !(old.news.is_empty() && new.news.is_empty()) {
        let lines = old.base.lines_before(old.base.chunks().len(), kind);
        hunks.keep(lines + 1 - hunks.line);
        compare(old.news, new.news, kind, limit, &mut hunks)?;
    }
    Some(hunks.script())
}

/// Collects what differs from one set to another in an index; `None` as soon as a script of it is
/// longer than `limit` bytes.
fn compare(
    old: &PackageSet,
    new: &PackageSet,
    kind: &IndexKind,
    limit: u64,
    hunks: &mut Hunks,
) -> Option<()> {
    // Most of a large index is before and after the changes, and is not looked at.
    let start = old.common_start(new);
    let (left, right) = (&old.chunks()[start..], &new.chunks()[start..]);
    let both = left.iter().rev().zip(right.iter().rev());
    let end = both.take_while(|(left, right)| Arc::ptr_eq(left, right)).count();
    let mut left = Cursor { chunks: &left[..left.len() - end], at: 0, kind };
    let mut right = Cursor { chunks: &right[..right.len() - end], at: 0, kind };
    hunks.keep(new.lines_before(start, kind));
    loop {
        if hunks.bytes > limit {
            return None;
        }
        left.settle();
        right.settle();
        if let (Some(a), Some(b)) = (left.chunk(), right.chunk())
            && Arc::ptr_eq(a, b)
        {
            hunks.keep(a.lines(kind));
            left.skip();
            right.skip();
            continue;
        }
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)),
        };
        let from = left.peek().filter(|_| order.is_le());
        let to = right.peek().filter(|_| order.is_ge());
        match (from, to) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => hunks.keep(lines(a)),
            (Some(a), Some(b)) => replace(hunks, a, b),
            (Some(a), None) => hunks.remove(lines(a)),
            (None, Some(b)) => {
                hunks.add(&b.stanza);
                hunks.add("\n");
            }
            (None, None) => unreachable!("one of the two sides is the smaller one"),
        }
        left.at += usize::from(from.is_some());
        right.at += usize::from(to.is_some());
    }
    Some(())
}

/// Replaces a stanza, line by line where the lines correspond.
fn replace(hunks: &mut Hunks, from: &PackageEntry, to: &PackageEntry) {
    if lines(from) != lines(to) {
        hunks.remove(lines(from));
        hunks.add(&to.stanza);
        hunks.add("\n");
        return;
    }
    for (a, b) in from.stanza.split_inclusive('\n').zip(to.stanza.split_inclusive('\n')) {
        if a == b {
            hunks.keep(1);
        } else {
            hunks.remove(1);
            hunks.add(b);
        }
    }
    hunks.keep(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameCache;
    use crate::render;
    use crate::set::samples::{edits, entry};

    fn name(number: u32) -> String {
        format!("package-{number:04}")
    }

    /// Most packages are there for each architecture, so a chunk mostly ends with one that is not
    /// in the index that is compared.
    #[test]
    fn chunks_that_both_have_are_stepped_over_again_after_a_change() {
        let both = |number| ["amd64", "arm64"].map(|architecture| entry(&name(number), architecture, "1"));
        let old = PackageSet::default().with(&edits((0..2000).flat_map(both)));
        let new = old.with(&edits([entry(&name(7), "amd64", "2")]));
        assert!(old.chunks().len() > 20);
        for architecture in ["amd64", "arm64"] {
            let kind = IndexKind::Packages(architecture.parse().unwrap());
            let cursor = |set: &'_ PackageSet| {
                let mut cursor = Cursor { chunks: set.chunks(), at: 0, kind: &kind };
                let entries = cursor.chunks[0].entries.iter().filter(|entry| kind.has(entry)).count();
                for _ in 0..entries {
                    cursor.peek();
                    cursor.at += 1;
                }
                cursor.settle();
                cursor.chunk().map(Arc::as_ptr)
            };
            assert_eq!(cursor(&old), Some(Arc::as_ptr(&old.chunks()[1])));
            assert_eq!(cursor(&new), cursor(&old));
        }
        let amd64 = IndexKind::Packages("amd64".parse().unwrap());
        // Three lines a package; the second of the eighth changed.
        assert_eq!(
            script(Listed::in_order(&old), Listed::in_order(&new), &amd64, 1000).as_deref(),
            Some("23c\nVersion: 2\n.\n")
        );
    }

    /// Lines of chunks that are not looked at are counted by the index, if it is known.
    #[test]
    fn lines_are_counted_from_the_beginning_of_the_index() {
        let both = |number| ["amd64", "arm64"].map(|architecture| entry(&name(number), architecture, "1"));
        let old = PackageSet::default().with(&edits((0..2000).flat_map(both)));
        let amd64 = IndexKind::Packages("amd64".parse().unwrap());
        for number in [0, 47, 900, 1500, 1999] {
            let new = old.with(&edits([entry(&name(number), "amd64", "2")]));
            let expected = format!("{}c\nVersion: 2\n.\n", 3 * number + 2);
            assert_eq!(
                script(Listed::in_order(&old), Listed::in_order(&new), &amd64, 1000).as_ref(),
                Some(&expected)
            );
            render::index(&new, &amd64, &FrameCache::default(), None);
            assert_eq!(script(Listed::in_order(&old), Listed::in_order(&new), &amd64, 1000), Some(expected));
        }
    }
}
