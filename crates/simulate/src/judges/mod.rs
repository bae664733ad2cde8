//! How often the judges of `volary-plan` are wrong, on made-up fleets whose truth is known, beside other
//! methods on the same data.
//!
//! What is made up has the faults of real measurements: devices differ, samples of one device depend on each
//! other, days have hours, programs warm up and collect garbage. [`tables`] makes what stands in
//! `docs/judges.md`. Not here: the judges themselves.

mod canaries;
mod leaks;
mod noise;
mod outcomes;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::dice::Dice;

pub use leaks::Shape;

/// Shares of made-up cases in which methods raise the alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What was made up.
    pub title: String,
    /// What the alarm is, and how the cases came about.
    pub explained: String,
    /// The methods; ours is the first one.
    pub methods: Vec<&'static str>,
    /// The cases.
    pub rows: Vec<Row>,
}

/// One made-up case.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The case.
    pub case: String,
    /// True if the alarm would be right.
    pub alarm_is_right: bool,
    /// How many were made up.
    pub runs: u64,
    /// For each method, in how many of them it raised the alarm.
    pub alarms: Vec<u64>,
}

impl Row {
    /// The share of alarms of the method `index`, 0 to 1.
    pub fn share(&self, index: usize) -> f64 {
        let alarms = self.alarms.get(index).copied().unwrap_or_default();
        if self.runs == 0 { 0.0 } else { float(alarms) / float(self.runs) }
    }
}

/// All tables, with `runs` of each case; of the largest fleets a part of that.
pub fn tables(runs: u64, seed: u64) -> Vec<Table> {
    vec![leaks::table(runs, seed), canaries::table(runs, seed), outcomes::table(runs, seed)]
}

/// The share of leaks that the rule finds in made-up weeks of this shape: 1 is all of them.
pub fn leaks_found(shape: Shape, mib_per_hour: f64, runs: u64, seed: u64) -> f64 {
    float(leaks::found(shape, mib_per_hour, runs, seed)) / float(runs.max(1))
}

/// The share of made-up promotions of 5 canaries beside 50 devices that are stopped, if one metric of four rises by
/// this part.
pub fn promotions_stopped(rise: f64, runs: u64, seed: u64) -> f64 {
    float(canaries::stopped(rise, runs, seed)) / float(runs.max(1))
}

/// Counts the alarms of all methods over many made-up cases, on all cores. The same seed gives the same counts.
fn count(runs: u64, seed: u64, methods: usize, one: &(dyn Fn(&mut Dice) -> Vec<bool> + Sync)) -> Vec<u64> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut alarms = vec![0; methods];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs {
                return alarms;
            }
            let mut dice = Dice::new(seed).fork(number.wrapping_add(1));
            for (alarms, alarm) in alarms.iter_mut().zip(one(&mut dice)) {
                *alarms += u64::from(alarm);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![0; methods];
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let alarms = thread.join().expect("methods do not panic");
            all.iter_mut().zip(alarms).for_each(|(all, alarms)| *all += alarms);
        }
    });
    all
}

/// Counts here are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}
