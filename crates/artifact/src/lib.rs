//! Mender artifacts, version 3: read, check, write, sign.
//!
//! A device gets a new root file system (or any other payload) as one file: an uncompressed tar
//! with a version, a manifest of checksums, perhaps a signature over the manifest, a header and
//! the compressed payload. This crate knows that file and nothing else: it reads from any
//! [`std::io::Read`] with bounded memory and writes in one pass to anything that can seek.
//! Not here: apt, boot loaders, the network, where files come from or go to.
//!
//! Start with [`verify`] and [`inspect`], [`Reader`] to stream the payload somewhere, [`write()`]
//! with a [`Draft`], and [`sign_in_place`] or [`sign_copy`].
//!
//! The format is Mender's `Documentation/artifact-format-v3.md`; where Mender's own readers
//! disagree with each other, we take the strictest of them. `tests/broken.rs` is the list of
//! what is refused, with what Mender's tool says to the same file.

#![warn(missing_docs)]

#[cfg(feature = "zstd")]
pub mod blocks;
mod codec;
mod error;
mod front;
mod fuzz;
mod header;
mod info;
mod key;
mod limits;
mod manifest;
mod name;
#[cfg_attr(
    not(any(feature = "write", feature = "zstd")),
    allow(dead_code, reason = "only these have blocks")
)]
mod pool;
#[cfg(feature = "write")]
mod private_key;
mod provides;
mod reader;
#[cfg(feature = "write")]
mod sign;
mod tar;
mod verify;
mod wire;
#[cfg(feature = "write")]
mod writer;

pub use codec::{Compression, unpack};
#[cfg(feature = "write")]
pub use codec::{Encoding, UnknownEncoding};
pub use error::Error;
pub use fuzz::fuzz_one;
pub use header::Script;
pub use info::{Depends, FileInfo, Info, PayloadInfo, PayloadType, ScriptInfo, Signature};
pub use key::{KeyKind, PublicKey};
pub use limits::Limits;
#[cfg(feature = "write")]
pub use private_key::PrivateKey;
pub use provides::{Mismatch, provides_after, unmet};
pub use reader::{Augment, PayloadFile, Policy, Reader, Signatures};
#[cfg(feature = "write")]
pub use sign::{InPlace, sign_copy, sign_in_place};
pub use verify::{inspect, verify};
#[cfg(feature = "write")]
pub use writer::{Draft, PayloadDraft, Source, WriteOptions, Written, write};
