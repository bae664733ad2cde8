//! Puts a device back to a checkpoint: network, packages, files, clock, units, in this order.
//!
//! Each step can be repeated, and the whole is repeated after a power cut until `undone.json` says
//! how it ended. What cannot be put back is named there; it never keeps the rest from going back.
//! Not here: when to undo (`rescue`, and the machine of `volary-device`).

mod files;
mod made;
mod network;
mod packages;
mod programs;
mod space;
#[cfg(test)]
mod tests;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use programs::MARK;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_device::Target;
use volary_host::{Cmd, now};

use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::store::{By, Reason, Store, StoreError, Undoing};
use crate::checkpoint::{boot, release_reserve, state, store};
use crate::log;
use crate::modules;
use crate::path::{self, Proof};
use crate::paths::Paths;
use crate::slots::switch::{self, Way};

/// An undo that is begun this often does not end: something in it kills the device.
const TRIES: u32 = 5;

/// How often, and with which pause, the path is tried afterwards: a network that was restarted
/// takes a while.
const PROBES: (u32, Duration) = (6, Duration::from_secs(5));

/// A clock that is wrong by less is left to the time server.
const CLOCK: i64 = 10;

/// `undone.json`: how an undo ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The version of this format: 1.
    pub version: u32,
    /// Which checkpoint.
    pub checkpoint: String,
    /// What the change went for.
    pub target: Target,
    /// Who undid it.
    pub by: By,
    /// Why.
    pub reason: Reason,
    /// When it ended.
    pub at: Timestamp,
    /// Files, folders and links that were put back.
    pub files: u32,
    /// Those that were new and are removed.
    pub removed: u32,
    /// Packages: `name:architecture` → (after the change, after the undo), empty for "not there".
    pub packages: BTreeMap<String, (String, String)>,
    /// Units that were started, restarted or stopped.
    pub units: Vec<String>,
    /// What of the kernel's network state was put back.
    pub network: Vec<String>,
    /// What could not be put back, and why.
    pub could_not: Vec<String>,
    /// Whether the path works now; `None` if it did not before, or could not be tried.
    pub path: Option<bool>,
    /// What trying it said.
    pub path_said: String,
    /// True if the device was switched off and on for it.
    pub rebooted: bool,
    /// On a full disk the largest files that are younger than the checkpoint, with their bytes.
    pub largest: Vec<(String, u64)>,
}

/// How an undo is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// Early in a boot: the network is not up and systemd is busy.
    pub at_boot: bool,
    /// By the agent itself, which is not to be stopped.
    pub by_agent: bool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is over.
    Undone(Box<Undone>),
    /// As the last resort the device is switched off and on; the undo goes on then.
    Rebooting,
}

/// Puts everything back as `undoing` says. The lock is in the caller's hand.
///
/// # Errors
/// [`StoreError`]: the checkpoint cannot be read, or how it ended not be written. It is repeated.
pub fn run(paths: &Paths, store: &Store, mut undoing: Undoing, how: How) -> Result<Ended, StoreError> {
    release_reserve(paths);
    undoing.tries += 1;
    store.note(&undoing)?;
    log::say(format!(
        "undoing commit {}: {}",
        undoing.armed.target.commit.short(),
        first_line(&undoing.reason)
    ));
    let manifest = store.manifest(&undoing.armed.checkpoint)?;
    let way = switch::go_back(paths, manifest.slot);
    let may_switch = may_reboot(paths) || !paths.is_device();
    if matches!(way, Ok(Way::Elsewhere)) && undoing.tries <= TRIES && may_switch {
        undoing.switched = true;
        store.note(&undoing)?;
        match switch::boot(paths) {
            Ok(()) => return Ok(Ended::Rebooting),
            Err(error) => log::say(error.to_string()),
        }
    }
    let module = match &way {
        Ok(Way::Here) if undoing.tries <= TRIES => {
            modules::undo_change(paths, &manifest.id, first_line(&undoing.reason).as_str())
        }
        _ => Ok(None),
    };
    if matches!(module, Ok(Some(modules::Outcome::Reboots))) && may_switch {
        undoing.switched = true;
        store.note(&undoing)?;
        return Ok(Ended::Rebooting);
    }
    let mut undo = Undo::new(paths, store, &manifest, &undoing, how);
    match module {
        Ok(Some(modules::Outcome::Back { inconsistent: true, .. })) => {
            undo.could_not("what an update module installed: it cannot roll back");
        }
        Ok(_) => {}
        Err(error) => undo.could_not(format!("what an update module installed: {error}")),
    }
    if undoing.tries > TRIES {
        undo.could_not(format!("it was begun {TRIES} times and never ended; the rest is left as it is"));
    } else {
        match way {
            Ok(Way::Here) => undo.everything(),
            // Nothing of the other slot may be put into this one.
            Ok(Way::Elsewhere) => undo.could_not("the slot before boots from the next boot on, and not yet"),
            Err(error) => {
                undo.could_not(format!("the boot state cannot be written: {error}"));
                undo.everything();
            }
        }
    }
    undo.look_at_path();
    let lost = undo.undone.path == Some(false);
    if lost && !undoing.rebooted && may_reboot(paths) {
        log::say("the server cannot be reached still: switching the device off and on");
        undoing.rebooted = true;
        store.note(&undoing)?;
        // Written by now is what the next boot needs.
        match Cmd::new("systemctl").args(["reboot", "--no-block"]).check() {
            Ok(_) => return Ok(Ended::Rebooting),
            Err(error) => undo.could_not(error.to_string()),
        }
    }
    let mut undone = undo.undone;
    undone.at = now();
    for line in &undone.could_not {
        log::say(format!("could not be put back: {line}"));
    }
    store.end(&undone)?;
    switch::after_undo(paths, manifest.image, undoing.switched);
    boot::stop_timer(paths);
    log::say(format!(
        "undone: {} files, {} packages, {} units are as they were",
        undone.files + undone.removed,
        undone.packages.len(),
        undone.units.len()
    ));
    Ok(Ended::Undone(Box::new(undone)))
}

/// The last undo, if there was one.
pub fn last(paths: &Paths) -> Option<Undone> {
    store::load(&paths.checkpoint().join("undone.json")).ok().flatten()
}

/// A container's host decides when it restarts; and so does a person who says so.
fn may_reboot(paths: &Paths) -> bool {
    let told_not_to = std::env::var_os("VOLARY_NO_REBOOT").is_some();
    paths.is_device() && !told_not_to && !Path::new("/run/systemd/container").exists()
}

fn first_line(reason: &Reason) -> String {
    let said = if reason.message.is_empty() { reason.cause.text() } else { &reason.message };
    said.lines().next().unwrap_or_default().to_owned()
}

/// An undo under way.
struct Undo<'a> {
    paths: &'a Paths,
    store: &'a Store,
    manifest: &'a Manifest,
    how: How,
    /// What was put back or removed: who reads it has to be told.
    changed: BTreeSet<PathBuf>,
    undone: Undone,
}

impl<'a> Undo<'a> {
    fn new(paths: &'a Paths, store: &'a Store, manifest: &'a Manifest, undoing: &Undoing, how: How) -> Self {
        let undone = Undone {
            version: 1,
            checkpoint: manifest.id.clone(),
            target: undoing.armed.target.clone(),
            by: undoing.by,
            reason: undoing.reason.clone(),
            at: now(),
            files: 0,
            removed: 0,
            packages: BTreeMap::new(),
            units: Vec::new(),
            network: Vec::new(),
            could_not: Vec::new(),
            path: None,
            path_said: String::new(),
            rebooted: undoing.rebooted || undoing.switched,
            largest: Vec::new(),
        };
        Self { paths, store, manifest, how, changed: BTreeSet::new(), undone }
    }

    fn everything(&mut self) {
        let on_device = self.paths.is_device();
        space::look(self);
        if on_device {
            programs::stop(self);
        }
        // Once before the packages, whose scripts may need it, and once after the units, which may
        // have brought up something else. Early in a boot there is nothing in the kernel yet.
        if on_device && !self.how.at_boot {
            network::put_back(self);
        }
        packages::put_back(self);
        files::put_back(self);
        made::remove(self);
        self.put_back_ledger();
        if on_device {
            self.put_back_clock();
            units::put_back(self);
            if !self.how.at_boot {
                network::put_back(self);
            }
        }
    }

    fn could_not(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.undone.could_not.contains(&what) {
            self.undone.could_not.push(what);
        }
    }

    /// The ledger, if this program cannot read what a newer agent wrote. The running agent wrote
    /// its own.
    fn put_back_ledger(&mut self) {
        let current = [0, 1].map(|slot| volary_host::read(&self.paths.ledger(slot)).ok());
        let readable = volary_device::decode(current.each_ref().map(Option::as_deref)).is_ok();
        if readable || self.how.by_agent {
            return;
        }
        for slot in 0..2 {
            let copy = self.store.folder(&self.manifest.id).join(format!("ledger.{slot}"));
            let put = match volary_host::read(&copy) {
                Ok(bytes) => volary_host::write_atomic(&self.paths.ledger(slot), &bytes, 0o600),
                // There was none. A newer one in its place would be refused.
                Err(_) => volary_host::remove_if_exists(&self.paths.ledger(slot)),
            };
            if let Err(error) = put {
                self.could_not(error.to_string());
            }
        }
        log::say("the ledger is that of the checkpoint: a newer agent had written it");
    }

    /// The wall clock, if something but a time server moved it.
    fn put_back_clock(&mut self) {
        let (before, now) = (&self.manifest.clock, state::clock());
        let expected = if before.boot_id == now.boot_id {
            let passed = now.boot_ms.saturating_sub(before.boot_ms);
            before.wall.checked_add(Duration::from_millis(passed)).unwrap_or(before.wall)
        } else if now.wall < before.wall {
            // Of another boot is only known that it came later.
            before.wall
        } else {
            return;
        };
        let off = now.wall.duration_since(expected).as_secs().abs();
        // A clock that a time server put right meanwhile stays right.
        let put_right = now.synchronised && !before.synchronised;
        if off <= CLOCK || put_right {
            return;
        }
        match volary_host::set_clock(expected) {
            Ok(()) => self.undone.units.push(format!("the clock, which was {off} s off")),
            Err(error) => self.could_not(format!("the clock is {off} s off: {error}")),
        }
    }

    fn look_at_path(&mut self) {
        let before = &self.manifest.path;
        if !before.worked || self.how.at_boot || before.server.is_empty() {
            return;
        }
        let (times, pause) = PROBES;
        let proof = path::probe_again(&before.server, &before.ca, times, pause);
        self.undone.path = Some(proof.works());
        if let Proof::Broken { reason } = proof {
            self.undone.path_said = reason;
        }
    }
}
