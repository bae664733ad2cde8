//! Values, checks and events for Datadog and OpenTelemetry, held against the published forms by services
//! that take nothing else.

use std::io::Read;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use volary_api::v1::alert::{AlertState, Feed};

use crate::alerts::{Reporter, configure, wait_for_alert};
use crate::recorder::{Answer, Recorder, Request};
use crate::support::{TestServer, wait_for, write};

/// Datadog's `MetricPayload`, API v2.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricPayload {
    series: Vec<MetricSeries>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricSeries {
    metric: String,
    points: Vec<MetricPoint>,
    #[serde(default)]
    r#type: u8,
    #[serde(default)]
    resources: Vec<MetricResource>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    unit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricPoint {
    timestamp: i64,
    value: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricResource {
    r#type: String,
    name: String,
}

/// Datadog's `ServiceCheck`, API v1: tags must be there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceCheck {
    check: String,
    host_name: String,
    status: u8,
    tags: Vec<String>,
    #[serde(default)]
    message: String,
    timestamp: i64,
}

/// Datadog's `EventCreateRequest`, API v1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventCreate {
    title: String,
    text: String,
    #[serde(default)]
    tags: Vec<String>,
    alert_type: AlertType,
    priority: Priority,
    aggregation_key: String,
    date_happened: i64,
    #[serde(default)]
    host: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AlertType {
    Error,
    Warning,
    Info,
    Success,
    UserUpdate,
    Recommendation,
    Snapshot,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Priority {
    Normal,
    Low,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("{error}: {}", String::from_utf8_lossy(body)))
}

fn must(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn is_recent(timestamp: i64, oldest: i64) -> bool {
    let now = volary_host::now().as_second();
    timestamp <= now + 600 && timestamp >= now - oldest
}

/// A request of series, if Datadog would take it.
fn series(request: &Request) -> Result<MetricPayload, String> {
    must(request.header("content-encoding") == Some("zstd1"), "not packed")?;
    must(request.body.len() <= 512_000, "too large")?;
    let body = zstd::bulk::decompress(&request.body, 5_242_880).map_err(|error| error.to_string())?;
    let payload: MetricPayload = parse(&body)?;
    for series in &payload.series {
        must(series.r#type <= 3 && !series.points.is_empty() && !series.metric.is_empty(), "no series")?;
        must(series.points.iter().all(|point| is_recent(point.timestamp, 3_600)), "points too old")?;
        must(series.tags.iter().all(|tag| tag.starts_with("volary_")), "a reserved tag")?;
    }
    Ok(payload)
}

fn checks(request: &Request) -> Result<Vec<ServiceCheck>, String> {
    must(request.header("content-encoding").is_none(), "packed")?;
    let checks: Vec<ServiceCheck> = parse(&request.body)?;
    let fine = |check: &ServiceCheck| check.status <= 3 && is_recent(check.timestamp, 600);
    must(checks.iter().all(fine), "a check that is none")?;
    Ok(checks)
}

fn event(request: &Request) -> Result<EventCreate, String> {
    let event: EventCreate = parse(&request.body)?;
    must(event.text.chars().count() <= 4_000 && event.aggregation_key.len() <= 100, "too long")?;
    must(is_recent(event.date_happened, 18 * 3_600), "too old")?;
    Ok(event)
}

/// What Datadog answers.
fn datadog(request: &Request) -> Answer {
    if request.header("dd-api-key") != Some("a-key") {
        return (403, r#"{"errors":["Forbidden"]}"#.into());
    }
    let checked = match request.line.as_str() {
        "POST /api/v2/series HTTP/1.1" => series(request).map(drop),
        "POST /api/v1/check_run HTTP/1.1" => checks(request).map(drop),
        "POST /api/v1/events HTTP/1.1" => event(request).map(drop),
        line => return (404, line.to_owned()),
    };
    let json = request.header("content-type") == Some("application/json");
    match checked.and_then(|()| must(json, "not JSON")) {
        Ok(()) => (202, r#"{"errors":[]}"#.into()),
        Err(problem) => (400, format!("{{\"errors\":[{problem:?}]}}")),
    }
}

/// A server with two devices, one of which fails, that is told to feed.
fn server_with(feed: &str) -> TestServer {
    let mut server = TestServer::made();
    configure(&server, "");
    server.resume();
    Reporter::join(&server, "dev-1").good();
    Reporter::join(&server, "dev-2").fails("dns");
    wait_for_alert(&server, AlertState::Firing, 1);
    server.stop();
    let config = server.layout().config();
    let before = std::fs::read_to_string(&config).unwrap();
    write(config, format!("{before}\n{feed}\n"));
    server
}

fn feed(server: &TestServer, name: &str) -> Feed {
    let feeds: Vec<Feed> = server.admin().get("/api/v1/feeds").json();
    feeds.into_iter().find(|feed| feed.name == name).unwrap()
}

fn datadog_feed(server: &TestServer, url: &str, key: &str) -> String {
    write(server.layout().root().join("dd.key"), format!("{key}\n"));
    format!("[feeds.datadog.main]\nurl = \"{url}\"\nkey_file = \"dd.key\"")
}

fn all_series(recorder: &Recorder) -> Vec<MetricSeries> {
    recorder.told().iter().filter_map(|told| series(told).ok()).flat_map(|payload| payload.series).collect()
}

#[test]
fn datadog_gets_values_checks_and_events_also_after_it_was_away() {
    let mut recorder = Recorder::start(datadog);
    let mut server = server_with("");
    let feed_text = datadog_feed(&server, &recorder.url(), "a-key");
    let config = server.layout().config();
    write(&config, format!("{}\n{feed_text}\n", std::fs::read_to_string(&config).unwrap()));
    recorder.go_away();
    server.resume();
    Reporter::join(&server, "dev-3").fails("disk");
    wait_for_alert(&server, AlertState::Firing, 1);
    wait_for("the event waits", || (feed(&server, "datadog/main").waiting >= 3).then_some(()));
    wait_for("it fails", || feed(&server, "datadog/main").problem);
    server.stop();
    server.resume();
    recorder.come_back();
    wait_for("all is taken", || {
        let feed = feed(&server, "datadog/main");
        (feed.waiting == 0 && feed.sent >= 3).then_some(())
    });
    let record = feed(&server, "datadog/main");
    assert_eq!((record.refused, record.dropped), (0, 0), "{:?}", server.events("feed-refused"));

    let told = all_series(&recorder);
    let of = |name: &str, device: &str| {
        let mut all = told.iter();
        all.find(|series| {
            series.metric == name
                && series.resources.iter().any(|of| of.r#type == "host" && of.name == device)
        })
    };
    let good = |device| of("volary.device.good", device).unwrap().points[0].value;
    assert_eq!((good("dev-1"), good("dev-2")), (1.0, 0.0));
    let uptime = of("volary.device.uptime", "dev-1").unwrap();
    assert_eq!((uptime.unit.as_deref(), uptime.points[0].value), (Some("second"), 100.0));
    assert!(uptime.tags.contains(&"volary_stage:development".to_owned()), "{uptime:?}");
    let failed = told.iter().find(|series| {
        series.metric == "volary.devices" && series.tags.contains(&"volary_condition:failed".to_owned())
    });
    assert!((1.0..=2.0).contains(&failed.unwrap().points[0].value), "{failed:?}");

    let requests = recorder.told();
    let checked: Vec<ServiceCheck> = requests.iter().filter_map(|told| checks(told).ok()).flatten().collect();
    let state = |device: &str| checked.iter().find(|check| check.host_name == device).unwrap();
    assert_eq!((state("dev-1").status, state("dev-2").status), (0, 2));
    assert_eq!(state("dev-2").message, "check \"dns\": no answer");
    assert_eq!((state("dev-1").check.as_str(), state("dev-1").tags.len()), ("volary.device", 1));

    let event = requests.iter().find_map(|told| event(told).ok()).unwrap();
    assert_eq!(event.title, "began: dev-3: check disk, rolling, stage development");
    assert_eq!((event.alert_type, event.host.as_deref()), (AlertType::Error, Some("dev-3")));
    assert!(matches!(event.priority, Priority::Normal) && event.text.contains("no answer"));
    assert!(event.tags.contains(&"volary_rule:device-failed".to_owned()), "{event:?}");
}

#[test]
fn datadog_may_find_a_request_too_large_or_too_early_or_the_key_wrong() {
    let is_early = std::sync::atomic::AtomicBool::new(true);
    let recorder = Recorder::start(move |request| {
        let answer = datadog(request);
        match series(request) {
            // The first comes too early, and more than five in one are too many.
            Ok(_) if answer.0 == 202 && is_early.swap(false, std::sync::atomic::Ordering::SeqCst) => {
                (429, String::new())
            }
            Ok(payload) if answer.0 == 202 && payload.series.len() > 5 => (413, String::new()),
            _ => answer,
        }
    });
    let mut server = server_with("");
    let feed_text = datadog_feed(&server, &recorder.url(), "another");
    let config = server.layout().config();
    write(&config, format!("{}\n{feed_text}\n", std::fs::read_to_string(&config).unwrap()));
    server.resume();
    wait_for("the key is refused", || {
        feed(&server, "datadog/main").problem.filter(|problem| problem.contains("answers 403"))
    });
    write(server.layout().root().join("dd.key"), "a-key\n");
    wait_for("all is taken", || (feed(&server, "datadog/main").waiting == 0).then_some(()));
    let record = feed(&server, "datadog/main");
    assert_eq!((record.refused, record.dropped), (0, 0), "{:?}", server.events("feed-refused"));
    let small = |payload: &MetricPayload| payload.series.len() <= 5;
    let taken = recorder.told().iter().filter_map(|told| series(told).ok()).filter(small).count();
    assert!(taken > 1, "it was shared out");
}

/// OTLP's `ExportMetricsServiceRequest`, as far as gauges need it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ExportMetrics {
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ResourceMetrics {
    resource: Resource,
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Resource {
    attributes: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ScopeMetrics {
    scope: Scope,
    metrics: Vec<Metric>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Scope {
    name: String,
    version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Metric {
    name: String,
    unit: String,
    gauge: Gauge,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Gauge {
    data_points: Vec<NumberDataPoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NumberDataPoint {
    attributes: Vec<KeyValue>,
    /// A fixed64 is a text in the JSON of protobuf.
    time_unix_nano: String,
    as_double: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeyValue {
    key: String,
    value: AnyValue,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AnyValue {
    string_value: String,
}

impl ResourceMetrics {
    fn attribute(&self, key: &str) -> Option<&str> {
        let mut all = self.resource.attributes.iter();
        all.find(|attribute| attribute.key == key).map(|attribute| attribute.value.string_value.as_str())
    }
}

fn exported(request: &Request) -> Result<ExportMetrics, String> {
    must(request.line == "POST /v1/metrics HTTP/1.1", &request.line)?;
    must(request.header("content-type") == Some("application/json"), "not JSON")?;
    must(request.header("content-encoding") == Some("gzip"), "not packed")?;
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(request.body.as_slice())
        .read_to_end(&mut body)
        .map_err(|error| error.to_string())?;
    let export: ExportMetrics = parse(&body)?;
    for metrics in export.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics) {
        must(metrics.scope.name == "volary" && !metrics.scope.version.is_empty(), "no scope")?;
        for metric in &metrics.metrics {
            must(["1", "By", "s"].contains(&metric.unit.as_str()), "no unit")?;
            let times = metric.gauge.data_points.iter().map(|point| point.time_unix_nano.parse::<u64>());
            must(times.into_iter().all(|time| time.is_ok()), "no time")?;
        }
    }
    Ok(export)
}

#[test]
fn opentelemetry_gets_values_also_after_it_was_away() {
    let mut recorder = Recorder::start(|request| {
        if request.header("authorization") != Some("Bearer it") {
            return (401, String::new());
        }
        exported(request).map_or_else(|problem| (400, problem), |_| (200, "{}".into()))
    });
    let mut server = server_with(&format!(
        "[feeds.otlp.main]\nurl = \"{}\"\nheader_files = {{ authorization = \"otlp.token\" }}",
        recorder.url()
    ));
    write(server.layout().root().join("otlp.token"), "Bearer it\n");
    recorder.go_away();
    server.resume();
    wait_for("it fails", || feed(&server, "otlp/main").problem);
    server.stop();
    server.resume();
    recorder.come_back();
    wait_for("all is taken", || {
        let feed = feed(&server, "otlp/main");
        (feed.waiting == 0 && feed.sent >= 2).then_some(())
    });
    let record = feed(&server, "otlp/main");
    assert_eq!((record.refused, record.dropped), (0, 0), "{:?}", server.events("feed-refused"));
    let told = recorder.told();
    let exports: Vec<ExportMetrics> = told.iter().filter_map(|told| exported(told).ok()).collect();
    let mut resources = exports.iter().flat_map(|export| &export.resource_metrics);
    let device = resources.find(|resource| resource.attribute("host.name") == Some("dev-2")).unwrap();
    assert_eq!(device.attribute("volary.stage"), Some("development"));
    let metrics = &device.scope_metrics[0].metrics;
    let failed = metrics.iter().find(|metric| metric.name == "volary.device.checks.failed").unwrap();
    assert_eq!(failed.gauge.data_points[0].as_double, 1.0);
    let fleet = exports[0].resource_metrics.iter().find(|of| of.attribute("host.name").is_none()).unwrap();
    let counts = &fleet.scope_metrics[0].metrics[0];
    assert_eq!((counts.name.as_str(), counts.gauge.data_points[0].attributes.len()), ("volary.devices", 2));
}

#[test]
fn what_a_collector_rejects_is_counted_and_not_sent_again() {
    let recorder = Recorder::start(|_| {
        let answer = r#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"too many"}}"#;
        (200, answer.into())
    });
    let mut server = server_with(&format!("[feeds.otlp.main]\nurl = \"{}\"", recorder.url()));
    server.resume();
    wait_for("it is counted", || (feed(&server, "otlp/main").refused == 1).then_some(()));
    wait_for("the event", || {
        server.events("feed-refused").into_iter().find(|text| text.contains("it rejected 3 values: too many"))
    });
    assert_eq!(recorder.told().len(), 1);
}
