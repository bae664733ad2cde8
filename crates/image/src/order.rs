//! What an image is made from.

use std::path::Path;

use volary_artifact::{Encoding, PrivateKey};
use volary_model::{ArchiveSource, DeviceType, ImageName, Recipe, StageName, Suite};

/// What an image is made from, and where it goes.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// How the device type is made.
    pub recipe: &'a Recipe,
    /// The digest of the file that says so.
    pub recipe_digest: volary_model::Digest,
    /// The device type.
    pub device_type: &'a DeviceType,
    /// What the image is called.
    pub name: &'a ImageName,
    /// The stage that it is made for.
    pub stage: &'a StageName,
    /// The fleet's archive with the suite of the stage.
    pub archive: Option<(ArchiveSource, Suite)>,
    /// The authority that the archive's certificate comes from, as a file that everybody may read; those of
    /// this machine if absent.
    pub ca: Option<&'a Path>,
    /// The folder of the fleet repository.
    pub fleet: &'a Path,
    /// Its commit, if it is one.
    pub commit: Option<&'a str>,
    /// The agent's Debian package; without one it comes from the sources.
    pub agent: Option<&'a Path>,
    /// The time that stands for all times of the build, in seconds since 1970.
    pub epoch: u64,
    /// How the artifact's payload is packed.
    pub encoding: Encoding,
    /// What the artifact is signed with.
    pub key: Option<&'a PrivateKey>,
    /// Where the image goes.
    pub output: &'a Path,
    /// Where what can be fetched again is kept.
    pub cache: &'a Path,
    /// Who makes it: the program's name and version.
    pub maker: &'a str,
}

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildEvent<'a> {
    /// A part of the work begins.
    Step(&'static str),
    /// A program said this.
    Said(&'a str),
}
