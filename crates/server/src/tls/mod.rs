//! The server's own authority, its certificates, and the HTTPS listener.

pub(crate) mod authority;
pub(crate) mod listener;
mod patient;
