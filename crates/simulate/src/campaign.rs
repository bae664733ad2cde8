//! Many runs, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::rules::Violation;
use crate::world::{Run, Summary, run};

/// How many violations are kept: the first few tell what is wrong.
const KEPT: usize = 20;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// How many worlds.
    pub runs: u64,
    /// How many devices in each.
    pub devices: u64,
    /// The seed of the first; each further one has the next.
    pub seed: u64,
    /// When to end, finished or not.
    pub limit: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// What became of the devices.
    pub summary: Summary,
    /// How many runs broke a rule.
    pub broken: u64,
    /// The first of them, by seed.
    #[serde(skip)]
    pub violations: Vec<Violation>,
    /// How long it took.
    pub took: Duration,
}

/// Runs all of them. `progress` hears now and then how many are done.
pub fn campaign(campaign: Campaign, progress: &(dyn Fn(u64) + Sync)) -> Tally {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= campaign.runs || stop.load(Ordering::Relaxed) {
                return tally;
            }
            let seed = campaign.seed.wrapping_add(number);
            match run(Run { seed, devices: campaign.devices, trace: false }).0 {
                Ok(summary) => tally.summary.add(&summary),
                Err(violation) => {
                    tally.broken += 1;
                    if tally.violations.len() < KEPT {
                        tally.violations.push(violation);
                    }
                }
            }
            if number % 1000 == 999 {
                progress(number + 1);
            }
            if campaign.limit.is_some_and(|limit| begun.elapsed() > limit) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let tally = thread.join().expect("a run ends with a summary or a violation");
            all.summary.add(&tally.summary);
            all.broken += tally.broken;
            all.violations.extend(tally.violations);
        }
    });
    all.violations.sort_by_key(|violation| violation.seed);
    all.violations.truncate(KEPT);
    all.took = begun.elapsed();
    all
}
