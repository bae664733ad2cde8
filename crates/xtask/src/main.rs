//! The project's own tools: `cargo xtask tidy|agent-deb|demo|image-demo|bench-agent|bench-archive|bench-image|bench-inventory|
//! bench-server|campaign-archive|campaign-power|test-foreign|figures|clean`.
//!
//! What a person types stands in the Makefile; this is what it calls. Not here: installing
//! packages (`scripts/setup`, which runs before there is a cargo).

// Together with the command line, the only program of ours that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench_agent;
mod bench_archive;
mod bench_image;
mod bench_inventory;
mod bench_load;
mod bench_server;
mod campaign_archive;
mod campaign_power;
mod deb;
mod demo;
mod figures;
mod foreign;
mod fuzz;
mod image_demo;
mod process;
mod simulate;
mod simulate_judge;
mod simulate_rollout;
mod target;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Devices of bench-load pack posts between connections that stay, for which glibc's allocator took all memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The project's own tools.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check what must hold in the tree and what no compiler checks
    Tidy,
    /// Build the agent's Debian package into target/debian
    AgentDeb(deb::AgentDebArgs),
    /// Show the whole chain on six devices
    Demo(demo::DemoArgs),
    /// Build an image, boot it, and update it over the air by a merge
    ImageDemo(image_demo::ImageDemoArgs),
    /// Measure the agent beside ansible-pull and ansible-playbook; prints figures
    BenchAgent(bench_agent::BenchAgentArgs),
    /// Measure the archive beside aptly and reprepro; prints figures
    BenchArchive(bench_archive::BenchArchiveArgs),
    /// Measure artifacts and deltas of images beside their peers; prints figures
    BenchImage(bench_image::BenchImageArgs),
    /// Measure what a change costs a device in a small and in a large fleet; prints figures
    BenchInventory(bench_inventory::BenchInventoryArgs),
    /// Measure the whole server with a large fleet, as devices and people see it; prints figures
    BenchLoad(bench_load::BenchLoadArgs),
    /// The devices of bench-load, which starts them
    #[command(hide = true)]
    LoadDevices(bench_load::devices::LoadDevicesArgs),
    /// Measure what measurements of a large fleet cost the server; prints figures
    BenchServer(bench_server::BenchServerArgs),
    /// Kill, race and crowd the archive, within a time budget; prints figures
    CampaignArchive(campaign_archive::CampaignArchiveArgs),
    /// Cut the power of whole machines in the middle of updates, within a time budget; prints figures
    CampaignPower(campaign_power::CampaignPowerArgs),
    /// Build the agent for other architectures, pack it, and start it by qemu-user
    TestForeign(foreign::TestForeignArgs),
    /// Make docs/figures.md from what was measured
    Figures,
    /// Fuzz every parser that reads what others wrote; prints figures
    Fuzz(fuzz::FuzzArgs),
    /// Run the devices' machine in virtual time, in many worlds; prints figures
    Simulate(simulate::SimulateArgs),
    /// Count how often judges are wrong, on made-up fleets; writes docs/judges.md and prints figures
    SimulateJudge(simulate_judge::SimulateJudgeArgs),
    /// Count how many devices a commit that hurts touches
    SimulateRollout(simulate_rollout::SimulateRolloutArgs),
    /// Take down stale labs and remove cached roots
    Clean,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Tidy => {
            let problems = tidy::problems(&Workspace::find()?)?;
            for problem in &problems {
                eprintln!("{problem}");
            }
            if !problems.is_empty() {
                bail!("the tree is not tidy: {} problems", problems.len());
            }
            Ok(())
        }
        Command::AgentDeb(args) => {
            let deb = deb::build(&Workspace::find()?, &args)?;
            println!("{}", deb.display());
            Ok(())
        }
        Command::Demo(args) => demo::run(&args),
        Command::ImageDemo(args) => image_demo::run(&args),
        Command::BenchAgent(args) => bench_agent::run(&args),
        Command::BenchArchive(args) => bench_archive::run(&args),
        Command::BenchImage(args) => bench_image::run(&args),
        Command::BenchInventory(args) => bench_inventory::run(&args),
        Command::BenchLoad(args) => bench_load::run(&args),
        Command::LoadDevices(args) => bench_load::devices::run(&args),
        Command::BenchServer(args) => bench_server::run(&args),
        Command::CampaignArchive(args) => campaign_archive::run(&args),
        Command::CampaignPower(args) => campaign_power::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Simulate(args) => simulate::run(&args, &Workspace::find()?),
        Command::SimulateRollout(args) => simulate_rollout::run(&args, &Workspace::find()?),
        Command::SimulateJudge(args) => simulate_judge::run(&args, &Workspace::find()?),
        Command::TestForeign(args) => foreign::run(&args),
        Command::Figures => figures::write_page(&Workspace::find()?),
        Command::Clean => Ok(volary_testkit::Cache::open()?.clear()?),
    }
}
