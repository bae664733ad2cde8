//! The page of a device: what it runs, why, how its convergences ended, and its measurements.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use volary_api::v1::device::{Outcome, Report};
use volary_model::{DeviceName, is_counter};
use volary_plan::text;

use super::view::{DeviceRow, ago, bytes, device_row};
use super::{Head, page};
use crate::app::App;
use crate::http::fleet::no_device;
use crate::http::input::name;
use crate::http::refusal::Refusal;
use crate::measurements::thinned;

/// How many convergences are shown.
const RESULTS: u32 = 30;

/// How many journal lines are shown.
const ERRORS: u32 = 30;

/// How many series are drawn at most.
const CHARTS: usize = 60;

/// How many points a chart has at most: one a pixel is enough.
const POINTS: u32 = 300;

/// The size of a chart in its own units.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 64.0;

/// Over which time.
#[derive(Deserialize)]
pub(crate) struct Span {
    /// Hours back.
    #[serde(default = "a_day")]
    hours: u32,
}

fn a_day() -> u32 {
    24
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    head: Head,
    stage: String,
    device: DeviceRow,
    results: Vec<Ended>,
    hours: u32,
    spans: Vec<(u32, &'static str)>,
    /// True while measurements from before the start are read.
    is_reading: bool,
    charts: Vec<Chart>,
    errors: Vec<ErrorRow>,
}

struct Ended {
    tone: &'static str,
    word: &'static str,
    when: String,
    commit: String,
    suite: String,
    text: String,
    packages: Vec<String>,
}

struct Chart {
    name: String,
    now: String,
    least: String,
    most: String,
    /// The path of its line.
    line: String,
}

struct ErrorRow {
    at: String,
    unit: String,
    message: String,
}

/// `GET /devices/{name}?hours=N`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Path(device): Path<String>,
    Query(span): Query<Span>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let device: DeviceName = name(&device)?;
        let judged = app.device(&device).await?.ok_or_else(|| no_device(&device))?;
        let now = volary_host::now();
        let stage = judged.record.stage.as_ref().map(ToString::to_string).unwrap_or_default();
        let results = app.store.results(&device, RESULTS).await?;
        let hours = span.hours.clamp(1, 24 * 400);
        let errors = app.series.errors(&device, ERRORS).await?;
        let is_reading = app.series.is_reading();
        let shown = DevicePage {
            head,
            stage,
            device: device_row(&judged.into_api(), now),
            results: results
                .iter()
                .filter_map(|stored| ended(&stored.body, stored.received_at, now))
                .collect(),
            hours,
            spans: vec![(1, "1 h"), (24, "1 d"), (168, "7 d"), (720, "30 d")],
            is_reading,
            charts: if is_reading { Vec::new() } else { charts(&app, &device, hours, now).await? },
            errors: errors
                .into_iter()
                .map(|line| ErrorRow {
                    at: line.at.strftime("%F %T").to_string(),
                    unit: line.unit,
                    message: line.message,
                })
                .collect(),
        };
        Ok(shown.render())
    })
    .await
}

fn ended(body: &str, received: Timestamp, now: Timestamp) -> Option<Ended> {
    let report: Report = serde_json::from_str(body).ok()?;
    let convergence = report.convergence?;
    let (tone, word) = match (convergence.outcome, &convergence.reverted) {
        (_, Some(_)) => ("bad", "reverted"),
        (Outcome::Good, None) => ("good", "good"),
        (Outcome::Failed, None) => ("bad", "failed"),
        (Outcome::Refused, None) => ("bad", "refused"),
        (Outcome::Unknown, None) => ("off", "unknown"),
    };
    let took =
        Duration::try_from(convergence.ended_at.duration_since(convergence.started_at)).unwrap_or_default();
    let why =
        convergence.failure.map(|failure| format!("{} {}: {}", failure.step, failure.what, failure.message));
    let changed = text::count(convergence.changed_tasks as usize, "task");
    Some(Ended {
        tone,
        word,
        when: format!("{} ago, in {}", ago(received, now), text::duration(took)),
        commit: convergence.commit.short().to_owned(),
        suite: convergence.suite.unwrap_or_default(),
        text: why.unwrap_or_else(|| format!("{changed} changed something")),
        packages: convergence
            .packages
            .iter()
            .map(|(name, (before, after))| {
                let word =
                    |version: &str| if version.is_empty() { "none".to_owned() } else { version.to_owned() };
                format!("{name} {} to {}", word(before), word(after))
            })
            .collect(),
    })
}

async fn charts(app: &App, device: &DeviceName, hours: u32, now: Timestamp) -> Result<Vec<Chart>, Refusal> {
    let from = now - SignedDuration::from_hours(hours.into());
    let step = hours * 3600 / POINTS;
    let mut charts = Vec::new();
    let mut names: Vec<_> = app.series.series_of(device)?;
    names.sort_by_key(|series| (rank(series), Arc::clone(series)));
    for series in names.into_iter().take(CHARTS) {
        let points = app.series.range(device, &series, from, now).await?;
        let points = thinned(&points, step, is_counter(&series));
        let points = if is_counter(&series) { per_second(&points) } else { points };
        charts.extend(chart(&series, &points, from, now));
    }
    Ok(charts)
}

/// What a person looks for first.
fn rank(series: &str) -> usize {
    const FIRST: [&str; 8] = [
        "memory_available_bytes",
        "cpu_seconds_total",
        "load1",
        "disk_free_bytes",
        "unit_memory_bytes",
        "unit_restarts_total",
        "network_",
        "temperature_",
    ];
    FIRST.iter().position(|name| series.starts_with(name)).unwrap_or(FIRST.len())
}

/// How fast a counter rises; where it fell, it began anew.
fn per_second(points: &[(Timestamp, f64)]) -> Vec<(Timestamp, f64)> {
    let pairs = points.iter().zip(points.iter().skip(1));
    pairs
        .filter_map(|((before, low), (at, high))| {
            let seconds = at.duration_since(*before).as_secs_f64();
            (seconds > 0.0 && high >= low).then_some((*at, (high - low) / seconds))
        })
        .collect()
}

fn chart(series: &str, points: &[(Timestamp, f64)], from: Timestamp, until: Timestamp) -> Option<Chart> {
    let last = points.last()?.1;
    let (least, most) = points
        .iter()
        .fold((f64::MAX, f64::MIN), |(least, most), (_, value)| (least.min(*value), most.max(*value)));
    let whole = until.duration_since(from).as_secs_f64().max(1.0);
    let height = if most > least { most - least } else { 1.0 };
    let mut line = String::new();
    let mut before: Option<f64> = None;
    for (at, value) in points {
        let x = (at.duration_since(from).as_secs_f64() / whole * WIDTH).clamp(0.0, WIDTH);
        let y = if most > least {
            HEIGHT - 2.0 - (value - least) / height * (HEIGHT - 4.0)
        } else {
            HEIGHT / 2.0
        };
        // A gap of a tenth of the time is one that a person should see.
        let step = if before.is_some_and(|before| x - before < WIDTH / 10.0) { 'L' } else { 'M' };
        write!(line, "{step}{x:.1} {y:.1}").expect("a string takes all text");
        before = Some(x);
    }
    let show = |value| shown(series, value);
    Some(Chart { name: series.to_owned(), now: show(last), least: show(least), most: show(most), line })
}

fn shown(series: &str, value: f64) -> String {
    let name = series.split('{').next().unwrap_or(series);
    let (base, each) = name.strip_suffix("_total").map_or((name, ""), |base| (base, "/s"));
    if base.ends_with("_bytes") && value >= 0.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        return format!("{}{each}", bytes(value as u64));
    }
    let digits = if value.fract() == 0.0 || value.abs() >= 1000.0 { 0 } else { 3 };
    let unit = match base {
        _ if base.ends_with("_celsius") => " °C",
        _ if base.ends_with("_seconds") => " s",
        _ => "",
    };
    let text = format!("{value:.digits$}");
    // A small negative number is no less than nothing.
    let text = if text.trim_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text };
    format!("{text}{unit}{each}")
}
