//! What travels between server, agent and command line: wire types, routes and a client.
//!
//! Wire types are not domain types: they are versioned by module (`v1`), read leniently (an
//! unknown field from a newer peer is ignored, a missing one has a default) and written fully.
//! Not here: handlers, storage, terminals.

#![warn(missing_docs)]

pub mod join;
pub mod v1;

#[cfg(feature = "client")]
pub mod client;
