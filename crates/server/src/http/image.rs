//! Images: publishing, listing, taking away. Their files are served by `files`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::image as api;
use volary_model::Digest;
use volary_store::{Added, Image};

use crate::app::App;
use crate::http::auth::{Developer, Viewer};
use crate::http::batch;
use crate::http::input::{Path, Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::image_use::{Pin, pins, why_kept};
use crate::images::{Facts, IntakeError};

impl From<IntakeError> for Refusal {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Artifact(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
                .help("look at it with: volary artifact verify FILE"),
            IntakeError::NoImage(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
                .help("look at it with: volary artifact inspect FILE"),
            IntakeError::Other { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            IntakeError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, error),
            IntakeError::File(error) if error.source.kind() == std::io::ErrorKind::StorageFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "the server's disk is full")
            }
            IntakeError::File(error) => Self::broken(error),
        }
    }
}

/// What is announced of an artifact.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct PublishQuery {
    /// The SHA-256 that the artifact must have, as in `sha256:…`.
    digest: Option<String>,
}

/// `PUT` or `POST /api/v1/images`.
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Query(query): Query<PublishQuery>,
    body: Body,
) -> Result<(StatusCode, Json<api::Image>), Refusal> {
    let wanted: Option<Digest> = query.digest.as_deref().map(name).transpose()?;
    let images = app.images.clone();
    let incoming = batch::receive(body, move |bytes| Ok(images.take_in(bytes, wanted)?)).await?;
    // From the file's name to its record nobody else may take either for a stray.
    let _turn = app.changing_images.lock().await;
    let (images, artifact) = (app.images.clone(), incoming.facts.artifact);
    let facts = blocking(move || images.keep(incoming)).await??;
    let new = record(facts, &person.name);
    let (status, image) = match app.store.add_image(&new).await? {
        Added::New => {
            let types: Vec<String> = new.device_types.iter().map(ToString::to_string).collect();
            let text =
                format!("image {} for {} was published by {}", new.name, types.join(", "), person.name);
            app.event_by(&person, "image-published", new.name.as_str(), &text).await;
            app.nudges.deltas.notify_one();
            (StatusCode::CREATED, new)
        }
        Added::Known(known) => (StatusCode::OK, *known),
        Added::NameTaken { by, device_type } => {
            app.images.remove(&artifact)?;
            return Err(Refusal::conflict(format!(
                "another image for {device_type} is called {}: the artifact {by}",
                new.name
            ))
            .help(format!(
                "give each image its own name, or take the other one away with: volary image remove {}",
                by.hex()
            )));
        }
    };
    Ok((status, Json(one(&app, image).await?)))
}

fn record(facts: Facts, by: &str) -> Image {
    let now = volary_host::now();
    Image {
        artifact: facts.artifact,
        size: facts.size,
        name: facts.name,
        device_types: facts.device_types,
        rootfs: facts.rootfs,
        manifest: Some(facts.manifest),
        rootfs_size: facts.rootfs_size,
        kind: facts.kind,
        provides: facts.provides,
        depends: facts.depends,
        signed_by: facts.signed_by,
        published_at: now,
        published_by: by.to_owned(),
        wanted_at: now,
    }
}

/// `GET /api/v1/images`.
pub(crate) async fn images(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Vec<api::Image>>, Refusal> {
    let all = app.store.images().await?;
    let pins = pins(&app.view.get());
    Ok(Json(all.iter().map(|image| shown(&app, image, &all, &pins)).collect()))
}

/// `GET /api/v1/images/{sha256}`.
pub(crate) async fn image(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(artifact): Path<String>,
) -> Result<Json<api::Image>, Refusal> {
    let image = find(&app, &artifact).await?;
    Ok(Json(one(&app, image).await?))
}

/// `DELETE /api/v1/images/{sha256}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(artifact): Path<String>,
) -> Result<Json<api::Image>, Refusal> {
    // What is pinned must be what is pinned now.
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let _turn = app.changing_images.lock().await;
    let image = find(&app, &artifact).await?;
    let view = app.view.get();
    let pins = pins(&view);
    let users: Vec<&Pin> = pins.iter().filter(|pin| pin.image.artifact == image.artifact).collect();
    if !users.is_empty() {
        let users: Vec<String> =
            users.iter().map(|pin| format!("stage {} pins it for {}", pin.stage, pin.device_type)).collect();
        return Err(Refusal::conflict(format!("image {} is needed: {}", image.name, users.join("; ")))
            .help("pin another one there first: volary bump --image TYPE=NAME, then volary promote"));
    }
    if !view.complete {
        return Err(Refusal::conflict(format!(
            "nobody can say whether image {} is needed: {}",
            image.name,
            view.problems.join("; ")
        )));
    }
    let removed = one(&app, image).await?;
    forget(&app, &removed.artifact).await?;
    let text = format!("image {} was removed by {}", removed.name, person.name);
    app.event_by(&person, "image-removed", removed.name.as_str(), &text).await;
    Ok(Json(removed))
}

/// Takes an image away; the caller holds the turn. The record first: it must not promise what is gone.
pub(crate) async fn forget(app: &App, artifact: &Digest) -> Result<(), Refusal> {
    app.store.remove_image(artifact).await?;
    app.images.remove(artifact)?;
    Ok(())
}

async fn find(app: &App, artifact: &str) -> Result<Image, Refusal> {
    let digest = Digest::from_hex(artifact.trim_start_matches("sha256:")).map_err(Refusal::invalid)?;
    app.store.image(&digest).await?.ok_or_else(|| {
        Refusal::not_found(format!("the server has no image with the artifact {digest}"))
            .help("see those that it has with: volary image list")
    })
}

async fn one(app: &App, image: Image) -> Result<api::Image, Refusal> {
    let all = app.store.images().await?;
    Ok(shown(app, &image, &all, &pins(&app.view.get())))
}

fn shown(app: &App, image: &Image, all: &[Image], pins: &[Pin]) -> api::Image {
    let mut pinned_by: Vec<_> =
        pins.iter().filter(|pin| pin.image.artifact == image.artifact).map(|pin| pin.stage.clone()).collect();
    pinned_by.dedup();
    api::Image {
        artifact: image.artifact,
        size: image.size,
        name: image.name.clone(),
        device_types: image.device_types.clone(),
        rootfs: image.rootfs,
        manifest: image.manifest,
        rootfs_size: image.rootfs_size,
        kind: image.kind.clone(),
        depends: image.depends.clone(),
        signed_by: image.signed_by.clone(),
        published_at: image.published_at,
        published_by: image.published_by.clone(),
        pinned_by,
        kept: why_kept(image, all, pins, &app.config.images, volary_host::now()),
    }
}
