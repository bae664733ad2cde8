//! The agent of a device: real effects on Debian around the pure machine of `volary-device`.
//!
//! It trusts signatures, not its server; it runs the real Ansible and the real apt; it goes on
//! after any crash. Entry points: `main.rs` for the commands, [`agent`] for a turn of the
//! machine, [`work`] for what a convergence does. Not here: the rules of the fleet repository
//! (`volary-fleet`) and every decision about when and what (`volary-device`).

#![warn(missing_docs)]

pub mod accepted;
pub mod agent;
pub mod ansible;
pub mod answers;
pub mod apt;
pub mod by_hand;
pub mod checkpoint;
pub mod config;
pub mod confirm;
pub mod daemon;
pub mod drift;
pub mod elsewhere;
pub mod enroll;
pub mod facts;
pub mod health;
pub mod history;
pub mod http;
pub mod key;
pub mod ledger;
pub mod listen;
pub mod log;
pub mod lookup;
pub mod metrics;
pub mod modules;
pub mod news;
pub mod path;
pub mod paths;
pub mod pin;
pub mod policy;
pub mod preview;
pub mod repo;
pub mod report;
pub mod rescue;
pub mod said;
pub mod simulate;
pub mod slots;
pub mod spool;
pub mod status;
pub mod systemd;
pub mod tpm;
pub mod transaction;
pub mod turn;
pub mod undo;
pub mod units;
pub mod work;
pub mod zone;
