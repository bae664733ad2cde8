//! What a device does, decided purely: the machine of a convergence, its ledger, its patience.
//!
//! [`step`] takes the state, an event and the time and returns the next state and what to do.
//! The agent does it and comes back with the next event; a simulator can do the same for many
//! devices at once. Not here: systemd, apt, Ansible, URLs, files, clocks, processes.

#![warn(missing_docs)]

mod ledger;
mod machine;
mod patience;
mod state;
mod upgrade;

pub use ledger::{LedgerError, LoadedLedger, decode, encode, slot};
pub use machine::{Effect, Event, Gains, Passed, step};
pub use patience::{jittered, retry_after};
pub use state::{Failure, Outcome, Phase, Rest, Scope, State, Step, Target, Trouble, Work};
pub use upgrade::{Change, Installed, Offer, plan_upgrade};
