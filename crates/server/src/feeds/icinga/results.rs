//! What Icinga is told of each device: a result for the host, and one for each of its services.

use std::collections::BTreeSet;

use serde_json::json;
use volary_api::v1::device::Report;
use volary_plan::alert::Severity;
use volary_plan::condition::Condition;
use volary_plan::text;
use volary_plan::watch::{Finding, State};
use volary_store::DeviceState;

use crate::facts::Judged;
use crate::fleet_view::FleetView;
use crate::measured::Watched;

/// How much of memory and disk is left when a person should look, and when it is urgent.
const LEFT: (f64, f64) = (0.10, 0.05);

/// The longest line that is sent.
const LINE: usize = 1000;

/// How a service is, in the words of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    /// All is well; of a host: it is up.
    Ok,
    /// A person should look; of a host: it is down.
    Warning,
    /// It is urgent.
    Critical,
    /// Nobody knows.
    Unknown,
}

impl Status {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

/// What watch rules say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    /// Of each device.
    pub(super) watched: &'a Watched,
    /// The names of the rules that look for leaks.
    pub(super) leak_rules: &'a BTreeSet<String>,
}

/// One passive result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckResult {
    /// `HOST` or `HOST!SERVICE`.
    pub(super) object: String,
    /// How it is.
    pub(super) status: Status,
    /// One line.
    pub(super) output: String,
    /// Numbers, as plugins write them.
    pub(super) numbers: Vec<String>,
    /// What of it is worth being told at once if it changes.
    pub(super) matters: String,
}

impl CheckResult {
    /// The body of `process-check-result`.
    pub(super) fn body(&self, ttl: u64) -> serde_json::Value {
        let mut body = json!({
            "exit_status": self.status.code(),
            "plugin_output": self.output,
            "performance_data": self.numbers,
            "check_source": "volary",
            "ttl": ttl,
        });
        let kind = if self.object.contains('!') { ("Service", "service") } else { ("Host", "host") };
        body["type"] = json!(kind.0);
        body[kind.1] = json!(self.object);
        body
    }
}

/// The results of all accepted devices.
pub(super) fn of(devices: &[Judged], view: &FleetView, found: &Found<'_>) -> Vec<CheckResult> {
    let accepted = devices.iter().filter(|device| device.record.state == DeviceState::Accepted);
    accepted.flat_map(|device| of_device(device, view, found)).collect()
}

fn of_device(device: &Judged, view: &FleetView, found: &Found<'_>) -> Vec<CheckResult> {
    let name = device.record.name.as_str();
    let result = |service: &str, status: Status, output: String, numbers: Vec<String>, is_steady: bool| {
        let output: String = output.lines().next().unwrap_or_default().chars().take(LINE).collect();
        let matters =
            if is_steady { format!("{} {output}", status.code()) } else { status.code().to_string() };
        let object = if service.is_empty() { name.to_owned() } else { format!("{name}!{service}") };
        CheckResult { object, status, output, numbers, matters }
    };
    let silent = device.condition == Condition::Silent;
    let findings =
        found.watched.get(&device.record.name).map_or(&[][..], |(_, findings)| findings.as_slice());
    let leak = leak(findings, found);
    let mut results = vec![match device.condition {
        // The time in it grows; only that it is silent matters.
        Condition::Silent => result("", Status::Warning, device.reason.clone(), vec![], false),
        Condition::New => result("", Status::Ok, "it has not reported yet".into(), vec![], true),
        Condition::Good
        | Condition::Converging
        | Condition::Failed
        | Condition::Refused
        | Condition::Waiting
        | Condition::Rejected => result("", Status::Ok, "it reports".into(), uptime(device), true),
    }];
    if silent {
        let unknown = |service| result(service, Status::Unknown, device.reason.clone(), vec![], false);
        results.extend(["converge", "services", "resources", "revision"].map(unknown));
        results.extend(leak.map(|_| unknown("leak")));
        return results;
    }
    let (status, output) = converge(device);
    results.push(result("converge", status, output, convergence_numbers(device), true));
    if let Some(report) = &device.report {
        let (status, output) = services(report);
        results.push(result("services", status, output, vec![], true));
        let (status, output, numbers) = resources(report);
        results.push(result("resources", status, output, numbers, false));
    }
    results.extend(leak.map(|(status, output)| result("leak", status, output, vec![], false)));
    let (status, output) = revision(device, view);
    results.push(result("revision", status, output, vec![], true));
    results
}

fn uptime(device: &Judged) -> Vec<String> {
    let report = device.report.iter();
    report.flat_map(|report| [format!("uptime={}s", report.uptime)]).collect()
}

/// How the last convergence went.
fn converge(device: &Judged) -> (Status, String) {
    let otherwise =
        |text: &str| if device.reason.is_empty() { text.to_owned() } else { device.reason.clone() };
    match device.condition {
        Condition::Good => (Status::Ok, otherwise("it is what its stage wants")),
        Condition::Converging => (Status::Ok, otherwise("it is on its way")),
        Condition::Failed => {
            let severity = device.firing.as_ref().map_or(Severity::Critical, |firing| firing.severity);
            let status = match severity {
                Severity::Warning => Status::Warning,
                Severity::Critical => Status::Critical,
            };
            (status, otherwise("failed"))
        }
        Condition::Refused => (Status::Critical, otherwise("refused")),
        Condition::New | Condition::Silent | Condition::Waiting | Condition::Rejected => {
            (Status::Unknown, otherwise("not known"))
        }
    }
}

fn convergence_numbers(device: &Judged) -> Vec<String> {
    let convergence = device.report.as_ref().and_then(|report| report.convergence.as_ref());
    let Some(convergence) = convergence else { return Vec::new() };
    // By the device's clock, but a difference: only a step of the clock makes it wrong.
    let took = convergence.ended_at.duration_since(convergence.started_at).as_secs().max(0);
    vec![format!("duration={took}s"), format!("changed_tasks={}", convergence.changed_tasks)]
}

/// Whether units run and checks pass.
fn services(report: &Report) -> (Status, String) {
    let failed = report.checks.iter().filter(|check| !check.passed);
    let (required, wanted): (Vec<_>, Vec<_>) = failed.partition(|check| check.required);
    let names = |checks: &[&volary_api::v1::device::CheckResult]| {
        text::some(&checks.iter().map(|check| check.name.clone()).collect::<Vec<_>>(), 5)
    };
    if !report.failed_units.is_empty() {
        return (Status::Critical, format!("failed units: {}", text::some(&report.failed_units, 5)));
    }
    if !required.is_empty() {
        return (Status::Critical, format!("required checks fail: {}", names(&required)));
    }
    if !wanted.is_empty() {
        return (Status::Warning, format!("checks fail: {}", names(&wanted)));
    }
    let units = text::count(report.units.len(), "watched unit");
    (Status::Ok, format!("no unit failed, {units}, {} passed", text::count(report.checks.len(), "check")))
}

/// How much of memory and disk is left.
fn resources(report: &Report) -> (Status, String, Vec<String>) {
    let mut worst = Status::Ok;
    let (mut words, mut numbers) = (Vec::new(), Vec::new());
    let of = [
        ("memory", "available", report.memory_available, report.memory_total),
        ("disk", "free", report.disk_free, report.disk_total),
    ];
    for (what, word, left, total) in of {
        if total == 0 {
            continue;
        }
        let share = left as f64 / total as f64;
        worst = worst.max(match share {
            share if share < LEFT.1 => Status::Critical,
            share if share < LEFT.0 => Status::Warning,
            _ => Status::Ok,
        });
        words.push(format!("{what} {:.0} % {word}", share * 100.0));
        let at = |share: f64| (total as f64 * share) as u64;
        numbers.push(format!("{what}_{word}={left}B;{}:;{}:;0;{total}", at(LEFT.0), at(LEFT.1)));
    }
    if words.is_empty() {
        return (Status::Unknown, "it does not tell".into(), numbers);
    }
    (worst, words.join(", "), numbers)
}

/// What the rules say that look for leaks; none if there are no such rules.
fn leak(findings: &[Finding], found: &Found<'_>) -> Option<(Status, String)> {
    let findings: Vec<&Finding> =
        findings.iter().filter(|finding| found.leak_rules.contains(&finding.rule)).collect();
    let worst =
        findings.iter().filter(|finding| finding.state == State::Firing).max_by_key(|found| found.severity);
    if let Some(worst) = worst {
        let status = match worst.severity {
            Severity::Warning => Status::Warning,
            Severity::Critical => Status::Critical,
        };
        return Some((status, format!("{} {}", worst.series, worst.text)));
    }
    let judged = findings.iter().filter(|finding| finding.state == State::Quiet).count();
    (!findings.is_empty()).then(|| match judged {
        0 => (Status::Ok, "too little was measured yet to tell".to_owned()),
        count => (Status::Ok, format!("no leak in {count} series")),
    })
}

/// Whether it is at the commit and suite of its stage.
fn revision(device: &Judged, view: &FleetView) -> (Status, String) {
    let record = &device.record;
    let stage = record.stage.as_ref().and_then(|stage| view.stage(stage));
    let Some(tip) = stage.and_then(|stage| stage.tip.as_ref()) else {
        return (Status::Unknown, "its stage has no commit".into());
    };
    let suite = record.suite.as_ref().map(|suite| format!(" ({suite})")).unwrap_or_default();
    match &record.good_commit {
        None => (Status::Unknown, "it has converged to no commit yet".into()),
        Some(commit) if *commit == tip.commit => (Status::Ok, format!("at {}{suite}", commit.short())),
        Some(commit) => {
            (Status::Warning, format!("at {}{suite}, its stage is at {}", commit.short(), tip.commit.short()))
        }
    }
}
