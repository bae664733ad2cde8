//! `volary approve`: one more person signs for what a stage is to get.

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use volary_fleet::{Refusal, Rules, approvers};
use volary_model::{CommitId, StageName};

use super::fleet::{confirmed, list, read_fleet, stage_names};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone};
use crate::workdir::WorkDir;

/// Options of `volary approve`.
#[derive(Args)]
pub struct ApproveArgs {
    /// The stage that is to get the commit
    #[arg(long)]
    stage: StageName,
    /// The commit; if absent, the one that `volary promote` would merge into the stage
    commit: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What was approved.
#[derive(Serialize)]
struct Approved {
    stage: StageName,
    commit: CommitId,
    /// The signed tag.
    approval: String,
    /// Everybody who approved it so far.
    approved_by: Vec<String>,
    /// How many different people must sign, whoever merges it among them.
    needed: u32,
}

/// Runs `volary approve`.
pub fn run(args: &ApproveArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let config = connection.config()?;
    let work = WorkDir::find()?;
    work.fetch()?;
    let fleet = read_fleet(&work)?;
    let stage = fleet
        .stage(&args.stage)
        .ok_or_else(|| anyhow!("volary.yml has no stage {}; it has {}", args.stage, stage_names(&fleet)))?;
    let from = stage.from.as_ref().and_then(|from| fleet.stage(from));
    let commit = match (&args.commit, from) {
        (Some(name), _) => work.resolve(name)?,
        (None, Some(from)) => work.remote(&from.branch)?,
        (None, None) => {
            return Err(Failure::with_help(
                anyhow!("people push to {}, so the commit must be named", stage.name),
                "push it to another branch first, then: volary approve --stage STAGE origin/BRANCH",
            ));
        }
    };
    let base = work.remote(&stage.branch)?;
    match from {
        // Whoever approves must see that what is promoted went through the stage before.
        Some(from) => work.verify_promoted(&from.name, &base, &commit)?,
        None => match work.verify_step(&stage.name, &base, &commit)? {
            Ok(()) | Err(Refusal::Quorum { .. }) => {}
            Err(refusal) => return Err(Failure::no(refusal.to_string(), None)),
        },
    }
    let brought = work.brought(&base, &commit)?;
    if !out.is_json() {
        out.line(out.tone(Tone::Bold, format!("approving {} for {}", commit.short(), stage.name)));
        out.line("\nfiles");
        list(&brought.files, "no file differs", out);
        out.line("\ncommits");
        list(&brought.commits, "no commit is new", out);
        out.line("");
    }
    if !args.yes && !confirmed(&format!("sign this for {}? [y/N] ", stage.name), "sign")? {
        return Err(Failure::no("nothing was signed", None));
    }
    let tag = work.approve(&config, &commit, &stage.name)?;
    let objects = work.objects()?;
    let rules = Rules::at(&objects, &base).map_err(anyhow::Error::from)?;
    let approved = Approved {
        approved_by: approvers(&objects, &rules, &stage.name, &commit)?
            .iter()
            .map(|signer| signer.name().to_owned())
            .collect(),
        needed: rules.config.quorum_of(&stage.name),
        stage: stage.name.clone(),
        approval: tag.to_string(),
        commit,
    };
    out.show(&approved, |approved| {
        let needed = people(approved.needed);
        out.line(format!(
            "{} is approved for {} by {}; {needed} must sign, with whoever merges it",
            approved.commit.short(),
            approved.stage,
            approved.approved_by.join(", "),
        ));
    });
    Ok(())
}

/// `1 person`, `2 people`.
pub fn people(count: u32) -> String {
    if count == 1 { "1 person".to_owned() } else { format!("{count} people") }
}
