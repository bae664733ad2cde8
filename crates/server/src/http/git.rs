//! The repositories over smart HTTP, through git's own `http-backend`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio_util::io::ReaderStream;
use volary_api::v1::fleet::Role;
use volary_host::Cmd;
use volary_model::SourceName;
use volary_plan::text::some;

use crate::app::App;
use crate::http::auth::{self, Person};
use crate::http::input::{Path as UrlPath, blocking};
use crate::http::refusal::Refusal;

/// How long nothing may come from either side before the transfer is given up.
const STALLED: Duration = Duration::from_secs(300);

/// The most that a push may bring.
const PUSH_LIMIT: u64 = 4 << 30;

/// The longest answer head that git sends; it is a few lines.
const HEAD_LIMIT: u64 = 16 << 10;

/// What is asked of which repository.
struct Call {
    repository: std::path::PathBuf,
    /// `info/refs`, `git-upload-pack`, `git-receive-pack`.
    service_path: &'static str,
    writes: bool,
    /// `None` for the fleet repository.
    source: Option<SourceName>,
}

/// `/git/{name}.git/{info/refs,git-upload-pack,git-receive-pack}`.
pub(crate) async fn serve(
    State(app): State<Arc<App>>,
    UrlPath(path): UrlPath<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let person = auth::person(&app, request.method(), request.headers()).await?;
    let call = call(&app, &path, request.method(), &query)?;
    person.must_be(if call.writes { Role::Developer } else { Role::Viewer })?;
    let before = match call.service_path {
        "git-receive-pack" => {
            let repository = call.repository.clone();
            blocking(move || refs(&repository)).await?
        }
        _ => BTreeSet::new(),
    };
    let mut backend = spawn(&app, &call, &person.name, &query, &request)?;
    let stdin = backend.stdin.take().expect("stdin is piped");
    let stdout = backend.stdout.take().expect("stdout is piped");
    // The request is fed while the answer is read: git writes before it has read everything.
    tokio::spawn(feed(request.into_body(), stdin));
    let ((status, headers), rest) = head(stdout).await?;
    tokio::spawn(finish(app, call, person, before, backend));
    Ok((status, headers, Body::from_stream(ReaderStream::new(rest))).into_response())
}

fn call(app: &App, path: &str, method: &Method, query: &str) -> Result<Call, Refusal> {
    let missing = || {
        Refusal::not_found(format!("there is no repository at /git/{path}"))
            .help("the fleet repository is /git/fleet.git; see the sources with: volary source list")
    };
    let (name, rest) = path.split_once(".git/").ok_or_else(missing)?;
    let (service_path, writes) = match (method, rest) {
        (&Method::GET, "info/refs") if query == "service=git-upload-pack" => ("info/refs", false),
        (&Method::GET, "info/refs") if query == "service=git-receive-pack" => ("info/refs", true),
        (&Method::POST, "git-upload-pack") => ("git-upload-pack", false),
        (&Method::POST, "git-receive-pack") => ("git-receive-pack", true),
        (_, "info/refs") => {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "only git's smart protocol is served"));
        }
        _ => return Err(missing()),
    };
    if name == "fleet" {
        return Ok(Call { repository: app.layout.fleet(), service_path, writes, source: None });
    }
    let source: SourceName = name.parse().map_err(|_| missing())?;
    let repository = app.layout.source(&source);
    if !repository.is_dir() {
        return Err(missing());
    }
    Ok(Call { repository, service_path, writes, source: Some(source) })
}

fn spawn(app: &App, call: &Call, person: &str, query: &str, request: &Request) -> Result<Child, Refusal> {
    let root = call.repository.parent().unwrap_or(Path::new("/"));
    let name = call.repository.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = |name: HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
    };
    let command = Cmd::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{name}/{}", call.service_path))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", request.method().as_str())
        .env("CONTENT_TYPE", text(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", text(header::CONTENT_LENGTH))
        .env("HTTP_CONTENT_ENCODING", text(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", text(HeaderName::from_static("git-protocol")))
        .env("REMOTE_USER", person)
        // What the hook needs to judge a push.
        .env(crate::hook::SERVER_DIR, app.layout.root())
        .env(crate::hook::PUSHED_BY, person)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("GIT_DIR");
    let mut command = command.into_std();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Refusal::broken(format!("cannot run git: {error}; is git installed?")))
}

/// Copies the request into git. Whatever breaks ends git's input, and git says the rest.
async fn feed(mut body: Body, mut stdin: ChildStdin) {
    let mut left = PUSH_LIMIT;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(STALLED, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        let Some(rest) = left.checked_sub(data.len() as u64) else { return };
        left = rest;
        match tokio::time::timeout(STALLED, stdin.write_all(&data)).await {
            Ok(Ok(())) => {}
            // It has its reasons not to read on; they are in its answer.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

type Head = (StatusCode, axum::http::HeaderMap);

/// Reads the CGI head of git's answer.
async fn head(stdout: ChildStdout) -> Result<(Head, BufReader<ChildStdout>), Refusal> {
    let broken = |what: &str| Refusal::broken(format!("git http-backend {what}"));
    let mut reader = BufReader::new(stdout);
    let mut status = StatusCode::OK;
    let mut headers = axum::http::HeaderMap::new();
    let mut left = HEAD_LIMIT;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(left);
        let read = tokio::time::timeout(STALLED, limited.read_until(b'\n', &mut line)).await;
        let count = read.map_err(|_| broken("gave no answer"))?.map_err(|_| broken("broke off"))?;
        left -= count as u64;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if count == 0 {
            return Err(broken("ended without an answer"));
        }
        if line.is_empty() {
            return Ok(((status, headers), reader));
        }
        let Some((name, value)) = line.split_once(':') else { return Err(broken("gave a strange answer")) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok());
            status = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    }
}

/// The refs of a repository, each with where it is.
fn refs(repository: &Path) -> BTreeSet<String> {
    let listed = Cmd::new("git")
        .args(["-c", "safe.directory=*", "for-each-ref", "--format=%(refname) %(objectname)"])
        .cwd(repository)
        .env_remove("GIT_DIR")
        .check();
    listed.map(|output| output.text().lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Notes who pushed, and which refs moved meanwhile. Two who push at the same time are both noted for all of it;
/// whose a commit is says its signature.
async fn pushed(app: &App, call: &Call, person: &Person, before: &BTreeSet<String>) {
    let repository = call.repository.clone();
    let Ok(after) = blocking(move || refs(&repository)).await else { return };
    let moved = before.symmetric_difference(&after).filter_map(|line| line.split(' ').next());
    let moved: BTreeSet<&str> = moved.map(|name| name.trim_start_matches("refs/heads/")).collect();
    if moved.is_empty() {
        return;
    }
    let name = call.source.as_ref().map_or("fleet", |source| source.as_str());
    let moved: Vec<String> = moved.into_iter().map(str::to_owned).collect();
    let text = format!("{} pushed to {name}: {}", person.name, some(&moved, 10));
    app.event_by(person, "pushed", name, &text).await;
}

/// Waits for git's end and wakes those who care about what was pushed.
async fn finish(app: Arc<App>, call: Call, person: Person, before: BTreeSet<String>, mut backend: Child) {
    let mut said = Vec::new();
    if let Some(stderr) = backend.stderr.take() {
        let _ = stderr.take(64 << 10).read_to_end(&mut said).await;
    }
    match backend.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => {
            let said = volary_host::tail(&said, 5);
            tracing::warn!(repository = %call.repository.display(), %status, %said, "git http-backend failed");
        }
        Err(error) => tracing::warn!(%error, "cannot wait for git http-backend"),
    }
    if call.service_path == "git-receive-pack" {
        pushed(&app, &call, &person, &before).await;
        match call.source {
            Some(_) => app.nudges.poll.notify_one(),
            None => app.nudges.stages.notify_one(),
        }
    }
}
