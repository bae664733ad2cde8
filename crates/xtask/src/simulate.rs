//! The campaign of the simulator: `make simulate RUNS=100000`.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use volary_simulate::{Campaign, campaign};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// Run the devices' machine in virtual time.
#[derive(Args)]
pub struct SimulateArgs {
    /// How many worlds
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// The seed of the first
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes; the figure says how many runs that were
    #[arg(long)]
    minutes: Option<u64>,
}

/// Runs the campaign, prints what it found and writes its figures.
pub fn run(args: &SimulateArgs, workspace: &Workspace) -> anyhow::Result<()> {
    let limit = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let wanted = Campaign { runs: args.runs, devices: 1, seed: args.seed, limit };
    let tally = campaign(wanted, &|done| {
        if done.is_multiple_of(10_000) {
            println!("{done} of {} runs", args.runs);
        }
    });
    let summary = &tally.summary;
    let runs = summary.runs + tally.broken;
    for violation in &tally.violations {
        println!("{violation}");
    }
    println!(
        "{runs} runs in {:.0} s: {} steps, {} confirmed, undone {} by the agent, {} by the timer, {} by people; \
         {} weeks offline",
        tally.took.as_secs_f64(),
        summary.steps,
        summary.confirmed,
        summary.undone_by_agent,
        summary.undone_by_timer,
        summary.undone_by_person,
        summary.weeks_offline
    );
    let command = format!("make simulate RUNS={}", args.runs);
    let figure = |name: &str, meaning: String, ours: (f64, &str), at_most: f64| -> anyhow::Result<()> {
        Figure::new(workspace, name, &meaning, ours, at_most)?.by(&command).publish(workspace)
    };
    let meaning = format!(
        "simulated devices whose convergence ended neither confirmed nor reverted, or that broke another \
         rule, of {runs} runs with {} effects, a crash at any of them, and random faults",
        summary.effects
    );
    figure("simulate-broken", meaning, (as_float(tally.broken), "runs"), 0.0)?;
    let meaning = "longest time for which a simulated change cut off a device that had power all the time; \
                   the goal is the longest `confirm` of the worlds (5 min) and 2 min";
    figure("simulate-cut-off", meaning.to_owned(), (as_float(summary.longest_cut), "s"), 420.0)?;
    let good = summary.confirmed.max(1);
    let meaning = format!(
        "good commits that went into quarantine since the world broke at the wrong time, of all changes \
         that were confirmed ({good}), in worlds that break all the time"
    );
    figure(
        "simulate-good-quarantined",
        meaning,
        (100.0 * as_float(summary.good_quarantined) / as_float(good), "%"),
        2.0,
    )?;
    ensure!(tally.broken == 0, "{} runs broke a rule; the seeds stand above", tally.broken);
    Ok(())
}

/// Counts of a campaign are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}
