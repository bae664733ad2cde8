//! What a person at a device does with a change: undo it, or end its confirmation.

use volary_device::{Armed, Cause, Effect, Event, Mode, Target, UndoneBy};

use crate::agent::{Doing, Process};
use crate::device::Device;
use crate::disk::Undoing;
use crate::rules::Violation;

impl Device<'_> {
    /// `volary-agent revert`: with or without an agent.
    pub(crate) fn revert_by_hand(&mut self) -> Result<(), Violation> {
        let busy = self.agent.as_ref().is_some_and(|process| process.doing.holds_lock());
        if self.power_at.is_some() || self.undo_ends_at.is_some() || busy {
            return Ok(());
        }
        if self.dice.chance(500) && self.agent.is_some() {
            return self.person(Event::RevertAsked);
        }
        if self.disk.armed.is_none()
            && self.disk.undoing.is_none()
            && let Some(saved) = &self.disk.saved
            && self.disk.undone.as_ref().is_none_or(|undone| undone.checkpoint != saved.id)
        {
            let armed = self.armed_by_hand(saved.id.clone(), saved.target.clone());
            self.disk.undoing =
                Some(Undoing { armed, by: UndoneBy::Person, cause: Cause::Person, rebooted: false });
        }
        self.undo_from_outside(UndoneBy::Person, Cause::Person);
        Ok(())
    }

    /// A record for the undo of what was confirmed before.
    pub(crate) fn armed_by_hand(&self, checkpoint: String, target: Target) -> Armed {
        Armed {
            version: 1,
            checkpoint,
            target,
            mode: Mode::Confirming,
            grace: 0,
            deadline: 0,
            latest: 0,
            boot: self.boot_id(),
            boots: 0,
            path_worked: false,
        }
    }

    /// `volary-agent confirm`, by a person who looked.
    pub(crate) fn confirm_by_hand(&mut self) -> Result<(), Violation> {
        let Some(Process { doing: Doing::Effect { effect: Effect::Confirm(work), .. }, .. }) = &self.agent
        else {
            return Ok(());
        };
        let number = self.plan.number(&work.target.commit);
        if !number.is_some_and(|number| self.plan.is_good(number)) {
            return Ok(());
        }
        self.turn(Event::Confirmed)
    }
}
