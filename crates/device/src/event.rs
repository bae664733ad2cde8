//! What happens to a device, and what it does: the two sides of the machine.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use volary_model::{CommitId, StageName};

use crate::permit::Zones;
use crate::policy::Policy;
use crate::state::{Failure, Hold, Image, Running, Step, Target, Undone, Work};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent started.
    Started {
        /// How the last undo on this device ended, whenever that was.
        undone: Option<Box<Undone>>,
        /// Which slot runs; `None` on a device without slots.
        running: Option<Running>,
    },
    /// It is time.
    Due,
    /// A person wants a convergence now, whether it is needed or not.
    Nudged {
        /// Also of what is quarantined.
        again: bool,
    },
    /// A person on the device wants no changes.
    Held(Hold),
    /// A person on the device lets changes begin again.
    Released,
    /// A person on the device wants the last change undone.
    RevertAsked,
    /// The server answered with what it wants.
    Offered {
        /// That.
        target: Target,
        /// Seconds until the next question.
        poll: u32,
    },
    /// The server answered that nothing changed since it answered last.
    Unchanged,
    /// The server, or the archive, could not be reached or is in trouble; with its message.
    Unreachable(String),
    /// The objects are there.
    Fetched,
    /// The commit may be applied.
    Verified(Box<Passed>),
    /// The commit is for newer agents, and this one before it on the way is not: the device goes there
    /// first, for what it brings.
    TooOld {
        /// The commit before.
        before: CommitId,
    },
    /// The server lets the device change now.
    TurnGranted,
    /// It does not, since others of the site change, or it cannot be asked.
    TurnRefused {
        /// Why, in words that stay the same while nothing changes.
        reason: String,
        /// Seconds until it should be asked again.
        again_after: u32,
        /// The server makes another offer as soon as it has another answer.
        told: bool,
    },
    /// The image is in the other slot, and verified there.
    Installed,
    /// What the device is was saved, and the dead man's timer is armed.
    Checkpointed {
        /// The checkpoint.
        id: String,
    },
    /// The step is done.
    Done(Gains),
    /// The change holds, as was seen or as a person says.
    Confirmed,
    /// The timer is disarmed: the change is for ever.
    Disarmed,
    /// The device was put back.
    Undone(Box<Undone>),
    /// The device boots now, into the other slot or to be put back.
    Rebooting,
    /// What would change was looked for.
    Drifted {
        /// Tasks that would change something.
        changes: Vec<String>,
    },
    /// The step failed.
    Failed(Failure),
    /// What was offered is not to be trusted.
    Refused(Failure),
    /// The report is on disk.
    Stored,
}

/// What verification found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passed {
    /// The suite that packages come from; `None` without a release.
    pub suite: Option<String>,
    /// The stage that the device's variables name, if they name one.
    pub stage: Option<StageName>,
    /// Units that have failed now, before anything is applied.
    pub failed_units: BTreeSet<String>,
    /// When the commit was made.
    pub committed_at: Option<Timestamp>,
    /// The image that the fleet pins, if the device has slots and runs another one.
    pub image: Option<Box<Image>>,
    /// What the fleet says about changes.
    pub policy: Policy,
    /// The time zones that the policy means.
    pub zones: Zones,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gains {
    /// Tasks that changed something.
    pub changed_tasks: u32,
    /// Packages: name → (before, after).
    pub packages: BTreeMap<String, (String, String)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the state to the ledger, before anything else.
    Record,
    /// Ask the server. Answered by `Offered`, `Unchanged` or `Unreachable`.
    Ask,
    /// Fetch the objects. Answered by `Fetched`, `Unreachable`, `Failed` or `Refused`.
    Fetch(Target),
    /// Verify the commit. Answered by `Verified`, `TooOld`, `Unreachable`, `Failed` or `Refused`.
    Verify(Work),
    /// Ask the server for a turn to change, where the fleet bounds how many of a site do so at once.
    /// Answered by `TurnGranted` or `TurnRefused`.
    AskTurn(Work),
    /// Give the turn back that was not used. Not answered.
    GiveTurnBack,
    /// Put the image into the other slot and verify it there; what was done before is not done
    /// again. Answered by `Installed`, `Unreachable`, `Failed` or `Refused`.
    Install(Work),
    /// Save what the device is and arm the dead man's timer. Answered by `Checkpointed`, by `Failed`,
    /// or by `Unreachable` if the path to the server does not work, which the commit came by;
    /// then nothing is armed.
    Checkpoint(Work),
    /// Carry out a step; that of the image carries over what must survive, and says that the other
    /// slot is tried at the next boot. Answered by `Done`, `Unreachable`, `Failed` or `Undone`.
    Apply(Work, Step),
    /// Boot, into the slot that is tried. Answered by `Rebooting` or `Failed`.
    Reboot(Work),
    /// Look whether the change holds, for as long as [`Work::confirm_within`]. Answered by
    /// `Confirmed`, `RevertAsked`, `Failed` or `Undone`.
    Confirm(Work),
    /// Say that the slot that runs boots from now on, and disarm the timer: whatever is armed is not undone any more. Answered by `Disarmed`, by
    /// `Undone` if the timer was first, or by `Failed`; then it is tried again.
    Disarm(Work),
    /// Put the device back to the checkpoint, in the slot that it was made in. Answered by `Undone`, `Rebooting` or `Failed`; then
    /// it is tried again, so each part of it can be repeated.
    Undo(Work, Failure),
    /// Look for what differs from the commit, and change nothing. Answered by `Drifted`,
    /// `Unreachable` or `Failed`.
    Drift(Work),
    /// Store a report of the convergence that ended, by the number [`crate::State::last_report`]:
    /// who is cut off and does it again does not tell it twice. Answered by `Stored`.
    Report,
    /// Tell the server how the device is, without a convergence. Not answered.
    Tell,
    /// Nothing until this time, or until something happens.
    Wait(Timestamp),
}
