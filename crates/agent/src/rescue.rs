//! The dead man: run by a timer and at each boot, from a copy of the program outside of the agent.
//! What it decides is `volary_device::rescue`; this looks, waits and undoes. It needs the folder of
//! checkpoints and nothing else: not the ledger, not the agent, not its package.

use std::time::Duration;

use volary_host::{Cmd, boot_id};

use crate::checkpoint::store::{By, Reason, Store, StoreError, boot_seconds};
use crate::checkpoint::{boot, release_reserve};
use crate::log;
use crate::path::{self, Proof};
use crate::paths::Paths;
use crate::undo::{self, Ended, How};
use crate::units;
use volary_device::{Armed, Cause, Observed, Rescue, Step, rescue};

/// How long it sleeps at most before it looks again: a person who confirms by hand is noticed.
const NAP: Duration = Duration::from_secs(15);

/// Looks after the armed checkpoint until there is none, or it is undone.
///
/// # Errors
/// [`StoreError`]; the timer starts it again.
pub fn run(paths: &Paths, at_boot: bool) -> Result<(), StoreError> {
    let mut ours = None;
    loop {
        // Somebody who undoes right now is waited for.
        let store = Store::open(paths)?;
        let armed = match store.armed() {
            Ok(armed) => armed,
            Err(error @ StoreError::Invalid { .. }) => {
                log::say(error.to_string());
                return undo_unreadable(paths, &store, at_boot);
            }
            Err(error) => return Err(error),
        };
        let undoing = store.undoing()?;
        // The change that this one looks after is over, and another has a timer of its own.
        let current = armed.as_ref().map(|armed| armed.checkpoint.clone());
        if ours.is_some() && current.is_some() && ours != current {
            return Ok(());
        }
        ours = current;
        let (seen, said) = observe(&store, armed.as_ref(), undoing.is_some(), at_boot)?;
        match rescue(armed.as_ref(), &seen) {
            Rescue::Nothing => match armed {
                None => {
                    boot::stop_timer(paths);
                    return Ok(());
                }
                Some(armed) if at_boot => {
                    let left = armed.deadline.saturating_sub(seen.clock);
                    return start_timer(paths, &armed.checkpoint, Duration::from_secs(left));
                }
                Some(armed) => {
                    drop(store);
                    let left = Duration::from_secs(armed.deadline.saturating_sub(seen.clock));
                    std::thread::sleep(left.clamp(Duration::from_secs(1), NAP));
                }
            },
            Rescue::Extend(armed) => {
                if let Err(error) = store.arm(&armed) {
                    // On a full disk nobody can say any more that all is well.
                    log::say(error.to_string());
                    release_reserve(paths);
                    let reason = reason(Cause::Unconfirmed, &error.to_string());
                    return undo_now(paths, store, reason, at_boot);
                }
                if at_boot {
                    log::say(format!(
                        "commit {} was not confirmed before the device was switched off: it has {} s",
                        armed.target.commit.short(),
                        armed.grace
                    ));
                    return start_timer(paths, &armed.checkpoint, Duration::from_secs(armed.grace));
                }
            }
            Rescue::Undo(cause) => return undo_now(paths, store, reason(cause, &said), at_boot),
            // It has its reason from when it was begun.
            Rescue::Finish => return undo_now(paths, store, reason(Cause::Unconfirmed, &said), at_boot),
        }
    }
}

fn undo_now(paths: &Paths, store: Store, reason: Reason, at_boot: bool) -> Result<(), StoreError> {
    let by = if at_boot { By::Boot } else { By::Timer };
    let undoing = match store.claim(by, reason.clone()) {
        Err(StoreError::File(error)) => {
            log::say(error.to_string());
            release_reserve(paths);
            store.claim(by, reason)?
        }
        claimed => claimed?,
    };
    let Some(undoing) = undoing else { return Ok(()) };
    let ended = undo::run(paths, &store, undoing, How { at_boot, by_agent: false })?;
    drop(store);
    if matches!(ended, Ended::Undone(_)) {
        start_agent(paths, at_boot);
    }
    Ok(())
}

fn start_timer(paths: &Paths, checkpoint: &str, grace: Duration) -> Result<(), StoreError> {
    if let Err(error) = boot::start_timer(paths, checkpoint, grace) {
        // The agent still looks after its deadline itself.
        log::say(error.to_string());
    }
    Ok(())
}

/// What is seen now, and why the path does not work.
fn observe(
    store: &Store,
    armed: Option<&Armed>,
    undoing: bool,
    at_boot: bool,
) -> Result<(Observed, String), StoreError> {
    let mut seen =
        Observed { clock: boot_seconds(), boot: boot_id(), agent_alive: false, path_works: false, undoing };
    let mut said = String::new();
    let Some(armed) = armed else { return Ok((seen, said)) };
    // What is not needed is not looked at: a beginning of TLS each few seconds is not for nothing.
    if undoing || at_boot || seen.clock < armed.deadline {
        seen.agent_alive = true;
        return Ok((seen, said));
    }
    seen.agent_alive = agent_stays();
    let path = store.manifest(&armed.checkpoint)?.path;
    match path::probe(&path.server, &path.ca) {
        Proof::Works { .. } => seen.path_works = true,
        Proof::Broken { reason } => said = reason,
    }
    Ok((seen, said))
}

/// True if the agent's unit runs and nobody asked it to end. One that is asked to and cannot is as
/// good as gone: the change that runs in it may be what stopped it.
pub fn agent_is_alive() -> bool {
    running().is_some()
}

/// Which run of the agent's unit this is, if it runs.
fn running() -> Option<String> {
    let asked = ["show", "--property=ActiveState,InvocationID", units::AGENT];
    let said = Cmd::new("systemctl").args(asked).run().ok()?.text();
    said.lines().any(|line| line == "ActiveState=active").then_some(said)
}

/// True if the agent runs, and not only until it crashes again: systemd starts it each 10 s.
fn agent_stays() -> bool {
    stays(running, || std::thread::sleep(MOMENT))
}

/// How long a run of the agent has to last to be one.
const MOMENT: Duration = Duration::from_secs(5);

/// True if what is looked at is there and the same after a moment. It may change once meanwhile: an
/// update restarts the agent.
fn stays<T: PartialEq>(mut look: impl FnMut() -> Option<T>, mut wait: impl FnMut()) -> bool {
    let mut before = look();
    for _ in 0..2 {
        if before.is_none() {
            return false;
        }
        wait();
        let now = look();
        if now == before {
            return true;
        }
        before = now;
    }
    false
}

/// Why the rescue undoes a change.
pub(crate) fn reason(cause: Cause, path_said: &str) -> Reason {
    let message =
        if path_said.is_empty() { cause.text().to_owned() } else { format!("{}: {path_said}", cause.text()) };
    let step = if cause == Cause::PathLost { Step::Path } else { Step::Confirm };
    Reason {
        cause,
        step: step.name().to_owned(),
        what: String::new(),
        message,
        journal: units::journal(units::AGENT),
    }
}

/// A record that cannot be read says that a change began and not which: the last checkpoint it is.
fn undo_unreadable(paths: &Paths, store: &Store, at_boot: bool) -> Result<(), StoreError> {
    let Some(id) = store.ids().pop() else { return Ok(()) };
    let target = store.manifest(&id)?.target;
    let undoing = store.claim_confirmed(&id, &target, reason(Cause::Unconfirmed, "its record is damaged"))?;
    undo::run(paths, store, undoing, How { at_boot, by_agent: false })?;
    start_agent(paths, at_boot);
    Ok(())
}

/// Starts the agent that is back. Somebody may have masked it for this boot.
pub fn start_agent(paths: &Paths, at_boot: bool) {
    if !paths.is_device() || !units::is_booted() {
        return;
    }
    let systemctl = |args: &[&str]| drop(Cmd::new("systemctl").args(args).run());
    systemctl(&["unmask", "--runtime", units::AGENT]);
    systemctl(&["reset-failed", units::AGENT]);
    let start = ["restart", "--no-block", units::AGENT];
    if at_boot { systemctl(&["start", "--no-block", units::AGENT]) } else { systemctl(&start) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_crashes_again_and_again_is_not_alive() {
        let check = |looks: &[Option<u32>], expected: bool| {
            let mut left = looks.iter().copied();
            let (mut looked, mut waited) = (0, 0);
            let look = || {
                looked += 1;
                left.next().expect("no further look")
            };
            assert_eq!(stays(look, || waited += 1), expected, "{looks:?}");
            assert_eq!((looked, waited), (looks.len(), looks.len() - 1), "{looks:?}");
        };
        check(&[None], false);
        check(&[Some(1), Some(1)], true);
        check(&[Some(1), None], false);
        // An update restarted it.
        check(&[Some(1), Some(2), Some(2)], true);
        check(&[Some(1), Some(2), None], false);
        check(&[Some(1), Some(2), Some(3)], false);
    }
}
