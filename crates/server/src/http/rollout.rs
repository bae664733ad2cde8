//! Rollouts: what people see of them, and how they take a hand in them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use volary_api::v1::rollout::{self as wire, Rollout, Say};
use volary_model::StageName;
use volary_plan::rollout::{self as plan, Halt, Standing};
use volary_store::Rollout as Stored;

use crate::app::App;
use crate::http::auth::{Operator, Person, ReleaseManager, Viewer};
use crate::http::input::{Input, Path, name};
use crate::http::refusal::Refusal;
use crate::rollouts::members;

/// The longest reason: it stands in lists and on devices.
const REASON: usize = 500;

/// `GET /api/v1/rollouts`.
pub(crate) async fn rollouts(State(app): State<Arc<App>>, _: Viewer) -> Result<Json<Vec<Rollout>>, Refusal> {
    Ok(Json(list(&app).await?))
}

/// All rollouts that are kept, newest first.
pub(crate) async fn list(app: &App) -> Result<Vec<Rollout>, Refusal> {
    let stored = app.store.rollouts::<plan::State>().await?;
    Ok(stored.into_iter().map(|stored| api(app, stored)).collect())
}

fn api(app: &App, stored: Stored<plan::State>) -> Rollout {
    let rollouts = app.rollouts.get();
    let now = rollouts.get(&stored.stage).filter(|now| now.state.commit == stored.commit);
    // What devices are told now, which may be a moment behind what is written.
    let known = now.map_or(&stored.state, |now| &now.state);
    let (wave, opened_at) = (known.wave + 1, known.opened_at);
    let stopped_by = known.halt.as_ref().and_then(|halt| halt.by.clone());
    let state = match (known, stored.ended_at) {
        (state, _) if state.finished_at.is_some() => wire::State::Finished,
        (_, Some(_)) => wire::State::Superseded,
        (state, None) if state.halt.is_some() => wire::State::Stopped,
        (_, None) => wire::State::Running,
    };
    Rollout {
        state,
        says: now.map_or(stored.says, |now| now.outlook.says.clone()),
        wave,
        waves: now.map(|now| now.policy.waves.clone()).unwrap_or_default(),
        began_at: stored.began_at,
        opened_at,
        next_at: now.and_then(|now| now.outlook.next_at),
        ended_at: stored.ended_at,
        stopped_by,
        stage: stored.stage,
        commit: stored.commit,
    }
}

/// `POST /api/v1/rollouts/{stage}/stop`.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Path(stage): Path<String>,
    Input(said): Input<Say>,
) -> Result<Json<Rollout>, Refusal> {
    Ok(Json(stop_it(&app, &person, &stage, &said).await?))
}

/// Stops a rollout for a person.
pub(crate) async fn stop_it(app: &App, person: &Person, stage: &str, said: &Say) -> Result<Rollout, Refusal> {
    let (stage, reason) = (name(stage)?, reason(said)?);
    let halt = Halt { at: volary_host::now(), by: Some(person.name.clone()), reason: reason.clone() };
    let text = format!("{} stopped the rollout in {stage}: {reason}", person.name);
    change(app, person, &stage, "rollout-held", &text, |state| match &state.halt {
        Some(halt) => {
            Err(Refusal::conflict(format!("the rollout in {stage} is stopped already: {}", halt.reason)))
        }
        None => {
            state.halt = Some(halt);
            Ok(())
        }
    })
    .await
}

/// `POST /api/v1/rollouts/{stage}/resume`: what failed so far does not count any more.
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    ReleaseManager(person): ReleaseManager,
    Path(stage): Path<String>,
    Input(said): Input<Say>,
) -> Result<Json<Rollout>, Refusal> {
    Ok(Json(resume_it(&app, &person, &stage, &said).await?))
}

/// Lets a rollout go on for a person.
pub(crate) async fn resume_it(
    app: &App,
    person: &Person,
    stage: &str,
    said: &Say,
) -> Result<Rollout, Refusal> {
    let (stage, reason) = (name(stage)?, reason(said)?);
    let commit = running(app, &stage)?;
    let begun = app.store.rollout_devices(&stage, &commit).await?;
    let hurt: Vec<_> = members(&app.devices().await?, &stage, &commit, &begun)
        .into_iter()
        .filter(|member| matches!(member.standing, Standing::Bad(_) | Standing::Lost))
        .map(|member| member.device)
        .collect();
    let text = format!("{} lets the rollout in {stage} go on: {reason}", person.name);
    change(app, person, &stage, "rollout-resumed", &text, |state| {
        if state.halt.is_none() {
            return Err(Refusal::conflict(format!("the rollout in {stage} is not stopped")));
        }
        state.halt = None;
        state.forgiven.extend(hurt);
        Ok(())
    })
    .await
}

/// `POST /api/v1/rollouts/{stage}/next`.
pub(crate) async fn next(
    State(app): State<Arc<App>>,
    ReleaseManager(person): ReleaseManager,
    Path(stage): Path<String>,
    Input(said): Input<Say>,
) -> Result<Json<Rollout>, Refusal> {
    Ok(Json(open_next(&app, &person, &stage, &said).await?))
}

/// Opens the next wave for a person.
pub(crate) async fn open_next(
    app: &App,
    person: &Person,
    stage: &str,
    said: &Say,
) -> Result<Rollout, Refusal> {
    let (stage, reason) = (name(stage)?, reason(said)?);
    let waves = app.rollouts.get().get(&stage).map_or(0, |now| now.policy.waves.len());
    let text = format!("{} opened the next wave in {stage}: {reason}", person.name);
    change(app, person, &stage, "rollout-hurried", &text, |state| {
        if let Some(halt) = &state.halt {
            return Err(Refusal::conflict(format!("the rollout in {stage} is stopped: {}", halt.reason))
                .help(format!("let it go on first: volary rollout resume {stage} --reason WHY")));
        }
        if state.wave + 1 >= waves {
            return Err(Refusal::conflict(format!("the last wave in {stage} is open already")));
        }
        state.wave += 1;
        state.opened_at = volary_host::now();
        state.complete_since = None;
        Ok(())
    })
    .await
}

/// The commit that is being rolled out in a stage.
fn running(app: &App, stage: &StageName) -> Result<volary_model::CommitId, Refusal> {
    let rollouts = app.rollouts.get();
    let commit = rollouts.get(stage).map(|now| now.state.commit.clone());
    commit.ok_or_else(|| {
        Refusal::not_found(format!("the stage {stage} has no rollout")).help(format!(
            "waves are in volary.yml: rollout: {{ {stage}: {{ waves: [1%, 10%, 50%, 100%] }} }}"
        ))
    })
}

async fn change(
    app: &App,
    person: &Person,
    stage: &StageName,
    kind: &str,
    text: &str,
    change: impl FnOnce(&mut plan::State) -> Result<(), Refusal> + Send,
) -> Result<Rollout, Refusal> {
    let commit = running(app, stage)?;
    app.store
        .change_rollout(stage, &commit, volary_host::now(), |state: Option<plan::State>| {
            let Some(mut state) = state else { return (None, Ok(())) };
            if state.finished_at.is_some() {
                return (None, Err(Refusal::conflict(format!("the rollout in {stage} is finished"))));
            }
            match change(&mut state) {
                Ok(()) => (Some((state, text.to_owned(), false)), Ok(())),
                Err(refusal) => (None, Err(refusal)),
            }
        })
        .await??;
    app.event_by(person, kind, stage.as_str(), text).await;
    // What the answer shows, and what devices are told, is what was just said.
    crate::reconcile::rollouts(app).await.map_err(Refusal::broken)?;
    let stored = app.store.rollout::<plan::State>(stage, &commit).await?;
    let stored = stored.ok_or_else(|| Refusal::conflict(format!("{stage} got another commit meanwhile")))?;
    Ok(api(app, stored))
}

fn reason(said: &Say) -> Result<String, Refusal> {
    let reason = said.reason.trim();
    if reason.is_empty() || reason.chars().any(char::is_control) || reason.chars().count() > REASON {
        return Err(Refusal::invalid(format!("the reason must be one line of 1 to {REASON} characters")));
    }
    Ok(reason.to_owned())
}
