//! `volary rollout`: how far a commit came among the devices of its stage, and taking a hand in it.

use clap::{Args, Subcommand};
use volary_api::v1::rollout::{Rollout, Say, State};
use volary_model::StageName;

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone};

/// What to do with rollouts.
#[derive(Subcommand)]
pub enum RolloutCommand {
    /// List rollouts, the newest first
    List,
    /// Let no further device of a stage begin with its newest commit
    Stop(SayArgs),
    /// Let a stopped rollout go on, in spite of the devices that failed so far
    Resume(SayArgs),
    /// Open the next wave without waiting for the devices of this one
    Next(SayArgs),
}

/// Whose rollout, and why.
#[derive(Args)]
pub struct SayArgs {
    /// The stage
    stage: StageName,
    /// Why; devices that wait for it show it
    #[arg(long, value_name = "WHY")]
    reason: String,
}

/// Runs `volary rollout …`.
pub fn run(command: RolloutCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let (args, verb) = match command {
        RolloutCommand::List => {
            let rollouts: Vec<Rollout> = client.get("/api/v1/rollouts")?;
            out.show(&rollouts, |rollouts| list(rollouts, out));
            return Ok(());
        }
        RolloutCommand::Stop(args) => (args, "stop"),
        RolloutCommand::Resume(args) => (args, "resume"),
        RolloutCommand::Next(args) => (args, "next"),
    };
    let path = format!("/api/v1/rollouts/{}/{verb}", encode(args.stage.as_str()));
    let rollout: Rollout = client.post(&path, &Say { reason: args.reason })?;
    out.show(&rollout, |rollout| list(std::slice::from_ref(rollout), out));
    Ok(())
}

fn list(rollouts: &[Rollout], out: &Out) {
    if rollouts.is_empty() {
        out.line("no stage is rolled out in waves");
        out.line("help: in volary.yml: rollout: { production: { waves: [1%, 10%, 50%, 100%] } }");
    }
    for rollout in rollouts {
        let (tone, word) = match rollout.state {
            State::Running => (Tone::Warn, "running"),
            State::Stopped => (Tone::Bad, "stopped"),
            State::Finished => (Tone::Good, "finished"),
            State::Superseded => (Tone::Dim, "superseded"),
            State::Unknown => (Tone::Dim, "unknown"),
        };
        out.line(format!("{} {}: {}", rollout.stage, rollout.commit.short(), out.tone(tone, word)));
        out.line(format!("  {}", rollout.says));
        if rollout.state == State::Stopped {
            out.line(format!(
                "  help: volary rollout resume {} --reason WHY, or promote a commit that mends it",
                rollout.stage
            ));
        }
    }
}
