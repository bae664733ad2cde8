//! `volary.lock`: the release revision that pinned stages install, and the image of each device
//! type. `volary bump` writes it, people review it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use volary_model::{DeviceType, Digest, ImageName, IndexName, ReleaseRef, Suite};

use crate::config::{Packages, Stage};
use crate::fields::{FieldError, Fields, invalid};

/// Images by device type.
pub type Images = BTreeMap<DeviceType, LockedImage>;

/// The content of `volary.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetLock {
    /// The release revision; a new fleet has none yet.
    pub release: Option<LockedRelease>,
    /// The image that devices of each type run; a type that is not listed keeps what it has.
    pub images: Images,
}

/// An image with what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedImage {
    /// Its name: what a device that runs it says of itself.
    pub name: ImageName,
    /// The SHA-256 of the whole update artifact.
    pub artifact: Digest,
    /// The artifact's length in bytes.
    pub size: u64,
    /// The SHA-256 of the root file system in it, as it stands in the slot.
    pub rootfs: Digest,
    /// The SHA-256 of the artifact's manifest. A device that fetches only the blocks that it lacks reads the artifact's
    /// beginning alone, and knows it by this; without it all of the artifact is fetched.
    pub manifest: Option<Digest>,
}

/// The image of a device type in two locks that do not agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStep {
    /// The device type.
    pub device_type: DeviceType,
    /// What the one pins.
    pub from: Option<LockedImage>,
    /// What the other pins.
    pub to: Option<LockedImage>,
}

/// A release revision with what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedRelease {
    /// Which one.
    pub release: ReleaseRef,
    /// The content digest of its package set.
    pub digest: Digest,
    /// The SHA-256 of each plain `Packages` file, by component and architecture.
    pub indexes: BTreeMap<IndexName, Digest>,
}

impl FleetLock {
    /// Parses the text of `volary.lock`.
    ///
    /// # Errors
    /// [`FieldError`] with line, field and remedy.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let root = crate::yaml::parse(text).map_err(FieldError::from)?;
        let known = ["version", "release", "revision", "digest", "indexes", "images"];
        let fields = Fields::new(&root, "", &known)?;
        fields.version()?;
        let images = images(&fields)?;
        let parts = ["release", "revision", "digest", "indexes"];
        if parts.iter().all(|part| fields.get(part).is_none()) {
            return Ok(Self { release: None, images });
        }
        let mut indexes = BTreeMap::new();
        for (name, line, node) in fields.entries("indexes")? {
            let field = format!("indexes.{name}");
            let index: IndexName = name.parse().map_err(|error| invalid(line, &field, error))?;
            let crate::yaml::Value::Scalar(digest) = &node.value else {
                return Err(invalid(line, &field, "this is not a digest"));
            };
            indexes.insert(index, digest.parse().map_err(|error| invalid(line, &field, error))?);
        }
        if indexes.is_empty() {
            let remedy = "write the file with `volary bump RELEASE`";
            return Err(fields.complain("indexes", "no index is listed", remedy));
        }
        let release = ReleaseRef { name: fields.parsed("release")?, revision: fields.parsed("revision")? };
        Ok(Self {
            release: Some(LockedRelease { release, digest: fields.parsed("digest")?, indexes }),
            images,
        })
    }

    /// The file's text; equal content gives equal text.
    pub fn to_text(&self) -> String {
        let mut text =
            String::from("# Written by `volary bump`; review it like any other change.\nversion: 1\n");
        if let Some(LockedRelease { release, digest, indexes }) = &self.release {
            // Quoted, because a release named 1.10 would otherwise be read as a number by others.
            writeln!(text, "release: \"{}\"\nrevision: {}\ndigest: {digest}", release.name, release.revision)
                .expect("a String takes any write");
            text.push_str("indexes:\n");
            for (index, digest) in indexes {
                writeln!(text, "  {index}: {digest}").expect("a String takes any write");
            }
        }
        if !self.images.is_empty() {
            text.push_str("images:\n");
        }
        for (device_type, image) in &self.images {
            let LockedImage { name, artifact, size, rootfs, manifest } = image;
            write!(
                text,
                "  {device_type}:\n    name: \"{name}\"\n    artifact: {artifact}\n    size: {size}\n    \
                 rootfs: {rootfs}\n"
            )
            .expect("a String takes any write");
            if let Some(manifest) = manifest {
                writeln!(text, "    manifest: {manifest}").expect("a String takes any write");
            }
        }
        text
    }

    /// The suite that devices of a stage install from; `None` for a pinned stage without a release.
    pub fn suite_for(&self, stage: &Stage) -> Option<Suite> {
        match stage.packages {
            Packages::Rolling => Some(Suite::Rolling),
            Packages::Lock => self.release.as_ref().map(|locked| Suite::Release(locked.release.clone())),
        }
    }
}

/// What is pinned otherwise after a change, by device type.
pub fn image_steps(before: &Images, after: &Images) -> Vec<ImageStep> {
    let types: BTreeSet<&DeviceType> = before.keys().chain(after.keys()).collect();
    let step = |device_type: &DeviceType| ImageStep {
        device_type: device_type.clone(),
        from: before.get(device_type).cloned(),
        to: after.get(device_type).cloned(),
    };
    types.into_iter().map(step).filter(|step| step.from != step.to).collect()
}

fn images(fields: &Fields<'_>) -> Result<Images, FieldError> {
    let mut images = Images::new();
    if fields.get("images").is_none() {
        return Ok(images);
    }
    for (name, line, node) in fields.entries("images")? {
        let field = format!("images.{name}");
        let device_type: DeviceType = name.parse().map_err(|error| invalid(line, &field, error))?;
        let of = Fields::new(node, &field, &["name", "artifact", "size", "rootfs", "manifest"])?;
        let image = LockedImage {
            name: of.parsed("name")?,
            artifact: of.parsed("artifact")?,
            size: of.parsed("size")?,
            rootfs: of.parsed("rootfs")?,
            manifest: of.get("manifest").map(|_| of.parsed("manifest")).transpose()?,
        };
        images.insert(device_type, image);
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        let digest = Digest::from_bytes([7; 32]);
        let image = LockedImage {
            name: "2026.1".parse().unwrap(),
            artifact: digest,
            size: 5 << 30,
            rootfs: digest,
            manifest: None,
        };
        let lock = FleetLock {
            release: Some(LockedRelease {
                release: "1.10/r2".parse().unwrap(),
                digest,
                indexes: ["main/amd64", "debian/arm64"].map(|name| (name.parse().unwrap(), digest)).into(),
            }),
            images: ["qemu-amd64", "raspberrypi4"]
                .map(|name| {
                    (
                        name.parse().unwrap(),
                        LockedImage { manifest: (name == "qemu-amd64").then_some(digest), ..image.clone() },
                    )
                })
                .into(),
        };
        assert_eq!(FleetLock::parse(&lock.to_text()).unwrap(), lock);
        let fewer = FleetLock { images: lock.images.clone().into_iter().take(1).collect(), ..lock.clone() };
        let steps = image_steps(&fewer.images, &lock.images);
        assert_eq!(steps.len(), 1);
        assert_eq!((&steps[0].from, &steps[0].to), (&None, &lock.images.values().last().cloned()));
        assert_eq!(image_steps(&lock.images, &lock.images), []);
        let only_images = FleetLock { release: None, ..lock };
        assert_eq!(FleetLock::parse(&only_images.to_text()).unwrap(), only_images);
        assert_eq!(FleetLock::parse("version: 1\n").unwrap(), FleetLock::default());
        assert_eq!(FleetLock::parse(&FleetLock::default().to_text()).unwrap(), FleetLock::default());
    }

    #[test]
    fn half_a_lock_is_refused() {
        let hex = "07".repeat(32);
        let check = |text: String, expected: &str| {
            let error = FleetLock::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("version: 1\nrelease: v1\n".into(), "\"indexes\" is missing");
        check(
            format!("version: 1\nrelease: v1\nindexes: {{main/amd64: sha256:{hex}}}\n"),
            "\"revision\" is missing",
        );
        check(
            format!(
                "version: 1\nrelease: v1\nrevision: 2\ndigest: sha256:{hex}\nindexes: {{main/amd64: sha256:{hex}}}"
            ),
            "revision",
        );
        check("version: 1\nimages: {Pi: {}}\n".into(), "device type \"Pi\" is not valid");
        check("version: 1\nimages: {pi: {name: a, artifact: x}}\n".into(), "images.pi.artifact");
        check("version: 1\nreleese: v1\n".into(), "did you mean \"release\"?");
        check("version: 2\n".into(), "version 2 is unknown");
        check("release: v1\n".into(), "\"version\" is missing");
    }
}
