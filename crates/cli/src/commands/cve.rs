//! `volary cve`: the data of Debian's security tracker, by which promotions name what they mend.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use volary_api::v1::fleet::CveData;

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, ago};

/// What to do with the data.
#[derive(Subcommand)]
pub enum CveCommand {
    /// Give the server the tracker's data: the file `json` of https://security-tracker.debian.org/tracker/data/
    Import(ImportArgs),
    /// Show which data the server has
    Show,
}

/// Which data, and for what.
#[derive(Args)]
pub struct ImportArgs {
    /// The file
    file: PathBuf,
    /// The code name of the release of Debian that the devices run
    #[arg(long, default_value = "bookworm")]
    release: String,
}

/// Runs `volary cve …`.
pub fn run(command: CveCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let data: Option<CveData> = match command {
        CveCommand::Import(ImportArgs { file, release }) => {
            let mut bytes = File::open(&file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(client.put_for(&format!("/api/v1/cves?release={}", encode(&release)), &mut bytes)?)
        }
        CveCommand::Show => client.get("/api/v1/cves")?,
    };
    out.show(&data, |data| match data {
        Some(data) => out.line(format!(
            "{}: {} faults of {} source packages, given by {} {}",
            data.release,
            data.faults,
            data.packages,
            data.by,
            ago(data.imported_at)
        )),
        None => {
            out.line("the server has no data of Debian's security tracker");
            out.line("help: volary cve import FILE --release bookworm");
        }
    });
    Ok(())
}
