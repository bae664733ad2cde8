//! Images: what is known of each update artifact. Its file is not here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use volary_model::{DeviceType, Digest, ImageName};

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The SHA-256 of the whole artifact.
    pub artifact: Digest,
    /// The artifact's length in bytes.
    pub size: u64,
    /// Its name.
    pub name: ImageName,
    /// Which devices it is for.
    pub device_types: Vec<DeviceType>,
    /// The SHA-256 of the root file system that a device has after it.
    pub rootfs: Digest,
    /// The length of that in bytes, if the artifact holds it as a whole.
    pub rootfs_size: Option<u64>,
    /// The SHA-256 of the artifact's manifest, if it was noted.
    pub manifest: Option<Digest>,
    /// The type of its payload: `rootfs-image`, or the update module that makes the root file system
    /// from the one before.
    pub kind: String,
    /// What a device provides after it.
    pub provides: BTreeMap<String, String>,
    /// What a device must provide before it, each key with its alternatives; without the device type.
    pub depends: BTreeMap<String, Vec<String>>,
    /// The fingerprint of the key that signed it, if that was checked.
    pub signed_by: Option<String>,
    /// When it was published.
    pub published_at: Timestamp,
    /// By whom.
    pub published_by: String,
    /// When it was published, or seen to be pinned last.
    pub wanted_at: Timestamp,
}

impl Image {
    /// True if it holds the whole root file system, and can so be pinned.
    pub fn is_whole(&self) -> bool {
        self.rootfs_size.is_some()
    }
}

/// What became of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It is there now.
    New,
    /// The same artifact is there already.
    Known(Box<Image>),
    /// Another artifact has its name, for this device type.
    NameTaken {
        /// The other artifact.
        by: Digest,
        /// The device type.
        device_type: DeviceType,
    },
}

#[derive(sqlx::FromRow)]
struct Row {
    artifact: String,
    size: i64,
    name: String,
    device_types: String,
    rootfs: String,
    rootfs_size: Option<i64>,
    manifest: Option<String>,
    kind: String,
    provides: String,
    depends: String,
    signed_by: Option<String>,
    published_at: i64,
    published_by: String,
    wanted_at: i64,
}

impl TryFrom<Row> for Image {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let types: Vec<String> = json("device types", &row.device_types)?;
        Ok(Self {
            artifact: hex("artifact", &row.artifact)?,
            size: row.size.unsigned_abs(),
            name: parse("image name", &row.name)?,
            device_types: types.iter().map(|name| parse("device type", name)).collect::<Result<_, _>>()?,
            rootfs: hex("root file system", &row.rootfs)?,
            rootfs_size: row.rootfs_size.map(i64::unsigned_abs),
            manifest: row.manifest.map(|text| hex("manifest", &text)).transpose()?,
            kind: row.kind,
            provides: json("list of provides", &row.provides)?,
            depends: json("list of depends", &row.depends)?,
            signed_by: row.signed_by,
            published_at: time(row.published_at),
            published_by: row.published_by,
            wanted_at: time(row.wanted_at),
        })
    }
}

pub(crate) fn hex(what: &'static str, text: &str) -> Result<Digest, StoreError> {
    Digest::from_hex(text).map_err(|_| StoreError::Corrupt { what, text: text.to_owned() })
}

pub(crate) fn json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt { what, text: text.to_owned() })
}

pub(crate) fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("names and texts are JSON")
}

/// The other image that keeps a new one from its name. A name leads to one root file system; beside
/// the whole image there may be artifacts that make it from others.
fn taken(known: &[Image], new: &Image) -> Option<(Digest, DeviceType)> {
    known.iter().filter(|image| image.name == new.name).find_map(|image| {
        let common = image.device_types.iter().find(|name| new.device_types.contains(name))?;
        let beside = image.rootfs == new.rootfs && image.depends != new.depends;
        (!beside).then(|| (image.artifact, common.clone()))
    })
}

impl Store {
    /// All images, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn images(&self) -> Result<Vec<Image>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM images ORDER BY published_at DESC, name DESC")
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter().map(Image::try_from).collect()
    }

    /// One image.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn image(&self, artifact: &Digest) -> Result<Option<Image>, StoreError> {
        let row: Option<Row> = sqlx::query_as("SELECT * FROM images WHERE artifact = $1")
            .bind(artifact.hex())
            .fetch_optional(&self.reader)
            .await?;
        row.map(Image::try_from).transpose()
    }

    /// Adds an image, unless its name leads to something else already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_image(&self, image: &Image) -> Result<Added, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM images").fetch_all(&mut *tx).await?;
        let known: Vec<Image> = rows.into_iter().map(Image::try_from).collect::<Result<_, _>>()?;
        if let Some(same) = known.iter().find(|known| known.artifact == image.artifact) {
            return Ok(Added::Known(Box::new(same.clone())));
        }
        if let Some((by, device_type)) = taken(&known, image) {
            return Ok(Added::NameTaken { by, device_type });
        }
        let types: Vec<&str> = image.device_types.iter().map(DeviceType::as_str).collect();
        sqlx::query(
            "INSERT INTO images (artifact, size, name, device_types, rootfs, rootfs_size, kind, provides,
                 depends, signed_by, published_at, published_by, wanted_at, manifest)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(image.artifact.hex())
        .bind(image.size.cast_signed())
        .bind(image.name.as_str())
        .bind(text(&types))
        .bind(image.rootfs.hex())
        .bind(image.rootfs_size.map(u64::cast_signed))
        .bind(&image.kind)
        .bind(text(&image.provides))
        .bind(text(&image.depends))
        .bind(&image.signed_by)
        .bind(ms(image.published_at))
        .bind(&image.published_by)
        .bind(ms(image.wanted_at))
        .bind(image.manifest.map(|digest| digest.hex()))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Added::New)
    }

    /// Notes that images are wanted now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn images_wanted(&self, artifacts: &[Digest], now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for artifact in artifacts {
            sqlx::query("UPDATE images SET wanted_at = $2 WHERE artifact = $1 AND wanted_at < $2")
                .bind(artifact.hex())
                .bind(ms(now))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Forgets an image. Returns false if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_image(&self, artifact: &Digest) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM images WHERE artifact = $1")
            .bind(artifact.hex())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(artifact: u8, name: &str, device_type: &str, rootfs: u8, depends: &[(&str, &str)]) -> Image {
        let at = Timestamp::UNIX_EPOCH;
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), vec![(*value).to_owned()]);
        Image {
            artifact: Digest::from_bytes([artifact; 32]),
            size: u64::from(artifact),
            name: name.parse().unwrap(),
            device_types: vec![device_type.parse().unwrap()],
            rootfs: Digest::from_bytes([rootfs; 32]),
            manifest: None,
            rootfs_size: depends.is_empty().then_some(5 << 30),
            kind: "rootfs-image".into(),
            provides: BTreeMap::from([("artifact_name".into(), name.into())]),
            depends: depends.iter().map(pair).collect(),
            signed_by: None,
            published_at: at,
            published_by: "ada".into(),
            wanted_at: at,
        }
    }

    #[tokio::test]
    async fn a_name_leads_to_one_root_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).await.unwrap();
        let first = image(1, "a", "pi", 7, &[]);
        assert_eq!(store.add_image(&first).await.unwrap(), Added::New);
        assert_eq!(store.add_image(&first).await.unwrap(), Added::Known(Box::new(first.clone())));
        let taken = Added::NameTaken { by: first.artifact, device_type: "pi".parse().unwrap() };
        let refused =
            [image(2, "a", "pi", 8, &[]), image(2, "a", "pi", 7, &[]), image(2, "a", "pi", 8, &[("k", "v")])];
        for other in refused {
            assert_eq!(store.add_image(&other).await.unwrap(), taken, "{other:?}");
        }
        let taken_in = [
            image(3, "a", "pi", 7, &[("k", "v")]),
            image(4, "a", "qemu", 8, &[]),
            image(5, "b", "pi", 8, &[]),
        ];
        for other in taken_in {
            assert_eq!(store.add_image(&other).await.unwrap(), Added::New, "{other:?}");
        }
        assert_eq!(store.image(&first.artifact).await.unwrap(), Some(first.clone()));
        let later = Timestamp::from_second(5).unwrap();
        store.images_wanted(&[first.artifact], later).await.unwrap();
        assert_eq!(store.image(&first.artifact).await.unwrap().unwrap().wanted_at, later);
        assert!(store.remove_image(&first.artifact).await.unwrap());
        assert!(!store.remove_image(&first.artifact).await.unwrap());
        assert_eq!(store.images().await.unwrap().len(), 3);
    }
}
