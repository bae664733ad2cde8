//! What Prometheus asks: the server's own numbers, those of devices, and where to ask for them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_plan::condition::Condition;

use crate::app::App;
use crate::feeds::prometheus::{PREFIX, Page, Shard, Target, is_told, labels_text, parts, targets};
use crate::http::auth::Viewer;
use crate::http::input::{Query, blocking};
use crate::http::refusal::Refusal;

/// What Prometheus calls its text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Clock ticks of `/proc` in a second: Linux has told programs 100 for ever.
const TICKS: f64 = 100.0;

/// Which part.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct MetricsQuery {
    /// A part of the devices, as in `2/4`; all if nothing is said.
    shard: Option<String>,
}

/// `GET /metrics`.
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<MetricsQuery>,
    headers: HeaderMap,
) -> Result<([(HeaderName, HeaderValue); 2], Body), Refusal> {
    let shard = query.shard.as_deref().map(|text| {
        Shard::parse(text).ok_or_else(|| {
            Refusal::invalid(format!("{text:?} is no part of the devices"))
                .help("write shard=1/4, up to shard=4/4")
        })
    });
    let shard = shard.transpose()?;
    let size = app.series.file_size().await?;
    let accepts = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let packed = accepts.is_some_and(|value| value.contains("gzip"));
    let body = blocking(move || {
        let text = page(&app, shard, size);
        if !packed {
            return Ok(text.into_bytes());
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish())
    });
    let body = body.await?.map_err(Refusal::broken)?;
    let encoding = HeaderValue::from_static(if packed { "gzip" } else { "identity" });
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(TEXT)), (header::CONTENT_ENCODING, encoding)];
    Ok((headers, Body::from(body)))
}

/// `GET /prometheus/sd`.
pub(crate) async fn discovery(State(app): State<Arc<App>>, Viewer(_): Viewer) -> Json<Vec<Target>> {
    let mut series = 0;
    app.series.for_each_latest(|_, latest| series += latest.values().count());
    Json(targets(&app.url, parts(series)))
}

fn page(app: &App, shard: Option<Shard>, size: u64) -> String {
    let mut text = String::new();
    if shard.is_none_or(Shard::is_first) {
        text.push_str(&own(app, size).text(""));
    }
    let now = volary_host::now();
    let standings = app.standings.get();
    let mut page = Page::default();
    let in_shard = |device: &_| shard.is_none_or(|shard| shard.has(device));
    for (device, standing) in standings.iter().filter(|(device, _)| in_shard(device)) {
        let of = labels_text(device, standing);
        if let Some(seen) = standing.seen_at.max(app.registry.last_seen(device)) {
            page.add_value("last_seen_timestamp_seconds", &of, seen.as_second() as f64);
        }
        page.add_value("good", &of, f64::from(u8::from(standing.condition == Condition::Good)));
    }
    app.series.for_each_latest(|device, latest| {
        let Some(standing) = standings.get(device).filter(|_| in_shard(device)) else { return };
        let of = labels_text(device, standing);
        for value in latest.values().filter(|value| is_told(standing, value.at, now)) {
            page.add_value(&value.series, &of, value.value);
        }
    });
    text.push_str(&page.text(PREFIX));
    text
}

/// The server's own numbers.
fn own(app: &App, size: u64) -> Page {
    let mut page = Page::default();
    page.add("volary_build_info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1.0);
    let mut devices: BTreeMap<(String, String), u64> = BTreeMap::new();
    for standing in app.standings.get().values() {
        let stage = standing.stage.as_ref().map_or_else(String::new, |stage| stage.to_string());
        let condition = serde_json::to_value(standing.condition).expect("a word is JSON");
        *devices.entry((stage, condition.as_str().unwrap_or_default().to_owned())).or_default() += 1;
    }
    for ((stage, condition), count) in devices {
        page.add("volary_devices", &format!("stage=\"{stage}\",condition=\"{condition}\""), count as f64);
    }
    let stats = app.series.stats();
    page.add("volary_metrics_devices", "", stats.devices as f64);
    page.add("volary_metrics_series_names", "", stats.names as f64);
    page.add("volary_metrics_requests_total", "", stats.requests as f64);
    page.add("volary_metrics_points_total", "", stats.points as f64);
    page.add("volary_metrics_points_left_out_total", "", stats.left_out as f64);
    page.add("volary_metrics_requests_refused_total", "", stats.refused as f64);
    page.add("volary_metrics_commits_total", "", stats.commits as f64);
    page.add("volary_metrics_blocks_total", "", stats.blocks as f64);
    page.add("volary_metrics_file_bytes", "", size as f64);
    page.add("volary_metrics_history_reading", "", f64::from(u8::from(app.series.is_reading())));
    for (name, feed) in app.remote_writes.counts() {
        let labels = format!("feed=\"{name}\"");
        page.add("volary_remote_write_points_total", &labels, feed.sent as f64);
        page.add("volary_remote_write_points_dropped_total", &labels, feed.dropped as f64);
        page.add("volary_remote_write_failures_total", &labels, feed.failures as f64);
    }
    let stat = volary_host::read_to_string(Path::new("/proc/self/stat")).unwrap_or_default();
    // The second field, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    page.add("process_cpu_seconds_total", "", (field(11) + field(12)) / TICKS);
    let status = volary_host::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    let kib = resident.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
    page.add("process_resident_memory_bytes", "", kib * 1024.0);
    page
}
