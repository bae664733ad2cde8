//! Exports to a store that speaks S3, read by real apt through plain HTTP: kept up to date,
//! killed in the middle, unreachable, tampered with. The store is moto, from PyPI.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::Client;
use volary_api::v1::export::{Export, ExportState, Exported, Verified};
use volary_host::{Cmd, Lock};
use volary_testkit::chain::Chain;
use volary_testkit::{Cache, Debian, Process, roots, wait_until};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const MOTO: &str = "moto[s3,server]==5.2.5";

/// Everybody may read, as from a bucket behind a CDN; and write, so that a test can tamper.
const PUBLIC: &str = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
    "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::bucket/*"}]}"#;

/// `$VOLARY_MOTO_SERVER`, or one that is installed into the cache once.
fn moto(cache: &Cache) -> PathBuf {
    if let Some(path) = std::env::var_os("VOLARY_MOTO_SERVER") {
        return path.into();
    }
    let dir = cache.dir().join("moto-5.2.5");
    let server = dir.join("bin/moto_server");
    let _lock = Lock::acquire(&cache.dir().join("moto.lock"), Duration::from_secs(1200)).unwrap();
    let done = dir.join("done");
    if !done.exists() {
        let patient = |cmd: Cmd| cmd.timeout(Duration::from_secs(1200)).check().unwrap();
        patient(Cmd::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
        patient(Cmd::new(dir.join("bin/pip")).args(["install", "--quiet", MOTO]));
        volary_host::write_atomic(&done, b"", 0o644).unwrap();
    }
    server
}

/// A running store with one bucket, which shows its objects to everybody.
struct Store {
    url: String,
    _process: Process,
}

impl Store {
    fn start(chain: &Chain, port: u16) -> Self {
        let host = chain.lab().host_address().to_string();
        let program = moto(&common::cache());
        let args = ["-H", &host, "-p", &port.to_string()];
        let log = chain.logs().join("moto.log");
        let process = chain.lab().start_process("moto", &program, &args, &[], &log).unwrap();
        let store = Self { url: format!("http://{host}:{port}"), _process: process };
        wait_until("the store to answer", PATIENCE, || {
            let made = store.put("", "").run().map_err(|error| error.to_string())?;
            if made.status.success() { Ok(()) } else { Err(made.status.to_string()) }
        })
        .unwrap();
        store.put("?policy", PUBLIC).check().unwrap();
        store
    }

    /// Puts an object as anybody may, or what else lies at this address.
    fn put(&self, key: &str, content: &str) -> Cmd {
        let put = Cmd::new("curl").args(["-sf", "-X", "PUT", "-H", "Content-Type: text/plain"]);
        put.args(["--data-binary", content, &self.at(key)])
    }

    fn at(&self, key: &str) -> String {
        format!("{}/bucket/{key}", self.url)
    }

    fn get(&self, key: &str) -> String {
        Cmd::new("curl").args(["-sf", &self.at(key)]).check().unwrap().text()
    }

    fn headers(&self, key: &str) -> String {
        // This store lets nobody ask for the headers alone.
        Cmd::new("curl")
            .args(["-sf", "-D", "-", "-o", "/dev/null", &self.at(key)])
            .check()
            .unwrap()
            .text()
            .to_ascii_lowercase()
    }

    /// How many keys begin so.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let url = format!("{}?list-type=2&prefix={prefix}", self.at(""));
        let text = Cmd::new("curl").args(["-sf", &url]).check().unwrap().text();
        let parts = text.split("<Key>").skip(1);
        parts.filter_map(|part| part.split_once("</Key>")).map(|(key, _)| key.to_owned()).collect()
    }
}

struct Bench {
    chain: Chain,
    store: Store,
    client: Client,
    _logs: tempfile::TempDir,
    debs: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let (chain, logs) = common::chain();
        let store = Store::start(&chain, 5000);
        let root = roots::apt_root(&common::cache(), Debian::Trixie, &mut |_| {}).unwrap();
        let client = Client::new(chain.lab(), "client", &root);
        client.trust(&chain);
        client.source(&store.at("apt"), "rolling");
        Self { chain, store, client, _logs: logs, debs: tempfile::tempdir().unwrap() }
    }

    fn include(&self, version: &str) {
        let deb = common::probe_deb(self.debs.path(), version);
        self.chain.volary(&["archive", "include", &deb]).unwrap();
    }

    /// Where the package of a version is in the bucket.
    fn pool_key(&self, version: &str) -> String {
        let deb = self.debs.path().join(format!("volary-probe_{version}_all.deb"));
        let hash = Cmd::new("sha256sum").arg(deb).check().unwrap().text();
        format!("apt/pool/sha256/{}/{}.deb", &hash[..2], &hash[..64])
    }

    /// `volary archive export all --to s3://bucket/apt` with more options.
    fn export(&self, more: &[&str]) -> Cmd {
        let dir = self.chain.folder().display().to_string();
        let mut args = vec!["--json", "archive", "export", "all", "--to", "s3://bucket/apt", "--dir", &dir];
        args.extend(["--endpoint", &self.store.url]);
        args.extend(more);
        let volary = self.chain.desk().volary(&args);
        volary.env("AWS_ACCESS_KEY_ID", "tests").env("AWS_SECRET_ACCESS_KEY", "tests")
    }

    fn exported(&self) -> Exported {
        serde_json::from_str(&self.export(&[]).check().unwrap().text()).unwrap()
    }

    fn verified(&self) -> (Option<i32>, Verified) {
        let output = self.export(&["--verify"]).run().unwrap();
        (output.status.code(), serde_json::from_str(&output.text()).unwrap())
    }

    fn apt_sees(&self, package: &str, version: &str) {
        self.client.quiet(&["apt-get", "update"]);
        assert_eq!(self.client.candidate(package), version);
    }
}

#[test]
fn apt_follows_a_bucket_and_what_is_tampered_with_is_found() {
    let bench = Bench::new();
    bench.include("1.0");
    bench.chain.volary(&["release", "cut", "v1.0"]).unwrap();
    let first = bench.exported();
    assert_eq!(first.changed, ["rolling", "v1.0/r1"]);
    bench.apt_sees("volary-probe", "1.0");
    bench.client.quiet(&["apt-get", "install", "--yes", "volary-probe"]);
    for version in ["1.1", "1.2"] {
        bench.include(version);
        assert_eq!(bench.exported().changed, ["rolling"]);
        bench.apt_sees("volary-probe", version);
    }
    assert_eq!(bench.exported().put, 0);
    bench.client.source(&bench.store.at("apt"), "v1.0/r1");
    bench.apt_sees("volary-probe", "1.0");

    let pool = bench.store.keys("apt/pool/");
    assert_eq!(pool.len(), 3, "{pool:?}");
    let headers = bench.store.headers(&pool[0]);
    assert!(headers.contains("cache-control: public, max-age=31536000, immutable"), "{headers}");
    assert!(headers.contains("content-type: application/vnd.debian.binary-package"), "{headers}");
    let headers = bench.store.headers("apt/dists/rolling/InRelease");
    assert!(headers.contains("cache-control: no-cache"), "{headers}");

    assert_eq!(bench.verified().0, Some(0));
    for key in [bench.pool_key("1.2").as_str(), "apt/dists/rolling/InRelease"] {
        bench.store.put(key, "other").check().unwrap();
        let (status, found) = bench.verified();
        assert_eq!(status, Some(3));
        let bad: Vec<&str> = found.problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(bad, [key.strip_prefix("apt/").unwrap()]);
        bench.export(&["--verify", "--repair"]).check().unwrap();
        assert_eq!(bench.verified().0, Some(0));
    }
}

#[test]
fn a_run_that_is_killed_leaves_the_old_suite_and_the_next_goes_on() {
    const MANY: usize = 120;
    let bench = Bench::new();
    bench.include("1.0");
    bench.exported();
    bench.apt_sees("volary-probe", "1.0");
    let before = bench.store.get("apt/dists/rolling/InRelease");
    let debs: Vec<String> =
        (0..MANY).map(|number| deb(bench.debs.path(), &format!("bulk-{number}"))).collect();
    let mut include = vec!["archive", "include"];
    include.extend(debs.iter().map(String::as_str));
    bench.chain.volary(&include).unwrap();

    let mut command = bench.export(&[]).into_std();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("some packages to be there", PATIENCE, || match bench.store.keys("apt/pool/").len() {
        there if there > 20 => Ok(()),
        there => Err(format!("{there} are")),
    })
    .unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it was killed before it ended");
    assert_eq!(bench.store.get("apt/dists/rolling/InRelease"), before);
    bench.client.sandbox.command(&["sh", "-c", "rm -rf /var/lib/apt/lists/*"]).check().unwrap();
    bench.apt_sees("volary-probe", "1.0");
    bench.client.quiet(&["apt-get", "install", "--yes", "volary-probe"]);

    let rest = bench.exported();
    assert!(rest.put > 0 && rest.put < MANY as u64, "it goes on and does not begin again: {rest:?}");
    assert_eq!(bench.verified().0, Some(0));
    bench.apt_sees("bulk-119", "1.0");
}

/// A small package of any name.
fn deb(dir: &Path, name: &str) -> String {
    let tree = dir.join(name);
    volary_host::create_dir(&tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: 1.0\nArchitecture: all\n\
         Maintainer: Volary tests <tests@volary.test>\nDescription: one of many\n"
    );
    volary_host::write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let path = dir.join(format!("{name}.deb"));
    let build = Cmd::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]);
    build.args([&tree, &path]).check().unwrap();
    path.display().to_string()
}

#[test]
fn the_server_keeps_an_export_up_to_date_through_an_outage() {
    let bench = Bench::new();
    let credentials = bench.chain.folder().join("bucket.toml");
    let text = "access_key_id = \"tests\"\nsecret_access_key = \"tests\"\n";
    volary_host::write_atomic(&credentials, text.as_bytes(), 0o600).unwrap();
    // Nobody listens there yet.
    let endpoint = format!("http://{}:5001", bench.chain.lab().host_address());
    let export = format!(
        "\n[[export]]\nname = \"cdn\"\nto = \"s3://bucket/apt\"\nsuites = [\"all\"]\n\
         endpoint = {endpoint:?}\ncredentials = {credentials:?}\n"
    );
    bench.chain.reconfigure(|text| text + &export).unwrap();
    let wait_for = |wanted: ExportState| -> Export {
        wait_until(&format!("the export to be {wanted:?}"), PATIENCE, || {
            let exports: Vec<Export> =
                bench.chain.desk().json(&["archive", "exports"]).map_err(|error| error.to_string())?;
            let export = exports.into_iter().next().ok_or("none is declared")?;
            if export.state == wanted { Ok(export) } else { Err(format!("{export:?}")) }
        })
        .unwrap()
    };
    let failed = wait_for(ExportState::Failed);
    assert!(failed.next_at.is_some() && failed.problem.unwrap().contains("s3://bucket/apt"));
    let problems = bench.chain.status().unwrap().problems;
    assert!(problems.iter().any(|problem| problem.starts_with("export cdn:")), "{problems:?}");
    // Nothing else waits for it.
    bench.include("1.0");

    let store = Store::start(&bench.chain, 5001);
    bench.chain.volary(&["archive", "exports", "--run", "cdn"]).unwrap();
    wait_for(ExportState::Current);
    bench.client.source(&store.at("apt"), "rolling");
    bench.apt_sees("volary-probe", "1.0");
    bench.include("2.0");
    wait_until("apt to see the publish", PATIENCE, || {
        bench.client.quiet(&["apt-get", "update"]);
        match bench.client.candidate("volary-probe").as_str() {
            "2.0" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .unwrap();
    assert!(bench.chain.status().unwrap().problems.is_empty());
}
