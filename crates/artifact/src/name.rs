//! Which names an artifact may contain: payload files, state scripts, texts that people see.

use crate::Error;

/// Mender's limit for names and types (`MaxStringLength` of its tool).
const TEXT_AT_MOST: usize = 256;
/// A tar header has room for this many bytes; the format needs no longer file names.
const FILE_AT_MOST: usize = 255;

/// A payload file's name: no folders, no blanks, nothing a shell or a terminal understands.
pub(crate) fn check_file(name: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.,".contains(&byte);
    let good = !name.is_empty()
        && name.len() <= FILE_AT_MOST
        && name.bytes().all(allowed)
        && name != "."
        && name != "..";
    if good {
        return Ok(());
    }
    Err(Error::Name {
        what: "payload file name",
        name: name.to_owned(),
        rule: "letters, digits and \"_-.,\", at most 255, not \".\" or \"..\"",
    })
}

/// A text that names something to people and devices: artifact name, group, device type, payload type.
pub(crate) fn check_text(what: &'static str, text: &str) -> Result<(), Error> {
    let printable = |c: char| !c.is_control() && (c == ' ' || !c.is_whitespace());
    if !text.is_empty() && text.len() <= TEXT_AT_MOST && text.chars().all(printable) {
        return Ok(());
    }
    Err(Error::Name { what, name: text.to_owned(), rule: "1 to 256 bytes of printable characters" })
}

/// Actions of the states that have an `_Error` script, and of those that have none. Idle, Sync and
/// Download are states too, but their scripts belong to the root file system, never to an artifact.
const WITH_ERROR: [&str; 3] = ["ArtifactInstall", "ArtifactReboot", "ArtifactCommit"];
const WITHOUT_ERROR: [&str; 3] = ["ArtifactRollback", "ArtifactRollbackReboot", "ArtifactFailure"];

/// A state script's name: `STATE_ACTION_NN` with an optional `_text`.
pub(crate) fn check_script(name: &str) -> Result<(), Error> {
    if script_is_good(name) {
        return Ok(());
    }
    Err(Error::Name {
        what: "state script name",
        name: name.to_owned(),
        rule: "Artifact{Install,Reboot,Commit}_{Enter,Leave,Error}_NN[_text] or \
               Artifact{Rollback,RollbackReboot,Failure}_{Enter,Leave}_NN[_text]",
    })
}

fn script_is_good(name: &str) -> bool {
    let mut parts = name.splitn(4, '_');
    let (Some(state), Some(action), Some(order)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let action_fits = match action {
        "Enter" | "Leave" => WITH_ERROR.contains(&state) || WITHOUT_ERROR.contains(&state),
        "Error" => WITH_ERROR.contains(&state),
        _ => false,
    };
    let text_fits = parts
        .next()
        .is_none_or(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
    action_fits
        && order.len() == 2
        && order.bytes().all(|b| b.is_ascii_digit())
        && text_fits
        && name.len() <= FILE_AT_MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        for good in ["rootfs.ext4", "a", "A_b-c.d,e", "..."] {
            assert!(check_file(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "../a", "ä", "a\n", &"x".repeat(256)] {
            assert!(check_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scripts() {
        for good in
            ["ArtifactInstall_Enter_00", "ArtifactCommit_Error_99_why-not_x.sh", "ArtifactFailure_Leave_07_a"]
        {
            assert!(check_script(good).is_ok(), "{good}");
        }
        for bad in [
            "ArtifactInstall_Enter",
            "ArtifactInstall_Enter_0",
            "ArtifactInstall_Enter_000",
            "ArtifactInstall_Enter_00_",
            "ArtifactInstall_Enter_00_a/../b",
            "ArtifactInstall_Enter_00_a b",
            "ArtifactRollback_Error_00",
            "Download_Enter_00",
            "Idle_Enter_00",
            "artifactinstall_Enter_00",
            "",
        ] {
            assert!(check_script(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts() {
        for good in ["release-1", "with space", "ünïcode"] {
            assert!(check_text("artifact name", good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "tab\t", "nbsp\u{a0}", &"x".repeat(257)] {
            assert!(check_text("artifact name", bad).is_err(), "{bad}");
        }
    }
}
