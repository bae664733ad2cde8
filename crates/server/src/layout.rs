//! Where everything is in a server's folder.

use std::path::{Path, PathBuf};

use volary_model::{Digest, SourceName};

/// The folder of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The folder at `root`, as an absolute path: programs are started in other folders.
    pub fn new(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()) }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What people set.
    pub fn config(&self) -> PathBuf {
        self.root.join("server.toml")
    }

    /// How a client of the operator reaches the server; holds an administrator's token.
    pub fn client_config(&self) -> PathBuf {
        self.root.join("client.toml")
    }

    /// The authority's certificate.
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca/ca.pem")
    }

    /// The authority's key.
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca/ca.key")
    }

    /// The server's certificate.
    pub fn tls_certificate(&self) -> PathBuf {
        self.root.join("tls/server.pem")
    }

    /// The server's key.
    pub fn tls_key(&self) -> PathBuf {
        self.root.join("tls/server.key")
    }

    /// The records.
    pub fn database(&self) -> PathBuf {
        self.root.join("db.sqlite")
    }

    /// What devices measured.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.sqlite")
    }

    /// What measurements say before a merge: written by the server, read by git's hook.
    pub fn measured(&self) -> PathBuf {
        self.root.join("measured.json")
    }

    /// Security faults of Debian's packages, as the security tracker knows them.
    pub fn cves(&self) -> PathBuf {
        self.root.join("cves.jsonl")
    }

    /// The apt repository.
    pub fn archive(&self) -> PathBuf {
        self.root.join("archive")
    }

    /// The definitions of the mirrors, with their keyrings and reports.
    pub fn archive_mirrors(&self) -> PathBuf {
        self.root.join("archive-mirrors")
    }

    /// The fleet repository.
    pub fn fleet(&self) -> PathBuf {
        self.root.join("git/fleet.git")
    }

    /// The hosted source repositories.
    pub fn sources(&self) -> PathBuf {
        self.root.join("git/sources")
    }

    /// A hosted source repository.
    pub fn source(&self, name: &SourceName) -> PathBuf {
        self.sources().join(format!("{name}.git"))
    }

    /// The copy of a source repository that is hosted elsewhere.
    pub fn mirror(&self, name: &SourceName) -> PathBuf {
        self.root.join("mirrors").join(format!("{name}.git"))
    }

    /// What a build left behind.
    pub fn build(&self, id: i64) -> PathBuf {
        self.root.join("builds").join(id.to_string())
    }

    /// A build's log.
    pub fn build_log(&self, id: i64) -> PathBuf {
        self.build(id).join("log")
    }

    /// A build's `.buildinfo`.
    pub fn buildinfo(&self, id: i64) -> PathBuf {
        self.build(id).join("buildinfo")
    }

    /// A build's packages, until they are in the archive.
    pub fn build_output(&self, id: i64) -> PathBuf {
        self.build(id).join("out")
    }

    /// Files on their way into the archive.
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// The artifacts of images, each called by its SHA-256.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// An image's artifact.
    pub fn image(&self, artifact: &Digest) -> PathBuf {
        self.images().join(artifact.hex())
    }

    /// The OpenPGP keys (`*.asc`) that may sign uploads.
    pub fn uploaders(&self) -> PathBuf {
        self.root.join("uploaders")
    }

    /// The key that signs evidence.
    pub fn evidence_key(&self) -> PathBuf {
        self.root.join("evidence/key")
    }

    /// The key with which the server merges.
    pub fn promotion_key(&self) -> PathBuf {
        self.root.join("promotion/key")
    }

    /// Evidence of merges that are on their way.
    pub fn pending_evidence(&self) -> PathBuf {
        self.root.join("evidence/pending")
    }

    /// Held while a server runs on this folder.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
}
