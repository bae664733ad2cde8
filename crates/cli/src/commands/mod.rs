//! One file for each group of commands.

pub mod alert;
pub mod approve;
pub mod archive;
pub mod archive_export;
pub mod archive_import;
pub mod archive_keys;
pub mod archive_mirror;
pub mod archive_send;
pub mod archive_upkeep;
pub mod artifact;
pub mod build;
mod bump_keys;
pub mod check;
pub mod cve;
pub mod device;
mod device_show;
pub mod export_fleet;
pub mod fleet;
pub mod gate;
pub mod image;
mod image_build;
mod image_import;
mod image_publish;
pub mod inventory;
pub mod metrics;
pub mod release;
pub mod rollout;
pub mod server;
pub mod simulate;
pub mod source;
pub mod status;
pub mod token;
pub mod user;
pub mod verify;
pub mod watch;

pub use volary_api::percent::encode;
