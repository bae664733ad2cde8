//! What the templates show: texts, tones and links, ready to be put in. Decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use jiff::Timestamp;
use volary_api::v1::archive::Release;
use volary_api::v1::build::{Build, BuildState};
use volary_api::v1::device::RunningImage;
use volary_api::v1::fleet::Role;
use volary_api::v1::image::PinnedImage;
use volary_api::v1::rollout;
use volary_api::v1::status::{Condition, Device, Event, HeldTurn, Stage, Status, Trace};
use volary_model::{BuildScope, CommitId, StageName};
use volary_plan::text;

use crate::fleet_view::FleetView;
use crate::http::auth::Person;
use crate::http::page::Head;

/// The overview.
#[derive(Template)]
#[template(path = "home.html")]
pub(super) struct Home {
    head: Head,
    problems: Vec<String>,
    waiting: Vec<Waiting>,
    stages: Vec<StageColumn>,
    builds: Vec<BuildRow>,
    sources: Vec<SourceRow>,
    releases: Vec<ReleaseRow>,
    events: Vec<EventRow>,
}

/// The journey of a package version.
#[derive(Template)]
#[template(path = "trace.html")]
pub(super) struct Journey {
    head: Head,
    package: String,
    version: String,
    summary: String,
    build: Option<BuildRow>,
    suites: Vec<String>,
    included: String,
    stages: Vec<JourneyStage>,
}

/// A build with its log.
#[derive(Template)]
#[template(path = "build.html")]
pub(super) struct BuildPage {
    head: Head,
    build: BuildRow,
    log: String,
    cut: bool,
    next: u64,
    ended: bool,
}

/// What cannot be shown.
#[derive(Template)]
#[template(path = "refusal.html")]
pub(super) struct RefusalPage {
    pub(super) fleet: String,
    pub(super) problem: String,
    pub(super) help: String,
}

/// The end of a log.
pub(super) struct Log {
    pub(super) text: String,
    /// True if its beginning is left out.
    pub(super) cut: bool,
    /// From which byte on to ask for more.
    pub(super) next: u64,
    /// True if the text reaches the log's end.
    pub(super) whole: bool,
}

struct Waiting {
    name: String,
    os: String,
    architecture: String,
    enrolled: String,
    fingerprint: String,
}

struct StageColumn {
    name: String,
    branch: String,
    suite: Option<String>,
    commit: Option<String>,
    subject: String,
    age: Option<String>,
    count: String,
    all_good: bool,
    meter: Vec<MeterPart>,
    step: Option<Step>,
    images: Vec<ImageRow>,
    conduct: Vec<Conduct>,
    buttons: Vec<Button>,
    devices: Vec<DeviceRow>,
    /// How many more devices there are.
    more: usize,
}

/// An image that a stage pins.
struct ImageRow {
    device_type: String,
    name: String,
    artifact: String,
    known: bool,
}

/// When and how the devices of a stage change.
struct Conduct {
    tone: &'static str,
    name: &'static str,
    text: String,
}

/// What the person may do with the rollout of a stage.
struct Button {
    verb: &'static str,
    text: &'static str,
}

/// A part of the bar, in percent of its width.
struct MeterPart {
    tone: &'static str,
    start: f64,
    width: f64,
}

/// How a stage stands to the one before it.
struct Step {
    text: String,
    /// The page that shows what a merge would change.
    link: Option<String>,
}

pub(super) struct DeviceRow {
    pub(super) name: String,
    pub(super) tone: &'static str,
    pub(super) word: &'static str,
    pub(super) place: String,
    pub(super) reason: String,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) packages: Vec<PackageLink>,
    pub(super) units: Vec<String>,
    pub(super) checks: Vec<CheckRow>,
}

pub(super) struct PackageLink {
    pub(super) name: String,
    pub(super) version: String,
}

pub(super) struct CheckRow {
    pub(super) name: String,
    pub(super) tone: &'static str,
    pub(super) word: &'static str,
}

struct BuildRow {
    id: i64,
    tone: &'static str,
    word: &'static str,
    source: String,
    version: String,
    /// The architecture, and how it was built for it.
    target: String,
    when: String,
    commit: String,
    subject: String,
    author: String,
    reason: Option<String>,
    because: Option<String>,
    packages: Vec<PackageLink>,
    failed: bool,
}

struct SourceRow {
    name: String,
    url: String,
    branch: String,
    tip: String,
    problem: Option<String>,
}

struct ReleaseRow {
    name: String,
    revision: String,
    frozen: bool,
    word: &'static str,
    when: String,
    text: String,
}

struct EventRow {
    when: String,
    tone: &'static str,
    text: String,
}

struct JourneyStage {
    name: String,
    /// True if the stage offers it now.
    offered: bool,
    text: String,
    devices: Vec<JourneyDevice>,
}

struct JourneyDevice {
    name: String,
    since: String,
}

impl Home {
    pub(super) fn new(
        status: Status,
        events: Vec<Event>,
        view: &FleetView,
        person: &Person,
        head: Head,
    ) -> Self {
        let now = status.at;
        Self {
            stages: status.stages.iter().map(|stage| stage_column(stage, view, person, now)).collect(),
            head,
            problems: status.problems,
            waiting: status
                .waiting
                .into_iter()
                .map(|device| Waiting {
                    name: device.name.to_string(),
                    os: device.os,
                    architecture: device.architecture.to_string(),
                    enrolled: ago(device.enrolled_at, now),
                    fingerprint: device.fingerprint,
                })
                .collect(),
            builds: status.builds.into_iter().take(8).map(|build| build_row(build, now)).collect(),
            sources: status
                .sources
                .into_iter()
                .map(|source| SourceRow {
                    name: source.name.to_string(),
                    url: source.url,
                    branch: source.branch,
                    tip: source.tip.as_ref().map_or("no commit yet", |tip| tip.short()).to_owned(),
                    problem: source.problem,
                })
                .collect(),
            releases: status.releases.into_iter().map(|release| release_row(release, now)).collect(),
            events: events
                .into_iter()
                .map(|event| EventRow {
                    when: ago(event.at, now),
                    tone: event_tone(&event.kind),
                    text: event.text,
                })
                .collect(),
        }
    }
}

fn stage_column(stage: &Stage, view: &FleetView, person: &Person, now: Timestamp) -> StageColumn {
    let good = stage.conditions.get(&Condition::Good).copied().unwrap_or(0);
    let all: usize = stage.conditions.values().sum();
    StageColumn {
        name: stage.name.to_string(),
        branch: stage.branch.clone(),
        suite: stage.suite.clone(),
        commit: stage.commit.as_ref().map(|commit| commit.short().to_owned()),
        subject: stage.subject.clone(),
        age: stage.committed_at.map(|at| ago(at, now)),
        count: match all {
            0 => "no devices".to_owned(),
            all => format!("{good} of {all} good"),
        },
        all_good: all > 0 && good == all,
        meter: meter(&stage.conditions),
        more: all - stage.devices.len(),
        step: step(&stage.name, view),
        images: stage.images.iter().map(image_row).collect(),
        conduct: conduct(stage, now),
        buttons: stage.rollout.as_ref().map(|rollout| buttons(rollout, person)).unwrap_or_default(),
        devices: stage.devices.iter().map(|device| device_row(device, now)).collect(),
    }
}

fn image_row(image: &PinnedImage) -> ImageRow {
    ImageRow {
        device_type: image.device_type.to_string(),
        name: image.name.to_string(),
        artifact: image.artifact.hex(),
        known: image.known,
    }
}

fn conduct(stage: &Stage, now: Timestamp) -> Vec<Conduct> {
    let stop = stage.stop.iter().map(|why| Conduct { tone: "bad", name: "stopped", text: why.clone() });
    let freezes =
        stage.freezes.iter().map(|freeze| Conduct { tone: "warn", name: "frozen", text: freeze.clone() });
    let windows = Some(&stage.windows).filter(|windows| !windows.is_empty());
    let windows = windows.map(|windows| Conduct { tone: "dim", name: "windows", text: windows.clone() });
    let at_once = stage.per_site_at_most.map(|at_most| {
        let turns: Vec<String> = stage.turns.iter().map(|turn| held(turn, now)).collect();
        let turns = if turns.is_empty() { "none".to_owned() } else { text::some(&turns, 3) };
        let most = text::count(at_most as usize, "device");
        Conduct { tone: "dim", name: "at once", text: format!("at most {most} of a site; now: {turns}") }
    });
    let rollout = stage.rollout.as_ref().map(|rollout| Conduct {
        tone: if rollout.state == rollout::State::Stopped { "bad" } else { "dim" },
        name: "rollout",
        text: rollout.says.clone(),
    });
    let promotes = stage.promotes_when.as_ref().map(|waits| Conduct {
        tone: "dim",
        name: "promotes itself",
        text: format!("not yet: {waits}"),
    });
    stop.chain(promotes).chain(rollout).chain(freezes).chain(windows).chain(at_once).collect()
}

fn buttons(rollout: &rollout::Rollout, person: &Person) -> Vec<Button> {
    let running = rollout.state == rollout::State::Running;
    let stopped = rollout.state == rollout::State::Stopped;
    let manager = person.may(Role::ReleaseManager);
    let stop = (running && person.may(Role::Operator)).then_some(Button { verb: "stop", text: "Stop" });
    let more = running && rollout.wave < rollout.waves.len();
    let next = (more && manager).then_some(Button { verb: "next", text: "Open the next wave" });
    let resume = (stopped && manager).then_some(Button { verb: "resume", text: "Let it go on" });
    stop.into_iter().chain(next).chain(resume).collect()
}

fn held(turn: &HeldTurn, now: Timestamp) -> String {
    let site = if turn.site.is_empty() { String::new() } else { format!(" at {}", turn.site) };
    format!("{}{site} for {}", turn.device, ago(turn.since, now))
}

fn meter(conditions: &BTreeMap<Condition, usize>) -> Vec<MeterPart> {
    let all: usize = conditions.values().sum();
    let mut parts = Vec::new();
    let mut start = 0.0;
    for wanted in ["good", "busy", "bad", "off"] {
        let alike = conditions.iter().filter(|(condition, _)| tone(**condition).0 == wanted);
        let count: usize = alike.map(|(_, count)| count).sum();
        if count > 0 {
            let width = count as f64 * 100.0 / all as f64;
            parts.push(MeterPart { tone: wanted, start, width });
            start += width;
        }
    }
    parts
}

fn step(stage: &StageName, view: &FleetView) -> Option<Step> {
    let own = view.stage(stage)?;
    let from = view.stage(own.from.as_ref()?)?;
    let (own_tip, from_tip) = (own.tip.as_ref()?, from.tip.as_ref()?);
    // A merge of a merge has the same files, so it brings nothing either.
    let same = own_tip.tree == from_tip.tree;
    Some(if same {
        Step { text: format!("Has everything of {}.", from.name), link: None }
    } else {
        Step {
            text: format!("{} is ahead.", from.name),
            link: Some(format!("/promotion?from={}&to={stage}", from.name)),
        }
    })
}

/// The tone and the word of a condition.
pub(super) fn tone(condition: Condition) -> (&'static str, &'static str) {
    match condition {
        Condition::Good => ("good", "good"),
        Condition::Converging => ("busy", "converging"),
        Condition::Failed => ("bad", "failed"),
        Condition::Refused => ("bad", "refused"),
        Condition::Silent => ("off", "silent"),
        Condition::Waiting => ("off", "waiting"),
        Condition::Rejected => ("off", "rejected"),
        Condition::New => ("off", "new"),
    }
}

pub(super) fn device_row(device: &Device, now: Timestamp) -> DeviceRow {
    let (tone, word) = tone(device.condition);
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("suite", device.suite.clone());
    fact("commit", device.commit.as_ref().map(CommitId::to_string));
    fact("since", device.since.map(|at| format!("{} ago", ago(at, now))));
    fact("seen", device.seen_at.map(|at| format!("{} ago", ago(at, now))));
    fact("system", Some(format!("{} ({})", device.os, device.architecture)));
    let report = device.report.as_ref();
    if let Some(report) = report {
        fact("image", report.image.as_ref().map(running_image));
        fact("up", (report.uptime > 0).then(|| text::duration(Duration::from_secs(report.uptime))));
        if report.memory_total > 0 {
            fact("memory", Some(of(report.memory_available, report.memory_total, "available")));
        }
        if report.disk_total > 0 {
            fact("disk", Some(of(report.disk_free, report.disk_total, "free")));
        }
        fact("agent", Some(report.agent.clone()));
        for obstacle in report.waiting.iter().flat_map(|waiting| &waiting.obstacles) {
            fact("waits", Some(obstacle.clone()));
        }
        for quarantined in &report.quarantined {
            let failure = &quarantined.failure;
            let why = format!("{}: {} {}", quarantined.commit.short(), failure.step, failure.what);
            fact("quarantined", Some(why));
        }
        for task in report.drift.iter().flat_map(|drift| &drift.tasks) {
            fact("drifted", Some(task.task.clone()));
        }
        let packages = report.drift.iter().flat_map(|drift| &drift.packages);
        for (name, (installed, suite)) in packages {
            fact("drifted", Some(format!("{name} {installed}, the suite has {suite}")));
        }
    }
    DeviceRow {
        name: device.name.to_string(),
        tone,
        word,
        place: [
            device.suite.clone(),
            device.commit.as_ref().map(|commit| commit.short().to_owned()),
            device.since.map(|since| ago(since, now)),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" · "),
        reason: device.reason.clone(),
        facts,
        packages: report
            .map(|report| {
                let pairs = report.packages.iter();
                pairs
                    .map(|(name, version)| PackageLink { name: name.clone(), version: version.clone() })
                    .collect()
            })
            .unwrap_or_default(),
        units: report
            .map(|report| report.units.iter().map(|(unit, state)| format!("{unit} {state}")).collect())
            .unwrap_or_default(),
        checks: report
            .map(|report| {
                let row = |check: &volary_api::v1::device::CheckResult| CheckRow {
                    name: check.name.clone(),
                    tone: if check.passed {
                        "good"
                    } else if check.required {
                        "bad"
                    } else {
                        "warn"
                    },
                    word: if check.passed { "passed" } else { "failed" },
                };
                report.checks.iter().map(row).collect()
            })
            .unwrap_or_default(),
    }
}

fn running_image(image: &RunningImage) -> String {
    let slot = image.slot.as_ref().map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let trial = if image.on_trial { ", on trial" } else { "" };
    format!("{} ({}{slot}{trial})", image.name, image.device_type)
}

fn build_row(build: Build, now: Timestamp) -> BuildRow {
    let (tone, word) = match build.state {
        BuildState::Queued => ("off", "queued"),
        BuildState::Running => ("busy", "running"),
        BuildState::Succeeded => ("good", "built"),
        BuildState::Failed => ("bad", "failed"),
        BuildState::Cancelled => ("off", "cancelled"),
    };
    let took = build.started_at.map(|start| {
        let end = build.ended_at.unwrap_or(now);
        text::duration(Duration::try_from(end.duration_since(start)).unwrap_or_default())
    });
    let when = match (build.ended_at, took) {
        (Some(ended), Some(took)) => format!("in {took}, {} ago", ago(ended, now)),
        (_, Some(took)) => format!("for {took}"),
        (_, None) => format!("{} ago", ago(build.queued_at, now)),
    };
    let architecture = match build.scope {
        BuildScope::All => "all".to_owned(),
        BuildScope::Any => build.architecture.to_string(),
        BuildScope::Full => format!("{}+all", build.architecture),
    };
    BuildRow {
        id: build.id,
        target: build.method.map_or(architecture.clone(), |method| format!("{architecture}, {method}")),
        tone,
        word,
        source: build.source.to_string(),
        version: build.version.unwrap_or_default(),
        when,
        commit: build.commit.short().to_owned(),
        subject: build.subject,
        author: build.author,
        reason: build.reason,
        because: build.because,
        packages: match build.state {
            // Only what is in the archive has a journey to show.
            BuildState::Succeeded => build.packages.iter().filter_map(|package| link(package)).collect(),
            BuildState::Queued | BuildState::Running | BuildState::Failed | BuildState::Cancelled => {
                Vec::new()
            }
        },
        failed: matches!(build.state, BuildState::Failed | BuildState::Cancelled),
    }
}

/// A package's journey; debug symbols go where their package goes.
fn link(package: &str) -> Option<PackageLink> {
    let (name, version) = package.split_once('=')?;
    (!name.ends_with("-dbgsym")).then(|| PackageLink { name: name.to_owned(), version: version.to_owned() })
}

fn release_row(release: Release, now: Timestamp) -> ReleaseRow {
    let newest = release.revisions.last();
    let packages = newest.map_or(0, |revision| revision.packages);
    let count = text::count(packages as usize, "package");
    let picks = newest.map(|revision| revision.picks.as_slice()).unwrap_or_default();
    ReleaseRow {
        revision: newest.map(|revision| revision.revision.to_string()).unwrap_or_default(),
        frozen: release.frozen_at.is_some(),
        word: if release.frozen_at.is_some() { "frozen" } else { "takes picks" },
        when: newest.map(|revision| ago(revision.created_at, now)).unwrap_or_default(),
        text: if picks.is_empty() { count } else { format!("{count}, picked {}", text::some(picks, 4)) },
        name: release.name.to_string(),
    }
}

pub(super) fn event_tone(kind: &str) -> &'static str {
    match kind.rsplit('-').next() {
        Some("failed" | "refused") => "bad",
        Some("silent" | "overridden") => "warn",
        _ => "",
    }
}

impl Journey {
    pub(super) fn new(trace: Trace, view: &FleetView, head: Head) -> Self {
        let now = volary_host::now();
        let of_stage = |name: &StageName| -> Vec<JourneyDevice> {
            let devices = trace.devices.iter().filter(|device| device.stage == *name);
            devices
                .map(|device| JourneyDevice {
                    name: device.device.to_string(),
                    since: ago(device.since, now),
                })
                .collect()
        };
        let stages = view
            .stages
            .iter()
            .map(|stage| {
                let offer = trace.stages.iter().find(|traced| traced.stage == stage.name);
                let devices = of_stage(&stage.name);
                let running = match devices.len() {
                    0 => "no device has it".to_owned(),
                    count => format!(
                        "{} {} it",
                        text::count(count, "device"),
                        if count == 1 { "has" } else { "have" }
                    ),
                };
                JourneyStage {
                    name: stage.name.to_string(),
                    offered: offer.is_some(),
                    text: match offer {
                        Some(offer) => {
                            format!("offered by {} at {}; {running}", offer.suite, offer.commit.short())
                        }
                        None => format!("not offered here; {running}"),
                    },
                    devices,
                }
            })
            .collect();
        let everywhere = trace.devices.len();
        Self {
            head,
            package: trace.package.name.to_string(),
            version: trace.package.version.clone(),
            summary: match everywhere {
                0 => "On no device yet.".to_owned(),
                count => format!("On {}.", text::count(count, "device")),
            },
            included: ago(trace.package.included_at, now),
            build: trace.build.map(|build| build_row(build, now)),
            suites: trace.suites,
            stages,
        }
    }
}

impl BuildPage {
    pub(super) fn new(build: Build, log: Log, head: Head) -> Self {
        let ended = !matches!(build.state, BuildState::Queued | BuildState::Running) && log.whole;
        Self {
            head,
            build: build_row(build, volary_host::now()),
            log: log.text,
            cut: log.cut,
            next: log.next,
            ended,
        }
    }
}

/// How long ago, in one unit: the page is read at a glance.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        // A number that changes each second only draws the eye.
        0..10 => "moments".to_owned(),
        10..60 => format!("{} s", seconds / 10 * 10),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn of(part: u64, whole: u64, word: &str) -> String {
    format!("{} of {} {word}", bytes(part), bytes(whole))
}

pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.iter().find(|(size, _)| count >= *size);
    unit.map_or_else(
        || format!("{count} B"),
        |(size, name)| format!("{:.1} {name}", count as f64 / *size as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_at_a_glance() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, text) in
            [(0, "moments"), (59, "50 s"), (61, "1 min"), (7_300, "2 h"), (90_000, "1 d"), (-5, "moments")]
        {
            let at = Timestamp::from_second(1_000_000 - seconds).unwrap();
            assert_eq!(ago(at, now), text);
        }
    }

    #[test]
    fn sizes_have_a_fitting_unit() {
        for (count, text) in [(12, "12 B"), (2_048, "2.0 KiB"), (3 << 29, "1.5 GiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
