//! Runs the commands that speak for gates: once for each commit that could be merged, and again as often as
//! `volary.yml` says.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use volary_fleet::{GitRepository, is_ancestor};
use volary_host::Stop;
use volary_model::{CommitId, GateName, StageName};
use volary_plan::gate::is_due;
use volary_store::GateWord;

use crate::app::App;
use crate::fleet_view;
use crate::gates::{GateError, word_text};
use crate::promotion::{self, Facts};
use crate::tls::listener::asked_to_stop;

/// How many run at once: each may take as long as a test bench does.
const AT_ONCE: usize = 4;

/// A command that is to be run, for the merge of a commit into a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    gate: GateName,
    from: StageName,
    to: StageName,
    commit: CommitId,
}

/// Begins what is due and does not wait for its end.
pub(super) async fn gate_commands(app: Arc<App>) -> Result<(), String> {
    if app.config.gate_commands.is_empty() {
        return Ok(());
    }
    let words = app.store.gate_words(None).await.map_err(|error| error.to_string())?;
    let worker = app.clone();
    let due = tokio::task::spawn_blocking(move || due(&worker, &words)).await;
    let due = due.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    for run in due {
        {
            let mut running = app.gate_runs.lock().unwrap_or_else(PoisonError::into_inner);
            if running.len() >= AT_ONCE || !running.insert(run.clone()) {
                continue;
            }
        }
        tokio::spawn(one(app.clone(), run));
    }
    Ok(())
}

/// The commands of gates whose word is missing or too old, of those that this server has.
fn due(app: &App, words: &[GateWord]) -> Result<BTreeSet<Run>, GateError> {
    // A fleet without a first commit has no stages yet; one that cannot be read is told by who reads its stages.
    let Ok(repository) = fleet_view::open(&app.layout) else { return Ok(BTreeSet::new()) };
    let Ok(config) = fleet_view::head_config(&repository) else { return Ok(BTreeSet::new()) };
    let now = volary_host::now();
    let mut due = BTreeSet::new();
    for stage in &config.stages {
        let Some(from) = stage.from.as_ref().and_then(|from| config.stage(from)) else { continue };
        let Some(commit) = repository.branch(&from.branch)? else { continue };
        let base = repository.branch(&stage.branch)?;
        let gates = fleet_view::gates_into(&repository, &stage.name, base.as_ref(), &commit, &config);
        if gates.command.is_empty() || has(&repository, base.as_ref(), &commit)? {
            continue;
        }
        for (gate, for_long) in gates.command {
            let last = words.iter().find(|word| {
                word.gate == gate && word.commit == commit && word.stage.as_ref() == Some(&stage.name)
            });
            let known = app.config.gate_commands.contains_key(&gate);
            if known && is_due(for_long, last.map(|word| word.at), now) {
                let (from, to, commit) = (from.name.clone(), stage.name.clone(), commit.clone());
                due.insert(Run { gate, from, to, commit });
            }
        }
    }
    Ok(due)
}

fn has(repository: &GitRepository, base: Option<&CommitId>, commit: &CommitId) -> Result<bool, GateError> {
    match base {
        Some(base) => Ok(is_ancestor(repository, commit, base)?),
        None => Ok(false),
    }
}

async fn one(app: Arc<App>, run: Run) {
    if let Err(problem) = ask(&app, &run).await {
        tracing::error!(gate = %run.gate, commit = %run.commit, %problem, "a gate's command could not be asked");
    }
    app.gate_runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    app.nudges.gates();
}

async fn ask(app: &Arc<App>, run: &Run) -> Result<(), String> {
    let facts = Facts::gather(app).await.map_err(|error| error.to_string())?;
    let stop = Stop::default();
    let (worker, wanted, ending) = (app.clone(), run.clone(), stop.clone());
    let mut work = tokio::task::spawn_blocking(move || {
        let found =
            promotion::preview(&facts, &wanted.from, &wanted.to).map_err(|error| error.to_string())?;
        // Another commit came meanwhile; it is asked for with the next look.
        if found.commit != wanted.commit {
            return Ok(None);
        }
        let command = &worker.config.gate_commands[&wanted.gate];
        Ok::<_, String>(command.run(&worker.config.fleet, &wanted.gate, &found, &ending))
    });
    let mut stopping = app.stop.clone();
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = asked_to_stop(&mut stopping) => {
            stop.ask();
            work.await
        }
    };
    let Some((say, reason)) = ended.map_err(|error| error.to_string())?? else { return Ok(()) };
    let word = GateWord {
        stage: Some(run.to.clone()),
        gate: run.gate.clone(),
        commit: run.commit.clone(),
        say: word_text(say).to_owned(),
        reason,
        by: None,
        at: volary_host::now(),
    };
    let before = app.store.gate_words(Some(&run.commit)).await.map_err(|error| error.to_string())?;
    app.store.set_gate_word(&word).await.map_err(|error| error.to_string())?;
    let same = |old: &GateWord| {
        (&old.stage, &old.gate, &old.commit, &old.say) == (&word.stage, &word.gate, &word.commit, &word.say)
    };
    // A word that is only renewed is no news.
    if before.iter().any(same) {
        return Ok(());
    }
    let text =
        format!("the command {} says {} of {}: {}", run.gate, word.say, run.commit.short(), word.reason);
    app.event("gate-said", run.to.as_str(), &text).await;
    Ok(())
}
