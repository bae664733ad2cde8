//! The archive's files as apt asks for them, and the artifacts of images: conditional requests and
//! single ranges, from disk.
//!
//! Nothing is compressed on the way: apt compares lengths and hashes of exactly these bytes.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use volary_model::Digest;

use crate::app::App;
use crate::http::input::Path as UrlPath;
use crate::http::refusal::Refusal;
use crate::images::FROM;

/// How much is read from disk at once: few system calls, little memory a connection.
const CHUNK: usize = 64 << 10;

/// `GET /archive/{path}`.
pub(crate) async fn archive(
    State(app): State<Arc<App>>,
    UrlPath(path): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let missing = || Refusal::not_found(format!("the archive has no file {path:?}"));
    let file_path = below(app.archive.public_dir(), &path).ok_or_else(missing)?;
    let (file, metadata) = open(&file_path, missing).await?;
    answer(file, &Facts::of(&metadata, &path), &method, &headers).await
}

/// `GET /images/{name}`: an artifact by its SHA-256, the block file beside it (`….blocks`), or the pair that leads to it
/// (`….from-SHA256` of a root file system).
pub(crate) async fn image(
    State(app): State<Arc<App>>,
    UrlPath(name): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let parse = |hex: &str| {
        Digest::from_hex(hex).ok().filter(|digest| digest.hex() == hex).ok_or_else(|| {
            Refusal::not_found(format!("{name:?} names no image"))
                .help("an image's address ends in the SHA-256 of its artifact, in 64 lower-case digits")
        })
    };
    let path = if let Some(hex) = name.strip_suffix(".blocks") {
        app.images.blocks(&parse(hex)?)
    } else if let Some((to, from)) = name.split_once(FROM) {
        app.images.pair(&parse(to)?, &parse(from)?)
    } else {
        return artifact(&app, &parse(&name)?, &method, &headers).await;
    };
    let missing = || Refusal::not_found(format!("there is no {name}; fetch the whole artifact"));
    let (file, metadata) = open(&path, missing).await?;
    let facts = Facts { immutable: true, ..Facts::of(&metadata, &name) };
    answer(file, &facts, &method, &headers).await
}

/// An artifact's file. Its digest is its tag, here and on every server that has a copy.
pub(crate) async fn artifact(
    app: &App,
    digest: &Digest,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let missing = || {
        Refusal::not_found(format!("the server has no image with the artifact {digest}"))
            .help("see those that it has with: volary image list")
    };
    let (file, metadata) = open(&app.images.path(digest), missing).await?;
    let facts = Facts {
        etag: format!("\"{}\"", digest.hex()),
        content_type: "application/vnd.mender-artifact",
        immutable: true,
        ..Facts::of(&metadata, "")
    };
    answer(file, &facts, method, headers).await
}

/// A plain file with what is known of it.
async fn open(
    path: &Path,
    missing: impl Fn() -> Refusal,
) -> Result<(tokio::fs::File, std::fs::Metadata), Refusal> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(Refusal::broken(format!("cannot read {}: {error}", path.display()))),
    };
    match file.metadata().await {
        Ok(metadata) if metadata.is_file() => Ok((file, metadata)),
        _ => Err(missing()),
    }
}

/// The path below `root`, unless it leads out of it.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.is_empty() && !path.contains('\0')).then(|| root.join(relative))
}

struct Facts {
    length: u64,
    modified: Timestamp,
    etag: String,
    content_type: &'static str,
    immutable: bool,
}

impl Facts {
    fn of(metadata: &std::fs::Metadata, path: &str) -> Self {
        let since = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        let immutable = path.starts_with("pool/") || path.contains("/by-hash/");
        Self {
            length: metadata.len(),
            // HTTP dates have whole seconds.
            modified: Timestamp::UNIX_EPOCH + Duration::from_secs(since.as_secs()),
            etag: format!("\"{:x}-{:x}\"", since.as_nanos(), metadata.len()),
            content_type: content_type(path),
            immutable,
        }
    }
}

fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("deb" | "udeb") => "application/vnd.debian.binary-package",
        Some("gz") => "application/gzip",
        Some("xz") => "application/x-xz",
        Some("zst") => "application/zstd",
        Some("asc" | "gpg") => "application/pgp-keys",
        Some("json") => "application/json",
        _ if ["InRelease", "Release", "Packages", "Sources"].contains(&name) => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

async fn answer(
    mut file: tokio::fs::File,
    facts: &Facts,
    method: &Method,
    asked: &HeaderMap,
) -> Result<Response, Refusal> {
    let mut headers = HeaderMap::new();
    let mut set = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    set(header::LAST_MODIFIED, &http_date(facts.modified));
    set(header::ETAG, &facts.etag);
    set(header::ACCEPT_RANGES, "bytes");
    let cache = if facts.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    set(header::CACHE_CONTROL, cache);
    if is_unchanged(facts, asked) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    set(header::CONTENT_TYPE, facts.content_type);
    let (status, start, length) = match range(facts, asked) {
        Range::All => (StatusCode::OK, 0, facts.length),
        Range::Part { start, end } => {
            set(header::CONTENT_RANGE, &format!("bytes {start}-{end}/{}", facts.length));
            (StatusCode::PARTIAL_CONTENT, start, end - start + 1)
        }
        Range::Outside => {
            set(header::CONTENT_RANGE, &format!("bytes */{}", facts.length));
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
        }
    };
    set(header::CONTENT_LENGTH, &length.to_string());
    if *method == Method::HEAD {
        return Ok((status, headers).into_response());
    }
    if start > 0 {
        file.seek(std::io::SeekFrom::Start(start)).await.map_err(Refusal::broken)?;
    }
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK));
    Ok((status, headers, body).into_response())
}

fn is_unchanged(facts: &Facts, asked: &HeaderMap) -> bool {
    if let Some(tags) = asked.get(header::IF_NONE_MATCH) {
        // The tag outranks the date (RFC 9110, 13.2.2).
        return tags.to_str().is_ok_and(|tags| {
            tags.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == "*" || tag == facts.etag)
        });
    }
    date(asked, header::IF_MODIFIED_SINCE).is_some_and(|since| facts.modified <= since)
}

enum Range {
    All,
    Part { start: u64, end: u64 },
    Outside,
}

/// The part of the file that is asked for. Several ranges at once get the whole file, which is
/// always allowed.
fn range(facts: &Facts, asked: &HeaderMap) -> Range {
    let Some(text) = asked.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Range::All;
    };
    // With If-Range a part of another file than the one that the client began must not be sent.
    if let Some(condition) = asked.get(header::IF_RANGE).and_then(|value| value.to_str().ok()) {
        let same_date = date(asked, header::IF_RANGE).is_some_and(|date| date == facts.modified);
        if condition != facts.etag && !same_date {
            return Range::All;
        }
    }
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Range::All;
    };
    let (first, last) = (first.trim(), last.trim());
    let parts = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(facts.length.saturating_sub(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, facts.length.saturating_sub(1)),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => {
            (facts.length.saturating_sub(count), facts.length.saturating_sub(1))
        }
        _ => return Range::All,
    };
    if parts.0 >= facts.length { Range::Outside } else { Range::Part { start: parts.0, end: parts.1 } }
}

fn date(headers: &HeaderMap, name: header::HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

fn http_date(time: Timestamp) -> String {
    rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        let root = Path::new("/srv/public");
        for path in ["../x", "dists/../../x", "/etc/passwd", "", "a/./../b", "a\0b"] {
            assert_eq!(below(root, path), None, "{path:?}");
        }
        assert_eq!(below(root, "dists/rolling/InRelease"), Some(root.join("dists/rolling/InRelease")));
    }

    fn check(asked: &str, expected: (StatusCode, &str)) {
        let facts = Facts {
            length: 10,
            modified: Timestamp::UNIX_EPOCH,
            etag: "\"e\"".into(),
            content_type: "",
            immutable: false,
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, asked.parse().unwrap());
        let got = match range(&facts, &headers) {
            Range::All => (StatusCode::OK, String::new()),
            Range::Part { start, end } => (StatusCode::PARTIAL_CONTENT, format!("{start}-{end}")),
            Range::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, String::new()),
        };
        assert_eq!((got.0, got.1.as_str()), expected, "{asked}");
    }

    #[test]
    fn ranges() {
        check("bytes=0-3", (StatusCode::PARTIAL_CONTENT, "0-3"));
        check("bytes=4-", (StatusCode::PARTIAL_CONTENT, "4-9"));
        check("bytes=-3", (StatusCode::PARTIAL_CONTENT, "7-9"));
        check("bytes=-30", (StatusCode::PARTIAL_CONTENT, "0-9"));
        check("bytes=5-99", (StatusCode::PARTIAL_CONTENT, "5-9"));
        check("bytes=10-", (StatusCode::RANGE_NOT_SATISFIABLE, ""));
        check("bytes=0-1,3-4", (StatusCode::OK, ""));
        check("bytes=3-1", (StatusCode::OK, ""));
        check("lines=1-2", (StatusCode::OK, ""));
        check("bytes=-0", (StatusCode::OK, ""));
    }

    #[test]
    fn dates_are_those_of_http() {
        let time: Timestamp = "2026-11-22T08:49:37Z".parse().unwrap();
        assert_eq!(http_date(time), "Sun, 22 Nov 2026 08:49:37 GMT");
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MODIFIED_SINCE, http_date(time).parse().unwrap());
        assert_eq!(date(&headers, header::IF_MODIFIED_SINCE), Some(time));
    }
}
