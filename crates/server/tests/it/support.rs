//! A server in a temporary folder, and its clients.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use volary_api::join::JoinToken;
use volary_api::v1::device::{Enrolled, Report};
use volary_api::v1::fleet::{DeviceToken, TokenSecret};
use volary_api::v1::image::Image;
use volary_artifact::{Depends, Draft, PayloadDraft, Source, WriteOptions};
use volary_host::{Cmd, CmdError, Output};
use volary_server::{InitOptions, Initialised, Layout, Running, ServeOptions, ServerError, init, serve};

use crate::contract;

/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder in memory if there is room for one: a server flushes everything that it writes, and what survives a power cut is
/// tested elsewhere.
fn quick_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize > 2 << 30);
    let folder = room.then(|| tempfile::tempdir_in(memory)).and_then(Result::ok);
    folder.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// A server, stopped or running.
pub struct TestServer {
    root: tempfile::TempDir,
    pub made: Initialised,
    running: Option<Running>,
    pub url: String,
}

impl TestServer {
    /// A new server that runs.
    pub fn start() -> Self {
        let mut server = Self::made();
        server.resume();
        server
    }

    /// A new server that does not run yet. Builds end at once with a fault of the machine: no
    /// test here waits for a chroot.
    pub fn made() -> Self {
        // Whoever came first did it; both want the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = quick_folder();
        let options = InitOptions {
            fleet: "test".into(),
            hosts: vec!["localhost".into()],
            port: 8443,
            signing_key: None,
            operator: "op@example.com".into(),
        };
        let made = init(&root.path().join("server"), &options).unwrap();
        let config = made.dir.join("server.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let cache = root.path().join("no:cache");
        write(&config, format!("{text}build_cache = {:?}\n", cache.display().to_string()));
        Self { root, made, running: None, url: String::new() }
    }

    pub fn layout(&self) -> Layout {
        Layout::new(&self.made.dir)
    }

    /// A place for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// Starts it (again) on a free port.
    pub fn resume(&mut self) {
        let options = ServeOptions { listen: Some("127.0.0.1:0".parse().unwrap()) };
        // A program that another test starts holds the lock of a server that was stopped for a moment.
        let running = wait_for("the server starts", || match serve(&self.made.dir, &options) {
            Err(ServerError::AlreadyRunning(_)) => None,
            running => Some(running.unwrap()),
        });
        self.url = format!("https://localhost:{}", running.address().port());
        self.running = Some(running);
        self.use_own_hook();
    }

    pub fn stop(&mut self) {
        self.running.take().unwrap().stop();
    }

    fn use_own_hook(&self) {
        let own = std::env::current_exe().unwrap();
        let hook = format!(
            "#!/bin/sh\nVOLARY_TEST_HOOK=1 exec '{}' --exact hook_entry --nocapture\n",
            own.display()
        );
        let path = self.layout().fleet().join("hooks/pre-receive");
        volary_host::write_atomic(&path, hook.as_bytes(), 0o755).unwrap();
    }

    pub fn ca(&self) -> PathBuf {
        self.made.dir.join("ca/ca.pem")
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> String {
        let text = std::fs::read_to_string(&self.made.client_config).unwrap();
        let config: toml::Table = toml::from_str(&text).unwrap();
        config["token"].as_str().unwrap().to_owned()
    }

    pub fn admin(&self) -> Client {
        Client::new(self, Some(self.admin_token()), None)
    }

    pub fn anonymous(&self) -> Client {
        Client::new(self, None, None)
    }

    /// A client with a new token of this role.
    pub fn with_role(&self, role: &str) -> Client {
        let made: TokenSecret =
            self.admin().post("/api/v1/tokens", &json!({"name": format!("a-{role}"), "role": role})).json();
        Client::new(self, Some(made.secret), None)
    }

    /// A join token's secret.
    pub fn join_secret(&self, stage: &str, uses: u32) -> String {
        let request = json!({"stage": stage, "uses": uses, "valid_for": 600});
        let token: DeviceToken = self.admin().post("/api/v1/device-tokens", &request).json();
        JoinToken::decode(&token.token).unwrap().secret
    }

    /// git that knows the server and this token.
    pub fn git(&self, token: &str, dir: &Path) -> Git {
        Git {
            token: token.to_owned(),
            ca: self.ca(),
            dir: dir.to_owned(),
            key: self.made.signing_key.clone(),
        }
    }

    /// A clone of the fleet repository by the administrator.
    pub fn fleet_clone(&self) -> Git {
        let git = self.git(&self.admin_token(), &self.scratch().join("fleet"));
        git.clone_from(&format!("{}/git/fleet.git", self.url));
        git
    }

    /// The texts of all events of a kind.
    pub fn events(&self, kind: &str) -> Vec<String> {
        let events: Vec<Value> = self.admin().get("/api/v1/events?limit=1000").json();
        let of_kind = events.iter().filter(|event| event["kind"] == kind);
        of_kind.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// Writes a file, or dies.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    volary_host::write_atomic(path.as_ref(), content.as_ref(), 0o644).unwrap();
}

/// Waits until the question has an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// An HTTP client of the server.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

/// An answer, whatever its status.
pub struct Answer {
    pub status: StatusCode,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    fn of(response: Result<Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().unwrap();
        Self { status: response.status(), headers: response.headers().clone(), body }
    }

    /// The body of a success as JSON.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(self) -> T {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks a refusal's status and a part of its sentence or advice.
    #[track_caller]
    pub fn refused(&self, status: u16, part: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        let problem: volary_api::v1::Problem = serde_json::from_slice(&self.body).unwrap();
        let all = format!("{} {}", problem.error, problem.help.unwrap_or_default());
        assert!(all.contains(part), "{all:?} has no {part:?}");
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Every answer in every test is compared with the description of the API.
#[track_caller]
fn checked(method: &str, path: &str, sent: Option<&[u8]>, answer: Answer) -> Answer {
    if let Err(problem) = contract::check(method, path, sent, &answer) {
        panic!("{method} {path}: {problem}\n{}", answer.text());
    }
    answer
}

impl Client {
    pub fn new(server: &TestServer, token: Option<String>, identity: Option<ClientCert>) -> Self {
        let ca = std::fs::read(server.ca()).unwrap();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&[Certificate::from_pem(&ca).unwrap()]))
            .client_cert(identity)
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .build()
            .new_agent();
        Self { agent, url: server.url.clone(), token }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in
            headers.iter().copied().chain(self.bearer().as_ref().map(|(n, v)| (*n, v.as_str())))
        {
            request = request.header(name, value);
        }
        checked("get", path, None, Answer::of(request.call()))
    }

    pub fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.post_bytes(path, &serde_json::to_vec(body).unwrap(), &[])
    }

    pub fn post_bytes(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        for (name, value) in
            headers.iter().copied().chain(self.bearer().as_ref().map(|(n, v)| (*n, v.as_str())))
        {
            request = request.header(name, value);
        }
        checked("post", path, Some(body), Answer::of(request.send(body)))
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        let mut request = self.agent.put(format!("{}{path}", self.url));
        if let Some((name, value)) = self.bearer() {
            request = request.header(name, value);
        }
        checked("put", path, Some(body), Answer::of(request.send(body)))
    }

    /// Any request; with its length unknown beforehand if `is_chunked`.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        is_chunked: bool,
    ) -> Answer {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut reader = body;
        match (method, is_chunked) {
            ("GET", _) => Answer::of(self.agent.run(request.body(()).unwrap())),
            (_, true) => {
                let body = ureq::SendBody::from_reader(&mut reader);
                Answer::of(self.agent.run(request.body(body).unwrap()))
            }
            (_, false) => Answer::of(self.agent.run(request.body(body).unwrap())),
        }
    }

    /// The headers alone.
    pub fn head(&self, path: &str) -> Answer {
        Answer::of(self.agent.head(format!("{}{path}", self.url)).call())
    }

    pub fn delete(&self, path: &str) -> Answer {
        let mut request = self.agent.delete(format!("{}{path}", self.url));
        if let Some((name, value)) = self.bearer() {
            request = request.header(name, value);
        }
        checked("delete", path, None, Answer::of(request.call()))
    }

    fn bearer(&self) -> Option<(&'static str, String)> {
        self.token.as_ref().map(|token| ("authorization", format!("Bearer {token}")))
    }
}

/// A device's key with its signing request.
pub struct DeviceKey {
    key: KeyPair,
    pub csr: String,
}

impl DeviceKey {
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        Self { key, csr }
    }

    /// Asks to belong to the fleet.
    pub fn enroll(&self, server: &TestServer, name: &str, secret: Option<&str>) -> Answer {
        let request = json!({
            "name": name, "csr": self.csr, "secret": secret, "architecture": "amd64", "os": "Debian 12",
        });
        server.anonymous().post("/device/v1/enroll", &request)
    }

    /// A client with the certificate that the server gave.
    pub fn client(&self, server: &TestServer, certificate: &str) -> Client {
        let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
        let key = PrivateKey::from_pem(self.key.serialize_pem().as_bytes()).unwrap();
        Client::new(server, None, Some(ClientCert::new_with_certs(&[certificate], key)))
    }

    /// Enrols with a fresh join token and returns the device's client.
    pub fn join(&self, server: &TestServer, name: &str, stage: &str) -> Client {
        let secret = server.join_secret(stage, 1);
        let enrolled: Enrolled = self.enroll(server, name, Some(&secret)).json();
        let Enrolled::Accepted { certificate, .. } = enrolled else { panic!("{enrolled:?}") };
        self.client(server, &certificate)
    }
}

/// A `volary.yml` with three stages, a suite of conditions for merges, and what else follows.
pub fn with_gates(gates: &str) -> String {
    format!(
        "version: 1\nstages:\n  development: {{ branch: master, packages: rolling }}\n  canary: {{ branch: canary, from: \
         development }}\n  production: {{ branch: production, from: canary }}\ngates:\n{gates}"
    )
}

/// A report of a device that is well at `commit`.
pub fn good_report(id: &str, stage: &str, commit: &str, suite: Option<&str>) -> Report {
    serde_json::from_value(json!({
        "id": id, "at": "2026-11-22T12:00:00Z", "agent": "0.1.0", "boot_id": "b", "uptime": 100,
        "stage": stage, "good_commit": commit,
        "convergence": {
            "commit": commit, "suite": suite, "outcome": "good",
            "started_at": "2026-11-22T11:59:00Z", "ended_at": "2026-11-22T12:00:00Z",
        },
    }))
    .unwrap()
}

/// git in one clone, as one person.
pub struct Git {
    token: String,
    ca: PathBuf,
    pub dir: PathBuf,
    key: PathBuf,
}

impl Git {
    fn command(&self) -> Cmd {
        use base64::Engine;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("x:{}", self.token));
        Cmd::new("git")
            .args(["-c", &format!("http.sslCAInfo={}", self.ca.display())])
            .args(["-c", &format!("http.extraHeader=Authorization: Basic {basic}")])
            .args(["-c", "user.name=Op", "-c", "user.email=op@example.com", "-c", "gpg.format=ssh"])
            .args(["-c", &format!("user.signingkey={}", self.key.display())])
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            // It would outrank the setting.
            .env_remove("GIT_SSL_CAINFO")
    }

    pub fn clone_from(&self, url: &str) {
        self.command().args(["clone", "--quiet", url]).arg(&self.dir).check().unwrap();
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap().text().trim().to_owned()
    }

    pub fn try_run(&self, args: &[&str]) -> Result<Output, CmdError> {
        self.command().cwd(&self.dir).args(args).check()
    }

    /// Writes a file and commits it, signed.
    pub fn commit(&self, file: &str, content: &str, message: &str) -> String {
        write(self.dir.join(file), content);
        self.run(&["add", "--all"]);
        self.run(&["commit", "--quiet", "-S", "-m", message]);
        self.run(&["rev-parse", "HEAD"])
    }

    /// A signed promotion of `commit` on top of the remote branch `onto`; returns the merge.
    pub fn merge(&self, commit: &str, onto: &str, message: &str) -> String {
        let base = self.run(&["rev-parse", &format!("origin/{onto}")]);
        self.run(&[
            "commit-tree",
            "-S",
            "-m",
            message,
            "-p",
            &base,
            "-p",
            commit,
            &format!("{commit}^{{tree}}"),
        ])
    }

    /// Pushes, and returns what the server said when it refused.
    pub fn push(&self, what: &str) -> Result<(), String> {
        match self.try_run(&["push", "--quiet", "origin", what]) {
            Ok(_) => {
                self.run(&["fetch", "--quiet", "origin"]);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Makes a small Debian package, once; returns its path.
pub fn make_deb(dir: &Path, name: &str, version: &str) -> PathBuf {
    let tree = dir.join(format!("{name}-{version}"));
    let deb = dir.join(format!("{name}_{version}_all.deb"));
    // Built twice it would be another one, with other times in it.
    if deb.is_file() {
        return deb;
    }
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.com>\nDescription: test\n"
    );
    write(tree.join("DEBIAN/control"), control);
    Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&deb).check().unwrap();
    deb
}

/// An artifact with this root file system.
pub fn make_artifact(
    name: &str,
    device_types: &[&str],
    rootfs: &[u8],
    key: Option<&volary_artifact::PrivateKey>,
) -> Vec<u8> {
    let image = Source::new("rootfs.ext4", rootfs.len() as u64, rootfs);
    write_artifact(name, device_types, PayloadDraft::rootfs_image(name, image), key)
}

/// An artifact with any payload.
pub fn write_artifact(
    name: &str,
    device_types: &[&str],
    payload: PayloadDraft<'_>,
    key: Option<&volary_artifact::PrivateKey>,
) -> Vec<u8> {
    let device_types = device_types.iter().map(|name| (*name).to_owned()).collect();
    let draft = Draft {
        name: name.into(),
        depends: Depends { device_types, ..Depends::default() },
        payloads: vec![payload],
        ..Draft::default()
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let options = WriteOptions { key, ..WriteOptions::default() };
    volary_artifact::write(&mut file, draft, &options).unwrap();
    file.into_inner()
}

/// Publishes an artifact.
#[track_caller]
pub fn publish(client: &Client, artifact: &[u8]) -> Image {
    client.put("/api/v1/images", artifact).json()
}

/// The text of a lock that pins an image for a device type.
pub fn lock_text(device_type: &str, image: &Image) -> String {
    let Image { name, artifact, size, rootfs, .. } = image;
    format!(
        "version: 1\nimages:\n  {device_type}:\n    name: \"{name}\"\n    artifact: {artifact}\n    \
         size: {size}\n    rootfs: {rootfs}\n"
    )
}
