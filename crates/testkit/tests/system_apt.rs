//! Real apt of Debian 12 and 13 reads a release: signature checked, no warning, and it refuses
//! what another key signed. It follows many publishes at once by their differences.

mod common;

use std::time::{Duration, Instant};

use volary_testkit::chain::Chain;
use volary_testkit::safety::Trial;
use volary_testkit::{AptClient, Cache, Debian, Lab, Sandbox, roots};

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
    let (chain, logs) = common::chain();
    let client = Client::new(chain.lab(), &common::cache(), debian);
    let fleet = chain.clone_of("fleet").unwrap();
    let key = volary_host::read(&fleet.dir().join(".volary/archive.asc")).unwrap();
    let authority = volary_host::read(&fleet.dir().join(".volary/ca.pem")).unwrap();
    client.sandbox.write("/etc/apt/keyrings/volary.asc", &key).unwrap();
    client.sandbox.write("/etc/volary-ca.pem", &authority).unwrap();
    let options = "Acquire::https::CAInfo \"/etc/volary-ca.pem\";\n";
    client.sandbox.write("/etc/apt/apt.conf.d/90volary", options.as_bytes()).unwrap();

    chain.volary(&["archive", "include", &common::probe_deb(logs.path(), "1.0")]).unwrap();
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    chain.volary(&["archive", "include", &common::probe_deb(logs.path(), "1.1")]).unwrap();
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

    // A package that was altered on the server, same name and size: apt takes nothing of it.
    client.sandbox.command(&["apt-get", "remove", "--yes", "volary-probe"]).check().unwrap();
    client.sandbox.command(&["apt-get", "clean"]).check().unwrap();
    assert!(alter(&chain.folder().join("archive/public/pool"), ".deb") > 0);
    let install = client.sandbox.command(&["apt-get", "install", "--yes", "volary-probe"]).run().unwrap();
    let said = String::from_utf8_lossy(&install.stderr).into_owned();
    assert!(!install.status.success() && said.contains("Hash Sum mismatch"), "{said}");
    client.sandbox.command(&["sh", "-c", "test ! -e /usr/share/probe/version"]).check().unwrap();

    // Another key: nothing is taken from the archive.
    client.sandbox.command(&["sh", "-c", "rm -rf /var/lib/apt/lists/*"]).check().unwrap();
    client.sandbox.write("/etc/apt/keyrings/volary.asc", OTHER_KEY.as_bytes()).unwrap();
    let update = client.sandbox.command(&["apt-get", "update"]).run().unwrap();
    let said = String::from_utf8_lossy(&update.stderr).into_owned();
    assert!(!update.status.success() && said.contains("not signed"), "{said}");
}

/// Changes a byte in each file whose name ends so, below a folder; says how many there were.
fn alter(folder: &std::path::Path, end: &str) -> usize {
    let mut altered = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            altered += alter(&path, end);
        } else if entry.file_name().to_string_lossy().ends_with(end) {
            let mut bytes = volary_host::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            volary_host::write_atomic(&path, &bytes, 0o644).unwrap();
            altered += 1;
        }
    }
    altered
}

#[test]
fn apt_of_debian_12_installs_from_a_release() {
    check(Debian::Bookworm);
}

#[test]
fn apt_of_debian_13_installs_from_a_release() {
    check(Debian::Trixie);
}

/// apt 3.0 prints an error when the state that it holds is not in the list of differences, so a
/// client in the middle of many publishes must find itself there.
#[test]
fn apt_of_debian_13_follows_publishes_that_come_back_to_back() {
    const PUBLISHES: usize = 12;
    let (chain, logs) = common::chain();
    let trial = Trial::open(&chain, 300, logs.path()).unwrap();
    let client = AptClient::new(chain.lab(), &common::cache(), Debian::Trixie, "behind").unwrap();
    let key = volary_host::read(&chain.folder().join("archive/public/archive.asc")).unwrap();
    let authority = volary_host::read(&chain.folder().join("ca/ca.pem")).unwrap();
    client.trust(&key, Some(&authority)).unwrap();
    client.source(&format!("{}/archive", chain.url()), "rolling", "main").unwrap();
    for _ in 0..5 {
        assert_eq!(client.update().unwrap().complaint(), None);
        let begun = Instant::now();
        let mut last = trial.publish().unwrap();
        for _ in 1..PUBLISHES {
            last = trial.publish().unwrap();
        }
        // Slower ones do not come back to back, and nothing is said of those.
        if begun.elapsed() > Duration::from_secs(15) {
            continue;
        }
        let run = client.update().unwrap();
        assert_eq!(run.complaint(), None, "{}", run.said);
        assert!(!run.said.contains("Packages ["), "it fetched the whole index:\n{}", run.said);
        assert_eq!(client.candidate(&last.name()).unwrap(), Some(last.version()));
        return;
    }
    panic!("{PUBLISHES} publishes never took less than 15 s");
}

/// A public key of nobody: its private half was never kept.
const OTHER_KEY: &str = include_str!("other-key.asc");
