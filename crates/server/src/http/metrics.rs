//! Measurements: what devices send, and what people ask for.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::device::{ReceivedBatch, RefusedReport};
use volary_api::v1::metrics::{DeviceMetrics, JournalLine, LatestValue, Samples, SeriesPoints};
use volary_model::{DeviceName, SeriesName};
use volary_store::{AppendError, NewBatch, NewSamples};

use crate::app::App;
use crate::http::auth::{DeviceIdentity, Viewer};
use crate::http::fleet::no_device;
use crate::http::input::{Path, Query, blocking, name, read_body};
use crate::http::refusal::Refusal;
use crate::http::report::{WIRE_LIMIT, unpack};
use crate::measurements::{accept, thinned};

/// The most lines in one request.
const LINES: usize = 1000;

/// Bytes on the wire that are read on the spot; more would hold up others.
const QUICK: usize = 16 << 10;

/// The most points in an answer.
const POINTS: usize = 100_000;

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, error),
            AppendError::Failed(_) => Self::broken(error),
        }
    }
}

/// `POST /device/v1/metrics`. A line that is not understood does not keep the others out.
pub(crate) async fn receive(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ReceivedBatch>, Refusal> {
    let body = read_body(body, WIRE_LIMIT).await?;
    let now = volary_host::now();
    let is_quick = body.len() <= QUICK;
    let work = move || parse(&unpack(&headers, &body)?, now);
    let (answer, samples) = if is_quick { work()? } else { blocking(work).await?? };
    if !samples.is_empty() {
        let batch = NewBatch { device: member.name.clone(), received: now, samples };
        let appended = app.series.append(batch).await?;
        if appended.left_out > 0 {
            tracing::debug!(device = %member.name, points = appended.left_out, "too many series");
        }
    }
    Ok(Json(answer))
}

fn parse(text: &str, now: Timestamp) -> Result<(ReceivedBatch, Vec<NewSamples>), Refusal> {
    let mut answer = ReceivedBatch::default();
    let mut kept = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if line as usize > LINES {
            let problem = format!("one request has more than the {LINES} lines that are taken");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
        }
        let samples = serde_json::from_str::<Samples>(text)
            .map_err(|error| format!("these are no measurements: {error}"))
            .and_then(|samples| accept(samples, now));
        match samples {
            Ok(samples) => {
                answer.received.push(samples.id.clone());
                kept.push(samples);
            }
            Err(error) => answer.refused.push(RefusedReport { line, error }),
        }
    }
    Ok((answer, kept))
}

/// `GET /api/v1/devices/{name}/metrics`.
pub(crate) async fn latest(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(device): Path<String>,
) -> Result<Json<DeviceMetrics>, Refusal> {
    let device: DeviceName = name(&device)?;
    app.store.device(&device).await?.ok_or_else(|| no_device(&device))?;
    let mut metrics = DeviceMetrics::of(device.clone());
    if let Some(latest) = app.series.latest(&device)? {
        metrics.received_at = Some(latest.received);
        metrics.errors_left_out = latest.errors_left_out;
        metrics.points_left_out = latest.left_out;
        let value = |value: volary_store::Value| {
            Some(LatestValue { series: value.series.parse().ok()?, at: value.at, value: value.value })
        };
        metrics.values = latest.values.into_iter().filter_map(value).collect();
    }
    Ok(Json(metrics))
}

/// How much is asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ErrorsQuery {
    /// How many at most: 50 if nothing is said, and no more than 1000.
    limit: Option<u32>,
}

/// `GET /api/v1/devices/{name}/errors`.
pub(crate) async fn errors(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(device): Path<String>,
    Query(query): Query<ErrorsQuery>,
) -> Result<Json<Vec<JournalLine>>, Refusal> {
    let device: DeviceName = name(&device)?;
    app.store.device(&device).await?.ok_or_else(|| no_device(&device))?;
    let lines = app.series.errors(&device, query.limit.unwrap_or(50).min(1000)).await?;
    let line = |line: volary_store::JournalLine| JournalLine {
        at: line.at,
        priority: line.priority,
        unit: line.unit,
        message: line.message,
    };
    Ok(Json(lines.into_iter().map(line).collect()))
}

/// Which time, and how fine.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RangeQuery {
    /// From when; a day before the end if nothing is said.
    from: Option<Timestamp>,
    /// Until when; until now if nothing is said.
    to: Option<Timestamp>,
    /// The least number of seconds between two points; 0 for all that there are.
    #[serde(default)]
    step: u32,
}

/// `GET /api/v1/devices/{name}/metrics/{series}`: the series of this name, or all whose name without labels
/// it is.
pub(crate) async fn points(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path((device, series)): Path<(String, String)>,
    Query(query): Query<RangeQuery>,
) -> Result<Json<Vec<SeriesPoints>>, Refusal> {
    let device: DeviceName = name(&device)?;
    let series: SeriesName = name(&series)?;
    app.store.device(&device).await?.ok_or_else(|| no_device(&device))?;
    let to = query.to.unwrap_or_else(volary_host::now);
    let from = query.from.unwrap_or(to - SignedDuration::from_hours(24));
    if from > to {
        return Err(Refusal::invalid(format!("from {from} is after to {to}")));
    }
    let is_wanted = |name: &str| {
        name == series.as_str()
            || name.strip_prefix(series.as_str()).is_some_and(|rest| rest.starts_with('{'))
    };
    let found = app.series.ranges(&device, is_wanted, from, to, query.step).await?;
    let boots = app.series.boots(&device, from, to).await?;
    let mut answer = Vec::new();
    for (name, points) in found {
        let Ok(series) = name.parse::<SeriesName>() else { continue };
        let points = thinned(&points, query.step, series.is_counter());
        answer.push(SeriesPoints { series, points, boots: boots.clone() });
    }
    if answer.iter().map(|series| series.points.len()).sum::<usize>() > POINTS {
        return Err(Refusal::invalid(format!("these are more than {POINTS} points"))
            .help("ask for fewer series, a shorter time, or a larger step"));
    }
    if answer.is_empty() {
        return Err(Refusal::not_found(format!("{device} has no {series} between {from:.0} and {to:.0}"))
            .help(format!("see what it has with: volary metrics {device}")));
    }
    Ok(Json(answer))
}
