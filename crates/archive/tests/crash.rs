//! Every call by which the archive changes a disk, cut: the process is killed where it enters the
//! call, for each call of each operation in turn. After that the archive opens without a hand,
//! `check --deep` finds nothing, it is as it was before or as it is after, and the operation can
//! be done again. Needs strace, which counts the calls and kills.
//!
//! There are some 600 such points, which take minutes. Each run takes one of [`EVERY`] of them, a
//! different one each hour, and `CRASH_EVERY=1` takes all, as `make test-slow` does.
//!
//! Not here: what a power cut takes beyond what a kill takes, which is what was not flushed.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Lab, deb, settings};
use jiff::Timestamp;
use volary_archive::{Archive, KeepPolicy, Pick, Provenance, UploadPolicy};
use volary_debian::release::Release;
use volary_host::Cmd;
use volary_model::Suite;

/// Names the operation that this test binary does when it runs as a child of itself.
const OPERATION: &str = "ARCHIVE_CRASH_OPERATION";
/// Where its folder is.
const FOLDER: &str = "ARCHIVE_CRASH_FOLDER";
/// Of how many points a run takes one, if nobody says otherwise.
const EVERY: usize = 12;

/// A machine under load runs a child in seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Each way to change what is on a disk. Files are made by `openat`, which also reads them; those
/// points are left out, because a file that was only made is as one of which nothing was written.
const CALLS: &str = "write,pwrite64,writev,copy_file_range,sendfile,ftruncate,fallocate,fsync,fdatasync,syncfs,\
                     sync_file_range,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,\
                     rmdir,mkdir,mkdirat,chmod,fchmod,fchmodat,utimensat";

/// The time of all operations, so that each of them always does the same.
fn at() -> Timestamp {
    Timestamp::from_second(1_795_341_600).unwrap()
}

fn later() -> Timestamp {
    Timestamp::from_second(1_795_341_600 + 90 * 24 * 3600).unwrap()
}

/// What a child does.
fn operate(operation: &str, folder: &Path) {
    let dir = folder.join("archive");
    let debs = |names: &[&str]| names.iter().map(|name| folder.join(name)).collect::<Vec<PathBuf>>();
    let include = |archive: &Archive, names: &[&str]| {
        archive.include(&debs(names), &Provenance::default(), &UploadPolicy::Refuse, at()).unwrap();
    };
    if operation == "create" {
        match Archive::create(&dir, &settings(), at()) {
            Err(volary_archive::Error::Exists(_)) => {}
            created => drop(created.unwrap()),
        }
        return;
    }
    let archive = Archive::open(&dir).unwrap();
    let release = "v1".parse().unwrap();
    match operation {
        "include" => include(&archive, &["new.deb"]),
        "include-many" => {
            let names: Vec<String> = (0..9).map(|number| format!("many{number}.deb")).collect();
            include(&archive, &names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        "cut" => match archive.cut(&"v2".parse().unwrap(), at()) {
            Err(volary_archive::Error::ReleaseExists(_)) => {}
            cut => drop(cut.unwrap()),
        },
        "pick" => {
            let pick: Pick = "hello".parse().unwrap();
            archive.pick(&release, &[pick], false, at()).unwrap();
        }
        "freeze" => drop(archive.freeze(&release, at()).unwrap()),
        "configure" => archive.configure(|settings| settings.valid_days = Some(7), at()).unwrap(),
        "collect" => {
            let policy = KeepPolicy { versions: 1, ..KeepPolicy::default() };
            archive.collect(&policy, false, later()).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// An archive with a package in two versions, a release with the older one, and packages to come.
fn template() -> tempfile::TempDir {
    let lab = Lab::new();
    let dir = lab.dir.path();
    lab.add("gone", "1.0", "amd64", "");
    lab.add("gone", "2.0", "amd64", "");
    lab.add("gone", "3.0", "amd64", "");
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&"v1".parse().unwrap(), at()).unwrap();
    lab.add("hello", "2.0", "amd64", "Depends: world (>= 1)\n");
    lab.add("world", "1.0", "all", "");
    let made =
        |name: &str, to: String| std::fs::rename(deb(dir, name, "3.0", "amd64", ""), dir.join(to)).unwrap();
    made("hello", "new.deb".to_owned());
    for number in 0..9 {
        made(&format!("many{number}"), format!("many{number}.deb"));
    }
    lab.dir
}

/// All that a reader can learn of the archive; nothing if there is none yet.
fn state(folder: &Path) -> Option<String> {
    let dir = folder.join("archive");
    if !dir.join("archive.json").exists() {
        return None;
    }
    let archive = Archive::open(&dir).expect("an archive opens whenever it was left");
    let report = archive.check(true, at()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let mut text = format!("{:?}\n{} packages\n", archive.settings().unwrap(), report.packages);
    let mut suites = vec![Suite::Rolling];
    for release in archive.releases().unwrap() {
        text += &format!("{} frozen {}\n", release.name, release.frozen_at.is_some());
        let revisions = release.revisions.iter();
        suites.extend(
            revisions.map(|revision| format!("{}/{}", release.name, revision.revision).parse().unwrap()),
        );
    }
    for suite in suites {
        text += &format!("{suite} {}\n", archive.suite_digest(&suite).unwrap());
        // What is settled is published too, but for the times.
        let path = archive.public_dir().join(format!("dists/{suite}/InRelease"));
        let release = Release::parse(&volary_host::read_to_string(&path).unwrap()).unwrap();
        for (name, value) in release.fields.fields() {
            let value = if ["Date", "Valid-Until"].contains(&name) { "some time" } else { value };
            text += &format!("  {name}: {value}\n");
        }
    }
    Some(text)
}

fn copy(from: &Path, to: &Path) {
    Cmd::new("cp").args(["-a", "--"]).args([from, to]).check().unwrap();
}

/// Runs an operation under strace, which counts the calls, or kills at one of them.
fn run(operation: &str, folder: &Path, log: &Path, inject: Option<&str>) -> bool {
    let mut strace = Cmd::new("strace").arg("-f").arg("-qq").arg("-o").arg(log);
    strace = strace.arg("-e").arg(format!("trace={CALLS}"));
    if let Some(inject) = inject {
        strace = strace.arg("-e").arg(format!("inject={inject}"));
    }
    let test = "an_operation_cut_at_any_call_leaves_before_or_after";
    strace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads", "1"])
        .env(OPERATION, operation)
        .env(FOLDER, folder)
        .timeout(PATIENCE)
        .check()
        .is_ok()
}

/// How often each call was made by the thread that made the most of them: strace counts by thread.
fn counts(log: &Path) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in volary_host::read_to_string(log).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        let Some((name, _)) = call.split_once('(') else { continue };
        *counts.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((name, _), count) in counts {
        let entry = most.entry(name).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

/// Of how many points to take one.
fn every() -> usize {
    std::env::var("CRASH_EVERY").map_or(EVERY, |text| text.parse().expect("CRASH_EVERY is a number"))
}

/// Cuts one operation at each of its calls, or at some of them; returns how many calls it has.
fn cut_everywhere(operation: &str, template: &Path) -> usize {
    let work = tempfile::tempdir().unwrap();
    let fresh = |name: &str| {
        let folder = work.path().join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        copy(template, &folder);
        folder
    };
    let log = work.path().join("log");
    let folder = fresh("whole");
    let before = state(&folder);
    assert!(run(operation, &folder, &log, None), "{operation} fails without being cut");
    let after = state(&folder);
    assert_ne!(before, after, "{operation} changes nothing");
    let hour = Timestamp::now().as_second() as usize / 3600;
    let mut points = 0;
    for (call, count) in counts(&log) {
        for number in 1..=count {
            points += 1;
            if !(points + hour).is_multiple_of(every()) {
                continue;
            }
            let folder = fresh("cut");
            let ended = run(operation, &folder, &log, Some(&format!("{call}:signal=KILL:when={number}")));
            let found = state(&folder);
            let point = format!("{operation}, killed at {call} number {number}");
            assert!(found == before || found == after, "{point}: neither before nor after:\n{found:?}");
            assert!(found == after || !ended, "{point}: it ended, and nothing happened");
            operate(operation, &folder);
            assert_eq!(state(&folder), after, "{point}: doing it again does not lead to the same");
        }
    }
    points
}

#[test]
fn an_operation_cut_at_any_call_leaves_before_or_after() {
    if let Some(operation) = std::env::var_os(OPERATION) {
        let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
        return operate(operation.to_str().unwrap(), &folder);
    }
    let template = template();
    let empty = tempfile::tempdir().unwrap();
    let mut points = 0;
    for operation in ["include", "include-many", "cut", "pick", "freeze", "configure", "collect"] {
        points += cut_everywhere(operation, template.path());
    }
    points += cut_everywhere("create", empty.path());
    assert!(points > 100, "only {points} points");
    println!("{points} points, one of {} taken", every());
}
