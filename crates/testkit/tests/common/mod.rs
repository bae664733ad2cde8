//! What the system tests share: a chain without devices, a package made without our own code.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;

use tempfile::TempDir;
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::{Chain, Clone, Tools};
use volary_testkit::{Cache, Lab, Root, Sandbox};

/// The cache of roots.
pub fn cache() -> Cache {
    Cache::open().unwrap()
}

/// A running server in a lab of its own, and the folder with its logs.
pub fn chain() -> (Chain, TempDir) {
    let logs = tempfile::tempdir().unwrap();
    let lab = Lab::open(&cache()).unwrap();
    (Chain::open(lab, Tools::find().unwrap(), logs.path()).unwrap(), logs)
}

/// A root of a Debian as a client of an archive, with this machine's network.
pub struct Client {
    pub sandbox: Sandbox,
}

impl Client {
    pub fn new(lab: &Lab, name: &str, root: &Root) -> Self {
        Self { sandbox: Sandbox::new(lab, name, root).unwrap() }
    }

    /// Trusts a chain's archive and authority.
    pub fn trust(&self, chain: &Chain) {
        let public = chain.folder().join("archive/public/archive.asc");
        let key = volary_host::read(&public).unwrap();
        self.sandbox.write("/etc/apt/keyrings/volary.asc", &key).unwrap();
        let authority = volary_host::read(&chain.folder().join("ca/ca.pem")).unwrap();
        self.sandbox.write("/etc/volary-ca.pem", &authority).unwrap();
        let options = "Acquire::https::CAInfo \"/etc/volary-ca.pem\";\n";
        self.sandbox.write("/etc/apt/apt.conf.d/90volary", options.as_bytes()).unwrap();
    }

    /// Has the packages of one suite as its only source.
    pub fn source(&self, uri: &str, suite: &str) {
        self.follow("deb", uri, suite, "main");
    }

    /// Has one suite as its only source. apt warns of `deb-src` where there is no source package.
    pub fn follow(&self, types: &str, uri: &str, suite: &str, components: &str) {
        let source = format!(
            "Types: {types}\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\n\
             Signed-By: /etc/apt/keyrings/volary.asc\n"
        );
        self.sandbox.write("/etc/apt/sources.list.d/volary.sources", source.as_bytes()).unwrap();
    }

    /// Runs a program that must succeed and say nothing that a person would worry about.
    pub fn quiet(&self, args: &[&str]) -> String {
        let output = self.sandbox.command(args).run().unwrap();
        let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?} failed:\n{said}");
        let bad = said.lines().find(|line| {
            ["W:", "E:", "N:", "Warning", "WARNING"].iter().any(|prefix| line.starts_with(prefix))
        });
        assert_eq!(bad, None, "{args:?} said:\n{said}");
        said
    }

    /// The version that apt would install.
    pub fn candidate(&self, package: &str) -> String {
        let text = self.quiet(&["apt-cache", "policy", package]);
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        line.unwrap_or("nothing").to_owned()
    }
}

/// Adds a package to those that the template installs nowhere yet.
pub fn want(fleet: &Clone, package: &str) {
    let path = "group_vars/all.yml";
    let vars = volary_host::read_to_string(&fleet.dir().join(path)).unwrap();
    let changed = vars.replace("volary_packages: []", &format!("volary_packages: [{package}]"));
    assert_ne!(vars, changed, "the template has an empty list");
    fleet.write(path, &changed).unwrap();
}

/// A package of one file, `volary-probe`; gives the path of the .deb.
pub fn probe_deb(dir: &Path, version: &str) -> String {
    deb_of(dir, version, version.as_bytes())
}

/// The same with this content.
pub fn deb_of(dir: &Path, version: &str, content: &[u8]) -> String {
    let tree = dir.join(format!("probe-{version}"));
    create_dir(&tree.join("DEBIAN")).unwrap();
    create_dir(&tree.join("usr/share/probe")).unwrap();
    write_atomic(&tree.join("usr/share/probe/version"), content, 0o644).unwrap();
    let control = format!(
        "Package: volary-probe\nVersion: {version}\nArchitecture: all\n\
         Maintainer: Volary tests <tests@volary.test>\nDescription: a file to be found again\n"
    );
    write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = dir.join(format!("volary-probe_{version}_all.deb"));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&tree, &deb])
        .check()
        .unwrap();
    deb.display().to_string()
}
