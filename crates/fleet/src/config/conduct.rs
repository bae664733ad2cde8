//! Sections of `volary.yml` about how devices go through a change: `confirm`, `run_within`,
//! `checkpoint`, `carry`, `splay`, `drift` and `fresh`.

use std::time::Duration;

use crate::fields::{FieldError, Fields};

/// How long a change is watched before it counts as good, where `confirm` is silent: what a new
/// service needs to show that it stays up, and short enough for a person who waits.
pub(super) const DEFAULT_CONFIRM: Duration = Duration::from_secs(5 * 60);

/// How long one convergence may take where `run_within` is silent.
pub(super) const DEFAULT_RUN: Duration = Duration::from_secs(3600);

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The most paths of `checkpoint` and of `carry`.
const MAX_PATHS: usize = 100;

/// Trees of the kernel, of which nothing can be put back, and the agent's own checkpoints.
const NEVER_SAVED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/lib/volary"];

/// Looking for what changed on a device without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// How often.
    pub every: Duration,
    /// What to do with it.
    pub action: DriftAction,
}

/// What to do with drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftAction {
    /// Say so.
    Report,
    /// Say so, and converge.
    Repair,
}

pub(super) fn confirm(section: &Fields<'_>, stage: &str) -> Result<Duration, FieldError> {
    section.duration(stage, Duration::from_secs(1), HOUR)
}

pub(super) fn run_within(section: &Fields<'_>, stage: &str) -> Result<Duration, FieldError> {
    section.duration(stage, Duration::from_secs(60), DAY)
}

pub(super) fn splay(section: &Fields<'_>, stage: &str) -> Result<Duration, FieldError> {
    section.duration(stage, Duration::ZERO, DAY)
}

pub(super) fn fresh(section: &Fields<'_>, stage: &str) -> Result<Duration, FieldError> {
    section.duration(stage, HOUR, 366 * DAY)
}

pub(super) fn drift(section: &Fields<'_>, stage: &str) -> Result<Drift, FieldError> {
    let fields = section.map(stage, &["every", "do"])?;
    Ok(Drift {
        every: match fields.get("every") {
            Some(_) => fields.duration("every", Duration::from_secs(600), 31 * DAY)?,
            None => DAY,
        },
        action: match fields.get("do") {
            Some(_) => match fields.text("do")? {
                "report" => DriftAction::Report,
                "repair" => DriftAction::Repair,
                other => {
                    let message = format!("{other:?} is nothing to do with drift");
                    return Err(fields.complain("do", message, "write `report` or `repair`"));
                }
            },
            None => DriftAction::Report,
        },
    })
}

/// `checkpoint` and `carry`: what is put back, and what is taken along.
pub(super) fn paths(root: &Fields<'_>, section: &str) -> Result<Vec<String>, FieldError> {
    if root.get(section).is_none() {
        return Ok(Vec::new());
    }
    let paths = root.texts(section)?;
    if paths.len() > MAX_PATHS {
        let message = format!("there are {} paths, and {MAX_PATHS} are taken", paths.len());
        return Err(root.complain(section, message, "name a folder above several of them"));
    }
    let one = |(path, line): (&str, usize)| match saved_path(path) {
        Ok(()) => Ok(path.to_owned()),
        Err((message, remedy)) => Err(root.complain_at(line, section, message, remedy)),
    };
    paths.into_iter().map(one).collect()
}

fn saved_path(path: &str) -> Result<(), (String, &'static str)> {
    let Some(inside) = path.strip_prefix('/') else {
        return Err((format!("{path:?} is not an absolute path"), "let it begin with `/`"));
    };
    if inside.is_empty() {
        return Err(("the whole device is too much to save".to_owned(), "name the folders that matter"));
    }
    if inside.split('/').any(|part| matches!(part, "" | "." | ".."))
        || path.len() > 1000
        || path.contains(char::is_control)
    {
        let remedy = "write it without `.`, `..`, double or trailing slashes and control characters";
        return Err((format!("{path:?} is not written as a plain path"), remedy));
    }
    let below = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..]))
    };
    match NEVER_SAVED.into_iter().find(|folder| below(folder)) {
        Some(folder) => Err((format!("nothing below {folder} can be put back or carried"), "remove it")),
        None => Ok(()),
    }
}
