//! `volary archive`: packages that come from elsewhere, and what the suites hold.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Subcommand;
use volary_api::client::Client;
use volary_api::v1::archive::{Include, Included, Package};
use volary_model::Suite;

use super::archive_export::{self, ExportArgs, ExportsArgs};
use super::archive_send::send;
use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, bytes};

/// What to do with the archive.
#[derive(Subcommand)]
pub enum ArchiveCommand {
    /// Take packages into rolling: a .changes with the files it names, or .deb files
    Include {
        /// The .changes or .deb files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Take a .changes that nobody signed
        #[arg(long)]
        allow_unsigned: bool,
    },
    /// Upload packages, as a build machine does: .deb files, or a .changes with the files it names.
    /// What is there already with the same content is fine
    Upload {
        /// The .changes or .deb files: all of them are taken, or none
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Mirror other archives into components of rolling
    #[command(subcommand)]
    Mirror(super::archive_mirror::MirrorCommand),
    /// Take the packages of what aptly, reprepro or others publish into rolling
    Import(super::archive_import::ImportArgs),
    /// List the packages of a suite
    List {
        /// `rolling`, or a release revision such as v1.0/r2
        #[arg(default_value = "rolling")]
        suite: Suite,
    },
    /// Check that every suite is whole, and all files it names are there
    Check(super::archive_upkeep::CheckArgs),
    /// Remove the packages that nothing names any more
    Gc(super::archive_upkeep::GcArgs),
    /// Say why a package stays in the archive
    Why(super::archive_upkeep::WhyArgs),
    /// See, bring, rotate and end the keys that sign the archive
    #[command(subcommand)]
    Keys(super::archive_keys::KeysCommand),
    /// Export suites to a folder or a bucket; on the server's machine
    Export(Box<ExportArgs>),
    /// Show the exports that the server keeps up to date, or run one now
    Exports(ExportsArgs),
}

/// Runs `volary archive …`.
pub fn run(command: ArchiveCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let command = match command {
        ArchiveCommand::Keys(command) => return super::archive_keys::run(&command, connection, out),
        ArchiveCommand::Export(args) => return archive_export::export(*args, out),
        ArchiveCommand::Exports(args) => return archive_export::exports(&args, connection, out),
        other => other,
    };
    let client = connection.client()?;
    match command {
        ArchiveCommand::Keys(_) | ArchiveCommand::Export(_) | ArchiveCommand::Exports(_) => {}
        ArchiveCommand::Check(args) => super::archive_upkeep::check(&args, &client, out)?,
        ArchiveCommand::Gc(args) => super::archive_upkeep::gc(&args, &client, out)?,
        ArchiveCommand::Why(args) => super::archive_upkeep::why(&args, &client, out)?,
        ArchiveCommand::Include { files, allow_unsigned } => {
            include(&client, &files, &Include { allow_unsigned }, out)?;
        }
        ArchiveCommand::Upload { files } => include(&client, &files, &Include::default(), out)?,
        ArchiveCommand::Mirror(command) => return super::archive_mirror::run(command, connection, out),
        ArchiveCommand::Import(args) => return super::archive_import::run(args, connection, out),
        ArchiveCommand::List { suite } => {
            let packages: Vec<Package> =
                client.get(&format!("/api/v1/packages?suite={}", encode(&suite.to_string())))?;
            out.show(&packages, |packages| list(packages, &suite, out));
        }
    }
    Ok(())
}

/// Sends the files and has them included, all of them or none.
fn include(client: &Client, files: &[PathBuf], options: &Include, out: &Out) -> Result<(), Failure> {
    let upload = upload_id()?;
    send(client, &upload, &with_named_files(files)?)?;
    let included: Included = client.post(&format!("/api/v1/uploads/{upload}/include"), options)?;
    out.show(&included, |included| {
        for package in &included.added {
            out.line(format!("{} {}", out.tone(Tone::Good, "added"), describe(package)));
        }
        for package in &included.already_there {
            out.line(format!("{} {}", out.tone(Tone::Dim, "there already"), describe(package)));
        }
    });
    Ok(())
}

fn describe(package: &Package) -> String {
    format!("{} {} ({}, {})", package.name, package.version, package.architecture, bytes(package.size))
}

fn list(packages: &[Package], suite: &Suite, out: &Out) {
    let rows = packages
        .iter()
        .map(|package| {
            let commit = package.commit.as_ref().map_or("–".into(), |commit| commit.short().to_owned());
            vec![
                package.name.to_string(),
                package.version.clone(),
                package.architecture.to_string(),
                bytes(package.size),
                commit,
                ago(package.included_at),
            ]
        })
        .collect();
    out.table(
        &["PACKAGE", "VERSION", "ARCH", "SIZE", "COMMIT", "INCLUDED"],
        rows,
        &format!("{suite} is empty; packages come from builds, or with: volary archive include FILE"),
    );
}

/// A name for the upload that no other upload has.
fn upload_id() -> Result<String, Failure> {
    use std::io::Read;
    let mut random = [0u8; 16];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files with those that a .changes names, each once.
fn with_named_files(files: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut all = BTreeSet::new();
    for file in files {
        if file.extension().is_some_and(|extension| extension == "changes") {
            let text = volary_host::read_to_string(file)?;
            let dir = file.parent().unwrap_or(Path::new("."));
            for name in named_files(&text) {
                let named = dir.join(&name);
                if !named.is_file() {
                    let error = anyhow!("{} names {name}, which is not beside it", file.display());
                    return Err(Failure::with_help(error, "put all files of the build into one folder"));
                }
                all.insert(named);
            }
        }
        all.insert(file.clone());
    }
    Ok(all)
}

/// The file names in a .changes: the last word of each line of its `Files` field. The server
/// reads the whole file strictly; this only finds what to send.
fn named_files(changes: &str) -> Vec<String> {
    changes
        .lines()
        .skip_while(|line| !line.to_ascii_lowercase().starts_with("files:"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().last())
        .filter(|name| !name.contains('/'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_changes_are_found() {
        let changes = "Format: 1.8\nChecksums-Sha256:\n abc 12 x.deb\nFiles:\n abc 12 utils optional a_1_amd64.deb\n abc 3 utils optional a_1.buildinfo\nX: y\n z\n";
        assert_eq!(named_files(changes), ["a_1_amd64.deb", "a_1.buildinfo"]);
        assert!(named_files("garbage").is_empty());
    }
}
