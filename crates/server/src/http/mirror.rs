//! Mirrors and imports.

use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::mirror::{AddMirror, Asked, Import, ImportStatus, Mirror, MirroredPackage, Report};
use volary_archive::upstream::{self, Keyring, Link, Patience, Trust};
use volary_model::{Component, Suite};

use crate::app::App;
use crate::http::auth::{Admin, Developer, Viewer};
use crate::http::input::{Input, Path, Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::mirrors::definition::{Definition, Place, Signed};
use crate::mirrors::report::Stored;
use crate::mirrors::{ImportJob, fetcher};

fn missing(name: &Component) -> Refusal {
    Refusal::not_found(format!("there is no mirror {name}"))
        .help("see which there are: volary archive mirror list")
}

/// `GET /api/v1/mirrors`.
pub(crate) async fn mirrors(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Vec<Mirror>>, Refusal> {
    let all = blocking(move || {
        let names = app.mirrors.names();
        names.iter().map(|name| app.mirrors.describe(name, &app.archive)).collect::<Result<Vec<_>, _>>()
    });
    Ok(Json(all.await??))
}

/// `GET /api/v1/mirrors/{name}`.
pub(crate) async fn mirror(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(mirror): Path<String>,
) -> Result<Json<Mirror>, Refusal> {
    let mirror: Component = name(&mirror)?;
    describe(&app, mirror).await.map(Json)
}

async fn describe(app: &Arc<App>, name: Component) -> Result<Mirror, Refusal> {
    let app = app.clone();
    let (found, name) = blocking(move || (app.mirrors.describe(&name, &app.archive), name)).await?;
    let found = found?;
    if found.definition.is_none() && found.problem.is_none() && found.state.is_none() {
        return Err(missing(&name));
    }
    Ok(found)
}

/// `POST /api/v1/mirrors`.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<AddMirror>,
) -> Result<Json<Mirror>, Refusal> {
    let mut definition = Definition::from_api(request.definition).map_err(Refusal::invalid)?;
    let keyring = request.keyring.as_deref().map(decode).transpose()?;
    if keyring.is_some() {
        definition.signed = Signed::By(format!("{}.key", definition.name).into());
    }
    let worker = (app.clone(), definition.clone());
    blocking(move || {
        let (app, definition) = worker;
        define(&app, &definition, keyring.as_deref(), request.replace)
    })
    .await??;
    let text = format!("mirror {} was defined by {}", definition.name, person.name);
    app.event_by(&person, "mirror-added", definition.name.as_str(), &text).await;
    app.nudges.mirrors.notify_one();
    describe(&app, definition.name).await.map(Json)
}

fn decode(keyring: &str) -> Result<Vec<u8>, Refusal> {
    let bytes = STANDARD.decode(keyring).map_err(|error| Refusal::invalid(format!("keyring: {error}")))?;
    Keyring::read(&bytes).map_err(Refusal::invalid)?;
    Ok(bytes)
}

fn define(app: &App, definition: &Definition, keyring: Option<&[u8]>, replace: bool) -> Result<(), Refusal> {
    let dir = app.mirrors.dir();
    volary_host::create_dir(dir)?;
    let path = Definition::path(dir, &definition.name);
    if path.exists() && !replace {
        return Err(Refusal::conflict(format!("there is a mirror {} already", definition.name))
            .help("give --replace to change it"));
    }
    if let Signed::By(key) = &definition.signed {
        let key = dir.join(key);
        match keyring {
            // The key first: a definition without it would be of no use.
            Some(bytes) => volary_host::write_atomic(&key, bytes, 0o644)?,
            None => {
                let bytes = volary_host::read(&key).map_err(Refusal::invalid)?;
                Keyring::read(&bytes)
                    .map_err(|error| Refusal::invalid(format!("{}: {error}", key.display())))?;
            }
        }
    }
    Ok(volary_host::write_atomic(&path, definition.text().as_bytes(), 0o600)?)
}

/// How a mirror is to go.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RemoveQuery {
    /// True if its packages stay in rolling.
    #[serde(default)]
    keep: bool,
}

/// `DELETE /api/v1/mirrors/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(mirror): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<(), Refusal> {
    let mirror: Component = name(&mirror)?;
    describe(&app, mirror.clone()).await?;
    // Held for as long as it takes, so that no sync begins meanwhile.
    let Some(_live) = app.mirrors.begin(&mirror) else {
        return Err(Refusal::conflict(format!("a sync of {mirror} runs; try again when it is over")));
    };
    let worker = (app.clone(), mirror.clone());
    let removed = blocking(move || {
        let (app, mirror) = worker;
        let dir = app.mirrors.dir();
        volary_host::remove_if_exists(&Definition::path(dir, &mirror))?;
        volary_host::remove_if_exists(&dir.join(format!("{mirror}.key")))?;
        Stored::remove(dir, &mirror)?;
        if query.keep {
            Ok(0)
        } else {
            Ok::<_, Refusal>(app.archive.archive().drop_mirror(&mirror, volary_host::now())?)
        }
    })
    .await;
    app.mirrors.end(&mirror);
    let removed = volary_plan::text::count(removed??, "package");
    let text = format!("mirror {mirror} was removed by {}, and {removed} of it from rolling", person.name);
    app.event_by(&person, "mirror-removed", mirror.as_str(), &text).await;
    app.rolling_changed();
    Ok(())
}

/// `POST /api/v1/mirrors/{name}/sync`.
pub(crate) async fn sync(
    State(app): State<Arc<App>>,
    Developer(_): Developer,
    Path(mirror): Path<String>,
) -> Result<Json<Asked>, Refusal> {
    let mirror: Component = name(&mirror)?;
    let found = describe(&app, mirror.clone()).await?;
    if found.definition.is_none() {
        return Err(Refusal::conflict(
            found.problem.unwrap_or_else(|| format!("{mirror} is not defined any more")),
        ));
    }
    let at = volary_host::now();
    app.mirrors.ask(&mirror);
    app.nudges.mirrors.notify_one();
    Ok(Json(Asked { at }))
}

/// `GET /api/v1/mirrors/{name}/packages`.
pub(crate) async fn packages(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(mirror): Path<String>,
) -> Result<Json<Vec<MirroredPackage>>, Refusal> {
    let mirror: Component = name(&mirror)?;
    describe(&app, mirror.clone()).await?;
    let packages = blocking(move || {
        let stored = Stored::read(app.mirrors.dir(), &mirror).unwrap_or_default();
        let archive = app.archive.archive();
        let (binaries, sources) = (archive.packages(&Suite::Rolling)?, archive.sources(&Suite::Rolling)?);
        let own = binaries.iter().chain(&sources).filter(|entry| entry.component == mirror);
        let described = own.map(|entry| {
            let reason = stored.reason(entry.name.as_str(), entry.architecture.as_str());
            let reason = reason.map_or_else(
                || {
                    if entry.is_source() {
                        "the source of a package that is in".to_owned()
                    } else {
                        String::new()
                    }
                },
                str::to_owned,
            );
            MirroredPackage {
                name: entry.name.clone(),
                version: entry.version.to_string(),
                architecture: entry.architecture.clone(),
                size: entry.paths().iter().map(|(_, _, size)| size).sum(),
                reason,
            }
        });
        Ok::<_, volary_archive::Error>(described.collect())
    });
    Ok(Json(packages.await??))
}

/// `POST /api/v1/imports`.
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<Import>,
) -> Result<Json<ImportStatus>, Refusal> {
    let place = Place::parse(&request.url).map_err(Refusal::invalid)?;
    let trust = match request.keyring.as_deref().map(decode).transpose()? {
        Some(bytes) => Trust::Keys(Keyring::read(&bytes).map_err(Refusal::invalid)?),
        None => Trust::Unsigned,
    };
    let fetch = fetcher(&place).map_err(Refusal::invalid)?;
    let (id, job) = app.mirrors.begin_import();
    let begun = job.clone();
    tokio::spawn(async move {
        let Ok(_slot) = app.mirrors.slots.acquire().await else { return };
        let worker = app.clone();
        let done = tokio::task::spawn_blocking(move || {
            let link = Link {
                fetch: &*fetch,
                trust: &trust,
                watch: &job.live,
                patience: Patience::default(),
                parallel: 4,
            };
            let import = upstream::Import {
                suite: &request.suite,
                components: &request.components,
                link,
                by: &person.name,
                dry_run: request.dry_run,
                now: volary_host::now(),
            };
            let outcome = worker.archive.archive().import(&import).map_err(|error| error.to_string());
            let added = outcome.as_ref().map_or(0, |imported| imported.added.len());
            *job.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended(outcome, &job));
            (added, request, person, worker)
        })
        .await;
        if let Ok((added, request, person, app)) = done
            && added > 0
            && !request.dry_run
        {
            let count = volary_plan::text::count(added, "package");
            let text = format!("{count} came from {} by an import of {}", request.suite, person.name);
            app.event_by(&person, "imported", &request.suite, &text).await;
            app.rolling_changed();
        }
    });
    Ok(Json(status(id, &begun)))
}

fn ended(outcome: Result<upstream::Imported, String>, job: &ImportJob) -> (Report, Vec<String>) {
    let mut report =
        Report { at: volary_host::now(), fetched: job.live.fetched_in_all(), ..Report::default() };
    match outcome {
        Err(problem) => {
            report.problem = Some(problem);
            (report, Vec::new())
        }
        Ok(imported) => {
            report.added = imported.added.len() as u64;
            report.packages = (imported.added.len() + imported.known) as u64;
            report.left_out = imported.left_out;
            (report, imported.added)
        }
    }
}

fn status(id: u64, job: &ImportJob) -> ImportStatus {
    let ended = job.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let running = ended.is_none().then(|| job.live.progress());
    let (report, added) = ended.map_or((None, Vec::new()), |(report, added)| (Some(report), added));
    ImportStatus { id, running, report, added }
}

/// `GET /api/v1/imports/{id}`.
pub(crate) async fn import_status(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
    Path(id): Path<u64>,
) -> Result<Json<ImportStatus>, Refusal> {
    let job = app.mirrors.import(id).ok_or_else(|| {
        Refusal::not_found(format!("there is no import {id}"))
            .help("the server started anew; import again, which goes on where it was")
    })?;
    Ok(Json(status(id, &job)))
}
