//! Forges are told of promotions in the form that each publishes: statuses of the commit, and one comment on the request
//! whose source it is, which is changed in its place. A merge that is made there counts by its signature.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use volary_host::Cmd;

use crate::support::{Git, TestServer, wait_for, write};

const GATED: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
gates:
  canary: { external: { field-test: 7d } }
";

/// What a forge has.
#[derive(Default)]
struct Has {
    /// The source of the only request; none yet if empty.
    source: String,
    statuses: Vec<Value>,
    /// Number, author and text.
    comments: Vec<(u64, &'static str, String)>,
    /// Requests as they came.
    seen: Vec<String>,
    token: String,
    /// True while it is away.
    is_down: bool,
}

/// A forge that answers by the published description of its API, and takes nothing that is not in it.
struct Forge {
    kind: &'static str,
    url: String,
    has: Arc<Mutex<Has>>,
}

impl Forge {
    fn new(kind: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let has = Arc::new(Mutex::new(Has::default()));
        let state = has.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                std::thread::spawn(move || serve(kind, stream.unwrap(), &state));
            }
        });
        Self { kind, url, has }
    }

    fn hook(&self, server: &TestServer) -> String {
        let Self { kind, url, .. } = self;
        write(server.layout().root().join(format!("{kind}.token")), format!("secret-{kind}\n"));
        format!(
            "\n[[status_hook]]\nname = \"{kind}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n\
             repository = \"acme/fleet\"\ntoken_file = \"{kind}.token\"\npromotions = true\n"
        )
    }

    fn status(&self, context: &str) -> Option<Value> {
        let field = if self.kind == "gitlab" { "name" } else { "context" };
        let has = self.has.lock().unwrap();
        has.statuses.iter().rev().find(|status| status[field] == context).cloned()
    }

    fn comments(&self) -> Vec<String> {
        self.has.lock().unwrap().comments.iter().map(|(_, _, body)| body.clone()).collect()
    }

    /// How many requests with this method it had whose path has this in it.
    fn count(&self, method: &str, part: &str) -> usize {
        let has = self.has.lock().unwrap();
        has.seen.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }
}

fn serve(kind: &str, mut stream: TcpStream, has: &Mutex<Has>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let (mut length, mut token) = (0, String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" | "private-token" => value.clone_into(&mut token),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut has = has.lock().unwrap();
        has.token = token;
        has.seen.push(first.trim_end().to_owned());
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = match has.is_down {
            true => (502, json!({"message": "the forge is being repaired"})),
            false => answer(kind, method, path, &body, &mut has),
        };
        let text = answer.to_string();
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len()).unwrap();
    }
}

fn no(status: u16, text: &str) -> (u16, Value) {
    (status, json!({ "message": text }))
}

/// The paths, methods, parameters and fields of what is used here, of each forge's published description of its API.
fn answer(kind: &str, method: &str, path: &str, body: &Value, has: &mut Has) -> (u16, Value) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let source = has.source.clone();
    let parameters = |allowed: &[&str]| {
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .all(|pair| allowed.contains(&pair.split('=').next().unwrap()))
    };
    let fields = |allowed: &[&str]| {
        body.as_object().is_some_and(|given| given.keys().all(|key| allowed.contains(&key.as_str())))
    };
    let base = if kind == "gitlab" { "/projects/acme%2Ffleet" } else { "/repos/acme/fleet" };
    let Some(rest) = path.strip_prefix(base) else { return no(404, "Not Found") };
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    match (kind, method, parts.as_slice()) {
        (_, "POST", ["statuses", sha]) => {
            if sha.len() != 40 {
                return no(422, "No commit found for SHA");
            }
            let (name, states): (_, &[&str]) = match kind {
                "gitlab" => ("name", &["pending", "running", "success", "failed", "canceled", "skipped"]),
                "gitea" => ("context", &["pending", "success", "error", "failure", "warning"]),
                _ => ("context", &["error", "failure", "pending", "success"]),
            };
            let text = body["description"].as_str().unwrap_or_default();
            let fits = fields(&["state", "target_url", "description", name])
                && body["state"].as_str().is_some_and(|state| states.contains(&state))
                && body["target_url"].as_str().is_some_and(|url| url.starts_with("https://"))
                && text.chars().count() <= 140;
            if !fits {
                return no(400, &format!("{body}"));
            }
            let same = |status: &&Value| status[name] == body[name];
            let is_same =
                has.statuses.iter().rev().find(same).is_some_and(|last| last["state"] == body["state"]);
            if kind == "gitlab" && is_same && body["state"] == "pending" {
                return no(400, "Cannot transition status via :enqueue from :pending");
            }
            has.statuses.push(body.clone());
            (201, json!({"id": 1}))
        }
        ("github", "GET", ["commits", sha, "pulls"]) if parameters(&["per_page", "page"]) => {
            let closed = json!({"number": 3, "state": "closed", "head": {"sha": sha}});
            (200, json!([closed, {"number": 7, "state": "open", "head": {"sha": source}}]))
        }
        ("gitea", "GET", ["pulls"])
            if parameters(&["state", "sort", "milestone", "labels", "page", "limit"]) =>
        {
            let other = json!({"number": 3, "state": "open", "head": {"sha": "b".repeat(40)}});
            (200, json!([other, {"number": 7, "state": "open", "head": {"sha": source}}]))
        }
        ("gitlab", "GET", ["repository", "commits", _, "merge_requests"])
            if parameters(&["state", "per_page", "page"]) =>
        {
            (200, json!([{"iid": 7, "state": "opened", "sha": source}]))
        }
        ("github", "GET", ["issues", "7", "comments"]) if parameters(&["since", "per_page", "page"]) => {
            comments(has)
        }
        ("gitea", "GET", ["issues", "7", "comments"]) if parameters(&["since", "before"]) => comments(has),
        ("gitlab", "GET", ["merge_requests", "7", "notes"])
            if parameters(&["sort", "order_by", "activity_filter", "per_page", "page"]) =>
        {
            comments(has)
        }
        ("github" | "gitea", "POST", ["issues", "7", "comments"])
        | ("gitlab", "POST", ["merge_requests", "7", "notes"])
            if fields(&["body"]) =>
        {
            let id = 100 + has.comments.len() as u64;
            has.comments.push((id, "volary", body["body"].as_str().unwrap().to_owned()));
            (201, json!({"id": id}))
        }
        ("github" | "gitea", "PATCH", ["issues", "comments", id])
        | ("gitlab", "PUT", ["merge_requests", "7", "notes", id])
            if fields(&["body"]) =>
        {
            let id: u64 = id.parse().unwrap();
            match has.comments.iter_mut().find(|(known, _, _)| *known == id) {
                Some((_, "volary", text)) => {
                    body["body"].as_str().unwrap().clone_into(text);
                    (200, json!({"id": id}))
                }
                Some(_) => no(403, "Forbidden"),
                None => no(404, "Not Found"),
            }
        }
        _ => no(404, "Not Found"),
    }
}

fn comments(has: &Has) -> (u16, Value) {
    let one = |(id, _, body): &(u64, &'static str, String)| json!({"id": id, "body": body});
    (200, Value::Array(has.comments.iter().map(one).collect()))
}

/// A fleet whose canaries wait for a word; returns the commit that would be merged, before it is pushed.
fn gated(server: &TestServer) -> (Git, String) {
    let fleet = server.fleet_clone();
    let gated = fleet.commit("volary.yml", GATED, "Set gates");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gates"))).unwrap();
    let commit = fleet.commit("note", "1", "Change");
    (fleet, commit)
}

fn configure(server: &TestServer, hooks: &[String]) {
    let config = server.layout().config();
    let text = std::fs::read_to_string(&config).unwrap();
    write(&config, text + &hooks.concat());
}

fn say(server: &TestServer, commit: &str, say: &str, reason: &str) {
    let said = json!({"gate": "field-test", "commit": commit, "say": say, "reason": reason});
    let answer = server.admin().post("/api/v1/gate-statuses", &said);
    assert!(answer.status.is_success(), "{}", answer.text());
}

/// Waits until the status of the stage has this state.
fn wait_state(forge: &Forge, state: &str) -> Value {
    wait_for(&format!("{} hears {state}", forge.kind), || {
        forge.status("volary/canary").filter(|status| status["state"] == state)
    })
}

#[test]
fn forges_are_told_where_a_promotion_stands() {
    let mut server = TestServer::made();
    let forges = ["github", "gitlab", "gitea"].map(Forge::new);
    let marker = "<!-- volary promotion into canary -->";
    for forge in &forges {
        // What others say there is not ours, also if it looks like it.
        let others =
            [(98, "mallory", format!("{marker}\nall is well")), (99, "ada", "Looks good to me".to_owned())];
        forge.has.lock().unwrap().comments.extend(others);
    }
    configure(&server, &forges.each_ref().map(|forge| forge.hook(&server)));
    server.resume();
    let (fleet, commit) = gated(&server);
    for forge in &forges {
        forge.has.lock().unwrap().source.clone_from(&commit);
    }
    fleet.push("HEAD:master").unwrap();
    for forge in &forges {
        let status = wait_state(forge, "pending");
        assert!(status["target_url"].as_str().unwrap().ends_with("/promotion?from=development&to=canary"));
        let gate = wait_for("its gate has one", || forge.status("volary/canary/external:field-test"));
        assert!(gate["description"].as_str().unwrap().starts_with("nobody said anything"), "{gate}");
        let comments = wait_for("there is a comment", || {
            let comments = forge.comments();
            (comments.len() == 3).then_some(comments)
        });
        assert!(comments[2].contains("| external:field-test | **ask** | nobody said"), "{}", comments[2]);
        assert!(forge.has.lock().unwrap().token.ends_with(&format!("secret-{}", forge.kind)));
    }
    say(&server, &commit, "go", "ask @alice <b>");
    for forge in &forges {
        wait_state(forge, "success");
        let comment = wait_for("the comment changes", || {
            forge.comments().into_iter().nth(2).filter(|comment| comment.contains("| go |"))
        });
        // Nobody is called by what others wrote.
        assert!(comment.contains("ask @\u{200b}alice &lt;b>"), "{comment}");
        assert_eq!(forge.comments()[1], "Looks good to me");
    }

    // A restart repeats nothing, and one without its records finds the comment again.
    server.stop();
    let before: Vec<usize> = forges.iter().map(|forge| forge.count("", "")).collect();
    server.resume();
    wait_for("the server looked", || (!server.events("branch-moved").is_empty()).then_some(()));
    say(&server, &commit, "stop", "it broke");
    for (forge, before) in forges.iter().zip(before) {
        wait_for("the stop is told", || {
            forge
                .status("volary/canary")
                .filter(|status| ["failure", "failed"].contains(&status["state"].as_str().unwrap()))
        });
        wait_for("the comment changes", || {
            forge.comments().into_iter().nth(2).filter(|comment| comment.contains("**stop**"))
        });
        assert_eq!(forge.comments().len(), 3, "it is the same comment");
        // Two statuses, the list of requests, that of comments, the refused change of the other one, and ours.
        assert!(forge.count("", "") - before <= 6, "{:?}", forge.has.lock().unwrap().seen);
    }
}

#[test]
fn a_forge_that_was_away_hears_what_is_true_by_then() {
    let mut server = TestServer::made();
    let forge = Forge::new("github");
    configure(&server, &[forge.hook(&server)]);
    server.resume();
    let (fleet, commit) = gated(&server);
    let before = {
        let mut has = forge.has.lock().unwrap();
        has.is_down = true;
        has.statuses.clear();
        has.seen.len()
    };
    fleet.push("HEAD:master").unwrap();
    let problems = || -> Vec<String> {
        let status: Value = server.admin().get("/api/v1/status?devices=0").json();
        serde_json::from_value(status["problems"].clone()).unwrap()
    };
    let problem = wait_for("the problem is told", || {
        problems().into_iter().find(|problem| problem.contains("cannot be told of the promotion into canary"))
    });
    assert!(problem.contains("answers 502") && !problem.contains("secret"), "{problem}");
    say(&server, &commit, "go", "it ran for a week");
    let after = std::mem::replace(&mut forge.has.lock().unwrap().is_down, false);
    assert!(after && forge.count("", "") - before < 4, "it is left alone between two attempts");
    // No request is there at first.
    wait_state(&forge, "success");
    let first = forge.has.lock().unwrap().statuses[0].clone();
    assert_eq!(
        (&first["context"], &first["state"]),
        (&json!("volary/canary"), &json!("success")),
        "nothing of the past"
    );
    wait_for("the problem is over", || problems().is_empty().then_some(()));
    assert_eq!(forge.comments().len(), 0);
}

/// What the buttons of forges make, as it reaches this server.
#[test]
fn a_merge_made_at_a_forge_counts_by_its_signature() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let key = server.scratch().join("forge-key");
    let text = key.display().to_string();
    Cmd::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "forge", "-f", &text])
        .check()
        .unwrap();
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    fleet.commit("volary.yml", &GATED[..GATED.find("gates:").unwrap()], "Have two stages");
    let signers = fleet.run(&["show", "HEAD:.volary/allowed_signers"]);
    let line = format!("forge@example.com namespaces=\"git\" {public}");
    let rules =
        fleet.commit(".volary/allowed_signers", &format!("{signers}\n{line}\n"), "Let the forge merge");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&rules, "canary", "Bring the rules"))).unwrap();
    let commit = fleet.commit("note", "1", "Change");
    fleet.push("HEAD:master").unwrap();
    let tip = fleet.run(&["rev-parse", "origin/canary"]);
    let tree = format!("{commit}^{{tree}}");
    let made = |signed: &[&str], parents: &[&str]| {
        let mut args = signed.to_vec();
        args.extend(["-m", "Merge pull request #7"]);
        parents.iter().for_each(|parent| args.extend(["-p", parent]));
        args.push(&tree);
        fleet.run(&args)
    };
    let refused = |merge: &str, why: &str| {
        let said = fleet.push(&format!("{merge}:canary")).unwrap_err();
        assert!(said.contains(why), "{said}");
        assert_eq!(
            fleet.run(&["ls-remote", "origin", "canary"]).split_whitespace().next(),
            Some(tip.as_str())
        );
    };
    refused(&made(&["commit-tree", "--no-gpg-sign"], &[&tip, &commit]), "it is not signed");
    let config = format!("user.signingkey={text}");
    let by_forge = ["-c", &config, "commit-tree", "-S"];
    refused(&made(&by_forge, &[&tip]), "is not a merge of development into canary");
    refused(&commit, "rejected");
    let merge = made(&by_forge, &[&tip, &commit]);
    fleet.push(&format!("{merge}:canary")).unwrap();
    assert_eq!(fleet.run(&["rev-parse", "origin/canary"]), merge);
}
