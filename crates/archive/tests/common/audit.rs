//! What must hold of a published suite so that no apt falls silent: an independent look at the
//! served files, with none of the archive's own code.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use volary_debian::release::parse_date;
use volary_host::Cmd;

/// What makes real apt end with success and yet offer no packages, or keep its old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A compressed index is listed without its plain form.
    PlainUnlisted,
    /// A line of a hash list that is not digest, size, path.
    LineOrder,
    /// An index that the suite does not list for an architecture that it says to have.
    IndexMissing,
    /// An architecture that the suite had, and has no more.
    ArchitectureGone,
    /// A component that the suite had, and has no more.
    ComponentGone,
    /// A Date before that of the InRelease that devices hold.
    OlderDate,
    /// Other content, and a time of modification that is not a later second.
    NotModified,
    /// No signature by the key that devices hold.
    OtherSigner,
}

/// An InRelease as a device may hold it.
#[derive(Debug, Clone)]
pub struct Held {
    text: String,
    modified: SystemTime,
}

impl Held {
    pub fn read(public: &Path, suite: &str) -> Self {
        let path = public.join("dists").join(suite).join("InRelease");
        let text = volary_host::read_to_string(&path).unwrap();
        Self { text, modified: fs::metadata(&path).unwrap().modified().unwrap() }
    }

    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    fn date(&self) -> Option<Timestamp> {
        parse_date(&field(&self.text, "Date")?)
    }

    fn second(&self) -> u64 {
        self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }
}

/// The value of a one-line field.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// The words of a one-line field.
fn words(text: &str, name: &str) -> Vec<String> {
    field(text, name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// All faults of a suite, each once, for a device that holds `held` and trusts `key`.
pub fn faults(public: &Path, suite: &str, held: Option<&Held>, key: &str) -> Vec<Fault> {
    let now = Held::read(public, suite);
    let mut faults = in_lists(&now.text);
    if let Some(held) = held {
        if now.date() < held.date() {
            faults.push(Fault::OlderDate);
        }
        let lost = |name: &str| {
            let now_has = words(&now.text, name);
            words(&held.text, name).iter().any(|had| !now_has.contains(had))
        };
        if lost("Architectures") {
            faults.push(Fault::ArchitectureGone);
        }
        if lost("Components") {
            faults.push(Fault::ComponentGone);
        }
        if now.text != held.text && now.second() <= held.second() {
            faults.push(Fault::NotModified);
        }
    }
    if !signed_by(&public.join("dists").join(suite).join("InRelease"), key) {
        faults.push(Fault::OtherSigner);
    }
    faults.sort_unstable();
    faults.dedup();
    faults
}

fn in_lists(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut paths = Vec::new();
    let lines = text.lines().skip_while(|line| line.trim_end() != "SHA256:").skip(1);
    for line in lines.take_while(|line| line.starts_with(' ')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [hash, size, path] if hash.len() == 64 && size.parse::<u64>().is_ok() => paths.push(path),
            // What the list names cannot be known then.
            _ => return vec![Fault::LineOrder],
        }
    }
    for path in &paths {
        let plain = [".gz", ".xz", ".zst"].iter().find_map(|end| path.strip_suffix(end));
        if plain.is_some_and(|plain| !paths.contains(&plain)) {
            faults.push(Fault::PlainUnlisted);
        }
    }
    let (architectures, components) = (words(text, "Architectures"), words(text, "Components"));
    for component in &components {
        for architecture in architectures.iter().filter(|name| *name != "all" && *name != "source") {
            let index = format!("{component}/binary-{architecture}/Packages");
            if !paths
                .iter()
                .any(|path| path.strip_prefix(index.as_str()).is_some_and(|end| !end.contains('/')))
            {
                faults.push(Fault::IndexMissing);
            }
        }
    }
    faults
}

/// Whether gpgv and sqv accept the file with this key alone, as apt 2.6 and apt 3.0 ask them.
fn signed_by(path: &Path, key: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let keyring = dir.path().join("key.gpg");
    let dearmor = Cmd::new("gpg").args(["--batch", "--yes", "--homedir"]).arg(dir.path());
    dearmor.args(["--dearmor", "-o"]).arg(&keyring).stdin(key).check().unwrap();
    let gpgv = Cmd::new("gpgv").args(["--status-fd", "1", "--keyring"]).args([keyring.as_path(), path]);
    // As apt reads it: further signatures by unknown keys do no harm.
    let good = gpgv.run().unwrap().text().contains("[GNUPG:] GOODSIG ");
    // This sqv reads detached signatures only. That of a clearsigned text holds for the text
    // without its last line end.
    let text = volary_host::read_to_string(path).unwrap();
    let Ok(Some(parts)) = volary_debian::clearsign::split(&text) else { return false };
    let (release, signature) = (dir.path().join("Release"), dir.path().join("Release.gpg"));
    let payload = parts.payload.strip_suffix('\n').unwrap_or(&parts.payload);
    volary_host::write_atomic(&release, payload.as_bytes(), 0o644).unwrap();
    volary_host::write_atomic(&signature, parts.signature.as_bytes(), 0o644).unwrap();
    let sqv = Cmd::new("sqv").arg("--keyring").args([&keyring, &signature, &release]).run().unwrap();
    good && sqv.status.success()
}
