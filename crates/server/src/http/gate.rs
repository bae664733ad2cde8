//! What others say of commits, for gates that wait for it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::fleet::{GateStatus, NewGateStatus, Role, Say};
use volary_fleet::ReadObjects;
use volary_model::CommitId;
use volary_plan::gate;
use volary_store::GateWord;

use crate::app::App;
use crate::fleet_view;
use crate::gate_command::REASON;
use crate::gates::{say_from, word_text};
use crate::http::auth::{GateSpeaker, Viewer};
use crate::http::input::{Input, Query, blocking, name};
use crate::http::refusal::Refusal;

/// Of which commit; of all, if none is named.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct StatusQuery {
    /// The commit.
    commit: Option<String>,
}

/// `GET /api/v1/gate-statuses`.
pub(crate) async fn statuses(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<StatusQuery>,
) -> Result<Json<Vec<GateStatus>>, Refusal> {
    let commit = query.commit.as_deref().map(name).transpose()?;
    let words = app.store.newest_gate_words(commit.as_ref()).await?;
    Ok(Json(words.into_iter().map(api).collect()))
}

/// `POST /api/v1/gate-statuses`.
pub(crate) async fn say(
    State(app): State<Arc<App>>,
    GateSpeaker(person): GateSpeaker,
    Input(said): Input<NewGateStatus>,
) -> Result<Json<GateStatus>, Refusal> {
    if person.role == Role::Gate && !person.limits.gates.contains(&said.gate) {
        let text = format!("the token {:?} may not speak for the gate {}", person.name, said.gate);
        return Err(Refusal::new(StatusCode::FORBIDDEN, text)
            .help("an administrator makes one with: volary token add NAME --role gate --gates GATE"));
    }
    let reason = said.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().any(char::is_control) || reason.chars().count() > REASON {
        return Err(Refusal::invalid(format!("the reason must be one line of 1 to {REASON} characters")));
    }
    let (layout, wanted) = (app.layout.clone(), said.commit.clone());
    if !blocking(move || is_known(&layout, &wanted)).await?.map_err(Refusal::broken)? {
        return Err(Refusal::not_found(format!("the fleet repository has no commit {}", said.commit))
            .help("push it first; volary status shows the tips of the stages"));
    }
    let say = match said.say {
        Say::Go => gate::Say::Go,
        Say::Ask => gate::Say::Ask,
        Say::Stop => gate::Say::Stop,
    };
    let word = GateWord {
        stage: None,
        gate: said.gate,
        commit: said.commit,
        say: word_text(say).to_owned(),
        reason,
        by: Some(person.name.clone()),
        at: volary_host::now(),
    };
    app.store.set_gate_word(&word).await?;
    let text = format!("{} says {} of {}: {}", person.name, word.say, word.commit.short(), word.reason);
    app.event_by(&person, "gate-said", word.gate.as_str(), &text).await;
    app.nudges.gates();
    Ok(Json(api(word)))
}

fn is_known(layout: &crate::Layout, commit: &CommitId) -> Result<bool, String> {
    let repository = fleet_view::open(layout)?;
    Ok(repository.find_commit(commit).map_err(|error| error.to_string())?.is_some())
}

fn api(word: GateWord) -> GateStatus {
    GateStatus {
        say: match say_from(&word.say) {
            gate::Say::Go => Say::Go,
            gate::Say::Ask => Say::Ask,
            gate::Say::Stop => Say::Stop,
        },
        gate: word.gate,
        stage: word.stage,
        commit: word.commit,
        reason: word.reason,
        by: word.by,
        at: word.at,
    }
}
