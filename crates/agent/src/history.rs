//! How the last convergences ended, kept on the device: for a person who stands before it without a
//! network. `volary-agent log` shows it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_api::v1::device::{Convergence, Failure, Outcome, Report};
use volary_host::{FileError, read_to_string, write_atomic};
use volary_model::StageName;

use crate::paths::Paths;

/// How many convergences are kept: half a year of a fleet that changes each day.
const COUNT: usize = 200;

/// How many bytes they may have together: messages and journals are bounded, and there are few.
const BYTES: usize = 512 << 10;

/// How many lines of a message are shown; `--json` has all that was kept.
const LINES: usize = 8;

/// A convergence that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The id of its report.
    pub report: String,
    /// The agent that ended it.
    pub agent: String,
    /// The stage.
    pub stage: StageName,
    /// How it went, as it was reported.
    pub convergence: Convergence,
}

/// Adds a report, if it is about a convergence, or replaces the one with its number. The oldest go when
/// there are too many.
///
/// # Errors
/// [`FileError`].
pub fn keep(paths: &Paths, report: &Report) -> Result<(), FileError> {
    let Some(convergence) = report.convergence.clone() else { return Ok(()) };
    let entry = Entry {
        report: report.id.clone(),
        agent: report.agent.clone(),
        stage: report.stage.clone(),
        convergence,
    };
    let mut lines = lines(paths)?;
    // One whose report was cut off is made again.
    let is_other = |line: &String| {
        serde_json::from_str::<Entry>(line).map_or(true, |known| known.report != entry.report)
    };
    if lines.last().is_some_and(|last| !is_other(last)) {
        lines.pop();
    }
    lines.push(serde_json::to_string(&entry).expect("an entry has only text keys"));
    let text: String = newest(&lines, COUNT, BYTES).iter().map(|line| format!("{line}\n")).collect();
    write_atomic(&paths.history(), text.as_bytes(), 0o600)
}

/// The newest `count` entries, newest first. What a newer agent wrote and this one does not
/// understand is passed over.
///
/// # Errors
/// [`FileError`].
pub fn newest_first(paths: &Paths, count: usize) -> Result<Vec<Entry>, FileError> {
    let lines = lines(paths)?;
    let entries = lines.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
    Ok(entries.take(count).collect())
}

fn lines(paths: &Paths) -> Result<Vec<String>, FileError> {
    match read_to_string(&paths.history()) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The newest lines that keep the limits; the very newest always.
fn newest(lines: &[String], count: usize, bytes: usize) -> &[String] {
    let mut size = 0;
    let fits = lines.iter().rev().take(count).enumerate().take_while(|(number, line)| {
        size += line.len() + 1;
        *number == 0 || size <= bytes
    });
    &lines[lines.len() - fits.count()..]
}

/// For a person.
pub fn text(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "this device has not converged yet".to_owned();
    }
    entries.iter().map(entry_text).collect::<Vec<_>>().join("\n")
}

fn entry_text(entry: &Entry) -> String {
    let run = &entry.convergence;
    let took = Duration::try_from(run.ended_at.duration_since(run.started_at)).unwrap_or_default();
    let suite = run.suite.as_deref().map(|suite| format!(", suite {suite}")).unwrap_or_default();
    let mut lines = vec![format!(
        "{}  {:<8}  {}  {}{suite}; {} tasks and {} packages changed, {} s",
        moment(run.ended_at),
        end(run),
        run.commit.short(),
        entry.stage,
        run.changed_tasks,
        run.packages.len(),
        took.as_secs()
    )];
    lines.extend(run.failure.iter().flat_map(failure_lines));
    if let Some(reverted) = &run.reverted {
        let boot = if reverted.rebooted { ", with a reboot" } else { "" };
        lines.push(format!("    undone by the {}{boot}: {}", reverted.by, reverted.reason));
        lines.extend(reverted.restored.iter().map(|what| format!("    put back: {what}")));
        lines.extend(reverted.left.iter().map(|what| format!("    NOT put back: {what}")));
    }
    for (name, (before, after)) in &run.packages {
        lines.push(format!("    {name} {} to {}", version(before), version(after)));
    }
    lines.join("\n")
}

fn failure_lines(failure: &Failure) -> Vec<String> {
    let what = if failure.what.is_empty() { String::new() } else { format!(" {:?}", failure.what) };
    let mut said = failure.message.lines();
    let first = format!("    {}{what}: {}", failure.step, said.next().unwrap_or_default());
    let more = said.take(LINES).map(|line| format!("      {line}"));
    std::iter::once(first).chain(more).collect()
}

/// How it ended, in a word.
fn end(run: &Convergence) -> &'static str {
    match run.outcome {
        _ if run.reverted.is_some() => "reverted",
        Outcome::Good => "good",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Unknown => "unknown",
    }
}

fn version(text: &str) -> &str {
    if text.is_empty() { "not there" } else { text }
}

fn moment(at: Timestamp) -> String {
    at.strftime("%F %T UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results that an older version of the agent reported: a good one, and a task that failed.
    fn results() -> Vec<Report> {
        let lines = include_str!("../../api/tests/recorded/agent-0.1.jsonl");
        lines.lines().take(2).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn convergences_are_kept_in_order_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.prepare().unwrap();
        assert_eq!(text(&newest_first(&paths, 9).unwrap()), "this device has not converged yet");
        let health = Report { convergence: None, ..results()[0].clone() };
        for number in 0..COUNT + 5 {
            let report = Report { id: number.to_string(), ..results()[number % 2].clone() };
            keep(&paths, &report).unwrap();
            keep(&paths, &health).unwrap();
        }
        keep(&paths, &Report { id: "204".into(), ..results()[0].clone() }).unwrap();
        let all = newest_first(&paths, usize::MAX).unwrap();
        assert_eq!((all.len(), all[0].report.as_str(), all[COUNT - 1].report.as_str()), (COUNT, "204", "5"));
        assert_eq!(newest_first(&paths, 2).unwrap(), all[..2]);
        let said = text(&all[..2]);
        assert!(
            said.contains("UTC  good      a65f6fc  development; 1 tasks and 0 packages changed, 4 s"),
            "{said}"
        );
        assert!(said.contains("failed    28bf826"), "{said}");
        assert!(said.contains("    playbook \"Break\": Failed as requested from task"), "{said}");
    }

    #[test]
    fn a_line_that_is_not_understood_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.prepare().unwrap();
        keep(&paths, &results()[0]).unwrap();
        let text = read_to_string(&paths.history()).unwrap();
        write_atomic(&paths.history(), format!("{{\"torn\n{text}{{}}\n").as_bytes(), 0o600).unwrap();
        assert_eq!(newest_first(&paths, 9).unwrap().len(), 1);
    }

    #[test]
    fn long_messages_push_out_the_oldest_and_never_the_newest() {
        let lines: Vec<String> = [10, 10, 10].iter().map(|size| "x".repeat(*size)).collect();
        assert_eq!(newest(&lines, 9, 22).len(), 2);
        assert_eq!(newest(&lines, 9, 5).len(), 1);
        assert_eq!(newest(&lines, 2, 99).len(), 2);
        assert_eq!(newest(&[], 2, 99).len(), 0);
    }
}
