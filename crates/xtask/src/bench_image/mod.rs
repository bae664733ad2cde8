//! `make bench-image`: artifacts beside Mender's tool, installing them beside Mender's client, and what a device fetches from one image to the next beside
//! RAUC's adaptive method, casync, xdelta3 and zstd's patches. Real Debian images, real peers, in one run.
//!
//! What the peers need on the device is measured by their own programs that apply; only RAUC's, which needs a
//! device to run on, is computed from its format (`deltas::rauc`).

mod deltas;
mod device;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use volary_host::Cmd;

use crate::figures::Figure;
use crate::workspace::Workspace;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Writing and verifying artifacts.
    Artifacts,
    /// Installing an artifact on a device.
    Install,
    /// What travels, and what it costs the device.
    Deltas,
}

/// How the benchmark of images runs.
#[derive(Args)]
pub struct BenchImageArgs {
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these steps of deltas; docs/deltas.md is written as soon as all were measured
    #[arg(long, value_delimiter = ',')]
    steps: Vec<deltas::Step>,
    /// Only these methods of deltas; the others stay as they were measured before
    #[arg(long, value_delimiter = ',')]
    methods: Vec<deltas::Method>,
}

/// Measures and writes the figures.
pub fn run(args: &BenchImageArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    for example in ["figures", "deltas"] {
        Cmd::new("cargo")
            .args(["build", "--quiet", "--release", "--package", "volary-artifact", "--example", example])
            .cwd(&workspace.root)
            .timeout(Duration::from_secs(1800))
            .check()?;
    }
    let examples = workspace.target.join("release/examples");
    if wants(Part::Artifacts) {
        artifacts(&workspace, &examples.join("figures"))?;
    }
    if wants(Part::Install) {
        device::run(&workspace, &examples.join("figures"))?;
    }
    if wants(Part::Deltas) {
        deltas::run(&workspace, &examples.join("deltas"), &args.steps, &args.methods)?;
    }
    Ok(())
}

/// Runs the benchmark of the crate and takes its figures.
fn artifacts(workspace: &Workspace, program: &Path) -> anyhow::Result<()> {
    let output = Cmd::new(program).timeout(Duration::from_secs(3600)).check()?;
    let text = output.text();
    let mut found = 0;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("figure ") else {
            println!("{line}");
            continue;
        };
        let words: Vec<&str> = rest.split(' ').collect();
        let [name, "ours", ours, unit, "peer", peer, _, "ratio", _, "goal", "<=", goal, ..] = words[..]
        else {
            anyhow::bail!("{} printed a figure that is none: {line}", program.display());
        };
        let number = |text: &str| text.parse::<f64>().with_context(|| format!("{text} is no number: {line}"));
        let times = (1.0 / number(goal)? * 100.0).round() / 100.0;
        Figure::new(workspace, name, &meaning(name), (number(ours)?, unit), 0.0)?
            .beside((number(peer)?, unit))
            .times_less(times)
            .by("make bench-image")
            .publish(workspace)?;
        found += 1;
    }
    ensure!(found > 0, "{} printed no figure", program.display());
    Ok(())
}

fn meaning(name: &str) -> String {
    let tool = if name.contains("zstd") { "mender-artifact 4" } else { "mender-artifact of Debian" };
    let rest = name.trim_start_matches("artifact-");
    let what = match rest.split('-').next() {
        Some("write") => "writing the artifact of a 1 GiB image",
        _ if rest.contains("one-thread") => "verifying it with one thread",
        _ => "verifying it with all threads",
    };
    let measure = match rest.rsplit('-').next() {
        Some("wall") => "time",
        Some("cpu") => "CPU",
        _ => "size of the artifact",
    };
    format!("{what}: {measure}, beside {tool} on the same data")
}
