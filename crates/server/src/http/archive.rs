//! Uploads, packages and releases.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::archive::{Cut, Difference, Include, Included, Package, Pick, Picked, Pin, Release};
use volary_api::v1::fleet::Role;
use volary_archive::{Error, Provenance, UploadLimits, UploadPolicy};
use volary_model::{ReleaseName, Revision, Suite};

use crate::app::App;
use crate::http::auth::{Developer, Person, Uploader, Viewer};
use crate::http::batch;
use crate::http::input::{Input, Path, Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::uploads::{self, NotSealed};

/// The largest file of an upload: debug symbols of a browser have some 2 GB.
pub(super) const FILE_LIMIT: u64 = 4 << 30;

/// The largest `.changes` file: it is read as a whole.
pub(super) const CHANGES_LIMIT: u64 = 4 << 20;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match &error {
            Error::Refused { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error),
            Error::NoSuite(_) | Error::NoRelease(_) => Self::not_found(error),
            Error::ReleaseExists(_)
            | Error::Frozen(_)
            | Error::Pick { .. }
            | Error::Keys(_)
            | Error::Dropped(_)
            | Error::Protected { .. } => Self::conflict(error),
            Error::Upstream(_) => Self::new(StatusCode::BAD_GATEWAY, error),
            Error::Lock(_) | Error::Signer { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, error),
            Error::File(_)
            | Error::NotAnArchive(_)
            | Error::Exists(_)
            | Error::Settings(_)
            | Error::Damaged { .. }
            | Error::Newer { .. }
            | Error::Key { .. } => Self::broken(error),
        }
    }
}

/// `PUT /api/v1/uploads/{id}/{file}`.
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    Uploader(_): Uploader,
    Path((id, file)): Path<(String, String)>,
    body: Body,
) -> Result<(), Refusal> {
    let dir = upload_dir(&app, &id)?;
    plain_name(&file)?;
    let writing = app.uploads.write(&dir)?;
    let limit = if file.ends_with(".changes") { CHANGES_LIMIT } else { FILE_LIMIT };
    batch::save(body, dir.join(&file), limit, writing).await
}

/// `PUT /api/v1/uploads/{id}`: several files as a tar archive.
pub(crate) async fn upload_batch(
    State(app): State<Arc<App>>,
    Uploader(_): Uploader,
    Path(id): Path<String>,
    body: Body,
) -> Result<(), Refusal> {
    let dir = upload_dir(&app, &id)?;
    let writing = app.uploads.write(&dir)?;
    batch::unpack(body, dir, writing).await
}

/// Refuses what could be another thing than a file beside the others.
pub(super) fn plain_name(file: &str) -> Result<(), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-:".contains(c);
    if file.is_empty() || file.len() > 200 || file.starts_with('.') || !file.chars().all(plain) {
        return Err(Refusal::invalid(format!("{file:?} is not the name of a package file"))
            .help("Debian package files have letters, digits and ._+~- in their names"));
    }
    Ok(())
}

fn upload_dir(app: &App, id: &str) -> Result<PathBuf, Refusal> {
    if id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        Ok(app.layout.uploads().join(id))
    } else {
        Err(Refusal::invalid("an upload's id is 32 lower-case hexadecimal digits"))
    }
}

/// `POST /api/v1/uploads/{id}/include`.
pub(crate) async fn include(
    State(app): State<Arc<App>>,
    Uploader(person): Uploader,
    Path(id): Path<String>,
    Input(options): Input<Include>,
) -> Result<Json<Included>, Refusal> {
    if options.allow_unsigned {
        person.must_be(Role::Admin)?;
    }
    let dir = match app.uploads.seal(&upload_dir(&app, &id)?)? {
        Ok(dir) => dir,
        Err(NotSealed::Missing) => {
            return Err(Refusal::not_found("there is no upload with this id")
                .help("the upload was included already, or its files were never sent"));
        }
        Err(NotSealed::Writing) => {
            return Err(Refusal::conflict("a file of this upload is still being sent")
                .help("include it when all of its files were acknowledged"));
        }
    };
    Ok(Json(include_dir(&app, &person, dir, options.allow_unsigned).await?))
}

/// `PUT` or `POST /api/v1/upload/{file}`: all of an upload in one request.
pub(crate) async fn upload_one(
    State(app): State<Arc<App>>,
    Uploader(person): Uploader,
    Path(file): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Included>), Refusal> {
    plain_name(&file)?;
    let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
    if !["deb", "ddeb", "tar"].contains(&ending) {
        return Err(Refusal::invalid(format!("{file:?} cannot be uploaded alone"))
            .help("send a .deb, or a .changes with the files that it names as one .tar"));
    }
    let dir = app.layout.uploads().join(uploads::new_id());
    let writing = app.uploads.write(&dir)?;
    let received = match ending {
        "tar" => batch::unpack(body, dir.clone(), writing).await,
        _ => batch::save(body, dir.join(&file), FILE_LIMIT, writing).await,
    };
    if let Err(refusal) = received {
        std::fs::remove_dir_all(&dir).map_err(Refusal::broken)?;
        return Err(refusal);
    }
    let included = include_dir(&app, &person, dir, false).await?;
    let status = if included.added.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(included)))
}

/// Includes what lies in a folder that nobody else can write to, and removes the folder.
async fn include_dir(
    app: &Arc<App>,
    person: &Person,
    dir: PathBuf,
    allow_unsigned: bool,
) -> Result<Included, Refusal> {
    let provenance =
        Provenance { note: Some(format!("included by {}", person.name)), ..Provenance::default() };
    let depot = app.archive.clone();
    let policy = match person.role {
        Role::Upload => {
            let limits = archive_limits(&person.limits);
            UploadPolicy::Vouched { keys: uploaders(app)?, limits }
        }
        _ if allow_unsigned => UploadPolicy::AllowUnsigned,
        _ => UploadPolicy::Signed(uploaders(app)?),
    };
    let included = blocking(move || {
        let included = offered(&dir)
            .and_then(|files| depot.include_own(&files, &provenance, &policy).map_err(Refusal::from));
        // Taken or refused, the upload ends here: the sender has the files still.
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove an upload");
        }
        included
    })
    .await?
    .map_err(|refusal| without_path(app, refusal));
    let included = match included {
        Ok(included) => included,
        Err(refusal) => {
            if refusal.status() == StatusCode::UNPROCESSABLE_ENTITY {
                let text = format!("an upload by {} was refused: {}", person.name, refusal.sentence());
                app.event_by(person, "upload-refused", &person.name, &text).await;
            }
            return Err(refusal);
        }
    };
    tell(app, person, &included.added).await;
    if !included.added.is_empty() {
        app.rolling_changed();
    }
    Ok(included)
}

/// Up to so many packages have an event each; more would drive out of the events what else there is.
const EVENTS: usize = 20;

async fn tell(app: &App, person: &Person, added: &[Package]) {
    for package in added.iter().take(EVENTS) {
        let text = format!(
            "{} {} ({}) was included by {}",
            package.name, package.version, package.architecture, person.name
        );
        app.event_by(person, "package-included", &format!("{}={}", package.name, package.version), &text)
            .await;
    }
    if added.len() > EVENTS {
        let more = volary_plan::text::count(added.len() - EVENTS, "more package");
        app.event_by(
            person,
            "package-included",
            "rolling",
            &format!("{more} were included by {}", person.name),
        )
        .await;
    }
}

/// The limits of a token in the words of the archive.
pub(crate) fn archive_limits(limits: &volary_api::v1::fleet::UploadLimits) -> UploadLimits {
    UploadLimits { packages: limits.packages.clone(), components: limits.components.clone() }
}

/// People know their files by name, not by where we kept them.
fn without_path(app: &App, refusal: Refusal) -> Refusal {
    let uploads = app.layout.uploads().display().to_string();
    let mut text = refusal.sentence().to_owned();
    while let Some(start) = text.find(&uploads) {
        // The folder, a slash, the id of 32 digits, a slash.
        let folder_end = start + uploads.len();
        let end = text[folder_end..].char_indices().nth(34).map_or(text.len(), |(at, _)| folder_end + at);
        text.replace_range(start..end, "");
    }
    Refusal::new(refusal.status(), text)
}

/// Most bytes of all `.changes` of an upload together; a real one has a few KB.
const CHANGES_TOGETHER: u64 = 16 << 20;

/// What to include: the `.changes` files, and the packages that none of them names.
fn offered(dir: &std::path::Path) -> Result<Vec<PathBuf>, Refusal> {
    let entries = std::fs::read_dir(dir).map_err(Refusal::broken)?;
    let files: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let ends = |path: &PathBuf, end: &str| path.extension().is_some_and(|extension| extension == end);
    let changes: Vec<PathBuf> = files.iter().filter(|path| ends(path, "changes")).cloned().collect();
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    if changes.iter().map(size).sum::<u64>() > CHANGES_TOGETHER {
        return Err(Refusal::invalid("its .changes files have more than 16 MiB together"));
    }
    let mut named = BTreeSet::new();
    for path in &changes {
        let text = String::from_utf8_lossy(&volary_host::read(path)?).into_owned();
        named.extend(text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned));
    }
    let is_named = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        named.contains(file.as_ref())
    };
    let is_package = |path: &&PathBuf| ends(path, "deb") || ends(path, "dsc");
    let loose = files.iter().filter(is_package).filter(|path| !is_named(path)).cloned();
    let offered: Vec<PathBuf> = changes.iter().cloned().chain(loose).collect();
    if offered.is_empty() {
        return Err(Refusal::invalid("the upload has no .changes, .deb or .dsc file"));
    }
    Ok(offered)
}

/// Those who may sign a `.changes`: the OpenPGP keys in the folder `uploaders`.
fn uploaders(app: &App) -> Result<Vec<String>, Refusal> {
    let dir = app.layout.uploaders();
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|end| end == "asc") {
            keys.push(volary_host::read_to_string(&entry.path())?);
        }
    }
    Ok(keys)
}

/// The suite that is asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct SuiteQuery {
    /// The suite, as in `v1.3/r2`; `rolling` if none is named.
    suite: Option<String>,
}

/// `GET /api/v1/packages`.
pub(crate) async fn packages(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<SuiteQuery>,
) -> Result<Json<Vec<Package>>, Refusal> {
    let suite: Suite = name(query.suite.as_deref().unwrap_or("rolling"))?;
    let depot = app.archive.clone();
    Ok(Json(blocking(move || depot.packages(&suite)).await??))
}

/// `GET /api/v1/releases`.
pub(crate) async fn releases(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Vec<Release>>, Refusal> {
    let depot = app.archive.clone();
    Ok(Json(blocking(move || depot.releases()).await??))
}

/// `GET /api/v1/releases/{name}`.
pub(crate) async fn release(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(release): Path<String>,
) -> Result<Json<Release>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let depot = app.archive.clone();
    Ok(Json(blocking(move || depot.release(&release)).await??))
}

/// `POST /api/v1/releases`.
pub(crate) async fn cut(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Input(request): Input<Cut>,
) -> Result<Json<Release>, Refusal> {
    let depot = app.archive.clone();
    let release = blocking(move || depot.cut(&request.name)).await??;
    let packages = release.revisions.first().map_or(0, |revision| revision.packages);
    let count = volary_plan::text::count(packages as usize, "package");
    let text = format!("{} was cut from rolling with {count} by {}", release.name, person.name);
    app.event_by(&person, "release-cut", release.name.as_str(), &text).await;
    Ok(Json(release))
}

/// `POST /api/v1/releases/{name}/picks`.
pub(crate) async fn pick(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(release): Path<String>,
    Input(request): Input<Pick>,
) -> Result<Json<Picked>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let picks =
        request.packages.iter().map(|pick| name(pick)).collect::<Result<Vec<volary_archive::Pick>, _>>()?;
    let depot = app.archive.clone();
    let (picked, along) = blocking(move || depot.pick(&release, &picks, request.dry_run)).await??;
    if !picked.dry_run && !picked.changes.is_empty() {
        let asked = request.packages.join(", ");
        let along = if along.is_empty() { String::new() } else { format!(", with {}", along.join(", ")) };
        let text = format!("{} was made by picking {asked}{along} by {}", picked.release, person.name);
        app.event_by(&person, "release-picked", &picked.release.to_string(), &text).await;
    }
    Ok(Json(picked))
}

/// `POST /api/v1/releases/{name}/freeze`.
pub(crate) async fn freeze(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(release): Path<String>,
) -> Result<Json<Release>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let depot = app.archive.clone();
    let (before, after) = blocking(move || {
        let before = depot.release(&release)?;
        Ok::<_, Error>((before, depot.freeze(&release)?))
    })
    .await??;
    if before.frozen_at.is_none() {
        let text = format!("{} was frozen by {}", after.name, person.name);
        app.event_by(&person, "release-frozen", after.name.as_str(), &text).await;
        app.nudges.suites.notify_one();
    }
    Ok(Json(after))
}

/// The revision that is asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RevisionQuery {
    /// The revision, as in `r2`; the newest if none is named.
    revision: Option<String>,
}

/// `GET /api/v1/releases/{name}/pin`.
pub(crate) async fn pin(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(release): Path<String>,
    Query(query): Query<RevisionQuery>,
) -> Result<Json<Pin>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let revision: Option<Revision> = query.revision.as_deref().map(name).transpose()?;
    let depot = app.archive.clone();
    Ok(Json(blocking(move || depot.pin(&release, revision)).await??))
}

/// Two suites.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct DiffQuery {
    /// The suite before.
    from: String,
    /// The suite after.
    to: String,
}

/// `GET /api/v1/diff`.
pub(crate) async fn diff(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<DiffQuery>,
) -> Result<Json<Difference>, Refusal> {
    let (from, to): (Suite, Suite) = (name(&query.from)?, name(&query.to)?);
    let depot = app.archive.clone();
    Ok(Json(blocking(move || depot.difference(&from, &to)).await??))
}
