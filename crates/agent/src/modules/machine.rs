//! Which state of an update module follows which: Mender's contract as a pure function.
//!
//! ```text
//! Download → Install → (Reboot → VerifyReboot) → Waiting → Commit → CommitLeave → Cleanup
//!     │         └───────────┴──────────┴────────────┴───────┘
//!     │                     ↓ it failed, or the power was cut
//!     │      Rollback → (RollbackReboot → VerifyRollbackReboot) → Failure
//!     └──────────────────────────────────────────────────────────────┴─→ Cleanup
//! ```

use serde::{Deserialize, Serialize};

/// How often a rollback may boot the device before it is taken as lost.
const ROLLBACK_REBOOTS: u32 = 3;

/// How many states one update may go through: Mender's own bound against going in circles.
pub const STATES: u32 = 28;

/// Where an update is. What is on disk says what is about to be done, or being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The payload streams to the module, or into its folder.
    Download,
    /// The module installs it.
    Install,
    /// The device boots, or the module has its own thing booted.
    Reboot,
    /// The module looks whether that worked.
    VerifyReboot,
    /// It is installed; somebody decides whether it stays.
    Waiting,
    /// The module makes it last.
    Commit,
    /// It lasts; what is left are the scripts and the record of what the device provides.
    CommitLeave,
    /// The module puts back what was there before.
    Rollback,
    /// The device boots for that.
    RollbackReboot,
    /// The module looks whether that worked.
    VerifyRollbackReboot,
    /// The module hears that it failed.
    Failure,
    /// The module cleans up, whatever happened.
    Cleanup,
}

/// How a state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Well. In [`State::Waiting`]: it is to stay.
    Well,
    /// The module, a script or the artifact said no. In [`State::Waiting`]: it is not to stay.
    Failed,
    /// The power was cut, or the agent ended.
    Cut,
}

/// What a module wants of a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// None.
    #[default]
    No,
    /// It does it itself, in `ArtifactReboot`.
    Yes,
    /// The agent boots the device.
    Automatic,
}

/// What has to be known to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// What the module wants of a reboot.
    pub reboot: Reboot,
    /// The module can roll back.
    pub rolls_back: bool,
    /// A reboot was begun.
    pub rebooted: bool,
    /// Something failed; else a person does not want it.
    pub failed: bool,
    /// How often a rollback booted the device.
    pub rollback_reboots: u32,
    /// How many states there were so far.
    pub states: u32,
}

/// The state after this one; `None` if it is over.
pub fn after(state: State, ended: Ended, known: &Known) -> Option<State> {
    use Ended::{Cut, Failed, Well};
    if state == State::Cleanup && (ended != Cut || known.states > STATES) {
        return None;
    }
    if known.states >= STATES {
        return Some(State::Cleanup);
    }
    let lost = if known.failed { State::Failure } else { State::Cleanup };
    let back = if known.rolls_back { State::Rollback } else { lost };
    Some(match (state, ended) {
        (State::Download, Well) => State::Install,
        (State::Install, Well) if known.reboot != Reboot::No => State::Reboot,
        (State::Install | State::VerifyReboot, Well) | (State::Waiting, Cut) => State::Waiting,
        // Who was booted does not hear how its reboot ended.
        (State::Reboot, Well | Cut) => State::VerifyReboot,
        (State::Waiting, Well) => State::Commit,
        (State::Commit, Well) | (State::CommitLeave, Cut) => State::CommitLeave,
        (State::Install | State::VerifyReboot | State::Commit, Failed | Cut)
        | (State::Reboot | State::Waiting, Failed) => back,
        (State::Rollback, Cut) => State::Rollback,
        (State::Rollback, Well | Failed) if known.rebooted => State::RollbackReboot,
        (State::RollbackReboot, _) | (State::VerifyRollbackReboot, Cut) => State::VerifyRollbackReboot,
        (State::VerifyRollbackReboot, Failed) if known.rollback_reboots < ROLLBACK_REBOOTS => {
            State::RollbackReboot
        }
        (State::Rollback | State::VerifyRollbackReboot, Well | Failed) => lost,
        (State::Failure, Cut) => State::Failure,
        (State::Download, Failed | Cut)
        | (State::CommitLeave | State::Failure, Well | Failed)
        | (State::Cleanup, _) => State::Cleanup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states from one on, with how each ends; the rest ends well.
    fn way(known: Known, ends: &[(State, Ended)]) -> Vec<State> {
        let mut ends = ends.to_vec();
        let mut known = known;
        let (mut state, mut seen) = (State::Download, vec![State::Download]);
        loop {
            let ended = match ends.first() {
                Some((at, ended)) if *at == state => {
                    let ended = *ended;
                    ends.remove(0);
                    ended
                }
                _ => Ended::Well,
            };
            known.failed |= ended != Ended::Well;
            known.rebooted |= state == State::Reboot;
            known.rollback_reboots += u32::from(state == State::RollbackReboot);
            known.states += 1;
            match after(state, ended, &known) {
                Some(next) => state = next,
                None => return seen,
            }
            seen.push(state);
        }
    }

    #[test]
    fn states_follow_each_other_as_the_contract_says() {
        use State::*;
        let can = Known { rolls_back: true, ..Known::default() };
        let boots = Known { reboot: super::Reboot::Automatic, ..can };
        let check = |known, ends: &[(State, Ended)], expected: &[State]| {
            assert_eq!(way(known, ends), expected, "{ends:?}");
        };
        check(can, &[], &[Download, Install, Waiting, Commit, CommitLeave, Cleanup]);
        let all = [Download, Install, Reboot, VerifyReboot, Waiting, Commit, CommitLeave, Cleanup];
        check(boots, &[], &all);
        // A boot is seen as a cut.
        check(boots, &[(Reboot, Ended::Cut)], &all);
        for ended in [Ended::Failed, Ended::Cut] {
            check(can, &[(Download, ended)], &[Download, Cleanup]);
            check(can, &[(Install, ended)], &[Download, Install, Rollback, Failure, Cleanup]);
            check(Known::default(), &[(Install, ended)], &[Download, Install, Failure, Cleanup]);
            let back = [Rollback, RollbackReboot, VerifyRollbackReboot, Failure, Cleanup];
            check(
                boots,
                &[(VerifyReboot, ended)],
                &[&[Download, Install, Reboot, VerifyReboot], &back[..]].concat(),
            );
            check(can, &[(Commit, ended)], &[Download, Install, Waiting, Commit, Rollback, Failure, Cleanup]);
        }
        // What lasts is not taken back.
        let lasts = [Download, Install, Waiting, Commit, CommitLeave, Cleanup];
        check(can, &[(CommitLeave, Ended::Failed)], &lasts);
        let again = [Download, Install, Waiting, Commit, CommitLeave, CommitLeave, Cleanup];
        check(can, &[(CommitLeave, Ended::Cut)], &again);
        // A decision outlives a power cut.
        let waits = [Download, Install, Waiting, Waiting, Commit, CommitLeave, Cleanup];
        check(can, &[(Waiting, Ended::Cut)], &waits);
        for state in [Rollback, Failure, Cleanup] {
            let mut expected = vec![Download, Install, Rollback, Failure, Cleanup];
            let at = expected.iter().position(|each| *each == state).unwrap();
            expected.insert(at, state);
            check(can, &[(Install, Ended::Failed), (state, Ended::Cut)], &expected);
        }
    }

    #[test]
    fn nothing_goes_round_in_circles() {
        use State::*;
        let known = Known { reboot: super::Reboot::Yes, rolls_back: true, ..Known::default() };
        for state in [
            Download,
            Install,
            Reboot,
            VerifyReboot,
            Waiting,
            Commit,
            CommitLeave,
            Rollback,
            RollbackReboot,
            VerifyRollbackReboot,
            Failure,
            Cleanup,
        ] {
            for ended in [Ended::Well, Ended::Failed, Ended::Cut] {
                let ends = vec![(state, ended); 100];
                let ends = [vec![(VerifyReboot, Ended::Failed)], ends].concat();
                assert!(way(known, &ends).len() <= STATES as usize + 3, "{state:?} {ended:?}");
                let ends = vec![(state, ended); 100];
                assert!(way(known, &ends).len() <= STATES as usize + 3, "{state:?} {ended:?}");
            }
        }
    }
}
