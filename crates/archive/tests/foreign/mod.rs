//! Publications by others: made by the real aptly and reprepro, signed by a key of their own.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

use volary_archive::upstream::{Keyring, Step, Trust, Watch};
use volary_host::Cmd;

/// A key with its home, and the trees that it signs.
pub struct Foreign {
    pub dir: tempfile::TempDir,
}

/// Nobody watches.
pub struct Blind;

impl Watch for Blind {
    fn step(&self, _: Step) {}

    fn whole(&self) {}

    fn fetched(&self, _: u64) {}

    fn is_stopped(&self) -> bool {
        false
    }
}

impl Foreign {
    /// Makes a key of this kind, as `gpg --quick-gen-key` names it.
    pub fn new(algorithm: &str) -> Self {
        let foreign = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(foreign.home()).unwrap();
        let quiet = ["--batch", "--pinentry-mode", "loopback", "--passphrase", ""];
        let key = ["--quick-gen-key", "other@example.com", algorithm, "sign", "never"];
        foreign.tool("gpg").args(quiet).args(key).check().unwrap();
        foreign
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("gnupg")
    }

    /// A program that signs with the key.
    pub fn tool(&self, program: &str) -> Cmd {
        Cmd::new(program).env("GNUPGHOME", self.home()).env("LC_ALL", "C.UTF-8")
    }

    /// The public key, armored or not.
    pub fn key(&self, armored: bool) -> Vec<u8> {
        let armor: &[&str] = if armored { &["--armor"] } else { &[] };
        self.tool("gpg").args(armor).arg("--export").check().unwrap().stdout
    }

    pub fn trust(&self) -> Trust {
        Trust::Keys(Keyring::read(&self.key(false)).unwrap())
    }

    /// Adds packages to an aptly repository and publishes it again.
    pub fn aptly(&self, debs: &[PathBuf]) -> PathBuf {
        let root = self.dir.path().join("aptly");
        let config = self.dir.path().join("aptly.conf");
        let is_new = !config.exists();
        if is_new {
            let text = format!("{{\"rootDir\": {:?}, \"gpgProvider\": \"gpg\"}}", root.display().to_string());
            write(&config, text);
        }
        let aptly =
            |args: &[&str]| self.tool("aptly").arg(format!("-config={}", config.display())).args(args);
        if is_new {
            aptly(&["repo", "create", "own"]).check().unwrap();
        }
        aptly(&["repo", "add", "own"]).args(debs).check().unwrap();
        if is_new {
            let names = ["-distribution=stable", "-component=main", "-architectures=amd64,arm64", "-batch"];
            aptly(&["publish", "repo"]).args(names).arg("own").check().unwrap();
        } else {
            aptly(&["publish", "update", "-batch", "stable"]).check().unwrap();
        }
        root.join("public")
    }

    /// Adds packages to a reprepro repository, which publishes them.
    pub fn reprepro(&self, debs: &[PathBuf]) -> PathBuf {
        let root = self.dir.path().join("reprepro");
        if !root.exists() {
            fs::create_dir_all(root.join("conf")).unwrap();
            let text = "Codename: stable\nSuite: main-line\nArchitectures: amd64 arm64 source\nComponents: main\n\
                        SignWith: other@example.com\n";
            write(&root.join("conf/distributions"), text);
        }
        let fields = ["-S", "misc", "-P", "optional", "includedeb", "stable"];
        self.tool("reprepro").arg("-b").arg(&root).args(fields).args(debs).check().unwrap();
        root
    }

    /// Signs a Release file anew after something in it was changed.
    pub fn sign(&self, suite: &Path) {
        let release = suite.join("Release");
        let sign = |what: &str, to: &str| {
            let to = suite.join(to);
            let args = ["--batch", "--yes", "--armor", what, "--output"];
            self.tool("gpg").args(args).args([&to, &release]).check().unwrap();
        };
        sign("--detach-sign", "Release.gpg");
        sign("--clear-sign", "InRelease");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // gpg leaves its agents running.
        let _ = self.tool("gpgconf").args(["--kill", "all"]).run();
    }
}

/// Changes a text file.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from:?}", path.display());
    write(path, text.replacen(from, to, 1));
}

/// Writes a file.
pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    volary_host::write_atomic(path, content.as_ref(), 0o644).unwrap();
}

impl Foreign {
    /// Makes a source package and its binary one; the paths of the `.dsc` and the `.deb`.
    pub fn source(&self, lab: &crate::common::Lab, name: &str, version: &str) -> (PathBuf, PathBuf) {
        let tree = self.dir.path().join(format!("{name}-{version}"));
        fs::create_dir_all(tree.join("debian/source")).unwrap();
        write(&tree.join("debian/source/format"), "3.0 (native)\n");
        let control = format!(
            "Source: {name}\nMaintainer: A B <a@example.com>\nSection: misc\nPriority: optional\n\n\
             Package: {name}\nArchitecture: any\nDescription: test\n"
        );
        write(&tree.join("debian/control"), control);
        let changelog = format!(
            "{name} ({version}) stable; urgency=low\n\n  * New.\n\n -- A B <a@example.com>  Sun, 22 Nov 2026 10:00:00 +0000\n"
        );
        write(&tree.join("debian/changelog"), changelog);
        Cmd::new("dpkg-source").arg("-b").arg(&tree).cwd(self.dir.path()).check().unwrap();
        (self.dir.path().join(format!("{name}_{version}.dsc")), lab.deb(name, version, "amd64", ""))
    }

    /// Adds a source package to the reprepro repository.
    pub fn reprepro_source(&self, dsc: &Path) -> PathBuf {
        let root = self.dir.path().join("reprepro");
        let fields = ["-S", "misc", "-P", "optional", "includedsc", "stable"];
        self.tool("reprepro").arg("-b").arg(&root).args(fields).arg(dsc).check().unwrap();
        root
    }
}

/// What a real apt would install that knows one suite and nothing of the machine, as
/// `name version` in order.
pub fn simulate(uri: &str, suite: &str, components: &str, key: &str, packages: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    crate::common::make_apt_folders(path);
    write(&path.join("key.asc"), key);
    write(&path.join("status"), "");
    let shown = path.display();
    let source = format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\nSigned-By: {shown}/key.asc\n"
    );
    write(&path.join("etc/sources.list.d/test.sources"), source);
    let options = [
        format!("Dir::Etc={shown}/etc"),
        format!("Dir::State={shown}/state"),
        format!("Dir::State::status={shown}/status"),
        format!("Dir::Cache={shown}/cache"),
        "Dir::Etc::Trusted=/nowhere".to_owned(),
        "Dir::Etc::TrustedParts=/nowhere".to_owned(),
        // The private folders are not readable for the user _apt.
        "APT::Sandbox::User=root".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "APT::Architectures::=amd64".to_owned(),
    ];
    let apt = |args: &[&str]| {
        let mut command = Cmd::new("apt-get").env("LC_ALL", "C.UTF-8");
        for option in &options {
            command = command.arg("-o").arg(option);
        }
        command.args(args).check().unwrap()
    };
    apt(&["update"]);
    let text = apt(&[&["install", "--simulate", "--no-install-recommends"], packages].concat()).text();
    let mut installed: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|rest| {
            let (name, rest) = rest.split_once(" (")?;
            Some(format!("{name} {}", rest.split_whitespace().next()?))
        })
        .collect();
    installed.sort();
    installed
}
