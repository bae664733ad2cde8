//! How many devices a commit that hurts touches before its rollout stops: `make simulate-rollout` writes the table of
//! `docs/rollouts.md`.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use volary_host::{read_to_string, write_atomic};
use volary_simulate::rollouts::{Ended, Harm, Way, roll_out};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// Where the table begins and ends in the page.
const BEGIN: &str = "<!-- made by make simulate-rollout -->\n";
const END: &str = "<!-- end -->\n";

/// The sizes of the fleets.
const FLEETS: [u32; 5] = [10, 100, 1000, 10_000, 100_000];

/// The most devices of all runs of a case together.
const DEVICES: u64 = 400_000;

const WAYS: [Way; 3] = [Way::Volary, Way::Batches, Way::Groups];

/// Roll commits out that hurt.
#[derive(Args)]
pub struct SimulateRolloutArgs {
    /// How many of each case; of large fleets fewer
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// The seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs all cases and writes the table and the figures.
pub fn run(args: &SimulateRolloutArgs, workspace: &Workspace) -> anyhow::Result<()> {
    ensure!(args.runs > 0, "--runs 0 rolls nothing out");
    let begun = Instant::now();
    let command = format!("make simulate-rollout RUNS={} SEED={}", args.runs, args.seed);
    let mut table = format!(
        "Devices that began before the rollout stopped (median), and how many rollouts stopped. Made by `{command}`; do not edit.\n\n\
         | the commit | devices | runs | **Volary** | batches, 90 % installed | groups, stop above 2 % |\n|---|---|---|---|---|---|\n"
    );
    let mut late = (0, 0);
    for harm in Harm::ALL {
        for devices in FLEETS {
            let runs = args.runs.min(DEVICES / u64::from(devices)).max(1);
            let of = |way| {
                (0..runs).map(move |run| roll_out(way, devices, harm, args.seed + run)).collect::<Vec<_>>()
            };
            let all: Vec<Vec<Ended>> = WAYS.into_iter().map(of).collect();
            if harm == Harm::AfterAnHour && devices == 1000 {
                late = (median(&all[0]), median(&all[1]));
            }
            let cells: Vec<String> = all.iter().map(|ended| cell(ended)).collect();
            writeln!(table, "| {} | {devices} | {runs} | {} |", harm.words(), cells.join(" | "))?;
        }
    }
    let path = workspace.path("docs/rollouts.md");
    let page = read_to_string(&path)?;
    let (head, rest) = page.split_once(BEGIN).context("docs/rollouts.md has no place for the table")?;
    let (_, tail) = rest.split_once(END).context("docs/rollouts.md has no end of the table")?;
    write_atomic(&path, format!("{head}{BEGIN}\n{table}\n{END}{tail}").as_bytes(), 0o644)?;
    print!("{table}");
    Figure::new(
        workspace,
        "rollout-late-failure",
        "devices of 1,000 that take a commit which fails them an hour later; the peer goes on when nine of ten installed",
        (late.0 as f64, "devices"),
        10.0,
    )?
    .beside((late.1 as f64, "devices"))
    .by(&command)
    .publish(workspace)?;
    println!("all of it took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn median(ended: &[Ended]) -> usize {
    let mut touched: Vec<usize> = ended.iter().map(|ended| ended.touched).collect();
    touched.sort_unstable();
    touched[touched.len() / 2]
}

fn cell(ended: &[Ended]) -> String {
    let stopped = ended.iter().filter(|ended| ended.stopped).count();
    format!("{}; {:.0} % stopped", median(ended), stopped as f64 * 100.0 / ended.len() as f64)
}
