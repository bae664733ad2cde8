//! Tells forges and programs what became of commits. Each hook is told what it does not know yet;
//! one that cannot be reached is tried again later, and holds up neither builds nor other hooks.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use ureq::http::Method;
use volary_host::Cmd;
use volary_store::{Build, BuildState, Untold};

use crate::app::App;
use crate::feeds::Endpoint;
use crate::status_hook::{Stand, Status, StatusHook, description, wait_after};

/// How long one telling may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What ended longer ago is not told any more: nobody waits for it.
const AGE: SignedDuration = SignedDuration::from_hours(3 * 24);

/// Tells all hooks what they do not know yet.
pub(super) async fn statuses(app: Arc<App>) -> Result<(), String> {
    // Those for promotions hear nothing of builds.
    each_hook(&app, |hook| !hook.promotions, |index| one_hook(app.clone(), index)).await
}

/// Tells all hooks of one kind at the same time: one that fails holds up no other.
pub(super) async fn each_hook<F>(
    app: &App,
    is_of_kind: impl Fn(&StatusHook) -> bool,
    tell: impl Fn(usize) -> F,
) -> Result<(), String>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let hooks = app.config.status_hook.iter().enumerate().filter(|(_, hook)| is_of_kind(hook));
    let tasks: Vec<_> = hooks.map(|(index, _)| tokio::spawn(tell(index))).collect();
    let mut problems = Vec::new();
    for task in tasks {
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => problems.push(problem),
            Err(error) => problems.push(format!("it has a bug: {error}")),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

async fn one_hook(app: Arc<App>, index: usize) -> Result<(), String> {
    let hook = &app.config.status_hook[index];
    let broken = |error: volary_store::StoreError| error.to_string();
    app.store.know_status_hook(&hook.name).await.map_err(broken)?;
    for Untold { build, attempts } in
        app.store.untold(&hook.name, AGE, volary_host::now()).await.map_err(broken)?
    {
        let (state, status) = status_of(&app, &build);
        if !hook.wants(&build.source) {
            app.store.status_told(build.id, &hook.name, state).await.map_err(broken)?;
            continue;
        }
        let (worker, told) = (app.clone(), status.clone());
        let ended = tokio::task::spawn_blocking(move || {
            let hook = &worker.config.status_hook[index];
            tell(&worker, hook, &told)
        })
        .await
        .map_err(|error| format!("it has a bug: {error}"))?;
        match ended {
            Ok(()) => app.store.status_told(build.id, &hook.name, state).await.map_err(broken)?,
            Err(problem) => {
                let wait = SignedDuration::try_from(wait_after(attempts)).unwrap_or(SignedDuration::MAX);
                let next = volary_host::now().checked_add(wait).unwrap_or(jiff::Timestamp::MAX);
                let problem = problem.lines().next().unwrap_or_default();
                app.store.status_failed(build.id, &hook.name, problem, next).await.map_err(broken)?;
                // The others would most likely fail as well, each after its time limit.
                return Err(format!("{} cannot be told of build {}: {problem}", hook.name, build.id));
            }
        }
    }
    Ok(())
}

/// What is told of a build, and under which name that is noted.
fn status_of(app: &App, build: &Build) -> (&'static str, Status) {
    let version = build.version.as_deref().unwrap_or_default();
    let reason = build.reason.as_deref().unwrap_or_default();
    let (noted, state, text) = match build.state {
        BuildState::Queued if reason.is_empty() => {
            ("queued", Stand::Pending, "it waits for its turn".to_owned())
        }
        BuildState::Queued => ("queued", Stand::Pending, format!("it waits: {reason}")),
        BuildState::Running | BuildState::Built => {
            ("running", Stand::Running, "it is being built".to_owned())
        }
        BuildState::Succeeded => ("succeeded", Stand::Success, format!("{version} is in rolling")),
        BuildState::Failed => ("failed", Stand::Failure, reason.to_owned()),
        BuildState::Cancelled => ("cancelled", Stand::Cancelled, reason.to_owned()),
    };
    let status = Status {
        version: 1,
        source: build.source.clone(),
        architecture: build.architecture.clone(),
        commit: build.commit.clone(),
        build: build.id,
        state,
        description: description(&text),
        url: format!("{}/builds/{}", app.url, build.id),
        // A commit is built once for each architecture, and a forge keeps one status for each context.
        context: format!("volary/{}/{}", build.source, build.architecture),
    };
    (noted, status)
}

fn tell(app: &App, hook: &StatusHook, status: &Status) -> Result<(), String> {
    let Some((program, arguments)) = hook.command.split_first() else { return post(app, hook, status) };
    let text = serde_json::to_vec(status).expect("a status is plain data");
    let command = Cmd::new(program).args(arguments).stdin(text).cwd(app.layout.root()).timeout(LIMIT);
    command.check().map(drop).map_err(|error| error.to_string())
}

fn post(app: &App, hook: &StatusHook, status: &Status) -> Result<(), String> {
    let file = hook.token_file.as_ref().ok_or("it has no token_file")?;
    let address = hook.url.as_deref().ok_or("it has no address")?;
    let endpoint = Endpoint::new(app.layout.root(), address, hook.ca_file.clone(), None);
    let request = hook.request(&endpoint.secret(file)?, status).ok_or("it has no address")?;
    let headers = request.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let headers: Vec<(&str, &str)> = headers.chain([("content-type", "application/json")]).collect();
    let body = serde_json::to_vec(&request.body).expect("JSON is JSON");
    let reply = endpoint.send(Method::POST, &request.path, &headers, &body)?;
    if (200..300).contains(&reply.status) || hook.knows_already(reply.status, &reply.text) {
        return Ok(());
    }
    Err(endpoint.problem(&request.path, &reply))
}
