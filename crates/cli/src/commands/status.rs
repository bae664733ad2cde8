//! `volary status`, `trace` and `events`: what is where, since when, and why.

use clap::Args;
use volary_api::v1::rollout::State;
use volary_api::v1::status::{Condition, Device, Event, HeldTurn, Stage, Status, Trace};
use volary_model::{Architecture, StageName};
use volary_plan::text;

use super::{build, encode, release, user};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, ago_or_dash};

/// How many builds and releases stand in the overview; the rest has its own command.
const SHOWN: usize = 5;

/// Options of `volary status`.
#[derive(Args)]
pub struct StatusArgs {
    /// Only this stage
    #[arg(long)]
    stage: Option<StageName>,
}

/// Options of `volary trace`.
#[derive(Args)]
pub struct TraceArgs {
    /// The package and its version
    #[arg(value_name = "PACKAGE=VERSION")]
    package: String,
    /// That of this architecture; default: the first that has it
    #[arg(long)]
    architecture: Option<Architecture>,
}

/// Options of `volary events`.
#[derive(Args)]
pub struct EventsArgs {
    /// How many
    #[arg(long, default_value_t = 30)]
    limit: u32,
    /// Only what people and programs with a token did
    #[arg(long)]
    people: bool,
}

/// Runs `volary status`.
pub fn status(args: &StatusArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let mut status: Status = connection.client()?.get("/api/v1/status")?;
    if let Some(stage) = &args.stage {
        if !status.stages.iter().any(|known| known.name == *stage) {
            let known: Vec<String> = status.stages.iter().map(|stage| stage.name.to_string()).collect();
            let error = anyhow::anyhow!("there is no stage {stage}");
            return Err(Failure::with_help(error, format!("the stages are {}", known.join(", "))));
        }
        status.stages.retain(|known| known.name == *stage);
    }
    out.show(&status, |status| {
        for problem in &status.problems {
            out.line(format!("{} {problem}", out.tone(Tone::Bad, "problem:")));
        }
        if args.stage.is_none() {
            builds_and_releases(status, out);
        }
        for stage in &status.stages {
            out.line("");
            stage_table(stage, out);
        }
        if !status.waiting.is_empty() {
            out.line(format!("\n{}", out.tone(Tone::Bold, "waiting to be accepted")));
            devices(&status.waiting, out);
        }
    });
    Ok(())
}

fn builds_and_releases(status: &Status, out: &Out) {
    out.line(out.tone(Tone::Bold, format!("fleet {}", status.fleet)));
    for source in status.sources.iter().filter(|source| source.problem.is_some()) {
        let problem = source.problem.as_deref().unwrap_or_default();
        out.line(format!("{} source {}: {problem}", out.tone(Tone::Bad, "problem:"), source.name));
    }
    build::list(&status.builds[..status.builds.len().min(SHOWN)], out);
    out.line("");
    release::list(&status.releases[..status.releases.len().min(SHOWN)], out);
}

fn stage_table(stage: &Stage, out: &Out) {
    let commit = stage.commit.as_ref().map_or("no commit", |commit| commit.short());
    let good = stage.devices.iter().filter(|device| device.condition == Condition::Good).count();
    let devices_text = text::count(stage.devices.len(), "device");
    out.line(format!(
        "{}  {} at {commit} {}  {}  {good} of {devices_text} good",
        out.tone(Tone::Bold, stage.name.as_str()),
        stage.branch,
        out.tone(Tone::Dim, format!("{:?}, {}", stage.subject, ago_or_dash(stage.committed_at))),
        stage.suite.as_deref().unwrap_or("no release yet"),
    ));
    if let Some(why) = &stage.stop {
        out.line(format!("  {} {why}", out.tone(Tone::Bad, "stopped:")));
    }
    for freeze in &stage.freezes {
        out.line(format!("  {} {freeze}", out.tone(Tone::Warn, "frozen:")));
    }
    if !stage.windows.is_empty() {
        out.line(format!("  {} {}", out.tone(Tone::Dim, "windows:"), stage.windows));
    }
    for image in &stage.images {
        let known = if image.known { "" } else { ", which the server does not have" };
        let (name, artifact) = (&image.name, image.artifact.short());
        out.line(format!(
            "  {} {name} for {}, artifact {artifact}{known}",
            out.tone(Tone::Dim, "image:"),
            image.device_type
        ));
    }
    if let Some(at_most) = stage.per_site_at_most {
        let most = format!("at most {} of a site", text::count(at_most as usize, "device"));
        let now: Vec<String> = stage.turns.iter().map(turn).collect();
        let now = if now.is_empty() { "none".to_owned() } else { text::some(&now, 5) };
        out.line(format!("  {} {most}; now: {now}", out.tone(Tone::Dim, "at once:")));
    }
    if let Some(waits) = &stage.promotes_when {
        out.line(format!("  {} not yet: {waits}", out.tone(Tone::Dim, "promotes itself:")));
    }
    if let Some(rollout) = &stage.rollout {
        let tone = if rollout.state == State::Stopped { Tone::Bad } else { Tone::Dim };
        out.line(format!("  {} {}", out.tone(tone, "rollout:"), rollout.says));
    }
    devices(&stage.devices, out);
}

fn turn(turn: &HeldTurn) -> String {
    let site = if turn.site.is_empty() { String::new() } else { format!(" at {}", turn.site) };
    format!("{}{site} since {}", turn.device, ago(turn.since))
}

/// A condition as a coloured word.
pub fn condition(condition: Condition, out: &Out) -> String {
    let (tone, word) = match condition {
        Condition::Good => (Tone::Good, "good"),
        Condition::Converging => (Tone::Warn, "converging"),
        Condition::Failed => (Tone::Bad, "failed"),
        Condition::Refused => (Tone::Bad, "refused"),
        Condition::Silent => (Tone::Bad, "silent"),
        Condition::Waiting => (Tone::Warn, "waiting"),
        Condition::Rejected => (Tone::Dim, "rejected"),
        Condition::New => (Tone::Dim, "new"),
    };
    out.tone(tone, word)
}

/// The table of devices, also of `volary device list`.
pub fn devices(devices: &[Device], out: &Out) {
    let rows = devices
        .iter()
        .map(|device| {
            vec![
                format!("  {}", device.name),
                condition(device.condition, out),
                device.commit.as_ref().map_or("–".into(), |commit| commit.short().to_owned()),
                device.suite.clone().unwrap_or_else(|| "–".into()),
                ago_or_dash(device.since),
                ago_or_dash(device.seen_at),
                device.reason.clone(),
            ]
        })
        .collect();
    out.table(
        &["  DEVICE", "CONDITION", "COMMIT", "SUITE", "SINCE", "SEEN", "WHY"],
        rows,
        "  no devices yet; make a token with: volary device token --stage STAGE",
    );
}

/// Runs `volary trace`.
pub fn trace(args: &TraceArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let (package, version) = args.package.split_once('=').ok_or_else(|| {
        Failure::with_help(
            anyhow::anyhow!("{:?} names no version", args.package),
            "write PACKAGE=VERSION; the versions are in: volary archive list",
        )
    })?;
    let which = args.architecture.as_ref();
    let which = which.map_or(String::new(), |name| format!("&architecture={}", encode(name.as_str())));
    let path = format!("/api/v1/trace?package={}&version={}{which}", encode(package), encode(version));
    let trace: Trace = connection.client()?.get(&path)?;
    out.show(&trace, |trace| journey(trace, out));
    Ok(())
}

fn journey(trace: &Trace, out: &Out) {
    let step =
        |name: &str, text: String| out.line(format!("{}{text}", out.tone(Tone::Dim, format!("{name:<10}"))));
    let package = &trace.package;
    step("package", format!("{} {} ({})", package.name, package.version, package.architecture));
    if let [_, _, ..] = &trace.architectures[..] {
        let names: Vec<_> = trace.architectures.iter().map(Architecture::as_str).collect();
        step("built for", format!("{}; see the others with --architecture", names.join(", ")));
    }
    match &trace.build {
        Some(build) => {
            step(
                "commit",
                format!(
                    "{} {:?} by {} in {}",
                    build.commit.short(),
                    build.subject,
                    build.author,
                    build.source
                ),
            );
            let method = build.method.map_or(String::new(), |method| format!(" ({method})"));
            let architecture = build::architecture(build);
            step(
                "build",
                format!("{} for {architecture}{method} ended {}", build.id, ago_or_dash(build.ended_at)),
            );
            if let Some(because) = &build.because {
                let by = build.caused_by.map_or(String::new(), |id| format!(" (build {id})"));
                step("because", format!("{because}{by}"));
            }
            if let Some(digest) = &build.buildinfo {
                step("buildinfo", format!("{}, volary build buildinfo {}", digest.short(), build.id));
            }
        }
        None => step("build", "elsewhere; it was included as a file".into()),
    }
    step("archive", format!("{}, {}", ago(package.included_at), package.sha256));
    let suites = if trace.suites.is_empty() { "none any more".into() } else { trace.suites.join(", ") };
    step("suites", suites);
    for stage in &trace.stages {
        step(
            "stage",
            format!(
                "{} takes {} at {}, {}",
                stage.stage,
                stage.suite,
                stage.commit.short(),
                ago(stage.committed_at)
            ),
        );
    }
    for device in &trace.devices {
        step("device", format!("{} ({}) since {}", device.device, device.stage, ago(device.since)));
    }
    if trace.devices.is_empty() {
        step("device", "none has it".into());
    }
}

/// Runs `volary events`.
pub fn events(args: &EventsArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let events: Vec<Event> = {
        let people = args.people;
        connection.client()?.get(&format!("/api/v1/events?limit={}&people={people}", args.limit))?
    };
    out.show(&events, |events| {
        let rows = events
            .iter()
            .map(|event| {
                let by = event.by.as_ref().map(|by| format!("{} ({})", by.name, user::how(by.how)));
                let by = by.unwrap_or_else(|| "–".into());
                vec![ago(event.at), event.kind.clone(), event.subject.clone(), by, event.text.clone()]
            })
            .collect();
        out.table(&["WHEN", "WHAT", "OF", "BY", ""], rows, "nothing has happened yet");
    });
    Ok(())
}
