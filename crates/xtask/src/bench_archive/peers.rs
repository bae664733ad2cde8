//! aptly and reprepro as a script for CI would use them, with what makes them cheapest.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::{Cost, Meter};

use super::Set;

/// What all peers can do.
pub trait Peer {
    /// Takes all packages in and publishes them.
    fn import(&mut self, set: &Set) -> anyhow::Result<Cost>;
    /// Takes one more package in and publishes it.
    fn publish(&mut self, file: &Path) -> anyhow::Result<Cost>;
    /// Makes a release of what is there and publishes it.
    fn cut(&mut self, release: &str) -> anyhow::Result<Cost>;
    /// Makes a published release what rolling is now.
    fn switch(&mut self, release: &str) -> anyhow::Result<Cost>;
    /// The folder to serve.
    fn public(&self) -> PathBuf;
}

/// A signing key for the peers, as people make them.
struct Gpg {
    home: PathBuf,
    fingerprint: String,
}

impl Gpg {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let home = folder.join("gpg");
        if !home.is_dir() {
            create_dir(&home)?;
            Cmd::new("chmod").arg("700").arg(&home).check()?;
            Cmd::new("gpg")
                .args(["--batch", "--passphrase", "", "--quick-gen-key"])
                .args(["Bench <bench@acme.invalid>", "ed25519", "sign", "never"])
                .env("GNUPGHOME", &home)
                .check()?;
        }
        let listed =
            Cmd::new("gpg").args(["--list-keys", "--with-colons"]).env("GNUPGHOME", &home).check()?.text();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).context("gpg made no key")?;
        let fingerprint = line.split(':').nth(9).context("gpg lists no fingerprint")?.to_owned();
        Ok(Self { home, fingerprint })
    }

    fn public(&self) -> anyhow::Result<Vec<u8>> {
        Ok(Cmd::new("gpg").args(["--armor", "--export"]).env("GNUPGHOME", &self.home).check()?.stdout)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent that signs is a daemon, and nobody else ends it.
        let _ = Cmd::new("gpgconf").args(["--kill", "gpg-agent"]).env("GNUPGHOME", &self.home).run();
    }
}

/// Runs commands one after the other and adds up what they cost.
fn measured(meter: &Meter, commands: impl IntoIterator<Item = Cmd>) -> anyhow::Result<Cost> {
    let mut sum = Cost::default();
    for command in commands {
        sum = sum + meter.check(&command)?.1;
    }
    Ok(sum)
}

/// A new, empty folder for a peer.
fn fresh(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let dir = folder.join(name);
    Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(&dir).check()?;
    create_dir(&dir)?;
    Ok(dir)
}

/// aptly: by-hash on; Contents and bzip2 off, which it makes by default and which cost it more than
/// all the rest.
pub struct Aptly {
    dir: PathBuf,
    gpg: Gpg,
    meter: Rc<Meter>,
    snapshots: usize,
}

impl Aptly {
    pub fn open(folder: &Path, meter: Rc<Meter>) -> anyhow::Result<Self> {
        let dir = fresh(folder, "aptly")?;
        let config = format!(
            "{{\"rootDir\": \"{}/root\", \"architectures\": [\"amd64\", \"arm64\"], \"gpgProvider\": \"gpg\", \
             \"skipLegacyPool\": true, \"skipContentsPublishing\": true, \"skipBz2Publishing\": true}}",
            dir.display()
        );
        write_atomic(&dir.join("aptly.conf"), config.as_bytes(), 0o644)?;
        let aptly = Self { gpg: Gpg::new(folder)?, dir, meter, snapshots: 0 };
        aptly.command(&["repo", "create", "-distribution=rolling", "-component=main", "rolling"]).check()?;
        Ok(aptly)
    }

    fn command(&self, args: &[&str]) -> Cmd {
        let config = format!("-config={}", self.dir.join("aptly.conf").display());
        Cmd::new("aptly").arg(config).args(args).env("GNUPGHOME", &self.gpg.home)
    }

    fn publish_command(&self, args: &[&str]) -> Cmd {
        let key = format!("-gpg-key={}", self.gpg.fingerprint);
        let (kind, rest) = args.split_at(1);
        self.command(&["publish"])
            .args(kind)
            .args([key.as_str(), "-batch", "-skip-contents", "-skip-bz2"])
            .args(rest)
    }

    /// Takes a package in and publishes nothing.
    pub fn add_unpublished(&self, file: &Path) -> anyhow::Result<()> {
        Ok(self.command(&["repo", "add", "rolling"]).arg(file).check().map(drop)?)
    }

    fn snapshot(&mut self) -> (String, Cmd) {
        self.snapshots += 1;
        let name = format!("s{}", self.snapshots);
        let make = self.command(&["snapshot", "create", &name, "from", "repo", "rolling"]);
        (name, make)
    }

    /// The public key, for apt.
    pub fn key(&self) -> anyhow::Result<Vec<u8>> {
        self.gpg.public()
    }
}

const NEW_SUITE: [&str; 4] =
    ["-acquire-by-hash", "-architectures=amd64,arm64", "-origin=ACME", "-label=ACME"];

impl Peer for Aptly {
    fn import(&mut self, set: &Set) -> anyhow::Result<Cost> {
        let add = self.command(&["repo", "add", "rolling"]).arg(&set.dir);
        let publish = self.publish_command(&["repo"]).args(NEW_SUITE).arg("rolling");
        measured(&self.meter, [add, publish])
    }

    fn publish(&mut self, file: &Path) -> anyhow::Result<Cost> {
        let add = self.command(&["repo", "add", "rolling"]).arg(file);
        measured(&self.meter, [add, self.publish_command(&["update", "rolling"])])
    }

    fn cut(&mut self, release: &str) -> anyhow::Result<Cost> {
        let (name, make) = self.snapshot();
        let distribution = format!("-distribution={release}");
        let publish = self.publish_command(&["snapshot"]).args(NEW_SUITE).args([&distribution, &name]);
        measured(&self.meter, [make, publish])
    }

    fn switch(&mut self, release: &str) -> anyhow::Result<Cost> {
        let (name, make) = self.snapshot();
        measured(&self.meter, [make, self.publish_command(&["switch", release, &name])])
    }

    fn public(&self) -> PathBuf {
        self.dir.join("root/public")
    }
}

/// reprepro as it comes.
pub struct Reprepro {
    dir: PathBuf,
    gpg: Gpg,
    meter: Rc<Meter>,
}

/// How many releases it is told of: it knows only suites that its configuration names.
const RELEASES: usize = 100;

impl Reprepro {
    pub fn open(folder: &Path, meter: Rc<Meter>) -> anyhow::Result<Self> {
        let dir = fresh(folder, "reprepro")?;
        let gpg = Gpg::new(folder)?;
        let mut text = String::new();
        let releases = (0..RELEASES).map(|number| format!("v{number}"));
        for name in std::iter::once("rolling".to_owned()).chain(releases) {
            text += &format!(
                "Codename: {name}\nSuite: {name}\nOrigin: ACME\nLabel: ACME\nArchitectures: amd64 arm64\n\
                 Components: main\nSignWith: {}\n\n",
                gpg.fingerprint
            );
        }
        create_dir(&dir.join("conf"))?;
        write_atomic(&dir.join("conf/distributions"), text.as_bytes(), 0o644)?;
        Ok(Self { dir, gpg, meter })
    }

    fn command(&self, args: &[&str]) -> Cmd {
        Cmd::new("reprepro")
            .arg("-b")
            .arg(&self.dir)
            .arg("--silent")
            .args(args)
            .env("GNUPGHOME", &self.gpg.home)
    }
}

impl Peer for Reprepro {
    fn import(&mut self, set: &Set) -> anyhow::Result<Cost> {
        let add = self.command(&["--export=silent-never", "includedeb", "rolling"]).args(&set.files);
        measured(&self.meter, [add, self.command(&["export", "rolling"])])
    }

    fn publish(&mut self, file: &Path) -> anyhow::Result<Cost> {
        measured(&self.meter, [self.command(&["includedeb", "rolling"]).arg(file)])
    }

    fn cut(&mut self, release: &str) -> anyhow::Result<Cost> {
        measured(&self.meter, [self.command(&["copymatched", release, "rolling", "*"])])
    }

    fn switch(&mut self, release: &str) -> anyhow::Result<Cost> {
        self.cut(release)
    }

    fn public(&self) -> PathBuf {
        self.dir.clone()
    }
}
