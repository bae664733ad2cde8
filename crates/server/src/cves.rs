//! Which security faults a promotion mends and which it brings, by the data of Debian's security tracker that somebody gave.
//!
//! Of that data only the faults of one release are kept: a line for each source package, with its name before a tab.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_api::v1::fleet::{Cve, CveChanges, CveData};
use volary_debian::Version;
use volary_debian::tracker::{self, Fault, Status};
use volary_model::Suite;

use crate::Layout;
use crate::depot::Depot;

const VERSION: u32 = 1;

/// The most bytes that are read: several times what the tracker publishes.
const LIMIT: u64 = 512 << 20;

/// How many faults of each kind are named; the counts have all.
const NAMED: usize = 200;

/// The first line of what is kept.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    #[serde(flatten)]
    data: CveData,
}

/// The versions of each source package of a suite.
pub(crate) type Sources = BTreeMap<String, BTreeSet<Version>>;

/// The faults of source packages.
type Faults = BTreeMap<String, Vec<Fault>>;

/// Takes the tracker's data as it comes, and replaces what was known.
///
/// # Errors
/// What is wrong with the data; then what was known stays.
pub(crate) fn import(
    layout: &Layout,
    data: impl Read,
    release: &str,
    by: &str,
    now: Timestamp,
) -> Result<CveData, String> {
    let mut lines = Vec::new();
    let (mut packages, mut faults) = (0, 0);
    let mut take = |package: &str, found: Vec<Fault>| {
        packages += 1;
        faults += found.len();
        write!(lines, "{package}\t").map_err(|error| error.to_string())?;
        serde_json::to_writer(&mut lines, &found).map_err(|error| error.to_string())?;
        lines.push(b'\n');
        Ok(())
    };
    let mut data = data.take(LIMIT);
    tracker::read(&mut data, release, &mut take).map_err(|error| match data.limit() {
        0 => format!("the data has more than {} MiB", LIMIT >> 20),
        _ => format!("this is not the data of Debian's security tracker: {error}"),
    })?;
    if packages == 0 {
        return Err(format!("the data says nothing of a release {release:?}; name one such as bookworm"));
    }
    let data = CveData { release: release.to_owned(), imported_at: now, by: by.to_owned(), packages, faults };
    let mut text =
        serde_json::to_vec(&Head { version: VERSION, data: data.clone() }).expect("it is plain data");
    text.push(b'\n');
    text.extend(lines);
    volary_host::write_atomic(&layout.cves(), &text, 0o600).map_err(|error| error.to_string())?;
    Ok(data)
}

/// What is known, and the faults of some source packages; `None` if nobody gave any data.
fn known(path: &Path, wanted: &BTreeSet<&str>) -> Result<Option<(CveData, Faults)>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let wrong = |error: &dyn std::fmt::Display| {
        format!("{} cannot be read: {error}; import the data again: volary cve import FILE", path.display())
    };
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().ok_or_else(|| wrong(&"it is empty"))?.map_err(|error| wrong(&error))?;
    let head: Head = serde_json::from_str(&head).map_err(|error| wrong(&error))?;
    if head.version != VERSION {
        return Err(wrong(&format!("it has version {}", head.version)));
    }
    let mut faults = Faults::new();
    for line in lines {
        if wanted.is_empty() {
            break;
        }
        let line = line.map_err(|error| wrong(&error))?;
        let Some((package, found)) = line.split_once('\t') else { continue };
        if wanted.contains(package) {
            let found = serde_json::from_str(found).map_err(|error| wrong(&error))?;
            faults.insert(package.to_owned(), found);
        }
    }
    Ok(Some((head.data, faults)))
}

/// What is known of the data that was given last.
pub(crate) fn data(layout: &Layout) -> Result<Option<CveData>, String> {
    Ok(known(&layout.cves(), &BTreeSet::new())?.map(|(data, _)| data))
}

/// The faults that a change from one suite to another mends and brings; `None` if nobody gave any data, or nothing is
/// there to compare with.
///
/// # Errors
/// The archive or the data cannot be read.
pub(crate) fn between(
    layout: &Layout,
    depot: &Depot,
    before: Option<&Suite>,
    after: Option<&Suite>,
) -> Result<Option<CveChanges>, String> {
    let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
    if !layout.cves().is_file() {
        return Ok(None);
    }
    let [old, new] = depot.changed_sources(before, after).map_err(|error| error.to_string())?;
    let wanted: BTreeSet<&str> = old.keys().chain(new.keys()).map(String::as_str).collect();
    let Some((data, faults)) = known(&layout.cves(), &wanted)? else { return Ok(None) };
    Ok(Some(compared(data, &faults, &old, &new)))
}

/// A fault counts while any version of its package has it.
fn compared(data: CveData, faults: &Faults, old: &Sources, new: &Sources) -> CveChanges {
    let has = |sources: &Sources, package: &str, fault: &Fault| {
        sources.get(package).is_some_and(|versions| versions.iter().any(|version| fault.has(version)))
    };
    let (mut closed, mut opened) = (Vec::new(), Vec::new());
    for (package, faults) in faults {
        for fault in faults {
            match (has(old, package, fault), has(new, package, fault)) {
                (true, false) => closed.push(cve(package, fault)),
                (false, true) => opened.push(cve(package, fault)),
                (true, true) | (false, false) => {}
            }
        }
    }
    for list in [&mut closed, &mut opened] {
        list.sort_by_key(|cve| (severity(&cve.urgency), cve.source.clone(), cve.id.clone()));
    }
    let (closed_count, opened_count) = (closed.len(), opened.len());
    closed.truncate(NAMED);
    opened.truncate(NAMED);
    CveChanges {
        release: data.release,
        imported_at: data.imported_at,
        closed_count,
        opened_count,
        closed,
        opened,
    }
}

fn cve(package: &str, fault: &Fault) -> Cve {
    let fixed = match &fault.status {
        Status::FixedIn(version) | Status::OpenUntil(version) => Some(version.to_string()),
        Status::Never | Status::Open | Status::Undetermined => None,
    };
    Cve {
        id: fault.id.clone(),
        source: package.to_owned(),
        urgency: fault.urgency.clone(),
        fixed_version: fixed,
    }
}

/// The most urgent first; what nobody has judged may be anything, so it comes before what is harmless.
fn severity(urgency: &str) -> usize {
    let order = ["high", "medium", "not yet assigned", "low", "end-of-life", "unimportant"];
    order.iter().position(|known| *known == urgency).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(versions: &[(&str, &str)]) -> Sources {
        let mut sources = Sources::new();
        for (source, version) in versions {
            sources.entry((*source).to_owned()).or_default().insert(version.parse().unwrap());
        }
        sources
    }

    fn fault(id: &str, status: Status, urgency: &str) -> Fault {
        Fault { id: id.to_owned(), status, urgency: urgency.to_owned() }
    }

    fn check(old: &[(&str, &str)], new: &[(&str, &str)], closed: &[&str], opened: &[&str]) {
        let fixed = |version: &str| Status::FixedIn(version.parse().unwrap());
        let faults = Faults::from([
            (
                "curl".to_owned(),
                vec![
                    fault("CVE-1", fixed("7.88.1-10+deb12u5"), "low"),
                    fault("CVE-2", fixed("7.88.1-10+deb12u6"), "high"),
                    fault("CVE-3", Status::Open, "not yet assigned"),
                    fault("CVE-4", Status::Undetermined, "high"),
                ],
            ),
            ("zlib".to_owned(), vec![fault("CVE-5", Status::Never, "high")]),
        ]);
        let data = CveData {
            release: "bookworm".to_owned(),
            imported_at: Timestamp::UNIX_EPOCH,
            by: "op".to_owned(),
            packages: 2,
            faults: 5,
        };
        let found = compared(data, &faults, &sources(old), &sources(new));
        let ids = |cves: &[Cve]| cves.iter().map(|cve| cve.id.clone()).collect::<Vec<_>>();
        assert_eq!((ids(&found.closed), ids(&found.opened)), (owned(closed), owned(opened)));
        assert_eq!((found.closed_count, found.opened_count), (closed.len(), opened.len()));
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn versions_say_what_is_mended_and_what_comes() {
        let (first, fifth, sixth) = ("7.88.1-10", "7.88.1-10+deb12u5", "7.88.1-10+deb12u6");
        check(&[("curl", first)], &[("curl", sixth)], &["CVE-2", "CVE-1"], &[]);
        check(&[("curl", first)], &[("curl", fifth)], &["CVE-1"], &[]);
        check(&[("curl", sixth)], &[("curl", first)], &[], &["CVE-2", "CVE-1"]);
        // One architecture still has the old one.
        check(&[("curl", first)], &[("curl", sixth), ("curl", first)], &[], &[]);
        check(&[], &[("curl", fifth), ("zlib", "1")], &[], &["CVE-2", "CVE-3"]);
        check(&[("curl", fifth)], &[], &["CVE-2", "CVE-3"], &[]);
        check(&[("own", "1")], &[("own", "2")], &[], &[]);
    }
}
