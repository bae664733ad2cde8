//! Runs the machine of `volary-device` for many devices in virtual time, in a world that is out to
//! break it: crashes and power cuts before, in and after every effect, commits that cut devices off,
//! servers that are away, slow or lie, links that are gone for weeks, clocks that jump.
//!
//! A seed gives a world, and the same world each time. [`Rules`] are looked after at every step; what
//! breaks one comes back as a [`Violation`] with its seed, and a trace of that seed tells the story.
//! Not here: the decisions. The machine and the dead man's rule are those that the devices run.

#![warn(missing_docs)]

mod agent;
mod campaign;
mod device;
mod dice;
mod disk;
mod effects;
pub mod judges;
mod people;
mod plan;
pub mod rollouts;
mod rules;
mod server;
mod slots;
mod world;

pub use campaign::{Campaign, Tally, campaign};
pub use rules::{Rules, Violation};
pub use world::{Run, Summary, run};
