//! The build queue: from a queued commit to packages in rolling.
//!
//! The state in the records goes queued → running → built → succeeded. A kill while running means
//! the same build again with the same version; a kill after "built" means that the packages on
//! disk are included (again), which changes nothing if they are there already.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use volary_archive::{Error, Provenance, UploadPolicy};
use volary_build::{
    AptLocation, AptSource, BuildError, BuildRequest, Builder, BuilderConfig, Built, Event, Finding, Origin,
    Rebuild,
};
use volary_host::Stop;
use volary_model::{Architecture, BuildScope, Digest, SourceName, Suite};
use volary_plan::rebuild::package_names;
use volary_store::{Build, BuildState, Source};

use super::reproductions;
use crate::app::App;
use crate::tls::listener::asked_to_stop;

/// How long a worker waits before it looks at the queue without being rung for.
const LOOK: Duration = Duration::from_secs(15);

/// How long it waits after the records could not be read.
const AFTER_TROUBLE: Duration = Duration::from_secs(30);

/// Puts back what a killed server was building. Before any worker starts.
pub(crate) async fn recover(app: &App) -> Result<(), volary_store::StoreError> {
    app.store.forget_waits().await?;
    app.store.requeue_reproductions().await?;
    for build in app.store.requeue_running(volary_host::now()).await? {
        match build.state {
            BuildState::Failed => {
                let reason = build.reason.clone().unwrap_or_default();
                let text = format!("{} {}: {reason}", build.source, build.commit.short());
                app.event("build-failed", &build.id.to_string(), &text).await;
            }
            BuildState::Queued
            | BuildState::Running
            | BuildState::Built
            | BuildState::Succeeded
            | BuildState::Cancelled => {
                tracing::info!(
                    build = build.id,
                    "a build was cut off by the server's end; it is queued again"
                );
            }
        }
    }
    Ok(())
}

/// Takes builds from the queue, one after the other, until the server stops.
pub(super) async fn worker(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        if *stop.borrow() {
            return;
        }
        let (problem, wait) = match app.store.claim_build(volary_host::now()).await {
            Ok(Some(build)) => {
                let (id, app) = (build.id, app.clone());
                // In a task of its own, so that a bug fails one build and not the queue.
                let trouble = match tokio::spawn(one(app.clone(), build)).await {
                    Ok(trouble) => trouble,
                    Err(error) => {
                        let reason = format!("the server has a bug: {error}");
                        let _ = app.store.build_failed(id, &reason, volary_host::now()).await;
                        None
                    }
                };
                // Kept apart from the queue's own problems: an idle worker must not clear it.
                app.outcomes.keep("builder", trouble);
                // The build itself waits for its next try; those of other sources need not.
                continue;
            }
            // What people wait for comes first.
            Ok(None) => match app.store.claim_reproduction(volary_host::now()).await {
                Ok(Some(reproduction)) => {
                    let trouble = tokio::spawn(reproductions::one(app.clone(), reproduction)).await;
                    app.outcomes
                        .keep("reproductions", trouble.unwrap_or_else(|error| Some(error.to_string())));
                    continue;
                }
                Ok(None) => (None, LOOK),
                Err(error) => (Some(error.to_string()), AFTER_TROUBLE),
            },
            Err(error) => (Some(error.to_string()), AFTER_TROUBLE),
        };
        app.outcomes.keep("builds", problem);
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = app.nudges.builds.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Why a build gave no packages.
pub(super) enum Unbuilt {
    /// The commit is to blame, and the same build would end the same way.
    Commit(String),
    /// The machine is: the build waits until that is mended.
    Machine(String),
}

impl Unbuilt {
    pub(super) fn machine(error: impl std::fmt::Display) -> Self {
        Self::Machine(error.to_string())
    }

    pub(super) fn of(error: BuildError) -> Self {
        if error.is_setup() { Self::machine(error) } else { Self::Commit(error.to_string()) }
    }
}

/// Builds one commit and publishes what comes out. Returns the trouble of the machine that put
/// the build back into the queue.
async fn one(app: Arc<App>, build: Build) -> Option<String> {
    tracing::info!(build = build.id, source = %build.source, commit = %build.commit.short(), "building");
    let (worker, record) = (app.clone(), build.clone());
    let stop = app.running.begin(build.id);
    // Somebody may have cancelled it before there was anything to stop.
    if !matches!(app.store.build(build.id).await, Ok(Some(now)) if now.state == BuildState::Running) {
        app.running.end(build.id);
        return None;
    }
    app.nudges.statuses.notify_one();
    let sources = app.store.sources().await;
    let ended = tokio::task::spawn_blocking(move || {
        let mut findings = Vec::new();
        let sources = sources.map_err(Unbuilt::machine);
        (sources.and_then(|sources| run(&worker, &record, stop, sources, &mut findings)), findings)
    })
    .await;
    app.running.end(build.id);
    let ended = match ended {
        Ok((ended, findings)) => {
            note_findings(&app, build.id, &findings).await;
            Ok(ended)
        }
        Err(error) => Err(error),
    };
    let kept = match ended {
        Ok(Ok(built)) => keep(&app, &build, &built).await,
        Ok(Err(unbuilt)) => Err(unbuilt),
        Err(error) => Err(Unbuilt::Commit(format!("the server has a bug: {error}"))),
    };
    match kept {
        Ok(()) => publish(&app, build.id).await,
        Err(Unbuilt::Commit(reason)) => failed(&app, &build, &reason).await,
        Err(Unbuilt::Machine(problem)) => {
            let line = problem.lines().next().unwrap_or_default();
            if let Err(error) = app.store.build_postponed(build.id, line, volary_host::now()).await {
                tracing::error!(build = build.id, %error, "cannot put a build back into the queue");
            }
            return Some(line.to_owned());
        }
    }
    None
}

/// What lintian said must not be lost with a build that it stopped.
async fn note_findings(app: &App, id: i64, findings: &[Finding]) {
    let text = serde_json::to_string(findings).expect("findings are plain data");
    if let Err(error) = app.store.build_lintian(id, &text).await {
        tracing::error!(build = id, %error, "what lintian found is lost");
    }
}

fn run(
    app: &App,
    build: &Build,
    stop: Stop,
    sources: Vec<Source>,
    findings: &mut Vec<Finding>,
) -> Result<Built, Unbuilt> {
    let served = app.archive.architectures().map_err(Unbuilt::machine)?;
    if build.scope != BuildScope::All && !served.contains(&build.architecture) {
        let served: Vec<_> = served.iter().map(Architecture::as_str).collect();
        return Err(Unbuilt::Commit(format!(
            "the archive has no {}, so its packages could not be published; it has {} \
             (add one with archive_architectures in server.toml)",
            build.architecture,
            served.join(", ")
        )));
    }
    // What an earlier attempt left must not be taken for this one's.
    let output = app.layout.build_output(build.id);
    remove_output(&output)?;
    volary_host::create_dir(&app.layout.build(build.id)).map_err(Unbuilt::machine)?;
    let request = request(app, build, (stop, sources), output, app.layout.build_log(build.id))?;
    let builder = Builder::open(builder_config(app)).map_err(Unbuilt::machine)?;
    let mut hear = |event: Event<'_>| {
        if let Event::Finding(finding) = event {
            findings.push(finding.clone());
        }
    };
    builder.build(&request, &mut hear).map_err(Unbuilt::of)
}

pub(super) fn builder_config(app: &App) -> BuilderConfig {
    let mut config = BuilderConfig { jobs: app.config.jobs(), ..BuilderConfig::default() };
    if let Some(cache) = &app.config.build_cache {
        config.cache.clone_from(cache);
    }
    config
}

pub(super) fn remove_output(output: &Path) -> Result<(), Unbuilt> {
    match std::fs::remove_dir_all(output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Unbuilt::Machine(format!("cannot remove {}: {error}", output.display())))
        }
        _ => Ok(()),
    }
}

/// What the builder is asked for.
pub(super) fn request(
    app: &App,
    build: &Build,
    (stop, sources): (Stop, Vec<Source>),
    output: PathBuf,
    log: PathBuf,
) -> Result<BuildRequest, Unbuilt> {
    let hosted = app.layout.source(&build.source);
    // A source may have been moved from here to elsewhere since: the commit says where it is.
    let places = [hosted, app.layout.mirror(&build.source)];
    let repository = places
        .iter()
        .find(|place| volary_build::Repository::new(*place).has(&build.commit).unwrap_or(false))
        .ok_or_else(|| {
            let text = format!("commit {} is not in any copy of {} any more", build.commit, build.source);
            Unbuilt::Commit(text)
        })?;
    let url = sources.iter().find(|source| source.name == build.source).and_then(|source| source.url.clone());
    Ok(BuildRequest {
        source: build.source.clone(),
        repository: repository.clone(),
        commit: build.commit.clone(),
        url: url.unwrap_or_else(|| hosted_url(app, &build.source)),
        origins: sources.into_iter().map(|source| origin(app, source)).collect(),
        number: build.number,
        architecture: Some(build.architecture.clone()),
        scope: build.scope,
        output,
        log,
        timeout: Duration::from_secs(app.config.build_timeout),
        limits: app.config.limits(),
        stop,
        extra_sources: own_packages(app).map_err(Unbuilt::Machine)?,
        because: build.because.clone(),
        // Once for all architectures.
        source_package: build.leads,
        lintian: app.config.lintian(),
        again: false,
    })
}

/// Where people fetch a source from that this server hosts.
fn hosted_url(app: &App, source: &SourceName) -> String {
    format!("{}/git/{source}.git", app.url)
}

/// A registered source as one that submodules may come from.
fn origin(app: &App, source: Source) -> Origin {
    let copies = vec![app.layout.source(&source.name), app.layout.mirror(&source.name)];
    Origin { url: source.url.unwrap_or_else(|| hosted_url(app, &source.name)), copies }
}

/// Own packages may build-depend on own packages, as soon as there are any.
fn own_packages(app: &App) -> Result<Vec<AptSource>, String> {
    let any = app.archive.packages(&Suite::Rolling).map_err(|error| error.to_string())?;
    if any.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![AptSource {
        location: AptLocation::Folder(app.archive.public_dir().to_owned()),
        suite: Suite::Rolling.to_string(),
        components: vec!["main".to_owned()],
        key: app.archive.public_key(),
    }])
}

/// Notes what was built, once it cannot be lost any more.
async fn keep(app: &App, build: &Build, built: &Built) -> Result<(), Unbuilt> {
    let output = app.layout.build_output(build.id);
    let files = built.files.clone();
    let packages = tokio::task::spawn_blocking(move || {
        for file in &files {
            std::fs::File::open(file)?.sync_all()?;
        }
        std::fs::File::open(&output)?.sync_all()?;
        Ok::<_, std::io::Error>(files.iter().filter_map(|file| package_of(file)).collect::<Vec<_>>())
    })
    .await
    .map_err(|error| Unbuilt::Commit(format!("the server has a bug: {error}")))?
    .map_err(|error| Unbuilt::Machine(format!("cannot keep what was built: {error}")))?;
    if let Some(digest) = keep_buildinfo(app, build.id, built).map_err(Unbuilt::machine)? {
        app.store.keep_buildinfo(build.id, &digest).await.map_err(Unbuilt::machine)?;
    }
    let needs: Vec<String> = package_names(&built.build_depends).into_iter().collect();
    let asks = built.rebuild == Rebuild::Dependents || app.config.rebuild_dependents.contains(&build.source);
    app.store.build_needs(build.id, &needs, asks).await.map_err(Unbuilt::machine)?;
    app.store.build_built(build.id, &built.version, built.method, &packages).await.map_err(Unbuilt::machine)
}

/// Keeps the .buildinfo, which the archive does not take.
fn keep_buildinfo(app: &App, id: i64, built: &Built) -> Result<Option<Digest>, volary_host::FileError> {
    let named = |path: &&PathBuf| path.extension().is_some_and(|end| end == "buildinfo");
    let Some(file) = built.files.iter().find(named) else { return Ok(None) };
    let bytes = volary_host::read(file)?;
    volary_host::write_atomic(&app.layout.buildinfo(id), &bytes, 0o644)?;
    Ok(Some(Digest::from_bytes(Sha256::digest(&bytes).into())))
}

/// `name=version` of a `.deb` by its file name, which has no epoch; the build's version has.
fn package_of(file: &std::path::Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.strip_suffix(".deb")?;
    let (package, rest) = name.split_once('_')?;
    let (version, _) = rest.rsplit_once('_')?;
    Some(format!("{package}={version}"))
}

/// Publishes everything that was built and is not published yet.
pub(super) async fn publish_all(app: Arc<App>) -> Result<(), String> {
    for build in app.store.built().await.map_err(|error| error.to_string())? {
        publish(&app, build.id).await;
    }
    Ok(())
}

/// Includes the packages of a build into rolling.
async fn publish(app: &Arc<App>, id: i64) {
    // The worker and the reconciler may come to the same build.
    let _turn = app.publishing.lock().await;
    let build = match app.store.build(id).await {
        Ok(Some(build)) if build.state == BuildState::Built => build,
        Ok(_) => return,
        Err(error) => return tracing::error!(build = id, %error, "cannot read a build"),
    };
    let (worker, record) = (app.clone(), build.clone());
    let included = tokio::task::spawn_blocking(move || include(&worker, &record)).await;
    match included {
        Ok(Ok(names)) => succeeded(app, &build, &names).await,
        // The commit's own fault: it must be told, and must not be tried for ever.
        Ok(Err(Included::Refused(reason))) => failed(app, &build, &reason).await,
        // The disk is full, say: the packages wait where they are.
        Ok(Err(Included::Later(problem))) => app.outcomes.keep("publish of builds", Some(problem)),
        Err(error) => failed(app, &build, &format!("the server has a bug: {error}")).await,
    }
}

enum Included {
    Refused(String),
    Later(String),
}

fn include(app: &App, build: &Build) -> Result<Vec<String>, Included> {
    let output = app.layout.build_output(build.id);
    let later = |error: std::io::Error| Included::Later(format!("cannot read {}: {error}", output.display()));
    let gone = || Included::Refused("its packages are gone from the server's disk; build it again".into());
    let entries = std::fs::read_dir(&output).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => gone(),
        _ => later(error),
    })?;
    let mut changes = Vec::new();
    for entry in entries {
        let path = entry.map_err(later)?.path();
        // The .changes of a binary build does not name the source package.
        if path.extension().is_some_and(|end| end == "changes" || end == "dsc") {
            changes.push(path);
        }
    }
    if !changes.iter().any(|path| path.extension().is_some_and(|end| end == "changes")) {
        return Err(gone());
    }
    let provenance = Provenance {
        source: Some(build.source.clone()),
        commit: Some(build.commit.clone()),
        build: Some(build.id),
        note: None,
    };
    let included = app.archive.include(&changes, &provenance, &UploadPolicy::AllowUnsigned);
    match included {
        Ok(included) => {
            let all = included.added.iter().chain(&included.already_there);
            let all = all.filter(|package| package.architecture.as_str() != "source");
            Ok(all.map(|package| format!("{}={}", package.name, package.version)).collect())
        }
        Err(error @ Error::Refused { .. }) => {
            let text = error.to_string();
            Err(Included::Refused(text.replace(&format!("{}/", output.display()), "")))
        }
        Err(error) => Err(Included::Later(error.to_string())),
    }
}

async fn succeeded(app: &Arc<App>, build: &Build, packages: &[String]) {
    app.outcomes.keep("publish of builds", None);
    if let Err(error) = app.store.build_succeeded(build.id, packages, volary_host::now()).await {
        return tracing::error!(build = build.id, %error, "cannot note that a build succeeded");
    }
    let version = build.version.as_deref().unwrap_or("");
    let text =
        format!("{} {version} for {} is in rolling: {}", build.source, build.architecture, build.subject);
    app.event("build-succeeded", &build.id.to_string(), &text).await;
    app.nudges.rebuilds.notify_one();
    app.rolling_changed();
    // The archive has its own copy.
    let output = app.layout.build_output(build.id);
    if let Err(error) = tokio::fs::remove_dir_all(&output).await {
        tracing::warn!(%error, output = %output.display(), "cannot remove what was built");
    }
    app.nudges.builds.notify_one();
}

async fn failed(app: &Arc<App>, build: &Build, reason: &str) {
    // Who cancelled it has told already.
    if matches!(app.store.build(build.id).await, Ok(Some(now)) if now.state == BuildState::Cancelled) {
        return;
    }
    // One line for tables; the log has the rest.
    let reason = reason.lines().next().unwrap_or(reason);
    let along = match app.store.build_failed(build.id, reason, volary_host::now()).await {
        Ok(along) => along,
        Err(error) => return tracing::error!(build = build.id, %error, "cannot note that a build failed"),
    };
    let text = format!("{} {} ({}): {reason}", build.source, build.commit.short(), build.subject);
    app.event("build-failed", &build.id.to_string(), &text).await;
    for other in along {
        let reason = other.reason.unwrap_or_default();
        let text = format!("{} {} ({}): {reason}", other.source, other.commit.short(), other.architecture);
        app.event("build-failed", &other.id.to_string(), &text).await;
    }
    app.nudges.builds.notify_one();
}
