//! `volary archive check`, `gc` and `why`: is it whole, what can go, and what keeps the rest.

use clap::Args;
use volary_api::client::{Client, ClientError};
use volary_api::v1::upkeep::{Check, CheckLine, CheckReport, Collect, Collected, Why};
use volary_plan::text;

use super::encode;
use crate::failure::Failure;
use crate::out::{Out, Tone, bytes};
use crate::progress::Line;

/// Options of `volary archive check`.
#[derive(Args)]
pub struct CheckArgs {
    /// Also read every file and compare its hash
    #[arg(long)]
    deep: bool,
}

/// Options of `volary archive gc`.
#[derive(Args)]
pub struct GcArgs {
    /// Only show what would go
    #[arg(long)]
    dry_run: bool,
}

/// Options of `volary archive why`.
#[derive(Args)]
pub struct WhyArgs {
    /// The package, all its versions or one
    #[arg(value_name = "PACKAGE[=VERSION]")]
    package: String,
}

/// Runs `volary archive check`.
pub fn check(args: &CheckArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    let mut last = None;
    let mut progress = Line::new(out);
    client.post_lines("/api/v1/archive/check", &Check { deep: args.deep }, &mut |line| match line {
        CheckLine::Progress { done, total } => progress.show(&how_far(done, total)),
        other => last = Some(other),
    })?;
    progress.end();
    match last {
        Some(CheckLine::Report(report)) => {
            out.show(&report, |report| tell(report, out));
            if report.problems.is_empty() {
                return Ok(());
            }
            let found = text::count(report.problems.len(), "problem");
            let help = "bring the named files back from a copy of the server's folder; suites are written anew \
                        with the next publish";
            Err(Failure::no(format!("the archive is not whole: {found}"), Some(help.to_owned())))
        }
        Some(CheckLine::Failed(problem)) => Err(ClientError::Refused(problem).into()),
        Some(CheckLine::Progress { .. }) | None => Err(Failure::with_help(
            anyhow::anyhow!("the server ended before the check did"),
            "the server's log says why",
        )),
    }
}

fn how_far(done: u64, total: u64) -> String {
    // Nothing to read is all that there is to read.
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    format!("read {} of {} ({percent} %)", bytes(done), bytes(total))
}

fn tell(report: &CheckReport, out: &Out) {
    for problem in &report.problems {
        out.line(format!("{} {problem}", out.tone(Tone::Bad, "problem")));
    }
    let counts = [
        text::count(report.suites as usize, "suite"),
        text::count(report.indexes as usize, "index file"),
        text::count(report.packages as usize, "package file"),
    ];
    let state = if report.problems.is_empty() { "all are whole" } else { "not all are whole" };
    out.line(format!("{}: {state}", counts.join(", ")));
}

/// Runs `volary archive gc`.
pub fn gc(args: &GcArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    let collected: Collected = client.post("/api/v1/archive/gc", &Collect { dry_run: args.dry_run })?;
    out.show(&collected, |collected| {
        let rows = collected
            .removed
            .iter()
            .map(|package| {
                let (name, architecture) = (package.name.to_string(), package.architecture.to_string());
                vec![name, package.version.clone(), architecture, bytes(package.size)]
            })
            .collect();
        out.table(&["PACKAGE", "VERSION", "ARCH", "SIZE"], rows, "no package can go");
        let verb = if collected.dry_run { "would be" } else { "are" };
        let strays = match collected.strays {
            0 => String::new(),
            strays => format!(", with {} that nothing names", text::count(strays as usize, "stray file")),
        };
        let kept = text::count(collected.kept as usize, "package");
        out.line(format!("{} {verb} freed{strays}; {kept} in the archive", bytes(collected.bytes)));
    });
    Ok(())
}

/// Runs `volary archive why`.
pub fn why(args: &WhyArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    let (package, version) = match args.package.split_once('=') {
        Some((package, version)) => (package, format!("&version={}", encode(version))),
        None => (args.package.as_str(), String::new()),
    };
    let found: Vec<Why> = client.get(&format!("/api/v1/archive/why?package={}{version}", encode(package)))?;
    out.show(&found, |found| {
        for why in found {
            let package = &why.package;
            out.line(format!("{} {} ({})", package.name, package.version, package.architecture));
            for reason in &why.reasons {
                out.line(format!("  stays: {reason}"));
            }
            if why.reasons.is_empty() {
                out.line(out.tone(Tone::Warn, "  nothing keeps it; the next collection removes it"));
            }
        }
    });
    Ok(())
}
