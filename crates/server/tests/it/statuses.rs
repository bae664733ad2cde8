//! Forges and programs are told of builds: in the form that each publishes, once each can be
//! reached, and without holding anything up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::builds::{build, changes, claimed, queued, records};
use crate::support::{TestServer, wait_for, write};

/// One request as it came.
#[derive(Debug, Clone)]
struct Told {
    line: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Told {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A forge that writes down what it is told and answers with `answer`.
struct Forge {
    url: String,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Forge {
    fn at(address: &str, answer: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let told = Arc::new(Mutex::new(Vec::new()));
        let writing = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let told = read(stream.unwrap(), answer);
                writing.lock().unwrap().push(told);
            }
        });
        Self { url, told }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

fn read(mut stream: TcpStream, answer: &str) -> Told {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).unwrap();
        text.trim_end().to_owned()
    };
    let first = line();
    let mut headers = Vec::new();
    loop {
        let text = line();
        let Some((name, value)) = text.split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    write!(stream, "HTTP/1.1 {answer}").unwrap();
    Told { line: first, headers, body: serde_json::from_slice(&body).unwrap() }
}

const CREATED: &str = "201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

fn hook(server: &TestServer, text: &str) {
    let config = server.layout().config();
    let before = std::fs::read_to_string(&config).unwrap();
    write(config, format!("{before}\n[[status_hook]]\n{text}\n"));
}

fn forge_hook(server: &TestServer, kind: &str, url: &str) {
    write(server.layout().root().join(format!("{kind}.token")), format!("secret-{kind}\n"));
    let text = format!(
        "name = \"{kind}\"\nkind = \"{kind}\"\nurl = \"{url}\"\nrepository = \"acme/{{source}}\"\n\
         token_file = \"{kind}.token\""
    );
    hook(server, &text);
}

/// What the forge's published schema takes: the fields, the words for the state, the lengths.
fn fits(told: &Told, states: &[&str], fields: &[&str]) {
    let body = told.body.as_object().unwrap();
    assert!(states.contains(&body["state"].as_str().unwrap()), "{body:?}");
    assert!(body.keys().all(|key| fields.contains(&key.as_str())), "{body:?}");
    assert!(body["description"].as_str().unwrap().chars().count() <= 140, "{body:?}");
    assert!(body["target_url"].as_str().unwrap().starts_with("https://"), "{body:?}");
    assert_eq!(told.header("content-type"), Some("application/json"));
    assert!(told.header("user-agent").is_some(), "GitHub refuses requests without one");
}

/// A server whose build succeeds as soon as it starts.
fn with_a_build() -> (TestServer, i64) {
    let server = TestServer::made();
    let id = claimed(&server);
    changes(&server, id, "1.0+git1");
    records(&server, async |store| {
        store
            .build_built(id, "1.0+git1", volary_model::BuildMethod::Native, &["pulse=1.0+git1".into()])
            .await
            .unwrap()
    });
    (server, id)
}

#[test]
fn each_forge_is_told_in_its_own_form() {
    let (mut server, id) = with_a_build();
    let forges = ["github", "gitlab", "gitea"].map(|kind| (kind, Forge::at("127.0.0.1:0", CREATED)));
    for (kind, forge) in &forges {
        forge_hook(&server, kind, &forge.url);
    }
    let log = server.scratch().join("told");
    let script = format!("cat >>{}", log.display());
    hook(&server, &format!("name = \"program\"\nkind = \"command\"\ncommand = [\"sh\", \"-c\", {script:?}]"));
    server.resume();
    build(&server, id, "succeeded");

    let commit = "a".repeat(40);
    for (kind, forge) in &forges {
        let told = wait_for(&format!("{kind} is told"), || {
            forge.told().into_iter().find(|told| told.body["state"] == "success")
        });
        assert_eq!(told.body["description"], "1.0+git1 is in rolling");
        assert!(told.body["target_url"].as_str().unwrap().ends_with(&format!("/builds/{id}")));
        match *kind {
            "github" => {
                assert_eq!(told.line, format!("POST /repos/acme/pulse/statuses/{commit} HTTP/1.1"));
                assert_eq!(told.header("authorization"), Some("Bearer secret-github"));
                assert_eq!(told.header("accept"), Some("application/vnd.github+json"));
                let states = ["error", "failure", "pending", "success"];
                fits(&told, &states, &["state", "target_url", "description", "context"]);
            }
            "gitlab" => {
                assert_eq!(told.line, format!("POST /projects/acme%2Fpulse/statuses/{commit} HTTP/1.1"));
                assert_eq!(told.header("private-token"), Some("secret-gitlab"));
                let states = ["pending", "running", "success", "failed", "canceled", "skipped"];
                fits(&told, &states, &["state", "target_url", "description", "name", "ref", "coverage"]);
            }
            _ => {
                assert_eq!(told.line, format!("POST /repos/acme/pulse/statuses/{commit} HTTP/1.1"));
                assert_eq!(told.header("authorization"), Some("token secret-gitea"));
                let states = ["pending", "success", "error", "failure", "warning"];
                fits(&told, &states, &["state", "target_url", "description", "context"]);
            }
        }
    }
    let said = wait_for("the program is told", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"success\"").then_some(text)
    });
    assert!(said.contains("\"context\":\"volary/pulse/amd64\""), "{said}");
    wait_for("it is noted", || {
        let told: Vec<Value> = server.admin().get(&format!("/api/v1/builds/{id}/statuses")).json();
        (told.len() == 4 && told.iter().all(|status| status["told"] == "succeeded")).then_some(())
    });
}

#[test]
fn builds_of_one_commit_for_two_architectures_have_statuses_of_their_own() {
    let mut server = TestServer::made();
    queued(&server, &["amd64", "arm64"]);
    let forge = Forge::at("127.0.0.1:0", CREATED);
    forge_hook(&server, "gitea", &forge.url);
    server.resume();
    wait_for("both are told", || {
        let told = forge.told();
        let has = |context: &str| told.iter().any(|told| told.body["context"] == context);
        (has("volary/pulse/amd64") && has("volary/pulse/arm64")).then_some(())
    });
}

#[test]
fn a_forge_that_cannot_be_reached_holds_nothing_up_and_is_told_later() {
    let (mut server, id) = with_a_build();
    // A port that nobody listens on, for now.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    forge_hook(&server, "github", &format!("http://{address}"));
    server.resume();
    build(&server, id, "succeeded");
    let status = wait_for("the attempt is noted", || {
        let told: Vec<Value> = server.admin().get(&format!("/api/v1/builds/{id}/statuses")).json();
        told.into_iter().find(|status| status["attempts"] == 1)
    });
    assert!(status["problem"].as_str().unwrap().contains("cannot reach http://"), "{status}");
    // What is to be told survives the server.
    server.stop();
    let forge = Forge::at(&address, CREATED);
    server.resume();
    let told = wait_for("the forge is told", || forge.told().pop());
    assert_eq!(told.body["state"], "success");
}

#[test]
fn a_forge_that_says_no_is_shown_and_asked_again() {
    let (mut server, id) = with_a_build();
    let no = "401 Unauthorized\r\ncontent-length: 9\r\nconnection: close\r\n\r\nbad token";
    let forge = Forge::at("127.0.0.1:0", no);
    forge_hook(&server, "gitea", &forge.url);
    let known = "400 Bad Request\r\ncontent-length: 65\r\nconnection: close\r\n\r\n\
                 {\"message\":\"Cannot transition status via :run from :running (Re)\"}";
    let gitlab = Forge::at("127.0.0.1:0", known);
    forge_hook(&server, "gitlab", &gitlab.url);
    server.resume();
    let [gitea, gitlab] = wait_for("both are noted", || {
        let told: Vec<Value> = server.admin().get(&format!("/api/v1/builds/{id}/statuses")).json();
        let noted = |status: &Value| status["told"] == "succeeded" || status["attempts"].as_u64() >= Some(1);
        (told.len() == 2 && told.iter().all(noted)).then(|| [told[0].clone(), told[1].clone()])
    });
    assert!(gitea["problem"].as_str().unwrap().contains("answers 401: bad token"), "{gitea}");
    assert_eq!(gitlab["problem"], Value::Null);
}
