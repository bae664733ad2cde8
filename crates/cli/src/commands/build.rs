//! `volary build`: what became of each commit.

use std::time::Duration;

use clap::Subcommand;
use volary_api::client::Client;
use volary_api::v1::build::{Build, BuildState};
use volary_plan::text;

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago};

/// How often a running build's log is asked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

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
            out.show(&build, |build| show(build, &tail, out));
        }
        BuildCommand::Log { id, tail, follow } => print_log(&client, id, tail, follow, out)?,
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
        &["BUILD", "SOURCE", "COMMIT", "STATE", "TOOK", "WHEN", "VERSION OR REASON"],
        rows,
        "no builds yet; they begin with a commit on a source: volary source add NAME URL",
    );
}

fn took(build: &Build) -> String {
    match (build.started_at, build.ended_at) {
        (Some(start), Some(end)) => {
            text::duration(Duration::try_from(end.duration_since(start)).unwrap_or_default())
        }
        _ => "–".into(),
    }
}

fn show(build: &Build, log: &str, out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<10}{value}"));
    row("build", &build.id.to_string());
    row("source", build.source.as_str());
    row("commit", &format!("{} {}", build.commit.short(), build.subject));
    row("author", &build.author);
    row("state", &state(build.state, out));
    row("tries", &build.attempts.to_string());
    row("took", &took(build));
    row("queued", &format!("{:.0}", build.queued_at));
    if let Some(version) = &build.version {
        row("version", version);
    }
    for package in &build.packages {
        row("package", package);
    }
    if let Some(reason) = &build.reason {
        row("reason", &out.tone(Tone::Bad, reason));
        out.line(format!("\nthe end of its log (all of it: volary build log {}):", build.id));
        out.line(volary_host::tail(log.as_bytes(), 15));
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
