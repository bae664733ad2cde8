//! What the tests and the demo stand on: real Debian devices in containers, and the whole chain
//! of server, people and devices as one value. Prints nothing; not here: assertions of any test.
//!
//! [`roots`] makes and keeps the file systems, [`Lab`] runs devices on a network of their own
//! and takes everything down again however its owner ends, [`Device`] is one of them, and
//! [`chain::Chain`] adds the server and a person who uses it.

#![warn(missing_docs)]

mod apt;
mod cache;
mod cgroup;
pub mod chain;
mod cost;
pub mod debs;
mod device;
mod error;
mod lab;
mod machine;
mod process;
pub mod reader;
pub mod roots;
pub mod safety;
mod sandbox;
mod volatile;
mod wait;
pub mod wire;

pub use apt::{AptClient, AptRun};
pub use cache::Cache;
pub use cost::{Cost, Meter};
pub use device::{Device, DeviceOptions};
pub use error::LabError;
pub use lab::{Breaker, Lab};
pub use machine::{Firmware, Machine};
pub use process::Process;
pub use roots::{Debian, Root};
pub use sandbox::Sandbox;
pub use volatile::{Cut, VolatileDisk};
pub use wait::wait_until;
