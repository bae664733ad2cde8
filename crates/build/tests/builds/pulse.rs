//! The example service, built for real: in a real chroot, with real dpkg.

use std::fs;
use std::path::PathBuf;

use volary_build::{Built, Phase};
use volary_host::Cmd;

use crate::common::{Attempt, builder, source_of, workspace};

fn deb(built: &Built) -> &PathBuf {
    let named = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("volary-pulse_") && name.ends_with("_amd64.deb")
    };
    built.files.iter().find(named).unwrap()
}

fn unpacked(built: &Built) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    Cmd::new("dpkg-deb").arg("--extract").arg(deb(built)).arg(dir.path()).check().unwrap();
    dir
}

#[test]
fn the_example_becomes_a_package_that_says_what_it_is() {
    let source = source_of("examples/sources/volary-pulse");
    let builder = builder();
    let attempt = Attempt::of(&builder, &source, |_| {});
    let built = attempt.built();
    let short = built.commit.id.short();
    assert_eq!(built.version, format!("1.0.0+git7.20261122.{short}"));
    assert_eq!((built.package.as_str(), built.commit.subject.as_str()), ("volary-pulse", "Say something"));
    let field =
        |name: &str| Cmd::new("dpkg-deb").arg("--field").arg(deb(built)).arg(name).check().unwrap().text();
    assert_eq!(field("Version").trim(), built.version);
    assert!(field("Depends").trim().starts_with("libc6 (>="), "{}", field("Depends"));

    let files = unpacked(built);
    let program = files.path().join("usr/sbin/volary-pulse");
    let said = Cmd::new(&program).arg("--version").check().unwrap().text();
    assert_eq!(said.trim(), format!("volary-pulse {}", built.version));
    for name in ["lib/systemd/system/volary-pulse.service", "etc/volary-pulse.conf"] {
        assert!(files.path().join(name).is_file(), "{name}");
    }
    let changelog = files.path().join("usr/share/doc/volary-pulse/changelog.gz");
    let changelog = Cmd::new("zcat").arg(changelog).check().unwrap().text();
    assert!(
        changelog.contains("  * Say something\n\n -- Ada <ada@example.org>  Sun, 22 Nov 2026 10:00:05 +0000")
    );

    let phases: Vec<Phase> = built.phases.iter().map(|time| time.phase).collect();
    assert_eq!(phases, [Phase::Base, Phase::Unpack, Phase::Dependencies, Phase::Build, Phase::Collect]);
    assert!(built.changes.is_file());
    assert!(attempt.log().contains("all tests passed"));

    // The same commit again is the same package, byte for byte.
    let again = Attempt::of(&builder, &source, |request| request.commit = built.commit.id.clone());
    assert_eq!(fs::read(deb(built)).unwrap(), fs::read(deb(again.built())).unwrap());
}

#[test]
fn the_changes_of_the_example_apply_in_their_order_and_build() {
    let source = source_of("examples/sources/volary-pulse");
    let builder = builder();
    for (number, name) in ["1-feature", "2-fix", "3-leaks", "4-mends", "5-breaks"].into_iter().enumerate() {
        source.commit("before");
        let patch = workspace().join(format!("examples/sources/changes/{name}.patch"));
        source.git(&["apply", "--index", &patch.to_string_lossy()]);
        let attempt = Attempt::of(&builder, &source, |request| request.number = 8 + number as u64);
        let files = unpacked(attempt.built());
        // What dies is the service with the settings that it ships, not its tests.
        let run = Cmd::new(files.path().join("usr/sbin/volary-pulse"))
            .arg("--config")
            .arg(files.path().join("etc/volary-pulse.conf"))
            .args(["--once", "--status", "status"])
            .cwd(files.path())
            .run()
            .unwrap();
        assert_eq!(run.status.success(), name != "5-breaks", "{name}: {run:?}");
    }
}
