//! The effects of a convergence on a real Debian: fetch, verify, apply. Each ends with an event
//! for the machine; nothing is decided here that the machine could decide.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::device::{CheckResult, DriftedTask};
use volary_device::{Event, Failure, Gains, Image, Passed, Scope, Step, Target, Work};
use volary_fleet::{LockedRelease, Refusal};
use volary_host::{Cmd, now};
use volary_model::{CommitId, StageName, Suite};

use crate::agent::Agent;
use crate::ansible::{Ansible, AnsibleError, Variables};
use crate::apt::{self, AptError, Source};
use crate::health;
use crate::http::HttpError;
use crate::log;
use crate::pin::{self, PinError};
use crate::repo::{Blame, Repo, RepoError, Wishes};
use crate::slots::{Slots, SlotsError, switch};
use crate::{policy, units, zone};

/// An upper bound for a message in a report.
const MESSAGE: usize = 4000;

/// A step gets at least this long, or the run's limit if that is shorter.
const LEAST_TIME: Duration = Duration::from_secs(60);

/// Gets the objects of the target.
pub fn fetch(agent: &Agent, target: &Target) -> Event {
    log::say(format!("fetching commit {}", target.commit.short()));
    let fetched = agent
        .repo()
        .map_err(RepoError::from)
        .and_then(|repo| repo.fetch(agent.supply(), &agent.state, target));
    match fetched {
        Ok(()) => Event::Fetched,
        Err(error) => {
            tidy(agent);
            from_repo(Step::Fetch, &error)
        }
    }
}

/// Decides whether the target may be applied, and prepares that.
pub fn verify(agent: &Agent, work: &Work) -> Event {
    log::say(format!("verifying commit {}", work.target.commit.short()));
    match verified(agent, &work.target, work.scope) {
        Ok(Verified { passed, signers, locked: _ }) => {
            for (commit, signer) in signers {
                log::say(format!("commit {} is signed by {signer}", commit.short()));
            }
            Event::Verified(Box::new(passed))
        }
        Err(event) => {
            // Whoever offers one bad commit after the other must not fill the disk with them.
            tidy(agent);
            *event
        }
    }
}

/// A commit that may be applied.
pub struct Verified {
    /// What the machine needs to know of it.
    pub passed: Passed,
    /// The commits that are new, and who signed them.
    pub signers: Vec<(CommitId, String)>,
    /// What the lock says of its suite, if that is pinned.
    pub locked: Option<LockedRelease>,
}

/// Proves that the target may be applied, and puts its files on disk.
///
/// # Errors
/// The event that says why not.
pub fn verified(agent: &Agent, target: &Target, scope: Scope) -> Result<Verified, Box<Event>> {
    let repo_failed = |error: RepoError| Box::new(from_repo(Step::Verify, &error));
    let repo = agent.repo().map_err(|error| repo_failed(RepoError::from(error)))?;
    let advance = match repo.verify(&agent.state, target) {
        // A hole in the store: once more with everything.
        Err(error) if error.is_missing() => {
            repo.fetch_all(agent.supply(), &target.commit).map_err(repo_failed)?;
            repo.verify(&agent.state, target).map_err(repo_failed)?
        }
        Err(RepoError::Refused(refusal @ Refusal::TooOld { .. })) => {
            return Err(Box::new(too_old(&refusal)));
        }
        other => other.map_err(repo_failed)?,
    };
    let wishes = repo.wishes(target).map_err(repo_failed)?;
    let suite = wishes.lock.suite_for(&wishes.stage);
    let locked = locked(&wishes, suite.as_ref()).cloned();
    if let Some(locked) = &locked {
        pin::check(&agent.server, locked, &agent.architecture).map_err(|error| Box::new(from_pin(&error)))?;
    }
    let checkout = repo.checkout(&target.commit).map_err(repo_failed)?;
    let (stage, site) = match scope {
        // Its variables are those of the commit that holds.
        Scope::Packages => (None, agent.state.policy.site.clone()),
        Scope::Full => {
            let ansible = ansible(agent, &checkout, target);
            let host = ansible.host().map_err(|error| Box::new(from_ansible(&error)))?;
            (host.stage, host.site)
        }
    };
    if let Some(stage) = stage.as_ref().filter(|stage| wishes.rules.config.stage(stage).is_none()) {
        let message = format!("volary_stage of this device is {stage}, and volary.yml has no such stage");
        return Err(Box::new(failed(Step::Verify, "", message)));
    }
    let failed_units =
        units::failed().map_err(|error| Box::new(failed(Step::Units, "", error.to_string())))?;
    let policy = policy::of(&wishes.rules.config, &target.stage, site);
    let image =
        image(agent, &repo, &wishes).map_err(|error| Box::new(failed(Step::Image, "", error.to_string())))?;
    let passed = Passed {
        image,
        suite: suite.map(|suite| suite.to_string()),
        stage,
        failed_units,
        committed_at: repo.committed_at(&target.commit).map_err(repo_failed)?,
        zones: zone::of([&policy]),
        policy,
    };
    let signer = |step: &volary_fleet::Step| {
        let approved: Vec<&str> = step.approvals.iter().map(|signer| signer.name()).collect();
        let approved = if approved.is_empty() {
            String::new()
        } else {
            format!(", approved by {}", approved.join(", "))
        };
        (step.commit.clone(), format!("{}{approved}", step.signer.name()))
    };
    Ok(Verified { passed, signers: advance.steps.iter().map(signer).collect(), locked })
}

/// A commit that is as it should be, with rules that only newer agents can read.
fn too_old(refusal: &Refusal) -> Event {
    match refusal {
        Refusal::TooOld { before: Some(before), .. } => {
            log::say(format!("{refusal}; first to commit {}, which it can read", before.short()));
            Event::TooOld { before: before.clone() }
        }
        refusal => failed(Step::Verify, "", format!("{refusal}; update volary-agent on this device")),
    }
}

/// The image to install, if the fleet pins another one for this type of device than the one that runs.
fn image(agent: &Agent, repo: &Repo<'_>, wishes: &Wishes) -> Result<Option<Box<Image>>, SlotsError> {
    let Some(slots) = Slots::open(&agent.paths)? else { return Ok(None) };
    // It only shows a shorter way, so that it may be missing.
    let before = agent.state.good.as_ref().and_then(|good| repo.wishes(good).ok());
    let of = |wishes: &Wishes| wishes.lock.images.get(&slots.image.device_type).cloned();
    Ok(slots.wanted(of(wishes).as_ref(), before.as_ref().and_then(of).as_ref()))
}

/// What is left of the time that a run may take. A clock that jumped neither ends it at once nor
/// lets it go on for ever.
fn time_left(work: &Work) -> Duration {
    let limit = work.policy.run_within;
    let gone = Duration::try_from(now().duration_since(work.started_at)).unwrap_or_default();
    limit.saturating_sub(gone).max(LEAST_TIME.min(limit))
}

/// What an event says that ends a convergence.
pub fn said(event: &Event) -> String {
    match event {
        Event::Failed(failure) | Event::Refused(failure) => failure.to_string(),
        Event::Unreachable(message) => message.clone(),
        Event::TooOld { before } => {
            format!("this agent is too old for it; it goes to commit {} first", before.short())
        }
        other => format!("{other:?}"),
    }
}

/// The locked release, if the suite is pinned.
fn locked<'a>(wishes: &'a Wishes, suite: Option<&Suite>) -> Option<&'a LockedRelease> {
    match suite? {
        Suite::Rolling => None,
        Suite::Release(_) => wishes.lock.release.as_ref(),
    }
}

/// Carries out one step.
pub fn apply(agent: &mut Agent, work: &Work, step: Step) -> Event {
    match step {
        Step::Image => switch::switch(&agent.paths, work),
        Step::Playbook => playbook(agent, work),
        Step::Packages => packages(agent, work),
        // The machine has effects of their own for these.
        Step::Fetch
        | Step::Verify
        | Step::Checkpoint
        | Step::Units
        | Step::Check
        | Step::Path
        | Step::Confirm
        | Step::Undo
        | Step::Revert => Event::Done(Gains::default()),
    }
}

fn playbook(agent: &Agent, work: &Work) -> Event {
    log::say("running the playbook");
    let run = || -> Result<Event, AnsibleError> {
        let before = agent.answers.mended(agent.paths.dpkg())?.versions();
        let checkout = agent.paths.checkout(&work.target.commit);
        let watched = log::is_watched();
        let mut progress = |line: &str| {
            if watched && !line.is_empty() {
                log::say(format!("  {line}"));
            }
        };
        let changed_tasks = ansible(agent, &checkout, &work.target).playbook(
            &variables(agent, &work.target, work.suite.as_deref()),
            time_left(work),
            &mut progress,
        )?;
        let after = agent.answers.installed(agent.paths.dpkg())?.versions();
        Ok(Event::Done(Gains { changed_tasks, packages: apt::changes(&before, &after) }))
    };
    run().unwrap_or_else(|error| from_ansible(&error))
}

fn variables(agent: &Agent, target: &Target, suite: Option<&str>) -> Variables {
    let suite = suite.unwrap_or_default().to_owned();
    Variables {
        volary_agent: true,
        volary_stage: target.stage.clone(),
        volary_release: suite.split_once('/').map(|(release, _)| release.to_owned()).unwrap_or_default(),
        volary_suite: suite,
        volary_archive_url: archive_url(agent),
        volary_ca_file: agent.paths.ca(),
        volary_commit: target.commit.clone(),
    }
}

/// The server's archive.
pub fn archive_url(agent: &Agent) -> String {
    format!("{}/archive", agent.config.server)
}

fn packages(agent: &Agent, work: &Work) -> Event {
    let Some(suite) = &work.suite else { return Event::Done(Gains::default()) };
    let locked = match lock_of(agent, work, suite) {
        Ok(locked) => locked,
        Err(message) => return failed(Step::Packages, "", message),
    };
    let run = || -> Result<Event, AptError> {
        let source = agent.answers.source(&archive_url(agent), suite, &agent.architecture)?;
        agent.answers.update(&source, |ours, since| has_other(agent, suite, ours, since))?;
        if let Some(locked) = &locked {
            apt::check_release(&source, locked, &agent.architecture)?;
        }
        let offers = apt::offers(&source, locked.as_ref())?;
        let inventory = agent.answers.mended(agent.paths.dpkg())?;
        let plan = apt::plan(&inventory, &offers);
        if plan.is_empty() {
            return Ok(Event::Done(Gains::default()));
        }
        log::say(format!("installing {}", plan.join(" ")));
        if let Err(error) = apt::install(&plan, time_left(work)) {
            return Ok(failed(Step::Packages, &plan.join(" "), error.to_string()));
        }
        let after = agent.answers.installed(agent.paths.dpkg())?;
        let left = apt::plan(&after, &offers);
        if !left.is_empty() {
            let message = "apt ended well, but these are still not at the suite's version".to_owned();
            return Ok(failed(Step::Packages, &left.join(" "), message));
        }
        let packages = apt::changes(&inventory.versions(), &after.versions());
        Ok(Event::Done(Gains { changed_tasks: 0, packages }))
    };
    run().unwrap_or_else(|error| failed(Step::Packages, "", error.to_string()))
}

/// True unless the archive says that it has the `InRelease` which the device has. Where it is not the server
/// that is asked, apt finds out.
fn has_other(agent: &Agent, suite: &str, ours: &[u8], since: Timestamp) -> bool {
    let Some(server) = agent.answering_server().filter(|_| !agent.is_without_server()) else { return true };
    let theirs = server.newer_file(&format!("/archive/dists/{suite}/InRelease"), since, pin::LIMIT);
    !theirs.is_ok_and(|theirs| theirs.is_none_or(|theirs| theirs == ours))
}

/// The release that the signed lock names for this suite; `None` for rolling alone. Whatever keeps
/// the lock from being read must not unlock anything, so it fails the step.
fn lock_of(agent: &Agent, work: &Work, suite: &str) -> Result<Option<LockedRelease>, String> {
    let repo = agent.repo().map_err(|error| error.to_string())?;
    let wishes = repo.wishes(&work.target).map_err(|error| error.to_string())?;
    let wanted = wishes.lock.suite_for(&wishes.stage);
    if wanted.as_ref().is_none_or(|wanted| wanted.to_string() != suite) {
        return Err(format!("suite {suite} was verified, and volary.lock names another now"));
    }
    Ok(locked(&wishes, wanted.as_ref()).cloned())
}

/// The tasks of the target's playbook that would change something, with their differences.
///
/// # Errors
/// [`AnsibleError`], also of a task that cannot tell.
pub fn would_change(
    agent: &Agent,
    target: &Target,
    suite: Option<&str>,
    limit: Duration,
) -> Result<Vec<DriftedTask>, AnsibleError> {
    let checkout = agent.paths.checkout(&target.commit);
    ansible(agent, &checkout, target).would_change(&variables(agent, target, suite), limit)
}

/// The packages that apt would bring to the suite's version, by the indexes that it holds.
///
/// # Errors
/// [`AptError`].
pub fn would_move(agent: &Agent, suite: &str) -> Result<BTreeMap<String, (String, String)>, AptError> {
    let source = agent.answers.source(&archive_url(agent), suite, &agent.architecture)?;
    let inventory = agent.answers.installed(agent.paths.dpkg())?;
    let moves = apt::moves(&inventory, &apt::offers(&source, None)?);
    Ok(moves
        .into_iter()
        .map(|change| (change.name, (change.from.to_string(), change.to.to_string())))
        .collect())
}

/// The checks of the commit that the device is at, run outside of a convergence.
pub fn checks(agent: &Agent) -> Vec<CheckResult> {
    let Some(commit) = &agent.state.trusted else { return Vec::new() };
    let checkout = agent.repo().map_err(RepoError::from).and_then(|repo| repo.checkout(commit));
    match checkout {
        Ok(folder) => {
            let mut checks = health::run(&folder, &agent.state.stage, commit);
            checks.extend(fresh(agent, &agent.state.stage, commit));
            checks
        }
        // It was moved to another stage and has nothing of it yet, or its disk is full.
        Err(_) => Vec::new(),
    }
}

/// Whether the commit is as new as the fleet promises.
fn fresh(agent: &Agent, stage: &StageName, commit: &CommitId) -> Option<CheckResult> {
    let repo = agent.repo().ok()?;
    let target = Target { stage: stage.clone(), commit: commit.clone(), rolling: String::new() };
    let within = repo.wishes(&target).ok()?.rules.config.fresh_of(stage);
    let check = health::fresh(stage, within, repo.committed_at(commit).ok()??, now())?;
    if !check.passed {
        log::say(&check.output);
    }
    Some(check)
}

/// The suite that apt holds for the stage, for reports.
pub fn source(agent: &Agent) -> Option<Source> {
    let repo = agent.repo().ok()?;
    let commit = agent.state.trusted.clone()?;
    let target = Target { stage: agent.state.stage.clone(), commit, rolling: String::new() };
    let wishes = repo.wishes(&target).ok()?;
    let suite = wishes.lock.suite_for(&wishes.stage)?.to_string();
    agent.answers.source(&archive_url(agent), &suite, &agent.architecture).ok()
}

/// Removes what nobody needs, however it ended. That it fails is no failure of the convergence.
pub fn tidy(agent: &Agent) {
    let pruned = agent.repo().map_err(RepoError::from).and_then(|repo| repo.prune(&agent.state));
    if let Err(error) = pruned {
        log::say(format!("cannot tidy up: {error}"));
    }
}

fn ansible<'a>(agent: &'a Agent, checkout: &'a PathBuf, target: &'a Target) -> Ansible<'a> {
    let (paths, name, handed) = (&agent.paths, &agent.config.name, &agent.handed);
    Ansible { paths, checkout, commit: &target.commit, name, handed }
}

fn failure(step: Step, what: &str, message: String) -> Failure {
    let message: String = message.trim_end().chars().take(MESSAGE).collect();
    Failure { step, what: what.chars().take(MESSAGE).collect(), message }
}

fn failed(step: Step, what: &str, message: String) -> Event {
    Event::Failed(failure(step, what, message))
}

fn away(message: String) -> Event {
    log::say(&message);
    Event::Unreachable(message)
}

fn from_repo(step: Step, error: &RepoError) -> Event {
    match error.blame() {
        Blame::Network => away(error.to_string()),
        Blame::Failure => failed(step, "", error.to_string()),
        Blame::Trust => Event::Refused(failure(Step::Verify, "", error.to_string())),
    }
}

fn from_pin(error: &PinError) -> Event {
    let message = error.to_string();
    match error {
        PinError::Http(HttpError::Unreachable { .. } | HttpError::InTrouble { .. }) => away(message),
        PinError::Http(_) | PinError::NoSuite(_) | PinError::NotLocked(_) => {
            failed(Step::Verify, "", message)
        }
        PinError::Release { .. } | PinError::OtherContent { .. } | PinError::MoreContent { .. } => {
            Event::Refused(failure(Step::Verify, "", message))
        }
    }
}

fn from_ansible(error: &AnsibleError) -> Event {
    failed(Step::Playbook, error.what(), error.to_string())
}

/// The program that ansible-core brings, with its version: for `volary-agent version`.
pub fn ansible_version() -> Option<String> {
    let output = Cmd::new("ansible-playbook").arg("--version").run().ok()?;
    output.text().lines().next().map(str::to_owned)
}
