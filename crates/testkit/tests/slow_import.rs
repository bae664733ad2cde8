//! What the real aptly and the real reprepro publish comes into a running server by
//! `volary archive import`, and apt of Debian 12 and 13 installs it from a release.

mod common;

use std::path::{Path, PathBuf};

use common::Client;
use volary_api::v1::mirror::ImportStatus;
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::{Debian, roots};

/// Somebody who publishes by other means, with a key of their own.
struct Other {
    dir: tempfile::TempDir,
}

impl Other {
    fn new() -> Self {
        let other = Self { dir: tempfile::tempdir().unwrap() };
        let home = other.dir.path().join("gnupg");
        create_dir(&home).unwrap();
        Cmd::new("chmod").arg("700").arg(&home).check().unwrap();
        let quiet = ["--batch", "--pinentry-mode", "loopback", "--passphrase", ""];
        let key = ["--quick-gen-key", "other@volary.test", "rsa3072", "sign", "never"];
        other.tool("gpg").args(quiet).args(key).check().unwrap();
        let public = other.tool("gpg").args(["--armor", "--export"]).check().unwrap().stdout;
        write_atomic(&other.key(), &public, 0o644).unwrap();
        other
    }

    fn tool(&self, program: &str) -> Cmd {
        Cmd::new(program).env("GNUPGHOME", self.dir.path().join("gnupg")).env("LC_ALL", "C.UTF-8")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.asc")
    }

    /// A small package; gives its path.
    fn deb(&self, name: &str, version: &str, needs: &str) -> PathBuf {
        let tree = self.dir.path().join(format!("{name}-{version}"));
        create_dir(&tree.join("DEBIAN")).unwrap();
        create_dir(&tree.join("usr/share").join(name)).unwrap();
        let file = tree.join("usr/share").join(name).join("version");
        write_atomic(&file, version.as_bytes(), 0o644).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nSection: misc\nPriority: optional\n\
             {needs}Maintainer: Volary tests <tests@volary.test>\nDescription: of another publication\n"
        );
        write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
        let deb = self.dir.path().join(format!("{name}_{version}_all.deb"));
        let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]);
        build.args([&tree, &deb]).check().unwrap();
        deb
    }

    /// An aptly publication with two versions of a package.
    fn aptly(&self) -> PathBuf {
        let root = self.dir.path().join("aptly");
        let config = self.dir.path().join("aptly.conf");
        let text = format!("{{\"rootDir\": {:?}, \"gpgProvider\": \"gpg\"}}", root.display().to_string());
        write_atomic(&config, text.as_bytes(), 0o644).unwrap();
        let aptly =
            |args: &[&str]| self.tool("aptly").arg(format!("-config={}", config.display())).args(args);
        aptly(&["repo", "create", "own"]).check().unwrap();
        let debs = ["1.0", "2.0"].map(|version| self.deb("from-aptly", version, ""));
        aptly(&["repo", "add", "own"]).args(debs).check().unwrap();
        let names = ["-distribution=stable", "-component=main", "-architectures=amd64", "-batch"];
        aptly(&["publish", "repo"]).args(names).arg("own").check().unwrap();
        root.join("public")
    }

    /// A reprepro publication of a package that needs aptly's.
    fn reprepro(&self) -> PathBuf {
        let root = self.dir.path().join("reprepro");
        create_dir(&root.join("conf")).unwrap();
        let text = "Codename: stable\nArchitectures: amd64\nComponents: main\nSignWith: other@volary.test\n";
        write_atomic(&root.join("conf/distributions"), text.as_bytes(), 0o644).unwrap();
        let deb = self.deb("from-reprepro", "3:1.0-1", "Depends: from-aptly (>= 2)\n");
        self.tool("reprepro").arg("-b").arg(&root).args(["includedeb", "stable"]).arg(deb).check().unwrap();
        root
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // gpg leaves its agents running.
        let _ = self.tool("gpgconf").args(["--kill", "all"]).run();
    }
}

#[test]
fn publications_of_aptly_and_reprepro_become_a_release() {
    let (chain, _logs) = common::chain();
    let (other, stranger) = (Other::new(), Other::new());
    let (aptly, reprepro) = (other.aptly(), other.reprepro());
    let import = |root: &Path, key: &Path, more: &[&str]| {
        let (root, key) = (root.display().to_string(), key.display().to_string());
        let args = ["--json", "archive", "import", &root, "--suite", "stable", "--key", &key];
        chain.desk().volary(&[&args[..], more].concat()).run().unwrap()
    };
    let added = |root: &Path, more: &[&str]| -> Vec<String> {
        let output = import(root, &other.key(), more);
        assert!(output.status.success(), "{output:?}");
        let status: ImportStatus = serde_json::from_slice(&output.stdout).unwrap();
        let report = status.report.unwrap();
        assert_eq!((report.problem, report.left_out.len()), (None, 0));
        status.added
    };
    let refused = import(&aptly, &stranger.key(), &[]);
    assert!(!refused.status.success(), "another key");
    assert_eq!(added(&aptly, &["--dry-run"]).len(), 2);
    assert_eq!(added(&aptly, &[]).len(), 2, "the dry run brought nothing");
    assert_eq!(added(&aptly, &[]).len(), 0, "the second time all is there");
    assert_eq!(added(&reprepro, &[]).len(), 1);
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    for debian in [Debian::Bookworm, Debian::Trixie] {
        let root = roots::apt_root(&common::cache(), debian, &mut |_| {}).unwrap();
        let client = Client::new(chain.lab(), debian.codename(), &root);
        client.trust(&chain);
        client.source(&format!("{}/archive", chain.url()), "v1.0/r1");
        client.quiet(&["apt-get", "update"]);
        client.quiet(&["apt-get", "install", "--yes", "from-reprepro"]);
        let version = |name: &str| client.quiet(&["cat", &format!("/usr/share/{name}/version")]);
        assert_eq!((version("from-aptly"), version("from-reprepro")), ("2.0".into(), "3:1.0-1".into()));
    }
}
