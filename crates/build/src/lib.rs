//! Makes .deb files from the commits of a source repository, each in a clean Debian chroot.
//!
//! The way of a build: a [`SourceMirror`] knows the commits, a [`Builder`] exports one into a fresh
//! view of a cached chroot, gives it a version that always rises ([`version_for`]), installs what
//! the source build-depends on, and runs `dpkg-buildpackage` as an unprivileged user without a
//! network. Not here: which commits to build, where packages are published, devices, HTTP.
//! Nothing is printed: progress goes to a callback as [`Event`]s, the whole log into a file.

#![warn(missing_docs)]

mod base;
mod builder;
mod cache;
mod changelog;
mod circumstances;
mod collect;
mod control;
mod depends;
mod diagnose;
mod emulate;
mod error;
mod isolation;
mod layers;
mod limits;
mod lintian;
mod log;
mod matrix;
mod mirror;
mod recipe;
mod repository;
mod source_package;
mod sources;
mod submodule;
mod target;
mod version;

pub use base::Renewal;
pub use builder::{
    BuildRequest, Builder, BuilderConfig, Built, Event, Phase, PhaseTime, native_architecture,
};
pub use cache::default_cache;
pub use changelog::{Changelog, ChangelogError, NewEntry};
pub use diagnose::diagnose;
pub use emulate::{can_emulate, emulated};
pub use error::{BuildError, GitError, SetupError};
pub use isolation::Isolation;
pub use limits::Limits;
pub use lintian::{Finding, LintianPolicy, Severity};
pub use matrix::{Planned, plan_builds};
pub use mirror::SourceMirror;
pub use recipe::{Cross, RECIPE_FILE, Rebuild, Recipe, RecipeError, check_architectures};
pub use repository::{CommitInfo, Repository};
pub use sources::{AptLocation, AptSource};
pub use submodule::Origin;
pub use version::{InvalidVersion, version_for};
