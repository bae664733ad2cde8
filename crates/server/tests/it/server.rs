//! Making, starting and stopping a server, and clients that misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use volary_server::{InitOptions, ServeOptions, ServerError, init, serve};

use crate::support::{TestServer, write};

fn options() -> InitOptions {
    InitOptions {
        fleet: "x".into(),
        hosts: vec!["localhost".into()],
        port: 8443,
        signing_key: None,
        operator: "me@example.com".into(),
    }
}

#[test]
fn init_makes_all_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("server");
    let check = |options: &InitOptions, part: &str| {
        let error = init(&dir, options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        let left: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    };
    check(&InitOptions { hosts: vec!["a b".into()], ..options() }, "neither a host name");
    check(&InitOptions { operator: "a b".into(), ..options() }, "allowed_signers");
    check(&InitOptions { signing_key: Some("/no/key".into()), ..options() }, "/no/key");

    std::fs::create_dir(&dir).unwrap();
    let made = init(&dir, &options()).unwrap();
    for secret in ["ca/ca.key", "tls/server.key", "client.toml", "operator_ed25519"] {
        let mode = std::fs::metadata(made.dir.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
    assert!(matches!(init(&dir, &options()), Err(ServerError::NotEmpty(_))));
}

#[test]
fn init_takes_the_operators_own_key() {
    let root = tempfile::tempdir().unwrap();
    let key = root.path().join("id");
    volary_host::Cmd::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .check()
        .unwrap();
    std::fs::remove_file(root.path().join("id.pub")).unwrap();
    let made =
        init(&root.path().join("server"), &InitOptions { signing_key: Some(key.clone()), ..options() });
    let made = made.unwrap();
    assert_eq!((made.made_key, made.signing_key), (false, key.canonicalize().unwrap()));
    let config = std::fs::read_to_string(made.client_config).unwrap();
    assert!(config.contains(&key.display().to_string()), "{config}");
}

#[test]
fn one_server_for_a_folder_and_one_for_a_port() {
    let server = TestServer::start();
    let any = ServeOptions { listen: Some("127.0.0.1:0".parse().unwrap()) };
    assert!(matches!(serve(&server.made.dir, &any), Err(ServerError::AlreadyRunning(_))));
    let other = TestServer::made();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ServeOptions { listen: Some(taken.local_addr().unwrap()) };
    let error = serve(&other.made.dir, &options).unwrap_err();
    let port = taken.local_addr().unwrap().port();
    assert!(error.to_string().contains(&format!("port {port} is in use")), "{error}");
    drop(taken);
    serve(&other.made.dir, &options).unwrap().stop();
    assert!(matches!(serve(other.scratch(), &any), Err(ServerError::NotInitialised(_))));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let server = TestServer::made();
    let path = server.made.dir.join("server.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    write(&path, format!("{text}poll_source = 3\n"));
    let error = serve(&server.made.dir, &ServeOptions::default()).unwrap_err().to_string();
    assert!(error.contains("server.toml") && error.contains("did you mean \"poll_sources\""), "{error}");
}

#[test]
fn a_restart_keeps_everything() {
    let mut server = TestServer::start();
    let before = server.admin_token();
    server.with_role("viewer");
    server.stop();
    server.resume();
    assert_eq!(server.admin_token(), before);
    let tokens: Vec<serde_json::Value> = server.admin().get("/api/v1/tokens").json();
    assert_eq!(tokens.len(), 2);
}

#[test]
fn clients_that_speak_no_tls_or_break_off_leave_it_running() {
    let server = TestServer::start();
    let address = server.url.replace("https://localhost", "127.0.0.1");
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert!(server.admin().get("/api/v1/status").status.is_success());
    drop(silent);
    assert!(server.admin().get("/healthz").status.is_success());
}
