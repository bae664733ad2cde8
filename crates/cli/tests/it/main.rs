//! The commands as people type them, against a real server.

mod keys;
mod support;
mod upkeep;
mod uploads;
