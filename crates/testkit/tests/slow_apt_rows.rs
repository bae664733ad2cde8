//! The archive's own tests with real apt, once more with the apt of Debian 13: what makes it fall
//! silent, what it follows, what it fetches.

mod common;

use std::time::Duration;

use volary_host::Cmd;
use volary_testkit::{Debian, roots};

/// Compiling may be a part of it.
const PATIENCE: Duration = Duration::from_secs(1800);

#[test]
fn apt_of_debian_13_behaves_as_the_archive_expects() {
    let cached = roots::apt_root(&common::cache(), Debian::Trixie, &mut |_| {}).unwrap();
    // A copy, because apt writes into it and nothing writes to those of the cache.
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    Cmd::new("cp").args(["-a", "--reflink=auto"]).args([cached.path(), &root]).check().unwrap();
    let version = Cmd::new("chroot").arg(&root).args(["apt-get", "--version"]).check().unwrap().text();
    assert!(version.starts_with("apt 3."), "{version}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tests = ["--test", "apt_silent", "--test", "apt_follows", "--test", "apt", "--test", "export"];
    let output = Cmd::new(cargo)
        .args(["test", "--package", "volary-archive"])
        .args(tests)
        .env("ARCHIVE_TEST_APT_ROOT", &root)
        .timeout(PATIENCE)
        .run()
        .unwrap();
    let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("test result: ok.").count(), tests.len() / 2, "{said}");
}
