//! `volary check`: everything that can be wrong in a fleet repository, found before a device does.
//!
//! Works on a commit (the server's hook) and on a plain folder (somebody's CI). Ansible's own view
//! is in `check_ansible`; whether a commit may go to a stage is in `step`.

use std::fmt;
use std::path::Path;

use volary_model::{CommitId, DeviceType};

use crate::checkout::{CheckoutError, checkout, link_stays_inside};
use crate::config::{self, FleetConfig, Packages, Zone};
use crate::device_type::{DEVICE_TYPES, parse_device_type};
use crate::fields::{FieldError, did_you_mean};
use crate::inventory::{INVENTORIES, PLAYBOOKS};
use crate::lock::FleetLock;
use crate::object::{ObjectError, ObjectSource, ReadObjects};
use crate::rules::{ARCHIVE_KEY_FILE, CONFIG_FILE, LOCK_FILE, SIGNERS_FILE};
use crate::signers::AllowedSigners;
use crate::snapshot::{CommitFiles, FileKind, Files, FolderFiles};
use crate::yaml;
use crate::{check_ansible, check_inventory, check_plays};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but probably not as meant.
    Warning,
    /// Devices could not use it; the server refuses it.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file; may not exist if that is what is wrong.
    pub file: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The field: `stages.canary.from`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

/// How much to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Also let Ansible read the playbook and the inventory. It runs plugins of the repository, so
    /// only for repositories whose authors may run programs here.
    pub ansible: bool,
}

/// Checks the files of a commit.
///
/// # Errors
/// [`ObjectError`] if the repository cannot be read; what is wrong *in* it is a finding.
pub fn check_commit(
    objects: &dyn ObjectSource,
    commit: &CommitId,
    options: &CheckOptions,
) -> Result<Vec<Finding>, ObjectError> {
    let tree = objects.commit(commit)?.tree;
    let mut findings = check_files(&CommitFiles::new(objects, &tree)?)?;
    // Ansible would only repeat, less clearly, what was found already.
    if options.ansible && !has_errors(&findings) {
        let folder = tempfile::tempdir()
            .map_err(volary_host::FileError::at("create a folder in", &std::env::temp_dir()))?;
        match checkout(objects, &tree, folder.path(), None) {
            Ok(_) => findings.extend(check_ansible::run(folder.path())?),
            Err(CheckoutError::Object(error)) => return Err(error),
            Err(CheckoutError::File(error)) => return Err(error.into()),
            Err(error @ (CheckoutError::Link { .. } | CheckoutError::Submodule { .. })) => {
                findings.push(error_in("", error.to_string(), ""));
            }
        }
    }
    Ok(sorted(findings))
}

/// Checks the files in a folder: a work tree, or a copy without git.
///
/// # Errors
/// [`ObjectError`] if the folder cannot be read; what is wrong *in* it is a finding.
pub fn check_folder(folder: &Path, options: &CheckOptions) -> Result<Vec<Finding>, ObjectError> {
    let mut findings = check_files(&FolderFiles::new(folder)?)?;
    if options.ansible && !has_errors(&findings) {
        findings.extend(check_ansible::run(folder)?);
    }
    Ok(sorted(findings))
}

/// True if something was found that the server would refuse.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

pub(crate) fn error_in(file: &str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Error,
        file: file.to_owned(),
        line: None,
        field: None,
        message: message.into(),
        remedy: remedy.into(),
    }
}

pub(crate) fn warning_in(file: &str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, ..error_in(file, message, remedy) }
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then((&a.file, a.line).cmp(&(&b.file, b.line))));
    findings
}

fn check_files(files: &dyn Files) -> Result<Vec<Finding>, ObjectError> {
    let mut findings = Vec::new();
    let config = check_config(files, &mut findings)?;
    let signers = check_signers(files, &mut findings)?;
    if let (Some(config), Some(signers)) = (&config, &signers) {
        check_signer_names(config, signers, &mut findings);
    }
    if let Some(config) = &config {
        check_zones(config, &mut findings);
    }
    check_lock(files, config.as_ref(), &mut findings)?;
    check_device_types(files, &mut findings)?;
    check_entrances(files, &mut findings);
    for path in files.paths() {
        check_path(files, path, &mut findings)?;
    }
    // A file that is no YAML was named already, with its line.
    if !has_errors(&findings) {
        check_inventory::run(files, &mut findings)?;
    }
    check_plays::run(files, &mut findings)?;
    Ok(findings)
}

fn text_of(
    files: &dyn Files,
    path: &str,
    findings: &mut Vec<Finding>,
) -> Result<Option<String>, ObjectError> {
    let Some(bytes) = files.read(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    if text.is_err() {
        findings.push(error_in(path, "the file is not UTF-8 text", "save it as UTF-8"));
    }
    Ok(text.ok())
}

fn field_finding(file: &str, error: FieldError) -> Finding {
    Finding {
        line: Some(error.line),
        field: Some(error.field).filter(|field| !field.is_empty()),
        ..error_in(file, error.message, error.remedy)
    }
}

fn check_config(files: &dyn Files, findings: &mut Vec<Finding>) -> Result<Option<FleetConfig>, ObjectError> {
    if files.kind(CONFIG_FILE).is_none() {
        let remedy = "`volary init` writes one; it names the stages";
        findings.push(error_in(CONFIG_FILE, "the file is missing", remedy));
    }
    let Some(text) = text_of(files, CONFIG_FILE, findings)? else { return Ok(None) };
    match FleetConfig::parse(&text) {
        Ok(config) => {
            let unsaid = config::asks_for_enough(&text).err();
            findings.extend(unsaid.map(|error| field_finding(CONFIG_FILE, error)));
            Ok(Some(config))
        }
        Err(error) => {
            findings.push(field_finding(CONFIG_FILE, error));
            Ok(None)
        }
    }
}

/// Device types, and that the files that they name are there.
fn check_device_types(files: &dyn Files, findings: &mut Vec<Finding>) -> Result<(), ObjectError> {
    for path in files.paths() {
        let Some(name) = path.strip_prefix(DEVICE_TYPES).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let Some(name) = name.strip_suffix(".yml") else { continue };
        if let Err(error) = name.parse::<DeviceType>() {
            findings.push(error_in(path, error.to_string(), "rename the file"));
        }
        let Some(text) = text_of(files, path, findings)? else { continue };
        let recipe = match parse_device_type(&text) {
            Ok(recipe) => recipe,
            Err(error) => {
                findings.push(field_finding(path, error));
                continue;
            }
        };
        for file in recipe.files().into_iter().filter(|file| files.kind(file).is_none()) {
            findings.push(error_in(
                path,
                format!("{file} is not in the repository"),
                "add it, or name another file",
            ));
        }
    }
    Ok(())
}

fn check_signers(
    files: &dyn Files,
    findings: &mut Vec<Finding>,
) -> Result<Option<AllowedSigners>, ObjectError> {
    if files.kind(SIGNERS_FILE).is_none() {
        let remedy = "add a line `NAME ssh-ed25519 KEY` for each person who may sign";
        findings.push(error_in(SIGNERS_FILE, "the file is missing, so nobody could sign", remedy));
    }
    if files.kind(ARCHIVE_KEY_FILE).is_none() {
        let remedy = "copy the archive's public OpenPGP key there, or devices cannot check packages";
        findings.push(warning_in(ARCHIVE_KEY_FILE, "the file is missing", remedy));
    }
    let Some(text) = text_of(files, SIGNERS_FILE, findings)? else { return Ok(None) };
    match AllowedSigners::parse(&text) {
        Ok(signers) => Ok(Some(signers)),
        Err(error) => {
            findings.push(Finding { line: Some(error.line), ..error_in(SIGNERS_FILE, error.reason, "") });
            Ok(None)
        }
    }
}

fn check_signer_names(config: &FleetConfig, signers: &AllowedSigners, findings: &mut Vec<Finding>) {
    let known: Vec<&str> =
        signers.signers.iter().flat_map(|signer| signer.principals.iter().map(String::as_str)).collect();
    for (stage, names) in &config.signers {
        for name in names.iter().filter(|name| !signers.knows(name)) {
            findings.push(Finding {
                field: Some(format!("signers.{stage}")),
                ..error_in(
                    CONFIG_FILE,
                    format!("{name:?} is not in {SIGNERS_FILE}"),
                    did_you_mean(name, &known),
                )
            });
        }
    }
}

/// A zone that no device knows would leave it without a window. Where there is no data base of
/// zones at all, the name alone was checked.
fn check_zones(config: &FleetConfig, findings: &mut Vec<Finding>) {
    let zones = jiff::tz::db();
    if zones.is_definitively_empty() {
        return;
    }
    for (stage, windows) in &config.windows {
        let Zone::Named(name) = &windows.zone else { continue };
        if zones.get(name).is_err() {
            let known: Vec<String> = zones.available().map(|zone| zone.as_str().to_owned()).collect();
            let known: Vec<&str> =
                known.iter().map(String::as_str).filter(|zone| zone.contains('/')).collect();
            let remedy = match did_you_mean(name, &known) {
                near if near.len() < 200 => near,
                _ => "`timedatectl list-timezones` lists them".to_owned(),
            };
            findings.push(Finding {
                field: Some(format!("windows.{stage}.time_zone")),
                ..error_in(CONFIG_FILE, format!("there is no time zone {name}"), remedy)
            });
        }
    }
}

fn check_lock(
    files: &dyn Files,
    config: Option<&FleetConfig>,
    findings: &mut Vec<Finding>,
) -> Result<(), ObjectError> {
    let pinned = |stage: &crate::config::Stage| stage.packages == Packages::Lock;
    if files.kind(LOCK_FILE).is_none() && config.is_some_and(|config| config.stages.iter().any(pinned)) {
        findings.push(error_in(LOCK_FILE, "the file is missing", "write `version: 1` into it"));
    }
    let Some(text) = text_of(files, LOCK_FILE, findings)? else { return Ok(()) };
    match FleetLock::parse(&text) {
        Err(error) => findings.push(field_finding(LOCK_FILE, error)),
        Ok(FleetLock { release: Some(_), .. })
            if config.is_some_and(|config| !config.stages.iter().any(pinned)) =>
        {
            let remedy = "write `packages: lock` at the stages that shall install the release";
            findings.push(warning_in(LOCK_FILE, "no stage installs the release in it", remedy));
        }
        Ok(_) => {}
    }
    Ok(())
}

/// What Ansible starts from.
fn check_entrances(files: &dyn Files, findings: &mut Vec<Finding>) {
    if playbook(files).is_none() {
        findings.push(error_in("site.yml", "there is no playbook", "add site.yml or local.yml"));
    }
    if inventory(files).is_none() {
        findings.push(error_in("inventory.yml", "there is no inventory", "add inventory.yml or inventory/"));
    }
}

/// The playbook that devices run.
pub(crate) fn playbook(files: &dyn Files) -> Option<&'static str> {
    PLAYBOOKS.into_iter().find(|path| files.kind(path).is_some())
}

/// The inventory that devices use.
pub(crate) fn inventory(files: &dyn Files) -> Option<&'static str> {
    let is_folder = |name: &str| {
        files.paths().iter().any(|path| path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')))
    };
    INVENTORIES.into_iter().find(|path| files.kind(path).is_some() || is_folder(path))
}

fn check_path(files: &dyn Files, path: &str, findings: &mut Vec<Finding>) -> Result<(), ObjectError> {
    match files.kind(path) {
        Some(FileKind::Submodule) => {
            let message = "this is a git submodule, which devices cannot fetch";
            findings.push(error_in(path, message, "copy its files into the repository"));
        }
        Some(FileKind::Symlink) => {
            let target = files.read(path)?.unwrap_or_default();
            let target = String::from_utf8_lossy(&target);
            if !link_stays_inside(path, &target) {
                let message = format!("the symbolic link leads to {target:?}, outside the repository");
                findings.push(error_in(path, message, "use a relative path inside it"));
            }
        }
        Some(FileKind::File) if is_health_check(path) => {
            let remedy = format!("run `git add --chmod=+x {path}`");
            findings.push(error_in(path, "a health check must be executable", remedy));
        }
        Some(FileKind::File | FileKind::Executable) if is_ansible_yaml(path) => {
            let Some(text) = text_of(files, path, findings)? else { return Ok(()) };
            if let Err(error) = yaml::check_syntax(&text) {
                findings.push(Finding { line: Some(error.line), ..error_in(path, error.message, "") });
            }
        }
        Some(FileKind::File | FileKind::Executable) | None => {}
    }
    Ok(())
}

fn is_health_check(path: &str) -> bool {
    let name = ["health/required.d/", "health/wanted.d/"].iter().find_map(|folder| path.strip_prefix(folder));
    name.is_some_and(|name| !name.contains('/') && !name.starts_with('.') && !name.starts_with("README"))
}

/// Files that Ansible reads as YAML. Templates and copied files may look like it and be none, and
/// vendored collections are checked where they come from.
fn is_ansible_yaml(path: &str) -> bool {
    let is_yaml = path.ends_with(".yml") || path.ends_with(".yaml");
    let mut folders = path.split('/').rev().skip(1);
    is_yaml
        && path != CONFIG_FILE
        && !path.starts_with("collections/")
        && !folders.any(|name| name == "templates" || name == "files")
}
