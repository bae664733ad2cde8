//! Reports that wait to be sent: one file each, so that they survive reboots and weeks offline
//! within a limit.

use std::fs;
use std::path::{Path, PathBuf};

use volary_api::v1::device::Report;
use volary_host::{FileError, read, remove_if_exists, write_atomic};

use crate::http::{HttpError, Server};
use crate::log;

/// How many reports may wait.
const COUNT: usize = 500;

/// How many bytes they may have together.
const BYTES: u64 = 4 << 20;

/// The spool folder.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
}

/// One report that waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    name: String,
    size: u64,
}

impl Waiting {
    /// Results of convergences are worth more than reports of health.
    fn is_health(&self) -> bool {
        self.name.ends_with("-health.json")
    }
}

impl Spool {
    /// The spool in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Keeps a report. If there are too many, the oldest reports of health go first, then the
    /// oldest of all.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep(&self, report: &Report) -> Result<(), FileError> {
        let kind = if report.convergence.is_some() { "result" } else { "health" };
        let json = serde_json::to_vec(report).expect("a report has only text keys");
        let path = self.folder.join(format!("{}-{kind}.json", report.id));
        write_atomic(&path, &json, 0o600)?;
        for name in too_many(&self.waiting()?, COUNT, BYTES) {
            remove_if_exists(&self.folder.join(name))?;
        }
        Ok(())
    }

    /// How many reports wait.
    pub fn count(&self) -> usize {
        self.waiting().map_or(0, |waiting| waiting.len())
    }

    /// Sends what waits, oldest first, and removes what the server has. Stops at the first that
    /// does not get through; one that the server does not take is dropped, as it never will.
    ///
    /// # Errors
    /// [`HttpError`] if the server is away.
    pub fn send(&self, server: &Server) -> Result<usize, HttpError> {
        let mut sent = 0;
        for waiting in self.waiting().unwrap_or_default() {
            let path = self.folder.join(&waiting.name);
            let Ok(json) = read(&path) else { continue };
            match server.report(&json) {
                Ok(()) => sent += 1,
                Err(error @ HttpError::Refused { status: 400 | 409 | 413 | 422, .. }) => {
                    log::say(format!("a report is lost: {error}"));
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = remove_if_exists(&path) {
                log::say(error.to_string());
            }
        }
        Ok(sent)
    }

    fn waiting(&self) -> Result<Vec<Waiting>, FileError> {
        let entries = fs::read_dir(&self.folder).map_err(FileError::at("list", &self.folder))?;
        let mut waiting: Vec<Waiting> = entries
            .flatten()
            .filter(|entry| Path::new(&entry.file_name()).extension().is_some_and(|kind| kind == "json"))
            .map(|entry| Waiting {
                name: entry.file_name().to_string_lossy().into_owned(),
                size: entry.metadata().map_or(0, |meta| meta.len()),
            })
            .collect();
        waiting.sort();
        Ok(waiting)
    }
}

/// Which reports go so that the rest keeps the limits. `waiting` is sorted, oldest first.
fn too_many(waiting: &[Waiting], count: usize, bytes: u64) -> Vec<&str> {
    let (mut left, mut size) = (waiting.len(), waiting.iter().map(|report| report.size).sum::<u64>());
    let health = waiting.iter().filter(|report| report.is_health());
    let results = waiting.iter().filter(|report| !report.is_health());
    let mut gone = Vec::new();
    for report in health.chain(results) {
        // The newest of all stays, however large it is.
        if (left <= count && size <= bytes) || left == 1 {
            break;
        }
        gone.push(report.name.as_str());
        left -= 1;
        size -= report.size;
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_health_goes_first_and_the_last_stays() {
        let report = |name: &str| Waiting { name: name.into(), size: 10 };
        let all = [
            report("1-result.json"),
            report("2-health.json"),
            report("3-health.json"),
            report("4-result.json"),
        ];
        assert_eq!(too_many(&all, 4, 40), Vec::<&str>::new());
        assert_eq!(too_many(&all, 3, 40), ["2-health.json"]);
        assert_eq!(too_many(&all, 9, 15), ["2-health.json", "3-health.json", "1-result.json"]);
        assert_eq!(too_many(&all[..1], 9, 1), Vec::<&str>::new());
    }
}
