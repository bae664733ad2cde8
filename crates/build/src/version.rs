//! The version of a build: what the changelog says, then what makes it unique and rising.

use jiff::Timestamp;
use volary_model::CommitId;

/// A text that dpkg would not take as a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("version {text:?} is not a Debian version: {rule}")]
pub struct InvalidVersion {
    text: String,
    rule: &'static str,
}

/// The version of the package that is built from a commit:
/// `<changelog version>+git<number>.<yyyymmdd>.<short commit>`, as in
/// `2.1.0-1+git7.20261122.a1b2c3d`.
///
/// The number counts the commits of this source that were built. It comes first because only it
/// always rises: clocks go wrong, and a rebased branch has older dates. The date (of the commit,
/// in UTC) and the commit are there for people.
///
/// # Errors
/// [`InvalidVersion`] if the changelog's version breaks the rules of dpkg (deb-version(7)).
pub fn version_for(
    changelog: &str,
    number: u64,
    committed: Timestamp,
    commit: &CommitId,
) -> Result<String, InvalidVersion> {
    check_version(changelog)?;
    let date = committed.strftime("%Y%m%d");
    Ok(format!("{changelog}+git{number}.{date}.{}", commit.short()))
}

/// Checks a version by the rules of deb-version(7), as strictly as `dpkg --validate-version`.
pub(crate) fn check_version(text: &str) -> Result<(), InvalidVersion> {
    let rule = |rule| Err(InvalidVersion { text: text.chars().take(200).collect(), rule });
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) => (Some(epoch), rest),
        None => (None, text),
    };
    if let Some(epoch) = epoch {
        let digits = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || epoch.parse::<i32>().is_err() {
            return rule("what stands before \":\" (the epoch) must be a number");
        }
    }
    let (upstream, revision) = match rest.rsplit_once('-') {
        Some((upstream, revision)) => (upstream, Some(revision)),
        None => (rest, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+~".contains(&byte);
    if !upstream.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
        return rule("it must begin with a digit");
    }
    if !upstream.bytes().all(|byte| plain(byte) || byte == b'-' || (epoch.is_some() && byte == b':')) {
        return rule("only letters, digits and . + - ~ may stand in it");
    }
    match revision {
        Some("") => rule("nothing stands after the last \"-\""),
        Some(revision) if !revision.bytes().all(plain) => {
            rule("only letters, digits and . + ~ may stand after the last \"-\"")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_host::Cmd;

    fn built(changelog: &str, number: u64, date: &str) -> String {
        let commit = "a1b2c3d4e5f60718293a4b5c6d7e8f9001122334".parse().unwrap();
        version_for(changelog, number, date.parse().unwrap(), &commit).unwrap()
    }

    fn dpkg(args: &[&str]) -> bool {
        Cmd::new("dpkg").args(args).run().unwrap().status.success()
    }

    #[test]
    fn native_and_quilt_versions_keep_their_form() {
        let check = |changelog: &str, expected: &str| {
            assert_eq!(built(changelog, 7, "2026-11-22T23:30:00Z"), expected);
            assert!(dpkg(&["--validate-version", expected]), "{expected}");
        };
        check("1.4.2", "1.4.2+git7.20261122.a1b2c3d");
        check("2.1.0-1", "2.1.0-1+git7.20261122.a1b2c3d");
        check("1:2.0~rc1-0.1", "1:2.0~rc1-0.1+git7.20261122.a1b2c3d");
        check("1.0+dfsg-3~bpo12+1", "1.0+dfsg-3~bpo12+1+git7.20261122.a1b2c3d");
    }

    #[test]
    fn the_date_is_that_of_utc() {
        assert!(built("1.0", 1, "2026-11-23T01:00:00+02:00").contains(".20261122."));
    }

    #[test]
    fn a_later_number_is_a_later_version_whatever_the_clock_says() {
        for changelog in ["1.4.2", "2.1.0-1", "1:1.0~rc1-1~bpo12+1"] {
            let newer = built(changelog, 10, "1999-01-01T00:00:00Z");
            let older = built(changelog, 9, "2030-01-01T00:00:00Z");
            assert!(dpkg(&["--compare-versions", &newer, "gt", &older]), "{newer} > {older}");
            assert!(dpkg(&["--compare-versions", &older, "gt", changelog]), "{older} > {changelog}");
        }
        let released = built("1.4.3", 11, "2026-01-01T00:00:00Z");
        assert!(dpkg(&["--compare-versions", &released, "gt", &built("1.4.2", 10, "2026-01-02T00:00:00Z")]));
    }

    #[test]
    fn the_rules_are_those_of_dpkg() {
        let texts = [
            "1",
            "1.0-1",
            "0:1",
            "1:1:1",
            "1.0-1-2",
            "1a+~.-0",
            "",
            "a1",
            "1_0",
            "1.0-",
            "-1",
            ":1",
            "x:1",
            "1:",
            "1.0-1_2",
            "1 0",
            "1:1",
            "1/2",
            "99999999999:1",
            "1:1.0:2-1:1",
            "1.0é",
        ];
        for text in texts {
            assert_eq!(check_version(text).is_ok(), dpkg(&["--validate-version", text]), "{text:?}");
        }
    }
}
