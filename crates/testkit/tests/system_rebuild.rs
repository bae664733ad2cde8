//! A library changes, and what is built with it is built again, because the library's source says
//! so: real builds of the real server, in the order of their needs.

mod common;

use std::time::Duration;

use volary_api::v1::archive::Package;
use volary_api::v1::build::{Build, BuildState};
use volary_testkit::chain::{Chain, Clone};
use volary_testkit::wait_until;

/// A clean chroot may have to be made first.
const PATIENCE: Duration = Duration::from_secs(600);

/// A source whose one package holds what its build put into `data`.
fn write_source(clone: &Clone, name: &str, needs: &str, build: &str) {
    let control = format!(
        "Source: {name}\nSection: misc\nPriority: optional\nMaintainer: Ada <ada@volary.test>\n\
         Build-Depends: debhelper-compat (= 13){needs}\nStandards-Version: 4.6.2\n\
         Rules-Requires-Root: no\n\nPackage: {name}\nArchitecture: all\nDepends: ${{misc:Depends}}\n\
         Description: part of a test\n Nothing to see.\n"
    );
    let changelog = format!(
        "{name} (1.0) bookworm; urgency=medium\n\n  * First.\n\n -- Ada <ada@volary.test>  Sun, 22 Nov 2026 10:00:00 +0000\n"
    );
    let rules = format!("#!/usr/bin/make -f\n%:\n\tdh $@\noverride_dh_auto_build:\n\t{build}\n");
    clone.write("debian/control", &control).unwrap();
    clone.write("debian/changelog", &changelog).unwrap();
    clone.write("debian/rules", &rules).unwrap();
    clone.write("debian/source/format", "3.0 (native)\n").unwrap();
    clone.write("debian/install", &format!("data usr/share/{name}\n")).unwrap();
    clone.run_git(&["update-index", "--add", "--chmod=+x", "debian/rules"]).unwrap();
}

fn builds(chain: &Chain, source: &str) -> Vec<Build> {
    chain.desk().json(&["build", "list", "--source", source]).unwrap()
}

/// Waits until so many builds of a source ended; gives the newest, which must be a good one.
fn newest(chain: &Chain, source: &str, count: usize) -> Build {
    wait_until(&format!("{count} builds of {source}"), PATIENCE, || {
        let mut builds = builds(chain, source);
        builds.sort_by_key(|build| build.id);
        match builds.pop() {
            Some(last) if builds.len() + 1 == count && last.ended_at.is_some() => Ok(last),
            last => Err(format!("{} and {:?}", builds.len(), last.map(|build| build.state))),
        }
    })
    .inspect(|build| {
        let log = || chain.volary(&["build", "log", &build.id.to_string()]).unwrap_or_default();
        assert_eq!(build.state, BuildState::Succeeded, "{:?}\n{}", build.reason, log());
    })
    .unwrap()
}

/// What the package of a source in rolling holds.
fn data(chain: &Chain, source: &str) -> String {
    let packages: Vec<Package> = chain.desk().json(&["archive", "list"]).unwrap();
    let newest = packages.iter().find(|package| package.name.as_str() == source).unwrap();
    let hex = newest.sha256.hex();
    let deb = chain.folder().join(format!("archive/public/pool/sha256/{}/{hex}.deb", &hex[..2]));
    let folder = tempfile::tempdir().unwrap();
    chain.command("dpkg-deb").arg("--extract").args([&deb, folder.path()]).check().unwrap();
    volary_host::read_to_string(&folder.path().join(format!("usr/share/{source}/data"))).unwrap()
}

#[test]
fn dependents_are_built_again_with_the_new_library() {
    let (chain, _logs) = common::chain();
    chain.volary(&["source", "add", "tide-data"]).unwrap();
    chain.volary(&["source", "add", "tide-app"]).unwrap();

    let library = chain.clone_of("tide-data").unwrap();
    write_source(&library, "tide-data", "", "echo low >data");
    library.write("debian/volary.yml", "version: 1\nrebuild: dependents\n").unwrap();
    library.commit("Say how the tide is").unwrap();
    library.push("master").unwrap();
    newest(&chain, "tide-data", 1);

    // Its build depends on the newest build in rolling; no Debian has such a package.
    let app = chain.clone_of("tide-app").unwrap();
    write_source(&app, "tide-app", ", tide-data", "cat /usr/share/tide-data/data >data");
    let commit = app.commit("Show the tide").unwrap();
    app.push("master").unwrap();
    let first = newest(&chain, "tide-app", 1);
    assert_eq!(data(&chain, "tide-app"), "low\n");

    write_source(&library, "tide-data", "", "echo high >data");
    library.commit("The tide has turned").unwrap();
    library.push("master").unwrap();
    let cause = newest(&chain, "tide-data", 2);
    let second = newest(&chain, "tide-app", 2);
    assert_eq!(data(&chain, "tide-app"), "high\n");
    assert_eq!((second.commit, second.caused_by), (commit, Some(cause.id)));
    assert_ne!(second.version, first.version);
    let because = second.because.unwrap();
    assert!(because.contains("tide-data"), "{because}");
    let traced = chain.volary(&["trace", &second.packages[0]]).unwrap();
    assert!(traced.contains(&because), "{traced}");

    // Built twice, the second time in other circumstances: nothing differs.
    let said = chain.volary(&["build", "reproduce", "tide-app"]).unwrap();
    assert!(said.contains("comes out the same, byte for byte"), "{said}");
}
