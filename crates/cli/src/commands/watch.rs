//! `volary watch`: the rules of the working copy, and what they would have said of a past: one in a file, or that
//! of a device as the server has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_api::v1::metrics::{DeviceMetrics, SeriesPoints};
use volary_api::v1::status::Device;
use volary_fleet::{CONFIG_FILE, FleetConfig};
use volary_model::{DeviceName, Severity, WatchRule};
use volary_plan::series::{Point, before};
use volary_plan::text;
use volary_plan::watch::{Episode, Finding, History, Recorded, State, describe, replay};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone};

/// How far back is looked when nothing is said: what a leak needs.
const SINCE: &str = "7d";

/// Commands about the rules that watch devices.
#[derive(Subcommand)]
pub enum WatchCommand {
    /// Show the rules of the working copy, as they are read
    List(ListArgs),
    /// Say what rules of the working copy would have said of a recorded past
    Test(TestArgs),
}

/// Options of `volary watch list`.
#[derive(Args)]
pub struct ListArgs {
    /// The fleet repository's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// Options of `volary watch test`.
#[derive(Args)]
pub struct TestArgs {
    /// The rule
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    rule: Option<String>,
    /// All rules
    #[arg(long)]
    all: bool,
    /// The past of devices: a file of JSON (docs/volary-yml.md)
    #[arg(long, value_name = "FILE", required_unless_present = "device", conflicts_with = "device")]
    history: Option<PathBuf>,
    /// The past of this device, as the server has it
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// How far back from the end of that past rules are asked: 90s, 15m, 24h, 7d
    #[arg(long, default_value = SINCE, value_parser = duration)]
    since: Duration,
    /// The fleet repository's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Runs a command about rules.
pub fn run(command: &WatchCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    match command {
        WatchCommand::List(args) => list(args, out),
        WatchCommand::Test(args) => test(args, connection, out),
    }
}

fn rules(dir: &Path) -> Result<Vec<WatchRule>, Failure> {
    let path = dir.join(CONFIG_FILE);
    let help = "go to a clone of the fleet repository, or name its folder";
    let text = volary_host::read_to_string(&path).map_err(|error| Failure::with_help(error, help))?;
    let config = FleetConfig::parse(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(config.watch)
}

/// A rule as programs read it.
#[derive(Serialize)]
struct RuleJson {
    name: String,
    kind: &'static str,
    watches: String,
    stages: Vec<String>,
    for_seconds: u64,
    clear_seconds: u64,
    severity: Severity,
    text: String,
}

impl From<&WatchRule> for RuleJson {
    fn from(rule: &WatchRule) -> Self {
        Self {
            name: rule.name.clone(),
            kind: rule.kind.as_str(),
            watches: describe(&rule.kind),
            stages: rule.stages.iter().map(ToString::to_string).collect(),
            for_seconds: rule.held_for.as_secs(),
            clear_seconds: rule.clear_after.as_secs(),
            severity: rule.severity,
            text: rule.text.clone(),
        }
    }
}

fn list(args: &ListArgs, out: &Out) -> Result<(), Failure> {
    let rules = rules(&args.dir)?;
    let shown: Vec<RuleJson> = rules.iter().map(RuleJson::from).collect();
    out.show(&shown, |shown| {
        let row = |rule: &RuleJson| {
            let stages = if rule.stages.is_empty() { "all".to_owned() } else { rule.stages.join(", ") };
            let held = text::duration(Duration::from_secs(rule.for_seconds));
            let severity = out.tone(tone(rule.severity), rule.severity.as_str());
            vec![rule.name.clone(), severity, rule.watches.clone(), held, stages]
        };
        let headers = ["RULE", "SEVERITY", "FIRES WHEN", "FOR", "STAGES"];
        out.table(
            &headers,
            shown.iter().map(row).collect(),
            "nothing is watched: write rules under `watch:` in volary.yml",
        );
    });
    Ok(())
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Warning => Tone::Warn,
        Severity::Critical => Tone::Bad,
    }
}

/// The past of devices, as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryFile {
    version: u32,
    devices: Vec<Recorded>,
    /// Its end; the newest point if it is not said.
    #[serde(default)]
    until: Option<Timestamp>,
}

/// What rules would have said.
#[derive(Serialize)]
struct Tested {
    from: Timestamp,
    until: Timestamp,
    episodes: Vec<Episode>,
    now: Vec<Finding>,
}

fn test(args: &TestArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let all = rules(&args.dir)?;
    let chosen: Vec<&WatchRule> = match &args.rule {
        None => all.iter().collect(),
        Some(name) => all.iter().filter(|rule| rule.name == *name).collect(),
    };
    if chosen.is_empty() {
        let known: Vec<&str> = all.iter().map(|rule| rule.name.as_str()).collect();
        let what = args
            .rule
            .as_ref()
            .map_or("there are no rules".to_owned(), |name| format!("there is no rule {name:?}"));
        let help = if known.is_empty() {
            "write rules under `watch:` in volary.yml".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        return Err(Failure::with_help(anyhow!("{what} in {}", args.dir.join(CONFIG_FILE).display()), help));
    }
    let history = match (&args.history, &args.device) {
        (Some(path), _) => history(path)?,
        (None, Some(device)) => of_device(device, args.since, connection)?,
        (None, None) => return Err(anyhow!("no past was named").into()),
    };
    let until = history.until.expect("the end of a read history is known");
    let from = before(until, args.since);
    let mut tested = Tested { from, until, episodes: Vec::new(), now: Vec::new() };
    for device in &history.devices {
        for rule in &chosen {
            let (episodes, now) = replay(rule, device, from, until);
            tested.episodes.extend(episodes);
            tested.now.extend(now);
        }
    }
    tested.episodes.sort_by(|a, b| (a.from, &a.device, &a.rule).cmp(&(b.from, &b.device, &b.rule)));
    out.show(&tested, |tested| show(tested, out));
    Ok(())
}

fn show(tested: &Tested, out: &Out) {
    let time = |at: Timestamp| at.strftime("%F %H:%M").to_string();
    let row = |episode: &Episode| {
        vec![
            time(episode.from),
            episode.until.map_or("goes on".to_owned(), time),
            out.tone(tone(episode.severity), &episode.rule),
            episode.device.to_string(),
            episode.series.clone(),
            episode.text.clone(),
        ]
    };
    let headers = ["FROM (UTC)", "UNTIL", "RULE", "DEVICE", "SERIES", "WHAT"];
    let nothing =
        format!("nothing would have fired from {} to {} UTC", time(tested.from), time(tested.until));
    out.table(&headers, tested.episodes.iter().map(row).collect(), &nothing);
    let missing: Vec<String> = tested
        .now
        .iter()
        .filter(|finding| finding.state == State::NotEnough)
        .map(|finding| format!("{} of {} {}: {}", finding.rule, finding.device, finding.series, finding.text))
        .collect();
    if !missing.is_empty() {
        out.line(format!("not enough data at the end: {}", text::some(&missing, 5)));
    }
}

fn history(path: &Path) -> Result<HistoryFile, Failure> {
    let bytes = volary_host::read(path)?;
    let mut history: HistoryFile = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no history of devices", path.display()))?;
    if history.version != 1 {
        let version = history.version;
        let help = "this program reads version 1; a newer one may know more";
        return Err(Failure::with_help(anyhow!("{}: version {version} is unknown", path.display()), help));
    }
    history.devices.iter_mut().for_each(Recorded::sort);
    let newest = history.devices.iter().filter_map(|device| device.seen_at(Timestamp::MAX)).max();
    history.until = history.until.or(newest);
    if history.until.is_none() {
        let help = "record some points, or say `until`";
        return Err(Failure::with_help(anyhow!("{} has no points", path.display()), help));
    }
    Ok(history)
}

/// A number and one of `s`, `m`, `h`, `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400_u64)];
    let read = units.iter().find_map(|(unit, size)| {
        let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*size).filter(|seconds| (1..=366 * 86_400).contains(seconds))
    });
    read.map(Duration::from_secs).ok_or_else(|| "write a number and a unit: 90s, 15m, 24h, 7d".to_owned())
}

/// What the server has of a device. A rule is asked at moments back to `since`, and looks further back from
/// there; so everything is fetched that the server keeps in its finest form.
fn of_device(device: &DeviceName, since: Duration, connection: &Connection) -> Result<HistoryFile, Failure> {
    let client = connection.client()?;
    let path = format!("/api/v1/devices/{}", encode(device.as_str()));
    let known: Device = client.get(&path)?;
    let latest: DeviceMetrics = client.get(&format!("{path}/metrics"))?;
    let stage = known.stage.ok_or_else(|| anyhow!("{device} is in no stage yet, so no rule is about it"))?;
    let mut recorded = Recorded::new(device.clone(), stage);
    recorded.known_since = Some(known.enrolled_at);
    recorded.seen.extend(known.seen_at);
    let until = volary_host::now();
    let from = before(until, since.saturating_mul(2));
    for value in &latest.values {
        let name = value.series.as_str();
        let range: Vec<SeriesPoints> =
            client.get(&format!("{path}/metrics/{}?from={from}&to={until}", encode(name)))?;
        for found in range {
            let points = found.points.into_iter().map(|(at, value)| Point { at, value });
            recorded.boots.extend(found.boots);
            recorded.series.insert(found.series.as_str().to_owned(), points.collect());
        }
    }
    recorded.boots.sort_unstable();
    recorded.boots.dedup();
    recorded.sort();
    Ok(HistoryFile { version: 1, devices: vec![recorded], until: Some(until) })
}
