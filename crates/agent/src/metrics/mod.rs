//! Measures the device and sends what it measured: a thread that looks each time the fleet says, a ring of
//! points in memory, a bounded folder for what cannot be sent.
//!
//! Nothing here decides about changes of the device, and nothing waits for it: a look that fails leaves
//! a hole. The daemon tells what to measure ([`Meter::follow`]) and lends its connection to send
//! ([`Meter::send`]).

mod certificate;
mod disks;
mod files;
mod journal;
mod kernel;
mod look;
mod machine;
mod own;
mod packages;
mod ring;
mod send;
mod services;
mod show;
mod sink;
mod store;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::metrics::{POINTS_LIMIT, SERIES_LIMIT, Samples};
use volary_fleet::Metrics;
use volary_host::{awake, boot_id, now, since_boot};
use volary_model::{CommitId, StageName};

pub use look::{Look, Looker, Questions};
pub use show::{Shown, show};

use crate::agent::Agent;
use crate::log;
use crate::paths::Paths;
use journal::{Files, Line, Read, Reading, Totals};
use ring::Ring;
use store::{Batch, Kept, Store};

/// How long points stay in memory while they cannot be sent; then they are written. A power cut takes
/// that much of what an offline device knew, and a card is written once in that time.
const GATHER: Duration = Duration::from_secs(3600);

/// How long after a look that was missed (a machine that slept) the points before it are closed off: a
/// hole in a batch takes as much place as points.
const LONGEST_HOLE: u64 = 60;

/// One moment, by the clocks that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The kernel's boot id.
    pub boot_id: String,
    /// Since boot, sleep included.
    pub since_boot: Duration,
    /// Since boot, sleep left out.
    pub awake: Duration,
    /// By the wall clock.
    pub at: Timestamp,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { boot_id: boot_id(), since_boot: since_boot(), awake: awake(), at: now() }
    }
}

/// What is measured, as the fleet wants it of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The stage, for the fleet's programs.
    pub stage: StageName,
    /// The commit that says so.
    pub commit: Option<CommitId>,
    /// What it says.
    pub metrics: Metrics,
    /// The units, those that the fleet names first.
    pub units: Vec<String>,
    /// The files with certificates, the device's own first.
    pub certificates: Vec<String>,
    /// The files of the commit.
    pub checkout: Option<PathBuf>,
}

impl Plan {
    /// What the commit that the device is at wants; `None` if it wants nothing. Without a commit, or
    /// where it cannot be read, the default holds.
    pub fn of(agent: &Agent) -> Option<Self> {
        let stage = agent.state.stage.clone();
        let commit = agent.state.trusted.clone();
        let metrics = match agent.rules().map(|config| config.metrics_of(&stage)) {
            Some(wanted) => wanted?,
            None => Metrics::default(),
        };
        let mut units = metrics.units.clone();
        units.extend(agent.watched_units.iter().filter(|unit| !metrics.units.contains(unit)).cloned());
        let own = "/etc/volary/device.crt".to_owned();
        let others = metrics.certificates.iter().filter(|file| **file != own).cloned();
        Some(Self {
            certificates: std::iter::once(own.clone()).chain(others).collect(),
            checkout: commit.as_ref().map(|commit| agent.paths.checkout(commit)),
            stage,
            commit,
            metrics,
            units,
        })
    }

    fn step(&self) -> u32 {
        u32::try_from(self.metrics.every.as_secs()).unwrap_or(u32::MAX).max(1)
    }
}

/// Measures, keeps, sends. Clones are the same one.
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    store: Store,
    read: Read,
}

/// What the thread that looks and the one that sends share.
struct State {
    plan: Option<Arc<Plan>>,
    ring: Ring,
    kept: Kept,
    /// Lines of the journal so far, in this run of the agent.
    totals: Totals,
    /// The journal's files when it was read for what was sent or written last.
    journal: Option<Files>,
    /// What is being sent, or an empty place for it: nobody else may take points then.
    sending: Option<Option<Batch>>,
    /// Since boot, when it was last tried to send, and until when not to try again.
    tried_at: Option<Duration>,
    quiet_until: Option<Duration>,
    /// When the state was written last, since boot.
    remembered_at: Duration,
}

impl Meter {
    /// One for this device, which does not look yet.
    pub fn new(paths: &Paths) -> Self {
        // The journal of the machine is nobody's who has a root of his own.
        let read: Read = if paths.is_device() { journal::read } else { |_, _, _| Reading::default() };
        Self::with(Store::new(paths.metrics()), read, None)
    }

    fn with(store: Store, read: Read, ended_badly: Option<bool>) -> Self {
        let kept = store.kept().in_boot(&boot_id(), ended_badly);
        let state = State {
            plan: None,
            ring: Ring::default(),
            kept,
            totals: Totals::default(),
            journal: None,
            sending: None,
            tried_at: None,
            quiet_until: None,
            remembered_at: since_boot(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), store, read }) }
    }

    /// Starts to measure, on a thread of its own, once there is a plan.
    pub fn start(paths: &Paths) -> Self {
        let mut looker = Looker::of(paths);
        let read: Read = if paths.is_device() { journal::read } else { |_, _, _| Reading::default() };
        let meter = Self::with(Store::new(paths.metrics()), read, looker.ended_badly());
        let mut state = meter.state();
        looker.unclean = state.kept.unclean;
        // From now on an end without a word is one that nobody wanted.
        meter.remember(&mut state);
        drop(state);
        let measuring = meter.clone();
        let run = move || measuring.run(&mut looker);
        let started = std::thread::Builder::new().name("metrics".into()).stack_size(512 << 10).spawn(run);
        if let Err(error) = started {
            log::say(format!("nothing is measured: {error}"));
        }
        meter
    }

    /// Measures this from now on.
    pub fn follow(&self, plan: Option<Plan>) {
        let mut state = self.state();
        if state.plan.as_deref() == plan.as_ref() {
            return;
        }
        let steps = [state.plan.as_deref(), plan.as_ref()].map(|plan| plan.map(Plan::step));
        if steps[0] != steps[1] {
            self.keep(&mut state, Reading::default(), &Moment::now());
        }
        state.plan = plan.map(Arc::new);
        self.shared.changed.notify_all();
    }

    /// Writes what is only in memory: the process ends. `for_good` if it was asked to.
    pub fn end(&self, for_good: bool) {
        let mut state = self.state();
        if let Some(Some(batch)) = state.sending.take() {
            // It may arrive and may not; the same id counts once.
            state.ring.forget(usize::try_from(batch.samples.points).unwrap_or(usize::MAX));
            self.write(&mut state, &batch);
        }
        self.keep(&mut state, Reading::default(), &Moment::now());
        state.kept.ended = for_good;
        self.remember(&mut state);
        state.plan = None;
    }

    /// How many batches wait on disk.
    pub fn waiting(&self) -> usize {
        self.shared.store.waiting().len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a thread left that fell over is points and counters: all of them can be used.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, looker: &mut Looker) {
        let mut last: Option<(u32, u64)> = None;
        loop {
            let state = self.state();
            let Some(plan) = state.plan.clone() else {
                drop(self.shared.changed.wait(state));
                continue;
            };
            let step = plan.step();
            let passed = since_boot();
            let time = passed.as_secs() / u64::from(step);
            // The first look is at once, the others when a step is full.
            if last.is_some_and(|(of, last)| of == step && time <= last) {
                let next = Duration::from_secs((time + 1).saturating_mul(step.into()));
                drop(self.shared.changed.wait_timeout(state, next.saturating_sub(passed)));
                continue;
            }
            drop(state);
            last = Some((step, time));
            self.add(&plan, time, looker.look(&plan, &Moment::now()));
        }
    }

    /// Looks once, now. The thread does so by itself.
    pub fn measure(&self, looker: &mut Looker) {
        let Some(plan) = self.state().plan.clone() else { return };
        let now = Moment::now();
        self.add(&plan, now.since_boot.as_secs() / u64::from(plan.step()), looker.look(&plan, &now));
    }

    /// Adds what a look found; writes what is there if it becomes too much.
    fn add(&self, plan: &Arc<Plan>, time: u64, look: Look) {
        let mut state = self.state();
        if state.plan.as_ref() != Some(plan) {
            return;
        }
        let full = state.ring.points_with(time) > plan.most_points();
        let hole = state.ring.points() > 0 && time > state.ring.newest().saturating_add(LONGEST_HOLE);
        if (full || hole) && state.sending.is_none() {
            state = self.keep_with_errors(state, plan);
        }
        // A server that takes an hour over one request must not make the memory grow.
        if state.ring.points_with(time) <= POINTS_LIMIT as u64 {
            state.ring.push(time, look.values);
        } else {
            state.kept.lost += 1;
        }
    }

    fn keep_with_errors<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        plan: &Plan,
    ) -> MutexGuard<'a, State> {
        state.sending = Some(None);
        let read = state.read();
        drop(state);
        let now = Moment::now();
        let reading = self.reading(plan, &read, &now);
        let mut state = self.state();
        state.sending = None;
        self.keep(&mut state, reading, &now);
        state
    }

    /// Reads the journal on from where it was read to.
    fn reading(&self, plan: &Plan, (cursor, files): &ReadTo, now: &Moment) -> Reading {
        let is_wanted = plan.metrics.journal > 0 || plan.metrics.series.contains("journal_errors_total");
        if is_wanted {
            (self.shared.read)(cursor.as_deref(), files.as_ref(), now)
        } else {
            Reading::default()
        }
    }

    /// Moves all points from memory to the disk.
    fn keep(&self, state: &mut State, reading: Reading, now: &Moment) {
        let Some(batch) = state.batch(&reading.lines, now) else { return };
        state.commit(&batch.samples, reading);
        self.write(state, &batch);
        self.remember(state);
    }

    fn write(&self, state: &mut State, batch: &Batch) {
        match self.shared.store.keep(batch) {
            Ok(0) => {}
            Ok(lost) => {
                state.kept.lost += lost;
                log::say(format!("{lost} measurements of the past found no place any more"));
            }
            Err(error) => {
                state.kept.lost += u64::from(batch.samples.points);
                log::say(format!("measurements are lost: {error}"));
            }
        }
    }

    fn remember(&self, state: &mut State) {
        state.remembered_at = since_boot();
        if let Err(error) = self.shared.store.remember(&state.kept) {
            log::say(error.to_string());
        }
    }
}

impl Plan {
    /// The most points in memory: those of an hour, or those of two sendings.
    fn most_points(&self) -> u64 {
        let time = GATHER.max(self.metrics.send.saturating_mul(2));
        (time.as_secs() / u64::from(self.step())).min(POINTS_LIMIT as u64)
    }
}

/// How far the journal was read: where in it, and what its files were.
type ReadTo = (Option<String>, Option<Files>);

impl State {
    fn read(&self) -> ReadTo {
        (self.kept.cursor.clone(), self.journal.clone())
    }

    /// All points, with the lines of the journal that came; `None` without points.
    fn batch(&mut self, lines: &[Line], now: &Moment) -> Option<Batch> {
        let plan = self.plan.clone().filter(|_| self.ring.points() > 0)?;
        let step = plan.step();
        let points = u32::try_from(self.ring.points()).unwrap_or(u32::MAX);
        let newest = Duration::from_secs(self.ring.newest().saturating_mul(step.into()));
        let age = now.since_boot.saturating_sub(newest);
        let mut series = self.ring.series().clone();
        if plan.metrics.series.contains("journal_errors_total") {
            let ages: Vec<Duration> =
                (0..points).rev().map(|before| age + Duration::from_secs((before * step).into())).collect();
            let columns = self.totals.columns(lines, &ages);
            series.extend(columns.into_iter().map(|(unit, column)| {
                (format!("journal_errors_total{{unit=\"{}\"}}", sink::escaped(&unit)), column)
            }));
        }
        if self.kept.lost > 0 && plan.metrics.series.contains("points_lost_total") {
            #[expect(clippy::cast_precision_loss, reason = "nobody loses 2^53 points")]
            series.insert("points_lost_total".to_owned(), vec![Some(self.kept.lost as f64)]);
        }
        while series.len() > SERIES_LIMIT {
            series.pop_last();
        }
        let (errors, errors_left_out) = match plan.metrics.journal {
            0 => (Vec::new(), 0),
            most => journal::throttled(lines, most),
        };
        let id = u64::try_from(now.at.as_millisecond()).unwrap_or(0).max(self.kept.last_id + 1);
        self.kept.last_id = id;
        Some(Batch {
            version: 1,
            since_boot: u64::try_from(now.since_boot.as_millis()).unwrap_or(u64::MAX),
            samples: Samples {
                // Of fixed length, so that the order of names is the order of numbers.
                id: format!("{id:016}"),
                boot_id: now.boot_id.clone(),
                at: now.at,
                age: age.as_secs(),
                step,
                points,
                series,
                errors,
                errors_left_out,
            },
        })
    }

    /// Forgets what is in a batch that somebody else holds now. True if the journal is further.
    fn commit(&mut self, samples: &Samples, reading: Reading) -> bool {
        self.ring.forget(usize::try_from(samples.points).unwrap_or(usize::MAX));
        self.totals = self.totals.with(&reading.lines);
        if reading.files.is_some() {
            self.journal = reading.files;
        }
        if reading.cursor.is_some() {
            self.kept.cursor = reading.cursor;
            return true;
        }
        false
    }
}
