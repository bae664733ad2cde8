//! The part of `make powercut` with whole machines: runs the test `slow_power` for a time, and counts its cuts.
//!
//! What is cut, and what must hold afterwards, stands in that test; it ends at the first fault.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use volary_host::Cmd;

use crate::figures::Figure;
use crate::workspace::Workspace;

/// Building the test, and the last machine that goes on to the end.
const BESIDE: Duration = Duration::from_secs(3600);

/// How a campaign runs.
#[derive(Args)]
pub struct CampaignPowerArgs {
    /// Minutes after which no further machine is cut
    #[arg(long, default_value_t = 40)]
    minutes: u64,
    /// What the moments and the losses are chosen from
    #[arg(long)]
    seed: u64,
}

/// Runs the campaign and writes its figure; an error if a machine did not come back.
pub fn run(args: &CampaignPowerArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let mut cuts: BTreeMap<String, u32> = BTreeMap::new();
    let command = Cmd::new("cargo")
        .args(["test", "--quiet", "--package", "volary-testkit", "--features", "system"])
        .args(["--test", "slow_power", "--", "--nocapture", "--test-threads=1"])
        .env("VOLARY_MINUTES", args.minutes.to_string())
        .env("VOLARY_SEED", args.seed.to_string())
        .cwd(&workspace.root)
        .timeout(BESIDE + Duration::from_secs(60 * args.minutes));
    let ended = command.check_lines(&mut |line| {
        println!("{line}");
        if let Some(phase) = phase(line) {
            *cuts.entry(phase.to_owned()).or_default() += 1;
        }
    });
    let all: u32 = cuts.values().sum();
    ensure!(all > 0 || ended.is_err(), "no power was cut in {} minutes", args.minutes);
    let phases: Vec<String> = cuts.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
    let meaning = format!(
        "power cuts after which a whole machine (UEFI, GRUB, kernel, the agent's installer) booted no slot, booted one that \
         is not whole, or did not finish its update: of {all}, from seed {} ({})",
        args.seed,
        phases.join(", ")
    );
    let faults = if ended.is_ok() { 0.0 } else { 1.0 };
    Figure::new(&workspace, "powercut-machine", &meaning, (faults, "faults"), 0.0)?
        .by("make powercut")
        .publish(&workspace)?;
    ended.map(drop).context("a machine did not come back from a power cut")
}

/// The phase of an update in which the power was cut, if a line of the test says so.
fn phase(line: &str) -> Option<&str> {
    let (phase, _) = line.strip_prefix("  cut in ")?.split_once(" (")?;
    Some(phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_told_from_the_rest() {
        assert_eq!(
            phase("  cut in first boot (Part(12)): 3 sectors lost, 4 of the cache kept"),
            Some("first boot")
        );
        assert_eq!(phase("12: volary: booting slot a, trial 0"), None);
    }
}
