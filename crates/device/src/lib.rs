//! What a device does, decided purely: the machine of a convergence, its ledger, its patience.
//!
//! [`step`] takes the state, an event and the time and returns the next state and what to do.
//! The agent does it and comes back with the next event; a simulator can do the same for many
//! devices at once. Not here: systemd, apt, Ansible, URLs, files, clocks, processes.

#![warn(missing_docs)]

mod event;
mod ledger;
mod machine;
mod patience;
mod permit;
mod policy;
mod rescue;
mod state;
mod upgrade;

pub use event::{Effect, Event, Gains, Passed};
pub use ledger::{LedgerError, LoadedLedger, decode, encode, slot};
pub use machine::{outlook, step};
pub use patience::{jittered, next_report, retry_after};
pub use permit::{Circumstances, Obstacle, Permit, Zones, permit};
pub use policy::{Days, DriftPolicy, Freeze, Moment, Policy, Window, Zone};
pub use rescue::{Armed, Cause, Mode, Observed, Rescue, rescue};
pub use state::{
    Drift, Failure, Hold, Image, Last, Memory, Outcome, Phase, Rest, Reverted, Running, Scope, State, Step,
    Target, Trouble, Undone, UndoneBy, Urge, Waiting, Work,
};
pub use upgrade::{Change, Installed, Offer, plan_upgrade};
