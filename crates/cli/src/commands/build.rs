//! `volary build`: what became of each commit.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use volary_api::client::Client;
use volary_api::v1::build::{Build, BuildState, BuildStatus, Reproduce, Reproduction, ReproductionState};
use volary_model::BuildScope;
use volary_plan::text;

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago};

/// How often a running build's log is asked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How many of lintian's findings are shown in the text.
const LINTIAN_SHOWN: usize = 12;

/// What to do with builds.
#[derive(Subcommand)]
pub enum BuildCommand {
    /// List builds, newest first
    List {
        /// Only of this source
        #[arg(long)]
        source: Option<String>,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one build
    Show {
        /// Its number
        id: i64,
    },
    /// Show a build's log
    Log {
        /// Its number
        id: i64,
        /// Only the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
        /// Wait for more until the build ends
        #[arg(long, short)]
        follow: bool,
    },
    /// Print a build's .buildinfo: what it was built with, and the hashes of what came out
    Buildinfo {
        /// Its number
        id: i64,
    },
    /// Build once more under other circumstances, and say which files come out differently
    Reproduce {
        /// The number of a build, or a source for its newest build that succeeded
        #[arg(value_name = "BUILD|SOURCE")]
        of: String,
        /// Return at once; the result is in: volary build show
        #[arg(long)]
        no_wait: bool,
    },
    /// End a build that waits or runs
    Cancel {
        /// Its number
        id: i64,
    },
    /// Build the same commit again
    Retry {
        /// Its number
        id: i64,
    },
}

/// Runs `volary build …`.
pub fn run(command: BuildCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        BuildCommand::List { source, limit } => {
            let source = source.map_or(String::new(), |source| format!("&source={}", encode(&source)));
            let builds: Vec<Build> = client.get(&format!("/api/v1/builds?limit={limit}{source}"))?;
            out.show(&builds, |builds| list(builds, out));
        }
        BuildCommand::Show { id } => {
            let build: Build = client.get(&format!("/api/v1/builds/{id}"))?;
            let tail = match build.state {
                BuildState::Failed => log(&client, id, 0)?.0,
                BuildState::Queued | BuildState::Running | BuildState::Succeeded | BuildState::Cancelled => {
                    String::new()
                }
            };
            let statuses: Vec<BuildStatus> = client.get(&format!("/api/v1/builds/{id}/statuses"))?;
            let again: Option<Reproduction> = client.get(&format!("/api/v1/builds/{id}/reproduction"))?;
            let shown = Shown { build, statuses, reproduction: again };
            out.show(&shown, |shown| show(shown, &tail, out));
        }
        BuildCommand::Log { id, tail, follow } => print_log(&client, id, tail, follow, out)?,
        BuildCommand::Buildinfo { id } => {
            let (text, _) = client.get_text(&format!("/api/v1/builds/{id}/buildinfo"), "content-type")?;
            out.raw(&text);
        }
        BuildCommand::Reproduce { of, no_wait } => reproduce(&client, of, no_wait, out)?,
        BuildCommand::Cancel { id } => {
            let build: Build = client.post(&format!("/api/v1/builds/{id}/cancel"), &())?;
            out.show(&build, |build| {
                out.line(format!(
                    "build {} of {} {} is cancelled",
                    build.id,
                    build.source,
                    build.commit.short()
                ));
            });
        }
        BuildCommand::Retry { id } => {
            let build: Build = client.post(&format!("/api/v1/builds/{id}/retry"), &())?;
            out.show(&build, |build| {
                out.line(format!(
                    "build {} of {} {} is queued",
                    build.id,
                    build.source,
                    build.commit.short()
                ));
            });
        }
    }
    Ok(())
}

/// A build's state as a coloured word.
pub fn state(state: BuildState, out: &Out) -> String {
    match state {
        BuildState::Queued => out.tone(Tone::Dim, "queued"),
        BuildState::Running => out.tone(Tone::Warn, "running"),
        BuildState::Succeeded => out.tone(Tone::Good, "built"),
        BuildState::Failed => out.tone(Tone::Bad, "failed"),
        BuildState::Cancelled => out.tone(Tone::Dim, "cancelled"),
    }
}

/// The table of builds, also part of `volary status`.
pub fn list(builds: &[Build], out: &Out) {
    let rows = builds
        .iter()
        .map(|build| {
            vec![
                build.id.to_string(),
                build.source.to_string(),
                build.commit.short().to_owned(),
                architecture(build),
                state(build.state, out),
                took(build),
                ago(build.ended_at.or(build.started_at).unwrap_or(build.queued_at)),
                build
                    .reason
                    .clone()
                    .or_else(|| build.version.clone())
                    .unwrap_or_else(|| build.subject.clone()),
            ]
        })
        .collect();
    out.table(
        &["BUILD", "SOURCE", "COMMIT", "ARCH", "STATE", "TOOK", "WHEN", "VERSION OR REASON"],
        rows,
        "no builds yet; they begin with a commit on a source: volary source add NAME URL",
    );
}

/// What a build makes packages for: a word of dpkg.
pub fn architecture(build: &Build) -> String {
    match build.scope {
        BuildScope::All => "all".to_owned(),
        BuildScope::Any => build.architecture.to_string(),
        BuildScope::Full => format!("{}+all", build.architecture),
    }
}

fn took(build: &Build) -> String {
    match (build.started_at, build.ended_at) {
        (Some(start), Some(end)) => {
            text::duration(Duration::try_from(end.duration_since(start)).unwrap_or_default())
        }
        _ => "–".into(),
    }
}

/// A build with what is known around it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    build: Build,
    statuses: Vec<BuildStatus>,
    reproduction: Option<Reproduction>,
}

fn show(shown: &Shown, log: &str, out: &Out) {
    let build = &shown.build;
    let row = |name: &str, value: &str| out.line(format!("{name:<10}{value}"));
    row("build", &build.id.to_string());
    row("source", build.source.as_str());
    row("commit", &format!("{} {}", build.commit.short(), build.subject));
    row("author", &build.author);
    let method = build.method.map_or(String::new(), |method| format!(" ({method})"));
    row("for", &format!("{}{method}", architecture(build)));
    row("state", &state(build.state, out));
    row("tries", &build.attempts.to_string());
    row("took", &took(build));
    row("queued", &format!("{:.0}", build.queued_at));
    if let Some(version) = &build.version {
        row("version", version);
    }
    if let Some(because) = &build.because {
        let by = build.caused_by.map_or(String::new(), |id| format!(" (build {id})"));
        row("because", &format!("{because}{by}"));
    }
    for package in &build.packages {
        row("package", package);
    }
    if let Some(until) = build.waits_until {
        row("waits", &format!("until {until:.0}; the machine is in trouble"));
    }
    if let Some(digest) = &build.buildinfo {
        row("buildinfo", &format!("{}, volary build buildinfo {}", digest.short(), build.id));
    }
    for finding in build.lintian.iter().take(LINTIAN_SHOWN) {
        let text = format!("{}: {} {}", finding.severity, finding.tag, finding.detail);
        row("lintian", &format!("{}: {text}", finding.package));
    }
    if build.lintian.len() > LINTIAN_SHOWN {
        row("lintian", &format!("{} more, in --json and in the log", build.lintian.len() - LINTIAN_SHOWN));
    }
    for status in &shown.statuses {
        let told = status.told.as_deref().unwrap_or("nothing yet");
        let problem = status
            .problem
            .as_ref()
            .map_or(String::new(), |problem| format!("; tried {} times since: {problem}", status.attempts));
        row("told", &format!("{}: {told}{problem}", status.hook));
    }
    if let Some(reproduction) = &shown.reproduction {
        row("again", &verdict(reproduction, out));
        differences(reproduction, out);
    }
    if let Some(reason) = &build.reason {
        row("reason", &out.tone(Tone::Bad, reason));
        out.line(format!("\nthe end of its log (all of it: volary build log {}):", build.id));
        out.line(volary_host::tail(log.as_bytes(), 15));
    }
}

fn reproduce(client: &Client, of: String, no_wait: bool, out: &Out) -> Result<(), Failure> {
    let mut reproduction: Reproduction = client.post("/api/v1/reproductions", &Reproduce { of })?;
    let build = reproduction.build;
    if !no_wait {
        out.note(&format!("building {build} once more; it goes on without you: volary build show {build}"));
    }
    while !no_wait && matches!(reproduction.state, ReproductionState::Queued | ReproductionState::Running) {
        std::thread::sleep(FOLLOW_EVERY);
        let found: Option<Reproduction> = client.get(&format!("/api/v1/builds/{build}/reproduction"))?;
        reproduction = found.unwrap_or(reproduction);
    }
    out.show(&reproduction, |reproduction| {
        out.line(format!("build {build} {}", verdict(reproduction, out)));
        differences(reproduction, out);
    });
    match reproduction.state {
        ReproductionState::Queued | ReproductionState::Running | ReproductionState::Same => Ok(()),
        ReproductionState::Different => Err(Failure::no(format!("build {build} is not reproducible"), None)),
        ReproductionState::Failed => Err(anyhow::anyhow!("build {build} could not be compared").into()),
    }
}

fn verdict(reproduction: &Reproduction, out: &Out) -> String {
    let reason = reproduction.reason.as_deref().unwrap_or_default();
    match reproduction.state {
        ReproductionState::Queued => out.tone(Tone::Dim, "waits to be built once more"),
        ReproductionState::Running => out.tone(Tone::Warn, "is being built once more"),
        ReproductionState::Same => out.tone(Tone::Good, "comes out the same, byte for byte"),
        ReproductionState::Different => out.tone(Tone::Bad, "comes out differently"),
        ReproductionState::Failed => out.tone(Tone::Bad, format!("could not be compared: {reason}")),
    }
}

fn differences(reproduction: &Reproduction, out: &Out) {
    for package in reproduction.packages.iter().filter(|package| !package.same) {
        out.line(format!("  {}", package.file));
        for item in &package.differences {
            let place = [item.member.as_str(), item.path.as_str()].join(" ");
            let place = place.trim();
            let colon = if place.is_empty() { "" } else { ": " };
            out.line(format!("    {place}{colon}{}", item.what));
        }
    }
    let asked = matches!(reproduction.state, ReproductionState::Same | ReproductionState::Different);
    if asked && !reproduction.varied.is_empty() {
        out.line(out.tone(Tone::Dim, format!("  varied: {}", reproduction.varied.join("; "))));
    }
}

fn log(client: &Client, id: i64, from: usize) -> Result<(String, bool), Failure> {
    let (text, ended) = client.get_text(&format!("/api/v1/builds/{id}/log?from={from}"), "x-volary-ended")?;
    Ok((text, ended.as_deref() == Some("true")))
}

fn print_log(client: &Client, id: i64, tail: Option<usize>, follow: bool, out: &Out) -> Result<(), Failure> {
    let (text, mut ended) = log(client, id, 0)?;
    match tail {
        Some(lines) => out.raw(&format!("{}\n", volary_host::tail(text.as_bytes(), lines))),
        None => out.raw(&text),
    }
    let mut from = text.len();
    while follow && !ended {
        std::thread::sleep(FOLLOW_EVERY);
        let (more, end) = log(client, id, from)?;
        out.raw(&more);
        from += more.len();
        ended = end;
    }
    Ok(())
}
