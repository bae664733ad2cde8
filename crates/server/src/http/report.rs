//! What devices tell: reports, one or many at once. Each counts once, whatever else comes with it.

use std::io::Read;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::GzDecoder;
use volary_api::v1::device::{Outcome, Received, ReceivedBatch, RefusedReport, Report};
use volary_model::{DeviceName, StageName};
use volary_store::NewReport;

use crate::app::App;
use crate::http::auth::DeviceIdentity;
use crate::http::input::{read_body, too_large};
use crate::http::refusal::Refusal;
use crate::registry::Member;

/// The largest request with reports on the wire, and unpacked.
pub(super) const WIRE_LIMIT: usize = 1 << 20;
const UNPACKED_LIMIT: u64 = 8 << 20;

/// The most reports in one request: they are written in one transaction, which others wait for.
const BATCH: usize = 1000;

/// The longest id.
const ID_LIMIT: usize = 200;

/// `POST /device/v1/reports`.
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Received>, Refusal> {
    let text = unpack(&headers, &read_body(body, WIRE_LIMIT).await?)?;
    let report = parse(&text).map_err(Refusal::invalid)?;
    let id = report.id.clone();
    keep(&app, &member, vec![(report, text)]).await?;
    Ok(Json(Received { id }))
}

/// `POST /device/v1/reports/batch`. A report that is not understood does not keep the others out.
pub(crate) async fn batch(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ReceivedBatch>, Refusal> {
    let text = unpack(&headers, &read_body(body, WIRE_LIMIT).await?)?;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > BATCH {
        let problem = format!("{} reports in one request, and {BATCH} are taken", lines.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    let mut answer = ReceivedBatch::default();
    let mut reports = Vec::new();
    for (line, text) in (1..).zip(lines) {
        match parse(text) {
            Ok(report) => {
                answer.received.push(report.id.clone());
                reports.push((report, text.to_owned()));
            }
            Err(error) => answer.refused.push(RefusedReport { line, error }),
        }
    }
    keep(&app, &member, reports).await?;
    Ok(Json(answer))
}

fn parse(text: &str) -> Result<Report, String> {
    let report: Report =
        serde_json::from_str(text).map_err(|error| format!("this is not a report: {error}"))?;
    if report.id.is_empty() || report.id.len() > ID_LIMIT {
        return Err(format!("a report's id has 1 to {ID_LIMIT} characters"));
    }
    Ok(report)
}

/// Keeps reports with their texts, oldest first, and tells what they say of the device's stage.
async fn keep(app: &App, member: &Member, reports: Vec<(Report, String)>) -> Result<(), Refusal> {
    let view = app.view.get();
    let is_stage = |stage: &StageName| view.stage(stage).is_some();
    let before = if reports.iter().all(|(report, _)| is_stage(&report.stage)) {
        None
    } else {
        last_stage(app, &member.name).await?
    };
    let mut told = Vec::with_capacity(reports.len());
    let mut new = Vec::with_capacity(reports.len());
    for (report, text) in reports {
        let stage = is_stage(&report.stage).then(|| report.stage.clone());
        new.push(new_report(&member.name, &report, stage, text));
        told.push(report.stage);
    }
    let added = app.store.add_reports(&new, volary_host::now()).await?;
    let fresh: Vec<StageName> =
        told.into_iter().zip(&added).filter(|(_, added)| **added).map(|(stage, _)| stage).collect();
    if !fresh.is_empty() {
        stages_told(app, member, before, &fresh, is_stage).await?;
        app.nudges.devices.notify_one();
        app.nudges.rollouts.notify_one();
    }
    Ok(())
}

/// Says once that a device moved, or names a stage that is none.
async fn stages_told(
    app: &App,
    member: &Member,
    mut before: Option<StageName>,
    told: &[StageName],
    is_stage: impl Fn(&StageName) -> bool,
) -> Result<(), Refusal> {
    let mut at = member.stage.clone();
    for stage in told {
        if !is_stage(stage) {
            if before.as_ref() != Some(stage) {
                let text = format!(
                    "{} says that it follows {stage}, which is no stage in volary.yml; it stays in {at}",
                    member.name
                );
                app.event("device-stage-unknown", member.name.as_str(), &text).await;
            }
        } else if *stage != at {
            app.registry.refresh(&app.store, &member.name).await?;
            let text = format!("{} moved from {at} to {stage}", member.name);
            app.event("device-moved", member.name.as_str(), &text).await;
            at = stage.clone();
        }
        before = Some(stage.clone());
    }
    Ok(())
}

/// The stage that the device's newest report names.
async fn last_stage(app: &App, device: &DeviceName) -> Result<Option<StageName>, Refusal> {
    let last = app.store.device(device).await?.and_then(|device| device.report);
    let last = last.and_then(|text| serde_json::from_str::<Report>(&text).ok());
    Ok(last.map(|report| report.stage))
}

/// The text of a request, which may be packed.
pub(super) fn unpack(headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let bytes = match encoding {
        None | Some("identity") => body.to_vec(),
        Some("gzip") => {
            let mut bytes = Vec::new();
            GzDecoder::new(body)
                .take(UNPACKED_LIMIT + 1)
                .read_to_end(&mut bytes)
                .map_err(|_| Refusal::invalid("the body is not valid gzip"))?;
            if bytes.len() as u64 > UNPACKED_LIMIT {
                return Err(too_large(UNPACKED_LIMIT));
            }
            bytes
        }
        Some(other) => {
            let text = format!("a body cannot be encoded as {other:?}, only gzip");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
    };
    String::from_utf8(bytes).map_err(|_| Refusal::invalid("the body is not text"))
}

pub(super) fn new_report(
    device: &DeviceName,
    report: &Report,
    stage: Option<StageName>,
    body: String,
) -> NewReport {
    let good = report.convergence.as_ref().filter(|convergence| convergence.outcome == Outcome::Good);
    NewReport {
        device: device.clone(),
        converged: report.convergence.as_ref().map(|convergence| convergence.commit.clone()),
        id: report.id.clone(),
        stage,
        good_commit: report.good_commit.clone(),
        suite: good.and_then(|convergence| convergence.suite.clone()),
        convergence: report
            .convergence
            .as_ref()
            .map(|convergence| serde_json::to_string(convergence).expect("a wire type is JSON")),
        packages: report.packages.clone(),
        os: report.facts.get("os").cloned(),
        body,
    }
}
