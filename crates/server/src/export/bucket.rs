//! A bucket as the target of an export: any store that speaks S3.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, RetryConfig, WriteMultipart, path,
};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use volary_archive::export::target::content_type;
use volary_archive::export::{Content, Inventory, Kind, Stat, Target, TargetError};
use volary_model::Digest;

use crate::export::ExportFailure;
use crate::export::credentials::Credentials;

/// Objects above this size are sent in parts of it, so that eight at once stay far below a
/// gigabyte of memory. S3 wants parts of 5 MiB at least, and 10,000 at most: 160 GB.
const PART: usize = 16 << 20;

/// How many parts of one object are on their way at once.
const PARTS: usize = 2;

/// How long one request may take: a part of 16 MiB over a link of 1 Mbit/s and half as much again.
const REQUEST: Duration = Duration::from_secs(200);

/// How long is tried to reach a store before the run fails; it is tried again later on.
const CONNECT: Duration = Duration::from_secs(10);

/// How to reach a bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: String,
    pub(crate) credentials: Credentials,
}

/// A bucket, or a part of one.
#[derive(Debug)]
pub(crate) struct BucketTarget {
    store: Arc<dyn ObjectStore>,
    name: String,
    prefix: String,
    /// Its own, since all operations block and several threads use it.
    runtime: Runtime,
}

impl BucketTarget {
    /// A bucket of a store that speaks S3.
    pub(crate) fn new(bucket: Bucket) -> Result<Self, ExportFailure> {
        let name = format!("s3://{}/{}", bucket.name, bucket.prefix).trim_end_matches('/').to_owned();
        let plain = bucket.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
            max_retries: 4,
            retry_timeout: Duration::from_secs(60),
        };
        let client =
            ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT).with_allow_http(plain);
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region)
            .with_access_key_id(&bucket.credentials.access_key_id)
            .with_secret_access_key(&bucket.credentials.secret_access_key)
            // The store compares it with what arrived, and keeps nothing that is damaged.
            .with_checksum_algorithm(Checksum::SHA256);
        if let Some(token) = &bucket.credentials.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let store = builder.build().map_err(|error| ExportFailure::Store(error.to_string()))?;
        Self::with_store(Arc::new(store), name, bucket.prefix)
    }

    fn with_store(store: Arc<dyn ObjectStore>, name: String, prefix: String) -> Result<Self, ExportFailure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| ExportFailure::Store(error.to_string()))?;
        Ok(Self { store, name, prefix, runtime })
    }

    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }

    fn path(&self, operation: &'static str, key: &str) -> Result<path::Path, TargetError> {
        path::Path::parse(self.full(key)).map_err(|error| self.failed(operation, key)(error.into()))
    }

    fn failed(
        &self,
        operation: &'static str,
        key: &str,
    ) -> impl FnOnce(object_store::Error) -> TargetError + use<> {
        let what = format!("{}/{key}", self.name);
        move |error| TargetError {
            operation,
            what: what.trim_end_matches('/').to_owned(),
            problem: sentence(&error),
        }
    }

    fn run<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TargetError> {
        self.runtime.block_on(work).map_err(self.failed(operation, key))
    }

    /// As `run`, for an object that may not be there.
    fn find<T>(
        &self,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, TargetError> {
        match self.runtime.block_on(work) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            other => other.map(Some).map_err(self.failed("read", key)),
        }
    }

    async fn in_parts(
        &self,
        path: &path::Path,
        file: &Path,
        attributes: Attributes,
    ) -> object_store::Result<()> {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.store.put_multipart_opts(path, options).await?;
        let mut write = WriteMultipart::new_with_chunk_size(upload, PART);
        match feed(&mut write, file).await {
            Ok(()) => write.finish().await.map(drop),
            Err(error) => {
                // Parts that nobody finishes cost money until somebody finds them.
                let _ = write.abort().await;
                Err(error)
            }
        }
    }
}

async fn feed(write: &mut WriteMultipart, path: &Path) -> object_store::Result<()> {
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    loop {
        let mut part = Vec::with_capacity(PART);
        std::io::Read::by_ref(&mut file).take(PART as u64).read_to_end(&mut part).map_err(unreadable)?;
        if part.is_empty() {
            return Ok(());
        }
        write.wait_for_capacity(PARTS).await?;
        write.put(Bytes::from(part));
    }
}

fn unreadable(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "file", source: Box::new(error) }
}

/// What a store said, in one line, with what to do about it.
fn sentence(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            format!("{text}; the access key may not do this, look at the bucket's policy")
        }
        _ => text,
    }
}

fn attributes(key: &str, kind: Kind) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, content_type(key).into());
    attributes.insert(Attribute::CacheControl, kind.cache_control().into());
    attributes
}

impl Target for BucketTarget {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn list(&self) -> Result<Inventory, TargetError> {
        let prefix = if self.prefix.is_empty() { None } else { Some(self.path("list", "")?) };
        let strip = |location: &path::Path| {
            let key = location.as_ref().strip_prefix(&self.prefix)?;
            Some(key.trim_start_matches('/').to_owned())
        };
        self.run("list", "", async {
            let mut inventory = Inventory::new();
            let mut found = self.store.list(prefix.as_ref());
            while let Some(meta) = std::future::poll_fn(|context| found.as_mut().poll_next(context)).await {
                let meta = meta?;
                if let Some(key) = strip(&meta.location) {
                    inventory.insert(key, meta.size);
                }
            }
            Ok(inventory)
        })
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, TargetError> {
        let path = self.path("read", key)?;
        let bytes = self.find(key, async { self.store.get(&path).await?.bytes().await })?;
        Ok(bytes.map(|bytes| bytes.to_vec()))
    }

    fn digest(&self, key: &str) -> Result<Option<Digest>, TargetError> {
        let path = self.path("read", key)?;
        self.find(key, async {
            let mut content = self.store.get_opts(&path, GetOptions::default()).await?.into_stream();
            let mut hash = Sha256::new();
            while let Some(part) = std::future::poll_fn(|context| content.as_mut().poll_next(context)).await {
                hash.update(&part?);
            }
            Ok(Digest::from_bytes(hash.finalize().into()))
        })
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, TargetError> {
        let path = self.path("read", key)?;
        let meta = self.find(key, self.store.head(&path))?;
        Ok(meta.map(|meta| Stat { size: meta.size, modified: meta.last_modified.into() }))
    }

    fn put(&self, key: &str, content: Content<'_>, kind: Kind) -> Result<(), TargetError> {
        let path = self.path("write", key)?;
        let attributes = attributes(key, kind);
        let bytes = match content {
            Content::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Content::File(file) => {
                let failed = |error| self.failed("write", key)(unreadable(error));
                let size = std::fs::metadata(file).map_err(failed)?.len();
                if size > PART as u64 {
                    return self.run("write", key, self.in_parts(&path, file, attributes));
                }
                let failed =
                    |error: volary_host::FileError| self.failed("write", key)(unreadable(error.source));
                Bytes::from(volary_host::read(file).map_err(failed)?)
            }
        };
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.run("write", key, self.store.put_opts(&path, bytes.into(), options)).map(drop)
    }

    fn remove(&self, key: &str) -> Result<(), TargetError> {
        let path = self.path("remove", key)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other.map_err(self.failed("remove", key)),
        }
    }

    fn flush(&self) -> Result<(), TargetError> {
        // A store answers once an object is safe.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn target(prefix: &str) -> (BucketTarget, Arc<InMemory>) {
        let store = Arc::new(InMemory::new());
        let target = BucketTarget::with_store(store.clone(), "s3://b".into(), prefix.into()).unwrap();
        (target, store)
    }

    #[test]
    fn objects_come_back_and_carry_what_caches_must_know() {
        for prefix in ["", "apt/x"] {
            let (target, store) = target(prefix);
            assert!(target.list().unwrap().is_empty());
            assert_eq!(target.read("dists/x/InRelease").unwrap(), None);
            target.put("dists/x/InRelease", Content::Bytes(b"hello"), Kind::Release).unwrap();
            target.put("pool/a.deb", Content::Bytes(b"deb"), Kind::Package).unwrap();
            assert_eq!(target.read("pool/a.deb").unwrap().unwrap(), b"deb");
            assert_eq!(target.stat("pool/a.deb").unwrap().unwrap().size, 3);
            let digest = Digest::from_bytes(Sha256::digest(b"deb").into());
            assert_eq!(target.digest("pool/a.deb").unwrap(), Some(digest));
            let keys: Vec<String> = target.list().unwrap().into_keys().collect();
            assert_eq!(keys, ["dists/x/InRelease", "pool/a.deb"]);
            let path = path::Path::parse(target.full("pool/a.deb")).unwrap();
            let got = target.runtime.block_on(store.get(&path)).unwrap();
            let value = |attribute| got.attributes.get(&attribute).unwrap().to_string();
            assert_eq!(value(Attribute::ContentType), "application/vnd.debian.binary-package");
            assert!(value(Attribute::CacheControl).contains("immutable"));
            target.remove("pool/a.deb").unwrap();
            target.remove("pool/a.deb").unwrap();
            assert_eq!(target.stat("pool/a.deb").unwrap().map(|stat| stat.size), None);
        }
    }

    #[test]
    fn a_large_file_goes_in_parts() {
        let (target, _) = target("p");
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..PART * 2 + 17).map(|number| (number % 251) as u8).collect();
        volary_host::write_atomic(file.path(), &bytes, 0o600).unwrap();
        target.put("pool/large.deb", Content::File(file.path()), Kind::Package).unwrap();
        let digest = Digest::from_bytes(Sha256::digest(&bytes).into());
        assert_eq!(target.digest("pool/large.deb").unwrap(), Some(digest));
    }
}
