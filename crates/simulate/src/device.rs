//! A device: its power, its clocks, its processes, and what comes next for it.

use jiff::Timestamp;
use volary_boot::BootState;
use volary_device::{Armed, Cause, Event, Hold, Observed, Rescue, State, Undone, UndoneBy, rescue};

use crate::agent::{Doing, Process};
use crate::dice::Dice;
use crate::disk::{Disk, Undoing};
use crate::plan::{Blow, Crashes, EPOCH, Fate, HOUR, MINUTE, Ms, Plan, SECOND};
use crate::rules::{Rules, Violation};

/// How often the dead man's timer looks.
const TICK: Ms = 15 * SECOND;

/// How soon systemd starts an agent that ended.
const RESTART: Ms = 10 * SECOND;

/// How long a boot takes until the agent starts.
const BOOT: Ms = 15 * SECOND;

/// A device in its world.
pub(crate) struct Device<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) fate: Fate,
    pub(crate) dice: Dice,
    pub(crate) rules: Rules,
    pub(crate) disk: Disk,
    pub(crate) now: Ms,
    pub(crate) agent: Option<Process>,
    /// Effects so far, those of the ledger included.
    pub(crate) effects: u64,
    /// When the link is back.
    pub(crate) link_back_at: Option<Ms>,
    /// When systemd starts the agent.
    agent_at: Option<Ms>,
    /// When an undo from outside of the agent ends.
    pub(crate) undo_ends_at: Option<Ms>,
    /// When the power is back; it is on otherwise.
    pub(crate) power_at: Option<Ms>,
    /// When the device goes down by itself.
    reboot_at: Option<Ms>,
    booted_at: Ms,
    boot: u32,
    tick_at: Ms,
    /// How far the clock is off, in seconds.
    clock_off: i64,
    /// When a time server puts it right.
    clock_right_at: Option<Ms>,
    pub(crate) told_at: Ms,
    next_blow: usize,
    trace: Option<Vec<String>>,
}

/// The wall clock at this time if it is off by so many seconds.
pub(crate) fn wall(now: Ms, off: i64) -> Timestamp {
    let ms = i64::try_from(now).unwrap_or(i64::MAX / 2);
    let ms = EPOCH.saturating_add(off).saturating_mul(1000).saturating_add(ms);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl<'a> Device<'a> {
    pub(crate) fn new(plan: &'a Plan, fate: Fate, mut dice: Dice, trace: bool) -> Self {
        let state = State::new(crate::server::stage(), dice.between(0, u64::MAX));
        Self {
            plan,
            fate,
            dice,
            rules: Rules::default(),
            disk: Disk::new(state),
            now: 0,
            agent: None,
            effects: 0,
            link_back_at: None,
            agent_at: Some(BOOT),
            undo_ends_at: None,
            power_at: None,
            reboot_at: None,
            booted_at: 0,
            boot: 1,
            tick_at: TICK,
            clock_off: 0,
            clock_right_at: None,
            told_at: 0,
            next_blow: 0,
            trace: trace.then(Vec::new),
        }
    }

    /// Lives until it has what the last commit wants, after all trouble is over.
    pub(crate) fn live(&mut self) -> Result<(), Violation> {
        // A day for a window, and some hours for back-off and the waits of three tries.
        let end = self.plan.kind_from + 36 * HOUR;
        while !self.has_arrived() {
            let next = self.next_time();
            self.rules.passed(next);
            self.now = next;
            if self.now > end {
                return Err(self
                    .rules
                    .broken("a good commit is reached in the end", format!("{:?}", self.disk.ledger.phase)));
            }
            self.happen()?;
            self.rules.look(self.now, &self.disk, self.agent.is_some(), self.plan)?;
        }
        let commits = self.plan.commits.len();
        if self.plan.image(commits).is_some_and(|image| image != self.disk.config.image)
            || self.disk.slots.boot != BootState::confirmed(self.disk.slots.running)
        {
            let detail = format!("{:?}", self.disk.slots);
            return Err(self.rules.broken("in the end the pinned image runs and is confirmed", detail));
        }
        self.rules.ended()
    }

    fn has_arrived(&self) -> bool {
        let good = self.disk.ledger.good.as_ref().map(|good| &good.commit);
        self.now >= self.plan.kind_from
            && good == Some(&Plan::id(self.plan.commits.len()))
            && self.disk.ledger.is_idle()
            && self.disk.armed.is_none()
            && self.disk.undoing.is_none()
            && self.disk.queue.is_empty()
            && matches!(&self.agent, Some(process) if matches!(process.doing, Doing::Sleep(_)))
    }

    pub(crate) fn wall(&self) -> Timestamp {
        wall(self.now, self.clock_off + self.disk.config.clock_moved)
    }

    /// Seconds of the boot clock.
    pub(crate) fn boot_clock(&self) -> u64 {
        (self.now - self.booted_at) / SECOND
    }

    pub(crate) fn boot_id(&self) -> String {
        self.boot.to_string()
    }

    /// Tells the story, if somebody listens.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let second = self.now / SECOND;
            let (day, hour, minute) = (second / 86_400, second / 3600 % 24, second / 60 % 60);
            lines.push(format!("day {day} {hour:02}:{minute:02}:{:02}  {}", second % 60, text()));
        }
    }

    pub(crate) fn into_trace(self) -> (Rules, Vec<String>) {
        (self.rules, self.trace.unwrap_or_default())
    }

    /// The next time at which something happens.
    fn next_time(&self) -> Ms {
        let blow = self.fate.blows.get(self.next_blow).map(|(at, _)| *at);
        let mut times = vec![blow, self.clock_right_at];
        match self.power_at {
            Some(at) => times.push(Some(at)),
            None => {
                let timer = self.disk.armed.is_some() || self.disk.undoing.is_some();
                times.extend([
                    self.agent.as_ref().map(|process| process.doing.until()),
                    self.agent_at.filter(|_| self.agent.is_none()),
                    self.undo_ends_at,
                    self.reboot_at,
                    timer.then_some(self.tick_at),
                ]);
            }
        }
        // Nothing at all: a device without an agent that nobody starts. The rules find that.
        times.into_iter().flatten().min().unwrap_or(self.now + HOUR).max(self.now)
    }

    fn happen(&mut self) -> Result<(), Violation> {
        let due = |at: Option<Ms>, now: Ms| at.is_some_and(|at| at <= now);
        if let Some((at, blow)) = self.fate.blows.get(self.next_blow).copied()
            && at <= self.now
        {
            self.next_blow += 1;
            return self.suffer(blow);
        }
        if due(self.clock_right_at, self.now) {
            self.clock_right_at = None;
            if self.path_works() {
                self.clock_off = 0;
                self.say(|| "the clock is set by a time server".to_owned());
            } else {
                self.clock_right_at = Some(self.now + MINUTE);
            }
            return Ok(());
        }
        if self.power_at.is_some() {
            if due(self.power_at, self.now) {
                if !self.boot()? {
                    return Ok(());
                }
                return self.rules.booted(self.disk.armed.as_ref().map(|armed| armed.checkpoint.as_str()));
            }
            return Ok(());
        }
        if due(self.reboot_at, self.now) {
            self.power_off(20 * SECOND, "reboots");
            return Ok(());
        }
        if due(self.undo_ends_at, self.now) {
            self.undo_ends_at = None;
            if self.end_undo() {
                self.start_agent_in(2 * SECOND);
            }
            return Ok(());
        }
        if let Some(process) = &self.agent {
            if process.doing.until() <= self.now {
                return self.go_on();
            }
        } else if due(self.agent_at, self.now) {
            self.agent_at = None;
            return self.start_agent();
        }
        if self.tick_at <= self.now {
            self.tick_at = self.now + TICK;
            self.tick();
        }
        Ok(())
    }

    fn suffer(&mut self, blow: Blow) -> Result<(), Violation> {
        self.say(|| format!("blow: {blow:?}"));
        match blow {
            Blow::LinkLost(span) => {
                self.link_back_at = Some(self.now + span);
                self.rules.offline(self.now, span);
            }
            Blow::PowerCut(span) => self.power_off(span, "is cut off from power"),
            Blow::ClockJump(by) => {
                self.clock_off += by;
                self.clock_right_at = Some(self.now + self.dice.between(MINUTE, HOUR));
            }
            Blow::HandEdit => self.disk.config.edited = true,
            Blow::Run => return self.person(Event::Nudged { again: false }),
            Blow::RunAgain => return self.person(Event::Nudged { again: true }),
            Blow::Hold(span) => {
                let until = Some(wall(self.now + span, self.clock_off));
                return self.person(Event::Held(Hold {
                    since: self.wall(),
                    until,
                    reason: "mine".to_owned(),
                }));
            }
            Blow::Release => return self.person(Event::Released),
            Blow::Revert => return self.revert_by_hand(),
            Blow::Confirm => return self.confirm_by_hand(),
        }
        Ok(())
    }

    /// The power goes, and comes back after so long.
    pub(crate) fn power_off(&mut self, span: Ms, why: &str) {
        if self.power_at.is_some() {
            return;
        }
        self.say(|| format!("the device {why}, for {} s", span / SECOND));
        self.leave_half_done();
        self.agent = None;
        self.agent_at = None;
        self.undo_ends_at = None;
        self.reboot_at = None;
        self.power_at = Some(self.now + span);
        self.rules.off(self.now + span);
    }

    /// False if no system comes up.
    fn boot(&mut self) -> Result<bool, Violation> {
        self.power_at = None;
        self.boot += 1;
        self.booted_at = self.now;
        self.tick_at = self.now + TICK;
        if !self.load()? {
            return Ok(false);
        }
        if !self.fate.has_rtc {
            self.clock_off = -(EPOCH + i64::try_from(self.now / SECOND).unwrap_or(0));
            self.clock_right_at = Some(self.now + 30 * SECOND);
        }
        if self.disk.config.reboots {
            // Before any time to confirm is over: what boots less often passes as stable.
            self.reboot_at = Some(self.now + 20 * SECOND);
        }
        self.say(|| "the device boots".to_owned());
        let seen = Observed { agent_alive: false, path_works: false, ..self.observed() };
        match rescue(self.disk.armed.as_ref(), &seen) {
            Rescue::Extend(armed) => self.extend(armed),
            Rescue::Undo(cause) => self.undo_from_outside(UndoneBy::Boot, cause),
            Rescue::Finish => self.undo_from_outside(UndoneBy::Boot, Cause::Unconfirmed),
            Rescue::Nothing => {}
        }
        if self.undo_ends_at.is_none() && !self.disk.config.agent_disabled {
            self.agent_at = Some(self.now + BOOT);
        }
        Ok(true)
    }

    pub(crate) fn observed(&self) -> Observed {
        Observed {
            clock: self.boot_clock(),
            boot: self.boot_id(),
            agent_alive: self.agent.is_some(),
            path_works: self.path_works(),
            undoing: self.disk.undoing.is_some(),
        }
    }

    fn extend(&mut self, armed: Armed) {
        self.say(|| format!("the timer gives it until {} s after the boot", armed.deadline));
        self.disk.armed = Some(armed);
    }

    /// The dead man's timer looks.
    fn tick(&mut self) {
        let locked = self.agent.as_ref().is_some_and(|process| process.doing.holds_lock());
        if locked || self.undo_ends_at.is_some() {
            return;
        }
        match rescue(self.disk.armed.as_ref(), &self.observed()) {
            Rescue::Nothing => {}
            Rescue::Extend(armed) => self.extend(armed),
            Rescue::Undo(cause) => self.undo_from_outside(UndoneBy::Timer, cause),
            Rescue::Finish => self.undo_from_outside(UndoneBy::Timer, Cause::Unconfirmed),
        }
    }

    pub(crate) fn undo_from_outside(&mut self, by: UndoneBy, cause: Cause) {
        if !self.disk.claim(by, cause) {
            return;
        }
        self.say(|| format!("{by:?} undoes the change: {cause}"));
        self.leave_half_done();
        self.agent = None;
        self.agent_at = None;
        self.undo_ends_at = Some(self.now + self.dice.between(3 * SECOND, 25 * SECOND));
    }

    /// The undo comes to its end. False if the device boots first.
    pub(crate) fn end_undo(&mut self) -> bool {
        if !self.is_where_it_was_saved() {
            self.power_off(20 * SECOND, "reboots, into the slot before");
            return false;
        }
        self.disk.restore();
        self.reboot_at = None;
        let path_works = self.path_works();
        let Some(undoing) = &mut self.disk.undoing else { return true };
        let judged = undoing.armed.path_worked;
        if judged && !path_works && !undoing.rebooted {
            undoing.rebooted = true;
            self.power_off(20 * SECOND, "reboots, since the path is away still");
            return false;
        }
        let Undoing { armed, by, cause, rebooted } = undoing.clone();
        let undone = Undone {
            checkpoint: armed.checkpoint,
            target: armed.target,
            by,
            cause,
            said: String::new(),
            at: self.wall(),
            path_works: judged.then_some(path_works),
            rebooted,
            restored: Vec::new(),
            left: Vec::new(),
        };
        self.say(|| format!("the device is put back to what it was: {cause}"));
        self.rules.undone(&undone);
        self.disk.undone = Some(undone);
        self.disk.undoing = None;
        self.disk.armed = None;
        true
    }

    fn start_agent_in(&mut self, span: Ms) {
        if !self.disk.config.agent_disabled {
            self.agent_at = Some(self.now + span);
        }
    }

    /// The agent's process ends; systemd starts it again, if it may.
    pub(crate) fn agent_ends(&mut self, why: &str) {
        self.say(|| format!("the agent {why}"));
        self.leave_half_done();
        self.agent = None;
        self.start_agent_in(RESTART);
    }

    fn start_agent(&mut self) -> Result<(), Violation> {
        if self.disk.config.agent_broken {
            self.start_agent_in(RESTART);
            return Ok(());
        }
        self.rules.starts();
        let state = self.disk.ledger.clone();
        self.agent = Some(Process { state, doing: Doing::Sleep(self.now) });
        self.say(|| "the agent starts".to_owned());
        let undone = self.disk.undone.clone().map(Box::new);
        let running = self.running();
        self.turn(Event::Started { undone, running })
    }

    /// True if the process or the power ends here, by the fate of the device.
    pub(crate) fn is_struck(&mut self) -> bool {
        self.effects += 1;
        let struck = match self.fate.crashes {
            Crashes::None => false,
            Crashes::Once(at) => self.effects == at,
            Crashes::Often(thousandth) => self.dice.chance(thousandth),
        };
        struck && self.now < self.plan.kind_from
    }

    /// The end of the process, or of the power.
    pub(crate) fn strike(&mut self) {
        if self.dice.chance(500) {
            self.agent_ends("is killed");
        } else {
            let span = self.dice.between(5 * SECOND, 10 * MINUTE);
            self.power_off(span, "is cut off from power");
        }
    }

    pub(crate) fn reboots_soon(&mut self) {
        self.reboot_at = Some(self.now + 20 * SECOND);
    }
}
