//! `volary release`: snapshots of rolling on their way to production.

use clap::Subcommand;
use volary_api::client::Client;
use volary_api::v1::archive::{Cut, PackageChange, Pick, Picked, Release};
use volary_model::{ReleaseName, Suite};
use volary_plan::text;

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, bytes};

/// What to do with releases.
#[derive(Subcommand)]
pub enum ReleaseCommand {
    /// Make a release from what is in rolling now
    Cut {
        /// Its name, such as v1.0
        name: ReleaseName,
    },
    /// Take packages from rolling into an open release: makes its next revision
    Pick {
        /// The release
        name: ReleaseName,
        /// The packages, each at its newest version or at the one named
        #[arg(required = true, value_name = "PACKAGE[=VERSION]")]
        packages: Vec<String>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// End a release: it takes no more picks, for ever
    Freeze {
        /// The release
        name: ReleaseName,
    },
    /// List the releases
    List,
    /// Show a release with its revisions
    Show {
        /// The release
        name: ReleaseName,
    },
    /// Show what differs between two releases, revisions or rolling
    Diff {
        /// v1.0, v1.0/r1 or rolling
        from: String,
        /// v1.0, v1.0/r1 or rolling
        to: String,
    },
}

/// Runs `volary release …`.
pub fn run(command: ReleaseCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        ReleaseCommand::Cut { name } => {
            let release: Release = client.post("/api/v1/releases", &Cut { name })?;
            out.show(&release, |release| {
                let first = &release.revisions[0];
                let packages = text::count(first.packages as usize, "package");
                out.line(format!("{}/{} is cut from rolling with {packages}", release.name, first.revision));
                out.line(format!(
                    "help: put it into the fleet repository with: volary bump {}",
                    release.name
                ));
            });
        }
        ReleaseCommand::Pick { name, packages, dry_run } => {
            let path = format!("/api/v1/releases/{}/picks", encode(name.as_str()));
            let picked: Picked = client.post(&path, &Pick { packages, dry_run })?;
            out.show(&picked, |picked| {
                changes(&picked.changes, out);
                let verb = if picked.dry_run { "would be" } else { "is" };
                out.line(format!("{} {verb} the newest revision", picked.release));
            });
        }
        ReleaseCommand::Freeze { name } => {
            let path = format!("/api/v1/releases/{}/freeze", encode(name.as_str()));
            let release: Release = client.post(&path, &())?;
            out.show(&release, |release| {
                let last = release.revisions.last().map(|last| last.revision.to_string()).unwrap_or_default();
                out.line(format!("{} is frozen at {last}; it takes no more picks", release.name));
            });
        }
        ReleaseCommand::List => {
            let releases: Vec<Release> = client.get("/api/v1/releases")?;
            out.show(&releases, |releases| list(releases, out));
        }
        ReleaseCommand::Show { name } => {
            let release: Release = client.get(&format!("/api/v1/releases/{}", encode(name.as_str())))?;
            out.show(&release, |release| show(release, out));
        }
        ReleaseCommand::Diff { from, to } => {
            let (from, to) = (suite(&client, &from)?, suite(&client, &to)?);
            let (a, b) = (encode(&from.to_string()), encode(&to.to_string()));
            let difference: Vec<PackageChange> = client.get(&format!("/api/v1/diff?from={a}&to={b}"))?;
            out.show(&difference, |difference| {
                out.line(format!("from {from} to {to}:"));
                changes(difference, out);
            });
        }
    }
    Ok(())
}

/// A release without a revision stands for its newest one.
fn suite(client: &Client, text: &str) -> Result<Suite, Failure> {
    if text == "rolling" || text.contains('/') {
        return Ok(text.parse()?);
    }
    let name: ReleaseName = text.parse()?;
    let release: Release = client.get(&format!("/api/v1/releases/{}", encode(name.as_str())))?;
    let newest = release.revisions.last().ok_or_else(|| anyhow::anyhow!("{name} has no revision"))?;
    Ok(format!("{name}/{}", newest.revision).parse()?)
}

/// The table of package changes, also part of `volary promote`.
pub fn changes(changes: &[PackageChange], out: &Out) {
    let rows = changes
        .iter()
        .map(|change| {
            let (sign, tone) = match (&change.from, &change.to) {
                (None, _) => ("+", Tone::Good),
                (_, None) => ("-", Tone::Bad),
                _ => ("~", Tone::Warn),
            };
            vec![
                out.tone(tone, sign),
                change.name.to_string(),
                change.architecture.to_string(),
                change.from.clone().unwrap_or_else(|| "–".into()),
                change.to.clone().unwrap_or_else(|| "–".into()),
                if change.size > 0 { bytes(change.size) } else { String::new() },
            ]
        })
        .collect();
    out.table(&["", "PACKAGE", "ARCH", "FROM", "TO", "SIZE"], rows, "no package differs");
}

fn frozen(release: &Release) -> String {
    release.frozen_at.map_or_else(|| "open".into(), |at| format!("frozen {}", ago(at)))
}

/// The table of releases, also part of `volary status`.
pub fn list(releases: &[Release], out: &Out) {
    let rows = releases
        .iter()
        .filter_map(|release| release.revisions.last().map(|newest| (release, newest)))
        .map(|(release, newest)| {
            vec![
                release.name.to_string(),
                newest.revision.to_string(),
                frozen(release),
                newest.packages.to_string(),
                ago(newest.created_at),
                newest.digest.short(),
            ]
        })
        .collect();
    out.table(
        &["RELEASE", "REVISION", "STATE", "PACKAGES", "MADE", "DIGEST"],
        rows,
        "no releases yet; cut one with: volary release cut v1.0",
    );
}

fn show(release: &Release, out: &Out) {
    out.line(format!("{} is {}", release.name, frozen(release)));
    let rows = release
        .revisions
        .iter()
        .map(|revision| {
            vec![
                revision.revision.to_string(),
                format!("{:.0}", revision.created_at),
                revision.packages.to_string(),
                revision.digest.to_string(),
                if revision.picks.is_empty() { "cut from rolling".into() } else { revision.picks.join(" ") },
            ]
        })
        .collect();
    out.table(&["REVISION", "MADE", "PACKAGES", "DIGEST", "PICKED"], rows, "it has no revision");
}
