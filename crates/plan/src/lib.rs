//! Pure decisions: what a device's condition is, which alerts that makes, whether a commit may be
//! promoted, and what is to be built again.
//!
//! Every function here takes all it needs as arguments, the time included, and returns a value
//! that also says what was *not* decided and what it waits for. Not here: git, the store, HTTP,
//! processes, real time.

#![warn(missing_docs)]

pub mod alert;
pub mod compare;
pub mod condition;
pub mod gate;
pub mod leak;
pub mod rebuild;
pub mod rollout;
pub mod series;
pub mod stats;
pub mod text;
pub mod turn;
pub mod watch;
