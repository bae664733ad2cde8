//! The `volary` command: parses, calls, renders. The only program of ours that prints.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage, 3 a gate or a check said no.

mod commands;
mod config;
mod failure;
mod out;
mod progress;
mod workdir;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    alert, api, approve, archive, artifact, build, check, cve, device, export_fleet, fleet, gate, image,
    inventory, metrics, release, rollout, server, simulate, source, status, token, user, verify, watch,
};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::Out;

/// The server gives and takes buffers of connections thousands of times a second, for which glibc's allocator took a
/// quarter of its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// GitOps for fleets of Debian devices: from a git commit to a running, watched machine.
#[derive(Parser)]
#[command(name = "volary", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    /// The file that names the server, its authority and your token
    #[arg(long, global = true, env = "VOLARY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the stages, their devices, and what is wrong
    Status(status::StatusArgs),
    /// Show the journey of a package version from its commit to the devices
    Trace(status::TraceArgs),
    /// Show what happened, newest first
    Events(status::EventsArgs),
    /// Register source repositories
    #[command(subcommand)]
    Source(source::SourceCommand),
    /// See and repeat builds
    #[command(subcommand)]
    Build(build::BuildCommand),
    /// Take packages into the archive and list them
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// Cut, pick, freeze and compare releases
    #[command(subcommand)]
    Release(release::ReleaseCommand),
    /// Clone the fleet repository, or a hosted source, ready to sign and push
    Clone(fleet::CloneArgs),
    /// Check a fleet repository
    Check(check::CheckArgs),
    /// Show what the inventory says of a host; give each host a file of its own
    #[command(subcommand)]
    Inventory(inventory::InventoryCommand),
    /// Commit the pin of a release, or of images, to the first stage's branch
    Bump(fleet::BumpArgs),
    /// Sign for what a stage is to get, as one more person
    Approve(approve::ApproveArgs),
    /// Merge one stage into the next
    Promote(fleet::PromoteArgs),
    /// Give the data of Debian's security tracker, by which promotions name what they mend
    #[command(subcommand)]
    Cve(cve::CveCommand),
    /// Say and see what benches, programs and people say of commits, for gates that wait for it
    #[command(subcommand)]
    Gate(gate::GateCommand),
    /// See how a commit reaches the devices of a stage, stop it and let it go on
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Prove the history of stages offline: who signed each step, and why it was allowed
    Verify(verify::VerifyArgs),
    /// Write what devices need of the fleet into a folder, for a USB stick or a web server
    ExportFleet(export_fleet::ExportFleetArgs),
    /// Read, check, sign and make update artifacts in Mender's format
    #[command(subcommand)]
    Artifact(artifact::ArtifactCommand),
    /// Make images for device types, bring them onto cards, and publish them
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Enrol, accept and see devices
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// See what is wrong in the fleet, and silence it for a while
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// See who is told of alerts and measurements
    #[command(subcommand)]
    Feed(alert::FeedCommand),
    /// Show what a device measures, now and over time, and the errors in its journal
    Metrics(metrics::MetricsArgs),
    /// Run the devices' machine in virtual time, in worlds that are out to break it
    Simulate(simulate::SimulateArgs),
    /// Show the rules that watch devices, and what they would have said
    #[command(subcommand)]
    Watch(watch::WatchCommand),
    /// See and ask the HTTP API
    #[command(subcommand)]
    Api(api::ApiCommand),
    /// Give people and programs access
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Give people accounts with a password, and see who is signed in
    #[command(subcommand)]
    User(user::UserCommand),
    /// Sign in with a password; client.toml keeps the session
    Login(user::LoginArgs),
    /// End the session that client.toml keeps
    Logout,
    /// Show who you are for the server
    Me,
    /// Show the server's own keys, as lines for .volary/allowed_signers
    ServerKeys,
    /// Make a new server
    Init(server::InitArgs),
    /// Run a server
    Serve(server::ServeArgs),
    /// What git asks for the token of a clone
    #[command(hide = true)]
    Credential(fleet::CredentialArgs),
    /// What git runs on the server when somebody pushes
    #[command(subcommand, hide = true)]
    Hook(server::HookCommand),
}

fn main() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing else chose a provider before main");
    let cli = Cli::parse();
    let out = Out::new(cli.json);
    match run(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

fn run(cli: Cli, out: &Out) -> Result<(), Failure> {
    let connection = Connection::new(cli.config);
    match cli.command {
        Command::Status(args) => status::status(&args, &connection, out),
        Command::Trace(args) => status::trace(&args, &connection, out),
        Command::Events(args) => status::events(&args, &connection, out),
        Command::Source(command) => source::run(command, &connection, out),
        Command::Build(command) => build::run(command, &connection, out),
        Command::Archive(command) => archive::run(command, &connection, out),
        Command::Release(command) => release::run(command, &connection, out),
        Command::Clone(args) => fleet::clone(&args, &connection, out),
        Command::Check(args) => check::run(&args, &connection, out),
        Command::Inventory(command) => inventory::run(&command, out),
        Command::Bump(args) => fleet::bump(&args, &connection, out),
        Command::Approve(args) => approve::run(&args, &connection, out),
        Command::Promote(args) => fleet::promote(&args, &connection, out),
        Command::Cve(command) => cve::run(command, &connection, out),
        Command::Gate(command) => gate::run(command, &connection, out),
        Command::Rollout(command) => rollout::run(command, &connection, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::ExportFleet(args) => export_fleet::run(&args, out),
        Command::Artifact(command) => artifact::run(command, out),
        Command::Image(command) => image::run(command, &connection, out),
        Command::Credential(args) => fleet::credential(&args, &connection, out),
        Command::Device(command) => device::run(command, &connection, out),
        Command::Alert(command) => alert::run(command, &connection, out),
        Command::Feed(command) => alert::feed(&command, &connection, out),
        Command::Metrics(args) => metrics::run(&args, &connection, out),
        Command::Simulate(args) => simulate::simulate(&args, out),
        Command::Watch(command) => watch::run(&command, &connection, out),
        Command::Api(command) => api::run(command, &connection, out),
        Command::Token(command) => token::run(command, &connection, out),
        Command::User(command) => user::run(command, &connection, out),
        Command::Login(args) => user::login(&args, &connection, out),
        Command::Logout => user::logout(&connection, out),
        Command::Me => user::me(&connection, out),
        Command::ServerKeys => server::keys(&connection, out),
        Command::Init(args) => server::init(args, out),
        Command::Serve(args) => server::serve(args, out),
        Command::Hook(command) => server::hook(&command, out),
    }
}
