//! What a kill leaves behind is finished after the next start.

use serde_json::{Value, json};
use volary_host::Cmd;
use volary_store::{NewBuild, Store};

use crate::support::{TestServer, make_deb, wait_for, write};

pub fn commit(digit: char) -> volary_model::CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

/// Does something to the records of a server that does not run.
pub fn records<T>(server: &TestServer, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&server.layout().database()).await.unwrap();
        let result = work(&store).await;
        store.close().await;
        result
    })
}

/// A build that was claimed when the server died.
pub fn claimed(server: &TestServer) -> i64 {
    queued(server, &["amd64"]);
    records(server, async |store| store.claim_build(volary_host::now()).await.unwrap().unwrap().id)
}

/// Queues a commit's builds for these architectures.
pub fn queued(server: &TestServer, architectures: &[&str]) {
    let now = volary_host::now();
    let target = |name: &&str| (name.parse().unwrap(), volary_model::BuildScope::Full);
    records(server, async |store| {
        let source = "pulse".parse().unwrap();
        store.add_source(&source, Some("/nowhere"), "master", &[], now).await.unwrap();
        let new = NewBuild {
            commit: commit('a'),
            subject: "s".into(),
            author: "a".into(),
            committed_at: now,
            targets: architectures.iter().map(target).collect(),
        };
        store.advance_source(&source, None, &commit('a'), &[new], now).await.unwrap();
    });
}

pub fn changes(server: &TestServer, id: i64, version: &str) {
    let output = server.layout().build_output(id);
    std::fs::create_dir_all(&output).unwrap();
    let deb = make_deb(server.scratch(), "pulse", version);
    let name = deb.file_name().unwrap().to_str().unwrap();
    std::fs::copy(&deb, output.join(name)).unwrap();
    let sum = Cmd::new("sha256sum").arg(&deb).check().unwrap().text();
    let (sum, size) = (sum.split(' ').next().unwrap(), std::fs::metadata(&deb).unwrap().len());
    let text = format!(
        "Format: 1.8\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nSource: pulse\nBinary: pulse\n\
         Architecture: all\nVersion: {version}\nDistribution: unstable\nUrgency: medium\n\
         Maintainer: T <t@example.com>\nChanged-By: T <t@example.com>\nDescription:\n pulse - test\n\
         Changes:\n pulse ({version}) unstable; urgency=medium\n .\n   * x\n\
         Checksums-Sha256:\n {sum} {size} {name}\n\
         Files:\n d41d8cd98f00b204e9800998ecf8427e {size} misc optional {name}\n"
    );
    write(output.join(format!("pulse_{version}_amd64.changes")), text);
}

pub fn build(server: &TestServer, id: i64, state: &str) -> Value {
    wait_for(&format!("build {id} is {state}"), || {
        let build: Value = server.admin().get(&format!("/api/v1/builds/{id}")).json();
        (build["state"] == state).then_some(build)
    })
}

#[test]
fn a_build_that_was_cut_off_runs_again() {
    let mut server = TestServer::made();
    let id = claimed(&server);
    server.resume();
    // This machine's builder is broken on purpose, so the second attempt ends with its reason.
    let build = build(&server, id, "failed");
    assert_eq!(build["attempts"], 2);
    assert!(build["reason"].as_str().unwrap().contains("not in any copy"), "{build}");
    let retried: Value = server.admin().post(&format!("/api/v1/builds/{id}/retry"), &json!({})).json();
    assert_eq!(retried["state"], "queued");
}

#[test]
fn a_build_whose_packages_are_gone_fails_with_the_reason() {
    let mut server = TestServer::made();
    let id = claimed(&server);
    records(&server, async |store| {
        store.build_built(id, "1.0+git1", volary_model::BuildMethod::Native, &[]).await.unwrap()
    });
    server.resume();
    let build = build(&server, id, "failed");
    assert!(build["reason"].as_str().unwrap().contains("gone from the server's disk"), "{build}");
}

#[test]
fn packages_that_were_built_and_not_published_are_published() {
    let mut server = TestServer::made();
    let id = claimed(&server);
    changes(&server, id, "1.0+git1");
    records(&server, async |store| {
        store
            .build_built(id, "1.0+git1", volary_model::BuildMethod::Native, &["pulse=1.0+git1".into()])
            .await
            .unwrap()
    });
    server.resume();
    let done = build(&server, id, "succeeded");
    assert_eq!(done["packages"], json!(["pulse=1.0+git1"]));
    let packages: Vec<Value> = server.admin().get("/api/v1/packages").json();
    assert_eq!((&packages[0]["build"], &packages[0]["built_from"]), (&json!(id), &json!("pulse")));
    let trace: Value = server.admin().get("/api/v1/trace?package=pulse&version=1.0%2Bgit1").json();
    assert_eq!(trace["build"]["id"], json!(id));

    // The kill came after the inclusion and before the note of it: the same once more.
    server.stop();
    let sql = format!("UPDATE builds SET state = 'built' WHERE id = {id}");
    let database = server.layout().database();
    changes(&server, id, "1.0+git1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use sqlx::Connection;
        let url = format!("sqlite://{}", database.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
    server.resume();
    build(&server, id, "succeeded");
    let packages: Vec<Value> = server.admin().get("/api/v1/packages").json();
    assert_eq!(packages.len(), 1);
}

#[test]
fn packages_that_the_archive_refuses_fail_the_build_with_the_reason() {
    let mut server = TestServer::made();
    let id = claimed(&server);
    changes(&server, id, "1.0+git1");
    write(server.layout().build_output(id).join("pulse_1.0+git1_all.deb"), "other");
    records(&server, async |store| {
        store.build_built(id, "1.0+git1", volary_model::BuildMethod::Native, &[]).await.unwrap()
    });
    server.resume();
    let build = build(&server, id, "failed");
    let reason = build["reason"].as_str().unwrap();
    assert!(reason.contains("is refused") && !reason.contains("builds/"), "{reason}");
}

#[test]
fn a_log_is_read_from_where_one_was() {
    let mut server = TestServer::made();
    let id = claimed(&server);
    let log = server.layout().build_log(id);
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    write(&log, "one\ntwo\n");
    server.resume();
    build(&server, id, "failed");
    let rest = server.admin().get(&format!("/api/v1/builds/{id}/log?from=4"));
    assert_eq!((rest.text().as_str(), rest.header("x-volary-ended")), ("two\n", "true"));
    let none = server.admin().get(&format!("/api/v1/builds/{id}/log?from=800"));
    assert_eq!(none.text(), "");
}
