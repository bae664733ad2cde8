//! Confirm or undo: the effects around a change of the device. Here the parts are put together: the
//! checkpoint, the lifeline, the watch and the undo are modules of their own, and the machine of
//! `volary-device` says which comes when.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use volary_device::{Cause, Event, Failure, Step, Undone, UndoneBy, Work};

use crate::agent::Agent;
use crate::by_hand;
use crate::checkpoint::manifest::{Manifest, PathWas};
use crate::checkpoint::store::{self, By, Reason, Store, StoreError, Undoing};
use crate::checkpoint::{self, CheckpointError, Lifeline, Times, Wanted};
use crate::confirm::{self, Asked, Watched};
use crate::modules::{self, Settled};
use crate::paths::Paths;
use crate::slots::switch;
use crate::undo::{self, Ended, How};
use crate::{health, log, path, units};

/// How often the path is tried, and with which pause, before it is blamed.
const PROBES: (u32, Duration) = (3, Duration::from_secs(2));

/// How many units and parts of the network a report names.
const NAMED: usize = 20;

/// Saves what the device is and arms the dead man's timer.
pub fn checkpoint(agent: &mut Agent, work: &Work) -> Event {
    match try_checkpoint(agent, work) {
        Ok(manifest) => {
            for out in &manifest.left_out {
                log::say(format!("not saved: {}: {}", out.path.as_path().display(), out.why));
            }
            Event::Checkpointed { id: manifest.id }
        }
        Err(error) => failed(Step::Checkpoint, &error),
    }
}

fn try_checkpoint(agent: &mut Agent, work: &Work) -> Result<Manifest, CheckpointError> {
    let ca = volary_host::read_to_string(&agent.paths.ca())?;
    let server = agent.config.server.clone();
    let proof = path::probe(&server, &ca);
    if let path::Proof::Broken { reason } = &proof {
        log::say(format!(
            "the server cannot be reached before the change, so it need not be after it: {reason}"
        ));
    }
    let path = PathWas { server, ca, worked: proof.works() };
    let wanted = Wanted {
        target: work.target.clone(),
        slot: switch::running(&agent.paths).map(|running| running.slot),
        image: work.image.is_some(),
        trees: work.policy.trees.iter().map(PathBuf::from).collect(),
        path,
    };
    let manifest = checkpoint::take(&agent.paths, &wanted, &agent.answers)?;
    let times = Times { confirm: work.policy.confirm_within, run: work.policy.run_within };
    checkpoint::arm(&agent.paths, &manifest, times)?;
    hold_on(agent, &manifest);
    Ok(manifest)
}

/// Starts the thread that proves the path while the change is applied.
fn hold_on(agent: &mut Agent, manifest: &Manifest) {
    let ending = agent.ending();
    let wanted = move || !ending.asked.load(Ordering::SeqCst);
    agent.lifeline = Some(Lifeline::start(&agent.paths, manifest.path.clone(), wanted));
}

/// Carries out one step of the change.
pub fn apply(agent: &mut Agent, work: &Work, step: Step) -> Event {
    let manifest = match armed(&agent.paths) {
        Ok(manifest) => manifest,
        Err(error) => return failed(step, &error),
    };
    // After a start in the middle of the change nobody proves the path.
    if let Some(manifest) = manifest.as_ref().filter(|_| agent.lifeline.is_none()) {
        hold_on(agent, manifest);
    }
    if step != Step::Image
        && let Err(failure) = switch::arrived(&agent.paths, work)
    {
        return Event::Failed(failure);
    }
    match crate::work::apply(agent, work, step) {
        Event::Failed(failure) => Event::Failed(blame(failure, manifest.as_ref())),
        event => event,
    }
}

/// What fails since the device cannot reach its server any more is the fault of what cut it off.
fn blame(failure: Failure, manifest: Option<&Manifest>) -> Failure {
    let Some(before) = manifest.map(|manifest| &manifest.path).filter(|path| path.worked) else {
        return failure;
    };
    match path::probe_again(&before.server, &before.ca, PROBES.0, PROBES.1) {
        path::Proof::Works { .. } => failure,
        path::Proof::Broken { reason } => {
            let message = format!(
                "the server cannot be reached any more, and before the change it could: {reason}\n{failure}"
            );
            Failure { step: Step::Path, what: String::new(), message }
        }
    }
}

fn armed(paths: &Paths) -> Result<Option<Manifest>, StoreError> {
    let store = Store::open(paths)?;
    store.armed()?.map(|armed| store.manifest(&armed.checkpoint)).transpose()
}

/// Looks whether the change holds, for as long as the fleet wants.
pub fn confirm(agent: &mut Agent, work: &Work) -> Event {
    agent.lifeline = None;
    let checkpoint = work.checkpoint.as_deref();
    match modules::settle(&agent.paths, checkpoint) {
        Ok(Settled::Ready) => {}
        Ok(Settled::Booting) => return Event::Rebooting,
        Err(error) => return failed(Step::Playbook, &error),
    }
    match try_confirm(agent, work) {
        Ok(Ok(Watched::Holds)) => {
            // Last of all: what a module committed cannot be undone.
            let kept = switch::before_commit(&agent.paths, work);
            match kept.map(|()| modules::commit_change(&agent.paths, checkpoint)) {
                Ok(Ok(())) => Event::Confirmed,
                Ok(Err(error)) => failed(Step::Playbook, &error),
                Err(failure) => Event::Failed(failure),
            }
        }
        // Whoever asked it to end lets it end before this is looked at.
        Ok(Ok(Watched::Stopped)) => Event::Due,
        Ok(Err(failure)) => Event::Failed(failure),
        Err(error) => failed(Step::Confirm, &error),
    }
}

fn try_confirm(agent: &mut Agent, work: &Work) -> Result<Result<Watched, Failure>, StoreError> {
    let within = work.confirm_within();
    checkpoint::confirming(&agent.paths, within)?;
    let Some(manifest) = armed(&agent.paths)? else { return Ok(Err(undone_by_others())) };
    let left = checkpoint::remaining(&agent.paths).unwrap_or_default().min(within);
    if !left.is_zero() {
        let commit = work.target.commit.short();
        log::say(format!("watching for {} s whether commit {commit} holds", left.as_secs()));
    }
    let known = agent.state.failed_before.clone().unwrap_or_default();
    let (ending, paths) = (agent.ending(), agent.paths.clone());
    let checkout = agent.paths.checkout(&work.target.commit);
    let mut said = Vec::new();
    let mut checks = || {
        said = health::run(&checkout, &work.target.stage, &work.target.commit);
        said.clone()
    };
    let ask = || {
        if ending.asked.load(Ordering::SeqCst) {
            Asked::ToEnd
        } else if by_hand::is_confirmed(&paths, &manifest.id) {
            Asked::ToConfirm
        } else {
            Asked::Nothing
        }
    };
    let span = confirm::Span { within, left };
    let watched = confirm::watch(&manifest, &span, &known, &mut checks, &ask);
    agent.checks = said;
    Ok(watched)
}

fn undone_by_others() -> Failure {
    let message = "the checkpoint is not armed any more: somebody else undid the change".to_owned();
    Failure { step: Step::Confirm, what: String::new(), message }
}

/// Disarms the timer, or learns that it was first.
pub fn disarm(agent: &mut Agent, work: &Work) -> Event {
    agent.lifeline = None;
    match disarm_here(&agent.paths, work) {
        Ok(true) => {
            switch::after_commit(&agent.paths, work);
            Event::Disarmed
        }
        // An undo that went on had the lock, so it is over by now.
        Ok(false) => match undone_of(&agent.paths, work) {
            Some(undone) => Event::Undone(Box::new(undone)),
            None => Event::Disarmed,
        },
        Err(error) => failed(Step::Confirm, error.as_ref()),
    }
}

/// First the boot state: a device that is cut off before the timer is disarmed does both again.
fn disarm_here(paths: &Paths, work: &Work) -> Result<bool, Box<dyn std::error::Error>> {
    let ours =
        store::peek_armed(paths).is_some_and(|armed| Some(&armed.checkpoint) == work.checkpoint.as_ref());
    if work.image.is_some() && ours && store::peek_undoing(paths).is_none() {
        switch::commit(paths)?;
    }
    Ok(checkpoint::disarm(paths, !work.is_unchanged())?)
}

/// Puts the device back.
pub fn undo(agent: &mut Agent, work: &Work, failure: &Failure) -> Event {
    agent.lifeline = None;
    match try_undo(&agent.paths, work, failure) {
        Ok(Some(Ended::Undone(undone))) => Event::Undone(Box::new(in_short(&undone))),
        Ok(Some(Ended::Rebooting)) => Event::Rebooting,
        Ok(None) => match undone_of(&agent.paths, work) {
            Some(undone) => Event::Undone(Box::new(undone)),
            None => {
                let message = "there is no checkpoint to go back to".to_owned();
                Event::Failed(Failure { step: Step::Undo, what: String::new(), message })
            }
        },
        Err(error) => failed(Step::Undo, &error),
    }
}

/// `None` if nothing is armed and the checkpoint of this change is not there, or was undone.
fn try_undo(paths: &Paths, work: &Work, failure: &Failure) -> Result<Option<Ended>, StoreError> {
    let store = Store::open(paths)?;
    let Some(undoing) = begin(paths, &store, work, failure)? else { return Ok(None) };
    undo::run(paths, &store, undoing, How { by_agent: true, at_boot: false }).map(Some)
}

fn begin(
    paths: &Paths,
    store: &Store,
    work: &Work,
    failure: &Failure,
) -> Result<Option<Undoing>, StoreError> {
    let by_person = failure.step == Step::Revert;
    let journal = if failure.what.contains('.') { units::journal(&failure.what) } else { String::new() };
    let reason = Reason {
        cause: if by_person { Cause::Person } else { Cause::Failed },
        step: failure.step.name().to_owned(),
        what: failure.what.clone(),
        message: failure.message.clone(),
        journal,
    };
    let by = if by_person { By::Person } else { By::Agent };
    // Given up already now: the claim itself has to be written.
    checkpoint::release_reserve(paths);
    if let Some(undoing) = store.claim(by, reason.clone())? {
        return Ok(Some(undoing));
    }
    // It was confirmed, and a person wants it undone all the same.
    let Some(id) = work.checkpoint.as_ref().filter(|id| store.ids().contains(id)) else { return Ok(None) };
    if undone_of(paths, work).is_some() {
        return Ok(None);
    }
    store.claim_confirmed(id, &work.target, reason).map(Some)
}

fn failed(step: Step, error: &dyn std::error::Error) -> Event {
    log::say(error.to_string());
    Event::Failed(Failure { step, what: String::new(), message: error.to_string() })
}

/// How the last undo on this device ended.
pub fn undone(paths: &Paths) -> Option<Undone> {
    undo::last(paths).as_ref().map(in_short)
}

fn undone_of(paths: &Paths, work: &Work) -> Option<Undone> {
    undone(paths).filter(|undone| work.checkpoint.as_ref() == Some(&undone.checkpoint))
}

/// What the machine and the report need to know of an undo.
fn in_short(undone: &undo::Undone) -> Undone {
    let count = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let or_none = |version: &str| if version.is_empty() { "none".to_owned() } else { version.to_owned() };
    let package = |(key, (from, to)): (&String, &(String, String))| {
        format!("package {key}: from {} back to {}", or_none(from), or_none(to))
    };
    let mut restored: Vec<String> =
        count(undone.files, "files").into_iter().chain(count(undone.removed, "new files removed")).collect();
    restored.extend(undone.packages.iter().map(package));
    restored.extend(undone.units.iter().take(NAMED).map(|unit| format!("unit {unit}")));
    restored.extend(undone.network.iter().take(NAMED).cloned());
    let mut left = undone.could_not.clone();
    if !undone.path_said.is_empty() {
        left.push(format!("the way to the server: {}", undone.path_said));
    }
    Undone {
        checkpoint: undone.checkpoint.clone(),
        target: undone.target.clone(),
        by: match undone.by {
            By::Agent => UndoneBy::Agent,
            By::Timer => UndoneBy::Timer,
            By::Boot => UndoneBy::Boot,
            By::Person => UndoneBy::Person,
        },
        cause: undone.reason.cause,
        said: words(&undone.reason),
        at: undone.at,
        path_works: undone.path,
        rebooted: undone.rebooted,
        restored,
        left,
    }
}

fn words(reason: &Reason) -> String {
    let what = if reason.what.is_empty() { String::new() } else { format!("{}: ", reason.what) };
    let journal = if reason.message.contains(reason.journal.as_str()) { "" } else { &reason.journal };
    format!("{what}{}\n{journal}", reason.message).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescue;

    #[test]
    fn a_lost_path_is_named_once() {
        let reason = Reason { journal: String::new(), ..rescue::reason(Cause::PathLost, "no route") };
        // As the machine names what the timer undid.
        let failure = Failure { step: Step::Path, what: String::new(), message: words(&reason) };
        let said = "path: the server could not be reached for too long after the change: no route";
        assert_eq!((failure.to_string().as_str(), reason.step.as_str()), (said, "path"));
    }

    #[test]
    fn what_failed_comes_first_and_the_journal_once() {
        let reason = |message: &str| Reason {
            cause: Cause::Failed,
            step: "units".to_owned(),
            what: "a.service".to_owned(),
            message: message.to_owned(),
            journal: "line".to_owned(),
        };
        assert_eq!(words(&reason("it has failed")), "a.service: it has failed\nline");
        assert_eq!(words(&reason("it has failed\nline")), "a.service: it has failed\nline");
    }
}
