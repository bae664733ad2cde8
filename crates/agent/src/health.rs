//! The fleet's own checks: executables of `health/required.d` and `health/wanted.d`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::device::CheckResult;
use volary_host::{Cmd, CmdError, tail};
use volary_model::{CommitId, StageName};

use crate::units;

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Lines of a check's output that are kept.
const LINES: usize = 10;

/// Bytes of it, since one line may be a megabyte.
const BYTES: usize = 2000;

/// Runs all checks of a checkout, the required ones first, each folder by name.
pub fn run(checkout: &Path, stage: &StageName, commit: &CommitId) -> Vec<CheckResult> {
    let mut results = Vec::new();
    for (folder, required) in [("health/required.d", true), ("health/wanted.d", false)] {
        for check in executables(&checkout.join(folder)) {
            let name = check.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let command = Cmd::new(&check)
                .cwd(checkout)
                .env("VOLARY_STAGE", stage.as_str())
                .env("VOLARY_COMMIT", commit.as_str())
                .timeout(LIMIT);
            let ended = units::unprotected(command).run();
            let (passed, output) = match ended {
                Ok(output) => {
                    let said = [output.stdout, output.stderr].concat();
                    (output.status.success(), said)
                }
                Err(
                    error @ (CmdError::Start { .. } | CmdError::TimedOut { .. } | CmdError::Stopped { .. }),
                ) => (false, error.to_string().into_bytes()),
                Err(error @ (CmdError::Failed { .. } | CmdError::Pipe { .. })) => {
                    (false, error.to_string().into_bytes())
                }
            };
            results.push(CheckResult { name, required, passed, output: short(&output) });
        }
    }
    results
}

/// The name of the check that tells of a server which keeps commits back.
pub const FRESH: &str = "fresh";

/// Whether the newest commit of a stage is as new as the fleet promises; `None` if it promises
/// nothing. A clock that is behind makes a commit look new, so this finds nothing where there is no
/// time; it never fails where all is well and the clock is right.
pub fn fresh(
    stage: &StageName,
    within: Option<Duration>,
    committed_at: Timestamp,
    now: Timestamp,
) -> Option<CheckResult> {
    let within = within?;
    let age = Duration::try_from(now.duration_since(committed_at)).unwrap_or_default();
    let passed = age <= within;
    let days = |time: Duration| time.as_secs() / 86_400;
    let output = if passed {
        String::new()
    } else {
        format!(
            "the newest commit of {stage} that this device got was made {committed_at:.0}, {} days ago, and \
             volary.yml promises one within {} days: its server may keep newer ones back; compare with \
             the fleet repository itself",
            days(age),
            days(within)
        )
    };
    Some(CheckResult { name: FRESH.to_owned(), required: false, passed, output })
}

/// The end of what a program said: what a person looks at first.
pub fn short(output: &[u8]) -> String {
    let text = tail(output, LINES);
    let start = text.len().saturating_sub(BYTES);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text[start..].to_owned()
}

fn executables(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let mut paths: Vec<_> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(executable).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_run_in_order_and_tell_what_they_said() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str, mode| {
            let path = dir.path().join(path);
            volary_host::create_dir(path.parent().unwrap()).unwrap();
            volary_host::write_atomic(&path, text.as_bytes(), mode).unwrap();
        };
        put("health/required.d/10-good", "#!/bin/sh\necho $VOLARY_STAGE\n", 0o755);
        put("health/required.d/20-bad", "#!/bin/sh\necho no disk >&2\nexit 3\n", 0o755);
        put("health/required.d/README", "not a check", 0o644);
        put("health/wanted.d/nice", "#!/bin/sh\nexit 1\n", 0o755);
        let commit = "a".repeat(40).parse().unwrap();
        let results = run(dir.path(), &"canary".parse().unwrap(), &commit);
        let text: Vec<_> = results
            .iter()
            .map(|check| format!("{} {} {} {}", check.name, check.required, check.passed, check.output))
            .collect();
        assert_eq!(text, ["10-good true true canary", "20-bad true false no disk", "nice false false "]);
    }

    #[test]
    fn long_output_is_cut_at_the_front() {
        assert_eq!(short("é".repeat(5000).as_bytes()).len(), BYTES);
    }
}
