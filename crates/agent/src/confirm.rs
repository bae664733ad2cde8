//! Watches a device after a change until it is sure that the change holds: the path to the server,
//! units, the fleet's checks, memory. [`Judge`] decides from what is seen and is pure; [`watch`]
//! looks. What cannot heal ends it early. Not here: what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use volary_api::v1::device::CheckResult;
use volary_device::{Failure, Step};

use crate::checkpoint::manifest::{Manifest, UnitWas};
use crate::checkpoint::state;
use crate::path::{self, How, Proof};
use crate::units;

/// A service that systemd started this often before the change is no witness against it.
const RESTLESS: u32 = 3;

/// The wall clock may be this far from where the boot clock says it should be, in seconds.
const CLOCK: i64 = 300;

/// The last word on the path is not left to one lost packet.
const LAST_TRIES: (u32, Duration) = (4, Duration::from_secs(3));

/// One look at a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How much of the time to confirm is over, of how much.
    pub after: Duration,
    /// What trying the path said, if it was tried.
    pub path: Option<Proof>,
    /// Units that run, failed, or are about to.
    pub units: BTreeMap<String, UnitWas>,
    /// The fleet's checks, if they ran.
    pub checks: Vec<CheckResult>,
    /// Less than a twentieth of the memory is available.
    pub memory_is_short: bool,
    /// The clock is off by this many seconds against the boot clock.
    pub clock_off: i64,
}

/// Decides whether a change holds.
#[derive(Debug)]
pub struct Judge<'a> {
    before: &'a Manifest,
    within: Duration,
    first: Option<BTreeMap<String, UnitWas>>,
    path_worked_late: bool,
    path_said: String,
}

impl<'a> Judge<'a> {
    /// A judge of the change after this checkpoint.
    pub fn new(before: &'a Manifest, within: Duration) -> Self {
        Self { before, within, first: None, path_worked_late: false, path_said: String::new() }
    }

    /// Takes a look; what it tells ends the watch if it cannot heal.
    ///
    /// # Errors
    /// [`Failure`]: what does not hold.
    pub fn look(&mut self, seen: &Seen) -> Result<(), Failure> {
        if let Some(unit) = self.broken_unit(&seen.units) {
            return Err(unit);
        }
        self.first.get_or_insert_with(|| seen.units.clone());
        if let Some(check) = seen.checks.iter().find(|check| check.required && !check.passed) {
            return Err(failure(Step::Check, &check.name, check.output.clone()));
        }
        if seen.memory_is_short && self.before.memory_was_free {
            let message = "less than 5 % of the memory is available, and before the change there was more";
            return Err(failure(Step::Units, "memory", message.to_owned()));
        }
        match &seen.path {
            Some(Proof::Works { how: How::OutOfDate }) if seen.clock_off.abs() > CLOCK => {
                let message = format!(
                    "the clock is {} s off since the change, so no certificate of the server is valid",
                    seen.clock_off
                );
                return Err(failure(Step::Path, "clock", message));
            }
            Some(Proof::Works { .. }) => self.path_worked_late |= seen.after * 3 >= self.within * 2,
            Some(Proof::Broken { reason }) => self.path_said.clone_from(reason),
            None => {}
        }
        Ok(())
    }

    /// The last word, with the path tried once more.
    ///
    /// # Errors
    /// [`Failure`]: it does not hold.
    pub fn end(&self, path: &Proof) -> Result<(), Failure> {
        if !self.before.path.worked {
            return Ok(());
        }
        let said = match path {
            Proof::Broken { reason } => reason,
            // A path that works only now may be one that comes and goes.
            Proof::Works { .. } if !self.path_worked_late && !self.path_said.is_empty() => &self.path_said,
            Proof::Works { .. } => return Ok(()),
        };
        let message =
            format!("the server cannot be reached any more, and before the change it could: {said}");
        Err(failure(Step::Path, "", message))
    }

    fn broken_unit(&self, now: &BTreeMap<String, UnitWas>) -> Option<Failure> {
        for (name, is) in now {
            let was = self.before.units.get(name);
            let excused = name == units::AGENT || name.starts_with("volary-rescue");
            let restless = was.is_some_and(|was| {
                was.active == "failed" || was.sub == "auto-restart" || was.restarts >= RESTLESS
            });
            if excused || restless {
                continue;
            }
            let first = self.first.as_ref().and_then(|first| first.get(name));
            let reason = if is.active == "failed" {
                "it has failed and had not before".to_owned()
            } else if is.sub == "auto-restart" {
                "it ended and systemd starts it again and again".to_owned()
            } else if first.is_some_and(|first| is.restarts > first.restarts) {
                "it died after the change and systemd started it again".to_owned()
            } else {
                continue;
            };
            return Some(failure(Step::Units, name, reason));
        }
        let first = self.first.as_ref()?;
        // It ran at the first look, is meant to run, and does not: a clean end at the wrong time.
        let gone = first.iter().find(|(name, first)| {
            let ran = first.active == "active" && first.sub == "running" && first.file == "enabled";
            ran && name.ends_with(".service") && !now.contains_key(*name) && **name != units::AGENT
        });
        gone.map(|(name, _)| failure(Step::Units, name, "it ended by itself and is meant to run".to_owned()))
    }
}

fn failure(step: Step, what: &str, message: String) -> Failure {
    Failure { step, what: what.to_owned(), message }
}

/// Runs the fleet's checks.
pub type Checks<'a> = &'a mut dyn FnMut() -> Vec<CheckResult>;

/// How long a change is watched.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Altogether.
    pub within: Duration,
    /// What is left of it: less if the agent was started anew meanwhile.
    pub left: Duration,
}

/// Watches a change for what is left of its time. `unwatched` are units that had failed
/// before; `ask` tells what somebody wants meanwhile.
///
/// # Errors
/// [`Failure`] with what does not hold, and the end of its journal.
pub fn watch(
    before: &Manifest,
    span: &Span,
    unwatched: &BTreeSet<String>,
    checks: Checks<'_>,
    ask: &dyn Fn() -> Asked,
) -> Result<Watched, Failure> {
    let Span { within, left } = *span;
    let mut judge = Judge::new(before, within);
    let begun = Instant::now();
    let pause = pause(within);
    let over = within.saturating_sub(left);
    let mut units = Units { unwatched, short: String::new(), last: BTreeMap::new() };
    let (mut checked_half, mut last_probe) = (over * 2 >= within, None::<Instant>);
    loop {
        let elapsed = begun.elapsed();
        match ask() {
            Asked::Nothing => {}
            Asked::ToEnd => return Ok(Watched::Stopped),
            Asked::ToConfirm => return Ok(Watched::Holds),
        }
        let ended = elapsed >= left;
        let half = !checked_half && (over + elapsed) * 2 >= within;
        let probe = before.path.worked && last_probe.is_none_or(|at| at.elapsed() >= pause * 2);
        if probe {
            last_probe = Some(Instant::now());
        }
        checked_half |= half;
        let seen = Seen {
            after: over + elapsed,
            path: probe.then(|| path::probe(&before.path.server, &before.path.ca)),
            units: units.now(half || ended),
            checks: if half || ended { checks() } else { Vec::new() },
            memory_is_short: !state::memory_is_free(),
            clock_off: clock_off(before),
        };
        judge.look(&seen).map_err(with_journal)?;
        if ended {
            break;
        }
        std::thread::sleep(pause.min(left.saturating_sub(begun.elapsed())));
    }
    if before.path.worked {
        let (times, pause) = LAST_TRIES;
        let last = path::probe_again(&before.path.server, &before.path.ca, times, pause);
        judge.end(&last)?;
    }
    Ok(Watched::Holds)
}

/// What somebody wants while a change is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// The agent is to end.
    ToEnd,
    /// A person says that the change is good.
    ToConfirm,
}

/// How a watch ended that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// The change holds.
    Holds,
    /// The agent was asked to end before the time was over.
    Stopped,
}

/// Often enough to see a service die, seldom enough not to be felt.
fn pause(within: Duration) -> Duration {
    (within / 30).clamp(Duration::from_secs(1), Duration::from_secs(10))
}

/// The units of a device that is looked at again and again. To ask systemd for all that it knows of
/// them is the dearest part of a look, so that is done only if it may be something new.
struct Units<'a> {
    unwatched: &'a BTreeSet<String>,
    short: String,
    last: BTreeMap<String, UnitWas>,
}

impl Units<'_> {
    /// As they are now. What died and was started again between two looks shows in a `whole` one.
    fn now(&mut self, whole: bool) -> BTreeMap<String, UnitWas> {
        let short = state::units_in_short().unwrap_or_default();
        if whole || short.is_empty() || short != self.short {
            self.last = state::units().unwrap_or_default();
            self.last.retain(|name, _| !self.unwatched.contains(name));
            self.short = short;
        }
        self.last.clone()
    }
}

/// Seconds between the wall clock and where it would be if nobody had moved it. A time server that
/// put it right does not count.
fn clock_off(before: &Manifest) -> i64 {
    let (was, is) = (&before.clock, volary_host::now());
    if was.boot_id != volary_host::boot_id() {
        return 0;
    }
    let passed = crate::checkpoint::store::boot_ms().saturating_sub(was.boot_ms);
    let expected = was.wall.checked_add(Duration::from_millis(passed)).unwrap_or(was.wall);
    is.duration_since(expected).as_secs()
}

fn with_journal(mut failure: Failure) -> Failure {
    if failure.step == Step::Units && failure.what.contains('.') {
        let journal = units::journal(&failure.what);
        failure.message = format!("{}\n{journal}", failure.message).trim_end().to_owned();
    }
    failure
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use volary_device::Target;

    use super::*;
    use crate::checkpoint::manifest::{Clock, PathWas, VERSION};

    const WITHIN: Duration = Duration::from_secs(30);

    fn unit(active: &str, sub: &str, restarts: u32) -> UnitWas {
        UnitWas { active: active.into(), sub: sub.into(), file: "enabled".into(), restarts }
    }

    fn before() -> Manifest {
        let commit = "a".repeat(40).parse().unwrap();
        Manifest {
            version: VERSION,
            id: "0000000001".into(),
            target: Target { stage: "canary".parse().unwrap(), commit, rolling: String::new() },
            clock: Clock {
                wall: Timestamp::UNIX_EPOCH,
                boot_ms: 0,
                boot_id: "b".into(),
                synchronised: false,
            },
            slot: None,
            image: false,
            path: PathWas { server: "https://s".into(), ca: String::new(), worked: true },
            trees: Vec::new(),
            files: Vec::new(),
            left_out: Vec::new(),
            packages: BTreeMap::new(),
            manual: BTreeSet::new(),
            held: BTreeSet::new(),
            units: [
                ("a.service".to_owned(), unit("active", "running", 0)),
                ("flaky.service".to_owned(), unit("active", "running", 9)),
                ("bad.service".to_owned(), unit("failed", "failed", 0)),
            ]
            .into(),
            network: None,
            memory_was_free: true,
        }
    }

    fn works() -> Proof {
        Proof::Works { how: How::Tls }
    }

    fn away() -> Proof {
        Proof::Broken { reason: "no route".into() }
    }

    fn seen(seconds: u64, path: Option<Proof>, units: &[(&str, UnitWas)]) -> Seen {
        let units = units.iter().map(|(name, unit)| ((*name).to_owned(), unit.clone())).collect();
        Seen { after: Duration::from_secs(seconds), path, units, ..Seen::default() }
    }

    /// What the watch says of these looks and of the last try of the path.
    fn check(looks: &[Seen], last: &Proof, expected: Option<&str>) {
        let before = before();
        let mut judge = Judge::new(&before, WITHIN);
        let said = looks.iter().try_for_each(|seen| judge.look(seen)).and_then(|()| judge.end(last));
        match (said, expected) {
            (Ok(()), None) => {}
            (Err(failure), Some(text)) => assert!(failure.to_string().contains(text), "{failure}"),
            (said, expected) => panic!("{said:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_holds_is_confirmed() {
        let up = [("a.service", unit("active", "running", 0))];
        check(&[seen(0, Some(works()), &up), seen(25, Some(works()), &up)], &works(), None);
        // A path that was away for a moment, and units that were no better before.
        let worse = [
            up[0].clone(),
            ("flaky.service", unit("activating", "auto-restart", 12)),
            ("bad.service", unit("failed", "failed", 0)),
        ];
        let looks = [seen(0, Some(away()), &worse), seen(22, Some(works()), &worse)];
        check(&looks, &works(), None);
    }

    #[test]
    fn a_unit_that_dies_ends_it() {
        let up = ("a.service", unit("active", "running", 0));
        check(&[seen(0, None, &[("a.service", unit("failed", "failed", 0))])], &works(), Some("has failed"));
        let again = [
            seen(0, None, std::slice::from_ref(&up)),
            seen(20, None, &[("a.service", unit("active", "running", 1))]),
        ];
        check(&again, &works(), Some("started it again"));
        check(&[seen(0, None, &[up]), seen(20, None, &[])], &works(), Some("ended by itself"));
        let new = [seen(0, None, &[("new.service", unit("activating", "auto-restart", 1))])];
        check(&new, &works(), Some("again and again"));
    }

    #[test]
    fn a_lost_path_is_not_confirmed() {
        check(&[seen(0, Some(works()), &[])], &away(), Some("no route"));
        // It comes and goes: the end alone proves little.
        check(&[seen(5, Some(works()), &[]), seen(25, Some(away()), &[])], &works(), Some("no route"));
        let mut lost = before();
        lost.path.worked = false;
        assert!(Judge::new(&lost, WITHIN).end(&away()).is_ok(), "what did not work before is not judged");
    }

    #[test]
    fn a_moved_clock_is_no_fault_of_the_server() {
        let late = Proof::Works { how: How::OutOfDate };
        check(&[seen(25, Some(late.clone()), &[])], &works(), None);
        let moved = Seen { clock_off: 90_000, ..seen(25, Some(late), &[]) };
        check(&[moved], &works(), Some("the clock is 90000 s off"));
    }

    #[test]
    fn memory_and_checks_count() {
        check(&[Seen { memory_is_short: true, ..seen(1, None, &[]) }], &works(), Some("memory"));
        let required = |required| CheckResult {
            name: "10-door".into(),
            required,
            passed: false,
            output: "door is open".into(),
        };
        check(&[Seen { checks: vec![required(true)], ..seen(1, None, &[]) }], &works(), Some("door is open"));
        check(&[Seen { checks: vec![required(false)], ..seen(1, None, &[]) }], &works(), None);
    }
}
