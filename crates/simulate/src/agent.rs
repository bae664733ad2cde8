//! The agent's process: it takes turns of the machine as the real one does, and is cut off in them.

use volary_device::{Effect, Event, Phase, State, Urge, next_report, step};

use crate::device::Device;
use crate::disk::Queued;
use crate::plan::{DAY, MINUTE, Ms};
use crate::rules::Violation;

/// How often a device tells how it is.
const HEALTH: Ms = 5 * MINUTE;

/// How long the agent waits after an error of the machine itself, as a full disk.
const AFTER_ERROR: Ms = MINUTE;

/// An agent that runs.
pub(crate) struct Process {
    pub(crate) state: State,
    pub(crate) doing: Doing,
}

/// What it is at.
#[expect(clippy::large_enum_variant, reason = "a device has one of them")]
pub(crate) enum Doing {
    /// It waits.
    Sleep(Ms),
    /// It carries out an effect.
    Effect {
        effect: Effect,
        ends_at: Ms,
        /// The process or the power ends in the middle of it, by the fate of the device.
        struck: bool,
        /// The process ends in the middle of it, by what the effect does.
        suicide: bool,
    },
}

impl Doing {
    pub(crate) const fn until(&self) -> Ms {
        match self {
            Self::Sleep(until) => *until,
            Self::Effect { ends_at, .. } => *ends_at,
        }
    }

    /// True while it works in the folder of checkpoints: nobody else does then.
    pub(crate) const fn holds_lock(&self) -> bool {
        matches!(
            self,
            Self::Effect { effect: Effect::Checkpoint(_) | Effect::Disarm(_) | Effect::Undo(..), .. }
        )
    }
}

impl Device<'_> {
    /// The agent's time has come: a wait is over, or an effect.
    pub(crate) fn go_on(&mut self) -> Result<(), Violation> {
        let Some(process) = &mut self.agent else { return Ok(()) };
        match std::mem::replace(&mut process.doing, Doing::Sleep(self.now)) {
            Doing::Sleep(_) => self.wake(Event::Due),
            Doing::Effect { effect, struck: true, .. } => {
                self.put_back(effect);
                self.strike();
                Ok(())
            }
            Doing::Effect { effect, suicide: true, .. } => {
                self.put_back(effect);
                self.agent_ends("dies of what it does");
                Ok(())
            }
            Doing::Effect { effect, .. } => match self.finish(effect) {
                Some(event) => self.turn(event),
                None => Ok(()),
            },
        }
    }

    /// What is cut off is still at it.
    fn put_back(&mut self, effect: Effect) {
        if let Some(process) = &mut self.agent {
            process.doing = Doing::Effect { effect, ends_at: self.now, struck: false, suicide: false };
        }
    }

    /// A turn begins: by the clock, or by a person. What the ledger says counts.
    fn wake(&mut self, event: Event) -> Result<(), Violation> {
        if self.now >= self.told_at + HEALTH {
            self.told_at = self.now;
            self.tell();
        }
        let undone = self.disk.undone.clone().map(Box::new);
        let running = self.running();
        let ledger = self.disk.ledger.clone();
        let Some(process) = &mut self.agent else { return Ok(()) };
        let memory = std::mem::take(&mut process.state.memory);
        let last_report = process.state.last_report.max(ledger.last_report);
        process.state = State { memory, last_report, ..ledger };
        let state = &mut process.state;
        let started = Event::Started { undone, running };
        let event = match event {
            event if state.is_idle() => event,
            Event::RevertAsked if matches!(state.phase, Phase::Apply(..) | Phase::Confirm(_)) => {
                Event::RevertAsked
            }
            Event::Nudged { again } => {
                state.memory.urge = state.memory.urge.max(if again { Urge::Again } else { Urge::Run });
                started
            }
            Event::Held(hold) => {
                state.hold = Some(hold);
                started
            }
            Event::Released => {
                state.hold = None;
                started
            }
            _ => started,
        };
        self.turn(event)
    }

    /// A person says something. Whoever works is not disturbed.
    pub(crate) fn person(&mut self, event: Event) -> Result<(), Violation> {
        match &self.agent {
            Some(process) if matches!(process.doing, Doing::Sleep(_)) => {
                if event == (Event::Nudged { again: true }) {
                    self.rules.forgiven();
                }
                self.wake(event)
            }
            _ => Ok(()),
        }
    }

    /// One step of the machine, and its effects until the first that takes time.
    pub(crate) fn turn(&mut self, event: Event) -> Result<(), Violation> {
        let wall = self.wall();
        let Some(process) = &mut self.agent else { return Ok(()) };
        let state = process.state.clone();
        let told = format_if(self.rules.traces, || format!("{event:?}"));
        let (state, effects) = step(state, event, wall);
        process.state = state;
        if let Some(told) = told {
            self.say(|| format!("event {}", short(&told)));
        }
        self.rules.stepped(self.now)?;
        for effect in effects {
            if self.is_struck() {
                self.strike();
                return Ok(());
            }
            let Some(process) = &self.agent else { return Ok(()) };
            match effect {
                Effect::Record => {
                    let state = process.state.clone();
                    if !self.disk.record(&state) {
                        self.say(|| "the ledger cannot be written: the disk is full".to_owned());
                        return self.sleep(self.now + AFTER_ERROR);
                    }
                    self.rules.recorded(&state, self.plan)?;
                }
                Effect::Tell => self.tell(),
                // Others of the site are not in this world.
                Effect::GiveTurnBack => {}
                Effect::Wait(until) => {
                    let span = u64::try_from(until.duration_since(wall).as_millis()).unwrap_or(0);
                    return self.sleep(self.now + span.min(DAY));
                }
                effect @ (Effect::Ask
                | Effect::AskTurn(_)
                | Effect::Fetch(_)
                | Effect::Verify(_)
                | Effect::Install(_)
                | Effect::Checkpoint(_)
                | Effect::Apply(..)
                | Effect::Reboot(_)
                | Effect::Confirm(_)
                | Effect::Disarm(_)
                | Effect::Undo(..)
                | Effect::Drift(_)
                | Effect::Report) => return self.begin(effect),
            }
        }
        Err(self.rules.broken("each step ends with a wait or an effect", String::new()))
    }

    fn sleep(&mut self, until: Ms) -> Result<(), Violation> {
        if let Some(process) = &mut self.agent {
            process.doing = Doing::Sleep(until);
        }
        Ok(())
    }

    /// A report of health.
    pub(crate) fn tell(&mut self) {
        self.queue(false);
        self.send();
    }

    /// Puts a report into the queue. That of a convergence has a number already, and takes the
    /// place of itself.
    pub(crate) fn queue(&mut self, is_result: bool) {
        let wall = self.wall();
        let Some(process) = &mut self.agent else { return };
        if !is_result {
            process.state.last_report = next_report(process.state.last_report, wall);
        }
        let number = process.state.last_report;
        let of = is_result.then_some(&process.state.phase);
        self.rules.made(number, of);
        self.disk.keep(Queued { number, is_result });
    }
}

fn format_if(wanted: bool, text: impl FnOnce() -> String) -> Option<String> {
    wanted.then(text)
}

/// The beginning of a long text.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
