//! Packages back to the versions of the checkpoint, from the files that were kept: by apt, which
//! knows the order, or by dpkg alone if apt does not manage. No network, and nothing of the
//! device's own settings of apt, which may be what is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use volary_host::{Cmd, write_atomic};

use super::Undo;
use crate::checkpoint::packages::{self, Difference, Packages};
use crate::checkpoint::{files, keep};
use crate::log;
use crate::units;

/// How long apt or dpkg may take: scripts of packages stop and start services.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What dpkg may do so that the versions before come back, whatever it thinks of it: they were
/// there together.
const FORCE: &str = "--force-confold,confmiss,downgrade,depends,depends-version,conflicts,breaks,overwrite,hold,\
                     remove-essential,remove-protected,bad-version,configure-any,architecture";

/// Puts versions back, removes what is new, and then apt's and dpkg's marks.
pub(super) fn put_back(undo: &mut Undo<'_>) {
    let Some(begun) = look(undo) else { return };
    let todo = packages::difference(&undo.manifest.packages, &begun);
    if !todo.back.is_empty() || !todo.new.is_empty() || !begun.half.is_empty() {
        let files = kept_files(undo, &todo);
        if undo.paths.is_device() && by_apt(undo, &todo, &files).is_err() {
            log::say("apt could not put the packages back; dpkg does it alone");
        }
        by_dpkg(undo);
    }
    let Some(ended) = look(undo) else { return };
    let left = packages::difference(&undo.manifest.packages, &ended);
    note(undo, &begun, &ended, &left);
    put_back_marks(undo, &ended);
}

fn look(undo: &mut Undo<'_>) -> Option<Packages> {
    match packages::look(undo.paths) {
        Ok(packages) => Some(packages),
        Err(error) => {
            undo.could_not(format!("packages: {error}"));
            None
        }
    }
}

/// The file of each version that goes back.
fn kept_files(undo: &Undo<'_>, todo: &Difference) -> BTreeMap<String, PathBuf> {
    let folder = undo.store.folder(&undo.manifest.id).join("packages");
    let found = todo
        .back
        .iter()
        .filter_map(|(key, version)| Some((key.clone(), keep::find(undo.paths, &[&folder], key, version)?)));
    found.collect()
}

fn by_apt(undo: &Undo<'_>, todo: &Difference, files: &BTreeMap<String, PathBuf>) -> Result<(), ()> {
    if files.is_empty() && todo.new.is_empty() {
        return Err(());
    }
    let config = undo.paths.checkpoint().join("apt.conf");
    let lists = undo.paths.checkpoint().join("no-lists/partial");
    volary_host::create_dir(&lists).map_err(|error| log::say(error.to_string()))?;
    write_atomic(&config, APT.as_bytes(), 0o600).map_err(|error| log::say(error.to_string()))?;
    let mut cmd = Cmd::new("apt-get")
        .args(["install", "-q", "-y", "--allow-downgrades", "--allow-remove-essential", "--purge"])
        .args(["--allow-change-held-packages", "--no-install-recommends", "--no-download"])
        .args(["-o", "Dpkg::Use-Pty=0"])
        .env("APT_CONFIG", &config);
    cmd = files.values().fold(cmd, Cmd::arg);
    cmd = todo.new.iter().fold(cmd, |cmd, key| cmd.arg(format!("{key}-")));
    quiet(undo, cmd).check().map(drop).map_err(|error| log::say(error.to_string()))
}

/// apt as it is made, but for what it must not do here: no hooks (one may be what crashes), no
/// sources, no caches on a disk that may be full.
const APT: &str = r#"
Dir::Etc::parts "-";
Dir::Etc::main "-";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::Etc::preferences "/dev/null";
Dir::State::lists "/var/lib/volary/checkpoint/no-lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Lock::Timeout "60";
Dpkg::Options { "--force-confold"; "--force-confmiss"; "--force-overwrite"; "--force-downgrade"; };
APT::Sandbox::User "root";
"#;

/// What apt left, or all of it.
fn by_dpkg(undo: &mut Undo<'_>) {
    let Some(now) = look(undo) else { return };
    let todo = packages::difference(&undo.manifest.packages, &now);
    let files = kept_files(undo, &todo);
    if !files.is_empty() {
        let install = files.values().fold(dpkg(undo).args([FORCE, "--install"]), Cmd::arg);
        run(undo, install);
    }
    if !todo.new.is_empty() {
        run(undo, dpkg(undo).args([FORCE, "--purge"]).args(&todo.new));
    }
    let left_half = look(undo).is_some_and(|now| !now.half.is_empty());
    if left_half {
        run(undo, dpkg(undo).args([FORCE, "--configure", "--pending"]));
    }
}

fn dpkg(undo: &Undo<'_>) -> Cmd {
    let cmd = Cmd::new("dpkg");
    if undo.paths.is_device() {
        cmd
    } else {
        // Files of a root of its own may belong to whoever made it.
        cmd.arg("--force-not-root").arg("--root").arg(undo.paths.on_device(std::path::Path::new("/")))
    }
}

fn run(undo: &Undo<'_>, cmd: Cmd) {
    // What it could not do is seen by comparing afterwards.
    if let Err(error) = quiet(undo, cmd).check() {
        log::say(error.to_string());
    }
}

fn quiet(undo: &Undo<'_>, cmd: Cmd) -> Cmd {
    let cmd = cmd
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_SUSPEND", "1")
        .env("LC_ALL", "C.UTF-8")
        .timeout(LIMIT);
    // Early in a boot a service that a script starts would wait for the network, which waits for us.
    if undo.how.at_boot { cmd.env("SYSTEMD_OFFLINE", "1") } else { cmd }
}

/// Writes down what came of it.
fn note(undo: &mut Undo<'_>, begun: &Packages, ended: &Packages, left: &Difference) {
    let before = undo.manifest.packages.keys();
    let keys: BTreeSet<&String> =
        before.chain(begun.installed.keys()).chain(&begun.half).chain(ended.installed.keys()).collect();
    let moved: Vec<(String, String, String)> = keys
        .into_iter()
        .filter_map(|key| {
            let side = |packages: &Packages| packages.installed.get(key).cloned().unwrap_or_default();
            let (from, to) = (side(begun), side(ended));
            (from != to).then(|| (key.clone(), from, to))
        })
        .collect();
    for (key, from, to) in moved {
        undo.undone.packages.insert(key, (from, to));
    }
    for (key, version) in &left.back {
        let now = ended.installed.get(key).map_or("it is not whole", String::as_str);
        undo.could_not(format!("{key} is not at {version} again, but: {now}"));
    }
    for key in &left.new {
        undo.could_not(format!("{key} is new and could not be removed"));
    }
}

fn put_back_marks(undo: &mut Undo<'_>, now: &Packages) {
    if !undo.paths.is_device() {
        return;
    }
    let manifest = undo.manifest;
    let there = |name: &String| {
        let start = format!("{name}:");
        name.contains(':') || now.installed.keys().any(|key| key.starts_with(&start))
    };
    let mark = |what: &str, names: Vec<&String>| {
        let names: Vec<_> = names.into_iter().filter(|name| there(name)).collect();
        if names.is_empty() {
            return;
        }
        if let Err(error) = Cmd::new("apt-mark").arg(what).args(names).check() {
            log::say(error.to_string());
        }
    };
    mark("hold", manifest.held.difference(&now.held).collect());
    mark("unhold", now.held.difference(&manifest.held).collect());
    mark("manual", manifest.manual.difference(&now.manual).collect());
    mark("auto", now.manual.difference(&manifest.manual).collect());
}

/// The services that came with packages which were put back.
pub(super) fn services(undo: &Undo<'_>) -> BTreeSet<String> {
    let moved = undo.undone.packages.keys().filter_map(|key| key.split_once(':'));
    units::of_packages(undo.paths.dpkg(), moved)
}

/// The packages that these files belong to, as `(name, architecture)`. Files of nobody are left
/// out.
pub(super) fn owners(undo: &Undo<'_>) -> BTreeSet<(String, String)> {
    let changed: Vec<_> = undo.changed.iter().filter(|path| !files::is_never_touched(path)).collect();
    if changed.is_empty() || !undo.paths.is_device() {
        return BTreeSet::new();
    }
    // It ends with 1 if one of them belongs to nobody; the others are named all the same.
    let said = Cmd::new("dpkg-query").arg("--search").args(changed).run().map(|output| output.text());
    let said = said.unwrap_or_default();
    let named =
        said.lines().filter_map(|line| line.split_once(": /")).flat_map(|(names, _)| names.split(", "));
    named
        .map(|name| match name.split_once(':') {
            Some((name, architecture)) => (name.to_owned(), architecture.to_owned()),
            None => (name.to_owned(), String::new()),
        })
        .collect()
}
