//! Mirrors of foreign archives, and imports from them, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/mirrors` | → `Vec<`[`Mirror`]`>` |
//! | `POST /api/v1/mirrors` | [`AddMirror`] → [`Mirror`] |
//! | `GET  /api/v1/mirrors/{name}` | → [`Mirror`] |
//! | `DELETE /api/v1/mirrors/{name}` | → nothing; `?keep=true` leaves its packages in rolling |
//! | `GET  /api/v1/mirrors/{name}/packages` | → `Vec<`[`MirroredPackage`]`>`, each with why it is in |
//! | `POST /api/v1/mirrors/{name}/sync` | → [`Asked`]; it is done when [`Report::at`] is not before that |
//! | `POST /api/v1/imports` | [`Import`] → [`ImportStatus`] |
//! | `GET  /api/v1/imports/{id}` | → [`ImportStatus`] |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{Architecture, Component, Digest, PackageName};

/// What a mirror takes, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "MirrorDefinition"))]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name; its packages are in the component of rolling that has it too.
    pub name: Component,
    /// The root of the foreign archive, which has `dists/`: `http://`, `https://`, or the absolute
    /// path of a folder on the server's machine.
    pub url: String,
    /// The suite.
    pub suite: String,
    /// The components of the foreign archive.
    pub components: Vec<String>,
    /// The architectures, without `all`; if empty, those of this archive.
    #[serde(default)]
    pub architectures: Vec<Architecture>,
    /// The file on the server's machine that has the keys which may sign; `None` if nobody does.
    #[serde(default)]
    pub key: Option<String>,
    /// The languages of the descriptions.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Seconds between two syncs; 0: only when asked.
    pub interval: u64,
    /// Which packages.
    #[serde(default)]
    pub filter: Filter,
}

/// Which packages a mirror takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "MirrorFilter"))]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Names, in which `*` stands for any text. With neither names nor priorities: all packages.
    #[serde(default)]
    pub packages: Vec<String>,
    /// `required`, `important`, `standard`, `optional`, `extra`.
    #[serde(default)]
    pub priorities: Vec<String>,
    /// Also what those need.
    #[serde(default)]
    pub closure: bool,
    /// Also what those recommend.
    #[serde(default)]
    pub recommends: bool,
    /// Also the source packages.
    #[serde(default)]
    pub sources: bool,
}

/// Defines a mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddMirror {
    /// What it is to be.
    pub definition: Definition,
    /// The keyring itself in base64, to be kept beside the definition in place of its `key`.
    #[serde(default)]
    pub keyring: Option<String>,
    /// Take the place of a mirror of that name.
    #[serde(default)]
    pub replace: bool,
}

/// A mirror and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mirror {
    /// What it is to be; `None` if its definition cannot be read, see `problem`, or is gone.
    pub definition: Option<Definition>,
    /// Its name.
    pub name: Component,
    /// What rolling has of it; `None` before the first sync.
    pub state: Option<State>,
    /// How the last sync ended.
    pub last: Option<Report>,
    /// The sync that runs.
    pub running: Option<Progress>,
    /// What is wrong with its definition.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What rolling has of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "MirrorState"))]
pub struct State {
    /// When it came into rolling.
    pub at: Timestamp,
    /// The foreign archive.
    pub url: String,
    /// Its suite.
    pub suite: String,
    /// The `Date` of its Release file.
    pub date: Option<Timestamp>,
    /// SHA-256 of that file.
    pub release: Digest,
    /// How many packages.
    pub packages: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// How a sync or an import ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "MirrorReport"))]
pub struct Report {
    /// When.
    pub at: Timestamp,
    /// Why it failed, if it did. Rolling is then as it was before.
    #[serde(default)]
    pub problem: Option<String>,
    /// Packages that came, and that went.
    #[serde(default)]
    pub added: u64,
    /// Packages that went.
    #[serde(default)]
    pub removed: u64,
    /// Packages that are there now, of which a sync takes care.
    #[serde(default)]
    pub packages: u64,
    /// Bytes that were fetched.
    #[serde(default)]
    pub fetched: u64,
    /// Dependencies that nothing fulfils.
    #[serde(default)]
    pub unfulfilled: Vec<String>,
    /// Names of the filter that no package has.
    #[serde(default)]
    pub unmatched: Vec<String>,
    /// Packages that were left out, each with the reason.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// How far a sync or an import is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "MirrorProgress"))]
pub struct Progress {
    /// What it does: "reading indexes", "fetching", "publishing".
    pub step: String,
    /// Files that are here, and that there are in all.
    pub files: (u64, u64),
    /// Bytes that are here, and that there are in all.
    pub bytes: (u64, u64),
    /// When it began.
    pub since: Timestamp,
}

/// A package of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MirroredPackage {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: String,
    /// Its architecture, `all`, or `source`.
    pub architecture: Architecture,
    /// Bytes of its file.
    pub size: u64,
    /// Why it is in.
    pub reason: String,
}

/// When a sync was asked for, by the server's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Asked {
    /// The time.
    pub at: Timestamp,
}

/// Brings the packages of a publication into rolling.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// As [`Definition::url`].
    pub url: String,
    /// The suite.
    pub suite: String,
    /// The components; if empty, all that it has.
    #[serde(default)]
    pub components: Vec<String>,
    /// The keyring in base64; without one it is taken unsigned.
    #[serde(default)]
    pub keyring: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// An import that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImportStatus {
    /// Its number, until the server starts anew.
    pub id: u64,
    /// How far it is; `None` when it is over.
    pub running: Option<Progress>,
    /// How it ended.
    pub report: Option<Report>,
    /// The packages that came, or would come: name, version and architecture.
    #[serde(default)]
    pub added: Vec<String>,
}
