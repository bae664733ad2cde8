//! The apt archive: a content-addressed pool, and signed suites as cheap views on it.
//!
//! `rolling` offers the newest version of every package (a large one lists the one before as well
//! for a while, see `listing`); a release is a named snapshot of it whose revisions never change.
//! One append-only journal says what was included, cut, picked and frozen; all else follows from
//! it. Not here: git, builds, devices, HTTP.
//!
//! ```text
//! DIR/archive.json     settings
//! DIR/journal          one line for each transaction, with a checksum (see `journal`)
//! DIR/keys/            keys.json, the signing keys (0600) and their public parts
//! DIR/incoming/        files on their way in
//! DIR/listings/        file lists of packages, for Contents
//! DIR/public/dists/    suites, DIR/public/pool/ packages by hash,
//! DIR/public/changelogs/ changelogs: this is what is served
//! ```
//!
//! The order of a transaction: packages to the pool, index files under their hashes, the new
//! `InRelease` beside the old one, all flushed; then one line into the journal (from here on it
//! has happened); then `InRelease` is renamed. A crash before the line leaves the old state, one
//! after it is finished by the next [`Archive::open`] or the next transaction.

#![warn(missing_docs)]

mod archive;
mod check;
mod clash;
mod collect;
mod content;
mod diff;
mod differences;
mod entry;
mod error;
pub mod export;
mod files;
mod frame;
mod intake;
mod journal;
mod key;
mod keyring;
mod lifecycle;
mod listing;
mod mirror;
mod pdiff;
mod pick;
mod publish;
mod query;
mod record;
mod render;
mod rotation;
mod set;
mod settings;
mod sidecar;
mod signer;
mod source;
mod state;
mod upkeep;
mod upload;
pub mod upstream;

pub use archive::{Archive, Included};
pub use check::CheckReport;
pub use collect::{CollectReport, Explained, KeepPolicy, KeepReason};
pub use diff::PackageChange;
pub use entry::{PackageEntry, Provenance, SourceFile};
pub use error::{Error, RefusalReason};
pub use keyring::Signers;
pub use lifecycle::Protection;
pub use mirror::{Mirror, MirrorOrigin};
pub use pick::{Because, Pick, PickChange, PickRefusal, PickResult};
pub use query::{MirrorState, Pin, ReleaseInfo, RevisionInfo};
pub use rotation::{KeyInfo, KeyRefusal, Keys, NewKey, Others, RetiredKey, fingerprints};
pub use settings::{Settings, default_news_at_end_from};
pub use signer::SignerCommand;
pub use upkeep::UpkeepReport;
pub use upload::{UploadLimits, UploadPolicy};
