//! Builders that run side by side, are killed, or lack something.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use volary_build::{Builder, BuilderConfig, Isolation, SetupError, default_cache};
use volary_host::Cmd;

use crate::common::{Attempt, builder, package};
use crate::failures::running;

const CHILD: &str = "VOLARY_TEST_BUILDER_TO_KILL";

#[test]
fn builds_run_side_by_side() {
    let builder = builder();
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let builder = builder.clone();
            std::thread::spawn(move || {
                // Different dependencies, so that all of them install, and share what they download.
                let extra = ["dh-exec", "bc", "time"][number];
                let source = package("twin", &format!("debhelper-compat (= 13), {extra}"), "sleep 1");
                Attempt::of(&builder, &source, |_| {}).built().version.clone()
            })
        })
        .collect();
    for thread in threads {
        assert!(thread.join().unwrap().starts_with("1.0+git7."));
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} does not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn leftovers(name: &str) -> usize {
    let work = default_cache().join("build/work");
    fs::read_dir(work)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .count()
}

#[test]
fn a_killed_builder_leaves_nothing_running_and_nothing_behind() {
    let recipe = "sleep 7777.32";
    let build = || {
        let source = package("victim", "debhelper-compat (= 13)", recipe);
        Attempt::of(&builder(), &source, |request| request.source = "victim".parse().unwrap())
    };
    if std::env::var_os(CHILD).is_some() {
        build();
        return;
    }
    let mut child = Cmd::new(std::env::current_exe().unwrap())
        .args(["--exact", "trouble::a_killed_builder_leaves_nothing_running_and_nothing_behind"])
        .env(CHILD, "1")
        .into_std()
        .spawn()
        .unwrap();
    wait_for("the build", || running("sleep\u{0}7777.32") == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of the build", || running("sleep\u{0}7777.32") == 0);
    assert!(leftovers("victim") > 0, "what is left is what the next builder must find");
    // What held the mounts is gone with its namespace, so that the folder can be removed.
    wait_for("the removal", || {
        Builder::open(BuilderConfig::default()).unwrap();
        leftovers("victim") == 0
    });
}

#[test]
fn a_suite_that_does_not_exist_is_said_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = BuilderConfig {
        cache: dir.path().to_owned(),
        mirrors: vec![format!("deb [trusted=yes] copy:{} ./", dir.path().display())],
        suite: "nosuch".to_owned(),
        ..BuilderConfig::default()
    };
    let builder = Builder::open(config).unwrap();
    let error = builder.prepare(volary_build::Renewal::WhenOld, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SetupError::Base { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("cannot make the nosuch-amd64 chroot with mmdebstrap: "),
        "{error}"
    );
    let left = fs::read_dir(dir.path().join("build/work")).unwrap().count();
    assert_eq!(left, 0, "a chroot that was not made leaves nothing");
}

#[test]
fn a_full_disk_is_named_before_anything_is_lost() {
    if Isolation::here() != Isolation::Root {
        return; // Only root can mount a small disk.
    }
    let dir = tempfile::tempdir().unwrap();
    let small = Mounted::tmpfs(dir.path(), "20m");
    let config = BuilderConfig { cache: small.0.to_owned(), ..BuilderConfig::default() };
    let builder = Builder::open(config).unwrap();
    let error = builder.prepare(volary_build::Renewal::WhenOld, &mut |_| {}).unwrap_err();
    assert!(matches!(error, SetupError::DiskFull { free_mib: 0..=20, .. }), "{error:?}");
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(path: &'a Path, size: &str) -> Self {
        let options = format!("size={size}");
        Cmd::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).check().unwrap();
        Self(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg(self.0).run();
    }
}
