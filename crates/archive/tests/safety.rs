//! Crashes, full disks and many hands: the old suite or the new one, and nothing lost.

mod common;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Apt, Http, Lab, now};
use volary_archive::{Archive, Provenance, UploadPolicy};
use volary_debian::release::Release;
use volary_host::Cmd;
use volary_model::Suite;

/// Names the work that this test binary does when it runs as a child of itself.
const ROLE: &str = "ARCHIVE_TEST_CHILD";

fn child(test: &str, role: &str, archive: &Path, debs: &Path) -> std::process::Child {
    Cmd::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .env("ARCHIVE_DIR", archive)
        .env("DEB_DIR", debs)
        .into_std()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn debs_in(dir: &Path) -> Vec<PathBuf> {
    let mut debs: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    debs.sort();
    debs
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
/// What a child does: includes each package and says so when it is acknowledged.
fn include_all() {
    let dir = PathBuf::from(std::env::var_os("ARCHIVE_DIR").unwrap());
    let archive = Archive::open(&dir).unwrap();
    for deb in debs_in(&PathBuf::from(std::env::var_os("DEB_DIR").unwrap())) {
        let included = archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, now()).unwrap();
        for entry in included.added.iter().chain(&included.known) {
            // Its own line, written at once: the parent counts what was acknowledged.
            println!("\nacknowledged {}", entry.sha256.hex());
        }
    }
}

fn acknowledged(output: &str) -> BTreeSet<String> {
    output.lines().filter_map(|line| line.strip_prefix("acknowledged ")).map(str::to_owned).collect()
}

fn sha256(path: &Path) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(volary_host::read(path).unwrap());
    volary_model::Digest::from_bytes(hash.into()).hex()
}

/// Every file that the InRelease of a suite names is there by its hash, with its hash and size.
fn check_whole(public: &Path, suite: &str) {
    let dir = public.join("dists").join(suite);
    let release = Release::parse(&volary_host::read_to_string(&dir.join("InRelease")).unwrap()).unwrap();
    for (path, file) in &release.files {
        let (folder, name) = path.rsplit_once('/').unwrap();
        if name == "Packages" {
            continue;
        }
        let path = dir.join(folder).join("by-hash/SHA256").join(&file.sha256);
        assert_eq!(sha256(&path), file.sha256, "{}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file.size);
    }
}

fn check_pool(archive: &Archive, suite: &Suite) {
    for entry in archive.packages(suite).unwrap() {
        let path = archive.public_dir().join(entry.filename());
        assert_eq!(sha256(&path), entry.sha256.hex(), "{}", path.display());
    }
}

#[test]
fn a_publisher_killed_at_any_moment_loses_nothing() {
    if std::env::var_os(ROLE).is_some() {
        return include_all();
    }
    let lab = Lab::new();
    let debs = lab.dir.path().join("debs");
    std::fs::create_dir(&debs).unwrap();
    for number in 0..24 {
        common::deb(&debs, &format!("package-{number:02}"), "1.0", "amd64", "");
    }
    let mut safe: BTreeSet<String> = BTreeSet::new();
    let mut rounds = 0;
    let mut delay = Duration::from_millis(15);
    let whole = loop {
        let mut running =
            child("a_publisher_killed_at_any_moment_loses_nothing", "killed", &lab.path(), &debs);
        let started = Instant::now();
        let ended = loop {
            if let Some(status) = running.try_wait().unwrap() {
                break Some(status);
            }
            if started.elapsed() >= delay {
                running.kill().unwrap();
                running.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut output = String::new();
        running.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        safe.extend(acknowledged(&output));
        check_whole(lab.archive.public_dir(), "rolling");
        let opened = Archive::open(&lab.path()).unwrap();
        check_whole(opened.public_dir(), "rolling");
        let there: BTreeSet<String> =
            opened.packages(&Suite::Rolling).unwrap().iter().map(|entry| entry.sha256.hex()).collect();
        assert!(there.is_superset(&safe), "an acknowledged package is lost after {rounds} rounds");
        rounds += 1;
        // A fifth longer each time: the child gets to its end however slow the machine is.
        delay += delay / 5;
        if ended.is_some_and(|status| status.success()) {
            break there;
        }
        assert!(rounds < 200, "the child never comes to its end");
    };
    assert_eq!(whole.len(), 24);
    assert!(rounds > 5, "only {rounds} rounds: the child was hardly ever killed");
    check_pool(&Archive::open(&lab.path()).unwrap(), &Suite::Rolling);
    let http = Http::new(lab.archive.public_dir());
    Apt::new(&http.uri, "rolling", lab.archive.public_key()).update();
}

#[test]
fn many_processes_and_threads_lose_nothing() {
    if std::env::var_os(ROLE).is_some() {
        return include_all();
    }
    let lab = Lab::new();
    let folders: Vec<PathBuf> = (0..3).map(|number| lab.dir.path().join(format!("debs-{number}"))).collect();
    for (number, folder) in folders.iter().enumerate() {
        std::fs::create_dir(folder).unwrap();
        for package in 0..8 {
            common::deb(folder, &format!("package-{number}-{package}"), "1.0", "amd64", "");
        }
        // One that all of them bring.
        common::deb(folder, "shared", "1.0", "all", "");
    }
    let shared = std::fs::read(debs_in(&folders[0]).pop().unwrap()).unwrap();
    for folder in &folders[1..] {
        volary_host::write_atomic(&debs_in(folder).pop().unwrap(), &shared, 0o644).unwrap();
    }
    let test = "many_processes_and_threads_lose_nothing";
    let children: Vec<_> = folders.iter().map(|folder| child(test, "many", &lab.path(), folder)).collect();
    let threads: Vec<PathBuf> =
        (0..2).map(|number| lab.deb(&format!("thread-{number}"), "1.0", "amd64", "")).collect();
    std::thread::scope(|scope| {
        for deb in &threads {
            scope.spawn(|| lab.include(std::slice::from_ref(deb)).unwrap());
        }
    });
    for running in children {
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(acknowledged(&String::from_utf8_lossy(&output.stdout)).len(), 9);
    }
    assert_eq!(lab.list("rolling").len(), 3 * 8 + 1 + 2);
    assert_eq!(Archive::open(&lab.path()).unwrap().packages(&Suite::Rolling).unwrap().len(), 27);
    check_whole(lab.archive.public_dir(), "rolling");
}

#[test]
fn one_call_brings_more_files_than_may_be_open() {
    let test = "one_call_brings_more_files_than_may_be_open";
    if let Some(dir) = std::env::var_os("ARCHIVE_DIR") {
        let archive = Archive::open(Path::new(&dir)).unwrap();
        let debs = debs_in(&PathBuf::from(std::env::var_os("DEB_DIR").unwrap()));
        archive.include(&debs, &Provenance::default(), &UploadPolicy::Refuse, now()).unwrap();
        return;
    }
    let lab = Lab::new();
    let debs = lab.dir.path().join("debs");
    std::fs::create_dir(&debs).unwrap();
    for number in 0..80 {
        common::deb(&debs, &format!("package-{number}"), "1.0", "amd64", "");
    }
    Cmd::new("sh")
        .args(["-c", "ulimit -n 40; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("ARCHIVE_DIR", lab.path())
        .env("DEB_DIR", &debs)
        .check()
        .unwrap();
    assert_eq!(lab.list("rolling").len(), 80);
    check_pool(&lab.archive, &Suite::Rolling);
}

#[test]
fn open_finishes_what_was_not_published() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let inrelease = lab.archive.public_dir().join("dists/rolling/InRelease");
    let before = volary_host::read(&inrelease).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    // As after a crash between the journal and the last rename, and of the release as well.
    volary_host::write_atomic(&inrelease, &before, 0o644).unwrap();
    std::fs::remove_dir_all(lab.archive.public_dir().join("dists/v1")).unwrap();
    let opened = Archive::open(&lab.path()).unwrap();
    let http = Http::new(opened.public_dir());
    for suite in ["rolling", "v1/r1"] {
        check_whole(opened.public_dir(), suite);
        let apt = Apt::new(&http.uri, suite, opened.public_key());
        apt.update();
        assert_eq!(apt.candidate("hello"), "2.0");
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let lab = Lab::new();
    let mount = lab.dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    Cmd::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(&mount).check().unwrap();
    let _mounted = Mounted(mount.clone());
    let archive = Archive::create(&mount.join("archive"), &common::settings(), now()).unwrap();
    let include =
        |deb: PathBuf| archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, now());
    include(lab.deb("hello", "1.0", "amd64", "")).unwrap();
    // Leaves room for less and less, so that every step meets the full disk once.
    let filler = mount.join("filler");
    let mut refused = 0;
    for room in (0..120_000).step_by(6_000) {
        let free = Cmd::new("df").args(["--output=avail", "-B1"]).arg(&mount).check().unwrap().text();
        let free: usize = free.lines().last().unwrap().trim().parse().unwrap();
        volary_host::write_atomic(&filler, &vec![0; free.saturating_sub(room)], 0o644).unwrap();
        let name = format!("package-{room}");
        let deb = lab.deb(&name, "1.0", "amd64", "");
        match include(deb.clone()) {
            Ok(_) => {}
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("No space left on device"), "{error}");
                assert!(error.to_string().contains(&mount.display().to_string()), "{error}");
            }
        }
        check_whole(archive.public_dir(), "rolling");
        volary_host::remove_if_exists(&filler).unwrap();
        Archive::open(&mount.join("archive")).unwrap();
        // With room again the same upload goes through.
        include(deb).unwrap();
    }
    assert!(refused > 2, "the disk was never full");
    assert_eq!(archive.packages(&Suite::Rolling).unwrap().len(), 21);
    check_whole(archive.public_dir(), "rolling");
    check_pool(&archive, &Suite::Rolling);
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg("-l").arg(&self.0).run();
    }
}

#[test]
fn readers_in_mid_update_never_miss_a_file() {
    let lab = Lab::new();
    lab.add("hello", "0", "amd64", "");
    let dir = lab.archive.public_dir().join("dists/rolling");
    let old = volary_host::read_to_string(&dir.join("InRelease")).unwrap();
    for version in 1..30 {
        lab.add("hello", &version.to_string(), "amd64", "");
    }
    // A client that read InRelease thirty publishes ago still finds what it names.
    for (path, file) in &Release::parse(&old).unwrap().files {
        let (folder, name) = path.rsplit_once('/').unwrap();
        assert!(name == "Packages" || dir.join(folder).join("by-hash/SHA256").join(&file.sha256).is_file());
    }
}

#[test]
fn the_date_never_goes_back_or_runs_ahead() {
    let lab = Lab::new();
    let path = lab.archive.public_dir().join("dists/rolling/InRelease");
    let mut last = (now(), std::time::SystemTime::UNIX_EPOCH);
    for (number, ahead) in [0, 0, 0, -3600, 5].into_iter().enumerate() {
        let clock = now() + jiff::SignedDuration::from_secs(ahead);
        let deb = lab.deb("hello", &number.to_string(), "amd64", "");
        lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, clock).unwrap();
        let release = Release::parse(&volary_host::read_to_string(&path).unwrap()).unwrap();
        let date = release.date().unwrap().unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        if number > 0 {
            assert!(date >= last.0, "Date goes back");
            assert!(modified >= last.1 + Duration::from_secs(1), "a client would not ask again");
        }
        assert!(date <= now() + jiff::SignedDuration::from_secs(6));
        last = (date, modified);
    }
}
