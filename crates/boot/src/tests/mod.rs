//! Formats, and what the real boot loaders make of a boot state whose writes were cut.

#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

mod cut;
mod emulator;
mod formats;
mod powercut;
