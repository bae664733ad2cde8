//! `make bench-server`: what measurements of a large fleet cost the server.
//!
//! **Method.** Simulated devices post to the store of measurements in this process, as quickly as it
//! acknowledges, with a bound on how many wait; time is simulated, a minute after the other. What is
//! acknowledged is on the disk. Beside it, what a request costs before it gets there is measured: gzip and
//! JSON. TLS and HTTP are not in it: they cost the same for every request, and a client for 100,000
//! connections would take more of the machine than the server.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use volary_api::v1::metrics::Samples;
use volary_model::DeviceName;
use volary_store::{NewBatch, NewSamples, Series, SeriesOptions};

use crate::figures::Figure;
use crate::process;
use crate::workspace::Workspace;

/// Requests that wait for the disk at once.
const WAITING: usize = 8192;

/// Devices that are simulated for a whole day, to see what that takes on disk.
const DAY_DEVICES: usize = 200;

/// Where simulated time begins: 2026-11-27 00:00 UTC.
const START: i64 = 1_795_737_600;

/// Questions that are asked while devices post.
const QUESTIONS: usize = 400;

/// How the benchmark of the server runs.
#[derive(Args)]
pub struct BenchServerArgs {
    /// Minutes that devices post
    #[arg(default_value_t = 5.0)]
    minutes: f64,
    /// How many devices
    #[arg(long, default_value_t = 100_000)]
    devices: usize,
}

/// Measures and writes the figures.
pub fn run(args: &BenchServerArgs) -> anyhow::Result<()> {
    ensure!(args.devices > 0 && args.minutes > 0.0, "there must be devices, and time for them");
    let workspace = Workspace::find()?;
    let folder =
        tempfile::tempdir_in(&workspace.target).context("cannot make a folder for the measurements")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let parsing = parsing()?;
    let day = runtime.block_on(day(folder.path()))?;
    let load = runtime.block_on(load(folder.path(), args))?;
    publish(&workspace, args, parsing, day, &load)
}

/// What was measured while devices posted.
struct Load {
    requests: usize,
    wall: Duration,
    cpu: Duration,
    memory: f64,
    questions: Vec<Duration>,
    /// From a start until the first measurements are on the disk, and until all older ones can be asked for.
    answers: Duration,
    start: Duration,
}

fn publish(
    workspace: &Workspace,
    args: &BenchServerArgs,
    parsing: Duration,
    day: (f64, f64),
    load: &Load,
) -> anyhow::Result<()> {
    let figure = |name: &str, meaning: &str, value: (f64, &str), goal: f64| {
        let meaning = format!("{meaning}; {} devices, straight to the store, no TLS and HTTP", args.devices);
        Figure::new(workspace, name, &meaning, value, goal)?.by("make bench-server").publish(workspace)
    };
    let requests = load.requests as f64;
    let rate = requests / load.wall.as_secs_f64();
    println!("{rate:.0} requests a second, which is {:.0} devices each minute", rate * 60.0);
    let cost = load.cpu.as_secs_f64() / requests * 1e6;
    let each = 1e6 / rate;
    let minute = "wall time a device and minute at the highest rate; 600 µs are 100,000 devices";
    figure("server-metrics-wall", minute, (each, "µs"), 600.0)?;
    figure("server-metrics-cpu", "processor time to keep a device's minute", (cost, "µs"), 300.0)?;
    let parse = parsing.as_secs_f64() * 1e6;
    figure(
        "server-metrics-parse",
        "processor time to unpack and read a device's minute",
        (parse, "µs"),
        200.0,
    )?;
    let memory = load.memory / args.devices as f64 / 1024.0;
    figure("server-metrics-memory", "memory a device with what is in no block", (memory, "KiB"), 16.0)?;
    let meaning = "bytes on disk for a day of a device as measured: 30 series, a point each minute";
    figure("server-metrics-day", meaning, (day.0 / 1024.0, "KiB"), 160.0)?;
    figure("server-metrics-point", "bytes on disk a point as measured", (day.1, "B"), 4.0)?;
    let mut questions = load.questions.clone();
    questions.sort_unstable();
    let at = |part: f64| questions[((questions.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    figure("server-metrics-query", "a series of a device, median under full load", (at(0.5), "ms"), 20.0)?;
    figure("server-metrics-query-p99", "the same, 99th percentile", (at(0.99), "ms"), 200.0)?;
    let hour = 6e6 / requests.min(60.0 * args.devices as f64);
    let answers = load.answers.as_secs_f64() * hour;
    let meaning = "from a start with an hour of 100,000 devices in the log until new measurements are kept";
    figure("server-metrics-answers", meaning, (answers, "s"), 15.0)?;
    let start = load.start.as_secs_f64() * hour;
    figure("server-metrics-start", "the same until the older ones can be asked for", (start, "s"), 120.0)
}

/// What a device measures in a minute: names with a value, as real ones move.
pub(crate) fn measured(device: usize, minute: i64) -> Vec<(String, f64)> {
    let mut seed =
        (device as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (minute as u64).wrapping_mul(0xd129_0b15);
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below) as f64
    };
    let (device, minute) = (device as f64, minute as f64);
    let mut series: Vec<(String, f64)> = [
        ("memory_total_bytes", 1_025_507_328.0),
        ("memory_available_bytes", (120_000.0 + random(4000)) * 4096.0),
        ("swap_total_bytes", 0.0),
        ("swap_used_bytes", 0.0),
        ("load1", random(120) / 100.0),
        ("uptime_seconds", 1000.0 * device + 60.0 * minute),
        ("cpu_seconds_total", (6.0 * minute + device).mul_add(100.0, random(150)).floor() / 100.0),
        ("memory_pressure_ratio", random(30) / 10_000.0),
        ("oom_kills_total", 0.0),
        ("disk_written_bytes_total", (minute * 40.0 + random(30)).floor() * 4096.0),
        ("temperature_celsius{zone=\"cpu\"}", 45.0 + random(60) / 10.0),
        ("failed_units", 0.0),
        ("flash_life_used_ratio", 0.1),
        ("processes", 110.0 + random(6)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (mount, size) in [("/", 3_900_000_000.0), ("/data", 25_000_000_000.0)] {
        let free: f64 = size / 2.0 - minute * 8192.0;
        series.push((format!("disk_size_bytes{{mount=\"{mount}\"}}"), size));
        series.push((format!("disk_free_bytes{{mount=\"{mount}\"}}"), free));
    }
    for (number, interface) in ["eth0", "wlan0"].into_iter().enumerate() {
        for (name, rate) in [("receive", 90_000.0), ("transmit", 30_000.0)] {
            let bytes = if number == 0 { (minute * rate + random(9000)).floor() } else { 0.0 };
            series.push((format!("network_{name}_bytes_total{{interface=\"{interface}\"}}"), bytes));
        }
    }
    for unit in ["app.service", "ssh.service", "cron.service", "kiosk.service"] {
        series.push((format!("unit_memory_bytes{{unit=\"{unit}\"}}"), (9000.0 + random(40)) * 4096.0));
        series.push((format!("unit_restarts_total{{unit=\"{unit}\"}}"), 0.0));
    }
    series
}

fn batch(device: usize, minute: i64) -> anyhow::Result<NewBatch> {
    let time = START + 60 * minute + (device % 60) as i64;
    let series = measured(device, minute).into_iter().map(|(name, value)| (name, vec![value]));
    let samples = NewSamples {
        id: format!("{minute:016}"),
        boot_id: "2f1c".to_owned(),
        times: vec![time],
        series: series.collect(),
        errors: Vec::new(),
        errors_left_out: 0,
    };
    Ok(NewBatch { device: name(device)?, received: Timestamp::from_second(time)?, samples: vec![samples] })
}

fn name(device: usize) -> anyhow::Result<DeviceName> {
    Ok(format!("device-{device:06}").parse()?)
}

/// What unpacking and reading one request takes.
fn parsing() -> anyhow::Result<Duration> {
    const TIMES: u32 = 2000;
    let series = measured(7, 7).into_iter().map(|(name, value)| (name, vec![Some(value)]));
    let samples = Samples {
        id: "1".into(),
        boot_id: "2f1c".into(),
        at: Timestamp::from_second(START)?,
        age: 0,
        step: 60,
        points: 1,
        series: BTreeMap::from_iter(series),
        errors: Vec::new(),
        errors_left_out: 0,
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&serde_json::to_vec(&samples)?)?;
    let body = gzip.finish()?;
    println!("a request has {} bytes, packed", body.len());
    let before = process::cpu("self")?;
    for _ in 0..TIMES {
        let mut text = String::new();
        GzDecoder::new(body.as_slice()).read_to_string(&mut text)?;
        ensure!(serde_json::from_str::<Samples>(&text)? == samples, "what is written is read");
    }
    Ok((process::cpu("self")? - before) / TIMES)
}

/// What making up one request takes.
fn generating() -> anyhow::Result<Duration> {
    const TIMES: u32 = 5000;
    let before = process::cpu("self")?;
    for device in 0..TIMES {
        std::hint::black_box(batch(device as usize, 7)?);
    }
    Ok((process::cpu("self")? - before) / TIMES)
}

/// What a day of a device takes on disk: bytes, and bytes a point.
async fn day(folder: &Path) -> anyhow::Result<(f64, f64)> {
    let how = SeriesOptions { gather: Duration::ZERO, ..SeriesOptions::default() };
    let series = Series::open(&folder.join("day.sqlite"), how).await?;
    for minute in 0..24 * 60 + 60 {
        let mut all = tokio::task::JoinSet::new();
        for device in 0..DAY_DEVICES {
            let (series, batch) = (series.clone(), batch(device, minute)?);
            all.spawn(async move { series.append(batch).await });
        }
        for done in all.join_all().await {
            done?;
        }
    }
    let bytes = series.block_bytes().await? as f64 / DAY_DEVICES as f64;
    series.close().await;
    Ok((bytes, bytes / (24.0 * 60.0 * measured(0, 0).len() as f64)))
}

/// All devices post as quickly as they are acknowledged, and somebody asks meanwhile.
async fn load(folder: &Path, args: &BenchServerArgs) -> anyhow::Result<Load> {
    let path = folder.join("load.sqlite");
    let series = Series::open(&path, SeriesOptions::default()).await?;
    let places = Arc::new(Semaphore::new(WAITING));
    let generating = generating()?;
    let (before, idle, started) = (process::cpu("self")?, process::resident("self")?, Instant::now());
    let until = Duration::from_secs_f64(args.minutes * 60.0);
    let mut questions = Vec::new();
    let (mut requests, mut minute) = (0, 0);
    'time: loop {
        for device in 0..args.devices {
            if started.elapsed() >= until {
                break 'time;
            }
            let place = places.clone().acquire_owned().await?;
            let batch = batch(device, minute)?;
            let series = series.clone();
            tokio::spawn(async move {
                // One that is refused would be seen in the rate.
                let done = series.append(batch).await;
                drop(place);
                done
            });
            requests += 1;
        }
        minute += 1;
        let asked = name(minute as usize * 7919 % args.devices)?;
        for _ in 0..QUESTIONS / 20 {
            let begun = Instant::now();
            let all = Timestamp::from_second(START)?..=Timestamp::from_second(START + 86_400)?;
            series.range(&asked, "load1", *all.start(), *all.end()).await?;
            questions.push(begun.elapsed());
        }
    }
    // The last of them.
    let _all = places.acquire_many(WAITING as u32).await?;
    let (wall, cpu) =
        (started.elapsed(), (process::cpu("self")? - before).saturating_sub(generating * requests as u32));
    let stats = series.stats();
    ensure!(stats.requests == requests as u64, "{} of {requests} requests were kept", stats.requests);
    let memory = process::resident("self")? - idle;
    println!("{minute} minutes of {} devices in {:.0} s; {stats:?}", args.devices, wall.as_secs_f64());
    if questions.is_empty() {
        let begun = Instant::now();
        series.range(&name(0)?, "load1", Timestamp::from_second(START)?, Timestamp::now()).await?;
        questions.push(begun.elapsed());
    }
    series.close().await;
    let begun = Instant::now();
    let series = Series::open(&path, SeriesOptions::default()).await?;
    series.append(batch(0, minute + 1)?).await?;
    let answers = begun.elapsed();
    series.history().await?;
    let start = begun.elapsed();
    series.close().await;
    Ok(Load { requests, wall, cpu, memory, questions, answers, start })
}
