//! Reads what another archive publishes: signature, dates, indexes by hash, packages. Not here:
//! HTTP (whoever calls brings a [`Fetch`]), and what becomes of the packages.
//!
//! The order of a sync: `InRelease` with its signature and its dates, the indexes that it names by
//! hash, a pure choice among them, then the files that the archive lacks, into a staging folder
//! that survives a restart. Only whoever commits the result changes the archive.

mod download;
mod error;
mod fetch;
mod import;
mod index;
mod item;
mod keyring;
mod offered;
mod publication;
mod select;
mod sources;
mod spec;
mod sync;
mod translation;
mod unpack;

pub use download::{Job, Patience, Staging, Step, Wanted, Watch};
pub use error::UpstreamError;
pub use fetch::{Fetch, FetchError, Folder, Opened};
pub use import::{Import, Imported};
pub use index::{Indexes, Scope};
pub use keyring::{Keyring, Trust};
pub use offered::{Offered, Priority};
pub use publication::{Publication, Seen};
pub use select::{Filter, NamePattern, Present, Reason, Selected, Selection, Unfulfilled, select};
pub use spec::{Link, Spec};
pub use sync::{Sync, Synced};
