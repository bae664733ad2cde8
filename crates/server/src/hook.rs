//! What git asks before it takes a push to the fleet repository: the rules of the repository
//! itself, and the gates, which need what the server knows.
//!
//! It runs in a process of its own, started by git inside the repository.

use std::path::{Path, PathBuf};

use volary_api::v1::fleet::{Say, Verdict};
use volary_fleet::{
    Evidence, FleetConfig, FleetLock, GitRepository, HookOptions, Images, LOCK_FILE, Merge, ReadObjects,
    RefUpdate, Rules, RulesError, file_at, image_steps, pre_receive as fleet_pre_receive,
};
use volary_model::CommitId;

use crate::config::Config;
use crate::{GateError, Layout, evidence, fleet_view, gates};

/// The environment variable with the server's folder.
pub(crate) const SERVER_DIR: &str = "VOLARY_SERVER_DIR";

/// The environment variable with the name of the token that pushes.
pub(crate) const PUSHED_BY: &str = "VOLARY_PUSHED_BY";

/// The trailer of a merge that goes through a gate which does not say *go*.
const OVERRIDE: &str = "Volary-Override:";

/// Why a push is refused: everything at once, so that a person can mend all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct PushRefused(pub Vec<String>);

/// Judges a push. `input` is what git gives a pre-receive hook on standard input; the current
/// folder is the repository, and the environment is the one that git made.
///
/// # Errors
/// [`PushRefused`] with a sentence for each ref that may not move.
pub fn pre_receive(input: &str) -> Result<(), PushRefused> {
    let dir = std::env::var_os(SERVER_DIR).map(PathBuf::from);
    let repository = std::env::current_dir()
        .map_err(|error| PushRefused(vec![format!("cannot find the repository: {error}")]))?;
    // Two levels up is where `volary init` put it, for a push by path on the server itself.
    let dir = dir.or_else(|| Some(repository.parent()?.parent()?.to_owned()));
    let layout = Layout::new(&dir.unwrap_or_default());
    let pushed_by = std::env::var(PUSHED_BY).unwrap_or_default();
    judge(&layout, &repository, input, &pushed_by)
}

/// Judges what moves in the repository, whoever moves it.
pub(crate) fn judge(
    layout: &Layout,
    repository: &Path,
    input: &str,
    pushed_by: &str,
) -> Result<(), PushRefused> {
    let updates: Vec<RefUpdate> = input
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|error| PushRefused(vec![format!("{error}")]))?;
    fleet_pre_receive(repository, &updates, &HookOptions::default())
        .map_err(|rejections| PushRefused(rejections.iter().map(ToString::to_string).collect()))?;
    let (mut closed, evidence) = closed_gates(layout, repository, &updates, pushed_by).map_err(|error| {
        PushRefused(vec![format!("the gates cannot be asked: {error}; nothing was changed, try again")])
    })?;
    closed.extend(
        missing_images(layout, repository, &updates)
            .map_err(|error| PushRefused(vec![format!("the pinned images cannot be read: {error}")]))?,
    );
    if !closed.is_empty() {
        return Err(PushRefused(closed));
    }
    for evidence in &evidence {
        evidence::leave(layout, evidence).map_err(|error| {
            PushRefused(vec![format!("the evidence cannot be kept: {error}; nothing was changed")])
        })?;
    }
    Ok(())
}

/// A sentence for each gate that keeps the push out, and what the gates said.
fn closed_gates(
    layout: &Layout,
    repository: &Path,
    updates: &[RefUpdate],
    pushed_by: &str,
) -> Result<(Vec<String>, Vec<Evidence>), GateError> {
    let objects = GitRepository::open(repository)?;
    let own = Config::read(&layout.config()).ok();
    let fleet = own.as_ref().map_or("", |own| own.fleet.as_str());
    let mut closed = Vec::new();
    let mut taken = Vec::new();
    for update in updates {
        // A new branch is where the stage before is: nothing is merged into it yet.
        let (Some(branch), Some(old), Some(new)) = (update.branch(), &update.old, &update.new) else {
            continue;
        };
        let commit = objects.commit(new)?;
        // What is merged is the second parent; the merge itself was not anywhere before.
        let Some(merged) = commit.parents.get(1) else { continue };
        let Some(config) = config_of(&objects, branch, old)? else { continue };
        let Some(stage) = config.stage_of_branch(branch).filter(|stage| stage.from.is_some()) else {
            continue;
        };
        let why = |asked: &str| {
            let mut found = overrides(&commit.message).filter(|(gate, _)| *gate == asked);
            found.next().map(|(_, why)| why.to_owned())
        };
        let asked = gates::of_merge(layout, &objects, &config, &stage.name, merged)?;
        for verdict in &asked.verdicts {
            if verdict.say != Say::Go && why(&verdict.gate).is_none() {
                closed.push(sentence(&stage.branch, verdict));
            }
        }
        let from = stage.from.as_ref().expect("stages without one were passed over");
        let merge = Merge { merge: new, base: old, commit: merged };
        taken.push(Evidence {
            pushed_by: pushed_by.to_owned(),
            release: asked.release,
            cves: asked.cves.as_ref().map(evidence::cves),
            gates: evidence::words(&asked.verdicts, why).collect(),
            devices: evidence::devices(asked.devices.iter()),
            ..Evidence::new(fleet, &stage.name, from, merge, volary_host::now())
        });
    }
    Ok((closed, taken))
}

/// A sentence for each image that a push pins first and that the server does not have. A merge
/// brings what the stage before has pinned already; there the gate `images` asks.
fn missing_images(
    layout: &Layout,
    repository: &Path,
    updates: &[RefUpdate],
) -> Result<Vec<String>, GateError> {
    let objects = GitRepository::open(repository)?;
    let mut missing = Vec::new();
    for update in updates {
        let (Some(branch), Some(new)) = (update.branch(), &update.new) else { continue };
        if objects.commit(new)?.parents.len() > 1 {
            continue;
        }
        let before = update.old.as_ref().map(|old| images_at(&objects, old)).transpose()?.unwrap_or_default();
        for step in image_steps(&before, &images_at(&objects, new)?) {
            let Some(image) = step.to.filter(|image| !layout.image(&image.artifact).is_file()) else {
                continue;
            };
            missing.push(format!(
                "{branch}: {LOCK_FILE} pins the image {} for {}, which this server does not have\n  \
                 publish it first: volary image publish FILE",
                image.name, step.device_type
            ));
        }
    }
    Ok(missing)
}

/// What the lock of a commit pins. One that cannot be read pins nothing here: that it cannot be read is
/// for the rules to say.
fn images_at(objects: &GitRepository, commit: &CommitId) -> Result<Images, GateError> {
    let tree = objects.commit(commit)?.tree;
    let text = file_at(objects, &tree, LOCK_FILE)?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| FleetLock::parse(&text).ok()).map(|lock| lock.images).unwrap_or_default())
}

/// The configuration that says which stage a branch is: the branch's own before the push, so that
/// taking a stage out of the default branch does not open its gates; else the default branch's.
/// `None` if neither has a stage on that branch.
fn config_of(
    objects: &GitRepository,
    branch: &str,
    old: &CommitId,
) -> Result<Option<FleetConfig>, GateError> {
    let own = match Rules::at(objects, old) {
        Ok(rules) => Some(rules.config),
        Err(RulesError::Object(error)) => return Err(error.into()),
        // A branch that is no stage need not have any of this; then the default branch knows.
        Err(
            RulesError::Absent { .. }
            | RulesError::NotText { .. }
            | RulesError::TooOld(_)
            | RulesError::Config(_)
            | RulesError::Signers(_),
        ) => None,
    };
    if let Some(config) = own.filter(|config| config.stage_of_branch(branch).is_some()) {
        return Ok(Some(config));
    }
    let head = match fleet_view::head_tip(objects).map_err(GateError::Fleet)? {
        Some(_) => Some(fleet_view::head_config(objects).map_err(GateError::Fleet)?),
        // The default branch was never pushed: no stage can be on it.
        None => None,
    };
    Ok(head.filter(|config| config.stage_of_branch(branch).is_some()))
}

fn sentence(branch: &str, verdict: &Verdict) -> String {
    let says = match verdict.say {
        Say::Go => "go",
        Say::Ask => "ask",
        Say::Stop => "stop",
    };
    format!(
        "{branch}: the gate {0:?} says {says}: {1}\n  \
         if it must be, say so in the merge's message: {OVERRIDE} {0} REASON (volary promote --override {0}=REASON)",
        verdict.gate, verdict.reason
    )
}

/// The gates that a merge's message overrides, with the reasons. A reason must be there.
pub(crate) fn overrides(message: &str) -> impl Iterator<Item = (&str, &str)> {
    message
        .lines()
        .filter_map(|line| line.strip_prefix(OVERRIDE))
        .filter_map(|rest| rest.trim().split_once(char::is_whitespace))
        .map(|(gate, why)| (gate, why.trim()))
        .filter(|(_, why)| !why.is_empty())
}

/// The text of the hook file: this program, wherever it is by then.
pub(crate) fn script() -> String {
    let own = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    let own = own.replace('\'', "'\\''");
    format!(
        "#!/bin/sh\n\
         # Written by `volary init`; the rules are in the program, not here.\n\
         if [ -x '{own}' ]; then exec '{own}' hook pre-receive; fi\n\
         exec volary hook pre-receive\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_names_its_gate_and_gives_a_reason() {
        let message = "Promote\n\nVolary-Override: soak a fix for the outage\nVolary-Override: frozen\n\
                       Volary-Override: healthy   x\n";
        let found: Vec<(&str, &str)> = overrides(message).collect();
        assert_eq!(found, [("soak", "a fix for the outage"), ("healthy", "x")]);
    }
}
