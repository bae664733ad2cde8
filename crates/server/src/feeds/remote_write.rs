//! Prometheus' remote write: each point that devices measure, sent on with the server's time.
//!
//! It follows the log of measurements, so that nothing waits twice on disk: what is not sent yet is held in
//! the log, for as long as `hold_minutes`, over kills and restarts. A point may be sent twice after a kill,
//! which Prometheus takes once. What Prometheus never takes (out of bounds, out of order) is found by
//! halving the request, and dropped; it must not hold up the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use ureq::http::Method;
use volary_model::SeriesName;
use volary_store::{StoreError, Tail};

use super::check_url;
use super::http::Endpoint;
use super::prometheus::{PREFIX, labels};
use super::queue::{fails, works_again};
use crate::app::App;
use crate::standing::Standings;
use crate::tls::listener::asked_to_stop;

/// Points in one request: Prometheus' own senders use 500 to 2,000.
const POINTS: usize = 2000;

/// Commits of the log that are in memory at once.
const COMMITS: u32 = 16;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Seconds after which a device that sends was judged, or is none any more.
const JUDGED: i64 = 120;

/// What each request says of itself.
const HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

/// What Prometheus says of samples that it never takes, also with a status that asks to try again.
const NEVER: [&str; 4] = ["out of bounds", "out of order", "too old sample", "duplicate sample"];

/// Where to send measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteWriteConfig {
    /// The receiver's address: `https://prometheus.example/api/v1/write`.
    pub url: String,
    /// The file with a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The receiver's certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Minutes that measurements are held while the receiver is away.
    #[serde(default = "default_hold")]
    pub hold_minutes: u32,
    /// The age in minutes from which the receiver does not take a point: an hour for Prometheus without
    /// `out_of_order_time_window`.
    #[serde(default = "default_late")]
    pub late_minutes: u32,
}

fn default_hold() -> u32 {
    60
}

fn default_late() -> u32 {
    55
}

impl RemoteWriteConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        check_url(&self.url)?;
        if self.hold_minutes == 0 || self.late_minutes == 0 {
            return Err("hold_minutes and late_minutes must be at least 1".into());
        }
        Ok(())
    }
}

/// How the remote writes do.
#[derive(Debug, Default)]
pub(crate) struct RemoteWrites(Mutex<BTreeMap<String, Arc<Counters>>>);

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

/// What one has done since the server began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Points that were taken.
    pub(crate) sent: u64,
    /// Points that were too old, or that the receiver never takes.
    pub(crate) dropped: u64,
    /// Requests that failed and were tried again.
    pub(crate) failures: u64,
}

impl RemoteWrites {
    /// All of them by name.
    pub(crate) fn counts(&self) -> Vec<(String, Counted)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counted =
            |c: &Counters| Counted { sent: of(&c.sent), dropped: of(&c.dropped), failures: of(&c.failures) };
        all.iter().map(|(name, counters)| (name.clone(), counted(counters))).collect()
    }

    fn counters(&self, name: &str) -> Arc<Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("prometheus/{name}")
}

/// Starts all of them.
pub(super) fn start(
    app: &Arc<App>,
    all: &BTreeMap<String, RemoteWriteConfig>,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    for (name, config) in all {
        let writer = Feed {
            app: app.clone(),
            name: feed(name),
            endpoint: Arc::new(Endpoint::new(app.layout.root(), &config.url, config.ca_file.clone(), None)),
            config: config.clone(),
            counters: app.remote_writes.counters(name),
        };
        // Before the first block is made, which lets go of the log.
        app.series.hold(&writer.name, 0);
        tasks.spawn(writer.run(stop.clone()));
    }
}

struct Feed {
    app: Arc<App>,
    name: String,
    config: RemoteWriteConfig,
    endpoint: Arc<Endpoint>,
    counters: Arc<Counters>,
}

/// A series of a request: its labels, encoded, and its points.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    labels: Vec<u8>,
    /// Milliseconds since 1970, value.
    points: Vec<(i64, f64)>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The receiver has it.
    Taken,
    /// Not now; why, and when it wants to be asked again.
    Later(String, Option<Duration>),
    /// Something in it is never taken; why.
    Never(String),
}

impl Feed {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let wait = match self.round().await {
                Ok(wait) => wait,
                Err(problem) => {
                    tracing::error!(feed = self.name, %problem, "measurements cannot be read");
                    LOOK
                }
            };
            tokio::select! {
                () = asked_to_stop(&mut stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends the next part of the log; says how long to wait then.
    async fn round(&self) -> Result<Duration, StoreError> {
        let (app, feed) = (&self.app, self.name.as_str());
        let place = self.place().await?;
        let tail = app.series.tail(place, COMMITS).await?;
        if tail.last == place {
            return Ok(LOOK);
        }
        let now = volary_host::now().as_second();
        let standings = app.standings.get();
        if is_early(&tail, &standings, now) {
            app.nudges.devices.notify_one();
            return Ok(LOOK);
        }
        let (lines, dropped) = lines(&tail, &standings, &self.config, now);
        let record = app.store.feed(feed).await?;
        // What nobody takes any more is let go also while the receiver is away.
        if !lines.is_empty() && record.next_at.is_some_and(|next| next > volary_host::now()) {
            return Ok(LOOK);
        }
        for part in parts(&lines) {
            if let Err((problem, again_after)) = self.send(part).await {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                fails(app, feed, record.attempts, &problem, again_after).await?;
                return Ok(LOOK);
            }
        }
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        if !lines.is_empty() {
            works_again(app, feed, record.attempts).await?;
        }
        self.moved(tail.last).await?;
        Ok(Duration::ZERO)
    }

    /// The place in the log up to which everything was sent.
    async fn place(&self) -> Result<i64, StoreError> {
        let kept = self.app.store.feed_state(&self.name).await?;
        let end = self.app.series.tail_end();
        match kept.parse() {
            Ok(place) if place <= end => {
                self.app.series.hold(&self.name, place);
                return Ok(place);
            }
            // The file of measurements is another one.
            Ok(_) => return Ok(0),
            Err(_) => {}
        }
        // A new feed begins with what comes now.
        self.moved(end).await?;
        Ok(end)
    }

    async fn moved(&self, place: i64) -> Result<(), StoreError> {
        self.app.store.set_feed_state(&self.name, &place.to_string()).await?;
        self.app.series.hold(&self.name, place);
        Ok(())
    }

    /// Sends lines, and drops those that are never taken.
    async fn send(&self, lines: &[Line]) -> Result<(), (String, Option<Duration>)> {
        let mut waiting = vec![lines.to_vec()];
        while let Some(lines) = waiting.pop() {
            let count: usize = lines.iter().map(|line| line.points.len()).sum();
            match self.post(request(&lines)).await {
                Verdict::Taken => {
                    self.counters.sent.fetch_add(count as u64, Ordering::Relaxed);
                }
                Verdict::Never(why) if count <= 1 => {
                    tracing::debug!(feed = self.name, why, "a point is dropped");
                    self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                }
                Verdict::Never(_) => {
                    let (first, second) = halves(lines);
                    waiting.push(second);
                    waiting.push(first);
                }
                Verdict::Later(why, again_after) => return Err((why, again_after)),
            }
        }
        Ok(())
    }

    async fn post(&self, body: Vec<u8>) -> Verdict {
        let (endpoint, token_file) = (self.endpoint.clone(), self.config.token_file.clone());
        let done = tokio::task::spawn_blocking(move || {
            let token = token_file.map(|file| endpoint.secret(&file)).transpose()?;
            let bearer = token.map(|token| format!("Bearer {token}"));
            let mut headers = HEADERS.to_vec();
            headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
            endpoint.send(Method::POST, "", &headers, &body)
        });
        match done.await {
            Ok(Ok(reply)) => verdict(reply.status, &reply.text, reply.again_after),
            Ok(Err(problem)) => Verdict::Later(problem, None),
            Err(bug) => Verdict::Later(bug.to_string(), None),
        }
    }
}

/// What an answer means.
fn verdict(status: u16, text: &str, again_after: Option<Duration>) -> Verdict {
    let said = || {
        let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
        format!("the receiver answers {status}: {line}")
    };
    match status {
        200..=299 => Verdict::Taken,
        _ if NEVER.iter().any(|never| text.contains(never)) => Verdict::Never(said()),
        // A token that is wrong or an address that is none is mended by people.
        401 | 403 | 404 | 408 | 429 | 500.. => Verdict::Later(said(), again_after),
        _ => Verdict::Never(said()),
    }
}

/// True if there are new devices that were not judged yet, which tells their labels.
fn is_early(tail: &Tail, standings: &Standings, now: i64) -> bool {
    let mut requests = tail.requests.iter().filter(|request| now - request.received < JUDGED);
    requests.any(|request| !standings.contains_key(&request.device))
}

/// What of the log is sent, and how many points are too old.
fn lines(tail: &Tail, standings: &Standings, config: &RemoteWriteConfig, now: i64) -> (Vec<Line>, u64) {
    let (hold, late) = (i64::from(config.hold_minutes) * 60, i64::from(config.late_minutes) * 60);
    let mut dropped = 0;
    let mut lines = Vec::new();
    for request in &tail.requests {
        let Some(standing) = standings.get(&request.device) else { continue };
        let of = labels(&request.device, standing);
        for (series, points) in &request.series {
            let is_good = |at: i64| now - request.received <= hold && now - at <= late;
            let good: Vec<(i64, f64)> =
                points.iter().filter(|(at, _)| is_good(*at)).map(|(at, value)| (at * 1000, *value)).collect();
            dropped += (points.len() - good.len()) as u64;
            let Ok(series) = series.parse::<SeriesName>() else { continue };
            if !good.is_empty() {
                lines.push(Line { labels: encode_labels(&series, &of), points: good });
            }
        }
    }
    (lines, dropped)
}

/// Lines in parts of [`POINTS`].
fn parts(lines: &[Line]) -> Vec<&[Line]> {
    let mut parts = Vec::new();
    let (mut start, mut count) = (0, 0);
    for (end, line) in lines.iter().enumerate() {
        if count > 0 && count + line.points.len() > POINTS {
            parts.push(&lines[start..end]);
            (start, count) = (end, 0);
        }
        count += line.points.len();
    }
    if start < lines.len() {
        parts.push(&lines[start..]);
    }
    parts
}

/// The same in two parts; one line alone by its points.
fn halves(mut lines: Vec<Line>) -> (Vec<Line>, Vec<Line>) {
    if let [line] = lines.as_mut_slice() {
        let points = line.points.split_off(line.points.len() / 2);
        let second = Line { labels: line.labels.clone(), points };
        return (lines, vec![second]);
    }
    let second = lines.split_off(lines.len() / 2);
    (lines, second)
}

/// `prometheus.WriteRequest` 1.0, in snappy's block format.
fn request(lines: &[Line]) -> Vec<u8> {
    let mut message = Vec::new();
    for line in lines {
        let mut series = line.labels.clone();
        for (at, value) in &line.points {
            let mut sample = vec![1 << 3 | 1];
            sample.extend(value.to_le_bytes());
            sample.push(2 << 3);
            varint(&mut sample, *at as u64);
            field(&mut series, 2, &sample);
        }
        field(&mut message, 1, &series);
    }
    snap::raw::Encoder::new().compress_vec(&message).expect("it is far below 4 GiB")
}

/// The labels of a series of a device, by name, as fields of a `TimeSeries`.
fn encode_labels(series: &SeriesName, of: &[(&'static str, String)]) -> Vec<u8> {
    let mut labels = series.labels();
    labels.push(("__name__".to_owned(), format!("{PREFIX}{}", series.base())));
    labels.extend(of.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    labels.sort();
    let mut out = Vec::new();
    for (name, value) in labels {
        let mut label = Vec::new();
        field(&mut label, 1, name.as_bytes());
        field(&mut label, 2, value.as_bytes());
        field(&mut out, 1, &label);
    }
    out
}

/// A field with a length, as protobuf has it.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use volary_plan::condition::Condition;
    use volary_store::TailRequest;

    use super::*;
    use crate::standing::Standing;

    fn config() -> RemoteWriteConfig {
        RemoteWriteConfig {
            url: "http://x".into(),
            token_file: None,
            ca_file: None,
            hold_minutes: 60,
            late_minutes: 55,
        }
    }

    #[test]
    fn a_request_has_the_bytes_of_the_specification() {
        let of = [("device", "d".to_owned())];
        let labels = encode_labels(&"x{z=\"1\"}".parse().unwrap(), &of);
        let body = request(&[Line { labels, points: vec![(300, 1.5)] }]);
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let mut expected = vec![0x0a, 68];
        expected.extend(b"\x0a\x1b\x0a\x08__name__\x12\x0fvolary_device_x");
        expected.extend(b"\x0a\x0b\x0a\x06device\x12\x01d");
        expected.extend(b"\x0a\x06\x0a\x01z\x12\x011");
        expected.extend(b"\x12\x0c\x09");
        expected.extend(1.5_f64.to_le_bytes());
        expected.extend([0x10, 0xac, 0x02]);
        expected[1] = (expected.len() - 2) as u8;
        assert_eq!(message, expected);
    }

    #[test]
    fn old_points_and_unknown_devices_are_not_sent() {
        let now = 1_000_000;
        let request = |device: &str, received: i64| TailRequest {
            device: device.parse().unwrap(),
            received,
            series: vec![("x".into(), vec![(now - 3400, 1.0), (now - 3300, 2.0), (now, 3.0)])],
        };
        let tail =
            Tail { last: 1, requests: vec![request("a", now), request("b", now), request("a", now - 3601)] };
        let standing = Standing { stage: None, device_type: None, condition: Condition::Good, seen_at: None };
        let standings = Standings::from([("a".parse().unwrap(), standing)]);
        assert!(is_early(&tail, &standings, now) && !is_early(&tail, &standings, now + 120));
        let (lines, dropped) = lines(&tail, &standings, &config(), now);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].points, [((now - 3300) * 1000, 2.0), (now * 1000, 3.0)]);
        assert_eq!(dropped, 1 + 3);
    }

    #[test]
    fn requests_are_bounded_and_halved_to_the_point() {
        let line = |points: usize| Line { labels: Vec::new(), points: vec![(1, 1.0); points] };
        let lines = vec![line(1500), line(400), line(200), line(3000), line(1)];
        let sizes: Vec<usize> = parts(&lines).iter().map(|part| part.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        assert!(parts(&[]).is_empty());
        let mut waiting = vec![vec![line(3), line(2)]];
        let mut single = 0;
        while let Some(lines) = waiting.pop() {
            if lines.iter().map(|line| line.points.len()).sum::<usize>() == 1 {
                single += 1;
                continue;
            }
            let (first, second) = halves(lines);
            assert!(!first.is_empty() && !second.is_empty());
            waiting.extend([first, second]);
        }
        assert_eq!(single, 5);
    }

    #[test]
    fn answers_say_whether_to_try_again() {
        assert_eq!(verdict(204, "", None), Verdict::Taken);
        assert!(matches!(verdict(400, "out of bounds", None), Verdict::Never(_)));
        assert!(matches!(verdict(500, "too old sample", None), Verdict::Never(_)));
        for status in [401, 404, 429, 500, 503] {
            let wait = Some(Duration::from_secs(7));
            assert!(
                matches!(verdict(status, "no", wait), Verdict::Later(_, again) if again == wait),
                "{status}"
            );
        }
        assert!(matches!(verdict(413, "", None), Verdict::Never(_)));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(config().check(), Ok(()));
        assert!(RemoteWriteConfig { url: "x".into(), ..config() }.check().unwrap_err().contains("https://"));
        assert!(RemoteWriteConfig { hold_minutes: 0, ..config() }.check().is_err());
    }
}
