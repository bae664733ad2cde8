//! Every program that reads a Debian archive reads a served release: apt with its sources, file
//! lists and changelogs, apt-file, gpgv, sqv, mmdebstrap.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Client;
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::Chain;
use volary_testkit::{Debian, roots, wait_until};

/// How long the server may take to make file lists, which are not part of a publish.
const UPKEEP: Duration = Duration::from_secs(180);

/// How long a whole root may take.
const ROOT: Duration = Duration::from_secs(1200);

const CHANGELOG: &str = "reads (1.0) unstable; urgency=medium\n\n  * The one thing that changed.\n\n \
                         -- Volary tests <tests@volary.test>  Sun, 22 Nov 2026 12:00:00 +0000\n";

const CONTROL: &str = "Source: reads\nMaintainer: Volary tests <tests@volary.test>\nSection: misc\n\
                       Priority: optional\nStandards-Version: 4.6.2\n\nPackage: reads\n\
                       Architecture: all\nDescription: a package that everything reads\n";

const RULES: &str = "#!/usr/bin/make -f
build build-arch build-indep:
binary-arch:
binary binary-indep:
\tmkdir -p debian/tmp/DEBIAN debian/tmp/usr/share/reads debian/tmp/usr/share/doc/reads
\techo 1.0 > debian/tmp/usr/share/reads/version
\tgzip -9nc debian/changelog > debian/tmp/usr/share/doc/reads/changelog.gz
\tdpkg-gencontrol
\tdpkg-deb --root-owner-group --build debian/tmp ..
clean:
\trm -rf debian/tmp debian/files
";

/// Builds a package with its source; gives the .changes.
fn build(dir: &Path) -> PathBuf {
    let tree = dir.join("reads-1.0");
    create_dir(&tree.join("debian/source")).unwrap();
    for (name, text, mode) in [
        ("changelog", CHANGELOG, 0o644),
        ("control", CONTROL, 0o644),
        ("source/format", "3.0 (native)\n", 0o644),
        ("rules", RULES, 0o755),
    ] {
        write_atomic(&tree.join("debian").join(name), text.as_bytes(), mode).unwrap();
    }
    Cmd::new("dpkg-buildpackage").args(["-us", "-uc", "-d", "--build=full"]).cwd(&tree).check().unwrap();
    let changes = Cmd::new("sh").args(["-c", "echo \"$0\"/*.changes"]).arg(dir).check().unwrap();
    PathBuf::from(changes.text().trim())
}

/// A server with a release that has the package.
fn released(dir: &Path) -> (Chain, tempfile::TempDir) {
    let (chain, logs) = common::chain();
    let changes = build(dir).display().to_string();
    chain.volary(&["archive", "include", "--allow-unsigned", &changes]).unwrap();
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    (chain, logs)
}

fn check(debian: Debian) {
    let dir = tempfile::tempdir().unwrap();
    let (chain, _logs) = released(dir.path());
    let root = roots::client_root(&common::cache(), debian, &mut |_| {}).unwrap();
    let client = Client::new(chain.lab(), debian.codename(), &root);
    client.trust(&chain);
    client.follow("deb deb-src", &format!("{}/archive", chain.url()), "v1.0/r1", "main");
    client.quiet(&["apt-get", "update"]);
    signatures(&chain, &client, dir.path());
    let policy = client.quiet(&["apt-cache", "policy"]);
    assert!(policy.contains("release v=v1.0 r1,o=demo,a=v1.0/r1,n=v1.0,l=demo,c=main"), "{policy}");
    client.quiet(&["apt-get", "install", "--yes", "reads"]);
    assert_eq!(client.quiet(&["cat", "/usr/share/reads/version"]).trim(), "1.0");

    let sources = client.quiet(&["apt-cache", "showsrc", "reads"]);
    assert!(sources.contains("Package: reads") && sources.contains("Checksums-Sha256:"), "{sources}");
    let fetch = "cd /tmp && apt-get source -qq reads && cat reads-1.0/debian/changelog";
    let source = client.sandbox.command(&["sh", "-c", fetch]).check().unwrap();
    assert!(source.text().ends_with(CHANGELOG), "{}", source.text());

    let changelog = client.quiet(&["apt-get", "changelog", "reads"]);
    assert!(changelog.contains("The one thing that changed"), "{changelog}");

    wait_until("apt-file to find the package", UPKEEP, || {
        client.quiet(&["apt-get", "update"]);
        let found = client.sandbox.command(&["apt-file", "search", "share/reads/version"]).run();
        let text = found.map_err(|error| error.to_string())?.text();
        if text.contains("reads: /usr/share/reads/version") { Ok(()) } else { Err(text) }
    })
    .unwrap();
}

/// gpgv and sqv of that Debian accept the suite, and nothing altered.
fn signatures(chain: &Chain, client: &Client, dir: &Path) {
    let public = chain.folder().join("archive/public");
    let suite = public.join("dists/v1.0/r1/InRelease");
    let inrelease = volary_host::read_to_string(&suite).unwrap();
    let keyring = dir.join("key.gpg");
    let dearmor = Cmd::new("gpg").args(["--batch", "--yes", "--dearmor", "-o"]).arg(&keyring);
    dearmor.arg(public.join("archive.asc")).check().unwrap();
    client.sandbox.write("/tmp/key.gpg", &volary_host::read(&keyring).unwrap()).unwrap();
    client.sandbox.write("/tmp/InRelease", inrelease.as_bytes()).unwrap();
    let altered = inrelease.replace("Origin: demo", "Origin: demi");
    client.sandbox.write("/tmp/altered", altered.as_bytes()).unwrap();
    let gpgv = |file| client.sandbox.command(&["gpgv", "--keyring", "/tmp/key.gpg", file]).run().unwrap();
    assert!(gpgv("/tmp/InRelease").status.success());
    assert!(!gpgv("/tmp/altered").status.success());
    let help = client.sandbox.command(&["sqv", "--help"]).run().unwrap().text();
    // sqv of Debian 12 reads detached signatures only.
    if help.contains("--cleartext") {
        let sqv = |file: &str| {
            let args = ["sqv", "--keyring", "/tmp/key.gpg", "--cleartext", "--output", "/tmp/text", file];
            client.sandbox.command(&args).run().unwrap()
        };
        let good = sqv("/tmp/InRelease");
        assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
        assert!(!sqv("/tmp/altered").status.success());
    }
}

#[test]
fn the_clients_of_debian_12_read_a_release() {
    check(Debian::Bookworm);
}

#[test]
fn the_clients_of_debian_13_read_a_release() {
    check(Debian::Trixie);
}

/// mmdebstrap makes a root of Debian and a release at once.
#[test]
fn mmdebstrap_makes_a_root_with_a_release() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, _logs) = released(dir.path());
    let key = volary_host::read_to_string(&chain.folder().join("archive/public/archive.asc")).unwrap();
    let key: String =
        key.lines().map(|line| format!(" {}\n", if line.is_empty() { "." } else { line })).collect();
    let source = format!(
        "Types: deb\nURIs: {}/archive\nSuites: v1.0/r1\nComponents: main\nSigned-By:\n{key}",
        chain.url()
    );
    let sources = dir.path().join("volary.sources");
    write_atomic(&sources, source.as_bytes(), 0o644).unwrap();
    let authority = chain.folder().join("ca/ca.pem");
    let root = dir.path().join("root");
    Cmd::new("mmdebstrap")
        .args(["--variant=apt", "--mode=root", "--include=reads", "--aptopt=Acquire::Languages \"none\""])
        .arg(format!("--aptopt=Acquire::https::CAInfo \"{}\"", authority.display()))
        // The user _apt cannot read what lies in the lab's folder.
        .arg("--aptopt=APT::Sandbox::User \"root\"")
        .arg(format!("--setup-hook=cp {} \"$1\"/etc/apt/sources.list.d/", sources.display()))
        .arg("bookworm")
        .arg(&root)
        .timeout(ROOT)
        .check()
        .unwrap();
    let version = volary_host::read_to_string(&root.join("usr/share/reads/version")).unwrap();
    assert_eq!(version.trim(), "1.0");
}
