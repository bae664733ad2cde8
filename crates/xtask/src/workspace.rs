//! Where the tree and its build products are, and what cargo knows of the crates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use volary_host::Cmd;

/// The checkout.
pub struct Workspace {
    /// Its top folder.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    /// The version of every crate.
    pub version: String,
    /// Crate → the crates of ours that it depends on, both without `volary-`.
    pub crates: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> anyhow::Result<Self> {
        let asked = Cmd::new("cargo")
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .cwd(env!("CARGO_MANIFEST_DIR"))
            .check()?;
        let metadata: Metadata =
            serde_json::from_slice(&asked.stdout).context("cargo metadata is not as expected")?;
        let version = metadata.packages.first().map(|package| package.version.clone()).unwrap_or_default();
        let crates = metadata.packages.into_iter().map(|package| {
            let ours =
                package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
            let ours =
                ours.filter_map(|dependency| dependency.name.strip_prefix("volary-")).map(str::to_owned);
            (package.name.trim_start_matches("volary-").to_owned(), ours.collect())
        });
        Ok(Self {
            crates: crates.collect(),
            version,
            root: metadata.workspace_root,
            target: metadata.target_directory,
        })
    }

    /// Every file that git has or would take, relative to the root, sorted.
    pub fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let listed = Cmd::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .cwd(&self.root)
            .check()?;
        let mut files: Vec<PathBuf> =
            listed.text().split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        // A file that was deleted and not yet committed is still listed.
        files.retain(|file| self.root.join(file).is_file());
        files.sort();
        Ok(files)
    }

    /// The time of the last commit, in seconds: what reproducible packages carry.
    pub fn epoch(&self) -> anyhow::Result<String> {
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            return Ok(epoch);
        }
        let asked = Cmd::new("git").args(["log", "-1", "--format=%ct"]).cwd(&self.root).check()?;
        Ok(asked.text().trim().to_owned())
    }

    /// A path of the checkout.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }
}
