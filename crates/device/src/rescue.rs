//! The dead man's rule: is a change that nobody confirmed to be undone now? It is asked by a timer
//! outside of the agent and once at each boot. Not here: the files, the clocks, the undo.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::Target;

/// How many boots an unconfirmed change may see. One may be a coincidence and two bad luck; a
/// change that makes the device boot again and again never gets to its deadline.
const BOOTS: u32 = 3;

/// A change that is undone unless it is confirmed: what `armed.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// The version of this record: 1.
    pub version: u32,
    /// The checkpoint to go back to.
    pub checkpoint: String,
    /// What the change goes for.
    pub target: Target,
    /// What it is doing.
    pub mode: Mode,
    /// Seconds that the device may be without the path, or without an agent.
    pub grace: u64,
    /// When it is undone, in seconds of the boot clock.
    pub deadline: u64,
    /// How far the deadline may move at most: what cannot even be recorded, as on a full disk,
    /// does not apply for ever.
    pub latest: u64,
    /// The boot by whose clock the deadline is meant.
    pub boot: String,
    /// How many boots it saw since it was armed.
    pub boots: u32,
    /// True if the management path worked before the change. If not, it is not judged.
    pub path_worked: bool,
}

/// What the confirmation leaves for the undo, in seconds: who finds at its end that a change does not
/// hold undoes it before the timer does.
const FOR_THE_UNDO: u64 = 60;

impl Armed {
    /// The grace of a change that has to hold for so long.
    pub const fn grace_of(confirm_within: Duration) -> u64 {
        confirm_within.as_secs().saturating_add(FOR_THE_UNDO)
    }

    /// The record once it is looked at whether the change holds: the deadline is set for the last
    /// time. A path that does not work then does not move it, or a device that lost it at the
    /// beginning of a playbook would be without it for twice the grace.
    #[must_use]
    pub fn confirming(&self, confirm_within: Duration, seen: &Observed) -> Self {
        let deadline = seen.clock.saturating_add(Self::grace_of(confirm_within));
        let deadline = match self.mode {
            Mode::Confirming => self.deadline,
            Mode::Applying if seen.path_works || !self.path_worked => deadline,
            Mode::Applying => deadline.min(self.deadline),
        };
        Self { mode: Mode::Confirming, deadline, ..self.clone() }
    }

    /// How long it is still looked at whether the change holds.
    pub const fn left(&self, clock: u64) -> Duration {
        Duration::from_secs(self.deadline.saturating_sub(clock).saturating_sub(FOR_THE_UNDO))
    }
}

/// What an unconfirmed change is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The device changes; the deadline moves as long as all is well.
    Applying,
    /// It is looked at whether the change holds; the deadline moves no more.
    Confirming,
}

/// What the timer sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The boot clock, in seconds.
    pub clock: u64,
    /// This boot.
    pub boot: String,
    /// An agent is at work.
    pub agent_alive: bool,
    /// The management path works.
    pub path_works: bool,
    /// An undo was begun and did not end.
    pub undoing: bool,
}

/// What the timer is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rescue {
    /// Undo the change.
    Undo(Cause),
    /// Go on with the undo that was begun, for the reason that it was begun for.
    Finish,
    /// Write this record: the deadline moved.
    Extend(Armed),
    /// Nothing.
    Nothing,
}

/// Why a change is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The agent says so: a step failed, or the change did not hold.
    Failed,
    /// The management path was away for too long.
    PathLost,
    /// No agent was at work for too long.
    AgentGone,
    /// It was not confirmed in time.
    Unconfirmed,
    /// The device booted again and again.
    Boots,
    /// A person asked for it.
    Person,
}

impl Cause {
    /// A sentence.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Failed => "the agent undid what failed",
            Self::PathLost => "the server could not be reached for too long after the change",
            Self::AgentGone => "the agent did not run any more after the change",
            Self::Unconfirmed => "the change was not confirmed in time",
            Self::Boots => "the device booted again and again before the change was confirmed",
            Self::Person => "a person asked for it",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Decides. `armed` is `None` if no change waits to be confirmed.
pub fn rescue(armed: Option<&Armed>, seen: &Observed) -> Rescue {
    if seen.undoing {
        // Whoever began it is gone, or at it and holds the lock; each of its steps can be repeated.
        return Rescue::Finish;
    }
    let Some(armed) = armed else { return Rescue::Nothing };
    if armed.boot != seen.boot {
        return booted(armed, seen);
    }
    let path = seen.path_works || !armed.path_worked;
    match armed.mode {
        Mode::Applying if path && seen.agent_alive && seen.clock < armed.latest => extended(armed, seen),
        Mode::Applying | Mode::Confirming if seen.clock < armed.deadline => Rescue::Nothing,
        Mode::Applying | Mode::Confirming => Rescue::Undo(if !seen.agent_alive {
            Cause::AgentGone
        } else if path {
            Cause::Unconfirmed
        } else {
            Cause::PathLost
        }),
    }
}

fn booted(armed: &Armed, seen: &Observed) -> Rescue {
    let boots = armed.boots.saturating_add(1);
    if boots >= BOOTS {
        return Rescue::Undo(Cause::Boots);
    }
    // The clock begins anew. What is left of the longest time is not known, so it does too.
    let span = armed.latest.saturating_sub(armed.deadline).saturating_add(armed.grace);
    let latest = seen.clock.saturating_add(span);
    let deadline = seen.clock.saturating_add(armed.grace);
    Rescue::Extend(Armed { boot: seen.boot.clone(), boots, deadline, latest, ..armed.clone() })
}

/// Proof that all is well moves the deadline. It is written only when an eighth of the grace is
/// used up: the timer looks often, and each write wears the card.
fn extended(armed: &Armed, seen: &Observed) -> Rescue {
    let deadline = seen.clock.saturating_add(armed.grace).min(armed.latest);
    if deadline.saturating_sub(armed.deadline) < armed.grace / 8 {
        return Rescue::Nothing;
    }
    Rescue::Extend(Armed { deadline, ..armed.clone() })
}
