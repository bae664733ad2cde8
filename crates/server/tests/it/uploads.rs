//! Uploads by build machines: tokens that may do nothing else, one request for each package, and
//! `curl` as people use it.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use volary_api::v1::archive::Included;
use volary_api::v1::fleet::{Token, TokenSecret};
use volary_host::Cmd;

use crate::support::{Client, TestServer, make_deb, wait_for, write};

/// A token that may upload these packages only.
fn ci_token(server: &TestServer, packages: &[&str]) -> String {
    let request = json!({"name": "ci", "role": "upload", "limits": {"packages": packages}});
    server.admin().post("/api/v1/tokens", &request).json::<TokenSecret>().secret
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn put(client: &Client, deb: &Path) -> crate::support::Answer {
    client.put(&format!("/api/v1/upload/{}", file_name(deb)), &std::fs::read(deb).unwrap())
}

#[test]
fn a_token_for_uploads_brings_its_packages_and_does_nothing_else() {
    let server = TestServer::start();
    let client = Client::new(&server, Some(ci_token(&server, &["hello*"])), None);
    let hello = make_deb(server.scratch(), "hello", "1.0");
    let first = put(&client, &hello);
    assert_eq!(first.status.as_u16(), 201, "{}", first.text());
    assert_eq!(first.json::<Included>().added.len(), 1);
    let again = put(&client, &hello);
    assert_eq!(again.status.as_u16(), 200);
    let again: Included = again.json();
    assert_eq!((again.added.len(), again.already_there[0].version.as_str()), (0, "1.0"));

    put(&client, &make_deb(server.scratch(), "openssh-server", "1.0")).refused(422, "may upload hello* only");
    assert!(server.events("upload-refused")[0].contains("openssh-server"));
    for path in
        ["/api/v1/packages", "/api/v1/status", "/api/v1/events", "/api/v1/releases", "/api/v1/archive/keys"]
    {
        client.get(path).refused(403, "is a upload's");
    }
    client.get("/git/fleet.git/info/refs?service=git-upload-pack").refused(403, "upload");
    client.post("/api/v1/releases", &json!({"name": "v1"})).refused(403, "upload");
    let home = client.get_with("/", &[]);
    assert_ne!(home.status.as_u16(), 200, "the page is for people");
    server.with_role("viewer").put("/api/v1/upload/a.deb", b"x").refused(403, "role upload");
    server.anonymous().put("/api/v1/upload/a.deb", b"x").refused(401, "token");

    let tokens: Vec<Token> = server.admin().get("/api/v1/tokens").json();
    let ci = tokens.iter().find(|token| token.name == "ci").unwrap();
    assert_eq!(ci.limits.as_ref().unwrap().packages, ["hello*"]);
    let bad = json!({"name": "x", "role": "upload", "limits": {"packages": ["Hello"]}});
    server.admin().post("/api/v1/tokens", &bad).refused(400, "no pattern of package names");
    let bad = json!({"name": "x", "role": "admin", "limits": {"packages": ["hello"]}});
    server.admin().post("/api/v1/tokens", &bad).refused(400, "only a token with the role upload");
}

#[test]
fn bad_uploads_are_refused_with_the_reason_and_leave_nothing() {
    let server = TestServer::start();
    let client = Client::new(&server, Some(ci_token(&server, &[])), None);
    let put = |name: &str, bytes: &[u8]| client.put(&format!("/api/v1/upload/{name}"), bytes);
    put("a.deb", b"garbage").refused(422, "a.deb is refused");
    put("a.txt", b"x").refused(400, "cannot be uploaded alone");
    put("..%2Fa.deb", b"x").refused(400, "not the name of a package file");
    put("a.tar", b"garbage").refused(400, "the .tar cannot be read");
    let changed = server.scratch().join("changed");
    std::fs::create_dir(&changed).unwrap();
    let one = make_deb(server.scratch(), "hello", "1.0");
    assert!(put("hello.deb", &std::fs::read(&one).unwrap()).status.is_success());
    Cmd::new("dpkg-deb").args(["-R"]).args([&one, &changed.join("tree")]).check().unwrap();
    write(changed.join("tree/new"), "other");
    let other = changed.join("hello.deb");
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-b"])
        .args([&changed.join("tree"), &other])
        .check()
        .unwrap();
    put("hello.deb", &std::fs::read(&other).unwrap()).refused(422, "with other content");
    let rest = std::fs::read_dir(server.layout().uploads()).unwrap().count();
    assert_eq!(rest, 0, "nothing is left of uploads");
}

/// A `.changes` that names these files.
fn changes(dir: &Path, files: &[PathBuf]) -> PathBuf {
    let sum = |program: &str, file: &Path| {
        Cmd::new(program).arg(file).check().unwrap().text().split(' ').next().unwrap().to_owned()
    };
    let mut text = "Format: 1.8\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nSource: hello\nBinary: hello\n\
                    Architecture: all\nVersion: 1.0\nDistribution: unstable\nMaintainer: T <t@example.com>\n\
                    Description:\n hello - test\nChanges:\n hello (1.0) unstable; urgency=low\n .\n   * New.\n"
        .to_owned();
    for (field, program, more) in [
        ("Checksums-Sha1", "sha1sum", ""),
        ("Checksums-Sha256", "sha256sum", ""),
        ("Files", "md5sum", "misc optional "),
    ] {
        text += &format!("{field}:\n");
        for file in files {
            let size = std::fs::metadata(file).unwrap().len();
            text += &format!(" {} {size} {more}{}\n", sum(program, file), file_name(file));
        }
    }
    let path = dir.join("hello_1.0_all.changes");
    write(&path, text);
    path
}

#[test]
fn curl_uploads_in_one_line() {
    let server = TestServer::start();
    let token = ci_token(&server, &["hello*"]);
    let deb = make_deb(server.scratch(), "hello", "1.0");
    let curl = |args: &[&str], stdin: Vec<u8>| {
        let ca = server.ca().display().to_string();
        let output = Cmd::new("curl")
            .args([
                "-sS",
                "--fail-with-body",
                "--cacert",
                &ca,
                "-H",
                &format!("Authorization: Bearer {token}"),
            ])
            .args(["-w", "\n%{http_code}"])
            .args(args)
            .stdin(stdin)
            .run()
            .unwrap();
        output.text() + &String::from_utf8_lossy(&output.stderr)
    };
    let upload = format!("{}/api/v1/upload/", server.url);
    let file = deb.display().to_string();
    let said = curl(&["-T", &file, &upload], Vec::new());
    assert!(said.contains("\"added\":[{\"name\":\"hello\"") && said.ends_with("201"), "{said}");
    let said = curl(&["--data-binary", &format!("@{file}"), &format!("{upload}hello.deb")], Vec::new());
    assert!(said.contains("\"already_there\":[{\"name\":\"hello\"") && said.ends_with("200"), "{said}");

    let doc = make_deb(server.scratch(), "hello-doc", "1.0");
    let changes = changes(server.scratch(), &[deb.clone(), doc.clone()]);
    let tar = |files: &[&Path]| {
        let names = files.iter().map(|file| file_name(file));
        Cmd::new("tar").cwd(server.scratch()).arg("-c").args(names).check().unwrap().stdout
    };
    let said = curl(&["-T", "-", &format!("{upload}hello.tar")], tar(&[&changes, &deb]));
    assert!(said.contains("hello-doc_1.0_all.deb") && said.contains("\n422"), "{said}");
    let said = curl(&["-T", "-", &format!("{upload}hello.tar")], tar(&[&changes, &deb, &doc]));
    assert!(said.contains("\"added\":[{\"name\":\"hello-doc\"") && said.ends_with("201"), "{said}");
}

#[test]
fn an_upload_is_included_only_when_nobody_writes_to_it() {
    let server = TestServer::start();
    let token = ci_token(&server, &[]);
    let client = Client::new(&server, Some(token.clone()), None);
    let bytes = std::fs::read(make_deb(server.scratch(), "hello", "1.0")).unwrap();
    let pipe = server.scratch().join("pipe");
    Cmd::new("mkfifo").arg(&pipe).check().unwrap();
    let upload = format!("/api/v1/uploads/{}", "ab".repeat(16));
    let include = || client.post(&format!("{upload}/include"), &json!({}));
    let send = format!(
        "cat '{}' | curl -sS -f --cacert '{}' -H 'Authorization: Bearer {token}' -T - '{}{upload}/hello.deb'",
        pipe.display(),
        server.ca().display(),
        server.url
    );
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| Cmd::new("sh").args(["-c", &send]).check().unwrap());
        let mut to_pipe = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        to_pipe.write_all(first).unwrap();
        let there = server.layout().uploads().join("ab".repeat(16)).join("hello.deb");
        wait_for("the first bytes to arrive", || there.metadata().ok().filter(|meta| meta.len() > 0));
        include().refused(409, "a file of this upload is still being sent");
        to_pipe.write_all(rest).unwrap();
        drop(to_pipe);
        sender.join().unwrap();
    });
    assert_eq!(include().json::<Included>().added.len(), 1);
    include().refused(404, "there is no upload with this id");
}

#[test]
fn many_uploads_at_once_lose_nothing() {
    let server = TestServer::start();
    let token = ci_token(&server, &[]);
    let debs: Vec<PathBuf> =
        (0..24).map(|number| make_deb(server.scratch(), &format!("many-{number}"), "1.0")).collect();
    std::thread::scope(|scope| {
        for part in debs.chunks(3) {
            let client = Client::new(&server, Some(token.clone()), None);
            scope.spawn(move || {
                for deb in part {
                    let answer = put(&client, deb);
                    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
                }
            });
        }
    });
    let packages: Vec<serde_json::Value> = server.admin().get("/api/v1/packages").json();
    assert_eq!(packages.len(), debs.len());
}
