//! Datadog: each minute the values of all devices as gauges (`POST /api/v2/series`) and their state as
//! service checks (`/api/v1/check_run`), and each change of an alert as an event (`/api/v1/events`).
//!
//! What is sent keeps to the published limits: a request of series is at most 512,000 bytes packed and
//! 5 MiB unpacked, points are at most an hour old, checks ten minutes, events eighteen hours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use ureq::http::Method;
use volary_plan::alert::{AlertState, Change, Severity, details, sentence};
use volary_plan::condition::Condition;
use volary_store::{DeviceState, Message};

use super::measure::{Subject, Unit};
use super::queue::{Answer, Destination};
use super::{Endpoint, News, check_queue, check_url, default_queue};
use crate::facts::Judged;

/// What a request of series may be at most, unpacked and packed; a little less than published, since
/// both count what surrounds it as well.
const UNPACKED: usize = 5_200_000;
const PACKED: usize = 510_000;

/// How old points, checks and events may be, with some time for their way.
const OLDEST_SERIES: Duration = Duration::from_secs(3_500);
const OLDEST_CHECKS: Duration = Duration::from_secs(540);
const OLDEST_EVENT: Duration = Duration::from_secs(17 * 3_600);

/// What a request of checks may be at most. None is published; that of series is safe.
const CHECKS: usize = 500_000;

/// Lengths of an event's title, text and key, in characters. That of the title is v2's; v1 has none.
const TITLE: usize = 500;
const TEXT: usize = 4_000;
const KEY: usize = 100;

/// The longest message of a check.
const MESSAGE: usize = 500;

/// The type of a gauge.
const GAUGE: u8 = 3;

/// A Datadog organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatadogConfig {
    /// Its site: `datadoghq.com`, `datadoghq.eu`, `us5.datadoghq.com`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The address of the API, if it is not `https://api.SITE`: of a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The file with the API key.
    pub key_file: PathBuf,
    /// Seconds between two values of a series.
    #[serde(default = "super::default_interval")]
    pub interval: u32,
    /// MiB of messages that may wait.
    #[serde(default = "default_queue")]
    pub queue_mib: u32,
}

impl DatadogConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.site, &self.url) {
            (Some(site), None) if site.contains('/') => {
                return Err(format!("site {site:?} is no site; write datadoghq.eu, without https://"));
            }
            (Some(_), None) => {}
            (None, Some(url)) => check_url(url)?,
            _ => return Err("name the site (datadoghq.com, datadoghq.eu, …), or the url of a proxy".into()),
        }
        super::check_interval(self.interval)?;
        check_queue(self.queue_mib)
    }

    fn address(&self) -> String {
        match (&self.url, &self.site) {
            (Some(url), _) => url.clone(),
            (None, site) => format!("https://api.{}", site.as_deref().unwrap_or_default()),
        }
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("datadog/{name}")
}

#[derive(Debug, Serialize)]
struct Series<'a> {
    metric: &'a str,
    r#type: u8,
    points: [Point; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<Resource<'a>>,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Point {
    timestamp: i64,
    value: f64,
}

#[derive(Debug, Serialize)]
struct Resource<'a> {
    r#type: &'a str,
    name: &'a str,
}

#[derive(Debug, Serialize)]
struct Check<'a> {
    check: &'a str,
    host_name: &'a str,
    status: u8,
    tags: Vec<String>,
    message: String,
    timestamp: i64,
}

#[derive(Debug, Serialize)]
struct Event {
    title: String,
    text: String,
    tags: Vec<String>,
    alert_type: &'static str,
    priority: &'static str,
    aggregation_key: String,
    date_happened: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

/// What a message is; its first byte in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Series,
    Checks,
    Event,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Series, Self::Checks, Self::Event];

    const fn byte(self) -> u8 {
        match self {
            Self::Series => b's',
            Self::Checks => b'c',
            Self::Event => b'e',
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Series => "/api/v2/series",
            Self::Checks => "/api/v1/check_run",
            Self::Event => "/api/v1/events",
        }
    }

    /// A message's kind and packed body.
    fn of(message: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = message.split_first()?;
        Some((Self::ALL.into_iter().find(|kind| kind.byte() == *first)?, rest))
    }

    fn message(self, packed: &[u8]) -> Vec<u8> {
        [&[self.byte()], packed].concat()
    }
}

/// The messages with all values and checks now.
pub(super) fn values(
    subjects: &[Subject],
    devices: &[Judged],
    now: Timestamp,
) -> Result<Vec<Vec<u8>>, String> {
    let mut series = Vec::new();
    for subject in subjects {
        for value in &subject.values {
            let one = Series {
                metric: value.name,
                r#type: GAUGE,
                points: [Point { timestamp: now.as_second(), value: value.value }],
                resources: subject.device.iter().map(|name| Resource { r#type: "host", name }).collect(),
                tags: tags(subject.labels.iter().chain(&value.labels)),
                unit: match value.unit {
                    Unit::One => None,
                    Unit::Bytes => Some("byte"),
                    Unit::Seconds => Some("second"),
                },
            };
            series.push(serde_json::to_string(&one).expect("a series is plain data"));
        }
    }
    let mut messages = Vec::new();
    pack_series(&series, &mut messages)?;
    let checks: Vec<String> = devices
        .iter()
        .filter(|device| device.record.state == DeviceState::Accepted)
        .map(|device| serde_json::to_string(&check(device, now)).expect("a check is plain data"))
        .collect();
    for part in parts(&checks, CHECKS) {
        let packed = pack(format!("[{}]", part.join(",")).as_bytes())?;
        messages.push(Kind::Checks.message(&packed));
    }
    Ok(messages)
}

/// Packs series into as few requests as the limits allow.
fn pack_series(series: &[String], messages: &mut Vec<Vec<u8>>) -> Result<(), String> {
    for part in parts(series, UNPACKED) {
        let packed = pack(format!("{{\"series\":[{}]}}", part.join(",")).as_bytes())?;
        if packed.len() > PACKED && part.len() > 1 {
            let (first, second) = part.split_at(part.len() / 2);
            pack_series(first, messages)?;
            pack_series(second, messages)?;
        } else {
            messages.push(Kind::Series.message(&packed));
        }
    }
    Ok(())
}

/// Consecutive parts of at most so many bytes, commas included.
fn parts(items: &[String], most: usize) -> Vec<&[String]> {
    let (mut parts, mut begin, mut size) = (Vec::new(), 0, 0);
    for (at, item) in items.iter().enumerate() {
        if size + item.len() + 1 > most && at > begin {
            parts.push(&items[begin..at]);
            (begin, size) = (at, 0);
        }
        size += item.len() + 1;
    }
    if begin < items.len() {
        parts.push(&items[begin..]);
    }
    parts
}

fn pack(body: &[u8]) -> Result<Vec<u8>, String> {
    zstd::bulk::compress(body, 3).map_err(|error| format!("cannot pack: {error}"))
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    zstd::bulk::decompress(packed, 8 << 20).map_err(|error| format!("cannot unpack: {error}"))
}

/// Tags with a prefix: some keys, such as `host` and `service`, have a meaning of their own there.
fn tags<'a>(labels: impl Iterator<Item = &'a (&'static str, String)>) -> Vec<String> {
    labels.map(|(name, value)| format!("volary_{name}:{value}")).collect()
}

fn check(device: &Judged, now: Timestamp) -> Check<'_> {
    let status = match device.condition {
        Condition::Good | Condition::Converging => 0,
        Condition::Failed => match device.firing.as_ref().map(|firing| firing.severity) {
            Some(Severity::Warning) => 1,
            Some(Severity::Critical) | None => 2,
        },
        Condition::Refused | Condition::Silent => 2,
        Condition::New | Condition::Waiting | Condition::Rejected => 3,
    };
    let stage = device.record.stage.iter().map(|stage| format!("volary_stage:{stage}"));
    Check {
        check: "volary.device",
        host_name: device.record.name.as_str(),
        status,
        tags: stage.collect(),
        message: cut(&device.reason, MESSAGE),
        timestamp: now.as_second(),
    }
}

/// The message that tells of an alert.
pub(super) fn event(news: &News<'_>) -> Vec<u8> {
    let alert = news.alert;
    let heard: Vec<_> = match alert.state {
        AlertState::Pending | AlertState::Firing => alert.heard(news.silences, news.now).collect(),
        AlertState::Resolved => alert.devices.iter().collect(),
    };
    let labels: BTreeMap<&str, &str> =
        alert.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut tags: Vec<String> = labels.iter().map(|(name, value)| format!("volary_{name}:{value}")).collect();
    tags.extend([format!("volary_rule:{}", alert.rule), format!("volary_fleet:{}", news.fleet)]);
    let what = sentence(alert, heard.iter().copied());
    let event = Event {
        title: cut(&format!("{}: {what}", news.change.as_str()), TITLE),
        host: match heard.as_slice() {
            [(only, _)] => Some(only.to_string()),
            _ => None,
        },
        text: cut(&details(heard.into_iter(), 30).join("\n"), TEXT),
        tags,
        alert_type: match (news.change, alert.severity) {
            (Change::Resolved, _) => "success",
            (_, Severity::Warning) => "warning",
            (_, Severity::Critical) => "error",
        },
        priority: "normal",
        aggregation_key: cut(&format!("volary-{}-{}", news.fleet, alert.id), KEY),
        date_happened: news.now.as_second(),
    };
    let body = serde_json::to_vec(&event).expect("an event is plain data");
    Kind::Event.message(&body)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// One organisation.
pub(super) struct Datadog {
    endpoint: Endpoint,
    key_file: PathBuf,
}

impl Datadog {
    pub(super) fn new(root: &Path, config: DatadogConfig) -> Arc<Self> {
        let endpoint = Endpoint::new(root, &config.address(), config.ca_file, None);
        Arc::new(Self { endpoint, key_file: config.key_file })
    }

    fn send(&self, kind: Kind, key: &str, body: &[u8], is_packed: bool) -> Answer {
        let mut headers = vec![("dd-api-key", key), ("content-type", "application/json")];
        if is_packed {
            headers.push(("content-encoding", "zstd1"));
        }
        let path = kind.path();
        match self.endpoint.send(Method::POST, path, &headers, body) {
            Ok(reply) if reply.status == 413 => {
                self.send_halves(kind, key, body, is_packed, || self.endpoint.problem(path, &reply))
            }
            Ok(reply) => self.endpoint.judge(path, &reply),
            Err(problem) => Answer::Later(problem, None),
        }
    }

    /// What is too large for it is sent in two parts. If the second does not get through, both come
    /// again: the same point twice is one point.
    fn send_halves(
        &self,
        kind: Kind,
        key: &str,
        body: &[u8],
        is_packed: bool,
        problem: impl Fn() -> String,
    ) -> Answer {
        let whole = if is_packed { unpack(body) } else { Ok(body.to_vec()) };
        let halves = whole.and_then(|whole| halves(kind, &whole));
        let halves = match halves {
            Ok(Some(halves)) => halves,
            Ok(None) => return Answer::Never(problem()),
            Err(problem) => return Answer::Never(problem),
        };
        for half in halves {
            let half = if is_packed { pack(&half) } else { Ok(half) };
            let answer = match half {
                Ok(half) => self.send(kind, key, &half, is_packed),
                Err(problem) => Answer::Never(problem),
            };
            if answer != Answer::Taken {
                return answer;
            }
        }
        Answer::Taken
    }
}

/// A body as two of half the length; `None` if it cannot be shared out.
fn halves(kind: Kind, body: &[u8]) -> Result<Option<[Vec<u8>; 2]>, String> {
    let body: Json = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let list = match kind {
        Kind::Series => body.get("series").and_then(Json::as_array),
        Kind::Checks => body.as_array(),
        Kind::Event => None,
    };
    let Some(list) = list.filter(|list| list.len() > 1) else { return Ok(None) };
    let (first, second) = list.split_at(list.len() / 2);
    let write = |part: &[Json]| match kind {
        Kind::Series => serde_json::json!({ "series": part }).to_string().into_bytes(),
        Kind::Checks | Kind::Event => serde_json::json!(part).to_string().into_bytes(),
    };
    Ok(Some([write(first), write(second)]))
}

impl Destination for Datadog {
    fn hand_over(&self, message: &Message) -> Answer {
        let Some((kind, body)) = Kind::of(&message.body) else {
            return Answer::Never("the queue holds what this version does not know".into());
        };
        let key = match self.endpoint.secret(&self.key_file) {
            Ok(key) => key,
            Err(problem) => return Answer::Later(problem, None),
        };
        match kind {
            Kind::Series => self.send(kind, &key, body, true),
            // Packed bodies are published for series only.
            Kind::Checks => match unpack(body) {
                Ok(body) => self.send(kind, &key, &body, false),
                Err(problem) => Answer::Never(problem),
            },
            Kind::Event => self.send(kind, &key, body, false),
        }
    }

    fn oldest(&self, message: &[u8]) -> Option<Duration> {
        Some(match Kind::of(message)?.0 {
            Kind::Series => OLDEST_SERIES,
            Kind::Checks => OLDEST_CHECKS,
            Kind::Event => OLDEST_EVENT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(devices: usize, values: usize) -> Vec<Subject> {
        let value = |at: usize| super::super::measure::Value {
            name: "volary.device.memory.available",
            unit: Unit::Bytes,
            value: (at * 7919 % 100_000) as f64 + 0.5,
            labels: vec![("unit", format!("unit-{at}.service"))],
        };
        let subject = |device: usize| Subject {
            device: Some(format!("dev-{device:06}")),
            labels: vec![("stage", "production".into())],
            values: (0..values).map(value).collect(),
        };
        (0..devices).map(subject).collect()
    }

    #[test]
    fn requests_keep_to_the_limits_and_nothing_is_lost() {
        let messages = values(&subjects(2_000, 20), &[], Timestamp::UNIX_EPOCH).unwrap();
        let mut series = 0;
        for message in &messages {
            let (kind, packed) = Kind::of(message).unwrap();
            assert_eq!(kind, Kind::Series);
            let body = unpack(packed).unwrap();
            assert!(packed.len() <= 512_000 && body.len() <= 5_242_880, "{} {}", packed.len(), body.len());
            let body: Json = serde_json::from_slice(&body).unwrap();
            series += body["series"].as_array().unwrap().len();
        }
        assert_eq!(series, 40_000);
        assert!(messages.len() < 5, "{}", messages.len());
    }

    #[test]
    fn parts_are_as_large_as_they_may_be() {
        let items: Vec<String> = ["aaa", "bbb", "cccccccccc", "d"].map(Into::into).into();
        let lengths: Vec<usize> = parts(&items, 8).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 1, 1]);
        assert!(parts(&[], 8).is_empty());
    }

    #[test]
    fn what_is_too_large_is_halved_until_it_is_one() {
        let body = br#"{"series":[1,2,3]}"#;
        let [first, second] = halves(Kind::Series, body).unwrap().unwrap();
        assert_eq!(String::from_utf8(first).unwrap(), r#"{"series":[1]}"#);
        assert_eq!(String::from_utf8(second).unwrap(), r#"{"series":[2,3]}"#);
        assert_eq!(halves(Kind::Series, br#"{"series":[1]}"#).unwrap(), None);
        assert_eq!(halves(Kind::Event, b"{}").unwrap(), None);
    }
}
