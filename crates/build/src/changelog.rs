//! debian/changelog: what its newest entry says, and a new entry on top. Pure text work.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::version::{InvalidVersion, check_version};

/// The newest entry of a changelog in the format of deb-changelog(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changelog {
    /// The source package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Where it was meant to go: `unstable`, `UNRELEASED`.
    pub distribution: String,
    /// `low`, `medium`, …
    pub urgency: String,
}

/// What is wrong with a changelog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangelogError {
    /// Nothing but blank lines.
    #[error("it is empty; write an entry with `dch --create`")]
    Empty,
    /// The first line that is not blank is not the head of an entry.
    #[error(
        "line {line} should read \"package (version) distribution; urgency=medium\" but is {text:?}; \
         `dpkg-parsechangelog` checks it"
    )]
    Head {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// The version is no Debian version.
    #[error("line {line}: {source}")]
    Version {
        /// Counted from 1.
        line: usize,
        /// Which rule it breaks.
        source: InvalidVersion,
    },
}

/// What a new entry says.
#[derive(Debug, Clone)]
pub struct NewEntry<'a> {
    /// The new version.
    pub version: &'a str,
    /// What changed: the commit's subject.
    pub change: &'a str,
    /// Who changed it.
    pub name: &'a str,
    /// Their mail address.
    pub email: &'a str,
    /// When; the build takes this as its clock (`SOURCE_DATE_EPOCH`).
    pub date: Timestamp,
}

impl Changelog {
    /// Reads the newest entry's first line.
    ///
    /// # Errors
    /// [`ChangelogError`] with the line.
    pub fn parse(text: &str) -> Result<Self, ChangelogError> {
        let (line, head) = text
            .lines()
            .enumerate()
            .find(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| (index + 1, line))
            .ok_or(ChangelogError::Empty)?;
        let entry = head_of(head)
            .ok_or_else(|| ChangelogError::Head { line, text: head.chars().take(80).collect() })?;
        check_version(&entry.version).map_err(|source| ChangelogError::Version { line, source })?;
        Ok(entry)
    }

    /// The changelog `text` with a new entry on top that keeps this entry's package, distribution
    /// and urgency.
    pub fn with_entry(&self, text: &str, entry: &NewEntry<'_>) -> String {
        let mut new = String::new();
        let date = entry.date.strftime("%a, %d %b %Y %H:%M:%S +0000");
        writeln!(
            new,
            "{} ({}) {}; urgency={}\n\n  * {}\n\n -- {} <{}>  {date}\n",
            self.package,
            entry.version,
            self.distribution,
            self.urgency,
            or(one_line(entry.change), "No subject."),
            or(one_line(entry.name).replace(['<', '>'], ""), "Unknown"),
            or(one_line(entry.email).replace(['<', '>', ' '], ""), "unknown@localhost"),
        )
        .expect("a String takes any write");
        new + text
    }
}

/// A commit may say anything; a line of the changelog must stay one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text }
}

fn head_of(line: &str) -> Option<Changelog> {
    if line.starts_with(char::is_whitespace) {
        return None;
    }
    let (package, rest) = line.split_once(char::is_whitespace)?;
    let (version, rest) = rest.trim_start().strip_prefix('(')?.split_once(')')?;
    let (distribution, options) = rest.split_once(';')?;
    let valid = package.len() >= 2
        && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let distribution = distribution.trim();
    let safe =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b';' || b == b' ');
    if !valid || !safe(distribution) {
        return None;
    }
    let urgency = options
        .split(',')
        .filter_map(|option| option.trim().split_once('='))
        .find(|(key, _)| key.eq_ignore_ascii_case("urgency"))
        .map_or("medium", |(_, value)| value.trim());
    Some(Changelog {
        package: package.to_owned(),
        version: version.trim().to_owned(),
        distribution: distribution.to_owned(),
        urgency: if safe(urgency) { urgency.to_owned() } else { "medium".to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_host::Cmd;

    const OLD: &str = "hello (2.10-3) unstable; urgency=low\n\n  * Old.\n\n -- A B <a@b.org>  Mon, 26 Dec 2022 16:30:00 +0100\n";

    #[test]
    fn the_newest_entry_is_read() {
        let check = |text: &str, expected: [&str; 4]| {
            let entry = Changelog::parse(text).unwrap();
            let read = [&entry.package, &entry.version, &entry.distribution, &entry.urgency];
            assert_eq!(read, expected, "{text:?}");
        };
        check(OLD, ["hello", "2.10-3", "unstable", "low"]);
        check("\n \nlibx++ (1:2~a) a b;urgency=high,binary-only=yes\n", ["libx++", "1:2~a", "a b", "high"]);
        check("x1 (1) UNRELEASED; \n", ["x1", "1", "UNRELEASED", "medium"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let check = |text: &str, part: &str| {
            let error = Changelog::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        };
        check("\n\n", "it is empty");
        check("<<<<<<< HEAD\nhello (1) u; urgency=low\n", "line 1 should read");
        check("\nhello 1.0 unstable; urgency=low\n", "line 2 should read");
        check("Hello (1) u;\n", "line 1 should read");
        check("hello (1_0) u; urgency=low\n", "line 1: version \"1_0\" is not");
        check("  hello (1) u;\n", "line 1 should read");
        check("hello (1) ;\n", "line 1 should read");
    }

    #[test]
    fn dpkg_reads_the_new_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changelog");
        let entry = NewEntry {
            version: "2.10-3+git1.20261122.a1b2c3d",
            change: "Say hello\n -- X <y>  in\tcolour",
            name: "Zoë <Q>",
            email: "zoe@example.org",
            date: "2026-11-22T10:00:05Z".parse().unwrap(),
        };
        let text = Changelog::parse(OLD).unwrap().with_entry(OLD, &entry);
        volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        let read = Cmd::new("dpkg-parsechangelog").arg("-l").arg(&path).check().unwrap();
        let said = format!("{}{}", read.text(), String::from_utf8_lossy(&read.stderr));
        for line in [
            "Version: 2.10-3+git1.20261122.a1b2c3d",
            "Distribution: unstable",
            "Urgency: low",
            "Maintainer: Zoë Q <zoe@example.org>",
            "Date: Sun, 22 Nov 2026 10:00:05 +0000",
            "Timestamp: 1795341605",
        ] {
            assert!(said.contains(line), "{line} in {said}");
        }
        assert!(!said.contains("warning"), "{said}");
        assert!(text.ends_with(OLD));
    }

    #[test]
    fn a_silent_commit_still_makes_an_entry() {
        let entry =
            NewEntry { version: "2", change: " ", name: "", email: "<>", date: Timestamp::UNIX_EPOCH };
        let text = Changelog::parse(OLD).unwrap().with_entry(OLD, &entry);
        assert!(
            text.contains("  * No subject.\n\n -- Unknown <unknown@localhost>  Thu, 01 Jan 1970"),
            "{text}"
        );
    }
}
