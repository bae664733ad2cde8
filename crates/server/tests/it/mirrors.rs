//! Mirrors and imports over the API, as `volary archive mirror` uses it.

use serde_json::json;
use volary_api::v1::archive::{Package, Release};
use volary_api::v1::mirror::{Asked, ImportStatus, Mirror, MirroredPackage};
use volary_archive::{Archive, Provenance, Settings, UploadPolicy};

use crate::support::{Client, TestServer, make_deb, wait_for};

/// An archive as another server would have it.
pub fn other(server: &TestServer) -> Archive {
    let settings = Settings::new("Other", "Other", vec!["amd64".parse().unwrap()]);
    let archive = Archive::create(&server.scratch().join("other"), &settings, volary_host::now()).unwrap();
    let debs = [make_deb(server.scratch(), "hello", "1.0"), make_deb(server.scratch(), "other", "1.0")];
    archive.include(&debs, &Provenance::default(), &UploadPolicy::Refuse, volary_host::now()).unwrap();
    archive
}

fn sync(client: &Client) -> Mirror {
    let asked: Asked = client.post("/api/v1/mirrors/upstream/sync", &json!({})).json();
    let get = || -> Mirror { client.get("/api/v1/mirrors/upstream").json() };
    wait_for("the sync to end", || {
        let mirror = get();
        let is_over = mirror.last.as_ref().is_some_and(|last| last.at >= asked.at);
        (mirror.running.is_none() && is_over).then_some(mirror)
    })
}

pub fn definition(archive: &Archive) -> serde_json::Value {
    json!({
        "name": "upstream", "url": archive.public_dir(), "suite": "rolling", "components": ["main"],
        "architectures": ["amd64"], "key": "", "interval": 0,
        "filter": {"packages": ["hello"], "closure": true},
    })
}

#[test]
fn a_mirror_goes_into_a_release() {
    let mut server = TestServer::start();
    let archive = other(&server);
    let admin = server.admin();
    let keyring = volary_api::base64(archive.public_key().as_bytes());
    let add = json!({"definition": definition(&archive), "keyring": keyring});
    let developer = server.with_role("developer");
    developer.post("/api/v1/mirrors", &add).refused(403, "");
    let made: Mirror = admin.post("/api/v1/mirrors", &add).json();
    assert_eq!(made.definition.unwrap().key.as_deref(), Some("upstream.key"));
    admin.post("/api/v1/mirrors", &add).refused(409, "there is a mirror upstream already");
    let mirror = sync(&developer);
    assert_eq!(mirror.last.unwrap().problem, None);
    assert_eq!(mirror.state.unwrap().packages, 1);
    let packages: Vec<MirroredPackage> = developer.get("/api/v1/mirrors/upstream/packages").json();
    assert_eq!((packages[0].name.as_str(), packages[0].reason.as_str()), ("hello", "the filter names hello"));
    let release: Release = developer.post("/api/v1/releases", &json!({"name": "v1"})).json();
    assert_eq!(release.revisions[0].packages, 1);

    // Somebody else signs: rolling stays, and everybody can see why.
    let path = archive.public_dir().join("dists/rolling/InRelease");
    let text = volary_host::read_to_string(&path).unwrap();
    volary_host::write_atomic(&path, text.replace("Label: Other", "Label: Evil").as_bytes(), 0o644).unwrap();
    let problem = sync(&developer).last.unwrap().problem.unwrap();
    assert!(problem.contains("the signature of dists/rolling/InRelease is not accepted"), "{problem}");
    assert_eq!(server.events("mirror-failed").len(), 1);
    volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    server.stop();
    server.resume();
    let (admin, viewer) = (server.admin(), server.with_role("viewer"));
    let mirrors: Vec<Mirror> = viewer.get("/api/v1/mirrors").json();
    assert_eq!(mirrors[0].state.as_ref().unwrap().packages, 1);
    assert!(admin.delete("/api/v1/mirrors/upstream").status.is_success());
    admin.get("/api/v1/mirrors/upstream").refused(404, "no mirror upstream");
    let rolling: Vec<Package> = admin.get("/api/v1/packages?suite=rolling").json();
    assert!(rolling.is_empty());
    let kept: Vec<Package> = admin.get("/api/v1/packages?suite=v1/r1").json();
    assert_eq!(kept.len(), 1);
}

#[test]
fn an_import_runs_beside_and_says_how_it_ended() {
    let server = TestServer::start();
    let archive = other(&server);
    let admin = server.admin();
    let keyring = volary_api::base64(archive.public_key().as_bytes());
    let request = json!({"url": archive.public_dir(), "suite": "rolling", "keyring": keyring});
    let import = |request: &serde_json::Value| {
        let begun: ImportStatus = admin.post("/api/v1/imports", request).json();
        let get = || -> ImportStatus { admin.get(&format!("/api/v1/imports/{}", begun.id)).json() };
        wait_for("the import to end", || Some(get()).filter(|status| status.running.is_none()))
    };
    let ended = import(&request);
    assert_eq!(ended.added, ["hello 1.0 (all)", "other 1.0 (all)"]);
    let again = import(&request).report.unwrap();
    assert_eq!((again.added, again.packages), (0, 2));
    let other = json!({"url": archive.public_dir(), "suite": "stable"});
    let problem = import(&other).report.unwrap().problem.unwrap();
    assert!(problem.contains("has no suite stable"), "{problem}");
    admin.post("/api/v1/imports", &json!({"url": "x", "suite": "y"})).refused(400, "is no address");
    admin.get("/api/v1/imports/99").refused(404, "import again");
}
