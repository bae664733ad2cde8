//! Real apt of Debian 12 and 13 reads a release: signature checked, no warning, and it refuses
//! what another key signed.

use std::path::Path;

use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::{Chain, Tools};
use volary_testkit::{Cache, Debian, Lab, Sandbox, roots};

/// A package of one file, made without any of our own code.
fn probe_deb(dir: &Path, version: &str) -> String {
    let tree = dir.join(format!("probe-{version}"));
    create_dir(&tree.join("DEBIAN")).unwrap();
    create_dir(&tree.join("usr/share/probe")).unwrap();
    write_atomic(&tree.join("usr/share/probe/version"), version.as_bytes(), 0o644).unwrap();
    let control = format!(
        "Package: volary-probe\nVersion: {version}\nArchitecture: all\n\
         Maintainer: Volary tests <tests@volary.test>\nDescription: a file to be found again\n"
    );
    write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = dir.join(format!("volary-probe_{version}_all.deb"));
    Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&tree, &deb]).check().unwrap();
    deb.display().to_string()
}

struct Client {
    sandbox: Sandbox,
}

impl Client {
    fn new(lab: &Lab, cache: &Cache, debian: Debian) -> Self {
        let root = roots::apt_root(cache, debian, &mut |_| {}).unwrap();
        Self { sandbox: Sandbox::new(lab, debian.codename(), &root).unwrap() }
    }

    fn source(&self, chain: &Chain, suite: &str) {
        let source = format!(
            "Types: deb\nURIs: {}/archive\nSuites: {suite}\nComponents: main\nSigned-By: /etc/apt/keyrings/volary.asc\n",
            chain.url()
        );
        self.sandbox.write("/etc/apt/sources.list.d/volary.sources", source.as_bytes()).unwrap();
    }

    /// Runs a program that must succeed and say nothing that a person would worry about.
    fn quiet(&self, args: &[&str]) -> String {
        let output = self.sandbox.command(args).check().unwrap();
        let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        let bad = said.lines().find(|line| {
            ["W:", "E:", "N:", "Warning", "WARNING"].iter().any(|prefix| line.starts_with(prefix))
        });
        assert_eq!(bad, None, "{args:?} said:\n{said}");
        said
    }
}

fn check(debian: Debian) {
    let tools = Tools::find().unwrap();
    let cache = Cache::open().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let client_lab = Lab::open(&cache).unwrap();
    let client = Client::new(&client_lab, &cache, debian);
    let chain = Chain::open(Lab::open(&cache).unwrap(), tools, logs.path()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    let key = volary_host::read(&fleet.dir().join(".volary/archive.asc")).unwrap();
    let authority = volary_host::read(&chain.folder().join("ca.pem")).unwrap();
    client.sandbox.write("/etc/apt/keyrings/volary.asc", &key).unwrap();
    client.sandbox.write("/etc/volary-ca.pem", &authority).unwrap();
    let options = "Acquire::https::CAInfo \"/etc/volary-ca.pem\";\n";
    client.sandbox.write("/etc/apt/apt.conf.d/90volary", options.as_bytes()).unwrap();

    chain.volary(&["archive", "include", &probe_deb(logs.path(), "1.0")]).unwrap();
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    chain.volary(&["archive", "include", &probe_deb(logs.path(), "1.1")]).unwrap();
    chain.volary(&["release", "pick", "v1.0", "volary-probe"]).unwrap();

    // The newest revision, then the older one, which stays installable.
    for (suite, version) in [("v1.0/r2", "1.1"), ("v1.0/r1", "1.0"), ("rolling", "1.1")] {
        client.source(&chain, suite);
        client.quiet(&["apt-get", "update"]);
        client.quiet(&[
            "apt-get",
            "install",
            "--yes",
            "--allow-downgrades",
            &format!("volary-probe={version}"),
        ]);
        assert_eq!(client.quiet(&["cat", "/usr/share/probe/version"]), version);
    }

    // Another key: nothing is taken from the archive.
    client.sandbox.command(&["sh", "-c", "rm -rf /var/lib/apt/lists/*"]).check().unwrap();
    client.sandbox.write("/etc/apt/keyrings/volary.asc", OTHER_KEY.as_bytes()).unwrap();
    let update = client.sandbox.command(&["apt-get", "update"]).run().unwrap();
    let said = String::from_utf8_lossy(&update.stderr).into_owned();
    assert!(!update.status.success() && said.contains("not signed"), "{said}");
}

#[test]
fn apt_of_debian_12_installs_from_a_release() {
    check(Debian::Bookworm);
}

#[test]
fn apt_of_debian_13_installs_from_a_release() {
    check(Debian::Trixie);
}

/// A public key of nobody: its private half was never kept.
const OTHER_KEY: &str = include_str!("other-key.asc");
