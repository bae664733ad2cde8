//! A device whose key is in a TPM 2.0: an emulated one, spoken to as the kernel's would be.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use volary_agent::paths::Paths;
use volary_host::{Cmd, Output, create_dir, read_to_string, remove_if_exists};

use crate::fleet::Fleet;
use crate::stub::Stub;

/// An emulator that listens where a device has its TPM. It ends with the test.
struct Tpm {
    emulator: Child,
    socket: PathBuf,
}

impl Tpm {
    /// One with its secrets in `state`; an empty folder makes another TPM.
    fn start(root: &Path, state: &Path) -> Self {
        create_dir(state).unwrap();
        create_dir(&root.join("dev")).unwrap();
        let socket = root.join("dev/tpmrm0");
        remove_if_exists(&socket).unwrap();
        let emulator = Cmd::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear,not-need-init"])
            .args(["--tpmstate", &format!("dir={}", state.display())])
            .args(["--server", &format!("type=unixio,path={}", socket.display())])
            .into_std()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let tpm = Self { emulator, socket };
        let started = Instant::now();
        while !tpm.socket.exists() {
            assert!(started.elapsed() < Duration::from_secs(30), "swtpm does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        tpm
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
        let _ = remove_if_exists(&self.socket);
    }
}

fn agent(root: &Path, args: &[&str]) -> Output {
    Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", root).args(args).run().unwrap()
}

#[track_caller]
fn check(root: &Path, args: &[&str], status: i32, expected: &str) {
    let output = agent(root, args);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(text.contains(expected), "{args:?}: {text}");
}

#[test]
fn a_key_of_the_tpm_enrols_and_proves_who_the_device_is() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    let enroll = ["enroll", "--token", &token, "--name", "dev-1", "--key", "tpm"];
    check(root, &enroll, 1, "this machine has none");

    let state = root.join("state");
    let tpm = Tpm::start(root, &state);
    stub.world().accepts = false;
    check(root, &[&enroll[..], &["--no-wait"]].concat(), 4, "device accept dev-1");
    stub.world().accepts = true;
    // It goes on with the key that was made before, where it was made.
    check(root, &["enroll"], 0, "dev-1 belongs to the fleet");
    let requests: Vec<String> = stub.world().enrolled.iter().map(|enroll| key_of(&enroll.csr)).collect();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1], "the same key both times");

    let path = Paths::below(root).key();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = read_to_string(&path).unwrap();
    assert!(!text.contains("PRIVATE KEY") && text.contains("\"public\""), "{text}");

    stub.want("development", &fleet.head());
    check(root, &["run"], 0, "good: commit");
    // The TPM was off and on again.
    drop(tpm);
    check(root, &["run"], 7, "cannot use the TPM");
    let tpm = Tpm::start(root, &state);
    check(root, &["run"], 0, "good: commit");
    // The disk in another machine: its TPM does not open the key.
    drop(tpm);
    let _other = Tpm::start(root, &root.join("other"));
    check(root, &["run"], 7, "load this device's key");
}

#[test]
fn a_key_stays_where_it_was_made() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let dir = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    let enroll = ["enroll", "--token", &token, "--name", "dev-1", "--no-wait"];
    stub.world().accepts = false;
    check(dir.path(), &enroll, 4, "device accept dev-1");
    let _tpm = Tpm::start(dir.path(), &dir.path().join("state"));
    check(dir.path(), &[&enroll[..], &["--key", "tpm"]].concat(), 1, "remove that file to make a new key");
    check(dir.path(), &[&enroll[..], &["--key", "cloud"]].concat(), 2, "in a file or in the tpm");
    let key = Paths::below(dir.path()).key();
    volary_host::write_atomic(&key, b"{\"version\":1}", 0o600).unwrap();
    check(dir.path(), &enroll, 1, "is no private key");
}

/// The public key of a certificate request, by openssl.
fn key_of(csr: &str) -> String {
    let command = Cmd::new("openssl").args(["req", "-verify", "-noout", "-pubkey"]).stdin(csr);
    command.check().unwrap().text()
}
