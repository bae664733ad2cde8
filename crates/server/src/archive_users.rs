//! Who uses what of the archive: the lock files of the stages, the devices, and the declared
//! exports. What follows from it is for others to decide.

use std::collections::BTreeMap;

use serde::Deserialize;
use volary_archive::export::SuiteChoice;
use volary_fleet::{FleetLock, GitRepository, LOCK_FILE, ReadObjects, file_at};
use volary_model::{ReleaseName, ReleaseRef, Revision, StageName, Suite};
use volary_store::{Device, DeviceState};

use crate::Layout;
use crate::export::ExportConfig;
use crate::fleet_view;

/// How many devices are named one by one.
const NAMED: usize = 5;

/// Who uses which release.
#[derive(Debug, Default)]
pub(crate) struct Users {
    known: Vec<User>,
    /// Those of whom nobody can say what they use.
    unknown: Vec<String>,
}

#[derive(Debug)]
struct User {
    release: ReleaseName,
    /// `None` for all revisions.
    revision: Option<Revision>,
    /// `stage canary pins v1.0/r2`.
    text: String,
}

/// The release that a stage's lock file names.
type Locked = Result<Option<ReleaseRef>, String>;

impl Users {
    /// Asks all of them.
    pub(crate) fn read(layout: &Layout, devices: &[Device], exports: &[ExportConfig]) -> Self {
        let mut users = Self::default();
        match stage_locks(layout) {
            Ok(locks) => locks.into_iter().for_each(|(stage, locked)| users.add_stage(&stage, locked)),
            Err(problem) => users.unknown.push(format!("the fleet repository cannot be read: {problem}")),
        }
        devices.iter().for_each(|device| users.add_device(device));
        exports.iter().for_each(|export| users.add_export(export));
        users
    }

    /// Who uses a release, in any of its revisions, or may use it.
    pub(crate) fn of_release(&self, release: &ReleaseName) -> Vec<String> {
        let known = self.known.iter().filter(|user| user.release == *release);
        known.map(|user| user.text.clone()).chain(self.unknown.iter().cloned()).collect()
    }

    /// Who uses a suite.
    pub(crate) fn of_suite(&self, suite: &Suite) -> Vec<String> {
        let Suite::Release(reference) = suite else { return Vec::new() };
        let uses = |user: &&User| {
            user.release == reference.name
                && user.revision.is_none_or(|revision| revision == reference.revision)
        };
        self.known.iter().filter(uses).map(|user| user.text.clone()).collect()
    }

    fn add(&mut self, reference: ReleaseRef, text: String) {
        self.known.push(User { release: reference.name, revision: Some(reference.revision), text });
    }

    fn add_stage(&mut self, stage: &StageName, locked: Locked) {
        match locked {
            Ok(None) => {}
            Ok(Some(reference)) => {
                let text = format!("stage {stage} pins {reference}");
                self.add(reference, text);
            }
            Err(problem) => {
                self.unknown.push(format!("the {LOCK_FILE} of stage {stage} cannot be read: {problem}"));
            }
        }
    }

    fn add_device(&mut self, device: &Device) {
        if device.state != DeviceState::Accepted {
            return;
        }
        let has = device.suite.as_deref().and_then(release_of);
        // It may have gone for another one and failed in the middle.
        let tried =
            device.convergence.as_deref().and_then(attempt).filter(|tried| has.as_ref() != Some(tried));
        if let Some(tried) = tried {
            let text = format!("device {} went for {tried}", device.name);
            self.add(tried, text);
        }
        if let Some(has) = has {
            let text = format!("device {} has {has}", device.name);
            self.add(has, text);
        }
    }

    fn add_export(&mut self, export: &ExportConfig) {
        // What cannot be read was refused when the server started.
        for choice in export.choices().unwrap_or_default() {
            let (release, revision) = match &choice {
                SuiteChoice::Release(name) => (name.clone(), None),
                SuiteChoice::Suite(Suite::Release(one)) => (one.name.clone(), Some(one.revision)),
                SuiteChoice::Suite(Suite::Rolling) | SuiteChoice::All => continue,
            };
            let text = format!("export {} names {choice}", export.name);
            self.known.push(User { release, revision, text });
        }
    }
}

fn release_of(suite: &str) -> Option<ReleaseRef> {
    match suite.parse() {
        Ok(Suite::Release(reference)) => Some(reference),
        Ok(Suite::Rolling) | Err(_) => None,
    }
}

/// The release that the newest convergence went for.
fn attempt(convergence: &str) -> Option<ReleaseRef> {
    #[derive(Deserialize)]
    struct Attempt {
        suite: Option<String>,
    }
    let attempt: Attempt = serde_json::from_str(convergence).ok()?;
    release_of(&attempt.suite?)
}

/// What the lock files of the stages say now.
fn stage_locks(layout: &Layout) -> Result<Vec<(StageName, Locked)>, String> {
    let repository = fleet_view::open(layout)?;
    if fleet_view::head_tip(&repository)?.is_none() {
        return Ok(Vec::new());
    }
    let config = fleet_view::head_config(&repository)?;
    Ok(config.stages.iter().map(|stage| (stage.name.clone(), locked(&repository, &stage.branch))).collect())
}

fn locked(repository: &GitRepository, branch: &str) -> Locked {
    let Some(tip) = repository.branch(branch).map_err(|error| error.to_string())? else { return Ok(None) };
    let tree = repository.commit(&tip).map_err(|error| error.to_string())?.tree;
    let Some(bytes) = file_at(repository, &tree, LOCK_FILE).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let lock = FleetLock::parse(&text).map_err(|error| error.to_string())?;
    Ok(lock.release.map(|locked| locked.release))
}

/// The devices that have a package.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    /// The first of them.
    named: Vec<String>,
    more: usize,
}

impl Installed {
    /// Why the package stays: `device gate-7 has it`.
    pub(crate) fn sentence(&self) -> String {
        let (noun, verb) = if self.named.len() == 1 { ("device", "has") } else { ("devices", "have") };
        let more = if self.more > 0 { format!(" and {} more", self.more) } else { String::new() };
        format!("{noun} {}{more} {verb} it", self.named.join(", "))
    }
}

/// What the devices have by their last reports: name and version.
///
/// # Errors
/// A sentence with the device whose report cannot be read: nobody can say what it has.
pub(crate) fn installed(devices: &[Device]) -> Result<BTreeMap<(String, String), Installed>, String> {
    /// The rest of a report may change from version to version.
    #[derive(Deserialize)]
    struct Packages {
        #[serde(default)]
        packages: BTreeMap<String, String>,
    }
    let mut all: BTreeMap<(String, String), Installed> = BTreeMap::new();
    for device in devices.iter().filter(|device| device.state == DeviceState::Accepted) {
        let Some(report) = &device.report else { continue };
        let report: Packages = serde_json::from_str(report)
            .map_err(|error| format!("the last report of {} cannot be read: {error}", device.name))?;
        for package in report.packages {
            let found = all.entry(package).or_default();
            if found.named.len() < NAMED {
                found.named.push(device.name.to_string());
            } else {
                found.more += 1;
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, suite: Option<&str>, tried: Option<&str>) -> Device {
        let text = tried.map(|suite| serde_json::json!({ "suite": suite, "outcome": "failed" }).to_string());
        Device {
            name: name.parse().unwrap(),
            state: DeviceState::Accepted,
            fingerprint: volary_model::Digest::from_bytes([0; 32]),
            stage: None,
            csr: String::new(),
            certificate: None,
            architecture: "amd64".parse().unwrap(),
            os: String::new(),
            enrolled_at: jiff::Timestamp::UNIX_EPOCH,
            seen_at: None,
            good_commit: None,
            suite: suite.map(str::to_owned),
            since: None,
            convergence: text,
            report: None,
            client: volary_store::Client::Agent,
        }
    }

    fn users() -> Users {
        let mut users = Users::default();
        users.add_stage(&"canary".parse().unwrap(), Ok(Some("v1/r2".parse().unwrap())));
        users.add_stage(&"development".parse().unwrap(), Ok(None));
        users.add_device(&device("gate-1", Some("v1/r1"), Some("v1/r1")));
        users.add_device(&device("gate-2", Some("v1/r1"), Some("v2/r1")));
        users.add_device(&device("gate-3", Some("rolling"), None));
        users.add_device(&Device {
            state: DeviceState::Rejected,
            ..device("gate-4", Some("v3/r1"), Some("v3/r1"))
        });
        let suites = ["all", "rolling", "v4", "v2/r1"].map(str::to_owned).to_vec();
        users.add_export(&ExportConfig::new("/srv/www".into(), suites));
        users
    }

    #[test]
    fn all_who_use_a_release_are_named() {
        let users = users();
        let of = |name: &str| users.of_release(&name.parse().unwrap());
        assert_eq!(
            of("v1"),
            ["stage canary pins v1/r2", "device gate-1 has v1/r1", "device gate-2 has v1/r1"]
        );
        assert_eq!(of("v2"), ["device gate-2 went for v2/r1", "export export names v2/r1"]);
        assert_eq!(of("v3"), [""; 0], "a device that was rejected counts no more");
        assert_eq!(of("v4"), ["export export names v4"]);
        let of = |suite: &str| users.of_suite(&suite.parse().unwrap());
        assert_eq!(of("v1/r2"), ["stage canary pins v1/r2"]);
        assert_eq!(of("v4/r7"), ["export export names v4"]);
        assert_eq!(of("rolling"), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_may_use_every_release() {
        let mut users = users();
        users.add_stage(&"production".parse().unwrap(), Err("it is damaged".to_owned()));
        let expected = "the volary.lock of stage production cannot be read: it is damaged";
        assert_eq!(users.of_release(&"v9".parse().unwrap()), [expected]);
        assert_eq!(users.of_suite(&"v9/r1".parse().unwrap()), [""; 0]);
    }

    #[test]
    fn devices_are_named_and_then_counted() {
        let with =
            |name: &str, report: &str| Device { report: Some(report.into()), ..device(name, None, None) };
        let hello = r#"{"packages": {"hello": "1.0"}, "new": 1}"#;
        let check = |count: usize, expected: &str| {
            let devices: Vec<Device> = (0..count).map(|index| with(&format!("d{index}"), hello)).collect();
            let found = installed(&devices).unwrap();
            assert_eq!(found[&("hello".to_owned(), "1.0".to_owned())].sentence(), expected);
        };
        check(1, "device d0 has it");
        check(2, "devices d0, d1 have it");
        check(7, "devices d0, d1, d2, d3, d4 and 2 more have it");
        let problem = installed(&[with("d1", "{\"packages\": 3}")]).unwrap_err();
        assert!(problem.contains("the last report of d1 cannot be read"), "{problem}");
    }
}
