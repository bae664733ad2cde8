//! The machine of a device, from outside: transcripts, rules, and random worlds.

mod common;
mod confirm;
mod image;
mod machine;
mod permit;
mod rescue;
mod wait;
