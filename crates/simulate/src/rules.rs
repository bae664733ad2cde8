//! The rules that hold in every world, looked after at each step. They keep their own books and
//! believe neither the machine nor the disk.

use std::collections::{BTreeMap, BTreeSet};

use volary_device::{Cause, Outcome, Phase, State, Step, Target, Undone, UndoneBy, Work};

use crate::disk::{Disk, QUEUE, Queued};
use crate::effects::reverted_for;
use crate::plan::{DAY, HOUR, Ms, Plan, SECOND};

/// Steps of the machine in an hour. A device that asks once a minute takes some 120, one whose
/// agent is killed again and again 720 more, a convergence a dozen.
const STEPS: u64 = 2000;

/// The same, if the agent neither starts nor changes anything.
const QUIET: u64 = 350;

/// How long a device may be cut off by a change, on top of the time to confirm.
const BACK: Ms = 120 * SECOND;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, device {device}, after {seconds} s: not true that {rule}: {detail}")]
pub struct Violation {
    /// The run's seed: it brings the same world again.
    pub seed: u64,
    /// The device.
    pub device: u64,
    /// When, in seconds of the world's time.
    pub seconds: u64,
    /// The rule.
    pub rule: &'static str,
    /// How it was broken.
    pub detail: String,
}

/// What became of a change.
#[derive(Debug, Clone, Default)]
struct Change {
    target: Option<Target>,
    armed_at: Ms,
    /// How often its playbook began.
    begun: u32,
    /// How often the device booted while nobody had confirmed or undone it.
    boots: u32,
    told_good: bool,
    told_reverted: bool,
    applied: bool,
    confirmed: bool,
    undone: bool,
    by_person: bool,
    dropped: bool,
}

/// The books of one device.
#[derive(Debug, Default)]
pub struct Rules {
    pub(crate) traces: bool,
    now: Ms,
    changes: BTreeMap<String, Change>,
    /// Targets that hurt, and that nobody may apply again.
    hurt: Vec<Target>,
    reverts: Vec<(Target, u32)>,
    accepted: usize,
    /// The hour, the steps in it, and whether the agent started or changed something in it.
    hour: (Ms, u64, bool),
    cut_off_since: Option<Ms>,
    cut_off_for: Ms,
    off: Vec<(Ms, Ms)>,
    hesitated_at: Ms,
    told: BTreeSet<String>,
    made: BTreeMap<u64, bool>,
    received: BTreeSet<u64>,
    offline: Option<Ms>,
    returned_at: Option<Ms>,
    /// Steps of the machine.
    pub steps: u64,
    /// Convergences that were confirmed.
    pub confirmed: u64,
    /// Convergences that were undone by the agent.
    pub undone_by_agent: u64,
    /// Those undone by the timer or by a boot.
    pub undone_by_timer: u64,
    /// Those undone by a person.
    pub undone_by_person: u64,
    /// Good commits that were quarantined, since the world broke at the wrong time.
    pub good_quarantined: u64,
    /// The longest time that a change cut the device off, beyond its time to confirm, without boots.
    pub longest_cut: Ms,
    /// Spells of a week or more without a link, after which all reports arrived.
    pub weeks_offline: u64,
}

impl Rules {
    pub(crate) fn broken(&self, rule: &'static str, detail: String) -> Violation {
        Violation { seed: 0, device: 0, seconds: self.now / SECOND, rule, detail }
    }

    fn check(
        &self,
        holds: bool,
        rule: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        if holds { Ok(()) } else { Err(self.broken(rule, detail())) }
    }

    /// Time goes by.
    pub(crate) fn passed(&mut self, until: Ms) {
        self.now = until;
    }

    /// The device has no power until then.
    pub(crate) fn off(&mut self, until: Ms) {
        self.off.push((self.now, until));
    }

    /// An undo did not work at first.
    pub(crate) fn hesitated(&mut self) {
        self.hesitated_at = self.now;
    }

    /// For how long the device had power since then, and how often it was without.
    fn powered_since(&self, since: Ms) -> (Ms, u64) {
        let (mut dark, mut times) = (0, 0);
        for (from, until) in self.off.iter().filter(|(_, until)| *until > since) {
            dark += (*until).min(self.now).saturating_sub((*from).max(since));
            times += 1;
        }
        (self.now.saturating_sub(since).saturating_sub(dark), times)
    }

    pub(crate) fn offline(&mut self, now: Ms, span: Ms) {
        if span >= 7 * DAY {
            self.offline = Some(now + span);
        }
    }

    /// A step was taken.
    pub(crate) fn stepped(&mut self, now: Ms) -> Result<(), Violation> {
        self.steps += 1;
        if self.hour.0 != now / HOUR {
            self.hour = (now / HOUR, 0, false);
        }
        self.hour.1 += 1;
        let limit = if self.hour.2 { STEPS } else { QUIET };
        self.check(self.hour.1 <= limit, "the machine never runs in a busy loop", || {
            format!("{limit} steps in an hour")
        })
    }

    /// The ledger was written.
    pub(crate) fn recorded(&mut self, state: &State, plan: &Plan) -> Result<(), Violation> {
        let number = |commit| plan.number(commit).unwrap_or(0);
        let accepted = state.accepted.values().map(number).max().unwrap_or(0);
        self.check(accepted >= self.accepted, "a device never goes backwards", || {
            format!("accepted {accepted} after {}", self.accepted)
        })?;
        self.accepted = accepted;
        if state.is_idle() {
            let kept = self.changes.values().rev().find(|change| change.confirmed && !change.undone);
            let kept = kept.and_then(|change| change.target.as_ref()).map(|target| &target.commit);
            let good = state.good.as_ref().map(|good| &good.commit);
            self.check(good == kept, "a device knows what it is at", || {
                format!("{good:?}, and is at {kept:?}")
            })?;
        }
        let known = state.trusted.is_none()
            || state.accepted.values().any(|commit| Some(commit) == state.trusted.as_ref());
        self.check(known, "what is trusted was accepted", || format!("{:?}", state.trusted))
    }

    /// What was saved is armed.
    pub(crate) fn armed(&mut self, id: &str, target: &Target) {
        let target = Some(target.clone());
        self.changes.insert(id.to_owned(), Change { target, armed_at: self.now, ..Change::default() });
    }

    /// A step of a change begins.
    pub(crate) fn applies(
        &mut self,
        work: &Work,
        step: Step,
        disk: &Disk,
        plan: &Plan,
    ) -> Result<(), Violation> {
        let armed = disk.armed.as_ref().map(|armed| armed.checkpoint.clone());
        self.check(armed.is_some() && armed == work.checkpoint, "nothing changes that is not armed", || {
            format!("armed is {armed:?}, the change goes on from {:?}", work.checkpoint)
        })?;
        let number = plan.number(&work.target.commit);
        self.check(number.is_some(), "only what was signed is applied", || work.target.commit.to_string())?;
        self.check(number >= Some(self.accepted), "a device never goes backwards", || {
            format!("applies {number:?}, accepted {}", self.accepted)
        })?;
        self.check(
            !self.hurt.contains(&work.target),
            "what is quarantined is never installed again",
            || format!("commit {number:?} with rolling {:?}", work.target.rolling),
        )?;
        let change = armed.and_then(|id| self.changes.get_mut(&id));
        let (armed_at, begun) = change.map_or((0, 0), |change| {
            change.applied = true;
            change.begun += u32::from(step == Step::Playbook);
            (change.armed_at, change.begun)
        });
        self.hour.2 = true;
        self.check(begun <= 3, "a change that is cut off goes on three times at most", || begun.to_string())?;
        // What came while it was away is passed over.
        if let Some(returned) = self.returned_at.filter(|returned| armed_at >= *returned) {
            let newest = number >= Some(plan.tip(returned)) || plan.lied(returned, self.now);
            self.check(newest, "who was away goes to the newest in one step", || {
                format!("applies {number:?}")
            })?;
        }
        Ok(())
    }

    /// It is looked at whether a change holds, for so long.
    pub(crate) fn confirms(&self, work: &Work) -> Result<(), Violation> {
        let begun =
            work.checkpoint.as_ref().and_then(|id| self.changes.get(id)).map_or(0, |change| change.begun);
        self.check(
            begun <= 1 || !work.confirm_within().is_zero(),
            "what was cut off counts as a change",
            String::new,
        )
    }

    /// The agent starts.
    pub(crate) fn starts(&mut self) {
        self.hour.2 = true;
    }

    /// The device boots, while this is armed.
    pub(crate) fn booted(&mut self, armed: Option<&str>) -> Result<(), Violation> {
        let Some(change) = armed.and_then(|id| self.changes.get_mut(id)) else { return Ok(()) };
        change.boots += 1;
        let boots = change.boots;
        self.check(boots <= 3, "a change that makes the device boot again and again is undone", || {
            boots.to_string()
        })
    }

    /// The timer was disarmed: the change is for ever.
    pub(crate) fn confirmed(&mut self, id: &str, target: &Target) {
        self.confirmed += 1;
        if let Some(change) = self.changes.get_mut(id) {
            change.confirmed = true;
        }
        self.reverts.retain(|(known, _)| known != target);
    }

    /// What was armed before anything changed is forgotten.
    pub(crate) fn dropped(&mut self, id: &str) {
        if let Some(change) = self.changes.get_mut(id) {
            change.dropped = true;
        }
    }

    /// The device was put back.
    pub(crate) fn undone(&mut self, undone: &Undone) {
        match undone.by {
            UndoneBy::Agent => self.undone_by_agent += 1,
            UndoneBy::Timer | UndoneBy::Boot => self.undone_by_timer += 1,
            UndoneBy::Person => self.undone_by_person += 1,
        }
        let Some(change) = self.changes.get_mut(&undone.checkpoint) else { return };
        change.undone = true;
        change.by_person = undone.by == UndoneBy::Person;
        if !change.applied {
            return;
        }
        let away = undone.path_works == Some(false);
        let hurts = match undone.cause {
            Cause::PathLost | Cause::AgentGone | Cause::Unconfirmed => !away,
            Cause::Person => true,
            // Depends on the step that failed; see `reports`.
            Cause::Failed | Cause::Boots => false,
        };
        // What the agent finds out from `undone.json`, unless it failed before.
        if hurts && change.by_person {
            self.hurt.push(undone.target.clone());
        }
    }

    /// A person takes everything out of quarantine.
    pub(crate) fn forgiven(&mut self) {
        self.hurt.clear();
        self.reverts.clear();
    }

    /// A report is made of how a convergence ended.
    pub(crate) fn reports(&mut self, state: &State, plan: &Plan) -> Result<(), Violation> {
        let Phase::Report { work, outcome, undone, .. } = &state.phase else {
            return Err(self.broken("a report is about a convergence", format!("{:?}", state.phase)));
        };
        let change =
            work.checkpoint.as_ref().and_then(|id| self.changes.get(id)).cloned().unwrap_or_default();
        match outcome {
            Outcome::Good => self.check(change.confirmed, "what is told to be good was confirmed", || {
                format!("checkpoint {:?}", work.checkpoint)
            })?,
            Outcome::Reverted => {
                self.check(undone.is_some(), "what is told to be reverted was undone", String::new)?
            }
            Outcome::Failed | Outcome::Refused => {
                let harmless = !change.applied || change.undone || state.quarantine(&work.target).is_some();
                self.check(harmless, "what failed after a change was undone", || {
                    format!("{:?}", state.phase)
                })?;
            }
        }
        if let Some((work, failure)) = reverted_for(&state.phase) {
            let away = undone.as_ref().is_some_and(|undone| undone.path_works == Some(false));
            let target = work.target.clone();
            let hurts = match failure.step {
                Step::Revert => true,
                Step::Path | Step::Confirm => !away,
                Step::Units | Step::Check => !away && !work.is_unchanged(),
                Step::Fetch
                | Step::Verify
                | Step::Image
                | Step::Playbook
                | Step::Packages
                | Step::Checkpoint
                | Step::Undo => false,
            };
            if hurts {
                self.hurt.push(target.clone());
            }
            let harmless = matches!(failure.step, Step::Units | Step::Check) && work.is_unchanged();
            // A report that was cut off is made again.
            let again = !self.told.insert(work.checkpoint.clone().unwrap_or_default());
            let times = if again { 0 } else { self.count(&target) };
            self.check(harmless || times <= 3, "nothing is tried for ever", || {
                format!("undone {times} times")
            })?;
            let good = plan.number(&target.commit).is_some_and(|number| plan.is_good(number));
            let quarantined = state.quarantine(&target).is_some();
            self.good_quarantined += u64::from(good && quarantined && !again && failure.step != Step::Revert);
        }
        Ok(())
    }

    fn count(&mut self, target: &Target) -> u32 {
        if let Some((_, times)) = self.reverts.iter_mut().find(|(known, _)| known == target) {
            *times += 1;
            return *times;
        }
        self.reverts.push((target.clone(), 1));
        1
    }

    /// A report was put into the queue: of health, or of this convergence.
    pub(crate) fn made(&mut self, number: u64, of: Option<&Phase>) {
        self.made.insert(number, of.is_some());
        let Some(Phase::Report { work, outcome, .. }) = of else { return };
        if let Some(change) = work.checkpoint.as_ref().and_then(|id| self.changes.get_mut(id)) {
            match outcome {
                Outcome::Good => change.told_good = true,
                Outcome::Reverted => change.told_reverted = true,
                Outcome::Failed | Outcome::Refused => {}
            }
        }
    }

    /// The server got a report, perhaps not for the first time.
    pub(crate) fn received(&mut self, report: &Queued) {
        self.received.insert(report.number);
    }

    /// A look at the device after something happened.
    pub(crate) fn look(
        &mut self,
        now: Ms,
        disk: &Disk,
        has_agent: bool,
        plan: &Plan,
    ) -> Result<(), Violation> {
        self.check(disk.queue.len() <= QUEUE, "the queue of reports has a limit", || {
            disk.queue.len().to_string()
        })?;
        if self.changes.values().any(|change| change.confirmed && change.undone && !change.by_person) {
            return Err(self.broken("a change is never confirmed and undone", String::new()));
        }
        self.look_at_cut(now, disk, has_agent, plan)?;
        if self.offline.is_some_and(|until| now >= until) {
            self.offline = None;
            self.returned_at = Some(now);
        }
        if let (Some(returned), Some(good)) = (self.returned_at, &disk.ledger.good)
            && plan.number(&good.commit) >= Some(plan.tip(returned))
            && disk.queue.is_empty()
        {
            self.returned_at = None;
            self.weeks_offline += 1;
        }
        Ok(())
    }

    fn look_at_cut(&mut self, now: Ms, disk: &Disk, has_agent: bool, plan: &Plan) -> Result<(), Violation> {
        let config = &disk.config;
        let no_agent = !has_agent && (config.agent_disabled || config.agent_broken);
        let path = config.path_lost_at.filter(|lost| *lost <= now);
        let cut = if no_agent { Some(path.unwrap_or(now)) } else { path };
        let Some(since) = cut else {
            if let Some(since) = self.cut_off_since.take()
                && self.powered_since(since).1 == 0
                && self.hesitated_at < since
            {
                self.longest_cut = self.longest_cut.max(self.cut_off_for);
            }
            return Ok(());
        };
        let since = *self.cut_off_since.get_or_insert(since);
        let (cut_off_for, offs) = self.powered_since(since);
        self.cut_off_for = cut_off_for;
        let extra = offs + u64::from(self.hesitated_at >= since);
        let within = plan.commit(config.commit.max(1)).policy.confirm_within;
        let within = u64::try_from(within.as_millis()).unwrap_or(0);
        // Whoever was switched off gets the time once more, twice at most.
        let limit = within + BACK + extra * (within + BACK);
        self.check(cut_off_for <= limit, "a device that a commit cut off is back in time", || {
            format!("commit {} cut it off for {} s, {extra} more tries", config.commit, cut_off_for / SECOND)
        })
    }

    /// The run is over.
    pub(crate) fn ended(&self) -> Result<(), Violation> {
        for (id, change) in &self.changes {
            let ends = u32::from(change.confirmed)
                + u32::from(change.undone && !(change.confirmed && change.by_person));
            let fine = ends == 1 || (ends == 0 && !change.applied);
            let told = if change.undone { change.told_reverted } else { change.told_good };
            self.check(told || !change.applied, "how a change ended is told", || {
                format!("checkpoint {id}: {change:?}")
            })?;
            self.check(fine, "every change ends confirmed or reverted", || {
                format!("checkpoint {id}: {change:?}")
            })?;
        }
        let lost = self
            .made
            .iter()
            .filter(|(number, is_result)| **is_result && !self.received.contains(number))
            .count();
        self.check(lost == 0, "every result is told in the end", || format!("{lost} are lost"))?;
        self.check(self.returned_at.is_none(), "who was away for a week is told of and newest", String::new)
    }
}
