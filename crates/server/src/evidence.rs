//! Evidence of promotions: what the gates said when a merge was taken, signed and kept in git.
//!
//! Git's hook, which asks the gates, leaves it in a folder; once the branch is at the merge, the server
//! signs it and makes it a note of that merge. So a push that fails after the hook leaves no
//! evidence, and one that was taken before a power cut gets it after the start.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use volary_api::v1::fleet::{Cve, CveChanges, Say, Verdict};
use volary_fleet::{
    CveWord, DeviceWord, EVIDENCE_REF, Evidence, EvidenceKey, GateWord, GitRepository, ReadObjects,
    is_ancestor,
};
use volary_host::{Cmd, FileError};
use volary_model::CommitId;

use crate::Layout;
use crate::facts::Judged;
use crate::fleet_view::FleetView;

/// How long evidence waits for its merge: a push ends within the hour, or never.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The key of a server, which is made if there is none.
///
/// # Errors
/// The file cannot be read or made.
pub(crate) fn key(layout: &Layout) -> Result<EvidenceKey, String> {
    let path = layout.evidence_key();
    if !path.is_file() {
        make_key(&path).map_err(|error| error.to_string())?;
    }
    let text = volary_host::read_to_string(&path).map_err(|error| error.to_string())?;
    EvidenceKey::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Under a name of its own first: half a key must never be one.
pub(crate) fn make_key(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    volary_host::create_dir(folder)?;
    let scratch = tempfile::Builder::new().prefix(".key").tempdir_in(folder)?;
    let draft = scratch.path().join("key");
    Cmd::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "volary evidence", "-f"])
        .arg(&draft)
        .check()?;
    volary_host::write_atomic(path, &volary_host::read(&draft)?, 0o600)?;
    Ok(())
}

/// Who the server is in `.volary/allowed_signers`.
pub(crate) const PRINCIPAL: &str = "volary-server";

/// What the gates said, and whom a person overrode with which reason.
pub(crate) fn words<'a>(
    verdicts: &'a [Verdict],
    overrides: impl Fn(&str) -> Option<String> + 'a,
) -> impl Iterator<Item = GateWord> + 'a {
    verdicts.iter().map(move |verdict| GateWord {
        gate: verdict.gate.clone(),
        say: match verdict.say {
            Say::Go => "go",
            Say::Ask => "ask",
            Say::Stop => "stop",
        }
        .to_owned(),
        reason: verdict.reason.clone(),
        overridden: overrides(&verdict.gate).filter(|_| verdict.say != Say::Go),
    })
}

/// Which security faults the merge mends and brings.
pub(crate) fn cves(found: &CveChanges) -> CveWord {
    let names = |cves: &[Cve]| {
        cves.iter().map(|cve| format!("{} {} ({})", cve.id, cve.source, cve.urgency)).collect()
    };
    CveWord {
        release: found.release.clone(),
        known_at: found.imported_at,
        closed_count: found.closed_count,
        opened_count: found.opened_count,
        closed: names(&found.closed),
        opened: names(&found.opened),
    }
}

/// How devices are.
pub(crate) fn devices<'a>(devices: impl Iterator<Item = &'a Judged>) -> Vec<DeviceWord> {
    let word = |device: &Judged| DeviceWord {
        device: device.record.name.clone(),
        condition: serde_json::to_value(device.condition)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default(),
        reason: device.reason.clone(),
    };
    devices.map(word).collect()
}

/// Leaves evidence for when the branch is at its merge.
pub(crate) fn leave(layout: &Layout, evidence: &Evidence) -> Result<(), FileError> {
    let folder = layout.pending_evidence();
    volary_host::create_dir(&folder)?;
    let text = serde_json::to_string_pretty(evidence).expect("evidence is plain values");
    volary_host::write_atomic(&folder.join(format!("{}.json", evidence.merge)), text.as_bytes(), 0o600)
}

/// Signs what was left of merges that the branches are at by now. Answers with those merges.
///
/// # Errors
/// The first thing that went wrong; what was left stays and is tried again.
pub(crate) fn settle(layout: &Layout, view: &FleetView) -> Result<Vec<Evidence>, String> {
    let left = left(&layout.pending_evidence()).map_err(|error| error.to_string())?;
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let repository = crate::fleet_view::open(layout)?;
    let key = key(layout)?;
    let mut settled = Vec::new();
    for path in left {
        let text = volary_host::read_to_string(&path).map_err(|error| error.to_string())?;
        let evidence: Evidence =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let tip = view.stage(&evidence.stage).and_then(|stage| stage.tip.as_ref());
        let taken = match tip {
            Some(tip) => is_there(&repository, &evidence.merge, &tip.commit)?,
            None => false,
        };
        if taken {
            keep(layout, &key.note(&evidence)?, &evidence.merge)?;
            settled.push(evidence);
        } else if !is_old(&path) {
            continue;
        }
        volary_host::remove_if_exists(&path).map_err(|error| error.to_string())?;
    }
    Ok(settled)
}

fn left(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("read", folder)(error)),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect())
}

fn is_there(repository: &GitRepository, merge: &CommitId, tip: &CommitId) -> Result<bool, String> {
    // A push that failed leaves no objects.
    if repository.find_commit(merge).map_err(|error| error.to_string())?.is_none() {
        return Ok(false);
    }
    is_ancestor(repository, merge, tip).map_err(|error| error.to_string())
}

fn is_old(path: &Path) -> bool {
    let made = std::fs::metadata(path).and_then(|file| file.modified());
    made.is_ok_and(|made| {
        SystemTime::from(volary_host::now()).duration_since(made).is_ok_and(|age| age > PATIENCE)
    })
}

/// Byte for byte, so that the signature holds.
fn keep(layout: &Layout, note: &str, merge: &CommitId) -> Result<(), String> {
    let git = || {
        Cmd::new("git")
            .cwd(layout.fleet())
            .args(["-c", "user.name=Volary", "-c", "user.email=volary@localhost", "-c", "safe.directory=*"])
            .env_remove("GIT_DIR")
    };
    let blob = git()
        .args(["hash-object", "-w", "--stdin"])
        .stdin(note)
        .check()
        .map_err(|error| error.to_string())?;
    git()
        .args(["notes", "--ref", EVIDENCE_REF, "add", "--force", "-C", blob.text().trim(), merge.as_str()])
        .check()
        .map_err(|error| error.to_string())?;
    Ok(())
}
