//! `volary simulate`: many devices in virtual time, without a server.

use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use volary_simulate::{Campaign, Run, Tally, campaign, run};

use crate::failure::Failure;
use crate::out::{Out, Tone};
use crate::progress::Line;

/// Options of `volary simulate`.
#[derive(Args)]
pub struct SimulateArgs {
    /// How many worlds to run
    #[arg(long, default_value_t = 1000)]
    runs: u64,
    /// How many devices each of them has
    #[arg(long, default_value_t = 1)]
    devices: u64,
    /// The seed of the first world; each further one has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes, finished or not
    #[arg(long)]
    minutes: Option<u64>,
    /// Tell the story of the world of this seed alone
    #[arg(long)]
    trace: bool,
}

/// Runs `volary simulate`. A rule that does not hold is a failure.
pub fn simulate(args: &SimulateArgs, out: &Out) -> Result<(), Failure> {
    if args.trace {
        let (ended, story) = run(Run { seed: args.seed, devices: args.devices, trace: true });
        for line in story {
            out.line(line);
        }
        let summary = ended.map_err(anyhow::Error::from)?;
        out.show(&summary, |summary| out.line(format!("{} steps, no rule was broken", summary.steps)));
        return Ok(());
    }
    let progress = Mutex::new(Line::new(out));
    let say = |done: u64| {
        let mut line = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        line.show(&format!("{done} of {} runs", args.runs));
    };
    let limit = args.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let wanted = Campaign { runs: args.runs, devices: args.devices, seed: args.seed, limit };
    let tally = campaign(wanted, &say);
    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).end();
    out.show(&tally, |tally| show(tally, out));
    match tally.violations.first() {
        None => Ok(()),
        Some(violation) => {
            let help =
                format!("volary simulate --seed {} --devices {} --trace", violation.seed, args.devices);
            Err(Failure::with_help(violation.clone(), help))
        }
    }
}

fn show(tally: &Tally, out: &Out) {
    let summary = &tally.summary;
    let years = summary.seconds / (366 * 24 * 3600);
    out.line(format!(
        "{} runs with {} devices, {years} years of their time, in {:.0} s",
        summary.runs + tally.broken,
        summary.devices,
        tally.took.as_secs_f64()
    ));
    out.line(format!("{} steps of the machine, {} effects", summary.steps, summary.effects));
    out.line(format!(
        "{} changes were confirmed; undone: {} by the agent, {} by the timer, {} by people",
        summary.confirmed, summary.undone_by_agent, summary.undone_by_timer, summary.undone_by_person
    ));
    out.line(format!(
        "{} good commits went into quarantine, since the world broke while they were confirmed",
        summary.good_quarantined
    ));
    out.line(format!("{} devices were away for a week or more and came back", summary.weeks_offline));
    out.line(format!("a change cut a device off for at most {} s", summary.longest_cut));
    let tone = if tally.broken == 0 { Tone::Good } else { Tone::Bad };
    out.line(out.tone(tone, format!("{} runs broke a rule", tally.broken)));
    for violation in &tally.violations {
        out.line(format!("  {violation}"));
    }
}
