//! How a deployment goes on when its device says something. Clients do not go straight: after the reboot they
//! say `installing` again, words come twice, and one says `failure` in several steps.

use jiff::Timestamp;
use volary_store::{Deployment, DeploymentState};

use super::wire::LogMessage;

/// The longest words of a client that are kept.
const SUBSTATE: usize = 200;

/// The longest log of a deployment that is kept, in bytes: its end says why.
const LOG: usize = 256 << 10;

/// How often an artifact that could not even be fetched is tried again by itself.
pub(crate) const DOWNLOADS: usize = 3;

/// What a client says of its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It does this now.
    Is(DeploymentState),
    /// It waits before the next step, or gives no word: only the substate is new.
    Pauses,
}

impl Said {
    /// The client's word; `None` if there is no such word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "downloading" => Self::Is(DeploymentState::Downloading),
            "installing" => Self::Is(DeploymentState::Installing),
            "rebooting" => Self::Is(DeploymentState::Rebooting),
            "success" => Self::Is(DeploymentState::Success),
            "failure" => Self::Is(DeploymentState::Failure),
            "already-installed" => Self::Is(DeploymentState::AlreadyInstalled),
            "" | "pause_before_installing" | "pause_before_rebooting" | "pause_before_committing" => {
                Self::Pauses
            }
            _ => return None,
        })
    }
}

/// What follows from what a client said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The deployment is so now.
    Now(Box<Deployment>),
    /// Nothing new.
    Same,
    /// The deployment was called back, before or by this: 409.
    Aborted(Option<Box<Deployment>>),
}

/// Takes a client's word. `is_wanted` is false once the stage pins another image: then whoever has not
/// rebooted yet is called back, and whoever has goes on, since going back would cost it a boot more and leave
/// it no nearer.
pub(crate) fn advance(
    now: &Deployment,
    said: Said,
    substate: &str,
    is_wanted: bool,
    failed_downloads: usize,
    at: Timestamp,
) -> Step {
    let substate: String = substate.chars().filter(|c| !c.is_control()).take(SUBSTATE).collect();
    let mut next = Deployment { substate, changed_at: at, ..now.clone() };
    let state = match said {
        Said::Is(state) => state,
        Said::Pauses => now.state,
    };
    if now.state == DeploymentState::Aborted {
        // The client ends what was called back with a failure, and is thanked for that.
        return if state == DeploymentState::Failure { Step::Same } else { Step::Aborted(None) };
    }
    let is_back = |next: &Deployment| next.state == now.state && next.substate == now.substate;
    if now.state.is_over() {
        // What was a success may still be undone by a client that could not tell of it.
        let undone = now.state == DeploymentState::Success && state == DeploymentState::Failure;
        if !undone {
            return Step::Same;
        }
    } else if !is_wanted && !state.is_over() && now.furthest < DeploymentState::Rebooting {
        return Step::Aborted(Some(Box::new(abort(now, "its stage pins another image now", false, at))));
    }
    next.state = state;
    if is_back(&next) {
        return Step::Same;
    }
    if state.is_over() {
        next.finished_at = Some(at);
        next.held = is_held(&next, failed_downloads);
    } else {
        next.furthest = next.furthest.max(state);
    }
    Step::Now(Box::new(next))
}

/// Calls a deployment back.
pub(crate) fn abort(now: &Deployment, why: &str, is_held: bool, at: Timestamp) -> Deployment {
    Deployment {
        state: DeploymentState::Aborted,
        substate: why.to_owned(),
        held: is_held,
        changed_at: at,
        finished_at: Some(at),
        ..now.clone()
    }
}

/// True if the image is not tried again by itself: it was installed and did not hold, or could not be
/// fetched several times.
fn is_held(over: &Deployment, failed_downloads: usize) -> bool {
    match over.state {
        DeploymentState::Failure => {
            over.furthest >= DeploymentState::Installing || failed_downloads + 1 >= DOWNLOADS
        }
        DeploymentState::Success
        | DeploymentState::AlreadyInstalled
        | DeploymentState::Aborted
        | DeploymentState::Pending
        | DeploymentState::Downloading
        | DeploymentState::Installing
        | DeploymentState::Rebooting => false,
    }
}

/// A client's log as text; of a long one the end.
pub(crate) fn log_text(messages: &[LogMessage]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut size = 0;
    for LogMessage { level, message, timestamp } in messages.iter().rev() {
        let line = format!("{timestamp} {level} {}\n", message.trim_end());
        size += line.len();
        if size > LOG {
            break;
        }
        lines.push(line);
    }
    lines.reverse();
    lines.concat()
}

/// The sentence of a log that says best what went wrong: the last error.
pub(crate) fn log_error(messages: &[LogMessage]) -> Option<String> {
    let found = messages.iter().rev().find(|message| is_error(&message.level));
    found.map(|message| message.message.trim().to_owned())
}

/// True for the levels of a log that tell of what went wrong.
pub(super) fn is_error(level: &str) -> bool {
    ["error", "fatal", "panic", "critical"].contains(&level.to_lowercase().as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use volary_model::Digest;

    use super::*;

    pub(crate) fn deployment() -> Deployment {
        let at = Timestamp::UNIX_EPOCH;
        Deployment {
            id: "e5a1d2c4-0b7e-4f5a-9c33-0f1e2d3c4b5a".into(),
            device: Digest::from_bytes([1; 32]),
            stage: "canary".parse().unwrap(),
            commit: "a".repeat(40).parse().unwrap(),
            device_type: "testboard".parse().unwrap(),
            name: "release-2".parse().unwrap(),
            artifact: Digest::from_bytes([2; 32]),
            served: Digest::from_bytes([2; 32]),
            provides: BTreeMap::from([
                ("artifact_name".into(), "release-1".into()),
                ("device_type".into(), "testboard".into()),
            ]),
            state: DeploymentState::Pending,
            substate: String::new(),
            furthest: DeploymentState::Pending,
            held: false,
            released: false,
            created_at: at,
            changed_at: at,
            finished_at: None,
            log: None,
        }
    }

    /// Plays words against a deployment; each is `status`, `status/substate`, or `!` for the moment at which the
    /// stage begins to pin something else. Returns the answers and the end.
    fn play(words: &[&str]) -> (Vec<u16>, Deployment) {
        let (mut now, mut is_wanted, mut answers) = (deployment(), true, Vec::new());
        for (second, word) in (1..).zip(words) {
            if *word == "!" {
                is_wanted = false;
                continue;
            }
            let (status, substate) = word.split_once('/').unwrap_or((word, ""));
            let at = Timestamp::from_second(second).unwrap();
            answers.push(match advance(&now, Said::parse(status).unwrap(), substate, is_wanted, 0, at) {
                Step::Now(next) => {
                    now = *next;
                    204
                }
                Step::Same => 204,
                Step::Aborted(next) => {
                    now = next.map_or(now, |next| *next);
                    409
                }
            });
        }
        (answers, now)
    }

    #[track_caller]
    fn check(
        words: &[&str],
        refused: &[usize],
        state: DeploymentState,
        furthest: DeploymentState,
        held: bool,
    ) {
        let (answers, end) = play(words);
        let at: Vec<usize> =
            answers.iter().enumerate().filter(|(_, answer)| **answer == 409).map(|(at, _)| at).collect();
        assert_eq!((end.state, end.furthest, end.held), (state, furthest, held), "{words:?}");
        assert_eq!(at, refused, "{words:?}");
        assert_eq!(end.finished_at.is_some(), end.state.is_over(), "{words:?}");
    }

    use DeploymentState::{Aborted, AlreadyInstalled, Downloading, Failure, Installing, Rebooting, Success};

    #[test]
    fn what_real_clients_said_ends_as_it_ended_for_them() {
        // 3.4.0: a good update, with state scripts.
        check(
            &[
                "downloading",
                "downloading",
                "downloading",
                "installing/Executing script: ArtifactInstall_Enter_00_a",
                "installing/finished executing script: ArtifactInstall_Enter_00_a",
                "installing",
                "rebooting/Executing script: ArtifactReboot_Enter_00",
                "rebooting",
                "rebooting/Executing script: ArtifactCommit_Enter_00_check",
                "installing",
                "success",
            ],
            &[],
            Success,
            Rebooting,
            false,
        );
        // 5.1.0: the same.
        check(
            &["downloading", "installing", "rebooting", "installing", "success"],
            &[],
            Success,
            Rebooting,
            false,
        );
        // The boot loader went back.
        check(
            &[
                "downloading",
                "installing",
                "rebooting",
                "rebooting/Executing script: ArtifactRollback_Enter_00",
                "failure/Executing script: ArtifactFailure_Enter_00",
                "failure",
            ],
            &[],
            Failure,
            Rebooting,
            true,
        );
        // Somebody called it back while it installed.
        check(
            &["downloading", "!", "installing/a", "installing/b", "installing", "failure/c", "failure"],
            &[1, 2, 3],
            Aborted,
            Downloading,
            false,
        );
        // The name was installed already.
        check(&["already-installed"], &[], AlreadyInstalled, DeploymentState::Pending, false);
        // A wrong signature; a line that broke for good.
        check(&["downloading", "failure"], &[], Failure, Downloading, false);
        // A power cut during the commit, after which 3.4.0 sends empty words.
        check(
            &[
                "downloading",
                "installing",
                "rebooting",
                "rebooting/ArtifactCommit_Enter_00_cut",
                "/Executing script: ArtifactRollback_Enter_00",
                "failure",
            ],
            &[],
            Failure,
            Rebooting,
            true,
        );
    }

    #[test]
    fn whoever_has_rebooted_is_not_called_back() {
        check(
            &["downloading", "installing", "rebooting", "!", "installing", "success"],
            &[],
            Success,
            Rebooting,
            false,
        );
        check(&["downloading", "!", "failure"], &[], Failure, Downloading, false);
        check(&["!", "downloading", "downloading"], &[0, 1], Aborted, DeploymentState::Pending, false);
        // What is over may be said again, and undone, but does not begin anew.
        check(
            &["downloading", "installing", "rebooting", "success", "success", "downloading"],
            &[],
            Success,
            Rebooting,
            false,
        );
        check(
            &["downloading", "installing", "rebooting", "success", "failure"],
            &[],
            Failure,
            Rebooting,
            true,
        );
        check(&["downloading", "failure", "success"], &[], Failure, Downloading, false);
        check(&["downloading", "installing", "pause_before_rebooting/x"], &[], Installing, Installing, false);
    }

    #[test]
    fn the_last_of_several_downloads_holds() {
        let downloading = Deployment { furthest: Downloading, state: Downloading, ..deployment() };
        let at = Timestamp::UNIX_EPOCH;
        let held = |before| match advance(&downloading, Said::Is(Failure), "", true, before, at) {
            Step::Now(next) => next.held,
            other => panic!("{other:?}"),
        };
        assert_eq!([held(0), held(1), held(2)], [false, false, true]);
        assert_eq!(Said::parse("rebootin"), None);
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let message = |level: &str, text: &str| LogMessage {
            level: level.into(),
            message: text.into(),
            timestamp: "t".into(),
        };
        let log = [message("error", "first"), message("ERROR", "no boot\n"), message("info", "bye")];
        assert_eq!(log_text(&log), "t error first\nt ERROR no boot\nt info bye\n");
        assert_eq!(log_error(&log).as_deref(), Some("no boot"));
        assert_eq!(log_error(&log[2..]), None);
        let long: Vec<_> = (0..20_000).map(|at| message("info", &format!("{at:40}"))).collect();
        let text = log_text(&long);
        assert!(text.len() <= LOG && text.ends_with("19999\n"), "{}", text.len());
    }
}
