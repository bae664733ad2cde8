//! Confirm or undo: the effects around a change of the device.
//!
//! Here is what the machine asks for; how a checkpoint is taken, how the path is tried and how a
//! device is put back belong to modules of their own, which plug in here.

use volary_device::{Cause, Event, Failure, Undone, UndoneBy, Work};
use volary_host::now;

use crate::agent::Agent;
use crate::paths::Paths;
use crate::work;

/// Saves what the device is and arms the dead man's timer.
pub fn checkpoint(_agent: &mut Agent, work: &Work) -> Event {
    // Nothing is saved yet: `undo` says so, and does not claim that the device was put back.
    Event::Checkpointed { id: format!("{}-{}", work.target.commit.short(), now().as_millisecond()) }
}

/// Looks whether the change holds.
pub fn confirm(agent: &mut Agent, work: &Work) -> Event {
    match work::watch_units(agent, work).or_else(|| work::check(agent, work)) {
        None => Event::Confirmed,
        Some(failure) => Event::Failed(failure),
    }
}

/// Disarms the timer.
pub fn disarm(_agent: &mut Agent, _work: &Work) -> Event {
    Event::Disarmed
}

/// Puts the device back.
pub fn undo(_agent: &mut Agent, work: &Work, _failure: &Failure) -> Event {
    Event::Undone(Box::new(Undone {
        checkpoint: work.checkpoint.clone().unwrap_or_default(),
        target: work.target.clone(),
        by: UndoneBy::Agent,
        cause: Cause::Failed,
        said: String::new(),
        at: now(),
        path_works: None,
        rebooted: false,
        restored: Vec::new(),
        left: vec!["everything that changed, since this version of the agent saves nothing".to_owned()],
    }))
}

/// How the last undo on this device ended.
pub fn undone(_paths: &Paths) -> Option<Undone> {
    None
}
