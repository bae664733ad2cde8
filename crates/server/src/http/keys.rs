//! The archive's keys: see, bring, rotate, end.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use volary_api::v1::keys::{AddKey, Key, KeySource, Keys, Retire, RetiredKey};
use volary_archive::{Error, KeyInfo, NewKey, Others};
use volary_plan::text::some;

use crate::app::App;
use crate::fleet_view;
use crate::http::auth::{Admin, Viewer};
use crate::http::input::{Input, blocking};
use crate::http::refusal::Refusal;
use crate::key_holders::{holders, lacking};

fn wire(key: &KeyInfo) -> Key {
    Key {
        fingerprint: key.fingerprint.clone(),
        user_id: key.user_id.clone(),
        since: key.since,
        leaving: key.leaving,
        signer: key.signer.clone(),
    }
}

fn retired(key: volary_archive::RetiredKey) -> RetiredKey {
    RetiredKey { fingerprint: key.fingerprint, since: key.since, until: key.until }
}

/// `GET /api/v1/archive/keys`.
pub(crate) async fn keys(State(app): State<Arc<App>>, Viewer(_): Viewer) -> Result<Json<Keys>, Refusal> {
    let depot = app.archive.clone();
    let (keys, public) = blocking(move || Ok::<_, Error>((depot.keys()?, depot.public_key()))).await??;
    let rotating = keys.keys.iter().any(|key| key.leaving.is_some());
    let staying = keys.keys.iter().filter(|key| key.leaving.is_none()).map(|key| key.fingerprint.clone());
    let not_yet = if rotating { without(&app, staying.collect()).await? } else { Vec::new() };
    Ok(Json(Keys {
        keys: keys.keys.iter().map(wire).collect(),
        retired: keys.retired.into_iter().map(retired).collect(),
        all_signed: keys.all_signed,
        public,
        not_yet,
    }))
}

/// The stages and devices that have none of these keys.
async fn without(app: &Arc<App>, staying: BTreeSet<String>) -> Result<Vec<String>, Refusal> {
    // What counts is what is there now, not what was read some seconds ago.
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let (layout, view, devices) = (app.layout.clone(), app.view.get(), app.store.devices().await?);
    blocking(move || {
        let repository = fleet_view::open(&layout).map_err(Refusal::broken)?;
        Ok(lacking(&holders(&repository, &view, &devices), &staying))
    })
    .await?
}

/// `POST /api/v1/archive/keys`.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<AddKey>,
) -> Result<Json<Key>, Refusal> {
    let new = match request.source {
        KeySource::Generate => NewKey::Generate,
        KeySource::Secret { armored } => NewKey::Secret(armored),
        KeySource::Signer { name, public } => NewKey::Command { signer: name, public },
    };
    let others = if request.rotate { Others::Leave } else { Others::Stay };
    let depot = app.archive.clone();
    let key = blocking(move || depot.add_key(&new, others)).await??;
    let (kind, what) = match others {
        Others::Leave => ("key-rotation-begun", "signs the archive, and the others leave: rotated"),
        Others::Stay => ("key-added", "signs the archive too: added"),
    };
    let text = format!("the key {} {what} by {}", key.fingerprint, person.name);
    app.event_by(&person, kind, &key.fingerprint, &text).await;
    app.rolling_changed();
    Ok(Json(wire(&key)))
}

/// `POST /api/v1/archive/keys/retire`.
pub(crate) async fn retire(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<Retire>,
) -> Result<Json<Vec<RetiredKey>>, Refusal> {
    let (depot, fingerprint) = (app.archive.clone(), request.fingerprint.clone());
    let (_, staying) = blocking(move || depot.retirement(fingerprint.as_deref())).await??;
    let staying = staying.into_iter().map(|key| key.fingerprint).collect();
    let lacking = without(&app, staying).await?;
    if !lacking.is_empty() && !request.force {
        let who = some(&lacking, 10);
        return Err(Refusal::conflict(format!("these have none of the keys that stay: {who}")).help(
            "bring the keys to them: volary bump --keys, then promote, and wait until the devices converged; \
             or leave them without updates until they are there: --force",
        ));
    }
    let (depot, fingerprint) = (app.archive.clone(), request.fingerprint);
    let gone = blocking(move || depot.retire_keys(fingerprint.as_deref())).await??;
    for key in &gone {
        let forced = if lacking.is_empty() {
            String::new()
        } else {
            format!(", although {} did not have the keys that stay", some(&lacking, 10))
        };
        let text = format!("the key {} was retired by {}{forced}", key.fingerprint, person.name);
        app.event_by(&person, "key-retired", &key.fingerprint, &text).await;
    }
    app.rolling_changed();
    Ok(Json(gone.into_iter().map(retired).collect()))
}
