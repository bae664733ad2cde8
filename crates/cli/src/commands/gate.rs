//! `volary gate`: what is said of commits for the gates whose word comes from elsewhere.

use clap::{Args, Subcommand, ValueEnum};
use volary_api::v1::fleet::{GateStatus, NewGateStatus, Say};
use volary_model::{CommitId, GateName};

use super::fleet::say_word;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago};

/// What to do with gates.
#[derive(Subcommand)]
pub enum GateCommand {
    /// Say what an external gate says of a commit
    Set(SetArgs),
    /// List what was said by commands and by others, the newest first
    List {
        /// Only of this commit
        #[arg(long)]
        commit: Option<CommitId>,
    },
}

/// What is said.
#[derive(Args)]
pub struct SetArgs {
    /// The gate, as volary.yml names it under `external`
    name: GateName,
    /// The commit that would be merged, all 40 digits: the tip of the stage before
    #[arg(long)]
    commit: CommitId,
    /// The word
    #[arg(value_enum)]
    say: SayArg,
    /// Why, in one line
    #[arg(long, value_name = "WHY")]
    reason: String,
}

/// The words of gates on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum SayArg {
    /// The condition holds
    Go,
    /// It does not
    Stop,
    /// A person must look
    Ask,
}

impl From<SayArg> for Say {
    fn from(say: SayArg) -> Self {
        match say {
            SayArg::Go => Self::Go,
            SayArg::Stop => Self::Stop,
            SayArg::Ask => Self::Ask,
        }
    }
}

/// Runs `volary gate …`.
pub fn run(command: GateCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        GateCommand::Set(SetArgs { name, commit, say, reason }) => {
            let said = NewGateStatus { gate: name, commit, say: say.into(), reason };
            let status: GateStatus = client.post("/api/v1/gate-statuses", &said)?;
            out.show(&status, |status| {
                let word = say_word(status.say, out);
                out.line(format!("{} says {word} of {}", status.gate, status.commit.short()));
            });
        }
        GateCommand::List { commit } => {
            let query = commit.map(|commit| format!("?commit={commit}")).unwrap_or_default();
            let statuses: Vec<GateStatus> = client.get(&format!("/api/v1/gate-statuses{query}"))?;
            out.show(&statuses, |statuses| list(statuses, out));
        }
    }
    Ok(())
}

fn list(statuses: &[GateStatus], out: &Out) {
    let rows = statuses
        .iter()
        .map(|status| {
            let by = match (&status.by, &status.stage) {
                (Some(by), _) => by.clone(),
                (None, Some(stage)) => format!("command, for {stage}"),
                (None, None) => "–".to_owned(),
            };
            let word = say_word(status.say, out);
            vec![
                status.gate.to_string(),
                status.commit.short().to_owned(),
                word,
                by,
                ago(status.at),
                status.reason.clone(),
            ]
        })
        .collect();
    let nothing = "nothing was said; gates that wait for it are `command` and `external` in volary.yml";
    out.table(&["GATE", "COMMIT", "SAYS", "BY", "WHEN", "REASON"], rows, nothing);
}
