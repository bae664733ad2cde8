//! The commands as people type them, against a real server.

mod api;
mod fleet_export;
mod images;
mod inventory;
mod keys;
mod promoter;
mod quorum;
mod support;
mod upkeep;
mod uploads;
mod verify;
mod watch;
