//! Whether dpkg left something half done, from its own database.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files::Root;
use super::sink::Sink;

/// The states of a package that somebody has to end (dpkg(1)). Not those that wait for triggers, which
/// end by themselves.
const BROKEN: [&str; 3] = ["half-installed", "half-configured", "unpacked"];

/// The longest database that is read: that of a desktop has 10 MB.
const LONGEST: u64 = 64 << 20;

/// What was counted last, and in which file: it is read again only when it is another.
#[derive(Debug, Default)]
pub struct Packages {
    known: Option<([i64; 4], f64)>,
}

impl Packages {
    /// Looks.
    pub fn look(&mut self, root: &Root, sink: &mut Sink<'_>) {
        if sink.wants(&["dpkg_broken_packages"]) {
            sink.put("dpkg_broken_packages", self.broken(&root.at("/var/lib/dpkg/status")));
        }
        if root.has("/var/lib/dpkg/updates") {
            let cut_off = !root.names("/var/lib/dpkg/updates").is_empty();
            sink.put("dpkg_interrupted", if cut_off { 1.0 } else { 0.0 });
        }
    }

    fn broken(&mut self, status: &Path) -> Option<f64> {
        let facts = fs::metadata(status).ok().filter(|facts| facts.is_file() && facts.len() <= LONGEST)?;
        let stamp =
            [facts.mtime(), facts.mtime_nsec(), facts.ino().cast_signed(), facts.size().cast_signed()];
        if let Some((_, count)) = self.known.filter(|(known, _)| *known == stamp) {
            return Some(count);
        }
        let text = volary_host::read(status).ok()?;
        let count = count(&text);
        self.known = Some((stamp, count));
        Some(count)
    }
}

fn count(status: &[u8]) -> f64 {
    let lines = status.split(|&byte| byte == b'\n').filter_map(|line| line.strip_prefix(b"Status: "));
    let broken = lines.filter(|line| {
        let words = String::from_utf8_lossy(line);
        let mut words = words.split_whitespace().skip(1);
        words.next() == Some("reinstreq") || words.next().is_some_and(|state| BROKEN.contains(&state))
    });
    f64::from(u32::try_from(broken.count()).unwrap_or(u32::MAX))
}
