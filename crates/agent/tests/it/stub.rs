//! A server for devices: HTTPS with a CA of its own, the four device routes and files of an
//! archive. What it answers is set by the test, also lies.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use volary_api::join::JoinToken;
use volary_api::v1::device::{
    AskTurn, Desired, Enroll, Enrolled, Outcome, ReceivedBatch, RefusedReport, Report, Turn, WantObjects,
};
use volary_api::v1::metrics::Samples;
use volary_fleet::{GitRepository, pack_for_device};
use volary_model::{CommitId, DeviceName};

/// The server; it ends with the process.
pub struct Stub {
    /// Its address.
    pub url: String,
    /// The certificate of its authority.
    pub ca: String,
    shared: Arc<Shared>,
}

struct Shared {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    world: Mutex<World>,
}

/// A way to answer that never ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Endless {
    /// As fast as the line allows.
    Flood,
    /// A byte now and then.
    Drip,
}

/// What the server knows and what it was asked.
pub struct World {
    /// What it wants devices to be at.
    pub desired: Option<Desired>,
    /// The repository it serves objects from.
    pub repository: PathBuf,
    /// Bytes to send instead of a pack.
    pub false_pack: Option<Vec<u8>>,
    /// A request (method and path) that gets an answer without an end: these bytes, and then zeros.
    pub endless: Option<(&'static str, Vec<u8>, Endless)>,
    /// Seconds to say in `Retry-After` while in trouble.
    pub retry_after: Option<u32>,
    /// Files below `/archive/`.
    pub archive: BTreeMap<String, Vec<u8>>,
    /// Files below `/images/`, with ranges.
    pub images: BTreeMap<String, Vec<u8>>,
    /// Breaks the connection in the middle of so many answers that have a range.
    pub breaks: u32,
    /// True if devices are accepted at once.
    pub accepts: bool,
    /// The status to answer every question with instead.
    pub trouble: Option<u16>,
    /// Reports that came.
    pub reports: Vec<Report>,
    /// True if it takes several reports at once; an older server does not.
    pub knows_batches: bool,
    /// Ids of reports that it never takes in a batch.
    pub refuses: Vec<String>,
    /// Measurements that came.
    pub metrics: Vec<Samples>,
    /// True if it takes measurements; an older server does not.
    pub knows_metrics: bool,
    /// What it says to a device that asks for a turn.
    pub turn: Turn,
    /// What the last one that asked for a turn said.
    pub asked: Option<AskTurn>,
    /// Requests that came: method and path.
    pub requests: Vec<String>,
    /// Public keys of those who enrolled.
    pub enrolled: Vec<Enroll>,
    /// Connections that were made.
    pub connections: usize,
    /// Questions that were to stay open.
    pub open_questions: usize,
}

impl Stub {
    /// Starts it.
    pub fn start(repository: &Path) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "stub authority");
        let authority = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let config = Arc::new(server_config(&authority, &issuer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let world = World {
            desired: None,
            repository: repository.to_owned(),
            false_pack: None,
            endless: None,
            retry_after: None,
            archive: BTreeMap::new(),
            images: BTreeMap::new(),
            breaks: 0,
            accepts: true,
            trouble: None,
            reports: Vec::new(),
            knows_batches: true,
            refuses: Vec::new(),
            metrics: Vec::new(),
            knows_metrics: true,
            turn: Turn::Granted { seconds: 600 },
            asked: None,
            requests: Vec::new(),
            enrolled: Vec::new(),
            connections: 0,
            open_questions: 0,
        };
        let shared = Arc::new(Shared { issuer, world: Mutex::new(world) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (config, shared) = (Arc::clone(&config), Arc::clone(&serving));
                std::thread::spawn(move || serve(connection, config, &shared));
            }
        });
        Self { url, ca: authority.pem(), shared }
    }

    /// What it knows, to look at and to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// A token for a device.
    pub fn token(&self, stage: &str, signers: &str) -> String {
        JoinToken {
            server: self.url.clone(),
            ca: self.ca.clone(),
            secret: "s3cret".into(),
            stage: stage.parse().unwrap(),
            signers: signers.to_owned(),
        }
        .encode()
    }

    /// Wants devices to be at a commit.
    pub fn want(&self, stage: &str, commit: &CommitId) {
        let branch = if stage == "development" { "master" } else { stage };
        self.world().desired = Some(Desired {
            long_poll: 0,
            stage: stage.parse().unwrap(),
            branch: branch.to_owned(),
            commit: commit.clone(),
            rolling: String::new(),
            rollout: String::new(),
            poll: 60,
        });
    }

    /// The newest report about a convergence.
    pub fn last_result(&self) -> Report {
        let world = self.world();
        let found = world.reports.iter().rev().find(|report| report.convergence.is_some());
        found.expect("a convergence was reported").clone()
    }

    /// The newest result as `outcome step what: message`.
    pub fn last_failure(&self) -> String {
        let convergence = self.last_result().convergence.unwrap();
        let outcome = match convergence.outcome {
            Outcome::Good => "good",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
        };
        match convergence.failure {
            None => outcome.to_owned(),
            Some(failure) => format!("{outcome} {} {}: {}", failure.step, failure.what, failure.message),
        }
    }

    /// Waits until something is so.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let started = Instant::now();
        while !holds(&self.world()) {
            assert!(started.elapsed() < Duration::from_secs(60), "waited for {what} in vain");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn server_config(
    authority: &rcgen::Certificate,
    issuer: &rcgen::Issuer<'static, rcgen::KeyPair>,
) -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn serve(connection: TcpStream, config: Arc<ServerConfig>, shared: &Shared) {
    shared.world.lock().unwrap().connections += 1;
    let Ok(session) = ServerConnection::new(config) else { return };
    let mut stream = BufReader::new(StreamOwned::new(session, connection));
    while let Some(request) = read_request(&mut stream) {
        let endless = shared.world.lock().unwrap().endless.clone();
        if let Some((_, first, way)) = endless.filter(|(line, ..)| *line == request.line) {
            shared.world.lock().unwrap().requests.push(request.line);
            return pour(stream.get_mut(), &first, way);
        }
        hold(&request, shared);
        let (status, headers, body) = answer(&request, shared);
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        let stream = stream.get_mut();
        if status == 206 && body.len() > 10_000 {
            let mut world = shared.world.lock().unwrap();
            if world.breaks > 0 {
                world.breaks -= 1;
                drop(world);
                let _ = stream
                    .write_all(head.as_bytes())
                    .and_then(|()| stream.write_all(&body[..body.len() / 2]));
                let _ = stream.flush();
                return;
            }
        }
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
        let _ = stream.flush();
    }
}

/// Keeps a question open while nothing changes, for as long as it asks for.
fn hold(request: &Request, shared: &Shared) {
    let until = Instant::now() + Duration::from_secs(request.wait);
    let unchanged = || {
        let world = shared.world.lock().unwrap();
        let tag = world.desired.as_ref().map(|desired| format!("\"{}-{}\"", desired.commit, desired.rolling));
        world.trouble.is_none() && tag.is_some() && tag == request.etag
    };
    if request.wait > 0 {
        shared.world.lock().unwrap().open_questions += 1;
    }
    while unchanged() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Answers until the other side has enough.
fn pour(stream: &mut Stream, first: &[u8], way: Endless) {
    let head = b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n";
    let mut sent = stream.write_all(head).and_then(|()| stream.write_all(first));
    let piece = match way {
        Endless::Flood => vec![0; 64 << 10],
        Endless::Drip => vec![0],
    };
    while sent.is_ok() {
        if way == Endless::Drip {
            std::thread::sleep(Duration::from_millis(50));
        }
        sent = stream.write_all(&piece).and_then(|()| stream.flush());
    }
}

struct Request {
    line: String,
    etag: Option<String>,
    /// The first byte and the last.
    range: Option<(usize, usize)>,
    /// For how many seconds the question may stay open.
    wait: u64,
    packed: bool,
    known: bool,
    body: Vec<u8>,
}

fn read_request(stream: &mut BufReader<Stream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let mut found = lines.iter().filter_map(|line| line.split_once(": "));
        found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let line = lines.first()?.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request {
        line,
        etag: header("if-none-match"),
        range: header("range").map(|range| {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            (first.parse().unwrap(), last.parse().unwrap())
        }),
        wait: header("prefer").and_then(|value| value.strip_prefix("wait=")?.parse().ok()).unwrap_or(0),
        packed: header("content-encoding").is_some(),
        known: stream
            .get_ref()
            .conn
            .peer_certificates()
            .is_some_and(|chain: &[CertificateDer<'_>]| !chain.is_empty()),
        body,
    })
}

fn answer(request: &Request, shared: &Shared) -> (u16, String, Vec<u8>) {
    let mut world = shared.world.lock().unwrap();
    world.requests.push(request.line.clone());
    if let Some(status) = world.trouble {
        let after = world.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n"));
        return (status, after.unwrap_or_default(), br#"{"error":"the stub is in trouble"}"#.to_vec());
    }
    let json = |value: serde_json::Value| (200, String::new(), value.to_string().into_bytes());
    if request.line == "POST /device/v1/enroll" {
        let enroll: Enroll = serde_json::from_slice(&request.body).unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_pem(&enroll.csr).unwrap();
        let certificate = request.signed_by(&shared.issuer).unwrap().pem();
        world.enrolled.push(enroll);
        let enrolled = if world.accepts {
            Enrolled::Accepted { certificate, stage: "development".parse().unwrap() }
        } else {
            Enrolled::Waiting { again_after: 1 }
        };
        return json(serde_json::to_value(enrolled).unwrap());
    }
    if !request.known {
        return (401, String::new(), br#"{"error":"who are you?"}"#.to_vec());
    }
    match request.line.as_str() {
        "GET /device/v1/desired" => {
            let Some(desired) = &world.desired else {
                return (503, String::new(), br#"{"error":"no branch yet"}"#.to_vec());
            };
            let etag = format!("\"{}-{}\"", desired.commit, desired.rolling);
            if request.etag.as_ref() == Some(&etag) {
                return (304, String::new(), Vec::new());
            }
            let body = serde_json::to_vec(desired).unwrap();
            (200, format!("etag: {etag}\r\n"), body)
        }
        "POST /device/v1/objects" => {
            if let Some(bytes) = &world.false_pack {
                return (200, String::new(), bytes.clone());
            }
            let want: WantObjects = serde_json::from_slice(&request.body).unwrap();
            let device: DeviceName = "dev-1".parse().unwrap();
            let git = GitRepository::open(&world.repository).unwrap();
            match pack_for_device(&git, &want.want, want.have.as_ref(), &device) {
                Ok(pack) => (200, String::new(), pack),
                Err(error) => (404, String::new(), format!("{{\"error\":\"{error}\"}}").into_bytes()),
            }
        }
        "POST /device/v1/reports/batch" if world.knows_batches => {
            let body = if request.packed { unpacked(&request.body) } else { request.body.clone() };
            let lines = String::from_utf8(body).unwrap();
            let mut received = ReceivedBatch::default();
            for (line, text) in (1..).zip(lines.lines()) {
                let report: Report = serde_json::from_str(text).unwrap();
                if world.refuses.contains(&report.id) {
                    received.refused.push(RefusedReport { line, error: "not liked".to_owned() });
                    continue;
                }
                received.received.push(report.id.clone());
                world.reports.push(report);
            }
            json(serde_json::to_value(received).unwrap())
        }
        "POST /device/v1/metrics" if world.knows_metrics => {
            let body = if request.packed { unpacked(&request.body) } else { request.body.clone() };
            let mut received = ReceivedBatch::default();
            for (line, text) in (1..).zip(String::from_utf8(body).unwrap().lines()) {
                let samples: Samples = serde_json::from_str(text).unwrap();
                if world.refuses.contains(&samples.boot_id) {
                    received.refused.push(RefusedReport { line, error: "not liked".to_owned() });
                    continue;
                }
                received.received.push(samples.id.clone());
                world.metrics.push(samples);
            }
            json(serde_json::to_value(received).unwrap())
        }
        "POST /device/v1/turn" => {
            world.asked = Some(serde_json::from_slice(&request.body).unwrap());
            json(serde_json::to_value(&world.turn).unwrap())
        }
        "DELETE /device/v1/turn" => (204, String::new(), Vec::new()),
        "POST /device/v1/reports" => {
            let body = if request.packed { unpacked(&request.body) } else { request.body.clone() };
            let report: Report = serde_json::from_slice(&body).unwrap();
            let id = report.id.clone();
            world.reports.push(report);
            json(serde_json::json!({ "id": id }))
        }
        image if image.starts_with("GET /images/") => {
            let Some(file) = world.images.get(&image["GET /images/".len()..]) else {
                return (404, String::new(), br#"{"error":"no such image"}"#.to_vec());
            };
            let Some((first, last)) = request.range else { return (200, String::new(), file.clone()) };
            let last = last.min(file.len() - 1);
            let range = format!("content-range: bytes {first}-{last}/{}\r\n", file.len());
            (206, range, file[first..=last].to_vec())
        }
        other => match other.strip_prefix("GET /archive/").and_then(|path| world.archive.get(path)) {
            Some(file) => (200, String::new(), file.clone()),
            None => (404, String::new(), br#"{"error":"there is nothing here"}"#.to_vec()),
        },
    }
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut body).unwrap();
    body
}
