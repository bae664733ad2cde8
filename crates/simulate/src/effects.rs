//! What effects do to the simulated device: when they begin, when they end, and when they are cut
//! off in the middle.

use volary_device::{Armed, Cause, Effect, Event, Failure, Gains, Mode, Phase, Step, UndoneBy, Work};

use crate::agent::{Doing, Process};
use crate::device::Device;
use crate::plan::{Kind, Ms, SECOND};
use crate::rules::Violation;

/// How far the clock may be off against the boot clock, in seconds.
const CLOCK: i64 = 300;

fn failure(step: Step, what: &str, message: &str) -> Event {
    Event::Failed(Failure { step, what: what.to_owned(), message: message.to_owned() })
}

impl Device<'_> {
    /// An effect that takes time begins.
    pub(crate) fn begin(&mut self, effect: Effect) -> Result<(), Violation> {
        self.say(|| format!("begins {}", crate::agent::short(&format!("{effect:?}"))));
        let (mut span, mut suicide) = (self.span(&effect), false);
        match &effect {
            Effect::Apply(work, step) => {
                self.rules.applies(work, *step, &self.disk, self.plan)?;
                if *step == Step::Playbook {
                    suicide = self.begin_playbook(work);
                    if suicide {
                        span /= 2;
                    }
                }
            }
            Effect::Confirm(_) if self.disk.config.agent_broken => {
                self.agent_ends("hands over to its new version, which ends at once");
                return Ok(());
            }
            Effect::Confirm(work) => {
                self.rules.confirms(work)?;
                span = self.begin_confirm(work);
            }
            Effect::Undo(work, _) => self.begin_undo(work),
            Effect::Install(_) => self.begin_install(),
            Effect::Report => {
                if let Some(process) = &self.agent {
                    let state = process.state.clone();
                    self.rules.reports(&state, self.plan)?;
                }
            }
            Effect::Record
            | Effect::Ask
            | Effect::AskTurn(_)
            | Effect::GiveTurnBack
            | Effect::Fetch(_)
            | Effect::Verify(_)
            | Effect::Checkpoint(_)
            | Effect::Reboot(_)
            | Effect::Disarm(_)
            | Effect::Drift(_)
            | Effect::Tell
            | Effect::Wait(_) => {}
        }
        let struck = self.is_struck();
        let ends_at = self.now + if struck { self.dice.between(0, span) } else { span };
        if let Some(process) = &mut self.agent {
            process.doing = Doing::Effect { effect, ends_at, struck, suicide };
        }
        Ok(())
    }

    fn span(&mut self, effect: &Effect) -> Ms {
        let (from, until) = match effect {
            Effect::Ask | Effect::AskTurn(_) | Effect::Report | Effect::Disarm(_) => (SECOND / 5, 2 * SECOND),
            Effect::Fetch(_) => (SECOND, 30 * SECOND),
            Effect::Verify(_) | Effect::Checkpoint(_) => (SECOND, 5 * SECOND),
            Effect::Install(_) => (10 * SECOND, 600 * SECOND),
            Effect::Reboot(_) => (SECOND / 5, SECOND),
            Effect::Apply(_, Step::Playbook) => (10 * SECOND, 120 * SECOND),
            Effect::Apply(..) | Effect::Drift(_) => (5 * SECOND, 20 * SECOND),
            Effect::Undo(..) => (3 * SECOND, 25 * SECOND),
            Effect::Confirm(_) | Effect::Record | Effect::Tell | Effect::GiveTurnBack | Effect::Wait(_) => {
                (0, 0)
            }
        };
        self.dice.between(from, until)
    }

    fn kind(&self, work: &Work) -> Kind {
        self.plan.number(&work.target.commit).map_or(Kind::FailsTask, |number| self.plan.commit(number).kind)
    }

    /// True if the agent does not survive it.
    fn begin_playbook(&mut self, work: &Work) -> bool {
        let kind = self.kind(work);
        let config = &mut self.disk.config;
        config.commit = self.plan.number(&work.target.commit).unwrap_or(0);
        config.partly = true;
        match kind {
            Kind::BreaksPath(after) => {
                config.path_lost_at.get_or_insert(self.now + after);
                false
            }
            Kind::StopsAgent => {
                config.agent_disabled = true;
                true
            }
            Kind::KillsAgent => true,
            Kind::Good
            | Kind::Nothing
            | Kind::FailsTask
            | Kind::Flaky
            | Kind::BadAgent
            | Kind::KillsService(_)
            | Kind::FillsDisk
            | Kind::Reboots
            | Kind::MovesClock(_) => false,
        }
    }

    fn end_playbook(&mut self, work: &Work) -> Event {
        let kind = self.kind(work);
        let flaky = self.dice.chance(500);
        let now = self.now;
        let config = &mut self.disk.config;
        let mut changed_tasks = 1;
        match kind {
            Kind::FailsTask => return failure(Step::Playbook, "a task", "it fails"),
            Kind::Flaky if flaky => return failure(Step::Playbook, "a task", "the mirror is away"),
            Kind::Nothing => changed_tasks = u32::from(config.edited),
            Kind::BadAgent => config.agent_broken = true,
            Kind::KillsService(after) => {
                config.service_dead_at.get_or_insert(now + after);
            }
            Kind::FillsDisk => config.disk_full = true,
            Kind::MovesClock(by) => config.clock_moved = by,
            Kind::Reboots => config.reboots = true,
            Kind::Good | Kind::Flaky | Kind::BreaksPath(_) | Kind::KillsAgent | Kind::StopsAgent => {}
        }
        config.edited = false;
        config.partly = false;
        if kind == Kind::Reboots {
            self.reboots_soon();
        }
        Event::Done(Gains { changed_tasks, ..Gains::default() })
    }

    /// How long it is looked at. The deadline is set for the last time when it begins; who comes
    /// back in the middle has what is left.
    fn begin_confirm(&mut self, work: &Work) -> Ms {
        let seen = self.observed();
        let Some(armed) = &mut self.disk.armed else { return 0 };
        *armed = armed.confirming(work.confirm_within(), &seen);
        let left = armed.left(seen.clock).as_secs() * SECOND;
        match self.disk.config.service_dead_at {
            Some(dead) if dead < self.now + left => dead.saturating_sub(self.now),
            Some(_) | None => left,
        }
    }

    fn end_confirm(&mut self, work: &Work) -> Event {
        if let Some(undone) = self.undone_of(work) {
            return undone;
        }
        let ours =
            self.disk.armed.as_ref().filter(|armed| Some(&armed.checkpoint) == work.checkpoint.as_ref());
        let Some(armed) = ours else { return failure(Step::Confirm, "", "nothing is armed") };
        let (path_worked, config) = (armed.path_worked, &self.disk.config);
        if config.service_dead_at.is_some_and(|dead| dead <= self.now) {
            return failure(Step::Units, "a.service", "it has failed");
        }
        if config.disk_full {
            return failure(Step::Check, "disk", "there is no room");
        }
        if config.clock_moved.abs() > CLOCK {
            return failure(Step::Units, "clock", "it is off");
        }
        if path_worked && !self.path_works() {
            return failure(Step::Path, "", "the server cannot be reached");
        }
        Event::Confirmed
    }

    /// How the change was undone by somebody else, if it was.
    fn undone_of(&self, work: &Work) -> Option<Event> {
        let undone = self.disk.undone.as_ref()?;
        let ours = self.disk.undoing.is_none() && work.checkpoint.as_ref() == Some(&undone.checkpoint);
        ours.then(|| Event::Undone(Box::new(undone.clone())))
    }

    /// Saves and arms. Whoever was armed and forgotten is no more.
    fn checkpoint(&mut self, work: &Work) -> Event {
        if self.disk.undoing.is_some() {
            return failure(Step::Checkpoint, "", "an undo is under way");
        }
        if !self.path_works() {
            return Event::Unreachable("the path is away, so nobody could tell what breaks it".to_owned());
        }
        let Some(id) = self.disk.save(&work.target) else {
            return failure(Step::Checkpoint, "", "the disk is full");
        };
        let grace = Armed::grace_of(work.policy.confirm_within);
        let clock = self.boot_clock();
        self.disk.armed = Some(Armed {
            version: 1,
            checkpoint: id.clone(),
            target: work.target.clone(),
            mode: Mode::Applying,
            grace,
            deadline: clock + grace,
            latest: clock + grace + work.policy.run_within.as_secs(),
            boot: self.boot_id(),
            boots: 0,
            path_worked: true,
        });
        self.rules.armed(&id, &work.target);
        Event::Checkpointed { id }
    }

    fn disarm(&mut self, work: &Work) -> Event {
        if self.disk.undoing.is_some() {
            return failure(Step::Confirm, "", "an undo is under way");
        }
        match self.disk.armed.take() {
            Some(armed) if Some(&armed.checkpoint) == work.checkpoint.as_ref() => {
                self.keep_slot();
                self.disk.saved_before = None;
                self.rules.confirmed(&armed.checkpoint, &armed.target);
                Event::Disarmed
            }
            Some(armed) => {
                self.keep_slot();
                self.disk.saved = self.disk.saved_before.take();
                self.rules.dropped(&armed.checkpoint);
                Event::Disarmed
            }
            None => self.undone_of(work).unwrap_or(Event::Disarmed),
        }
    }

    fn begin_undo(&mut self, work: &Work) {
        if self.undone_of(work).is_some() || self.disk.claim(UndoneBy::Agent, Cause::Failed) {
            return;
        }
        // What was confirmed before: a person wants it back.
        let saved = self.disk.saved.as_ref().filter(|saved| Some(&saved.id) == work.checkpoint.as_ref());
        if let Some(saved) = saved {
            let armed = self.armed_by_hand(saved.id.clone(), saved.target.clone());
            self.disk.undoing = Some(crate::disk::Undoing {
                armed,
                by: UndoneBy::Person,
                cause: Cause::Person,
                rebooted: false,
            });
        }
    }

    fn undo(&mut self, work: &Work) -> Option<Event> {
        if let Some(undone) = self.undone_of(work) {
            return Some(undone);
        }
        if self.disk.undoing.is_none() {
            return Some(failure(Step::Undo, "", "the checkpoint is gone"));
        }
        if self.dice.chance(20) && self.now < self.plan.kind_from {
            self.rules.hesitated();
            return Some(failure(Step::Undo, "", "a disk that hesitates"));
        }
        if self.end_undo() {
            return Some(
                self.undone_of(work).unwrap_or_else(|| failure(Step::Undo, "", "another was undone")),
            );
        }
        None
    }

    /// The effect is done; its answer. `None` if the device is gone.
    pub(crate) fn finish(&mut self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::Ask => {
                let known = self.agent.as_ref().and_then(|process| process.state.memory.offered.clone());
                self.ask(known.as_ref())
            }
            Effect::Fetch(_) => self.fetch(),
            Effect::Verify(work) => self.verify(&work),
            Effect::AskTurn(_) => self.ask_turn(),
            Effect::Checkpoint(work) => self.checkpoint(&work),
            Effect::Install(work) => self.install(&work),
            Effect::Apply(work, Step::Image) => self.switch(&work),
            Effect::Reboot(_) => {
                self.power_off(20 * SECOND, "reboots, into the other slot");
                return None;
            }
            Effect::Apply(work, Step::Playbook) => self.end_playbook(&work),
            Effect::Apply(..) => Event::Done(Gains::default()),
            Effect::Confirm(work) => self.end_confirm(&work),
            Effect::Disarm(work) => self.disarm(&work),
            Effect::Undo(work, _) => return self.undo(&work),
            Effect::Drift(_) => {
                let changes = if self.disk.config.edited { vec!["a task".to_owned()] } else { Vec::new() };
                Event::Drifted { changes }
            }
            Effect::Report => {
                self.queue(true);
                self.send();
                Event::Stored
            }
            Effect::Record | Effect::Tell | Effect::GiveTurnBack | Effect::Wait(_) => return None,
        })
    }

    /// The process or the power ended in the middle: some effects are done all the same, and nobody
    /// knows.
    pub(crate) fn leave_half_done(&mut self) {
        let Some(Process { doing: Doing::Effect { effect, .. }, .. }) = &self.agent else { return };
        let effect = effect.clone();
        if !self.dice.chance(500) {
            return;
        }
        match effect {
            Effect::Checkpoint(work) => drop(self.checkpoint(&work)),
            // The boot state is written first.
            Effect::Disarm(_) if self.disk.undoing.is_none() && self.dice.chance(300) => self.keep_slot(),
            Effect::Disarm(work) => drop(self.disarm(&work)),
            Effect::Apply(work, Step::Image) => drop(self.switch(&work)),
            Effect::Undo(..) if self.disk.undoing.is_some() => {
                if self.is_where_it_was_saved() {
                    self.disk.restore();
                }
            }
            Effect::Undo(..) => {}
            Effect::Report => self.queue(true),
            Effect::Record
            | Effect::Ask
            | Effect::AskTurn(_)
            | Effect::GiveTurnBack
            | Effect::Fetch(_)
            | Effect::Verify(_)
            | Effect::Install(_)
            | Effect::Apply(..)
            | Effect::Reboot(_)
            | Effect::Confirm(_)
            | Effect::Drift(_)
            | Effect::Tell
            | Effect::Wait(_) => {}
        }
    }
}

/// The failure of a convergence that was undone, as its report has it.
pub(crate) fn reverted_for(phase: &Phase) -> Option<(&Work, &Failure)> {
    match phase {
        Phase::Report { work, failure: Some(failure), undone: Some(_), .. } => Some((work, failure)),
        _ => None,
    }
}
