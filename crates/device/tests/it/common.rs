//! What the tests of the machine share: a fleet of numbered commits, and shorthands for events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use volary_device::{
    Cause, Effect, Event, Failure, Gains, Passed, State, Step, Target, Undone, UndoneBy, step,
};

pub fn commit(number: u64) -> volary_model::CommitId {
    format!("{number:040x}").parse().unwrap()
}

pub fn target(number: u64, rolling: &str) -> Target {
    Target { stage: "development".parse().unwrap(), commit: commit(number), rolling: rolling.into() }
}

pub fn fresh() -> State {
    State::new("development".parse().unwrap(), 42)
}

pub fn at(seconds: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap()
}

pub fn passed() -> Passed {
    Passed { suite: Some("rolling".into()), ..Passed::default() }
}

pub fn verified() -> Event {
    Event::Verified(Box::new(passed()))
}

pub fn checkpointed() -> Event {
    Event::Checkpointed { id: "c1".into() }
}

/// What a step says that changed something.
pub fn gains() -> Gains {
    Gains { changed_tasks: 1, packages: BTreeMap::new() }
}

pub fn undone(number: u64, rolling: &str, cause: Cause, path_works: Option<bool>) -> Box<Undone> {
    Box::new(Undone {
        checkpoint: "c1".into(),
        target: target(number, rolling),
        by: UndoneBy::Agent,
        cause,
        said: String::new(),
        at: at(0),
        path_works,
        rebooted: false,
        restored: vec![],
        left: vec![],
    })
}

pub const NUDGE: Event = Event::Nudged { again: false };

pub const START: Event = Event::Started { undone: None, running: None };

pub fn failure(step: Step) -> Failure {
    Failure { step, what: "it".into(), message: "broke".into() }
}

/// Feeds events in turn and returns the last state and the last effects.
pub fn feed(
    mut state: State,
    events: impl IntoIterator<Item = Event>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    for event in events {
        (state, effects) = step(state, event, now);
    }
    (state, effects)
}

pub fn offer(number: u64, rolling: &str) -> Event {
    Event::Offered { target: target(number, rolling), poll: 60 }
}

/// The events of a convergence that goes well, from the offer on.
pub fn all_good(number: u64, rolling: &str) -> Vec<Event> {
    let mut events = applied(number, rolling);
    events.extend([Event::Confirmed, Event::Disarmed, Event::Stored]);
    events
}

/// The events from the offer on until it is looked at whether the change holds.
pub fn applied(number: u64, rolling: &str) -> Vec<Event> {
    let begin = [offer(number, rolling), Event::Fetched, verified(), checkpointed()];
    begin.into_iter().chain([Event::Done(gains()), Event::Done(gains())]).collect()
}

/// A small generator (xorshift): a seed reproduces its run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
