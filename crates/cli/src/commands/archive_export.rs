//! `volary archive export` and `exports`: suites in a folder of a web server or in a bucket.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use volary_api::v1::export::{Export, ExportState, Exported, Verified};
use volary_plan::text::count;
use volary_server::{ExportConfig, ExportEvent, ExportRun};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, ago_or_dash, bytes};

/// Options of `volary archive export`.
#[derive(Args)]
pub struct ExportArgs {
    /// `all`, `rolling`, a release (all its revisions), or a revision such as v1.0/r2
    #[arg(required = true)]
    suites: Vec<String>,
    /// A folder, or s3://bucket/prefix
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// The server's folder; the server may be running
    #[arg(long, env = "VOLARY_DIR", value_name = "DIR")]
    dir: PathBuf,
    /// The address of a bucket that is not Amazon's
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The bucket's region
    #[arg(long)]
    region: Option<String>,
    /// A file with access_key_id and secret_access_key, instead of the environment's
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Days for which what nothing names any more stays; clients may hold an older index
    #[arg(long, value_name = "DAYS")]
    grace_days: Option<u32>,
    /// Let the suites in the target go that are not named here, after the grace
    #[arg(long)]
    only: bool,
    /// Also write Release and Release.gpg, for clients that read no InRelease
    #[arg(long)]
    release_gpg: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Read all that is in the target and compare it with what its suites say
    #[arg(long, conflicts_with = "dry_run")]
    verify: bool,
    /// With --verify: put again what is damaged or missing
    #[arg(long, requires = "verify")]
    repair: bool,
}

/// Options of `volary archive exports`.
#[derive(Args)]
pub struct ExportsArgs {
    /// Run this one now, also while it waits after a failure
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
}

impl ExportArgs {
    fn config(&self) -> ExportConfig {
        let mut config = ExportConfig::new(self.to.clone(), self.suites.clone());
        config.endpoint.clone_from(&self.endpoint);
        config.credentials.clone_from(&self.credentials);
        config.release_gpg = self.release_gpg;
        config.region = self.region.clone().unwrap_or(config.region);
        config.grace_days = self.grace_days.unwrap_or(config.grace_days);
        config
    }
}

/// Runs `volary archive export`.
pub fn export(args: ExportArgs, out: &Out) -> Result<(), Failure> {
    let config = args.config();
    let mut run = ExportRun { only: args.only, dry_run: args.dry_run, ..ExportRun::default() };
    if args.verify {
        let found = volary_server::verify_export(&args.dir, &config)?;
        if found.problems.is_empty() || !args.repair {
            return show_verified(&found, &args.to, out);
        }
        run.again = found.problems.into_iter().map(|problem| problem.key).collect();
    }
    let progress = Progress::new();
    let exported = volary_server::export(&args.dir, &config, &run, &|event| progress.tell(out, event))?;
    out.show(&exported, |exported| show_exported(exported, &args.to, out));
    if !args.repair {
        return Ok(());
    }
    show_verified(&volary_server::verify_export(&args.dir, &config)?, &args.to, out)
}

fn show_exported(exported: &Exported, to: &str, out: &Out) {
    let would = if exported.dry_run { "would be " } else { "" };
    for suite in &exported.suites {
        let (tone, what) = match exported.changed.contains(suite) {
            true if exported.dry_run => (Tone::Warn, "would change"),
            true => (Tone::Good, "exported"),
            false => (Tone::Dim, "there already"),
        };
        out.line(format!("{} {suite}", out.tone(tone, what)));
    }
    let put = format!(
        "{} ({}) {would}put into {to}",
        count(exported.put as usize, "object"),
        bytes(exported.bytes)
    );
    let removed = format!("{} {would}removed", exported.removed.len());
    out.line(format!("{put}, {removed}, {} unnamed and within their grace", exported.waiting));
    if let Some(why) = &exported.kept_because {
        out.note(&format!("nothing was removed, because a suite there cannot be read: {why}"));
    }
}

fn show_verified(found: &Verified, to: &str, out: &Out) -> Result<(), Failure> {
    out.show(found, |found| {
        for problem in &found.problems {
            out.line(format!("{} {}: {}", out.tone(Tone::Bad, "bad"), problem.key, problem.problem));
        }
        for suite in &found.behind {
            out.line(format!("{} {suite}: the archive has a later state", out.tone(Tone::Warn, "behind")));
        }
        let suites = count(found.suites.len(), "suite");
        let objects = count(found.objects as usize, "object");
        out.line(format!("{to} has {suites}; {objects} ({}) were read", bytes(found.bytes)));
    });
    match found.problems.len() {
        0 => Ok(()),
        number => Err(Failure::no(
            format!("{to} is not whole: {}", count(number, "problem")),
            Some("put it right with --verify --repair".to_owned()),
        )),
    }
}

/// Runs `volary archive exports`.
pub fn exports(args: &ExportsArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    if let Some(name) = &args.run {
        let export: Export = client.post(&format!("/api/v1/exports/{}/run", encode(name)), &())?;
        out.show(&export, |export| {
            out.line(format!("{} runs; see how it goes with: volary archive exports", export.name))
        });
        return Ok(());
    }
    let exports: Vec<Export> = client.get("/api/v1/exports")?;
    out.show(&exports, |exports| {
        let rows = exports.iter().map(|export| row(export, out)).collect();
        out.table(
            &["NAME", "TO", "SUITES", "STATE", "LAST DONE"],
            rows,
            "the server exports nothing; declare one as [[export]] in server.toml",
        );
        for export in exports {
            if let Some(problem) = &export.problem {
                let next = export.next_at.map_or_else(String::new, |at| format!("; tried again at {at:.0}"));
                out.line(format!("{}: {problem}{next}", export.name));
            }
        }
    });
    Ok(())
}

fn row(export: &Export, out: &Out) -> Vec<String> {
    let (tone, state) = match export.state {
        ExportState::Current => (Tone::Good, "current"),
        ExportState::Behind => (Tone::Warn, "behind"),
        ExportState::Running => (Tone::Warn, "running"),
        ExportState::Failed => (Tone::Bad, "failed"),
    };
    let suites = export.suites.join(" ");
    vec![export.name.clone(), export.to.clone(), suites, out.tone(tone, state), ago_or_dash(export.done_at)]
}

/// A line each second on a terminal, for people who wait for a large export.
struct Progress {
    begun: jiff::Timestamp,
    last: Mutex<State>,
}

struct State {
    shown: Instant,
    objects: usize,
    bytes: u64,
    put: usize,
    put_bytes: u64,
}

impl Progress {
    fn new() -> Self {
        let state = State { shown: Instant::now(), objects: 0, bytes: 0, put: 0, put_bytes: 0 };
        Self { begun: volary_host::now(), last: Mutex::new(state) }
    }

    fn tell(&self, out: &Out, event: ExportEvent<'_>) {
        let mut state = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            ExportEvent::Planned { objects, bytes } => (state.objects, state.bytes) = (objects, bytes),
            ExportEvent::Put { size, .. } => {
                state.put += 1;
                state.put_bytes += size;
            }
            ExportEvent::Published(_) | ExportEvent::Removed(_) => {}
        }
        if state.shown.elapsed() < Duration::from_secs(1) || !std::io::stderr().is_terminal() {
            return;
        }
        state.shown = Instant::now();
        out.note(&format!(
            "{} of {} put ({} of {}), begun {}",
            state.put,
            count(state.objects, "object"),
            bytes(state.put_bytes),
            bytes(state.bytes),
            ago(self.begun)
        ));
    }
}
