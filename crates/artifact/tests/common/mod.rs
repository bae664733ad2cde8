//! What the tests share: keys, sample artifacts, and Mender's own tool as the judge.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_artifact::{
    Depends, Draft, Encoding, PayloadDraft, Policy, PrivateKey, Script, Source, WriteOptions, write,
};
use volary_host::{Cmd, Output};

/// Mender's tool: Debian's `mender-artifact`, or the one that `MENDER_ARTIFACT` names.
pub fn tool() -> String {
    std::env::var("MENDER_ARTIFACT").unwrap_or_else(|_| "mender-artifact".into())
}

/// Runs Mender's tool. Without it there is no judge, so the test fails and says what to install.
pub fn mender(args: &[&str]) -> Output {
    let command = Cmd::new(tool()).args(args).timeout(Duration::from_secs(120));
    command.run().expect("these tests need Debian's package mender-artifact; `make setup` installs it")
}

/// True if the tool accepts the file, checking its signature if a public key is given.
pub fn mender_accepts(file: &Path, key: Option<&Path>) -> Result<(), String> {
    let mut args = vec!["validate", file.to_str().unwrap()];
    if let Some(key) = key {
        args.extend(["-k", key.to_str().unwrap()]);
    }
    let output = mender(&args);
    let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
    // Version 3.9 writes a broken signature to its log and still exits 0 if no key was given.
    if output.status.success() && !said.contains("Invalid Artifact") { Ok(()) } else { Err(said) }
}

/// True if the tool reads zstd: from version 3.10 on.
pub fn mender_has_zstd() -> bool {
    mender(&["write", "rootfs-image", "--help"]).text().contains("zstd")
}

/// A key pair as PEM files made by OpenSSL.
pub struct Keys {
    pub private: PathBuf,
    pub public: PathBuf,
}

impl Keys {
    /// `args` are those of `openssl` up to the output file.
    pub fn make(dir: &Path, name: &str, args: &[&str]) -> Self {
        let private = dir.join(format!("{name}.key"));
        let public = dir.join(format!("{name}.pub"));
        Cmd::new("openssl").args(args).arg("-out").arg(&private).check().unwrap();
        let command =
            Cmd::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public);
        command.check().unwrap();
        Self { private, public }
    }

    /// An RSA key in the form that Mender's tool 3.9 reads.
    pub fn rsa(dir: &Path) -> Self {
        Self::make(dir, "rsa", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"])
            .traditional("rsa")
    }

    pub fn ecdsa(dir: &Path) -> Self {
        Self::make(dir, "ec", &["ecparam", "-genkey", "-noout", "-name", "prime256v1"])
    }

    fn traditional(self, kind: &str) -> Self {
        let old = self.private.with_extension("old.key");
        Cmd::new("openssl")
            .args([kind, "-traditional", "-in"])
            .arg(&self.private)
            .arg("-out")
            .arg(&old)
            .check()
            .unwrap();
        Self { private: old, ..self }
    }

    pub fn private(&self) -> PrivateKey {
        PrivateKey::from_pem(&volary_host::read_to_string(&self.private).unwrap()).unwrap()
    }

    pub fn public(&self) -> volary_artifact::PublicKey {
        volary_artifact::PublicKey::from_pem(&volary_host::read_to_string(&self.public).unwrap()).unwrap()
    }
}

/// Bytes that compress to about a half and are the same in every run.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x3c
    };
    (0..size).map(|_| next()).collect()
}

/// A root file system artifact with everything a header can hold.
pub fn full_draft(image: &[u8]) -> Draft<'_> {
    let mut rootfs =
        PayloadDraft::rootfs_image("release-2", Source::new("root.ext4", image.len() as u64, image));
    rootfs.depends.insert("custom".into(), vec!["value".into()]);
    rootfs.provides.insert("extra".into(), "more <&> \"quoted\"".into());
    Draft {
        name: "release-2".into(),
        group: Some("blue".into()),
        depends: Depends {
            device_types: vec!["board".into(), "other".into()],
            names: vec!["release-1".into()],
            groups: vec!["green".into()],
        },
        scripts: vec![
            Script { name: "ArtifactInstall_Leave_50".into(), content: b"#!/bin/sh\nexit 0\n".to_vec() },
            Script { name: "ArtifactInstall_Enter_00_first".into(), content: b"#!/bin/sh\n".to_vec() },
        ],
        payloads: vec![rootfs],
    }
}

/// A small artifact for one device type.
pub fn draft<'a>(payloads: Vec<PayloadDraft<'a>>) -> Draft<'a> {
    Draft {
        name: "release-2".into(),
        depends: Depends { device_types: vec!["board".into()], ..Depends::default() },
        payloads,
        ..Draft::default()
    }
}

pub fn written(draft: Draft<'_>, encoding: Encoding, key: Option<&PrivateKey>) -> Vec<u8> {
    let mut output = Cursor::new(Vec::new());
    let options = WriteOptions { encoding, key, threads: 2 };
    let written = write(&mut output, draft, &options).unwrap();
    let bytes = output.into_inner();
    assert_eq!(written.size, bytes.len() as u64);
    bytes
}

pub fn unsigned(threads: usize) -> Policy<'static> {
    let mut policy = Policy::unsigned();
    policy.limits.threads = threads;
    policy
}

/// Puts bytes into a file.
pub fn store(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    volary_host::write_atomic(&path, bytes, 0o644).unwrap();
    path
}
