//! `volary check`: is this fleet repository one that the server and the devices will take?

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use volary_fleet::{CheckOptions, Finding, Severity, check_folder, has_errors};

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
pub fn run(args: &CheckArgs, out: &Out) -> Result<(), Failure> {
    let ansible = !args.no_ansible;
    let findings = check_folder(&args.dir, &CheckOptions { ansible })?;
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
