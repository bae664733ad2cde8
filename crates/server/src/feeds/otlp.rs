//! OpenTelemetry: each minute the values of all devices to a collector, as OTLP over HTTP in JSON
//! (`POST /v1/metrics`). Each device is a resource with its name as `host.name`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ureq::http::Method;
use volary_store::Message;

use super::measure::{Subject, Unit, Value};
use super::queue::{Answer, Destination};
use super::{Endpoint, check_queue, check_url, default_queue};

/// How many devices stand in one request: some 2 MB before it is packed, half of what collectors take
/// by default.
const DEVICES: usize = 500;

/// How old values may become: what a collector passes them to rarely takes older ones.
const OLDEST: Duration = Duration::from_secs(3_600);

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// Its address, without `/v1/metrics`.
    pub url: String,
    /// Its certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Headers that it wants, each with the file of its value: `authorization = "otlp.token"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub header_files: BTreeMap<String, PathBuf>,
    /// Seconds between two values of a series.
    #[serde(default = "super::default_interval")]
    pub interval: u32,
    /// MiB of messages that may wait.
    #[serde(default = "default_queue")]
    pub queue_mib: u32,
}

impl OtlpConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for name in self.header_files.keys() {
            name.parse::<ureq::http::HeaderName>()
                .map_err(|_| format!("header_files: {name:?} is no name of a header"))?;
        }
        check_url(&self.url)?;
        super::check_interval(self.interval)?;
        check_queue(self.queue_mib)
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("otlp/{name}")
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    resource_metrics: Vec<ResourceMetrics<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics<'a> {
    resource: Resource<'a>,
    scope_metrics: [ScopeMetrics<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Resource<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Debug, Serialize)]
struct ScopeMetrics<'a> {
    scope: Scope<'a>,
    metrics: Vec<Metric<'a>>,
}

#[derive(Debug, Serialize)]
struct Scope<'a> {
    name: &'a str,
    version: &'a str,
}

#[derive(Debug, Serialize)]
struct Metric<'a> {
    name: &'a str,
    unit: &'a str,
    gauge: Gauge<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Gauge<'a> {
    data_points: Vec<DataPoint<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DataPoint<'a> {
    attributes: Vec<Attribute<'a>>,
    /// 64-bit integers are texts in the JSON of protobuf.
    time_unix_nano: String,
    as_double: f64,
}

#[derive(Debug, Serialize)]
struct Attribute<'a> {
    key: &'a str,
    value: Text<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    string_value: &'a str,
}

fn attribute<'a>(key: &'a str, value: &'a str) -> Attribute<'a> {
    Attribute { key, value: Text { string_value: value } }
}

/// The messages with all values now.
pub(super) fn values(subjects: &[Subject], fleet: &str, now: Timestamp) -> Result<Vec<Vec<u8>>, String> {
    subjects.chunks(DEVICES).map(|part| message(part, fleet, now)).collect()
}

fn message(subjects: &[Subject], fleet: &str, now: Timestamp) -> Result<Vec<u8>, String> {
    let time = now.as_nanosecond().to_string();
    let resource_metrics = subjects.iter().map(|subject| {
        let mut attributes = vec![attribute("service.name", "volary"), attribute("volary.fleet", fleet)];
        attributes.extend(subject.device.as_deref().map(|name| attribute("host.name", name)));
        attributes.extend(
            subject.labels.iter().filter_map(|(name, value)| Some(attribute(of_resource(name)?, value))),
        );
        let scope = Scope { name: "volary", version: env!("CARGO_PKG_VERSION") };
        let scope_metrics = [ScopeMetrics { scope, metrics: metrics(&subject.values, &time) }];
        ResourceMetrics { resource: Resource { attributes }, scope_metrics }
    });
    let export = Export { resource_metrics: resource_metrics.collect() };
    let body = serde_json::to_vec(&export).expect("values are plain data");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let written = packed.write_all(&body).and_then(|()| packed.finish());
    written.map_err(|error| format!("cannot pack: {error}"))
}

/// The attribute of a device for a label.
fn of_resource(label: &str) -> Option<&'static str> {
    Some(match label {
        "stage" => "volary.stage",
        "release" => "volary.release",
        "type" => "volary.type",
        _ => return None,
    })
}

/// Values of one name are one metric.
fn metrics<'a>(values: &'a [Value], time: &str) -> Vec<Metric<'a>> {
    let mut metrics: Vec<Metric<'a>> = Vec::new();
    for value in values {
        let point = DataPoint {
            attributes: value.labels.iter().map(|(name, text)| attribute(name, text)).collect(),
            time_unix_nano: time.to_owned(),
            as_double: value.value,
        };
        match metrics.iter_mut().find(|metric| metric.name == value.name) {
            Some(metric) => metric.gauge.data_points.push(point),
            None => metrics.push(Metric {
                name: value.name,
                unit: match value.unit {
                    Unit::One => "1",
                    Unit::Bytes => "By",
                    Unit::Seconds => "s",
                },
                gauge: Gauge { data_points: vec![point] },
            }),
        }
    }
    metrics
}

/// What a collector says of what it took.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    #[serde(default)]
    partial_success: Option<PartialSuccess>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartialSuccess {
    /// A number, or a text of one.
    #[serde(default)]
    rejected_data_points: serde_json::Value,
    #[serde(default)]
    error_message: String,
}

impl PartialSuccess {
    fn rejected(&self) -> u64 {
        let number = &self.rejected_data_points;
        number.as_u64().or_else(|| number.as_str()?.parse().ok()).unwrap_or(0)
    }
}

/// One collector.
pub(super) struct Otlp {
    endpoint: Endpoint,
    header_files: BTreeMap<String, PathBuf>,
}

impl Otlp {
    pub(super) fn new(root: &Path, config: OtlpConfig) -> Arc<Self> {
        let endpoint = Endpoint::new(root, &config.url, config.ca_file, None);
        Arc::new(Self { endpoint, header_files: config.header_files })
    }
}

impl Destination for Otlp {
    fn hand_over(&self, message: &Message) -> Answer {
        let secret = |(name, file): (&String, &PathBuf)| Ok((name.clone(), self.endpoint.secret(file)?));
        let secrets: Result<Vec<(String, String)>, String> = self.header_files.iter().map(secret).collect();
        let secrets = match secrets {
            Ok(secrets) => secrets,
            Err(problem) => return Answer::Later(problem, None),
        };
        let mut headers = vec![("content-type", "application/json"), ("content-encoding", "gzip")];
        headers.extend(secrets.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let path = "/v1/metrics";
        let reply = match self.endpoint.send(Method::POST, path, &headers, &message.body) {
            Ok(reply) => reply,
            Err(problem) => return Answer::Later(problem, None),
        };
        let taken: Option<Taken> = serde_json::from_str(&reply.text).ok();
        let partial = taken.and_then(|taken| taken.partial_success);
        match (self.endpoint.judge(path, &reply), partial) {
            // Sent again it would be refused again, so the protocol forbids that.
            (Answer::Taken, Some(partial)) if partial.rejected() > 0 => {
                let count = partial.rejected();
                Answer::Never(format!("it rejected {count} values: {}", partial.error_message))
            }
            (answer, _) => answer,
        }
    }

    fn oldest(&self, _: &[u8]) -> Option<Duration> {
        Some(OLDEST)
    }
}
