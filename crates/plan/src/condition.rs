//! The condition of a device: is it what its stage wants, and if not, why.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, DeviceName};

use crate::text;

/// How many polls a device may miss before it counts as silent: one may be lost, two are bad
/// luck, three are a device that is gone.
const POLLS_UNTIL_SILENT: u32 = 3;

/// Allowed on top, since a convergence keeps the agent busy and reports are sent after it.
const SILENCE_GRACE: Duration = Duration::from_secs(600);

/// Whether a device is what its stage wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It runs what its stage wants and is healthy.
    Good,
    /// It is on its way: what it reported last is older than what its stage wants.
    Converging,
    /// Its last convergence failed, or a required check or a unit fails.
    Failed,
    /// It refused what the server offered.
    Refused,
    /// It was not heard of for three polls.
    Silent,
    /// It waits to be accepted.
    Waiting,
    /// It was rejected.
    Rejected,
    /// It is accepted and has not reported yet.
    New,
}

/// Whether a device belongs to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Somebody must accept it.
    Waiting,
    /// It belongs to the fleet.
    Accepted,
    /// It was sent away.
    Rejected,
}

/// What a device's stage wants of it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The tip of the stage's branch; `None` if the branch does not exist.
    pub commit: Option<CommitId>,
    /// The suite to take packages from; `None` if no release is pinned yet.
    pub suite: Option<String>,
    /// What the suite offers: name → version.
    pub packages: BTreeMap<String, String>,
    /// The images that it pins: device type → name.
    pub images: BTreeMap<String, String>,
}

/// The end of a device's last convergence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It went well.
    Good,
    /// A step failed: the step, what failed in it, its message.
    Failed {
        /// `playbook`, `packages`, `check`, `units`, …
        step: String,
        /// The task, package, check or unit.
        what: String,
        /// Its message.
        message: String,
    },
    /// A step failed or the change did not hold, and the device was put back.
    Reverted {
        /// The commit that it is at again; `None` if it never was at one.
        to: Option<CommitId>,
        /// `playbook`, `units`, `path`, …
        step: String,
        /// The task, package, check or unit.
        what: String,
        /// Its message.
        message: String,
        /// What could not be put back.
        left: Vec<String>,
        /// True if the device does not try it again by itself.
        quarantined: bool,
    },
    /// The device did not trust the commit; its sentence.
    Refused(String),
}

/// What is known of a device.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Whether it belongs to the fleet.
    pub standing: Standing,
    /// When it was heard of last.
    pub seen_at: Option<Timestamp>,
    /// The commit of its last convergence.
    pub commit: Option<CommitId>,
    /// The suite of its last convergence.
    pub suite: Option<String>,
    /// How that convergence ended.
    pub ending: Option<Ending>,
    /// What is installed of what the archive offers: name → version.
    pub packages: BTreeMap<String, String>,
    /// The image it runs, if it tells: device type and name.
    pub image: Option<(String, String)>,
    /// Failed units.
    pub failed_units: Vec<String>,
    /// Required checks that do not pass: name and output.
    pub failed_checks: Vec<(String, String)>,
    /// Why it does not converge yet, in its own sentences, if it waits.
    pub waiting: Vec<String>,
    /// What differs from its commit and suite without anybody's commit, in a sentence.
    pub drift: Option<String>,
}

/// Judges a device; the sentence says why it is not good. Of a good one it says what has drifted, and
/// is empty if nothing has.
///
/// `poll` is the time between two questions of the device.
pub fn condition(
    wanted: &Wanted,
    observed: &Observed,
    poll: Duration,
    now: Timestamp,
) -> (Condition, String) {
    match observed.standing {
        Standing::Waiting => return (Condition::Waiting, "accept it with: volary device accept NAME".into()),
        Standing::Rejected => return (Condition::Rejected, "its certificate counts no more".into()),
        Standing::Accepted => {}
    }
    let Some(seen_at) = observed.seen_at else {
        return (Condition::New, "it has not reported yet".into());
    };
    let silent_for = Duration::try_from(now.duration_since(seen_at)).unwrap_or_default();
    if silent_for > poll * POLLS_UNTIL_SILENT + SILENCE_GRACE {
        return (Condition::Silent, format!("not heard of for {}", text::duration(silent_for)));
    }
    match &observed.ending {
        None if observed.waiting.is_empty() => return (Condition::New, "it has not converged yet".into()),
        None => {
            let waits = observed.waiting.join("; ");
            return (Condition::New, format!("it has not converged yet; it waits: {waits}"));
        }
        Some(Ending::Refused(sentence)) => return (Condition::Refused, sentence.clone()),
        Some(Ending::Failed { step, what, message }) => {
            return (Condition::Failed, failure(step, what, message));
        }
        Some(Ending::Reverted { to, step, what, message, left, quarantined }) => {
            let to = to.as_ref().map_or("what it was before", |commit| commit.short());
            let why = failure(step, what, message);
            return (Condition::Failed, format!("reverted to {to}: {why}{}", rest(left, *quarantined)));
        }
        Some(Ending::Good) => {}
    }
    if let Some((name, output)) = observed.failed_checks.first() {
        return (Condition::Failed, failure("check", name, output));
    }
    if !observed.failed_units.is_empty() {
        return (Condition::Failed, format!("failed units: {}", text::some(&observed.failed_units, 3)));
    }
    match behind(wanted, observed) {
        None => (Condition::Good, observed.drift.clone().unwrap_or_default()),
        Some(why) if observed.waiting.is_empty() => (Condition::Converging, why),
        Some(why) => (Condition::Converging, format!("{why}; it waits: {}", observed.waiting.join("; "))),
    }
}

fn failure(step: &str, what: &str, message: &str) -> String {
    let first_line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    match (what.is_empty(), first_line.is_empty()) {
        (true, true) => format!("{step} failed"),
        (true, false) => format!("{step}: {first_line}"),
        (false, true) => format!("{step} {what:?} failed"),
        (false, false) => format!("{step} {what:?}: {first_line}"),
    }
}

/// What is not as it should be after an undo.
fn rest(left: &[String], quarantined: bool) -> String {
    let mut text = String::new();
    if !left.is_empty() {
        text = format!("; not put back: {}", text::some(left, 2));
    }
    if !quarantined {
        text.push_str("; it tries again");
    }
    text
}

/// Why a healthy device is not there yet, if it is not.
fn behind(wanted: &Wanted, observed: &Observed) -> Option<String> {
    if let Some(commit) = &wanted.commit
        && observed.commit.as_ref() != Some(commit)
    {
        let at = observed.commit.as_ref().map_or("nothing", |commit| commit.short());
        return Some(format!("at {at}, its stage is at {}", commit.short()));
    }
    if wanted.suite.is_some() && observed.suite != wanted.suite {
        let at = observed.suite.as_deref().unwrap_or("none");
        return Some(format!("suite {at}, its stage takes {}", wanted.suite.as_deref().unwrap_or("none")));
    }
    if let Some((device_type, name)) = &observed.image
        && let Some(pinned) = wanted.images.get(device_type)
        && pinned != name
    {
        return Some(format!("image {name}, its stage pins {pinned}"));
    }
    let old: Vec<String> = observed
        .packages
        .iter()
        .filter_map(|(name, version)| {
            let offered = wanted.packages.get(name)?;
            (offered != version).then(|| format!("{name} {version}, the suite has {offered}"))
        })
        .collect();
    (!old.is_empty()).then(|| text::some(&old, 2))
}

/// How many devices are in each condition, as the share of a stage that is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Good ones.
    pub good: Vec<DeviceName>,
    /// Those that failed or refused, each with the reason.
    pub bad: Vec<(DeviceName, String)>,
    /// Those on their way.
    pub converging: Vec<DeviceName>,
    /// Those not heard of, new ones included.
    pub silent: Vec<DeviceName>,
}

impl Tally {
    /// Counts devices, each with its condition and the reason of that; those that wait or were
    /// rejected do not belong to the fleet.
    pub fn of<'a>(devices: impl IntoIterator<Item = (&'a DeviceName, Condition, &'a str)>) -> Self {
        let mut tally = Self::default();
        for (name, condition, reason) in devices {
            let list = match condition {
                Condition::Good => &mut tally.good,
                Condition::Failed | Condition::Refused => {
                    tally.bad.push((name.clone(), reason.to_owned()));
                    continue;
                }
                Condition::Converging => &mut tally.converging,
                Condition::Silent | Condition::New => &mut tally.silent,
                Condition::Waiting | Condition::Rejected => continue,
            };
            list.push(name.clone());
        }
        tally
    }

    /// All devices that belong to the fleet.
    pub fn all(&self) -> usize {
        self.good.len() + self.bad.len() + self.converging.len() + self.silent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T12:00:00Z";

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn wanted() -> Wanted {
        Wanted {
            commit: Some(commit('a')),
            suite: Some("v1.0/r1".into()),
            packages: BTreeMap::from([("pulse".into(), "1.1".into())]),
            images: BTreeMap::from([("pi".into(), "2026.2".into())]),
        }
    }

    fn good() -> Observed {
        Observed {
            standing: Standing::Accepted,
            seen_at: Some("2026-11-22T11:59:30Z".parse().unwrap()),
            commit: Some(commit('a')),
            suite: Some("v1.0/r1".into()),
            ending: Some(Ending::Good),
            packages: BTreeMap::from([("pulse".into(), "1.1".into()), ("other".into(), "9".into())]),
            image: None,
            failed_units: vec![],
            failed_checks: vec![],
            waiting: vec![],
            drift: None,
        }
    }

    fn check(observed: &Observed, expected: Condition, why: &str) {
        let (condition, reason) =
            condition(&wanted(), observed, Duration::from_secs(60), NOW.parse().unwrap());
        assert_eq!((condition, reason.as_str()), (expected, why));
    }

    #[test]
    fn a_device_that_is_what_its_stage_wants_is_good() {
        check(&good(), Condition::Good, "");
    }

    #[test]
    fn every_way_to_be_behind_is_named() {
        check(
            &Observed { commit: Some(commit('b')), ..good() },
            Condition::Converging,
            "at bbbbbbb, its stage is at aaaaaaa",
        );
        check(
            &Observed { commit: Some(commit('b')), waiting: vec!["held on the device".into()], ..good() },
            Condition::Converging,
            "at bbbbbbb, its stage is at aaaaaaa; it waits: held on the device",
        );
        check(
            &Observed { suite: None, ..good() },
            Condition::Converging,
            "suite none, its stage takes v1.0/r1",
        );
        check(
            &Observed { packages: BTreeMap::from([("pulse".into(), "1.0".into())]), ..good() },
            Condition::Converging,
            "pulse 1.0, the suite has 1.1",
        );
        let runs = |device_type: &str| Some((device_type.to_owned(), "2026.1".to_owned()));
        check(
            &Observed { image: runs("pi"), ..good() },
            Condition::Converging,
            "image 2026.1, its stage pins 2026.2",
        );
        check(&Observed { image: runs("other"), ..good() }, Condition::Good, "");
    }

    #[test]
    fn a_failure_outranks_being_behind_and_silence_outranks_a_failure() {
        let failed = Observed {
            commit: Some(commit('b')),
            ending: Some(Ending::Failed {
                step: "units".into(),
                what: "volary-pulse.service".into(),
                message: "\nkey missing\nmore".into(),
            }),
            ..good()
        };
        check(&failed, Condition::Failed, "units \"volary-pulse.service\": key missing");
        let silent = Observed { seen_at: Some("2026-11-22T11:00:00Z".parse().unwrap()), ..failed };
        check(&silent, Condition::Silent, "not heard of for 1 h");
    }

    #[test]
    fn a_reverted_device_says_why_and_counts_as_failed() {
        let reverted = |to, left: &[&str], quarantined| Observed {
            ending: Some(Ending::Reverted {
                to,
                step: "units".into(),
                what: "x.service".into(),
                message: "it has failed and had not before\nmore".into(),
                left: left.iter().map(|left| (*left).to_owned()).collect(),
                quarantined,
            }),
            ..good()
        };
        let why = "units \"x.service\": it has failed and had not before";
        let before = Some(commit('b'));
        check(
            &reverted(before.clone(), &[], true),
            Condition::Failed,
            &format!("reverted to bbbbbbb: {why}"),
        );
        check(
            &reverted(None, &[], true),
            Condition::Failed,
            &format!("reverted to what it was before: {why}"),
        );
        check(
            &reverted(before, &["package pulse"], false),
            Condition::Failed,
            &format!("reverted to bbbbbbb: {why}; not put back: package pulse; it tries again"),
        );
        let name: DeviceName = "d".parse().unwrap();
        assert_eq!(Tally::of([(&name, Condition::Failed, "no path")]).bad, [(name, "no path".to_owned())]);
    }

    #[test]
    fn waiting_and_drift_are_told() {
        let waiting = vec!["the window Mon 02:00-05:00 is closed".to_owned(), "held by ada".to_owned()];
        check(
            &Observed { commit: Some(commit('b')), waiting: waiting.clone(), ..good() },
            Condition::Converging,
            "at bbbbbbb, its stage is at aaaaaaa; it waits: the window Mon 02:00-05:00 is closed; held by ada",
        );
        check(&Observed { waiting, ..good() }, Condition::Good, "");
        check(
            &Observed { ending: None, waiting: vec!["downloads image b".into()], ..good() },
            Condition::New,
            "it has not converged yet; it waits: downloads image b",
        );
        let drift = Some("drifted: 2 tasks".to_owned());
        check(&Observed { drift, ..good() }, Condition::Good, "drifted: 2 tasks");
    }

    #[test]
    fn health_counts_after_a_good_convergence() {
        check(
            &Observed { failed_checks: vec![("disk".into(), "3 MB free".into())], ..good() },
            Condition::Failed,
            "check \"disk\": 3 MB free",
        );
        check(
            &Observed { failed_units: vec!["a.service".into()], ..good() },
            Condition::Failed,
            "failed units: a.service",
        );
    }

    #[test]
    fn a_clock_that_runs_ahead_is_not_silence() {
        check(
            &Observed { seen_at: Some("2026-11-22T13:00:00Z".parse().unwrap()), ..good() },
            Condition::Good,
            "",
        );
    }

    #[test]
    fn those_outside_the_fleet_are_not_counted() {
        let name: DeviceName = "d".parse().unwrap();
        let tally = Tally::of(
            [Condition::Good, Condition::Waiting, Condition::New].map(|condition| (&name, condition, "")),
        );
        assert_eq!((tally.all(), tally.good.len(), tally.silent.len()), (2, 1, 1));
    }
}
