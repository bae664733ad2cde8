//! The devices, in a process of their own so that their work is told apart from the server's: each asks for news
//! and posts measurements once in its minute, and sends a half hour's health together, as the agent does. The
//! first of them keep their connection, as all do where the machine has open files for them; the others come back
//! each minute with a new one, resumed by a ticket.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use volary_api::v1::metrics::Samples;
use volary_model::CommitId;

use super::client::{Answer, Connection};
use super::fleet::{self, Commits, Fleet};
use crate::bench_server::measured;
use crate::process;

/// Devices behind one address of this machine: a port each.
const BEHIND_ONE: usize = 20_000;

/// A device sends its reports of health each half hour, six at once.
const REPORT_MINUTES: u64 = 30;
const REPORTS: u64 = 6;

/// Handshakes at once while all devices connect.
const CONNECTING: usize = 64;

/// The devices of the load benchmark.
#[derive(Args)]
pub struct LoadDevicesArgs {
    /// The server's folder, with the devices' keys
    #[arg(long)]
    folder: PathBuf,
    /// Its port
    #[arg(long)]
    port: u16,
    /// The commit that the devices have, but those of the last stage
    #[arg(long)]
    newer: CommitId,
    /// The one that those have
    #[arg(long)]
    older: CommitId,
    #[arg(long)]
    devices: usize,
    /// How many of them keep their connection
    #[arg(long)]
    kept: usize,
    /// How many of their minutes
    #[arg(long)]
    minutes: u64,
    /// How long a minute is, in seconds
    #[arg(long)]
    minute: f64,
    /// One of so many minutes of a device begins with a new connection
    #[arg(long)]
    renew: u64,
}

/// What the devices saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// By the kind of request: how many, and milliseconds: the median, the 99th percentile, the longest.
    pub requests: BTreeMap<String, Times>,
    /// Answers that were not as they should be, and connections that broke, by what happened.
    pub problems: BTreeMap<String, u64>,
    pub whole_handshakes: u64,
    pub resumed_handshakes: u64,
    /// Bytes of the posts, packed.
    pub posted_bytes: u64,
    /// How late devices were with their minute at most, in seconds: more than a little says that this process, or
    /// the server, does not keep up.
    pub late: f64,
    /// Processor time of this process in the minutes, in seconds.
    pub cpu: f64,
}

/// How long requests took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Times {
    pub count: usize,
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

impl Times {
    /// Of these, in milliseconds.
    pub fn of(mut all: Vec<f32>) -> Self {
        all.sort_unstable_by(f32::total_cmp);
        let at = |part: f64| all.get(((all.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(0.0);
        Self { count: all.len(), median: at(0.5).into(), p99: at(0.99).into(), most: at(1.0).into() }
    }
}

#[derive(Default)]
struct Counts {
    times: Mutex<BTreeMap<&'static str, Vec<f32>>>,
    problems: Mutex<BTreeMap<String, u64>>,
    whole: AtomicU64,
    resumed: AtomicU64,
    bytes: AtomicU64,
    late_ms: AtomicU64,
}

/// Runs the devices: says `connected` once all have a connection, waits for a line, goes on for the minutes, and
/// prints what was seen.
pub fn run(args: &LoadDevicesArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(all(args))
}

async fn all(args: &LoadDevicesArgs) -> anyhow::Result<()> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let authority = volary_host::read(&args.folder.join("ca/ca.pem"))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let counts = Arc::new(Counts::default());
    let places = Arc::new(Semaphore::new(CONNECTING));
    let kept = args.kept;
    let commits = Commits { newer: args.newer.clone(), older: args.older.clone() };
    let mut connecting = tokio::task::JoinSet::new();
    for (number, (key, certificate)) in Fleet::keys(&args.folder, args.devices)?.into_iter().enumerate() {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            // The usual one; shared, since it is the same for all.
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_auth_cert(
                vec![CertificateDer::from(certificate)],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
            )?;
        tls.resumption = Resumption::in_memory_sessions(1);
        let host = 2 + (number / BEHIND_ONE) as u8;
        let mut device = Device {
            number,
            commit: commits.of(number)?.clone(),
            from: SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)),
            to,
            tls: Arc::new(tls),
            connection: None,
            etag: String::new(),
            counts: counts.clone(),
        };
        let places = places.clone();
        connecting.spawn(async move {
            let _place = places.acquire().await;
            device.note(|device| Box::pin(async move { device.ask().await })).await;
            device.connection = device.connection.filter(|_| device.number < kept);
            device
        });
    }
    let devices = connecting.join_all().await;
    println!("connected");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    *counts.times.lock().unwrap_or_else(PoisonError::into_inner) = BTreeMap::new();
    let connected = counts.whole.swap(0, Ordering::Relaxed);
    ensure!(connected as usize >= args.devices, "{connected} of {} devices connected", args.devices);
    let before = process::cpu("self")?;
    let begin = Instant::now() + Duration::from_secs(1);
    let (minutes, renew) = (args.minutes, args.renew);
    let minute = Duration::from_secs_f64(args.minute);
    let mut running = tokio::task::JoinSet::new();
    for mut device in devices {
        let offset = minute.mul_f64(device.number as f64 / args.devices as f64);
        running.spawn(async move {
            for turn in 0..minutes {
                let due = begin + minute * u32::try_from(turn).unwrap_or(0) + offset;
                tokio::time::sleep_until(due).await;
                let late = due.elapsed().as_millis() as u64;
                device.counts.late_ms.fetch_max(late, Ordering::Relaxed);
                if (device.number as u64 + turn).is_multiple_of(renew) {
                    device.connection = None;
                }
                device.note(move |device| Box::pin(async move { device.minute(turn).await })).await;
                device.connection = device.connection.filter(|_| device.number < kept);
            }
        });
    }
    running.join_all().await;
    let cpu = (process::cpu("self")? - before).as_secs_f64();
    let times = std::mem::take(&mut *counts.times.lock().unwrap_or_else(PoisonError::into_inner));
    let seen = Seen {
        requests: times.into_iter().map(|(kind, times)| (kind.to_owned(), Times::of(times))).collect(),
        problems: counts.problems.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        whole_handshakes: counts.whole.load(Ordering::Relaxed),
        resumed_handshakes: counts.resumed.load(Ordering::Relaxed),
        posted_bytes: counts.bytes.load(Ordering::Relaxed),
        late: counts.late_ms.load(Ordering::Relaxed) as f64 / 1000.0,
        cpu,
    };
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

struct Device {
    number: usize,
    commit: CommitId,
    from: SocketAddr,
    to: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    connection: Option<Connection>,
    etag: String,
    counts: Arc<Counts>,
}

type Doing<'a> = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

impl Device {
    /// Does something, and notes what went wrong.
    async fn note(&mut self, what: impl for<'a> FnOnce(&'a mut Self) -> Doing<'a>) {
        if let Err(error) = what(self).await {
            self.connection = None;
            let mut problems = self.counts.problems.lock().unwrap_or_else(PoisonError::into_inner);
            *problems.entry(format!("{error:#}")).or_default() += 1;
        }
    }

    async fn minute(&mut self, turn: u64) -> anyhow::Result<()> {
        let body = samples(self.number, turn)?;
        self.post("/device/v1/metrics", "measurements", &body).await?;
        self.ask().await?;
        if (self.number as u64 + turn).is_multiple_of(REPORT_MINUTES) {
            let mut lines = String::new();
            for part in 1..=REPORTS {
                let report = fleet::report(self.number, turn * REPORTS + part, &self.commit)?;
                lines.push_str(&serde_json::to_string(&report)?);
                lines.push('\n');
            }
            self.post("/device/v1/reports/batch", "reports", &pack(lines.as_bytes())?).await?;
        }
        Ok(())
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        let known = match self.etag.is_empty() {
            true => String::new(),
            false => format!("if-none-match: {}\r\n", self.etag),
        };
        let answer = self.request("question", "GET", "/device/v1/desired", &known, &[]).await?;
        let expected = if known.is_empty() { 200 } else { 304 };
        ensure!(answer.status == expected, "the question was answered with {}", answer.status);
        self.etag = answer.etag.context("the answer has no tag")?;
        Ok(())
    }

    async fn post(&mut self, path: &str, kind: &'static str, body: &[u8]) -> anyhow::Result<()> {
        self.counts.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
        let answer = self.request(kind, "POST", path, headers, body).await?;
        ensure!(answer.status == 200, "{kind} were answered with {}", answer.status);
        let said: volary_api::v1::device::ReceivedBatch = serde_json::from_slice(&answer.body)?;
        ensure!(said.refused.is_empty(), "{kind} were refused: {:?}", said.refused);
        Ok(())
    }

    async fn request(
        &mut self,
        kind: &'static str,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let begun = Instant::now();
        let kept = self.connection.take().filter(|connection| !connection.is_over);
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.tls, self.from, self.to).await?;
                let count = if connection.resumed { &self.counts.resumed } else { &self.counts.whole };
                count.fetch_add(1, Ordering::Relaxed);
                connection
            }
        };
        let answer = connection.ask(method, path, headers, body).await?;
        self.connection = Some(connection);
        let took = begun.elapsed().as_secs_f32() * 1000.0;
        self.counts.times.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().push(took);
        Ok(answer)
    }
}

/// What a device posts in a minute, packed.
fn samples(device: usize, turn: u64) -> anyhow::Result<Vec<u8>> {
    let series = measured(device, turn as i64).into_iter().map(|(name, value)| (name, vec![Some(value)]));
    let samples = Samples {
        id: format!("{turn:016}"),
        boot_id: "2f1c7a50-0000-4000-8000-000000000000".into(),
        at: Timestamp::now(),
        age: 0,
        step: 60,
        points: 1,
        series: series.collect(),
        errors: Vec::new(),
        errors_left_out: 0,
    };
    pack(&serde_json::to_vec(&samples)?)
}

fn pack(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}
