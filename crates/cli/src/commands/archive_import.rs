//! `volary archive import`: the packages of what aptly, reprepro or others publish, into rolling.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use volary_api::v1::mirror::{Import, ImportStatus};

use super::archive_mirror::{progress, read_keyring, remarks};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, bytes};
use crate::progress::Line;

/// Between two questions how far it is.
const ASK: Duration = Duration::from_millis(300);

/// What to import.
#[derive(Args)]
pub struct ImportArgs {
    /// The root of the publication (it has dists/): http://…, https://…, or a folder of the server
    from: String,
    /// The suite
    #[arg(long)]
    suite: String,
    /// The keyring whose keys may sign, armored or not
    #[arg(long, required_unless_present = "unsigned")]
    key: Option<PathBuf>,
    /// Take it although nobody signs it
    #[arg(long, conflicts_with = "key")]
    unsigned: bool,
    /// The components, separated by commas; default: all
    #[arg(long = "component", value_delimiter = ',')]
    components: Vec<String>,
    /// Only say what would come
    #[arg(long)]
    dry_run: bool,
}

/// Runs `volary archive import`.
pub fn run(args: ImportArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let request = Import {
        url: args.from,
        suite: args.suite,
        components: args.components,
        keyring: args.key.as_deref().map(read_keyring).transpose()?,
        dry_run: args.dry_run,
    };
    let mut status: ImportStatus = client.post("/api/v1/imports", &request)?;
    let mut line = Line::new(out);
    while let Some(running) = &status.running {
        line.show(&progress(running));
        std::thread::sleep(ASK);
        status = client.get(&format!("/api/v1/imports/{}", status.id))?;
    }
    line.end();
    let report = status.report.clone().unwrap_or_default();
    out.show(&status, |status| {
        if report.problem.is_some() {
            return;
        }
        let verb = if args.dry_run { "would add" } else { "added" };
        for package in &status.added {
            out.line(format!("{} {package}", out.tone(Tone::Good, verb)));
        }
        remarks(&report, out);
        let known = report.packages - report.added;
        let (added, fetched) = (report.added, bytes(report.fetched));
        out.line(format!("{verb} {added} packages, {known} were there already, {fetched} fetched"));
    });
    match report.problem {
        None => Ok(()),
        Some(problem) => Err(Failure::with_help(
            anyhow!("the import ended: {problem}"),
            "what came before that stays; import again to go on",
        )),
    }
}
