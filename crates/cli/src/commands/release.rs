//! `volary release`: snapshots of rolling on their way to production.

use clap::Subcommand;
use serde::Serialize;
use volary_api::client::Client;
use volary_api::v1::archive::{
    Cut, Difference, Download, Package, PackageChange, Pick, Picked, Protect, Release,
};
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
    /// Take a release away, with all its revisions: refused while a lock file or a device uses it
    Drop {
        /// The release
        name: ReleaseName,
    },
    /// Keep a release from being dropped
    Protect {
        /// The release
        name: ReleaseName,
        /// Why, in a line
        #[arg(long)]
        reason: String,
    },
    /// Let a release be dropped again
    Unprotect {
        /// The release
        name: ReleaseName,
    },
    /// List the releases
    List,
    /// Show a release with its revisions, and from which commit each package came
    Show {
        /// The release, or a revision of it: v1.0, v1.0/r1
        name: String,
    },
    /// Show what differs between two releases, revisions or rolling: packages, changes, sizes
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
                picked_changes(picked, out);
                if picked.changes.is_empty() {
                    return out.line(format!("{} has all of this already", picked.release));
                }
                let verb = if picked.dry_run { "would be" } else { "is" };
                out.line(format!("{} {verb} the newest revision", picked.release));
                if picked.dry_run {
                    out.line("nothing was changed; leave --dry-run out to do it");
                }
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
        ReleaseCommand::Drop { name } => {
            let path = format!("/api/v1/releases/{}", encode(name.as_str()));
            let release: Release = client.delete_for(&path)?;
            out.show(&release, |release| {
                let revisions = text::count(release.revisions.len(), "revision");
                out.line(format!("{} is gone, with {revisions}; its name stays taken", release.name));
            });
        }
        ReleaseCommand::Protect { name, reason } => {
            let path = format!("/api/v1/releases/{}/protect", encode(name.as_str()));
            let release: Release = client.post(&path, &Protect { reason })?;
            out.show(&release, |release| out.line(format!("{} cannot be dropped", release.name)));
        }
        ReleaseCommand::Unprotect { name } => {
            let path = format!("/api/v1/releases/{}/unprotect", encode(name.as_str()));
            let release: Release = client.post(&path, &())?;
            out.show(&release, |release| out.line(format!("{} can be dropped", release.name)));
        }
        ReleaseCommand::Show { name } => {
            let of = suite(&client, &name)?;
            let Suite::Release(reference) = &of else {
                return Err(Failure::with_help(
                    anyhow::anyhow!("{of} is no release"),
                    "see what is in it with: volary archive list",
                ));
            };
            let path = format!("/api/v1/releases/{}", encode(reference.name.as_str()));
            let release: Release = client.get(&path)?;
            let packages: Vec<Package> =
                client.get(&format!("/api/v1/packages?suite={}", encode(&of.to_string())))?;
            let shown = Shown { release, suite: of.to_string(), packages };
            out.show(&shown, |shown| show(shown, out));
        }
        ReleaseCommand::Diff { from, to } => {
            let (from, to) = (suite(&client, &from)?, suite(&client, &to)?);
            let (a, b) = (encode(&from.to_string()), encode(&to.to_string()));
            let difference: Difference = client.get(&format!("/api/v1/diff?from={a}&to={b}"))?;
            out.show(&difference, |difference| diff(difference, out));
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

/// A release with the packages of one of its revisions.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    release: Release,
    /// The revision whose packages follow.
    suite: String,
    packages: Vec<Package>,
}

/// What a pick changes, and why.
fn picked_changes(picked: &Picked, out: &Out) {
    let rows = picked
        .changes
        .iter()
        .map(|change| {
            let mut row = row(change, out);
            row.push(change.because.clone());
            row
        })
        .collect();
    out.table(&["", "PACKAGE", "ARCH", "FROM", "TO", "SIZE", "BECAUSE"], rows, "no package differs");
    show_downloads(&picked.downloads, out);
}

/// What devices fetch, and how much more or less they hold afterwards.
fn show_downloads(downloads: &[Download], out: &Out) {
    for download in downloads {
        let packages = text::count(download.packages as usize, "package");
        let (size, growth) = (bytes(download.bytes), growth(download.growth));
        out.line(format!(
            "{}: a device with all of it fetches {packages}, {size}; {growth} installed",
            download.architecture
        ));
    }
}

/// A difference of sizes, with its sign.
fn growth(change: i64) -> String {
    let sign = if change < 0 { '-' } else { '+' };
    format!("{sign}{}", bytes(change.unsigned_abs()))
}

fn diff(difference: &Difference, out: &Out) {
    out.line(format!("from {} to {}:", difference.from, difference.to));
    let rows = difference
        .packages
        .iter()
        .map(|change| {
            let mut row = row(change, out);
            let before = i64::try_from(change.installed_before).unwrap_or(i64::MAX);
            row.push(growth(i64::try_from(change.installed).unwrap_or(i64::MAX) - before));
            row
        })
        .collect();
    let headers = ["", "PACKAGE", "ARCH", "FROM", "TO", "SIZE", "INSTALLED"];
    out.table(&headers, rows, "no package differs");
    show_downloads(&difference.downloads, out);
    for source in &difference.sources {
        out.line("");
        let (from, to) = (source.from.as_deref().unwrap_or("new"), &source.to);
        let lost = if source.backwards { ", which takes back" } else { "" };
        out.line(out.tone(Tone::Bold, format!("{} {from} → {to}{lost}", source.source)));
        if source.entries.is_empty() {
            out.line(out.tone(Tone::Dim, "  its changelog says nothing about it"));
        }
        for entry in &source.entries {
            out.line(format!("  {}  {}", entry.version, out.tone(Tone::Dim, &entry.trailer)));
            entry.changes.lines().for_each(|line| out.line(format!("  {line}")));
        }
    }
}

/// The table of package changes, also part of `volary promote`.
pub fn changes(changes: &[PackageChange], out: &Out) {
    let rows = changes.iter().map(|change| row(change, out)).collect();
    out.table(&["", "PACKAGE", "ARCH", "FROM", "TO", "SIZE"], rows, "no package differs");
}

fn row(change: &PackageChange, out: &Out) -> Vec<String> {
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
}

fn frozen(release: &Release) -> String {
    let state = release.frozen_at.map_or_else(|| "open".into(), |at| format!("frozen {}", ago(at)));
    if release.protection.is_some() { format!("{state}, protected") } else { state }
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

fn show(shown: &Shown, out: &Out) {
    let release = &shown.release;
    out.line(format!("{} is {}", release.name, frozen(release)));
    if let Some(protection) = &release.protection {
        out.line(format!("protected by {} {}: {}", protection.by, ago(protection.since), protection.reason));
    }
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
    out.line("");
    out.line(out.tone(Tone::Bold, format!("packages of {}", shown.suite)));
    let rows = shown
        .packages
        .iter()
        .map(|package| {
            let commit = package.commit.as_ref().map_or("–".into(), |commit| commit.short().to_owned());
            let source = package.built_from.as_ref().map_or_else(|| "–".into(), ToString::to_string);
            let build = package.build.map_or_else(|| "–".into(), |build| build.to_string());
            let (name, architecture) = (package.name.to_string(), package.architecture.to_string());
            vec![name, package.version.clone(), architecture, source, commit, build]
        })
        .collect();
    out.table(&["PACKAGE", "VERSION", "ARCH", "SOURCE", "COMMIT", "BUILD"], rows, "it has no package");
}
