//! The nouns of Volary as types: what names look like, and nothing that does anything.
//!
//! Every crate speaks of stages, releases and devices through these types, never through
//! bare strings, so that a value that exists is a value that was checked. Not here: files,
//! clocks, HTTP, SQL, git. Wire formats live in `volary-api`, decisions in `volary-plan`.

#![warn(missing_docs)]

mod build;
mod digest;
mod name;
mod place;
mod recipe;
mod release;
mod series;
mod slot;
mod watch;

pub use build::{BuildMethod, BuildScope};
pub use digest::Digest;
pub use name::{
    Architecture, CommitId, Component, DeviceName, DeviceType, GateName, ImageName, IndexName, InvalidName,
    PackageName, SourceName, StageName,
};
pub use place::Place;
pub use recipe::{AptSource, ArchiveSource, BootFile, BootLoader, Mirror, Recipe};
pub use release::{ReleaseName, ReleaseRef, Revision, Suite};
pub use series::{SeriesName, is_counter};
pub use slot::Slot;
pub use watch::{Bound, SeriesPattern, Severity, WatchKind, WatchRule, sibling};
