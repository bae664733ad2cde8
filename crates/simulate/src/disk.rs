//! What a device keeps over a power cut: its ledger, its checkpoints, its queue of reports, and how
//! it is configured.

use volary_device::{Armed, Cause, State, Target, Undone, UndoneBy};
use volary_model::Slot;

use crate::plan::Ms;
use crate::slots::Slots;

/// How often something fits into what is given up when the disk is full.
const RESERVE: u32 = 20;

/// How many reports wait at most, as on a device.
pub(crate) const QUEUE: usize = 500;

/// How a device is configured, and what that does to it. This is what an undo puts back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Config {
    /// The image that it began as; 0 is what a device comes with.
    pub(crate) image: usize,
    /// The commit that was applied last; 0 for none.
    pub(crate) commit: usize,
    /// Only a part of it.
    pub(crate) partly: bool,
    /// The path to the server is gone from this time on.
    pub(crate) path_lost_at: Option<Ms>,
    /// A service is dead from this time on.
    pub(crate) service_dead_at: Option<Ms>,
    /// The agent ends as soon as it starts.
    pub(crate) agent_broken: bool,
    /// Nobody starts the agent.
    pub(crate) agent_disabled: bool,
    /// Nothing can be written.
    pub(crate) disk_full: bool,
    /// It boots again and again.
    pub(crate) reboots: bool,
    /// The clock is off by so many seconds.
    pub(crate) clock_moved: i64,
    /// Somebody changed a file by hand.
    pub(crate) edited: bool,
}

/// `undoing.json`.
#[derive(Debug, Clone)]
pub(crate) struct Undoing {
    pub(crate) armed: Armed,
    pub(crate) by: UndoneBy,
    pub(crate) cause: Cause,
    pub(crate) rebooted: bool,
}

/// A checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    pub(crate) id: String,
    pub(crate) slot: Slot,
    pub(crate) config: Config,
    pub(crate) target: Target,
}

/// A report that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) number: u64,
    /// It tells how a convergence ended.
    pub(crate) is_result: bool,
}

/// The disk of a device.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) ledger: State,
    pub(crate) config: Config,
    pub(crate) slots: Slots,
    /// The last checkpoint.
    pub(crate) saved: Option<Saved>,
    /// The one before, until the last one is confirmed.
    pub(crate) saved_before: Option<Saved>,
    pub(crate) armed: Option<Armed>,
    pub(crate) undoing: Option<Undoing>,
    pub(crate) undone: Option<Undone>,
    pub(crate) queue: Vec<Queued>,
    reserve: u32,
    made: u32,
}

impl Disk {
    pub(crate) fn new(ledger: State) -> Self {
        Self {
            ledger,
            config: Config::default(),
            slots: Slots::new(),
            saved: None,
            saved_before: None,
            armed: None,
            undoing: None,
            undone: None,
            queue: Vec::new(),
            reserve: RESERVE,
            made: 0,
        }
    }

    /// Writes the ledger. False if the disk is full.
    pub(crate) fn record(&mut self, state: &State) -> bool {
        if self.config.disk_full {
            let Some(left) = self.reserve.checked_sub(1) else { return false };
            self.reserve = left;
        }
        self.ledger = State { memory: volary_device::Memory::default(), ..state.clone() };
        true
    }

    /// Saves how the device is.
    pub(crate) fn save(&mut self, target: &Target) -> Option<String> {
        if self.config.disk_full {
            return None;
        }
        self.reserve = RESERVE;
        self.made += 1;
        let id = format!("{:010}", self.made);
        self.saved_before = self.saved.take();
        self.saved = Some(Saved {
            id: id.clone(),
            slot: self.slots.running,
            config: self.config.clone(),
            target: target.clone(),
        });
        Some(id)
    }

    /// Keeps a report. If there are too many, the oldest of health go first.
    pub(crate) fn keep(&mut self, report: Queued) {
        self.queue.retain(|other| other.number != report.number);
        self.queue.push(report);
        if self.queue.len() > QUEUE {
            let last = self.queue.len() - 1;
            let health = self.queue[..last].iter().position(|report| !report.is_result);
            self.queue.remove(health.unwrap_or(0));
        }
    }

    /// Takes what is armed for an undo; an undo that began already goes on.
    pub(crate) fn claim(&mut self, by: UndoneBy, cause: Cause) -> bool {
        if self.undoing.is_none()
            && let Some(armed) = self.armed.take()
        {
            self.undoing = Some(Undoing { armed, by, cause, rebooted: false });
        }
        self.undoing.is_some()
    }

    /// Puts the files back. What the clock and the path say comes after it.
    pub(crate) fn restore(&mut self) {
        if let Some(undoing) = &self.undoing
            && let Some(saved) = self.saved.as_ref().filter(|saved| saved.id == undoing.armed.checkpoint)
            && saved.slot == self.slots.running
        {
            self.config = saved.config.clone();
        }
    }
}
