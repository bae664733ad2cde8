//! `volary-agent plan`: what the next run would do. It fetches and verifies the newest commit as a run
//! does, then asks Ansible's check mode and apt's simulation. Nothing on the device is changed and
//! nothing is recorded: the ledger, what is accepted and apt's lists stay as they are.

use std::time::Duration;

use serde::Serialize;
use volary_api::v1::device::DriftedTask;
use volary_device::{Event, Scope, Target, outlook};
use volary_fleet::ARCHIVE_KEY_FILE;
use volary_host::{Lock, now};
use volary_model::{CommitId, Place, StageName};

use crate::agent::{Agent, AgentError};
use crate::http::{Answer, HttpError};
use crate::repo::RepoError;
use crate::simulate::{self, Moves, Wanted};
use crate::work::{self, Verified};

/// How many lines of a difference are shown; `--json` has all of it.
const LINES: usize = 40;

/// What the next run would do; the JSON form of it is stable.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// The version of this format: 1.
    pub version: u32,
    /// The stage that the device follows.
    pub stage: StageName,
    /// The commit that it would go for.
    pub commit: CommitId,
    /// True if it is there already, so that nothing would be done by itself.
    pub there: bool,
    /// Who signed the steps to it, as far as they are new.
    pub signers: Vec<String>,
    /// The suite that packages would come from.
    pub suite: Option<String>,
    /// The stage that the device would move to before anything else.
    pub moves_to: Option<StageName>,
    /// Why it is not tried again, if it is not.
    pub quarantined: Option<String>,
    /// What it would wait for now.
    pub waits: Vec<String>,
    /// Tasks that would change something.
    pub tasks: Vec<DriftedTask>,
    /// Packages that apt would move: name → (before, after), empty text for "not there".
    pub packages: Moves,
    /// What cannot be told before it is done, with the reason.
    pub unknown: Vec<String>,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The agent cannot work at all.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The server is away, or says no.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What is offered cannot be had, or is not to be trusted.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// It would be refused, or fail, before anything is applied.
    #[error("the run would end before it changed anything: {}", work::said(.0))]
    Ends(Event),
    /// The server offers a commit of another stage.
    #[error("the server offers a commit of stage {offered}, but this device follows {follows}")]
    OtherStage {
        /// Theirs.
        offered: StageName,
        /// Ours.
        follows: StageName,
    },
}

/// Finds out what the next run would do, after waiting up to `patience` for a run under way.
///
/// # Errors
/// [`PreviewError`].
pub fn preview(agent: &mut Agent, patience: Duration) -> Result<Preview, PreviewError> {
    let _lock = Lock::acquire(&agent.paths.lock(), patience).map_err(AgentError::from)?;
    agent.reload()?;
    let target = newest(agent)?;
    let found = look(agent, &target);
    // What was fetched only to look at it goes again.
    work::tidy(agent);
    found
}

fn newest(agent: &Agent) -> Result<Target, PreviewError> {
    let Answer::Desired(desired, _) = agent.server.desired(None)? else {
        unreachable!("without a tag the server has nothing to compare with")
    };
    if desired.stage != agent.state.stage {
        let (offered, follows) = (desired.stage, agent.state.stage.clone());
        return Err(PreviewError::OtherStage { offered, follows });
    }
    Ok(Target { stage: desired.stage, commit: desired.commit, rolling: desired.rolling })
}

fn look(agent: &Agent, target: &Target) -> Result<Preview, PreviewError> {
    let state = &agent.state;
    let repo = agent.repo().map_err(RepoError::from)?;
    repo.fetch(agent.supply(), state, target)?;
    let Verified { passed, signers, locked } =
        work::verified(agent, target, Scope::Full).map_err(|event| PreviewError::Ends(*event))?;
    let mut waits: Vec<String> =
        outlook(state, target, &passed, now()).obstacles.iter().map(ToString::to_string).collect();
    if let Some(at_most) = passed.policy.per_site_at_most {
        waits.push(format!("a turn from the server: at most {at_most} of a site change at once"));
    }
    if !passed.policy.waves.is_empty() {
        let place = Place::of(&target.commit, &agent.config.name);
        let waves = passed.policy.waves.len();
        waits.push(format!(
            "its wave, which the server opens: it stands at {place} of the stage, in {waves} waves"
        ));
    }
    let mut preview = Preview {
        version: 1,
        stage: state.stage.clone(),
        commit: target.commit.clone(),
        there: state.good.as_ref() == Some(target),
        signers: signers.into_iter().map(|(commit, name)| format!("{}: {name}", commit.short())).collect(),
        suite: passed.suite.clone(),
        moves_to: passed.stage.filter(|stage| *stage != state.stage),
        quarantined: state.quarantine(target).map(|bad| bad.failure.to_string()),
        waits,
        tasks: Vec::new(),
        packages: Moves::new(),
        unknown: Vec::new(),
    };
    match work::would_change(agent, target, passed.suite.as_deref(), passed.policy.run_within) {
        Ok(tasks) => preview.tasks = tasks,
        // A task that needs what one before it would have made fails in check mode.
        Err(error) => preview.unknown.push(format!("what all of the playbook would change: {error}")),
    }
    if let Some(suite) = &passed.suite {
        match moves(agent, target, suite, locked.as_ref()) {
            Ok(packages) => preview.packages = packages,
            Err(error) => preview.unknown.push(format!("what apt would move: {error}")),
        }
    }
    Ok(preview)
}

fn moves(
    agent: &Agent,
    target: &Target,
    suite: &str,
    locked: Option<&volary_fleet::LockedRelease>,
) -> Result<Moves, crate::apt::AptError> {
    let wanted = Wanted {
        archive: &work::archive_url(agent),
        suite,
        locked,
        key: &agent.paths.checkout(&target.commit).join(ARCHIVE_KEY_FILE),
        ca: &agent.paths.ca(),
        architecture: &agent.architecture,
        dpkg: agent.paths.dpkg(),
    };
    simulate::moves(&wanted, &agent.paths.scratch())
}

impl Preview {
    /// For a person.
    pub fn text(&self) -> String {
        let suite = self.suite.as_deref().map(|suite| format!(", suite {suite}")).unwrap_or_default();
        let mut lines = vec![format!("commit    {} of {}{suite}", self.commit, self.stage)];
        if !self.signers.is_empty() {
            lines.push(format!("signed by {}", self.signers.join(", ")));
        }
        if self.there {
            lines.push("there     the device is at it already; a run happens only if asked for".to_owned());
        }
        if let Some(stage) = &self.moves_to {
            lines.push(format!("moves     to stage {stage} first, and then takes that stage's commit"));
        }
        if let Some(why) = &self.quarantined {
            lines.push(format!("bad       not tried again: {}", why.lines().next().unwrap_or_default()));
            lines.push("          help: volary-agent run --again tries it once more".to_owned());
        }
        lines.extend(self.waits.iter().map(|wait| format!("waits     {wait}")));
        for task in &self.tasks {
            lines.push(format!("changes   {}", task.task));
            let diff: Vec<&str> = task.diff.lines().collect();
            lines.extend(diff.iter().take(LINES).map(|line| format!("          {line}")));
            if diff.len() > LINES {
                lines.push(format!("          and {} more lines", diff.len() - LINES));
            }
        }
        for (name, (before, after)) in &self.packages {
            lines.push(match (before.is_empty(), after.is_empty()) {
                (true, _) => format!("package   {name} {after} is installed"),
                (_, true) => format!("package   {name} {before} is removed"),
                (false, false) => format!("package   {name} {before} to {after}"),
            });
        }
        lines.extend(self.unknown.iter().map(|unknown| format!("unknown   {unknown}")));
        if self.tasks.is_empty() && self.packages.is_empty() && self.unknown.is_empty() {
            lines.push("nothing   would change".to_owned());
        }
        lines.join("\n")
    }
}
