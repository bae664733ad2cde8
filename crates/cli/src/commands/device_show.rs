//! What `volary device show` tells of one device: what it runs and why, what it waits for, how its
//! last convergences ended.

use volary_api::v1::device::{Convergence, Drift, Failure, Outcome, Report, Reverted, RunningImage};
use volary_api::v1::status::Device;
use volary_model::StageName;
use volary_plan::text;

use super::status;
use crate::out::{Out, Tone, ago, ago_or_dash, bytes};

/// How many lines of a check's output, of a journal or of a list are shown; `--json` has all that was reported.
const LINES: usize = 12;

/// Shows a device with its newest results, newest first.
pub fn show(device: &Device, results: &[Report], out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
    row("device", device.name.as_str());
    row("stage", device.stage.as_ref().map_or("–", StageName::as_str));
    row("condition", &status::condition(device.condition, out));
    if !device.reason.is_empty() {
        row("why", &device.reason);
    }
    row("commit", device.commit.as_ref().map_or("–", |commit| commit.as_str()));
    row("suite", device.suite.as_deref().unwrap_or("–"));
    row("since", &ago_or_dash(device.since));
    row("seen", &ago_or_dash(device.seen_at));
    row("os", &format!("{} ({})", device.os, device.architecture));
    row("fingerprint", &device.fingerprint);
    if let Some(report) = &device.report {
        plans(report, out);
        health(report, out);
    }
    out.line("");
    convergences(results, out);
    let undone = results.iter().filter_map(|report| report.convergence.as_ref());
    if let Some((run, reverted)) = undone.filter_map(|run| Some((run, run.reverted.as_ref()?))).next() {
        out.line("");
        explain(run, reverted, out);
    }
}

/// What it waits for, what it does not try again, what has drifted.
fn plans(report: &Report, out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
    if let Some(waiting) = &report.waiting {
        row("goes for", waiting.commit.short());
        waiting.obstacles.iter().for_each(|obstacle| row("waits", obstacle));
    }
    for quarantined in &report.quarantined {
        let times = text::count(quarantined.times.max(1) as usize, "time");
        let why = failure_text(&quarantined.failure);
        row("quarantined", &format!("{}, undone {times}: {why}", quarantined.commit.short()));
    }
    if let Some(drift) = &report.drift {
        drifted(drift, out);
    }
}

fn drifted(drift: &Drift, out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
    let when = format!("looked for {} against {}", ago(drift.at), drift.commit.short());
    match &drift.failure {
        Some(failure) => row("drift", &format!("{when}: {}: {}", failure.step, failure.message)),
        None if drift.is_none() => row("drift", &format!("none, {when}")),
        None => row("drift", &when),
    }
    for task in &drift.tasks {
        row("", &format!("would change: {}", task.task));
        for line in task.diff.lines().take(LINES) {
            row("", &format!("  {line}"));
        }
    }
    let more = (drift.tasks_total as usize).saturating_sub(drift.tasks.len());
    if more > 0 {
        row("", &format!("and {more} more tasks"));
    }
    for (name, (installed, suite)) in &drift.packages {
        row("", &format!("{name} {installed}, the suite has {suite}"));
    }
}

fn health(report: &Report, out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
    row("agent", &report.agent);
    if let Some(image) = &report.image {
        row("image", &running(image));
    }
    if report.memory_total > 0 {
        row("memory", &of(report.memory_available, report.memory_total, "available"));
    }
    if report.disk_total > 0 {
        row("disk", &of(report.disk_free, report.disk_total, "free"));
    }
    for (unit, state) in &report.units {
        row("unit", &format!("{unit} {state}"));
    }
    for check in &report.checks {
        let word = if check.passed { out.tone(Tone::Good, "passed") } else { out.tone(Tone::Bad, "failed") };
        row("check", &format!("{} {word} {}", check.name, check.output.trim()));
    }
    for (package, version) in &report.packages {
        row("package", &format!("{package} {version}"));
    }
}

/// An image with where it runs, in a line.
fn running(image: &RunningImage) -> String {
    let slot = image.slot.as_ref().map(|slot| format!(" in slot {slot}")).unwrap_or_default();
    let trial = if image.on_trial { ", on trial" } else { "" };
    format!("{} for {}{slot}{trial}", image.name, image.device_type)
}

fn of(part: u64, whole: u64, word: &str) -> String {
    format!("{} of {} {word}", bytes(part), bytes(whole))
}

fn convergences(results: &[Report], out: &Out) {
    let rows = results
        .iter()
        .filter_map(|report| report.convergence.as_ref())
        .map(|run| {
            vec![
                ago(run.ended_at),
                run.commit.short().to_owned(),
                run.suite.clone().unwrap_or_else(|| "–".into()),
                end(run).to_owned(),
                run.changed_tasks.to_string(),
                cause(run),
            ]
        })
        .collect();
    out.table(
        &["CONVERGED", "COMMIT", "SUITE", "END", "CHANGED", "WHY"],
        rows,
        "no convergence was reported yet",
    );
}

/// How a convergence ended, in a word.
fn end(run: &Convergence) -> &'static str {
    match run.outcome {
        _ if run.reverted.is_some() => "reverted",
        Outcome::Good => "good",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Unknown => "unknown",
    }
}

/// Why it ended so, in a line.
fn cause(run: &Convergence) -> String {
    let failure = run.failure.as_ref().map(failure_text);
    failure.or_else(|| run.reverted.as_ref().map(|reverted| reverted.reason.clone())).unwrap_or_default()
}

fn failure_text(failure: &Failure) -> String {
    let what = if failure.what.is_empty() { String::new() } else { format!(" {:?}", failure.what) };
    format!("{}{what}: {}", failure.step, failure.message.lines().next().unwrap_or_default())
}

/// The newest undo in full.
fn explain(run: &Convergence, undo: &Reverted, out: &Out) {
    let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
    let when = ago(undo.at);
    let boot = if undo.rebooted { ", with a reboot" } else { "" };
    row("undone", &format!("commit {} by {}{boot}, {when}", run.commit.short(), by(&undo.by)));
    row("because", &undo.reason);
    if let Some(failure) = &run.failure {
        lines("said", &failure.message, out);
    }
    for (name, (before, after)) in &run.packages {
        row("had changed", &format!("{name} {} to {}", version(before), version(after)));
    }
    for restored in undo.restored.iter().take(LINES) {
        row("put back", restored);
    }
    let more = undo.restored.len().saturating_sub(LINES);
    if more > 0 {
        row("", &format!("and {more} more"));
    }
    for left in &undo.left {
        row(&out.tone(Tone::Bad, format!("{:<13}", "not put back")), left);
    }
    if undo.path_works == Some(false) {
        row("then", "the server still could not be reached");
    }
    lines("journal", &undo.journal, out);
}

/// The end of a text, each line of it.
fn lines(name: &str, text: &str, out: &Out) {
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    for (number, line) in all[all.len().saturating_sub(LINES)..].iter().enumerate() {
        out.line(format!("{:<13}{line}", if number == 0 { name } else { "" }));
    }
}

fn by(who: &str) -> &str {
    match who {
        "agent" => "the agent",
        "timer" => "the timer, without the agent",
        "person" => "a person on the device",
        other => other,
    }
}

fn version(text: &str) -> &str {
    if text.is_empty() { "not there" } else { text }
}
