//! `make bench-agent`: what the agent costs a device, beside ansible-pull and ansible-playbook on
//! the same device in the same run.
//!
//! One real device in a container with a network card of its own, one real `volary serve`, a fleet
//! of a thousand hosts. Ours and the peer take turns, and what is printed is the median. Processor
//! time is that of control groups, bytes are those of the device's network card, headers and all.
//! Not here: what a device costs the server.

mod change;
mod fleet;
mod git_server;
mod idle;
mod rest;
mod stand;
mod weight;

use clap::{Args, ValueEnum};

use crate::figures::Figure;
use crate::workspace::Workspace;
use stand::Stand;

/// What `make bench-agent` says of itself in the figures.
const COMMAND: &str = "make bench-agent";

/// How a benchmark of the agent runs.
#[derive(Args)]
pub struct BenchAgentArgs {
    /// The parts to measure; all if none is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Hosts in the inventory of the fleet
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// How often ours and the peer take turns
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// For how many seconds an idle device is watched
    #[arg(long, default_value_t = 320)]
    watch: u64,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Size on disk, memory, wake-ups
    Weight,
    /// A poll that brings nothing, beside `ansible-pull --only-if-changed`
    Idle,
    /// A commit that changes one template, beside `ansible-playbook`
    Change,
}

/// Measures and writes the figures.
pub fn run(args: &BenchAgentArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let stand = Stand::open(&workspace, args.hosts)?;
    if wanted(Part::Weight) {
        weight::measure(&stand, std::time::Duration::from_secs(args.watch))?;
    }
    if wanted(Part::Idle) {
        idle::measure(&stand, args.rounds)?;
    }
    if wanted(Part::Change) {
        change::measure(&stand, args.rounds)?;
    }
    Ok(())
}

/// A figure of this benchmark.
fn figure(
    workspace: &Workspace,
    name: &str,
    meaning: &str,
    ours: (f64, &str),
    at_most: f64,
) -> anyhow::Result<Figure> {
    Ok(Figure::new(workspace, name, meaning, ours, at_most)?.by(COMMAND))
}

/// The middle one; the mean of the two in the middle of an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}
