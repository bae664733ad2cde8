//! `debian/changelog` (deb-changelog(5)): its entries, newest first. Not here: writing one.

use crate::version::{InvalidVersion, Version};

/// One entry of a changelog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The source package.
    pub source: String,
    /// The version that it describes.
    pub version: Version,
    /// Where it was meant to go: `unstable`, `UNRELEASED`. Several are separated by spaces.
    pub distribution: String,
    /// What changed, as written, without the surrounding empty lines.
    pub changes: String,
    /// Who made it and when, as written after ` -- `; empty if the entry is unfinished.
    pub trailer: String,
}

/// What is wrong with a changelog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangelogError {
    /// No entry at all.
    #[error(
        "the changelog has no entry; its first line must be like \"hello (1.0-1) unstable; urgency=medium\""
    )]
    Empty,
    /// A line where an entry must begin does not look like one.
    #[error("line {line}: an entry must begin like \"hello (1.0-1) unstable; urgency=medium\"")]
    Heading {
        /// Counted from 1.
        line: usize,
    },
    /// The version of an entry.
    #[error("line {line}: {error}")]
    Version {
        /// Counted from 1.
        line: usize,
        /// Why it is no version.
        error: InvalidVersion,
    },
}

/// Reads the topmost entry.
///
/// # Errors
/// [`ChangelogError`].
pub fn top(text: &str) -> Result<Entry, ChangelogError> {
    entries(text).next().unwrap_or(Err(ChangelogError::Empty))
}

/// The entries that came after `old` up to and with `new`, newest first.
///
/// # Errors
/// [`ChangelogError`] of an entry in that range; older ones are not looked at.
pub fn between(text: &str, old: &Version, new: &Version) -> Result<Vec<Entry>, ChangelogError> {
    let mut found = Vec::new();
    for entry in entries(text) {
        let entry = entry?;
        if entry.version <= *old {
            break;
        }
        if entry.version <= *new {
            found.push(entry);
        }
    }
    Ok(found)
}

/// All entries, newest first. Ends after the first error.
pub fn entries(text: &str) -> impl Iterator<Item = Result<Entry, ChangelogError>> {
    let mut lines = text.lines().enumerate().peekable();
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        while lines.next_if(|(_, line)| line.trim().is_empty()).is_some() {}
        let (index, heading) = lines.next()?;
        let mut entry = match parse_heading(heading, index + 1) {
            Ok(entry) => entry,
            Err(error) => {
                failed = true;
                return Some(Err(error));
            }
        };
        let mut changes: Vec<&str> = Vec::new();
        while let Some((_, line)) =
            lines.next_if(|(_, line)| line.is_empty() || line.starts_with(char::is_whitespace))
        {
            if let Some(trailer) = line.strip_prefix(" -- ") {
                entry.trailer = trailer.trim().to_owned();
                break;
            }
            changes.push(line.trim_end());
        }
        entry.changes = changes.join("\n").trim_matches('\n').to_owned();
        Some(Ok(entry))
    })
}

fn parse_heading(line: &str, number: usize) -> Result<Entry, ChangelogError> {
    let wrong = || ChangelogError::Heading { line: number };
    let (source, rest) = line.split_once(" (").ok_or_else(wrong)?;
    let (version, rest) = rest.split_once(')').ok_or_else(wrong)?;
    let (distribution, _) = rest.split_once(';').ok_or_else(wrong)?;
    if !crate::is_package_name(source) {
        return Err(wrong());
    }
    let version = version.parse().map_err(|error| ChangelogError::Version { line: number, error })?;
    Ok(Entry {
        source: source.to_owned(),
        version,
        distribution: distribution.split_whitespace().collect::<Vec<_>>().join(" "),
        changes: String::new(),
        trailer: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "hello (2.0-1) unstable; urgency=medium

  * New upstream.

 -- A B <a@example.com>  Sun, 22 Nov 2026 10:00:00 +0000

hello (1.5-1) unstable; urgency=medium

  * Fix.
    More.

 -- A B <a@example.com>  Sat, 21 Nov 2026 10:00:00 +0000

hello (1.0-1) UNRELEASED; urgency=low

  * First.

 -- A B <a@example.com>  Fri, 20 Nov 2026 10:00:00 +0000
";

    #[test]
    fn the_top_entry_is_read() {
        let entry = top(TEXT).unwrap();
        assert_eq!((entry.source.as_str(), entry.version.as_str()), ("hello", "2.0-1"));
        assert_eq!((entry.distribution.as_str(), entry.changes.as_str()), ("unstable", "  * New upstream."));
        assert!(entry.trailer.starts_with("A B <a@example.com>"));
    }

    #[test]
    fn entries_between_two_versions() {
        let found = between(TEXT, &"1.0-1".parse().unwrap(), &"2.0-1".parse().unwrap()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].changes, "  * Fix.\n    More.");
        assert!(between(TEXT, &"2.0-1".parse().unwrap(), &"3".parse().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn wrong_changelogs_are_refused() {
        assert_eq!(top(""), Err(ChangelogError::Empty));
        for text in ["hello", "hello (1.0", "hello (1.0) unstable", "Hello (1.0) a; b", "hello (x) a; b"] {
            assert!(top(text).is_err(), "{text}");
        }
    }
}
