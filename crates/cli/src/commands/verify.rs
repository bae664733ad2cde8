//! `volary verify`: proves the history of stages from a clone alone, without any server.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use volary_fleet::{
    AllowedSigners, EVIDENCE_NAMESPACE, EVIDENCE_REF, Evidence, FleetConfig, GitRepository, Merge,
    ReadObjects, Rules, Stage, Start, Step, first_parents, verify_advance, verify_commit,
};
use volary_host::{Cmd, read_to_string};
use volary_model::{CommitId, StageName};

use super::fleet::stage_names;
use crate::failure::Failure;
use crate::out::{Out, Tone};
use crate::workdir::WorkDir;

/// How many security faults of each kind are named.
const CVES: usize = 20;

/// Options of `volary verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Only this stage; all if absent
    #[arg(long)]
    stage: Option<StageName>,
    /// The keys that you trust, in the form of allowed_signers: the first commit must be signed by one of
    /// them. Without it, by one that stands in that commit itself
    #[arg(long, value_name = "FILE")]
    signers: Option<PathBuf>,
    /// Show only the newest so many steps of each stage
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
}

/// What was proven of a fleet repository.
#[derive(Serialize)]
struct Proven {
    /// The first commit, from which everything follows.
    first: CommitId,
    /// Who signed it.
    first_signer: String,
    /// True if the trusted keys came with `--signers`.
    trusted: bool,
    stages: Vec<ProvenStage>,
}

#[derive(Serialize)]
struct ProvenStage {
    stage: StageName,
    tip: CommitId,
    /// Why the history does not hold, if it does not.
    problem: Option<String>,
    /// How many steps were proven.
    steps: usize,
    /// How many of them lack evidence that they should have, or have some that does not hold.
    without_evidence: usize,
    /// The newest of them, newest first.
    newest: Vec<ProvenStep>,
}

#[derive(Serialize)]
struct ProvenStep {
    commit: CommitId,
    signer: String,
    approvals: Vec<String>,
    merged: Option<CommitId>,
    evidence: Proof,
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
enum Proof {
    /// The server signed what the gates said.
    Proven { signer: String, evidence: Box<Evidence> },
    /// It does not hold.
    Wrong { problem: String },
    /// There is none, although the commit before names a key for it.
    Missing,
    /// None is to be expected: no merge, or from before there was such a key.
    None,
}

/// Runs `volary verify`.
pub fn run(args: &VerifyArgs, out: &Out) -> Result<(), Failure> {
    let work = WorkDir::find()?;
    let prover = Prover { objects: work.objects()?, work };
    let (first, first_signer) = prover.first(args)?;
    let config = prover.config()?;
    let stages: Vec<&Stage> = match &args.stage {
        None => config.stages.iter().collect(),
        Some(name) => vec![
            config
                .stage(name)
                .ok_or_else(|| anyhow!("volary.yml has no stage {name}; it has {}", stage_names(&config)))?,
        ],
    };
    let stages = stages
        .into_iter()
        .map(|stage| prover.stage(stage, &first, args.last))
        .collect::<Result<Vec<_>, Failure>>()?;
    let proven = Proven { first, first_signer, trusted: args.signers.is_some(), stages };
    out.show(&proven, |proven| show(proven, out));
    let broken = proven.stages.iter().any(|stage| stage.problem.is_some() || stage.without_evidence > 0);
    if broken { Err(Failure::no("not everything is proven", None)) } else { Ok(()) }
}

struct Prover {
    objects: GitRepository,
    work: WorkDir,
}

impl Prover {
    /// The first commit, and that somebody signed it who is trusted.
    fn first(&self, args: &VerifyArgs) -> Result<(CommitId, String), Failure> {
        let head = self.work.resolve("refs/remotes/origin/HEAD").or_else(|_| self.work.resolve("HEAD"))?;
        let listed = Cmd::new("git")
            .cwd(self.work.root())
            .args(["rev-list", "--first-parent", "--max-parents=0", head.as_str()])
            .check()?;
        let first: CommitId = listed.text().trim().parse().map_err(|_| {
            Failure::with_help(
                anyhow!("this clone has no first commit"),
                "a shallow clone proves nothing: git fetch --unshallow",
            )
        })?;
        let commit = self.objects.commit(&first)?;
        let signers = match &args.signers {
            Some(path) => AllowedSigners::parse(&read_to_string(path)?)
                .map_err(|error| anyhow!("{}: {error}", path.display()))?,
            None => self.rules(&first)?.signers,
        };
        let signer = verify_commit(&commit, &signers).map_err(|error| {
            Failure::no(format!("the first commit {} is not to be trusted: {error}", first.short()), None)
        })?;
        Ok((first, signer.name().to_owned()))
    }

    fn rules(&self, commit: &CommitId) -> Result<Rules, Failure> {
        Rules::at(&self.objects, commit).map_err(|error| anyhow!("commit {}: {error}", commit.short()).into())
    }

    /// The stages as the first one has them now.
    fn config(&self) -> Result<FleetConfig, Failure> {
        let head = self.work.resolve("refs/remotes/origin/HEAD").or_else(|_| self.work.resolve("HEAD"))?;
        Ok(self.rules(&head)?.config)
    }

    /// A branch as the server has it, or as this clone has it without one.
    fn tip(&self, branch: &str) -> Result<CommitId, Failure> {
        self.work.remote(branch).or_else(|_| self.work.resolve(&format!("refs/heads/{branch}")))
    }

    fn stage(&self, stage: &Stage, first: &CommitId, last: usize) -> Result<ProvenStage, Failure> {
        let tip = self.tip(&stage.branch)?;
        let mut proven = ProvenStage {
            stage: stage.name.clone(),
            tip: tip.clone(),
            problem: None,
            steps: 0,
            without_evidence: 0,
            newest: Vec::new(),
        };
        let start = self.beginning(stage, first, &tip)?;
        let steps = match verify_advance(&self.objects, &stage.name, Start::After(&start), &tip) {
            Ok(advance) => advance.steps,
            Err(refusal) => {
                proven.problem = Some(refusal.to_string());
                return Ok(proven);
            }
        };
        proven.steps = steps.len();
        for (at, step) in steps.iter().enumerate().rev() {
            let before = at.checked_sub(1).map_or(&start, |before| &steps[before].commit);
            let evidence = self.evidence(before, step)?;
            proven.without_evidence += usize::from(matches!(evidence, Proof::Wrong { .. } | Proof::Missing));
            if proven.newest.len() < last {
                proven.newest.push(ProvenStep {
                    commit: step.commit.clone(),
                    signer: step.signer.name().to_owned(),
                    approvals: step.approvals.iter().map(|signer| signer.name().to_owned()).collect(),
                    merged: step.merged.clone(),
                    evidence,
                });
            }
        }
        Ok(proven)
    }

    /// Where the branch of a stage began: the newest commit that the branch of the stage before went
    /// through itself, which is proven there.
    fn beginning(&self, stage: &Stage, first: &CommitId, tip: &CommitId) -> Result<CommitId, Failure> {
        let Some(from) = &stage.from else { return Ok(first.clone()) };
        let config = self.config()?;
        let from = config.stage(from).ok_or_else(|| anyhow!("volary.yml has no stage {from}"))?;
        let own = first_parents(&self.objects, &self.tip(&from.branch)?, usize::MAX)?;
        let known: HashSet<&CommitId> = own.iter().map(|commit| &commit.id).collect();
        let mut through = first_parents(&self.objects, tip, usize::MAX)?.into_iter().map(|commit| commit.id);
        Ok(through.find(|commit| known.contains(commit)).unwrap_or_else(|| first.clone()))
    }

    fn evidence(&self, base: &CommitId, step: &Step) -> Result<Proof, Failure> {
        let Some(merged) = &step.merged else { return Ok(Proof::None) };
        let rules = self.rules(base)?;
        let names_a_key = rules.signers.signers.iter().any(|line| {
            line.namespaces.as_ref().is_some_and(|names| names.iter().any(|name| name == EVIDENCE_NAMESPACE))
        });
        let note = Cmd::new("git")
            .cwd(self.work.root())
            .args(["notes", "--ref", EVIDENCE_REF, "show", step.commit.as_str()])
            .run()?;
        if !note.status.success() {
            return Ok(if names_a_key { Proof::Missing } else { Proof::None });
        }
        let merge = Merge { merge: &step.commit, base, commit: merged };
        Ok(match Evidence::prove(&note.text(), &rules.signers, merge) {
            Ok((evidence, signer)) => {
                Proof::Proven { signer: signer.name().to_owned(), evidence: Box::new(evidence) }
            }
            Err(error) => Proof::Wrong { problem: error.to_string() },
        })
    }
}

fn show(proven: &Proven, out: &Out) {
    let whose = if proven.trusted {
        "whose key you gave"
    } else {
        "whose key stands in it: compare it, or give --signers"
    };
    out.line(format!(
        "everything follows from {}, signed by {}, {whose}",
        proven.first.short(),
        proven.first_signer
    ));
    for stage in &proven.stages {
        out.line("");
        let head = format!("{} at {}", stage.stage, stage.tip.short());
        match &stage.problem {
            Some(problem) => {
                out.line(format!("{}: {}", out.tone(Tone::Bold, head), out.tone(Tone::Bad, "not proven")));
                out.line(format!("  {problem}"));
            }
            None => {
                let steps = volary_plan::text::count(stage.steps, "step");
                out.line(format!(
                    "{}: {steps} {}",
                    out.tone(Tone::Bold, head),
                    out.tone(Tone::Good, "proven")
                ));
            }
        }
        for step in &stage.newest {
            show_step(step, out);
        }
        if stage.newest.len() < stage.steps {
            let older = stage.steps - stage.newest.len();
            out.line(format!("  … and {}", volary_plan::text::count(older, "older step")));
        }
    }
}

fn show_step(step: &ProvenStep, out: &Out) {
    let merged =
        step.merged.as_ref().map_or_else(String::new, |commit| format!(" merges {}", commit.short()));
    let also = match step.approvals.as_slice() {
        [] => String::new(),
        names => format!(", approved by {}", names.join(", ")),
    };
    out.line(format!("  {}{merged}, signed by {}{also}", step.commit.short(), step.signer));
    match &step.evidence {
        Proof::None => {}
        Proof::Missing => {
            out.line(format!(
                "    {}: git fetch origin {EVIDENCE_REF}:{EVIDENCE_REF}",
                out.tone(Tone::Bad, "no evidence")
            ));
        }
        Proof::Wrong { problem } => {
            out.line(format!("    {}: {problem}", out.tone(Tone::Bad, "the evidence does not hold")));
        }
        Proof::Proven { signer, evidence } => {
            let gates: Vec<&str> = evidence.gates.iter().map(|word| word.gate.as_str()).collect();
            let gates = if gates.is_empty() { "no gate was set".to_owned() } else { gates.join(", ") };
            let what = out.tone(Tone::Good, "evidence");
            out.line(format!("    {what} of {:.0}, signed by {signer}: {gates}", evidence.at));
            if let Some(cves) = &evidence.cves {
                let (closed, opened) = (cves.closed_count, cves.opened_count);
                out.line(format!(
                    "      security faults of {}, as known on {:.0}: {closed} mended, {opened} new",
                    cves.release, cves.known_at
                ));
                for (sign, list) in [("-", &cves.closed), ("+", &cves.opened)] {
                    for name in list.iter().take(CVES) {
                        out.line(format!("        {sign} {name}"));
                    }
                }
            }
            for word in &evidence.gates {
                let tone = if word.say == "go" { Tone::Dim } else { Tone::Warn };
                out.line(format!("      {} {}: {}", out.tone(tone, &word.say), word.gate, word.reason));
                if let Some(why) = &word.overridden {
                    out.line(format!("         overridden: {why}"));
                }
            }
        }
    }
}
