//! What lintian says of packages: read, and judged by a policy. It runs in a root of its own, which
//! is the base with lintian installed over it; how that is made is the dependencies' business.

use std::path::Path;

use serde::{Deserialize, Serialize};
use volary_host::{create_dir, write_atomic};

use crate::error::SetupError;

/// More findings than this are not kept: the log has all of them.
const MOST: usize = 200;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which package; a source package has ` source` after its name.
    pub package: String,
    /// What it is called.
    pub tag: String,
    /// Where and what.
    pub detail: String,
}

/// How bad a finding is, by lintian's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// `I`.
    Info,
    /// `W`.
    Warning,
    /// `E`.
    Error,
}

/// What lintian is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LintianPolicy {
    /// It runs.
    pub run: bool,
    /// Severities (`error`, `warning`, `info`) and tags that stop a package.
    pub refuse: Vec<String>,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {} {}", self.severity.word(), self.package, self.tag, self.detail)
    }
}

impl LintianPolicy {
    /// Refuses words that are neither a severity nor look like a tag.
    ///
    /// # Errors
    /// What to write instead.
    pub fn check(words: &[String]) -> Result<(), String> {
        let tag = |word: &String| {
            !word.is_empty()
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c))
        };
        match words.iter().find(|word| !tag(word)) {
            Some(word) => {
                Err(format!("{word:?} is neither error, warning, info nor the name of a lintian tag"))
            }
            None => Ok(()),
        }
    }

    /// Why packages are stopped: the findings that the policy names. Empty if they may go on.
    pub fn refused<'a>(&self, findings: &'a [Finding]) -> Vec<&'a Finding> {
        let named = |finding: &&Finding| {
            self.refuse.iter().any(|word| *word == finding.tag || word == finding.severity.word())
        };
        findings.iter().filter(named).collect()
    }
}

/// The findings in what lintian printed, the worst first, and how many there are beyond those.
pub(crate) fn findings(printed: &str) -> Vec<Finding> {
    let mut all: Vec<Finding> = printed.lines().filter_map(finding).collect();
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all.truncate(MOST);
    all
}

/// `E: hello: dir-or-file-in-opt [opt/x]`. Overridden ones (`O`) and lintian's own words (`N`) do
/// not count.
fn finding(line: &str) -> Option<Finding> {
    let (letter, rest) = line.split_once(": ")?;
    let severity = match letter {
        "E" => Severity::Error,
        "W" => Severity::Warning,
        "I" => Severity::Info,
        _ => return None,
    };
    let (package, rest) = rest.split_once(": ")?;
    let (tag, detail) = rest.split_once(' ').unwrap_or((rest, ""));
    let plain = tag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c));
    plain.then(|| Finding {
        severity,
        package: package.to_owned(),
        tag: tag.to_owned(),
        detail: detail.chars().take(300).collect(),
    })
}

/// Writes a source that needs nothing but lintian, so that it is installed as other dependencies
/// are: worked out by apt, once, and kept.
pub(crate) fn write_source(tree: &Path) -> Result<(), SetupError> {
    create_dir(&tree.join("debian"))?;
    let control = "Source: volary-lintian\nMaintainer: Volary <root@localhost>\nBuild-Depends: lintian\n\
                   Standards-Version: 4.6.2\n\nPackage: volary-lintian\nArchitecture: all\n\
                   Description: what lintian needs\n";
    Ok(write_atomic(&tree.join("debian/control"), control.as_bytes(), 0o644)?)
}

/// What runs inside; the packages are in /volary/packages.
pub(crate) const COMMAND: &str = "lintian --color never --no-tag-display-limit --display-info --fail-on none \
                                  --suppress-tags bad-distribution-in-changes-file \
                                  /volary/packages/*.changes";

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "W: hello: no-manual-page [usr/bin/hello]\nN: something\n\
        E: hello: dir-or-file-in-opt [opt/hello/]\nO: hello: no-copyright-file\n\
        I: hello source: out-of-date-standards-version 4.6.2\nwarning: cannot run x: y\nE: no tag here\n";

    fn check(refuse: &[&str], expected: &[&str]) {
        let refuse = refuse.iter().map(|word| (*word).to_owned()).collect();
        let policy = LintianPolicy { run: true, refuse };
        let findings = findings(SAID);
        let tags: Vec<&str> = policy.refused(&findings).iter().map(|finding| finding.tag.as_str()).collect();
        assert_eq!(tags, expected);
    }

    #[test]
    fn the_policy_names_severities_and_tags() {
        assert_eq!(findings(SAID).len(), 3);
        assert_eq!(findings(SAID)[0].to_string(), "error: hello: dir-or-file-in-opt [opt/hello/]");
        check(&[], &[]);
        check(&["error"], &["dir-or-file-in-opt"]);
        check(&["no-manual-page"], &["no-manual-page"]);
        check(&["warning", "info"], &["no-manual-page", "out-of-date-standards-version"]);
        // What was overridden stops nothing.
        check(&["no-copyright-file"], &[]);
    }

    #[test]
    fn words_that_nothing_is_called_are_refused() {
        assert!(LintianPolicy::check(&["error".into(), "no-manual-page".into()]).is_ok());
        for word in ["Error", "E:", "", "no manual"] {
            assert!(LintianPolicy::check(&[word.to_owned()]).unwrap_err().contains("neither"), "{word}");
        }
    }
}
