//! Bad input and trouble, through the real programs: each gives an error that says what to do, and
//! nothing that was there is lost.

mod common;

use std::path::Path;
use std::time::Duration;

use volary_api::v1::archive::Package;
use volary_api::v1::build::BuildState;
use volary_host::{Cmd, Output, write_atomic};
use volary_testkit::chain::{Chain, Desk, Tools, inventory};
use volary_testkit::{Lab, wait_until};

/// What a failed command said; it must have failed in an orderly way.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it was not refused: {}", output.text());
    assert!(output.status.code().is_some_and(|code| code < 100), "{}: {said}", output.status);
    assert!(said.contains("error:") && !said.contains("panicked"), "{said}");
    said
}

fn include(chain: &Chain, file: &Path) -> Output {
    chain.desk().run(&chain.desk().volary(&["archive", "include"]).arg(file)).unwrap()
}

fn rolling(chain: &Chain) -> Vec<String> {
    let packages: Vec<Package> = chain.desk().json(&["archive", "list"]).unwrap();
    packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect()
}

#[test]
fn bad_packages_are_refused_and_nothing_changes() {
    let (chain, logs) = common::chain();
    let good = common::probe_deb(logs.path(), "1.0");
    assert!(include(&chain, Path::new(&good)).status.success());
    let before = rolling(&chain);
    assert_eq!(before, ["volary-probe=1.0"]);

    let check = |name: &str, bytes: &[u8], expected: &str| {
        let path = logs.path().join(name);
        write_atomic(&path, bytes, 0o644).unwrap();
        let said = refused(&include(&chain, &path));
        assert!(said.contains(expected) && said.contains(name), "{name}: {said}");
        assert_eq!(rolling(&chain), before);
    };
    let whole = volary_host::read(Path::new(&common::probe_deb(logs.path(), "1.1"))).unwrap();
    check("garbage_1.0_all.deb", b"this is no package at all", "");
    check("empty_1.0_all.deb", b"", "");
    check("truncated_1.1_all.deb", &whole[..whole.len() / 2], "");
    let unsigned = format!(
        "Format: 1.8\nDate: Mon, 09 Nov 2026 09:00:00 +0000\nSource: volary-probe\nBinary: volary-probe\n\
         Architecture: all\nVersion: 1.1\nDistribution: unstable\nMaintainer: T <t@volary.test>\nChanges:\n change\n\
         Checksums-Sha256:\n {} {} volary-probe_1.1_all.deb\nFiles:\n d41d8cd98f00b204e9800998ecf8427e {} misc optional volary-probe_1.1_all.deb\n",
        Cmd::new("sha256sum").stdin(whole.clone()).check().unwrap().text().split(' ').next().unwrap(),
        whole.len(),
        whole.len(),
    );
    check("probe_1.1_all.changes", unsigned.as_bytes(), "sign");
    // The same version with another content.
    let changed = logs.path().join("other");
    volary_host::create_dir(&changed).unwrap();
    write_atomic(&logs.path().join("probe-1.0/usr/share/probe/more"), b"more", 0o644).unwrap();
    let other = changed.join("volary-probe_1.0_all.deb");
    Cmd::new("dpkg-deb").arg("--build").args([&logs.path().join("probe-1.0"), &other]).check().unwrap();
    refused(&include(&chain, &other));
    assert_eq!(rolling(&chain), before);
    // After all of this the next good one is taken.
    assert!(include(&chain, &logs.path().join("volary-probe_1.1_all.deb")).status.success());
    assert_eq!(rolling(&chain), ["volary-probe=1.1"]);
}

#[test]
fn a_source_without_packaging_fails_with_its_reason() {
    let (chain, _logs) = common::chain();
    chain.volary(&["source", "add", "bare"]).unwrap();
    let clone = chain.clone_of("bare").unwrap();
    clone.write("README", "no debian/ here\n").unwrap();
    let commit = clone.commit("begin").unwrap();
    clone.push("master").unwrap();
    let build = chain.wait_for_build("bare", &commit, Duration::from_secs(600)).unwrap();
    assert_eq!(build.state, BuildState::Failed);
    assert!(build.reason.unwrap_or_default().contains("debian/"));
    let shown = chain.volary(&["build", "show", &build.id.to_string()]).unwrap();
    assert!(shown.contains("debian/"), "{shown}");
}

#[test]
fn pushes_against_the_rules_are_refused_with_a_sentence() {
    let (chain, _logs) = common::chain();
    let fleet = chain.clone_of("fleet").unwrap();
    let tip = fleet.head().unwrap();
    let push = |what: &str, expected: &str| {
        let output = fleet.git(&["push", "--force", "origin", what]).run().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{what}: {said}");
        fleet.run_git(&["reset", "--quiet", "--hard", tip.as_str()]).unwrap();
    };
    // An ordinary commit on a stage that only takes merges.
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.commit("add dev-1").unwrap();
    push("HEAD:refs/heads/canary", "canary");
    // A branch that is no stage, so nothing could follow it: allowed or not, master stays.
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.run_git(&["add", "--all"]).unwrap();
    fleet.run_git(&["-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "unsigned"]).unwrap();
    push("HEAD:refs/heads/master", "sign");
    // History that is not there any more.
    fleet.write("new", "text\n").unwrap();
    fleet.commit("one").unwrap();
    fleet.push("master").unwrap();
    fleet.run_git(&["reset", "--quiet", "--hard", tip.as_str()]).unwrap();
    fleet.write("new", "another text\n").unwrap();
    fleet.commit("rewritten").unwrap();
    push("HEAD:refs/heads/master", "master");
    // A key that is mistyped.
    fleet.run_git(&["pull", "--quiet", "--ff-only", "origin", "master"]).unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &config.replace("poll:", "pol:")).unwrap();
    let said = refused(&fleet.volary(&["check"]).unwrap());
    assert!(said.contains("poll") || fleet.volary(&["check"]).unwrap().text().contains("poll"), "{said}");
    fleet.commit("a typing error").unwrap();
    push("HEAD:refs/heads/master", "poll");
    // A playbook that Ansible cannot read.
    fleet.run_git(&["reset", "--quiet", "--hard", "origin/master"]).unwrap();
    fleet.write("site.yml", "- hosts: all\n  tasks:\n - name: wrong\n").unwrap();
    let output = fleet.volary(&["check"]).unwrap();
    refused(&output);
    assert!(output.text().contains("site.yml"), "{}", output.text());
}

#[test]
fn a_second_server_says_what_is_in_its_way() {
    let (chain, _logs) = common::chain();
    let listen = format!("{}:8443", chain.lab().host_address());
    let serve = |dir: &Path| {
        let serve = chain.desk().volary(&["serve", "--listen", &listen]).arg(dir);
        chain.desk().run(&serve).unwrap()
    };
    let said = refused(&serve(chain.folder()));
    assert!(said.contains(&chain.folder().display().to_string()), "{said}");

    let other = chain.lab().folder().join("other");
    let address = chain.lab().host_address().to_string();
    let dir = other.display().to_string();
    chain.volary(&["init", &dir, "--host", &address, "--port", "8443"]).unwrap();
    let said = refused(&serve(&other));
    assert!(said.contains("8443"), "{said}");
    let said = refused(&chain.desk().run(&chain.desk().volary(&["init", &dir, "--host", &address])).unwrap());
    assert!(said.contains(&dir), "{said}");
    chain.status().unwrap();
}

#[test]
fn what_was_acknowledged_survives_a_killed_server() {
    let (chain, logs) = common::chain();
    for round in 0..5 {
        let version = format!("1.{round}");
        chain.volary(&["archive", "include", &common::probe_deb(logs.path(), &version)]).unwrap();
        chain.kill_server().unwrap();
        chain.start_server().unwrap();
        assert_eq!(rolling(&chain), [format!("volary-probe={version}")]);
    }
}

/// A server whose whole folder is on a small disk that only it sees; what its operator needs to
/// reach it is copied to `$3`.
const ON_A_SMALL_DISK: &str = r#"
set -eu
mount -t tmpfs -o size=64m tmpfs "$1"
"$0" init "$1/server" --host "$2" --port 8443 --operator ada@volary.test
cp -a "$1/server/client.toml" "$1/server/ca" "$3"
exec "$0" serve "$1/server" --listen "$2:8443"
"#;

#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let logs = tempfile::tempdir().unwrap();
    let lab = Lab::open(&common::cache()).unwrap();
    let tools = Tools::find().unwrap();
    let (disk, config) = (lab.folder().join("disk"), lab.folder().join("config"));
    volary_host::create_dir(&disk).unwrap();
    volary_host::create_dir(&config).unwrap();
    let log = logs.path().join("server.log");
    let paths = [&tools.volary, &disk, &lab.host_address().to_string().into(), &config];
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let unshare = ["--mount", "--propagation", "private", "--", "sh", "-c", ON_A_SMALL_DISK];
    let args: Vec<&str> = unshare.into_iter().chain(paths.iter().map(String::as_str)).collect();
    let mut server = lab.start_process("volary serve", Path::new("unshare"), &args, &[], &log).unwrap();
    let home = lab.folder().join("home");
    let desk =
        Desk::new(&home, &tools.volary, &config.join("client.toml"), &logs.path().join("log")).unwrap();
    wait_until("the server to answer", Duration::from_secs(60), || {
        server.check_alive().map_err(|error| error.to_string())?;
        desk.check(&desk.volary(&["status"])).map_err(|error| error.to_string())
    })
    .unwrap();
    let versions = || -> Vec<String> {
        let packages: Vec<Package> = desk.json(&["archive", "list"]).unwrap();
        packages.into_iter().map(|package| package.version).collect()
    };
    let include = |deb: &str| desk.run(&desk.volary(&["archive", "include", deb])).unwrap();

    assert!(include(&common::probe_deb(logs.path(), "1.0")).status.success());
    let said = refused(&include(&common::deb_of(logs.path(), "1.1", &vec![b'x'; 80 << 20])));
    assert!(said.contains("space") || said.contains("full"), "{said}");
    assert_eq!(versions(), ["1.0"]);
    // What did not fit is not in the way of what does.
    assert!(include(&common::probe_deb(logs.path(), "1.2")).status.success());
    assert_eq!(versions(), ["1.2"]);
    server.check_alive().unwrap();
}
