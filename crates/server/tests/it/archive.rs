//! The archive over HTTP: uploads, releases, and its files as apt asks for them.

use serde_json::{Value, json};
use volary_api::v1::archive::{Included, Picked, Pin, Release};
use volary_api::v1::status::Trace;

use crate::support::{Client, TestServer, make_deb};

const UPLOAD: &str = "/api/v1/uploads/0123456789abcdef0123456789abcdef";

pub fn include(server: &TestServer, client: &Client, name: &str, version: &str) -> Included {
    let deb = make_deb(server.scratch(), name, version);
    let bytes = std::fs::read(&deb).unwrap();
    let file = deb.file_name().unwrap().to_str().unwrap();
    let sent = client.put(&format!("{UPLOAD}/{file}"), &bytes);
    assert!(sent.status.is_success(), "{}", sent.text());
    client.post(&format!("{UPLOAD}/include"), &json!({})).json()
}

#[test]
fn a_package_goes_from_upload_to_release() {
    let server = TestServer::start();
    let developer = server.with_role("developer");
    let included = include(&server, &developer, "hello", "1.0");
    assert_eq!((included.added.len(), included.added[0].version.as_str()), (1, "1.0"));
    developer.post(&format!("{UPLOAD}/include"), &json!({})).refused(404, "no upload with this id");
    let again = include(&server, &developer, "hello", "1.0");
    assert_eq!((again.added.len(), again.already_there.len()), (0, 1));

    let release: Release = developer.post("/api/v1/releases", &json!({"name": "v1.0"})).json();
    assert_eq!(release.revisions.len(), 1);
    developer.post("/api/v1/releases", &json!({"name": "v1.0"})).refused(409, "already");
    include(&server, &developer, "hello", "1.1");
    let pick = json!({"packages": ["hello"], "dry_run": true});
    let picked: Picked = developer.post("/api/v1/releases/v1.0/picks", &pick).json();
    assert_eq!((picked.changes[0].to.as_deref(), picked.dry_run), (Some("1.1"), true));
    let picked: Picked =
        developer.post("/api/v1/releases/v1.0/picks", &json!({"packages": ["hello"]})).json();
    assert_eq!(picked.release.to_string(), "v1.0/r2");
    let difference: Value = developer.get("/api/v1/diff?from=v1.0/r1&to=v1.0/r2").json();
    let change = &difference["packages"][0];
    assert_eq!((&change["from"], &change["to"]), (&json!("1.0"), &json!("1.1")));
    assert!(developer.post("/api/v1/releases/v1.0/freeze", &json!({})).status.is_success());
    developer.post("/api/v1/releases/v1.0/picks", &json!({"packages": ["hello"]})).refused(409, "frozen");
    let pin: Pin = developer.get("/api/v1/releases/v1.0/pin").json();
    assert_eq!(pin.release.to_string(), "v1.0/r2");
    let first: Pin = developer.get("/api/v1/releases/v1.0/pin?revision=r1").json();
    assert_ne!(first.digest, pin.digest);
    developer.get("/api/v1/releases/v2/pin").refused(404, "volary release list");

    let trace: Trace = developer.get("/api/v1/trace?package=hello&version=1.1").json();
    assert_eq!(trace.suites, ["rolling", "v1.0/r2"]);
    assert_eq!(trace.stages.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>(), ["development"]);
    for kind in ["package-included", "release-cut", "release-picked", "release-frozen"] {
        assert!(!server.events(kind).is_empty(), "{kind}");
    }
}

/// A tar archive of files with these names and contents.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn many_files_come_in_one_request() {
    let server = TestServer::start();
    let developer = server.with_role("developer");
    let debs: Vec<(String, Vec<u8>)> = (0..30)
        .map(|number| {
            let path = make_deb(server.scratch(), &format!("part{number}"), "1.0");
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    let (first, second) = debs.split_at(20);
    for part in [first, second] {
        let files: Vec<(&str, &[u8])> =
            part.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let sent = developer.put(UPLOAD, &tar_of(&files));
        assert!(sent.status.is_success(), "{}", sent.text());
    }
    let included: Included = developer.post(&format!("{UPLOAD}/include"), &json!({})).json();
    assert_eq!(included.added.len(), 30);
    // A large import must not drive everything else out of the events.
    let events = server.events("package-included");
    assert_eq!(events.len(), 21);
    assert!(events.iter().any(|text| text.starts_with("10 more packages were included by ")), "{events:?}");

    let whole = tar_of(&[("a.deb", &[b'x'; 3000])]);
    developer.put(UPLOAD, &whole[..2000]).refused(400, "the .tar cannot be read");
    developer.put(UPLOAD, b"garbage").refused(400, "the .tar cannot be read");
    developer.put(UPLOAD, &tar_of(&[("a.deb", b"x")])).refused(400, "\"a.deb\" is in this upload twice");
    developer.put(UPLOAD, &tar_of(&[("sub/b.deb", b"x")])).refused(400, "not the name of a package file");
    developer.put("/api/v1/uploads/xyz", b"").refused(400, "32 lower-case hexadecimal digits");
    // The refusal arrives although most of the body was not read.
    let large = tar_of(&[("sub/b.deb", &vec![0; 20 << 20])]);
    developer.put(UPLOAD, &large).refused(400, "not the name of a package file");
}

#[test]
fn bad_uploads_are_refused_without_naming_our_folders() {
    let server = TestServer::start();
    let developer = server.with_role("developer");
    developer.put("/api/v1/uploads/xyz/a.deb", b"").refused(400, "32 lower-case hexadecimal digits");
    developer.put(&format!("{UPLOAD}/..%2Fx"), b"").refused(400, "not the name of a package file");
    assert!(developer.put(&format!("{UPLOAD}/a.deb"), b"garbage").status.is_success());
    let answer = developer.post(&format!("{UPLOAD}/include"), &json!({}));
    answer.refused(422, "a.deb is refused");
    assert!(!answer.text().contains("uploads"), "{}", answer.text());
    assert!(developer.put(&format!("{UPLOAD}/a.txt"), b"x").status.is_success());
    developer.post(&format!("{UPLOAD}/include"), &json!({})).refused(400, "no .changes, .deb or .dsc file");
    assert!(developer.put(&format!("{UPLOAD}/a.changes"), b"Format: 1.8\n").status.is_success());
    developer.post(&format!("{UPLOAD}/include"), &json!({"allow_unsigned": true})).refused(403, "role admin");
    // The refusal arrives although it is made before the body was read.
    let large = vec![0; 20 << 20];
    server.with_role("viewer").put(&format!("{UPLOAD}/b.deb"), &large).refused(403, "role upload");
}

#[test]
fn files_are_served_as_apt_asks_for_them() {
    let server = TestServer::start();
    include(&server, &server.admin(), "hello", "1.0");
    let apt = server.anonymous();
    let whole = apt.get("/archive/dists/rolling/InRelease");
    assert!(whole.text().starts_with("-----BEGIN PGP SIGNED MESSAGE-----"));
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    let modified = whole.header("last-modified").to_owned();
    for (name, value) in [("if-modified-since", modified.as_str()), ("if-none-match", whole.header("etag"))] {
        let same = apt.get_with("/archive/dists/rolling/InRelease", &[(name, value)]);
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{name}");
        assert_eq!(same.header("last-modified"), modified);
    }
    let part = apt.get_with("/archive/dists/rolling/InRelease", &[("range", "bytes=5-9")]);
    assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &whole.body[5..10]));
    assert_eq!(part.header("content-range"), format!("bytes 5-9/{}", whole.body.len()));
    let stale = [("range", "bytes=5-9"), ("if-range", "\"old\"")];
    assert_eq!(apt.get_with("/archive/dists/rolling/InRelease", &stale).body, whole.body);
    let beyond = apt.get_with("/archive/dists/rolling/InRelease", &[("range", "bytes=999999-")]);
    assert_eq!(beyond.status.as_u16(), 416);

    let packages = apt.get("/archive/dists/rolling/main/binary-amd64/Packages.gz");
    assert_eq!(packages.header("content-type"), "application/gzip");
    assert_eq!(packages.header("content-encoding"), "", "apt compares these bytes with a hash");
    for path in
        ["../keys/signing.asc", "..%2fkeys/signing.asc", "dists/%2e%2e/%2e%2e/journal", "dists", "nothing"]
    {
        apt.get(&format!("/archive/{path}")).refused(404, "");
    }
}
