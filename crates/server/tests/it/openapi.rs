//! The description of the API is whole, and the server does what it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use volary_api::v1::alert::AlertState;
use volary_api::v1::fleet::DeviceToken;
use volary_api::v1::mirror::ImportStatus;
use volary_server::openapi;

use crate::alerts::{Reporter, configure, wait_for_alert};
use crate::builds::{changes, claimed, records};
use crate::contract::{self, paths};
use crate::cves::tracker;
use crate::mender::Imitation;
use crate::metrics::samples;
use crate::mirrors::{definition, other};
use crate::support::{Client, TestServer, lock_text, make_artifact, publish, wait_for, write};

const STAGES: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
rollout:
  development: { waves: [100%], pause: 0s }
gates:
  canary: { external: { bench: 7d } }
";

const SETTINGS: &str = "
[mender]
poll = 60

[feeds.webhook.ops]
url = \"http://127.0.0.1:9/\"

[[status_hook]]
name = \"program\"
kind = \"command\"
command = [\"/bin/true\"]

[[export]]
name = \"mirror\"
to = \"/nowhere/at/all\"
suites = [\"rolling\"]
";

/// A server with some of everything.
struct Furnished {
    server: TestServer,
    admin: Client,
    device: Client,
    build: i64,
    alert: u64,
    import: u64,
    image: String,
    commit: String,
}

impl Furnished {
    fn new() -> Self {
        let mut server = TestServer::made();
        configure(&server, SETTINGS);
        let build = a_build(&server);
        server.resume();
        let admin = server.admin();
        wait_for("the build's package", || {
            let build: Value = admin.get(&format!("/api/v1/builds/{build}")).json();
            (build["state"] == "succeeded").then_some(())
        });
        done(admin.post("/api/v1/releases", &json!({"name": "v1"})));
        done(admin.put("/api/v1/cves?release=bookworm", tracker().to_string().as_bytes()));
        let image = publish(&admin, &make_artifact("2026.1", &["pi"], &[7; 5000], None));
        let fleet = server.fleet_clone();
        fleet.commit("volary.yml", STAGES, "Have two stages");
        let commit = fleet.commit("volary.lock", &lock_text("pi", &image), "Pin an image");
        fleet.push("HEAD:master").unwrap();
        let said = json!({"gate": "bench", "commit": commit, "say": "go", "reason": "it ran a night"});
        done(admin.post("/api/v1/gate-statuses", &said));
        let token: DeviceToken = admin
            .post("/api/v1/device-tokens", &json!({"stage": "development", "uses": 1, "valid_for": 60}))
            .json();
        let mut gate = Imitation::new(&server, "{\"hostname\":\"gate-7\"}");
        done(gate.ask_in(&token.token));
        // Before a device fails, which stops the rollout.
        wait_for("the gate's image", || (gate.next("2025.1", "00").status == 200).then_some(()));
        let mut reporter = Reporter::join(&server, "dev-1");
        reporter.fails("dns");
        reporter.good();
        reporter.fails("dns");
        let device = reporter.into_client();
        done(device.post("/device/v1/metrics", &samples("1")));
        let alert = wait_for_alert(&server, AlertState::Firing, 1).id;
        let silence = json!({"matchers": ["stage=development"], "seconds": 60, "reason": "known"});
        done(admin.post("/api/v1/silences", &silence));
        let import = upstream(&server, &admin);
        let user = json!({"name": "ada", "role": "viewer", "password": "a long enough password"});
        done(admin.post("/api/v1/users", &user));
        let login = json!({"user": "ada", "password": "a long enough password"});
        done(server.anonymous().post("/api/v1/login", &login));
        Self { build, alert, import, commit, device, image: image.artifact.hex(), admin, server }
    }
}

#[track_caller]
fn done(answer: crate::support::Answer) {
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
}

/// A build that succeeded, with all that it left; a comparison of it waits.
fn a_build(server: &TestServer) -> i64 {
    let id = claimed(server);
    changes(server, id, "1.0+git1");
    let layout = server.layout();
    std::fs::create_dir_all(layout.build_log(id).parent().unwrap()).unwrap();
    write(layout.build_log(id), "dpkg-buildpackage\n");
    write(layout.buildinfo(id), "Format: 1.0\n");
    records(server, async |store| {
        let built = ["pulse=1.0+git1".to_owned()];
        store.build_built(id, "1.0+git1", volary_model::BuildMethod::Native, &built).await.unwrap();
        store.keep_buildinfo(id, &volary_model::Digest::from_bytes([1; 32])).await.unwrap();
        store.reproduce(id, "ada", volary_host::now()).await.unwrap();
    });
    id
}

/// A mirror that was synced, and an import that ended; returns its number.
fn upstream(server: &TestServer, admin: &Client) -> u64 {
    let archive = other(server);
    let keyring = volary_api::base64(archive.public_key().as_bytes());
    done(admin.post("/api/v1/mirrors", &json!({"definition": definition(&archive), "keyring": keyring})));
    wait_for("the mirror", || {
        let mirror: Value = admin.get("/api/v1/mirrors/upstream").json();
        mirror["state"].is_object().then_some(())
    });
    let import = json!({"url": archive.public_dir(), "suite": "rolling", "keyring": keyring});
    let begun: ImportStatus = admin.post("/api/v1/imports", &import).json();
    wait_for("the import", || {
        let status: ImportStatus = admin.get(&format!("/api/v1/imports/{}", begun.id)).json();
        status.report.map(|_| ())
    });
    begun.id
}

/// Where each route that only reads is asked for something that is there.
fn example(id: &str, of: &Furnished) -> String {
    let (build, alert, import, image, commit) = (of.build, of.alert, of.import, &of.image, &of.commit);
    match id {
        "getStatus" => "/api/v1/status?devices=1".into(),
        "tracePackage" => "/api/v1/trace?package=pulse&version=1.0%2Bgit1&architecture=all".into(),
        "listEvents" => "/api/v1/events?limit=1000".into(),
        "getOpenapi" => "/api/v1/openapi.json".into(),
        "previewPromotion" => "/api/v1/promotion?from=development&to=canary".into(),
        "listGates" => format!("/api/v1/gates?to=canary&commit={commit}"),
        "listGateStatuses" => format!("/api/v1/gate-statuses?commit={commit}"),
        "getServerKeys" => "/api/v1/server-keys".into(),
        "getCves" => "/api/v1/cves".into(),
        "listRollouts" => "/api/v1/rollouts".into(),
        "listDevices" => "/api/v1/devices".into(),
        "getDevice" => "/api/v1/devices/dev-1".into(),
        "listReports" => "/api/v1/devices/dev-1/reports?limit=2".into(),
        "listDeployments" => "/api/v1/devices/gate-7/deployments".into(),
        "listMetrics" => "/api/v1/devices/dev-1/metrics".into(),
        "getSeries" => "/api/v1/devices/dev-1/metrics/cpu_seconds_total?step=60".into(),
        "listJournalErrors" => "/api/v1/devices/dev-1/errors".into(),
        "listAlerts" => "/api/v1/alerts?resolved=10".into(),
        "getAlert" => format!("/api/v1/alerts/{alert}"),
        "listAlertChanges" => "/api/v1/alert-changes".into(),
        "listSilences" => "/api/v1/silences?all=true".into(),
        "listFeeds" => "/api/v1/feeds".into(),
        "listPackages" => "/api/v1/packages?suite=v1/r1".into(),
        "diffSuites" => "/api/v1/diff?from=v1/r1&to=rolling".into(),
        "listReleases" => "/api/v1/releases".into(),
        "getRelease" => "/api/v1/releases/v1".into(),
        "getPin" => "/api/v1/releases/v1/pin".into(),
        "listExports" => "/api/v1/exports".into(),
        "whyPackageStays" => "/api/v1/archive/why?package=pulse".into(),
        "listKeys" => "/api/v1/archive/keys".into(),
        "listMirrors" => "/api/v1/mirrors".into(),
        "getMirror" => "/api/v1/mirrors/upstream".into(),
        "listMirroredPackages" => "/api/v1/mirrors/upstream/packages".into(),
        "getImport" => format!("/api/v1/imports/{import}"),
        "listImages" => "/api/v1/images".into(),
        "getImage" => format!("/api/v1/images/{image}"),
        "downloadImage" => format!("/images/{image}"),
        "listSources" => "/api/v1/sources".into(),
        "listBuilds" => "/api/v1/builds".into(),
        "getBuild" => format!("/api/v1/builds/{build}"),
        "getBuildLog" => format!("/api/v1/builds/{build}/log?from=0"),
        "getBuildinfo" => format!("/api/v1/builds/{build}/buildinfo"),
        "listBuildStatuses" => format!("/api/v1/builds/{build}/statuses"),
        "getReproduction" => format!("/api/v1/builds/{build}/reproduction"),
        "getMe" => "/api/v1/me".into(),
        "listUsers" => "/api/v1/users".into(),
        "listSessions" => "/api/v1/sessions".into(),
        "listTokens" => "/api/v1/tokens".into(),
        "getDesired" => "/device/v1/desired".into(),
        "scrape" => "/metrics".into(),
        "discover" => "/prometheus/sd".into(),
        "health" => "/healthz".into(),
        _ => panic!("write an example of {id} here"),
    }
}

/// Each client compares what it gets with the document; here it gets some of everything.
#[test]
fn every_route_that_reads_answers_as_it_is_described() {
    let furnished = Furnished::new();
    for (name, operation) in operations().filter(|(name, _)| name.starts_with("get ")) {
        let path = example(operation["operationId"].as_str().unwrap(), &furnished);
        assert_eq!(contract::route_of(&path), name.strip_prefix("get "), "{path}");
        let client = if path.starts_with("/device/") { &furnished.device } else { &furnished.admin };
        let ask =
            || Some(client.get(&path)).filter(|answer| !["[]", "null", ""].contains(&answer.text().as_str()));
        let answer = wait_for(&name, ask);
        assert_eq!(answer.status.as_u16(), 200, "{path}: {}", answer.text());
    }
    assert!(furnished.server.url.starts_with("https://"));
}

/// What is refused before a handler begins is refused in the same form.
#[test]
fn a_query_or_body_that_is_wrong_is_refused_as_described() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.get("/api/v1/trace?package=x").refused(400, "missing field `version`");
    admin.get("/api/v1/events?limit=many").refused(400, "limit: invalid digit found in string");
    admin.get("/api/v1/imports/one").refused(400, "Cannot parse `one`");
    admin.get("/api/v1/devices/%ff").refused(400, "UTF-8");
    admin.post("/api/v1/releases", &json!({"nam": "v1"})).refused(400, "missing field `name`");
    admin.post_bytes("/api/v1/releases", b"name: v1", &[]).refused(400, "the request's body is not");
    admin.delete("/api/v1/releases").refused(405, "does not take this method");
    admin.get("/api/v1/nothing").refused(404, "nothing at this address");
    server.anonymous().get("/api/v1/releases").refused(401, "volary login");
}

#[test]
fn the_server_serves_the_document_to_anybody() {
    let server = TestServer::start();
    let served: Value = server.anonymous().get("/api/v1/openapi.json").json();
    assert_eq!(&served, openapi());
}

fn operations() -> impl Iterator<Item = (String, &'static Value)> {
    paths().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

#[test]
fn every_route_has_a_name_of_its_own_and_a_sentence() {
    let mut ids = BTreeSet::new();
    for (name, operation) in operations() {
        let text = |key: &str| operation[key].as_str().unwrap();
        assert!(ids.insert(text("operationId")), "{name}: its id is another one's too");
        assert!(text("summary").ends_with('.'), "{name}: {}", text("summary"));
        for parameter in operation["parameters"].as_array().unwrap() {
            let text = parameter["description"].as_str().unwrap();
            assert!(text.ends_with('.'), "{name}: {parameter}");
        }
    }
    for (id, needed) in [("silence", true), ("collectGarbage", false), ("upload", true)] {
        let (name, operation) = operations().find(|(_, operation)| operation["operationId"] == id).unwrap();
        assert_eq!(operation["requestBody"]["required"], needed, "{name}");
    }
    assert!(ids.len() > 110, "{}", ids.len());
}

/// The tables above the wire types are for those who write clients in Rust.
#[test]
fn the_tables_of_the_wire_types_have_every_route() {
    let mut tables = BTreeSet::new();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../api/src/v1")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for row in text.lines().filter(|line| line.starts_with("//! | `")) {
            let cell = row.split('|').nth(1).unwrap();
            let words: Vec<&str> = cell.split([' ', '`', '?', '[']).filter(|word| !word.is_empty()).collect();
            let path = words.iter().find(|word| word.starts_with('/')).unwrap();
            // The archive and the images have rows for what no route of the API is.
            if !path.starts_with("/api/v1/") && !path.starts_with("/device/v1/") {
                continue;
            }
            let methods = words.iter().filter(|word| ["GET", "POST", "PUT", "DELETE"].contains(word));
            tables.extend(methods.map(|method| format!("{} {path}", method.to_lowercase())));
        }
    }
    let described: BTreeSet<String> = operations()
        .map(|(name, _)| name)
        .filter(|name| name.contains(" /api/v1/") || name.contains(" /device/v1/"))
        .filter(|name| name != "get /api/v1/openapi.json")
        .collect();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (described.difference(&tables).collect(), tables.difference(&described).collect());
    assert!(missing.is_empty() && unknown.is_empty(), "not in a table: {missing:?}; no route: {unknown:?}");
}

#[test]
fn every_schema_can_be_used_and_has_a_name_of_its_own() {
    let schemas = openapi()["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        // What schemars does with two types of one name.
        assert!(!name.ends_with(char::is_numeric), "two types are called {name}");
        contract::validator(schema, true);
    }
    for (name, operation) in operations() {
        for given in operation["responses"].as_object().unwrap().values() {
            let contents = given.get("content").and_then(Value::as_object);
            for content in contents.into_iter().flat_map(serde_json::Map::values) {
                if let Some(schema) = content.get("schema") {
                    contract::validator(schema, true);
                    assert!(schema.is_object(), "{name}");
                }
            }
        }
    }
}
