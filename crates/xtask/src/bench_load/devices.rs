//! The devices, in processes of their own so that their work is told apart from the server's and open files of a
//! process suffice for its share: each device asks for news and posts measurements once in its minute, and sends a
//! half hour's health together, as the agent does. The first of them keep their connection, as all do where the
//! server has open files for them; the others come back each minute with a new one, resumed by a ticket.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Devices behind one address of this machine: ports of connections that are over are free again after a minute, and
/// the kernel finds a free one among many quickly.
const BEHIND_ONE: usize = 5000;

/// A device sends its reports of health each half hour, six at once.
const REPORT_MINUTES: u64 = 30;
const REPORTS: u64 = 6;

/// Handshakes at once while all devices of a process connect.
const CONNECTING: usize = 16;

/// How long a device waits for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a process looks how late its own timers are.
const TICK: Duration = Duration::from_millis(20);

/// How late timers of the devices' processes were.
pub const LAG: &str = "lag of the devices' processes";

/// From when a minute of a device is due until all of its requests are answered; the number of the minute follows.
pub const MINUTE: &str = "minute";

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
    /// How many devices there are in all processes
    #[arg(long)]
    devices: usize,
    /// In how many processes
    #[arg(long)]
    processes: usize,
    /// Which of them this one is: it has each device whose number leaves this when divided by their number
    #[arg(long)]
    process: usize,
    /// How many of all devices keep their connection
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

/// What the devices of a process saw, or those of all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// How long things took, by what they are.
    pub times: BTreeMap<String, Times>,
    /// Answers that were not as they should be, and connections that broke, by what happened.
    pub problems: BTreeMap<String, u64>,
    pub whole_handshakes: u64,
    pub resumed_handshakes: u64,
    /// Bytes of the posts, packed.
    pub posted_bytes: u64,
    /// Processor time of the devices in their minutes, in seconds.
    pub cpu: f64,
}

impl Seen {
    /// Adds what another process saw.
    pub fn add(&mut self, other: Self) {
        for (kind, times) in other.times {
            self.times.entry(kind).or_default().add(times);
        }
        for (problem, count) in other.problems {
            *self.problems.entry(problem).or_default() += count;
        }
        self.whole_handshakes += other.whole_handshakes;
        self.resumed_handshakes += other.resumed_handshakes;
        self.posted_bytes += other.posted_bytes;
        self.cpu += other.cpu;
    }
}

/// How long each of something took, in units of 10 µs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Times(Vec<u32>);

impl Times {
    /// One more.
    pub fn push(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros() / 10).unwrap_or(u32::MAX));
    }

    /// Others.
    pub fn add(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// What is told of them.
    pub fn spread(&self) -> Spread {
        let mut all = self.0.clone();
        all.sort_unstable();
        let at = |part: f64| all.get(((all.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(0);
        let at = |part: f64| f64::from(at(part)) / 100.0;
        Spread { count: all.len(), median: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

/// How many there were, and how long they took in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub count: usize,
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

#[derive(Default)]
struct Counts {
    times: Mutex<BTreeMap<String, Times>>,
    problems: Mutex<BTreeMap<String, u64>>,
    whole: AtomicU64,
    resumed: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn took(&self, kind: &str, took: Duration) {
        let mut times = lock(&self.times);
        match times.get_mut(kind) {
            Some(times) => times.push(took),
            None => times.entry(kind.to_owned()).or_default().push(took),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the devices of a process: says `connected` once each had a connection, waits for a line, goes on for the
/// minutes, and prints what was seen as a line of JSON.
pub fn run(args: &LoadDevicesArgs) -> anyhow::Result<()> {
    // One thread for each process: there are more processes than processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(all(args))
}

async fn all(args: &LoadDevicesArgs) -> anyhow::Result<()> {
    let counts = Arc::new(Counts::default());
    let places = Arc::new(Semaphore::new(CONNECTING));
    let kept = args.kept;
    let mut connecting = tokio::task::JoinSet::new();
    for mut device in made(args, &counts)? {
        let places = places.clone();
        connecting.spawn(async move {
            let _place = places.acquire().await;
            device.note(|device| Box::pin(async move { device.ask().await })).await;
            device.connection = device.connection.filter(|_| device.number < kept);
            device
        });
    }
    let devices = connecting.join_all().await;
    let connected = counts.whole.swap(0, Ordering::Relaxed) as usize;
    ensure!(
        connected >= devices.len() && lock(&counts.problems).is_empty(),
        "{connected} of {} devices connected: {:?}",
        devices.len(),
        lock(&counts.problems)
    );
    println!("connected");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    lock(&counts.times).clear();
    let before = process::cpu("self")?;
    let begin = Instant::now() + Duration::from_secs(1);
    let minute = Duration::from_secs_f64(args.minute);
    let ticking = tokio::spawn(tick(counts.clone(), begin));
    let mut running = tokio::task::JoinSet::new();
    for device in devices {
        let offset = minute.mul_f64(device.number as f64 / args.devices as f64);
        let (minutes, renew) = (args.minutes, args.renew);
        running.spawn(live(device, Life { begin: begin + offset, minute, minutes, renew, kept }));
    }
    running.join_all().await;
    ticking.abort();
    let seen = Seen {
        times: std::mem::take(&mut *lock(&counts.times)),
        problems: lock(&counts.problems).clone(),
        whole_handshakes: counts.whole.load(Ordering::Relaxed),
        resumed_handshakes: counts.resumed.load(Ordering::Relaxed),
        posted_bytes: counts.bytes.load(Ordering::Relaxed),
        cpu: (process::cpu("self")? - before).as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// The devices of this process.
fn made(args: &LoadDevicesArgs, counts: &Arc<Counts>) -> anyhow::Result<Vec<Device>> {
    let authority = volary_host::read(&args.folder.join("ca/ca.pem"))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let commits = Commits { newer: args.newer.clone(), older: args.older.clone() };
    let keys = Fleet::keys(&args.folder, args.devices)?.into_iter().enumerate();
    let own = keys.filter(|(number, _)| number % args.processes == args.process);
    own.map(|(number, (key, certificate))| {
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
        Ok(Device {
            number,
            commit: commits.of(number)?.clone(),
            from: SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)),
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)),
            tls: Arc::new(tls),
            connection: None,
            etag: String::new(),
            counts: counts.clone(),
        })
    })
    .collect()
}

/// When a device does what.
struct Life {
    begin: Instant,
    minute: Duration,
    minutes: u64,
    renew: u64,
    /// Devices with a smaller number keep their connection.
    kept: usize,
}

async fn live(mut device: Device, life: Life) {
    for turn in 0..life.minutes {
        let due = life.begin + life.minute * u32::try_from(turn).unwrap_or(0);
        tokio::time::sleep_until(due).await;
        if (device.number as u64 + turn).is_multiple_of(life.renew) {
            device.connection = None;
        }
        device.note(move |device| Box::pin(async move { device.minute(turn).await })).await;
        device.counts.took(&format!("{MINUTE} {turn}"), due.elapsed());
        device.connection = device.connection.filter(|_| device.number < life.kept);
    }
}

/// Notes how late this process's own timers are, which is no fault of the server's.
async fn tick(counts: Arc<Counts>, begin: Instant) {
    tokio::time::sleep_until(begin).await;
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due).await;
        counts.took(LAG, due.elapsed());
    }
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
            *lock(&self.counts.problems).entry(format!("{error:#}")).or_default() += 1;
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
        let mut connection = match self.connection.take().and_then(Connection::open_still) {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.tls, self.from, self.to);
                let opened = tokio::time::timeout(PATIENCE, opened).await;
                let connection = opened.context("no connection for long")??;
                self.counts.took("connection", begun.elapsed());
                let count = if connection.resumed { &self.counts.resumed } else { &self.counts.whole };
                count.fetch_add(1, Ordering::Relaxed);
                connection
            }
        };
        let asked = connection.ask(method, path, headers, body);
        let answer = tokio::time::timeout(PATIENCE, asked).await.context("no answer for long")??;
        self.connection = Some(connection);
        self.counts.took(kind, begun.elapsed());
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
