//! One run: a world and the devices in it.

use serde::Serialize;

use crate::device::Device;
use crate::dice::Dice;
use crate::plan::{fate, plan};
use crate::rules::{Rules, Violation};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Where everything comes from.
    pub seed: u64,
    /// How many devices the world has. They share the server and its commits.
    pub devices: u64,
    /// Whether to tell what happens.
    pub trace: bool,
}

/// What became of the devices of one run, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Devices in them.
    pub devices: u64,
    /// Steps of the machine.
    pub steps: u64,
    /// Effects, at each of which a crash may come.
    pub effects: u64,
    /// Convergences that were confirmed.
    pub confirmed: u64,
    /// Those undone by the agent.
    pub undone_by_agent: u64,
    /// Those undone by the timer or a boot.
    pub undone_by_timer: u64,
    /// Those undone by a person.
    pub undone_by_person: u64,
    /// Good commits in quarantine, since the world broke at the wrong time.
    pub good_quarantined: u64,
    /// Spells of a week or more without a link.
    pub weeks_offline: u64,
    /// The longest time that a change cut a device off, in seconds, among those with power.
    pub longest_cut: u64,
    /// Seconds of virtual time.
    pub seconds: u64,
}

impl Summary {
    /// Adds what became of others.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.devices += other.devices;
        self.steps += other.steps;
        self.effects += other.effects;
        self.confirmed += other.confirmed;
        self.undone_by_agent += other.undone_by_agent;
        self.undone_by_timer += other.undone_by_timer;
        self.undone_by_person += other.undone_by_person;
        self.good_quarantined += other.good_quarantined;
        self.weeks_offline += other.weeks_offline;
        self.longest_cut = self.longest_cut.max(other.longest_cut);
        self.seconds += other.seconds;
    }

    fn of(rules: &Rules, device: &Device<'_>) -> Self {
        Self {
            runs: 0,
            devices: 1,
            steps: rules.steps,
            effects: device.effects,
            confirmed: rules.confirmed,
            undone_by_agent: rules.undone_by_agent,
            undone_by_timer: rules.undone_by_timer,
            undone_by_person: rules.undone_by_person,
            good_quarantined: rules.good_quarantined,
            weeks_offline: rules.weeks_offline,
            longest_cut: rules.longest_cut / 1000,
            seconds: device.now / 1000,
        }
    }
}

/// In every other world from this seed on devices need a turn to change. The worlds before it, some of
/// which once broke a rule, stay what they were.
const TURNS_FROM: u64 = 5000;

/// Runs a world to its end. The trace has a line for everything that happened, if it was asked for.
///
/// # Errors
/// The first [`Violation`] of a device.
pub fn run(run: Run) -> (Result<Summary, Violation>, Vec<String>) {
    let mut dice = Dice::new(run.seed);
    let mut plan = plan(&mut dice);
    if run.seed >= TURNS_FROM && run.seed.is_multiple_of(2) {
        plan.limit_sites();
    }
    let mut summary = Summary { runs: 1, ..Summary::default() };
    let mut trace = Vec::new();
    if run.trace {
        let story = |number: usize| {
            let commit = plan.commit(number);
            format!("commit {number} after {} s: {:?}", commit.at / 1000, commit.kind)
        };
        trace.extend((1..=plan.commits.len()).map(story));
        trace.extend(plan.moods.iter().map(|(at, mood)| format!("server after {} s: {mood:?}", at / 1000)));
    }
    for number in 0..run.devices {
        let mut own = dice.fork(number);
        let fate = fate(&mut own, &plan, run.seed.wrapping_add(number));
        if run.trace {
            trace.push(format!("device {number}: {:?}, {} blows", fate.crashes, fate.blows.len()));
        }
        let mut device = Device::new(&plan, fate, own, run.trace);
        device.rules.traces = run.trace;
        let lived = device.live();
        summary.add(&Summary::of(&device.rules, &device));
        let (_, lines) = device.into_trace();
        trace.extend(lines);
        if let Err(violation) = lived {
            let violation = Violation { seed: run.seed, device: number, ..violation };
            return (Err(violation), trace);
        }
    }
    (Ok(summary), trace)
}
