//! `volary check`: is this fleet repository one that the server and the devices will take?

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use volary_api::v1::image::Image;
use volary_fleet::{CheckOptions, Finding, FleetLock, LOCK_FILE, Severity, check_folder, has_errors};

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone};

/// Options of `volary check`.
#[derive(Args)]
pub struct CheckArgs {
    /// The fleet repository's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Do not let Ansible read the playbook and the inventory (it runs plugins of the repository)
    #[arg(long)]
    no_ansible: bool,
}

/// Runs `volary check`.
pub fn run(args: &CheckArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let ansible = !args.no_ansible;
    let mut findings = check_folder(&args.dir, &CheckOptions { ansible })?;
    findings.extend(missing_images(&args.dir, connection, out));
    if out.is_json() {
        out.show(&findings.iter().map(FindingJson::from).collect::<Vec<_>>(), |_| {});
    }
    for finding in &findings {
        let (tone, word) = match finding.severity {
            Severity::Warning => (Tone::Warn, "warning"),
            Severity::Error => (Tone::Bad, "error"),
        };
        out.line(format!("{} {finding}", out.tone(tone, format!("{word}:"))));
    }
    if has_errors(&findings) {
        let help = "the server refuses a push with errors; warnings it lets pass".to_owned();
        return Err(Failure::no(
            format!("{} is not a sound fleet repository", args.dir.display()),
            Some(help),
        ));
    }
    if findings.is_empty() {
        out.line(format!("{} is sound", args.dir.display()));
    }
    Ok(())
}

/// Pinned images that the server does not have. Only whoever has a server and a token can know: it is
/// no fault of a repository that nobody could be asked.
fn missing_images(dir: &Path, connection: &Connection, out: &Out) -> Vec<Finding> {
    let text = volary_host::read_to_string(&dir.join(LOCK_FILE)).ok();
    let lock = text.and_then(|text| FleetLock::parse(&text).ok()).unwrap_or_default();
    if lock.images.is_empty() || connection.config().is_err() {
        return Vec::new();
    }
    let asked = connection.client().and_then(|client| Ok(client.get::<Vec<Image>>("/api/v1/images")?));
    let known = match asked {
        Ok(known) => known,
        Err(failure) => {
            out.note(&format!("whether the server has the pinned images is not known: {}", failure.error));
            return Vec::new();
        }
    };
    let missing =
        lock.images.iter().filter(|(_, pinned)| known.iter().all(|image| image.artifact != pinned.artifact));
    missing
        .map(|(device_type, pinned)| Finding {
            severity: Severity::Error,
            file: LOCK_FILE.to_owned(),
            line: None,
            field: Some(format!("images.{device_type}")),
            message: format!("the server does not have the image {}", pinned.name),
            remedy: "publish it with: volary image publish FILE".to_owned(),
        })
        .collect()
}

/// A finding as programs read it.
#[derive(Serialize)]
struct FindingJson<'a> {
    severity: &'static str,
    file: &'a str,
    line: Option<usize>,
    field: Option<&'a str>,
    message: &'a str,
    remedy: &'a str,
}

impl<'a> From<&'a Finding> for FindingJson<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            file: &finding.file,
            line: finding.line,
            field: finding.field.as_deref(),
            message: &finding.message,
            remedy: &finding.remedy,
        }
    }
}
