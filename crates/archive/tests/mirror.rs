//! Mirrors: from another archive into rolling and into releases, against trees of aptly and
//! reprepro, with bad links, crashes and tampered files.

mod common;
mod foreign;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Http, Lab, now};
use foreign::{Blind, Foreign, edit, simulate, write};
use volary_archive::upstream::{
    Fetch, FetchError, Filter, Folder, Import, Imported, Keyring, Link, NamePattern, Opened, Patience,
    Reason, Spec, Step, Sync, Synced, Trust, UpstreamError, Watch,
};
use volary_archive::{Archive, Error};
use volary_host::Cmd;
use volary_model::{Component, Suite};

const PATIENCE: Patience = Patience { attempts: 3, pause: Duration::ZERO };

fn debian() -> Component {
    "debian".parse().unwrap()
}

fn spec(packages: &[&str]) -> Spec {
    let packages: Vec<NamePattern> = packages.iter().map(|name| name.parse().unwrap()).collect();
    Spec {
        suite: "stable".to_owned(),
        components: vec!["main".to_owned()],
        architectures: vec!["amd64".parse().unwrap(), "arm64".parse().unwrap()],
        languages: Vec::new(),
        filter: Filter { closure: !packages.is_empty(), packages, ..Filter::default() },
    }
}

fn sync_over(
    archive: &Archive,
    fetch: &dyn Fetch,
    trust: &Trust,
    watch: &dyn Watch,
    spec: &Spec,
) -> Result<Synced, Error> {
    let link = Link { fetch, trust, watch, patience: PATIENCE, parallel: 2 };
    archive.sync(&Sync { mirror: &debian(), spec, link, now: now() })
}

fn sync(archive: &Archive, root: &Path, trust: &Trust, spec: &Spec) -> Result<Synced, Error> {
    sync_over(archive, &Folder::new(root), trust, &Blind, spec)
}

/// The packages of a suite as `component: name version (architecture)`.
fn list(archive: &Archive, suite: &str) -> Vec<String> {
    let packages = archive.packages(&suite.parse().unwrap()).unwrap();
    packages.iter().map(|entry| format!("{}: {entry}", entry.component)).collect()
}

fn rolling_digest(archive: &Archive) -> volary_model::Digest {
    archive.suite_digest(&Suite::Rolling).unwrap()
}

/// A tree with an application, its library, its data, and something else.
fn some_debs(lab: &Lab, version: &str) -> Vec<PathBuf> {
    let mut debs = vec![lab.deb("app-data", version, "all", ""), lab.deb("other", version, "amd64", "")];
    for architecture in ["amd64", "arm64"] {
        let needs = format!("Depends: libapp (= {version}), app-data\n");
        debs.push(lab.deb("app", version, architecture, &needs));
        debs.push(lab.deb("libapp", version, architecture, "Source: app\n"));
    }
    debs
}

fn all_of(version: &str) -> Vec<String> {
    let all =
        [("app-data", "all"), ("app", "amd64"), ("app", "arm64"), ("libapp", "amd64"), ("libapp", "arm64")];
    let mut all: Vec<String> =
        all.iter().map(|(name, of)| format!("debian: {name} {version} ({of})")).collect();
    all.sort_by_key(|line| line.replace(' ', "\0"));
    all
}

#[test]
fn a_release_is_the_whole_system() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab, "1.0"));
    let trust = foreign.trust();
    lab.add("own", "1.0", "amd64", "Depends: app (>= 1.0)\n");
    let synced = sync(&lab.archive, &root, &trust, &spec(&["app"])).unwrap();
    assert_eq!((synced.is_new, synced.added, synced.removed, synced.packages), (true, 5, 0, 5));
    assert_eq!((synced.unfulfilled.len(), synced.left_out.len()), (0, 0));
    let reason = &synced.reasons[&("libapp".parse().unwrap(), "arm64".parse().unwrap())];
    assert!(matches!(reason, Reason::Needed { by, .. } if by.as_str() == "app"), "{reason:?}");
    let with_own = |mut all: Vec<String>| {
        all.push("main: own 1.0 (amd64)".to_owned());
        all
    };
    assert_eq!(list(&lab.archive, "rolling"), with_own(all_of("1.0")));
    let cut = lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    // The other archive goes on; the release stays as it is.
    let later = foreign.aptly(&some_debs(&lab, "2.0"));
    let synced = sync(&lab.archive, &later, &trust, &spec(&["app"])).unwrap();
    assert_eq!((synced.added, synced.removed, synced.packages), (5, 5, 5));
    assert_eq!(list(&lab.archive, "rolling"), with_own(all_of("2.0")));
    assert_eq!(list(&lab.archive, "v1/r1"), with_own(all_of("1.0")));
    let origin = lab.archive.mirror(&debian()).unwrap().unwrap().origin;
    assert_eq!((origin.url, origin.suite.as_str()), (later.display().to_string(), "stable"));
    // The same again: nothing is published.
    let before = rolling_digest(&lab.archive);
    assert!(!sync(&lab.archive, &later, &trust, &spec(&["app"])).unwrap().is_new);
    // The journal leads to the same.
    let again = Archive::open(&lab.path()).unwrap();
    assert_eq!(rolling_digest(&again), before);
    assert_eq!(again.release(&"v1".parse().unwrap()).unwrap().latest().digest, cut.latest().digest);
    assert!(again.check(true, now()).unwrap().problems.is_empty());
    // A real apt installs the own package with what it needs, from the release alone.
    let http = Http::new(lab.archive.public_dir());
    let installed = simulate(&http.uri, "v1/r1", "main debian", &lab.archive.public_key(), &["own"]);
    assert_eq!(installed, ["app 1.0", "app-data 1.0", "libapp 1.0", "own 1.0"]);
}

#[test]
fn apt_installs_every_package_of_a_closure() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let debs = [
        lab.deb("top", "1", "amd64", "Pre-Depends: base (>= 2)\nDepends: ghost | real, virtual-mail\n"),
        lab.deb("base", "2", "amd64", "Depends: abi-3\n"),
        lab.deb("real", "1", "all", "Depends: real-two (<< 2~) | base\n"),
        lab.deb("real-two", "1.9", "all", ""),
        lab.deb("mailer", "1", "amd64", "Provides: virtual-mail\nDepends: base\n"),
        lab.deb("far", "1", "amd64", "Depends: base\n"),
        lab.deb("libabi3", "3", "amd64", "Provides: abi-3 (= 3.1)\n"),
    ];
    let root = foreign.reprepro(&debs);
    let whole = simulate_tree(&root, &foreign, &["top"]);
    let synced = sync(&lab.archive, &root, &foreign.trust(), &spec(&["top"])).unwrap();
    assert!(synced.unfulfilled.is_empty());
    let http = Http::new(lab.archive.public_dir());
    let ours = simulate(&http.uri, "rolling", "main debian", &lab.archive.public_key(), &["top"]);
    // apt chooses the same out of our part as out of the whole.
    assert_eq!(ours, whole);
    assert_eq!(synced.packages, ours.len(), "nothing is there that apt would not install");
}

fn simulate_tree(root: &Path, foreign: &Foreign, packages: &[&str]) -> Vec<String> {
    let http = Http::new(root);
    let key = String::from_utf8(foreign.key(true)).unwrap();
    simulate(&http.uri, "stable", "main", &key, packages)
}

/// A folder behind a bad link: counts what it sends, and breaks off after so many bytes each time.
struct BadLink {
    folder: Folder,
    each: u64,
    sent: AtomicU64,
}

impl BadLink {
    fn new(root: &Path, each: u64) -> Self {
        Self { folder: Folder::new(root), each, sent: AtomicU64::new(0) }
    }
}

impl Fetch for BadLink {
    fn place(&self) -> String {
        self.folder.place()
    }

    fn open(&self, path: &str, from: u64, size: u64) -> Result<Option<Opened>, FetchError> {
        use std::io::Read as _;
        let Some(opened) = self.folder.open(path, from, size)? else { return Ok(None) };
        // Small ones come as a whole: who asks for a Release file does not go on in its middle.
        let each = if path.ends_with(".deb") { self.each } else { u64::MAX };
        let mut bytes = Vec::new();
        opened.reader.take(each).read_to_end(&mut bytes).unwrap();
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some(Opened { from, reader: Box::new(std::io::Cursor::new(bytes)) }))
    }
}

#[test]
fn a_link_that_breaks_off_costs_nothing_twice() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab, "1.0"));
    let whole = BadLink::new(&root, u64::MAX);
    sync_over(&Lab::new().archive, &whole, &foreign.trust(), &Blind, &spec(&[])).unwrap();
    let bad = BadLink::new(&root, 100);
    let synced = sync_over(&lab.archive, &bad, &foreign.trust(), &Blind, &spec(&[])).unwrap();
    assert_eq!(synced.packages, 6);
    assert_eq!(bad.sent.into_inner(), whole.sent.into_inner());
}

/// Ends a sync after so many bytes of packages.
struct Stopper {
    limit: u64,
    bytes: AtomicU64,
}

impl Watch for Stopper {
    fn step(&self, step: Step) {
        if !matches!(step, Step::Reading) {
            self.bytes.store(0, Ordering::Relaxed);
        }
    }

    fn fetched(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn whole(&self) {}

    fn is_stopped(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.limit
    }
}

#[test]
fn an_interrupted_sync_leaves_the_old_state_and_goes_on() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab, "1.0"));
    let trust = foreign.trust();
    sync(&lab.archive, &root, &trust, &spec(&[])).unwrap();
    let before = rolling_digest(&lab.archive);
    let root = foreign.aptly(&some_debs(&lab, "2.0"));
    let stopper = Stopper { limit: 2500, bytes: AtomicU64::new(0) };
    let error = sync_over(&lab.archive, &BadLink::new(&root, 100), &trust, &stopper, &spec(&[])).unwrap_err();
    assert!(matches!(error, Error::Upstream(UpstreamError::Stopped)), "{error}");
    assert_eq!(rolling_digest(&lab.archive), before);
    let fresh = BadLink::new(&root, u64::MAX);
    sync_over(&Lab::new().archive, &fresh, &trust, &Blind, &spec(&[])).unwrap();
    let resumed = BadLink::new(&root, u64::MAX);
    let synced = sync_over(&lab.archive, &resumed, &trust, &Blind, &spec(&[])).unwrap();
    assert_eq!((synced.added, synced.removed), (6, 6));
    assert!(resumed.sent.into_inner() + 2000 < fresh.sent.into_inner(), "it went on where it was");
}

/// Names the work that this test binary does when it runs as a child of itself.
const ROLE: &str = "MIRROR_TEST_CHILD";

#[test]
fn a_kill_at_any_time_leaves_the_old_state_or_the_new() {
    if std::env::var_os(ROLE).is_some() {
        let dir = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
        let archive = Archive::open(&dir("ARCHIVE_DIR")).unwrap();
        let trust = Trust::Keys(Keyring::read(&volary_host::read(&dir("KEY")).unwrap()).unwrap());
        let slow = BadLink::new(&dir("TREE"), 50);
        sync_over(&archive, &slow, &trust, &Blind, &spec(&[])).unwrap();
        return;
    }
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let key = lab.dir.path().join("key");
    write(&key, foreign.key(false));
    sync(&lab.archive, &foreign.aptly(&some_debs(&lab, "1.0")), &foreign.trust(), &spec(&[])).unwrap();
    let old = rolling_digest(&lab.archive);
    let root = foreign.aptly(&some_debs(&lab, "2.0"));
    let other = Lab::new();
    let mut kills = 0;
    for step in 0.. {
        let mut child = Cmd::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_kill_at_any_time_leaves_the_old_state_or_the_new"])
            .env(ROLE, "sync")
            .env("ARCHIVE_DIR", lab.path())
            .env("TREE", &root)
            .env("KEY", &key)
            .into_std()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each child gets a little longer than the one before, until one comes through.
        let end = Instant::now() + Duration::from_millis(5 * step);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        let came_through = child.wait().unwrap().success();
        let archive = Archive::open(&lab.path()).unwrap();
        assert!(archive.check(true, now()).unwrap().problems.is_empty());
        if came_through || rolling_digest(&archive) != old {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "no child was killed before its end");
    sync(&lab.archive, &root, &foreign.trust(), &spec(&[])).unwrap();
    sync(&other.archive, &root, &foreign.trust(), &spec(&[])).unwrap();
    assert_eq!(list(&lab.archive, "rolling"), list(&other.archive, "rolling"));
}

#[test]
fn what_was_tampered_with_does_not_come_in() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.reprepro(&some_debs(&lab, "1.0"));
    let before = rolling_digest(&lab.archive);
    let refused = |trust: &Trust, expected: &str| {
        let error = sync(&lab.archive, &root, trust, &spec(&["app"])).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(rolling_digest(&lab.archive), before);
        assert!(lab.archive.mirror(&debian()).unwrap().is_none());
    };
    refused(&Foreign::new("ed25519").trust(), "none of the 1 keys");
    let deb = root.join("pool/main/a/app/app_1.0_amd64.deb");
    let good = volary_host::read(&deb).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    write(&deb, &bad);
    refused(&foreign.trust(), "app_1.0_amd64.deb has SHA-256");
    write(&deb, &good[..good.len() - 1]);
    refused(&foreign.trust(), "it ended after");
    fs::remove_file(&deb).unwrap();
    refused(&foreign.trust(), "does not have it");
    write(&deb, &good);
    sync(&lab.archive, &root, &foreign.trust(), &spec(&["app"])).unwrap();
    assert_eq!(list(&lab.archive, "rolling"), all_of("1.0"));
    // Somebody replays yesterday's state, which was well signed.
    let suite = root.join("dists/stable");
    let old = lab.dir.path().join("yesterday");
    Cmd::new("cp").arg("-a").args([&suite, &old]).check().unwrap();
    let date = |path: &Path| {
        let text = volary_host::read_to_string(&path.join("Release")).unwrap();
        text.lines().find(|line| line.starts_with("Date: ")).unwrap().to_owned()
    };
    let hours = |hours| volary_debian::release::format_date(now() + jiff::SignedDuration::from_hours(hours));
    edit(&old.join("Release"), &date(&old), &format!("Date: {}", hours(-24)));
    foreign.sign(&old);
    fs::remove_dir_all(&suite).unwrap();
    fs::rename(&old, &suite).unwrap();
    let error = sync(&lab.archive, &root, &foreign.trust(), &spec(&["app"])).unwrap_err().to_string();
    assert!(error.contains("went back in time"), "{error}");
    assert_eq!(list(&lab.archive, "rolling"), all_of("1.0"));
}

#[test]
fn an_index_cannot_pass_a_package_off_as_another() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.reprepro(&[lab.deb("evil", "1.0", "amd64", ""), lab.deb("good", "1.0", "amd64", "")]);
    // Signed and hashed as it should be, but the index lies about what the file is.
    let suite = root.join("dists/stable");
    let index = suite.join("main/binary-amd64/Packages");
    edit(&index, "Package: evil\n", "Package: nice\n");
    fs::remove_file(suite.join("main/binary-amd64/Packages.gz")).unwrap();
    let release = suite.join("Release");
    let text = volary_host::read_to_string(&release).unwrap();
    let sum = Cmd::new("sha256sum").arg(&index).check().unwrap().text();
    let plain = text.lines().rfind(|line| line.ends_with("main/binary-amd64/Packages")).unwrap();
    let gz = text.lines().rfind(|line| line.ends_with("main/binary-amd64/Packages.gz")).unwrap();
    let size = fs::metadata(&index).unwrap().len();
    let new = format!(" {} {size} main/binary-amd64/Packages", &sum[..64]);
    write(&release, text.replace(&format!("{gz}\n"), "").replace(plain, &new));
    foreign.sign(&suite);
    let synced = sync(&lab.archive, &root, &foreign.trust(), &spec(&[])).unwrap();
    assert_eq!(list(&lab.archive, "rolling"), ["debian: good 1.0 (amd64)"]);
    assert_eq!(synced.left_out, ["nice 1.0 (amd64): the file is evil 1.0 (amd64)"]);
}

#[test]
fn own_packages_come_first() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    lab.add("libapp", "1.0", "amd64", "");
    let mut debs = some_debs(&lab, "1.0");
    let same = lab.deb("same", "1.0", "all", "");
    lab.include(std::slice::from_ref(&same)).unwrap();
    debs.push(same);
    let root = foreign.aptly(&debs);
    let synced = sync(&lab.archive, &root, &foreign.trust(), &spec(&["*"])).unwrap();
    assert_eq!(synced.left_out.len(), 1, "{:?}", synced.left_out);
    assert!(synced.left_out[0].starts_with("libapp 1.0 (amd64): the archive has this version"));
    let rolling = list(&lab.archive, "rolling");
    assert!(rolling.contains(&"main: libapp 1.0 (amd64)".to_owned()));
    assert!(!rolling.contains(&"debian: libapp 1.0 (amd64)".to_owned()));
    // The same content may be in both.
    assert!(rolling.contains(&"main: same 1.0 (all)".to_owned()));
    assert!(rolling.contains(&"debian: same 1.0 (all)".to_owned()));
    let main = Component::main();
    let link = Link {
        fetch: &Folder::new(&root),
        trust: &Trust::Unsigned,
        watch: &Blind,
        patience: PATIENCE,
        parallel: 1,
    };
    let error = lab.archive.sync(&Sync { mirror: &main, spec: &spec(&[]), link, now: now() }).unwrap_err();
    assert!(error.to_string().contains("cannot be named main"), "{error}");
}

#[test]
fn another_filter_is_another_state_and_a_mirror_can_go() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab, "1.0"));
    let trust = foreign.trust();
    let empty = rolling_digest(&lab.archive);
    sync(&lab.archive, &root, &trust, &spec(&["other"])).unwrap();
    assert_eq!(list(&lab.archive, "rolling"), ["debian: other 1.0 (amd64)"]);
    let synced = sync(&lab.archive, &root, &trust, &spec(&["app", "zz*"])).unwrap();
    assert_eq!((synced.added, synced.removed), (5, 1));
    assert_eq!(synced.unmatched, ["zz*".parse().unwrap()]);
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    assert_eq!(lab.archive.drop_mirror(&debian(), now()).unwrap(), 5);
    assert_eq!(rolling_digest(&lab.archive), empty);
    assert!(lab.archive.mirror(&debian()).unwrap().is_none());
    assert_eq!(list(&Archive::open(&lab.path()).unwrap(), "v1/r1"), all_of("1.0"));
    assert_eq!(lab.archive.drop_mirror(&debian(), now()).unwrap(), 0);
    // And come again.
    sync(&lab.archive, &root, &trust, &spec(&["app"])).unwrap();
    assert_eq!(list(&lab.archive, "rolling"), all_of("1.0"));
}

#[test]
fn source_packages_come_with_their_binaries() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let (dsc, deb) = foreign.source(&lab, "app", "1.0");
    foreign.reprepro(&[deb, lab.deb("other", "1.0", "amd64", "")]);
    let root = foreign.reprepro_source(&dsc);
    let mut spec = spec(&["app"]);
    spec.filter.sources = true;
    sync(&lab.archive, &root, &foreign.trust(), &spec).unwrap();
    let sources = lab.archive.sources(&Suite::Rolling).unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(
        (sources[0].to_string().as_str(), sources[0].component.as_str()),
        ("app 1.0 (source)", "debian")
    );
    assert!(lab.archive.check(true, now()).unwrap().problems.is_empty());
    // An import brings them too.
    let other = Lab::new();
    let imported = import(&other.archive, &root, &foreign.trust(), false).unwrap();
    assert_eq!(imported.added, ["app 1.0 (amd64)", "app 1.0 (source)", "other 1.0 (amd64)"]);
    assert_eq!(other.archive.sources(&Suite::Rolling).unwrap().len(), 1);
}

fn import(archive: &Archive, root: &Path, trust: &Trust, dry_run: bool) -> Result<Imported, Error> {
    let link = Link { fetch: &Folder::new(root), trust, watch: &Blind, patience: PATIENCE, parallel: 2 };
    archive.import(&Import { suite: "stable", components: &[], link, by: "alice", dry_run, now: now() })
}

#[test]
fn publications_are_imported_once() {
    let foreign = Foreign::new("rsa3072");
    let maker = Lab::new();
    // aptly has several versions of a package in one suite.
    let mut debs = some_debs(&maker, "1.0");
    debs.extend(some_debs(&maker, "2.0"));
    for (root, count) in [(foreign.aptly(&debs), 12), (foreign.reprepro(&some_debs(&maker, "3.0")), 6)] {
        let lab = Lab::new();
        let empty = rolling_digest(&lab.archive);
        let asked = import(&lab.archive, &root, &foreign.trust(), true).unwrap();
        assert_eq!((asked.added.len(), rolling_digest(&lab.archive)), (count, empty));
        let imported = import(&lab.archive, &root, &foreign.trust(), false).unwrap();
        assert_eq!((&imported.added, imported.known), (&asked.added, 0));
        assert!(imported.left_out.is_empty());
        let newest = if count == 12 { "2.0" } else { "3.0" };
        assert_eq!(lab.list("rolling").iter().filter(|line| line.contains(newest)).count(), 6);
        let entry = &lab.archive.packages(&Suite::Rolling).unwrap()[0];
        let note = entry.provenance.note.clone().unwrap();
        assert!(note.contains(&root.display().to_string()) && note.ends_with("by alice"), "{note}");
        let after = rolling_digest(&lab.archive);
        let again = import(&lab.archive, &root, &foreign.trust(), false).unwrap();
        assert_eq!((again.added.len(), again.known, rolling_digest(&lab.archive)), (0, count, after));
        assert!(lab.archive.check(true, now()).unwrap().problems.is_empty());
    }
}

#[test]
fn an_import_names_what_cannot_come() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab, "1.0"));
    lab.add("app", "1.0", "amd64", "Depends: nothing-else\n");
    lab.add("other", "2.0", "amd64", "");
    let check = |imported: Imported| {
        assert_eq!(imported.added.len(), 4, "{:?}", imported.added);
        let left_out = imported.left_out.join("\n");
        assert_eq!(imported.left_out.len(), 2, "{left_out}");
        assert!(left_out.contains("app 1.0 (amd64) is in the archive with other content"), "{left_out}");
        assert!(left_out.contains("other 1.0 (amd64) is older than 2.0 in rolling"), "{left_out}");
    };
    check(import(&lab.archive, &root, &foreign.trust(), true).unwrap());
    check(import(&lab.archive, &root, &foreign.trust(), false).unwrap());
    let error = import(&lab.archive, &root, &Foreign::new("ed25519").trust(), false).unwrap_err();
    assert!(matches!(error, Error::Upstream(UpstreamError::Signature { .. })), "{error}");
}
