//! What travels between server, agent and command line: wire types, routes and a client.
//!
//! Wire types are not domain types: they are versioned by module (`v1`), read leniently (an
//! unknown field from a newer peer is ignored, a missing one has a default) and written fully.
//! Not here: handlers, storage, terminals.

#![warn(missing_docs)]

pub mod join;
pub mod percent;
pub mod v1;

#[cfg(feature = "client")]
pub mod client;

/// Bytes as they go into a JSON text.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
