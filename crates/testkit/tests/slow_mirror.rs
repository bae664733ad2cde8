//! The real Debian as a mirror for two architectures: killed, resumed, cut. A release that has it
//! is a whole system, which debootstrap and mmdebstrap make from nothing else.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Client;
use volary_api::v1::mirror::{Mirror, MirroredPackage};
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::Chain;
use volary_testkit::{Debian, roots, wait_until};

/// How long a whole root or a sync may take.
const LONG: Duration = Duration::from_secs(1200);

/// So many files must be there when the server is killed.
const SOME: u64 = 10;

/// A package of Debian that the own package needs, with libraries of its own.
const NEEDED: &str = "jq";

/// Where this machine takes its Debian from.
struct Upstream {
    site: String,
    suite: String,
    keyring: String,
}

impl Upstream {
    fn of_this_machine() -> Self {
        let release = volary_host::read_to_string(Path::new("/etc/os-release")).unwrap();
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap();
        let format = "$(SITE) $(RELEASE) $(SIGNED_BY)";
        let targets = Cmd::new("apt-get")
            .args(["indextargets", "--no-release-info", "--format", format, "Created-By: Packages"])
            .check()
            .unwrap()
            .text();
        let mut lines = targets.lines().map(|line| line.split(' '));
        let found = lines.find_map(|mut words| {
            let site = words.next()?;
            let keyring = (words.next()? == suite).then(|| words.next().unwrap_or_default())?;
            Some((site.to_owned(), keyring.to_owned()))
        });
        let (site, keyring) = found.expect("apt of this machine has a source of its own Debian");
        // Older sources name none and mean this one.
        let usual = "/usr/share/keyrings/debian-archive-keyring.gpg".to_owned();
        let keyring = if keyring.starts_with('/') { keyring } else { usual };
        Self { site, suite: suite.to_owned(), keyring }
    }

    /// What debootstrap adds to Debian 12 by itself, but not to a suite of another name.
    fn addition(&self) -> Option<&'static str> {
        (self.suite == "bookworm").then_some("usr-is-merged")
    }
}

/// Runs `volary` as long as it takes.
fn patiently(chain: &Chain, args: &[&str]) -> String {
    let command = chain.desk().volary(args).timeout(LONG);
    chain.desk().check(&command).unwrap().text()
}

fn mirror(chain: &Chain) -> Result<Mirror, String> {
    chain.desk().json(&["archive", "mirror", "show", "debian"]).map_err(|error| error.to_string())
}

/// Lets the archive have another architecture.
fn with_arm64(chain: &Chain) {
    chain.set("archive_architectures", "[\"arm64\"]").unwrap();
}

/// Files that a sync has brought as a whole: their hashes and inodes.
fn staged(chain: &Chain) -> BTreeMap<String, u64> {
    let dir = chain.folder().join("archive/incoming/mirror-debian");
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let whole = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (name.len() == 64).then(|| Some((name, entry.metadata().ok()?.ino())))?
    });
    whole.collect()
}

/// Begins the mirror, kills the server in the middle, and lets the next one go on.
fn mirror_through_a_kill(chain: &Chain) {
    let debian = Upstream::of_this_machine();
    let names = ["apt", "ca-certificates", NEEDED];
    let packages: Vec<&str> = names.into_iter().chain(debian.addition()).collect();
    let packages = packages.join(",");
    let add = ["archive", "mirror", "add", "debian", "--url", &debian.site, "--suite", &debian.suite];
    let filter = ["--arch", "amd64,arm64", "--priority", "required", "--package", &packages, "--closure"];
    let key = ["--key-on-server", debian.keyring.as_str(), "--interval", "0"];
    patiently(chain, &[&add[..], &filter, &key].concat());
    wait_until("some packages of the mirror to be there", LONG, || {
        let running = mirror(chain)?.running.ok_or("no sync runs")?;
        if running.step == "fetching" && running.files.0 >= SOME {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    })
    .unwrap();
    chain.kill_server().unwrap();
    let before = staged(chain);
    assert!(!before.is_empty());
    chain.start_server().unwrap();
    assert_eq!(mirror(chain).unwrap().state, None, "half of a mirror is none");
    patiently(chain, &["archive", "mirror", "sync", "debian"]);
    let after = mirror(chain).unwrap();
    let report = after.last.unwrap();
    assert_eq!((report.problem, report.unfulfilled.len(), report.left_out.len()), (None, 0, 0));
    let state = after.state.unwrap();
    // Each file that was there is in the pool as the same file: it did not come twice.
    for (hash, inode) in &before {
        let path = pool(chain, hash);
        assert_eq!(fs::metadata(&path).map(|meta| meta.ino()).ok(), Some(*inode), "{}", path.display());
    }
    assert!(state.packages > before.len() as u64, "{state:?}");
}

fn pool(chain: &Chain, hash: &str) -> PathBuf {
    let folder = chain.folder().join("archive/public/pool/sha256").join(&hash[..2]);
    folder.join(format!("{hash}.deb"))
}

/// An own package that needs one of Debian's; gives the path of the .deb.
fn own(dir: &Path) -> String {
    let tree = dir.join("own");
    create_dir(&tree.join("DEBIAN")).unwrap();
    create_dir(&tree.join("usr/share/own")).unwrap();
    write_atomic(&tree.join("usr/share/own/version"), b"1.0\n", 0o644).unwrap();
    let control = format!(
        "Package: own\nVersion: 1.0\nArchitecture: all\nDepends: {NEEDED}\n\
         Maintainer: Volary tests <tests@volary.test>\nDescription: needs a package of Debian\n"
    );
    write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = dir.join("own.deb");
    let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]);
    build.args([&tree, &deb]).check().unwrap();
    deb.display().to_string()
}

#[test]
fn a_release_with_a_mirror_is_a_whole_system() {
    let (chain, logs) = common::chain();
    with_arm64(&chain);
    mirror_through_a_kill(&chain);
    chain.volary(&["archive", "include", &own(logs.path())]).unwrap();
    patiently(&chain, &["release", "cut", "v1.0"]);
    let packages: Vec<MirroredPackage> =
        chain.desk().json(&["archive", "mirror", "show", "debian", "--packages"]).unwrap();
    for architecture in ["amd64", "arm64"] {
        let of = |one: &&MirroredPackage| one.architecture.as_str() == architecture;
        assert!(packages.iter().filter(of).any(|one| one.name.as_str() == NEEDED));
    }
    mmdebstrap(&chain, logs.path());
    for debian in [Debian::Bookworm, Debian::Trixie] {
        let root = roots::client_root(&common::cache(), debian, &mut |_| {}).unwrap();
        let client = Client::new(chain.lab(), debian.codename(), &root);
        client.trust(&chain);
        debootstrap(&chain, &client);
        foreign_closure(&chain, &client);
    }
}

/// debootstrap makes a system of the release alone, in which apt installs the own package with
/// what that needs.
fn debootstrap(chain: &Chain, client: &Client) {
    let uri = format!("{}/archive", chain.url());
    client.sandbox.write("/root/.wgetrc", b"ca_certificate=/etc/volary-ca.pem\n").unwrap();
    let public = chain.folder().join("archive/public/archive.asc");
    let key = Cmd::new("gpg").args(["--batch", "--dearmor"]).stdin(volary_host::read(&public).unwrap());
    client.sandbox.write("/tmp/key.gpg", &key.check().unwrap().stdout).unwrap();
    let include = format!("--include={}", Upstream::of_this_machine().addition().unwrap_or("apt"));
    let debootstrap = client.sandbox.command(&[
        "debootstrap",
        "--variant=minbase",
        "--keyring=/tmp/key.gpg",
        "--components=main,debian",
        &include,
        "v1.0/r1",
        "/srv/root",
        &uri,
        "/usr/share/debootstrap/scripts/sid",
    ]);
    debootstrap.timeout(LONG).check().unwrap();
    let source = format!("deb [signed-by=/etc/volary.asc] {uri} v1.0/r1 main debian\n");
    for (path, from) in [("/srv/root/etc/volary.asc", "keyrings/volary.asc"), ("/srv/root/etc/ca.pem", "")] {
        let from = if from.is_empty() { "/etc/volary-ca.pem".to_owned() } else { format!("/etc/apt/{from}") };
        client.sandbox.command(&["cp", &from, path]).check().unwrap();
    }
    client.sandbox.write("/srv/root/etc/apt/sources.list", source.as_bytes()).unwrap();
    let option = b"Acquire::https::CAInfo \"/etc/ca.pem\";\n";
    client.sandbox.write("/srv/root/etc/apt/apt.conf.d/90volary", option).unwrap();
    client.quiet(&["chroot", "/srv/root", "apt-get", "update"]);
    let no_pty = "Dpkg::Use-Pty=false";
    client.quiet(&["chroot", "/srv/root", "apt-get", "-o", no_pty, "install", "--yes", "own"]);
    let said = client.quiet(&["chroot", "/srv/root", "sh", "-c", "echo '{\"it\": 1}' | jq .it"]);
    assert_eq!(said.trim(), "1");
    let policy = client.quiet(&["chroot", "/srv/root", "apt-cache", "policy", NEEDED]);
    assert!(policy.contains(&format!("{uri} v1.0/r1/debian amd64 Packages")), "{policy}");
}

/// For the other architecture too, apt finds all that the own package needs.
fn foreign_closure(chain: &Chain, client: &Client) {
    client.follow("deb", &format!("{}/archive", chain.url()), "v1.0/r1", "main debian");
    let script = "mkdir -p /tmp/arm64/lists/partial && touch /tmp/arm64/status && \
        options='-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State::status=/tmp/arm64/status \
        -o Dir::State::lists=/tmp/arm64/lists' && apt-get $options update && \
        apt-get $options --simulate --no-install-recommends install own apt";
    let said = client.quiet(&["sh", "-c", script]);
    let installed = said.lines().any(|line| line.starts_with("Inst jq ") && line.contains("[arm64]"));
    assert!(installed, "{said}");
}

/// mmdebstrap makes the same without any other source.
fn mmdebstrap(chain: &Chain, dir: &Path) {
    let key = chain.folder().join("archive/public/archive.asc");
    let authority = chain.folder().join("ca/ca.pem");
    let root = dir.join("root");
    let source = format!("deb [signed-by={}] {}/archive v1.0/r1 main debian", key.display(), chain.url());
    // usr-is-merged says that this was done, and usrmerge, which does it later, is not here.
    let hook = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr";
    let hook = Upstream::of_this_machine().addition().map(|_| hook);
    Cmd::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=root", "--include=own", "--aptopt=Acquire::Languages \"none\""])
        .arg(format!("--aptopt=Acquire::https::CAInfo \"{}\"", authority.display()))
        .args(hook)
        // The user _apt cannot read what lies in the lab's folder.
        .arg("--aptopt=APT::Sandbox::User \"root\"")
        // The codename: of a name with a slash apt takes the end for something else.
        .arg("v1.0")
        .arg(&root)
        .arg(&source)
        .timeout(LONG)
        .check()
        .unwrap();
    let version = volary_host::read_to_string(&root.join("usr/share/own/version")).unwrap();
    assert_eq!(version, "1.0\n");
    assert!(root.join("usr/bin").join(NEEDED).exists());
}
