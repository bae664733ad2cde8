//! The commands as people type them, against a real server.

mod inventory;
mod keys;
mod quorum;
mod support;
mod upkeep;
mod uploads;
