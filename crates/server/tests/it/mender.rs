//! Mender's device API against what its real clients sent: `data/mender-requests.jsonl` has each request of a
//! Debian mender-client 3.4.0 (cases A) and of a 5.1.0 (cases B) with the answer that it got then. The
//! device type, the deployment's id, the token and the link are put in as this server gives them; what the
//! clients signed is sent as it was.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, json};
use volary_api::v1::deployment::Deployment;
use volary_api::v1::device::Report;
use volary_api::v1::image::Image;
use volary_api::v1::status::Device;

use crate::support::{Answer, Client, Git, TestServer, lock_text, make_artifact, publish, write};

const AUTH: &str = "/api/devices/v1/authentication/auth_requests";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Recorded {
    case: String,
    /// True if it is no request: the device was rebooted, or died.
    reboot: bool,
    method: String,
    path: String,
    headers: Headers,
    body: String,
    /// None where the line was cut.
    status: Option<u16>,
    /// True if it had its token with it.
    token: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Headers {
    user_agent: Option<String>,
    authorization: Option<String>,
    range: Option<String>,
    x_men_signature: Option<String>,
    chunked: bool,
}

/// A root file system that does not pack well: clients of 3.4 cut the line after a million bytes.
fn rootfs() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..150_000).flat_map(|_| next()).collect()
}

/// A server that serves Mender clients.
fn mender_server() -> TestServer {
    let mut server = TestServer::made();
    let config = server.made.dir.join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    write(&config, format!("{text}[mender]\npoll = 60\n"));
    server.resume();
    server
}

/// The devices of one test, what their types are pinned to, and one client at a time.
struct Stand {
    server: TestServer,
    fleet: Git,
    pins: BTreeMap<String, Image>,
    nobody: Client,
    token: String,
}

impl Stand {
    fn new() -> Self {
        let server = mender_server();
        let (fleet, nobody) = (server.fleet_clone(), server.anonymous());
        Self { server, fleet, pins: BTreeMap::new(), nobody, token: String::new() }
    }

    /// Pins an image, or nothing, for a device type, by a commit on the first stage.
    fn pin(&mut self, device_type: &str, image: Option<Image>) {
        match image {
            Some(image) => self.pins.insert(device_type.to_owned(), image),
            None => self.pins.remove(device_type),
        };
        let mut text = "version: 1\n".to_owned();
        if !self.pins.is_empty() {
            text.push_str("images:\n");
        }
        for (device_type, image) in &self.pins {
            let own = lock_text(device_type, image);
            write!(text, "{}", own.strip_prefix("version: 1\nimages:\n").unwrap()).unwrap();
        }
        self.fleet.run(&["remote", "set-url", "origin", &format!("{}/git/fleet.git", self.server.url)]);
        self.fleet.commit("volary.lock", &text, "Pin");
        self.fleet.push("HEAD:master").unwrap();
        // This reads the stages; a push only rings the bell for that.
        self.server.admin().get("/api/v1/promotion?from=development&to=canary");
    }

    fn restart(&mut self) {
        self.server.stop();
        self.server.resume();
        self.nobody = self.server.anonymous();
    }

    fn send(&self, recorded: &Recorded, path: &str, body: &str, token: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let own = &recorded.headers;
        let authorization = if recorded.token { Some(bearer.as_str()) } else { own.authorization.as_deref() };
        let all = [
            ("user-agent", own.user_agent.as_deref()),
            ("authorization", authorization),
            ("range", own.range.as_deref()),
            ("x-men-signature", own.x_men_signature.as_deref()),
            ("content-type", (recorded.method != "GET").then_some("application/json")),
        ];
        let headers: Vec<(&str, &str)> =
            all.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        self.nobody.send(&recorded.method, path, &headers, body.as_bytes(), own.chunked)
    }

    /// Asks to be let in, and lets the device in under a name if it waits.
    fn let_in(&mut self, recorded: &Recorded, name: &str) {
        let mut answer = self.send(recorded, AUTH, &recorded.body, "");
        if answer.status.as_u16() == 401 {
            let devices: Vec<Device> = self.server.admin().get("/api/v1/devices").json();
            let waiting = devices.iter().find(|device| device.stage.is_none()).unwrap();
            assert!(waiting.name.as_str().starts_with("mender-"), "{waiting:?}");
            assert!(waiting.os.contains("mac=02:00:00:00:00:0"), "{waiting:?}");
            let accept = json!({"stage": "development", "as": name});
            let path = format!("/api/v1/devices/{}/accept", waiting.name);
            assert!(self.server.admin().post(&path, &accept).status.is_success());
            if recorded.status == Some(401) {
                return;
            }
            answer = self.send(recorded, AUTH, &recorded.body, "");
        }
        assert_eq!(answer.status.as_u16(), 200, "{}: {}", recorded.case, answer.text());
        assert_eq!(answer.header("content-type"), "application/jwt");
        self.token = answer.text();
    }

    fn device(&self, name: &str) -> Device {
        self.server.admin().get(&format!("/api/v1/devices/{name}")).json()
    }

    fn deployments(&self, name: &str) -> Vec<Deployment> {
        self.server.admin().get(&format!("/api/v1/devices/{name}/deployments")).json()
    }

    /// Plays a case from its first request to its last.
    fn play(&mut self, recorded: &[Recorded], case: &str, is_restarted: bool) -> String {
        let (device_type, name) = (format!("testboard-{case}"), format!("dev-{case}"));
        let bytes = make_artifact("release-2", &[&device_type], &rootfs(), None);
        let image = publish(&self.server.admin(), &bytes);
        let (mut id, mut link) = (String::new(), String::new());
        for (at, entry) in recorded.iter().filter(|entry| entry.case.eq_ignore_ascii_case(case)).enumerate() {
            // Each time that a deployment is about to go on, the server knows no more than its records.
            if is_restarted && (entry.path.ends_with("/status") || entry.headers.range.is_some()) {
                self.restart();
            }
            let what = || format!("{case}, request {at}: {} {} {}", entry.method, entry.path, entry.body);
            let body = entry.body.replace("testboard", &device_type);
            let body = with_checksum(&body, &image);
            let answered = |answer: Answer, status: u16| {
                assert_eq!(answer.status.as_u16(), status, "{}: {}", what(), answer.text());
                answer
            };
            let path = entry.path.replace("=testboard", &format!("={device_type}"));
            match entry {
                entry if entry.reboot => {}
                entry if entry.path == AUTH => self.let_in(entry, &name),
                entry if entry.path.contains("/deployments/next") => {
                    let token =
                        if entry.status == Some(401) { "another server's" } else { &self.token }.to_owned();
                    match entry.status {
                        // An older server did not know version 2; this one does.
                        Some(404) => {}
                        Some(200) => {
                            self.pin(&device_type, Some(image.clone()));
                            let told: Value = answered(self.send(entry, &path, &body, &token), 200).json();
                            id = told["id"].as_str().unwrap().to_owned();
                            let artifact = &told["artifact"];
                            assert_eq!(artifact["artifact_name"], "release-2");
                            assert_eq!(artifact["device_types_compatible"], json!([device_type]));
                            assert!(artifact["source"]["expire"].as_str().unwrap().ends_with('Z'));
                            let uri = artifact["source"]["uri"].as_str().unwrap();
                            link = uri.strip_prefix(&self.server.url).unwrap().to_owned();
                        }
                        status => drop(answered(self.send(entry, &path, &body, &token), status.unwrap())),
                    }
                }
                entry if entry.path.starts_with("/artifacts/") => {
                    let answer = self.send(entry, &link, "", "");
                    match &entry.headers.range {
                        None => assert_eq!(answered(answer, 200).body, bytes),
                        Some(_) => {
                            let range = format!("bytes 1000000-{}/{}", bytes.len() - 1, bytes.len());
                            assert_eq!(answer.header("content-range"), range, "{}", what());
                            assert_eq!(answered(answer, 206).body, &bytes[1_000_000..]);
                        }
                    }
                }
                entry if entry.path.contains("/inventory/") => {
                    answered(self.send(entry, &path, &body, &self.token), 200);
                }
                entry => {
                    if entry.status == Some(409) && self.pins.contains_key(&device_type) {
                        self.pin(&device_type, None);
                    }
                    let path = path.replace("e5a1d2c4-0b7e-4f5a-9c33-0f1e2d3c4b5a", &id);
                    answered(self.send(entry, &path, &body, &self.token), entry.status.unwrap());
                }
            }
        }
        name
    }
}

/// What a client provides after the update is the checksum of the image that it was sent then.
fn with_checksum(body: &str, image: &Image) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    let provides = match value.get("device_provides") {
        Some(_) => value.get_mut("device_provides").unwrap(),
        None => &mut value,
    };
    let is_new = provides.get("artifact_name").is_some_and(|name| name == "release-2");
    match provides.get_mut("rootfs-image.checksum").filter(|_| is_new) {
        Some(checksum) => *checksum = image.rootfs.hex().into(),
        None => return body.to_owned(),
    }
    value.to_string()
}

fn recorded() -> Vec<Recorded> {
    include_str!("../data/mender-requests.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Plays these cases; each is the case, the state of its newest deployment, whether the image is held there,
/// and the device's condition with a part of the reason.
fn check(cases: &[(&str, &str, bool, &str)], restarted: &[&str]) {
    let recorded = recorded();
    let mut stand = Stand::new();
    for (case, state, held, condition) in cases {
        let name = stand.play(&recorded, case, restarted.contains(case));
        let newest = stand.deployments(&name).into_iter().next();
        let is = newest.as_ref().map_or(("none", false), |newest| (newest.state.as_str(), newest.held));
        assert_eq!(is, (*state, *held), "{case}: {newest:?}");
        let device = stand.device(&name);
        let said = format!("{:?}: {}", device.condition, device.reason);
        assert!(said.contains(condition), "{case}: {said}");
        let report = device.report.unwrap();
        let runs = if *state == "success" { "release-2" } else { "release-1" };
        let runs = if *case == "b5" { "unknown" } else { runs };
        assert_eq!(report.image.unwrap().name, runs, "{case}");
        if *held {
            assert_eq!(report.quarantined.len(), 1, "{case}");
            let log = newest.unwrap().log.unwrap();
            assert!(log.contains("Running"), "{case}: {log}");
            let results: Vec<Report> =
                stand.server.admin().get(&format!("/api/v1/devices/{name}/reports?results=true")).json();
            let run = results[0].convergence.as_ref().unwrap();
            let back = run.reverted.as_ref().unwrap();
            assert!(back.rebooted && back.quarantined && !back.journal.is_empty(), "{case}: {back:?}");
        }
    }
}

#[test]
fn what_the_debian_client_sent_is_served() {
    check(
        &[
            ("a1", "success", false, "Good: "),
            ("a2", "failure", true, "Failed: reverted to"),
            ("a3", "aborted", false, "Good: "),
            ("a4", "none", false, "Good: "),
            ("a5", "none", false, "Good: "),
            ("a7", "failure", false, "Failed: fetch"),
            ("a8", "failure", true, "Failed: reverted to"),
            ("a9", "failure", false, "Failed: fetch"),
            ("a10", "success", false, "Good: "),
        ],
        &[],
    );
}

#[test]
fn what_the_newer_client_sent_is_served() {
    check(
        &[
            ("b1", "success", false, "Good: "),
            ("b2", "failure", true, "Failed: reverted to"),
            ("b3", "aborted", false, "Good: "),
            ("b4", "none", false, "Good: "),
            ("b5", "none", false, "Good: "),
            ("b6", "downloading", false, "downloads image release-2"),
        ],
        &["b1"],
    );
}

/// A client of ours that does what a real one would, as far as the server can tell.
pub struct Imitation {
    key: rcgen::KeyPair,
    identity: String,
    client: Client,
    token: String,
}

impl Imitation {
    pub fn new(server: &TestServer, identity: &str) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Self { key, identity: identity.into(), client: server.anonymous(), token: String::new() }
    }

    pub fn ask_in(&mut self, tenant_token: &str) -> Answer {
        use base64::Engine;
        let body = json!({
            "id_data": self.identity, "pubkey": self.key.public_key_pem(), "tenant_token": tenant_token,
        });
        let body = body.to_string();
        let signature = rcgen::SigningKey::sign(&self.key, body.as_bytes()).unwrap();
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        let answer =
            self.client.send("POST", AUTH, &[("x-men-signature", &signature)], body.as_bytes(), false);
        if answer.status.is_success() {
            self.token = answer.text();
        }
        answer
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let path = format!("/api/devices/{path}");
        self.client.send(method, &path, &[("authorization", &bearer)], body.to_string().as_bytes(), true)
    }

    pub fn next(&self, name: &str, checksum: &str) -> Answer {
        let provides = json!({
            "artifact_name": name, "device_type": "pi", "rootfs-image.checksum": checksum,
        });
        self.send("POST", "v2/deployments/device/deployments/next", &json!({ "device_provides": provides }))
    }

    /// The id and the link of what it is sent.
    #[track_caller]
    fn sent(&self, server: &TestServer, name: &str, checksum: &str) -> (String, String) {
        let told: Value = self.next(name, checksum).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let uri = text(&told["artifact"]["source"]["uri"]);
        (text(&told["id"]), uri.strip_prefix(&server.url).unwrap().to_owned())
    }

    fn says(&self, id: &str, status: &str) -> u16 {
        let path = format!("v1/deployments/device/deployments/{id}/status");
        self.send("PUT", &path, &json!({ "status": status })).status.as_u16()
    }
}

#[test]
fn who_is_let_in_and_who_is_not() {
    let server = TestServer::start();
    let mut early = Imitation::new(&server, "{}");
    early.ask_in("").refused(404, "write [mender] into server.toml");
    early.send("GET", "v1/deployments/device/deployments/next", &json!({})).refused(404, "[mender]");
    drop(server);

    let server = mender_server();
    let admin = server.admin();
    let mut waits = Imitation::new(&server, "{\"mac\":\"1\",\"hostname\":\"Gate-7\"}");
    assert_eq!(waits.ask_in("a token of another server").status.as_u16(), 401);
    assert_eq!(waits.ask_in("").status.as_u16(), 401, "it waits, and asks again");
    let waiting = |name: &str| {
        let device: Device = admin.get(&format!("/api/v1/devices/{name}")).json();
        format!("{:?} {}", device.condition, device.os)
    };
    assert_eq!(waiting("gate-7"), "Waiting Mender client, hostname=Gate-7 mac=1");
    // Another key under the same name waits under a name of its own.
    let mut other = Imitation::new(&server, "{\"hostname\":\"gate-7\"}");
    assert_eq!(other.ask_in("").status.as_u16(), 401);
    let devices: Vec<Device> = admin.get("/api/v1/devices").json();
    let second = devices.iter().find(|device| device.name.as_str().starts_with("mender-")).unwrap();
    let path = format!("/api/v1/devices/{}/accept", second.name);
    let as_taken = json!({"stage": "development", "as": "gate-7"});
    admin.post(&path, &as_taken).refused(409, "another device is called gate-7");
    assert!(admin.post(&path, &json!({"stage": "development", "as": "gate-8"})).status.is_success());
    assert_eq!(other.ask_in("").status.as_u16(), 200);
    admin
        .post("/api/v1/devices/gate-8/accept", &json!({"stage": "canary", "as": "x"}))
        .refused(409, "accepted already");

    // A join token in the tenant token lets in at once, also one that waits.
    let secret = server.join_secret("development", 2);
    assert_eq!(waits.ask_in(&secret).status.as_u16(), 200);
    let mut joins = Imitation::new(&server, "{\"name\":\"gate-9\"}");
    assert_eq!(joins.ask_in(&secret).status.as_u16(), 200);
    let request = json!({"stage": "development", "uses": 1, "valid_for": 600});
    let whole: Value = admin.post("/api/v1/device-tokens", &request).json();
    let mut also = Imitation::new(&server, "{}");
    assert_eq!(
        also.ask_in(whole["token"].as_str().unwrap()).status.as_u16(),
        200,
        "the token as it is shown"
    );
    let long = json!({ "name": "x".repeat(5000) }).to_string();
    Imitation::new(&server, &long).ask_in("").refused(400, "id_data is longer");
    let mut late = Imitation::new(&server, "{\"name\":\"gate-10\"}");
    assert_eq!(late.ask_in(&secret).status.as_u16(), 401, "used up: it waits");
    assert!(waiting("gate-10").starts_with("Waiting"));

    // Neither a wrong signature nor a wrong token opens anything.
    let body = json!({"id_data": "{}", "pubkey": joins.key.public_key_pem()}).to_string();
    let wrong = [("x-men-signature", "AAAA")];
    server
        .anonymous()
        .send("POST", AUTH, &wrong, body.as_bytes(), false)
        .refused(401, "signature verification");
    server.anonymous().send("POST", AUTH, &[], body.as_bytes(), false).refused(400, "X-MEN-Signature");
    server.anonymous().send("POST", AUTH, &wrong, b"{", false).refused(400, "body");
    assert_eq!(joins.next("a", "1").status.as_u16(), 204);
    let good = std::mem::replace(&mut joins.token, "x.y.z".into());
    joins.next("a", "1").refused(401, "unauthorized");
    joins.token = good;
    joins
        .send("POST", "v2/deployments/device/deployments/next", &json!({"device_provides": {}}))
        .refused(400, "artifact_name is missing");
    joins.send("PUT", "v1/inventory/device/attributes", &json!({})).refused(400, "body");
    admin.post("/api/v1/devices/gate-9/reject", &json!({}));
    joins.next("a", "1").refused(401, "unauthorized");
    assert_eq!(joins.ask_in("").status.as_u16(), 401);
    assert!(admin.delete("/api/v1/devices/gate-9").status.is_success());
    joins.next("a", "1").refused(401, "unauthorized");
}

#[test]
fn an_image_that_failed_waits_for_a_person_and_for_its_hours() {
    let mut stand = Stand::new();
    let admin = stand.server.admin();
    let image = publish(&admin, &make_artifact("2026.1", &["pi"], &rootfs()[..20_000], None));
    let newer = publish(&admin, &make_artifact("2026.2", &["pi"], &rootfs()[..30_000], None));
    let mut device = Imitation::new(&stand.server, "{\"name\":\"gate-1\"}");
    let secret = stand.server.join_secret("development", 1);
    assert_eq!(device.ask_in(&secret).status.as_u16(), 200);
    assert_eq!(device.next("old", "11").status.as_u16(), 204);
    stand.pin("pi", Some(image.clone()));
    let (id, link) = device.sent(&stand.server, "old", "11");
    assert_eq!(device.sent(&stand.server, "old", "11").0, id, "asked again, answered the same");
    let nobody = stand.server.anonymous();
    assert_eq!(nobody.get(&link).status.as_u16(), 200);
    let forged = link.replace("expires=1", "expires=2");
    nobody.get(&forged).refused(403, "not one of this server's");
    nobody.get(link.split('?').next().unwrap()).status.is_client_error().then_some(()).unwrap();

    // A merge that brings another image calls back whoever has not rebooted into this one.
    assert_eq!(device.says(&id, "downloading"), 204);
    stand.pin("pi", Some(newer.clone()));
    assert_eq!(device.says(&id, "installing"), 409);
    assert_eq!(device.says(&id, "failure"), 204);
    let (id, _) = device.sent(&stand.server, "old", "11");
    for status in ["downloading", "installing", "rebooting"] {
        assert_eq!(device.says(&id, status), 204);
    }
    stand.pin("pi", Some(image.clone()));
    assert_eq!(device.says(&id, "installing"), 204, "it is there already, and comes back by itself");
    assert_eq!(device.says(&id, "failure"), 204);
    assert_eq!(device.says("no-such", "failure"), 404);
    assert_eq!(device.says(&id, "rebootin"), 400);

    // The older image was not tried yet; the one that failed is not tried again by itself.
    stand.pin("pi", Some(newer.clone()));
    assert_eq!(device.next("old", "11").status.as_u16(), 204);
    let known = stand.device("gate-1");
    let report = known.report.unwrap();
    assert_eq!(report.quarantined.len(), 1);
    let waits = &report.waiting.unwrap().obstacles[0];
    assert_eq!(waits, "image 2026.2 failed on it; it is not tried again before: volary device retry gate-1");
    stand
        .server
        .with_role("viewer")
        .post("/api/v1/devices/gate-1/retry", &json!({}))
        .refused(403, "developer");
    assert!(admin.post("/api/v1/devices/gate-1/retry", &json!({})).status.is_success());
    admin.post("/api/v1/devices/gate-1/retry", &json!({})).refused(409, "nothing keeps");
    let (id, _) = device.sent(&stand.server, "old", "11");
    assert_eq!(device.says(&id, "downloading"), 204);
    assert!(admin.post("/api/v1/devices/gate-1/abort", &json!({})).status.is_success());
    assert_eq!(device.says(&id, "installing"), 409);
    assert_eq!(device.next("old", "11").status.as_u16(), 204);
    assert!(
        stand.device("gate-1").reason.contains("it was called back: by admin"),
        "{}",
        stand.device("gate-1").reason
    );
    admin.post("/api/v1/devices/gate-1/abort", &json!({})).refused(409, "no update on its way");
    assert_eq!(stand.server.events("device-abort"), ["admin calls back the update of gate-1"]);
    let called = stand.server.events("device-update-aborted");
    assert!(called[0].ends_with("was called back from gate-1: by admin"), "{called:?}");
    assert!(admin.post("/api/v1/devices/gate-1/retry", &json!({})).status.is_success());

    // What the device provides changed under an update, so it lost what it knew; then it starts over.
    let (id, _) = device.sent(&stand.server, "old", "11");
    device.next("unknown", "").refused(409, "has lost what it knew");
    let (again, _) = device.sent(&stand.server, "unknown", "");
    assert_ne!(id, again);
    // It runs the image, but its success never arrived.
    assert_eq!(device.next("2026.2", &newer.rootfs.hex()).status.as_u16(), 204);
    let known = stand.device("gate-1");
    assert_eq!(
        (format!("{:?}", known.condition), known.report.unwrap().image.unwrap().name),
        ("Good".into(), "2026.2".into())
    );
    assert_eq!(stand.deployments("gate-1")[0].state, "success");

    let other = crate::support::DeviceKey::new().join(&stand.server, "dev-9", "development");
    // Neither outside of the hours, nor while another one has the turn.
    let config = |more: &str| {
        format!("version: 1\nstages:\n  development: {{ branch: master, packages: rolling }}\n{more}")
    };
    stand.pin("pi", Some(image));
    for (more, why) in [
        ("stop: { development: fire }\n", "the fleet repository says stop: fire"),
        (
            "freeze:\n  - { stage: development, from: 2020-01-01, until: 2999-01-01, reason: rest }\n",
            "frozen: rest",
        ),
        ("rollout: { development: { per_site_at_most: 1 } }\n", "changing now: dev-9"),
    ] {
        let commit = stand.fleet.commit("volary.yml", &config(more), "Change the rules");
        stand.fleet.push("HEAD:master").unwrap();
        admin.get("/api/v1/promotion?from=development&to=canary");
        let turn = other.post("/device/v1/turn", &json!({"stage": "development", "commit": commit}));
        assert!(turn.status.is_success(), "{}", turn.text());
        assert_eq!(device.next("2026.2", &newer.rootfs.hex()).status.as_u16(), 204, "{more}");
        let reason = stand.device("gate-1").reason;
        assert!(reason.contains(why), "{reason}");
    }
}

#[test]
fn a_delta_goes_to_whoever_has_what_it_needs() {
    use volary_artifact::{PayloadDraft, Source};
    let mut stand = Stand::new();
    let admin = stand.server.admin();
    let whole = publish(&admin, &make_artifact("2026.2", &["pi"], &rootfs()[..50_000], None));
    let mut payload =
        PayloadDraft::module("mender-binary-delta", "2026.2", vec![Source::new("delta", 3, &b"abc"[..])]);
    payload.provides = BTreeMap::from([("rootfs-image.checksum".into(), whole.rootfs.hex())]);
    payload.depends = BTreeMap::from([("rootfs-image.checksum".into(), vec!["22".repeat(32)])]);
    let delta = publish(&admin, &crate::support::write_artifact("2026.2", &["pi"], payload, None));
    stand.pin("pi", Some(whole.clone()));
    let check = |name: &str, modules: Value, sum: &str, expected: &Image| {
        let mut device = Imitation::new(&stand.server, &json!({ "name": name }).to_string());
        let secret = stand.server.join_secret("development", 1);
        assert_eq!(device.ask_in(&secret).status.as_u16(), 200);
        let inventory =
            json!([{"name": "update_modules", "value": modules}, {"name": "os", "value": "Debian 12"}]);
        assert_eq!(device.send("PATCH", "v1/inventory/device/attributes", &inventory).status.as_u16(), 200);
        let (_, link) = device.sent(&stand.server, "old", sum);
        assert!(link.contains(&expected.artifact.hex()), "{name}");
        assert_eq!(stand.server.anonymous().get(&link).body.len() as u64, expected.size);
        assert_eq!(stand.device(name).report.unwrap().facts["os"], "Debian 12");
    };
    let both = json!(["single-file", "mender-binary-delta"]);
    check("gate-1", both.clone(), &"22".repeat(32), &delta);
    check("gate-2", both, &"33".repeat(32), &whole);
    check("gate-3", json!("single-file"), &"22".repeat(32), &whole);
    let shown: Image = admin.get(&format!("/api/v1/images/{}", delta.artifact.hex())).json();
    assert_eq!(shown.kept[0], "it leads to what stage development pins for pi");
}
