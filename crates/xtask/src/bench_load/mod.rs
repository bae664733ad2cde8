//! `make bench-load`: a server with a large fleet, as devices and people see it.
//!
//! **Method.** The real server (release build) with 100,000 devices in its records, over TCP and TLS with client
//! certificates. The devices are in other processes, so that their work is told apart, and each process has open files
//! for all of its devices. Each device in each minute posts 32 measurements and asks for news, and each half hour it
//! sends six reports. A device keeps its connection, as agents do, and begins one of 30 minutes with a new one. Where
//! the server may have fewer files open than there are devices, it ends connections that are silent, and most devices
//! begin each minute with a new one, resumed by a ticket, which is more work. How late the devices' own timers are is measured too: what is late
//! there is no fault of the server's. Meanwhile this process fetches the pages, one after the other. A minute may be
//! made shorter or longer (`--minute 40`), to find how many devices are kept up with.

mod client;
pub mod devices;
mod fleet;

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use volary_host::Cmd;

use crate::bench_archive::release_tools;
use crate::figures::Figure;
use crate::process;
use crate::workspace::Workspace;
use client::Connection;
use devices::{LAG, MINUTE, Seen, Spread, Times};
use fleet::Fleet;

/// How many devices there are, if nobody says otherwise.
const DEVICES: usize = 100_000;

/// How long a server with many devices may take to start.
const START: Duration = Duration::from_secs(120);

/// The pause between two pages: a person, not a flood.
const PAUSE: Duration = Duration::from_millis(100);

/// Processes of devices at least: a processor each.
const PROCESSES: usize = 2;

/// Open files of a process of devices that are for no connection.
const OTHER_FILES: usize = 1000;

/// What people and programs look at. `{}` is a device.
const PAGES: [(&str, &str); 14] = [
    ("pipeline", "/"),
    ("devices", "/devices?stage=production"),
    ("device", "/devices/{}"),
    ("promotion", "/promotion?from=canary&to=production"),
    ("alerts", "/alerts"),
    ("events", "/events"),
    ("API: status", "/api/v1/status?devices=50"),
    ("API: 100 devices", "/api/v1/devices?limit=100&stage=production"),
    ("API: a device", "/api/v1/devices/{}"),
    ("API: a series of a device", "/api/v1/devices/{}/metrics/load1"),
    ("API: rollouts", "/api/v1/rollouts"),
    ("API: promotion", "/api/v1/promotion?from=canary&to=production"),
    ("API: releases", "/api/v1/releases"),
    ("API: events", "/api/v1/events"),
];

/// Scraped rarely: it has all devices in it.
const SCRAPE: (&str, &str) = ("/metrics for Prometheus", "/metrics?shard=1/16");

const MIB: f64 = 1024.0 * 1024.0;

/// How the benchmark of the whole server runs.
#[derive(Args)]
pub struct BenchLoadArgs {
    /// How many devices
    #[arg(long, default_value_t = DEVICES)]
    devices: usize,
    /// For how many of their minutes
    #[arg(default_value_t = 3)]
    minutes: u64,
    /// How long their minute is, in seconds
    #[arg(long, default_value_t = 60.0)]
    minute: f64,
    /// One of so many minutes of a device begins with a new connection
    #[arg(long, default_value_t = 30)]
    renew: u64,
    #[arg(long, default_value_t = 18_443)]
    port: u16,
    /// In how many processes the devices are; so many that open files suffice if not given
    #[arg(long)]
    processes: Option<usize>,
    /// How many devices keep their connection; all, as agents do, if not given
    #[arg(long)]
    kept: Option<usize>,
    /// Print what was measured, and write no figures
    #[arg(long)]
    dry: bool,
}

/// Measures and writes the figures.
pub fn run(args: &BenchLoadArgs) -> anyhow::Result<()> {
    ensure!(args.devices > 0 && args.minutes > 0 && args.minute > 0.0 && args.renew > 0, "nothing to do");
    let workspace = Workspace::find()?;
    let files = open_files()?;
    let kept = args.kept.unwrap_or(args.devices).min(args.devices);
    println!("{kept} of {} devices keep connections; a process may have {files} files open", args.devices);
    let volary = release_tools(&workspace)?.volary;
    let folder = tempfile::tempdir_in(&workspace.target).context("cannot make a folder for the server")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let begun = Instant::now();
    let fleet = runtime.block_on(Fleet::make(&volary, folder.path().to_owned(), args.port, args.devices))?;
    println!("a server with {} devices was made in {:.0} s", args.devices, begun.elapsed().as_secs_f64());
    let before = size(&fleet.folder)?;
    let server = Server::start(&volary, &fleet, files)?;
    let id = server.0.id().to_string();
    let mut looker = Looker::new(&fleet, args.devices)?;
    let started = runtime.block_on(looker.wait())?;
    println!(
        "it answered after {:.1} s with {:.0} MiB",
        started.as_secs_f64(),
        process::resident(&id)? / MIB
    );
    let begun = Instant::now();
    let mut devices = Devices::start(args, &fleet, files, kept)?;
    println!("all connected to it in {:.0} s", begun.elapsed().as_secs_f64());
    let (cpu_before, begun) = (process::cpu(&id)?, Instant::now());
    devices.go()?;
    let span = Duration::from_secs_f64(args.minute * args.minutes as f64);
    let pages = runtime.block_on(looker.look(begun + span))?;
    let seen = devices.seen()?;
    let wall = begun.elapsed();
    let used = (process::cpu(&id)? - cpu_before).as_secs_f64();
    let measured = Measured {
        files,
        started: started.as_secs_f64(),
        memory: process::resident(&id)? / MIB,
        server: used / wall.as_secs_f64(),
        each: used / (args.devices as f64 * args.minutes as f64) * 1e6,
        generator: seen.cpu / wall.as_secs_f64(),
        late: (wall.saturating_sub(span)).as_secs_f64(),
        grown: (size(&fleet.folder)? - before) as f64,
        seen,
        pages,
    };
    measured.print();
    drop(server);
    if args.dry {
        return Ok(());
    }
    publish(&workspace, args, &measured)
}

struct Measured {
    /// How many files the server may have open.
    files: usize,
    started: f64,
    memory: f64,
    /// Processors that the server and the devices used.
    server: f64,
    generator: f64,
    /// Microseconds of the server for a minute of a device.
    each: f64,
    /// By how many seconds the minutes took longer.
    late: f64,
    /// By how many bytes the server's files grew.
    grown: f64,
    seen: Seen,
    /// With the bytes of an answer.
    pages: Vec<(&'static str, Times, usize)>,
}

impl Measured {
    /// How many in a hundred minutes of a device began with a new connection.
    fn new_connections(&self, args: &BenchLoadArgs) -> f64 {
        let new = (self.seen.whole_handshakes + self.seen.resumed_handshakes) as f64;
        100.0 * new / (args.devices as f64 * args.minutes as f64)
    }

    fn print(&self) {
        println!(
            "server {:.2} processors, {:.0} µs for a minute of a device, {:.0} MiB; devices {:.2} processors; {:.1} s late",
            self.server, self.each, self.memory, self.generator, self.late
        );
        let seen = &self.seen;
        println!("{} handshakes and {} resumed ones", seen.whole_handshakes, seen.resumed_handshakes);
        let pages = self.pages.iter().map(|(name, times, _)| (*name, times));
        for (name, times) in seen.times.iter().map(|(name, times)| (name.as_str(), times)).chain(pages) {
            let Spread { count, median, p99, most } = times.spread();
            println!("{name:32} {count:8} × median {median:9.2} ms, p99 {p99:9.2} ms, most {most:9.2} ms");
        }
        for (problem, count) in &seen.problems {
            println!("{count} × {problem}");
        }
    }
}

fn publish(workspace: &Workspace, args: &BenchLoadArgs, measured: &Measured) -> anyhow::Result<()> {
    let what = format!(
        "{} devices, each with a post of measurements and a question in {} s over TLS, and six reports each half hour; {:.0} % of \
         these minutes began with a new connection, since a process may have {} files open",
        args.devices,
        args.minute,
        measured.new_connections(args),
        measured.files
    );
    let is_whole = args.devices == DEVICES;
    let figure = |name: &str, meaning: &str, value: (f64, &str), goal: f64| {
        let meaning = format!("{meaning}; {what}");
        // A run with as many devices as can all keep their connection stands beside that with all of them.
        let name = if is_whole { format!("server-load-{name}") } else { format!("server-load-kept-{name}") };
        Figure::new(workspace, &name, &meaning, value, goal)?.by("make bench-load").publish(workspace)
    };
    let seen = &measured.seen;
    let problems: u64 = seen.problems.values().sum();
    let problems = problems as f64;
    figure("problems", "requests without the right answer", (problems, ""), 0.0)?;
    figure("late", "how late the last device was with its minute", (measured.late, "s"), 5.0)?;
    figure("cpu", "processor time of the server for a minute of a device", (measured.each, "µs"), 1080.0)?;
    figure("processors", "processors that the server used", (measured.server, ""), 1.8)?;
    let most = args.devices as f64 * 60.0 / args.minute * (1.8 / measured.server);
    println!("with 1.8 of 2 processors the server alone would do {most:.0} devices each minute");
    let text = "processors that the devices used, which share the machine with the server";
    figure("generator", text, (measured.generator, ""), 2.0)?;
    figure("memory", "memory of the server", (measured.memory, "MiB"), 12_288.0)?;
    figure("start", "from its start until the server answers", (measured.started, "s"), 60.0)?;
    let minutes = args.devices as f64 * args.minutes as f64;
    let posted = seen.posted_bytes as f64 / minutes * 1440.0 / 1024.0;
    figure("posted", "bodies that a device posts in a day, packed", (posted, "KiB"), 1024.0)?;
    let text = "by how much the databases and their logs grew in a minute of a device; most is packed within an hour";
    figure("grown", text, (measured.grown / minutes, "B"), 1000.0)?;
    let minutes = seen.times.iter().filter(|(kind, _)| kind.starts_with(MINUTE));
    let mut whole = Times::default();
    minutes.for_each(|(_, times)| whole.add(times.clone()));
    let lag = seen.times.get(LAG).context("the devices did not look at their timers")?;
    let spread = |name: &str, meaning: &str, times: &Times, goals: (f64, f64)| {
        let times = times.spread();
        let meaning = format!("{meaning}: median of {}", times.count);
        figure(name, &meaning, (times.median, "ms"), goals.0)?;
        figure(&format!("{name}-p99"), "the same, 99th percentile", (times.p99, "ms"), goals.1)
    };
    let meaning = "from when a minute of a device is due until all of its requests are answered";
    spread("minute", meaning, &whole, (1000.0, 4000.0))?;
    spread("lag", "how late the devices' own timers were", lag, (20.0, 500.0))?;
    for kind in ["measurements", "question", "reports"] {
        let times = seen.times.get(kind).with_context(|| format!("there are no {kind}"))?;
        spread(kind, &format!("{kind}, a new connection included"), times, (500.0, 2000.0))?;
    }
    let slowest = measured.pages.iter().map(|(_, times, _)| times.spread().p99).fold(0.0, f64::max);
    figure("page-p99", "99th percentile of the slowest page under load", (slowest, "ms"), 1000.0)?;
    if is_whole { write_table(workspace, measured) } else { Ok(()) }
}

/// Puts the table of pages into its place in `docs/server-load.md`.
fn write_table(workspace: &Workspace, measured: &Measured) -> anyhow::Result<()> {
    const MARK: &str = "<!-- the table of `make bench-load` -->\n";
    let path = workspace.root.join("docs/server-load.md");
    let text = volary_host::read_to_string(&path)?;
    let mut parts = text.splitn(3, MARK);
    let (Some(head), Some(_), Some(tail)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("{} lacks its marks", path.display());
    };
    let mut table = "| page | median | 99th percentile | bytes |\n|---|---|---|---|\n".to_owned();
    for (name, times, bytes) in &measured.pages {
        let times = times.spread();
        table.push_str(&format!("| {name} | {:.0} ms | {:.0} ms | {bytes} |\n", times.median, times.p99));
    }
    volary_host::write_atomic(&path, format!("{head}{MARK}{table}{MARK}{tail}").as_bytes(), 0o644)?;
    Ok(())
}

/// The server's process; killed at the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(volary: &Path, fleet: &Fleet, files: usize) -> anyhow::Result<Self> {
        let log = std::fs::File::create(fleet.folder.join("serve.log"))?;
        let command = with_files(files).arg(volary).arg("serve").arg(&fleet.folder);
        let child = command.into_std().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self(child))
    }
}

/// How many files a process may have open at most on this machine.
fn open_files() -> anyhow::Result<usize> {
    let limits = volary_host::read_to_string(Path::new("/proc/self/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard =
        line.and_then(|line| line.split_whitespace().nth(1)).context("there is no limit of open files")?;
    hard.parse().with_context(|| format!("the limit of open files is {hard:?}"))
}

/// A program that may have as many files open as this machine lets it: a login shell's have fewer.
fn with_files(files: usize) -> Cmd {
    Cmd::new("prlimit").arg(format!("--nofile={files}:{files}"))
}

/// The processes of the devices; killed at the end.
struct Devices(Vec<(Child, Lines<BufReader<ChildStdout>>)>);

impl Drop for Devices {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Devices {
    /// Starts them, and waits until each device had a connection.
    fn start(args: &BenchLoadArgs, fleet: &Fleet, files: usize, kept: usize) -> anyhow::Result<Self> {
        let least = args.devices.div_ceil(files.saturating_sub(OTHER_FILES).max(1));
        let processes = args.processes.unwrap_or(least.max(PROCESSES));
        let own: PathBuf = std::env::current_exe()?;
        let mut all = Self(Vec::new());
        for process in 0..processes {
            let mut command =
                with_files(files).arg(&own).arg("load-devices").args(["--kept", &kept.to_string()]);
            command =
                command.args(["--processes", &processes.to_string(), "--process", &process.to_string()]);
            command = command.arg("--folder").arg(&fleet.folder).args(["--port", &args.port.to_string()]);
            let commits = &fleet.commits;
            command = command.args(["--newer", commits.newer.as_str(), "--older", commits.older.as_str()]);
            command = command.args(["--devices", &args.devices.to_string()]);
            command = command.args(["--minutes", &args.minutes.to_string()]);
            command = command.args(["--minute", &args.minute.to_string()]);
            command = command.args(["--renew", &args.renew.to_string()]);
            let mut child = command.into_std().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
            all.0.push((child, lines));
        }
        for (_, lines) in &mut all.0 {
            let line = lines.next().transpose()?;
            ensure!(line.as_deref() == Some("connected"), "the devices do not connect");
        }
        Ok(all)
    }

    /// Begins the minutes.
    fn go(&mut self) -> anyhow::Result<()> {
        for (child, _) in &mut self.0 {
            child.stdin.take().context("no input")?.write_all(b"go\n")?;
        }
        Ok(())
    }

    /// Waits for the end of the minutes: what all saw.
    fn seen(mut self) -> anyhow::Result<Seen> {
        let mut all = Seen::default();
        for (child, lines) in &mut self.0 {
            let line = lines.next().context("the devices said nothing")??;
            all.add(serde_json::from_str(&line)?);
            ensure!(child.wait()?.success(), "the devices failed");
        }
        Ok(all)
    }
}

/// Who looks at pages.
struct Looker {
    tls: Arc<rustls::ClientConfig>,
    from: SocketAddr,
    to: SocketAddr,
    headers: String,
    connection: Option<Connection>,
    devices: usize,
}

impl Looker {
    fn new(fleet: &Fleet, devices: usize) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&volary_host::read(&fleet.folder.join("ca/ca.pem"))?)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            from: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, fleet.port)),
            headers: format!("authorization: Bearer {}\r\n", fleet.token),
            connection: None,
            devices,
        })
    }

    /// How long the server takes to answer.
    async fn wait(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            match self.get("/healthz").await {
                Ok(_) => return Ok(begun.elapsed()),
                Err(error) if begun.elapsed() > START => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        let mut connection = match self.connection.take().and_then(Connection::open_still) {
            Some(connection) => connection,
            None => Connection::open(&self.tls, self.from, self.to).await?,
        };
        let answer = connection.ask("GET", path, &self.headers, &[]).await?;
        let said = || String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
        ensure!(answer.status == 200, "{path} was answered with {}: {}", answer.status, said());
        self.connection = Some(connection);
        Ok(answer.body)
    }

    /// Fetches one page after the other until then: how long each took, and its bytes.
    async fn look(&mut self, until: Instant) -> anyhow::Result<Vec<(&'static str, Times, usize)>> {
        let all: Vec<(&'static str, &'static str)> = PAGES.into_iter().chain([SCRAPE]).collect();
        let mut times: Vec<(Times, usize)> = vec![(Times::default(), 0); all.len()];
        let mut round = 0;
        while Instant::now() < until {
            for ((_, path), (times, bytes)) in all.iter().zip(&mut times) {
                // A scrape a minute is what a Prometheus does.
                if *path == SCRAPE.1 && round % 10 != 0 {
                    continue;
                }
                let device = fleet::name((round * 7919) % self.devices)?;
                let begun = Instant::now();
                match self.get(&path.replace("{}", device.as_str())).await {
                    Ok(body) => *bytes = body.len(),
                    Err(error) => println!("{error:#}"),
                }
                times.push(begun.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
            round += 1;
        }
        Ok(all.iter().zip(times).map(|((name, _), (times, bytes))| (*name, times, bytes)).collect())
    }
}

/// The bytes of the server's databases.
fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for file in ["db.sqlite", "db.sqlite-wal", "metrics.sqlite", "metrics.sqlite-wal"] {
        sum += std::fs::metadata(folder.join(file)).map_or(0, |file| file.len());
    }
    Ok(sum)
}
