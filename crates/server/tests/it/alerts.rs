//! Alerts of a running server: one for each cause, silenced by people, told to others, also when
//! these were away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use volary_api::v1::alert::{Alert, AlertChange, AlertDetails, AlertState, Feed, Silence};
use volary_api::v1::device::Desired;

use crate::metrics::samples;
use crate::recorder::{Recorder, Request};
use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for, write};

/// The body of Alertmanager's webhook, and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hook {
    version: String,
    group_key: String,
    truncated_alerts: u64,
    status: String,
    receiver: String,
    group_labels: BTreeMap<String, String>,
    common_labels: BTreeMap<String, String>,
    common_annotations: BTreeMap<String, String>,
    #[serde(rename = "externalURL")]
    external_url: String,
    alerts: Vec<HookAlert>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HookAlert {
    status: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: jiff::Timestamp,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: String,
}

/// What `POST /api/v2/alerts` takes, and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Posted {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: jiff::Timestamp,
    ends_at: jiff::Timestamp,
    #[serde(rename = "generatorURL")]
    generator_url: String,
}

/// Adds to a server's configuration. Alerts begin and end at once, so that no test waits.
pub fn configure(server: &TestServer, text: &str) {
    let config = server.layout().config();
    let before = std::fs::read_to_string(&config).unwrap();
    write(config, format!("{before}\n[alerts]\nhold = 0\nsettle = 0\n\n{text}\n"));
}

/// A device, and what it reports.
pub struct Reporter {
    client: Client,
    commit: String,
    reports: u32,
}

impl Reporter {
    pub fn join(server: &TestServer, name: &str) -> Self {
        let client = DeviceKey::new().join(server, name, "development");
        let commit = client.get("/device/v1/desired").json::<Desired>().commit;
        Self { client, commit: commit.to_string(), reports: 0 }
    }

    pub fn into_client(self) -> Client {
        self.client
    }

    fn report(&mut self, change: impl FnOnce(&mut Value)) {
        self.reports += 1;
        let report =
            good_report(&format!("{:04}", self.reports), "development", &self.commit, Some("rolling"));
        let mut report = serde_json::to_value(report).unwrap();
        change(&mut report);
        assert!(self.client.post("/device/v1/reports", &report).status.is_success());
    }

    pub fn good(&mut self) {
        self.report(|_| {});
    }

    /// A required check does not pass.
    pub fn fails(&mut self, check: &str) {
        let check = json!([{"name": check, "required": true, "passed": false, "output": "no answer"}]);
        self.report(|report| report["checks"] = check);
    }
}

pub fn alerts(server: &TestServer) -> Vec<Alert> {
    server.admin().get("/api/v1/alerts?resolved=10").json()
}

/// Waits for an alert in this state.
pub fn wait_for_alert(server: &TestServer, state: AlertState, devices: usize) -> Alert {
    wait_for(&format!("an alert is {state:?} with {devices} devices"), || {
        alerts(server).into_iter().find(|alert| alert.state == state && alert.devices == devices)
    })
}

fn feed(server: &TestServer, name: &str) -> Feed {
    let feeds: Vec<Feed> = server.admin().get("/api/v1/feeds").json();
    feeds.into_iter().find(|feed| feed.name == name).unwrap()
}

fn hooks(recorder: &Recorder) -> Vec<Hook> {
    recorder.told().iter().map(Request::json).collect()
}

#[test]
fn a_cause_is_one_alert_and_a_webhook_that_was_away_hears_of_its_end() {
    let mut server = TestServer::made();
    let mut recorder = Recorder::start(|_| (200, String::new()));
    write(server.layout().root().join("hook.secret"), "both know it\n");
    let hook =
        format!("[feeds.webhook.ops]\nurl = \"{}/alerts\"\nsecret_file = \"hook.secret\"", recorder.url());
    configure(&server, &hook);
    server.resume();
    let mut devices = ["dev-1", "dev-2"].map(|name| Reporter::join(&server, name));
    devices.iter_mut().for_each(|device| device.fails("dns"));
    let alert = wait_for_alert(&server, AlertState::Firing, 2);
    let text = "2 devices: check dns, rolling, stage development";
    assert_eq!((alert.summary.as_str(), alert.rule.as_str()), (text, "device-failed"));
    let details: AlertDetails = server.admin().get(&format!("/api/v1/alerts/{}", alert.id)).json();
    assert_eq!(details.devices[0].summary, "check \"dns\": no answer");
    wait_for("the event", || server.events("alert-began").first().cloned());

    let told = wait_for("the webhook is told", || recorder.told().into_iter().next());
    assert_eq!(told.line, "POST /alerts HTTP/1.1");
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"both know it");
    let signature = told.header("x-hub-signature-256").unwrap().strip_prefix("sha256=").unwrap();
    let signature: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&signature[2 * at..2 * at + 2], 16).unwrap()).collect();
    hmac::verify(&key, &told.body, &signature).unwrap();
    let hook: Hook = told.json();
    let (version, status, receiver) = (hook.version.as_str(), hook.status.as_str(), hook.receiver.as_str());
    assert_eq!((version, status, receiver, hook.truncated_alerts), ("4", "firing", "ops", 0));
    assert!(!hook.group_key.is_empty() && hook.external_url.starts_with("https://localhost:"));
    assert_eq!(hook.group_labels["alertname"], "device-failed");
    let [one] = hook.alerts.as_slice() else { panic!("{hook:?}") };
    assert_eq!((one.status.as_str(), one.ends_at.as_str()), ("firing", "0001-01-01T00:00:00Z"));
    assert_eq!((&one.labels, &one.annotations), (&hook.common_labels, &hook.common_annotations));
    assert_eq!((one.labels["check"].as_str(), one.labels["severity"].as_str()), ("dns", "critical"));
    assert!(one.fingerprint.len() == 16 && one.starts_at <= volary_host::now());
    assert!(one.generator_url.starts_with("https://"));

    recorder.go_away();
    devices.iter_mut().for_each(Reporter::good);
    wait_for_alert(&server, AlertState::Resolved, 2);
    wait_for("the feed fails", || feed(&server, "webhook/ops").problem);
    let status: Value = server.admin().get("/api/v1/status").json();
    assert!(status["problems"].to_string().contains("feed webhook/ops fails since"), "{status}");
    server.stop();
    server.resume();
    assert_eq!(feed(&server, "webhook/ops").waiting, 1);
    recorder.come_back();
    let last = wait_for("the webhook hears of the end", || {
        hooks(&recorder).into_iter().find(|hook| hook.status == "resolved")
    });
    assert_eq!(last.alerts[0].annotations["change"], "resolved");
    assert!(last.alerts[0].ends_at.starts_with("20"), "{last:?}");
    wait_for("the queue is empty", || (feed(&server, "webhook/ops").waiting == 0).then_some(()));
    let feed = feed(&server, "webhook/ops");
    assert_eq!((feed.dropped, feed.refused, feed.problem), (0, 0, None));
    let changes: Vec<AlertChange> = server.admin().get("/api/v1/alert-changes").json();
    let kinds: Vec<&str> = changes.iter().map(|change| change.kind.as_str()).collect();
    assert!(kinds.first() == Some(&"resolved") && kinds.last() == Some(&"began"), "{kinds:?}");
}

#[test]
fn people_silence_alerts_with_their_name() {
    let mut server = TestServer::made();
    let recorder = Recorder::start(|_| (200, String::new()));
    configure(&server, &format!("[feeds.webhook.ops]\nurl = \"{}\"", recorder.url()));
    server.resume();
    let person = server.with_role("operator");
    let silence = json!({"matchers": ["check=dns"], "seconds": 3600, "reason": "new network"});
    server.with_role("viewer").post("/api/v1/silences", &silence).refused(403, "operator");
    let bad = |change: (&str, Value), part: &str| {
        let mut silence = silence.clone();
        silence[change.0] = change.1;
        person.post("/api/v1/silences", &silence).refused(400, part);
    };
    bad(("matchers", json!([])), "1 to 20 conditions");
    bad(("matchers", json!(["dns"])), "write LABEL=VALUE");
    bad(("seconds", json!(0)), "90 days");
    bad(("reason", json!(" ")), "the reason must be one line");
    let made: Silence = person.post("/api/v1/silences", &silence).json();
    assert_eq!(
        (made.author.as_str(), made.matchers.as_slice()),
        ("a-operator", &["check=dns".to_owned()][..])
    );

    let mut device = Reporter::join(&server, "dev-1");
    device.fails("dns");
    let alert = wait_for_alert(&server, AlertState::Firing, 1);
    assert_eq!(alert.silenced, 1);
    let mut other = Reporter::join(&server, "dev-2");
    other.fails("disk");
    let told = wait_for("the other alert is told", || hooks(&recorder).into_iter().next());
    assert_eq!(told.common_labels["check"], "disk", "the silenced one was not");

    person.delete(&format!("/api/v1/silences/{}", made.id)).json::<Silence>();
    person.delete(&format!("/api/v1/silences/{}", made.id)).refused(404, "no silence");
    wait_for("what was silenced is told", || {
        hooks(&recorder).into_iter().find(|hook| hook.common_labels["check"] == "dns")
    });
    let silenced = "a-operator silenced check=dns for 1 h: new network";
    assert_eq!(server.events("alert-silenced"), [silenced]);
    assert_eq!(
        server.events("alert-unsilenced"),
        ["a-operator ended the silence of check=dns by a-operator"]
    );
    let all: Vec<Silence> = person.get("/api/v1/silences?all=true").json();
    assert_eq!(all[0].ended_by.as_deref(), Some("a-operator"));
    assert!(person.get("/api/v1/silences").json::<Vec<Silence>>().is_empty());
    server.admin().get("/api/v1/alerts/99").refused(404, "no alert 99");
}

#[test]
fn a_message_that_nobody_takes_is_counted_and_holds_up_none() {
    let mut server = TestServer::made();
    let recorder = Recorder::start(|request| {
        let body = String::from_utf8_lossy(&request.body);
        if body.contains("dns") { (400, "no such\nfield".into()) } else { (200, String::new()) }
    });
    configure(&server, &format!("[feeds.webhook.ops]\nurl = \"{}\"", recorder.url()));
    server.resume();
    Reporter::join(&server, "dev-1").fails("dns");
    wait_for_alert(&server, AlertState::Firing, 1);
    Reporter::join(&server, "dev-2").fails("disk");
    wait_for("the second is taken", || (feed(&server, "webhook/ops").sent == 1).then_some(()));
    assert_eq!(feed(&server, "webhook/ops").refused, 1);
    let event = &server.events("feed-refused")[0];
    assert!(event.contains("answers 400: no such"), "{event}");
}

#[test]
fn an_alertmanager_knows_what_goes_on_and_what_is_over() {
    let mut server = TestServer::made();
    let mut recorder = Recorder::start(|_| (200, String::new()));
    configure(&server, &format!("[feeds.alertmanager.main]\nurl = \"{}\"", recorder.url()));
    server.resume();
    let mut device = Reporter::join(&server, "dev-1");
    device.fails("dns");
    let posted = |check: &'static str, over: bool| {
        let now = volary_host::now();
        move |recorder: &Recorder| {
            let told = recorder.told();
            assert!(told.iter().all(|told| told.line == "POST /api/v2/alerts HTTP/1.1"), "{told:?}");
            let mut all = told.iter().flat_map(|told| told.json::<Vec<Posted>>());
            all.find(|one| {
                let fits = one.labels.get("check").is_some_and(|label| label == check);
                fits && (one.ends_at <= volary_host::now()) == over
                    && one.starts_at <= now + jiff::SignedDuration::from_secs(60)
            })
        }
    };
    let firing = posted("dns", false);
    let one = wait_for("it is told", || firing(&recorder));
    assert_eq!(one.labels["alertname"], "device-failed");
    assert_eq!(one.annotations["summary"], "dev-1: check dns, rolling, stage development");
    assert!(one.generator_url.starts_with("https://"));

    // The end comes while it is away, and the server dies as well.
    recorder.go_away();
    device.good();
    wait_for_alert(&server, AlertState::Resolved, 1);
    wait_for("the feed fails", || feed(&server, "alertmanager/main").problem);
    server.stop();
    server.resume();
    recorder.come_back();
    let over = posted("dns", true);
    wait_for("it hears of the end", || over(&recorder));
    wait_for("it works again", || feed(&server, "alertmanager/main").problem.is_none().then_some(()));
}

/// A mail server that takes everything. Returns the mails.
fn mail_server(port: u16) -> Arc<Mutex<Vec<String>>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mails = Arc::new(Mutex::new(Vec::new()));
    let written = mails.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut say = |text: &str| stream.write_all(format!("{text}\r\n").as_bytes());
            let _ = say("220 test");
            while let Some(Ok(line)) = lines.next() {
                let answer = match line.split(' ').next().unwrap_or_default() {
                    "EHLO" => "250 test",
                    "DATA" => {
                        let _ = say("354 go on");
                        let body = lines.by_ref().map_while(Result::ok).take_while(|line| line != ".");
                        written.lock().unwrap().push(body.collect::<Vec<_>>().join("\n"));
                        "250 taken"
                    }
                    "QUIT" => "221 bye",
                    _ => "250 ok",
                };
                if say(answer).is_err() {
                    break;
                }
            }
        }
    });
    mails
}

#[test]
fn people_get_mail_also_if_nobody_took_it_before() {
    let mut server = TestServer::made();
    // A port that is free now, and most likely still is when the mail server comes.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mail = format!(
        "[feeds.mail.crew]\nserver = \"127.0.0.1\"\nport = {port}\nsecurity = \"none\"\n\
         from = \"Volary <volary@example.com>\"\nto = [\"Ada <ada@example.com>\"]"
    );
    configure(&server, &mail);
    server.resume();
    let mut device = Reporter::join(&server, "dev-1");
    device.fails("dns");
    wait_for("nobody takes it", || feed(&server, "mail/crew").problem);
    let mails = mail_server(port);
    let first = wait_for("the mail", || mails.lock().unwrap().first().cloned());
    let subject = "Subject: [test] critical: dev-1: check dns, rolling, stage development";
    for part in
        [subject, "To: Ada <ada@example.com>", "dev-1: check \"dns\": no answer", "volary alert show 1"]
    {
        assert!(first.replace("\n ", " ").contains(part), "{part}: {first}");
    }
    device.good();
    let last = wait_for("the second mail", || mails.lock().unwrap().get(1).cloned());
    assert!(last.contains("[test] resolved: dev-1"), "{last}");
    let id = |mail: &str| mail.lines().find(|line| line.starts_with("Message-ID:")).unwrap().to_owned();
    assert_ne!(id(&first), id(&last));
}

#[test]
fn what_watch_rules_find_becomes_alerts() {
    let mut server = TestServer::made();
    configure(&server, "");
    server.resume();
    let fleet = server.fleet_clone();
    let rule = "{ name: memory, kind: threshold, series: memory_available_bytes, below: 1MiB, for: 0s, text: restart it }";
    let stages = "version: 1\nstages:\n  development: { branch: master, packages: rolling }\n";
    fleet.commit("volary.yml", &format!("{stages}watch:\n  - {rule}\n"), "Watch memory");
    fleet.push("HEAD:master").unwrap();
    let mut device = Reporter::join(&server, "dev-1");
    device.good();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(samples("1").to_string().as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let sent = device.client.post_bytes("/device/v1/metrics", &body, &[("content-encoding", "gzip")]);
    assert!(sent.status.is_success());
    // A start asks the rules at once.
    server.stop();
    server.resume();
    let alert = wait_for_alert(&server, AlertState::Firing, 1);
    assert_eq!(alert.rule, "memory");
    assert_eq!(alert.summary, "dev-1: memory memory_available_bytes, rolling, stage development");
    let details: AlertDetails = server.admin().get(&format!("/api/v1/alerts/{}", alert.id)).json();
    assert!(details.devices[0].summary.contains("20.0 KiB"), "{details:?}");
    // Another start finds it again, and does not end it meanwhile.
    server.stop();
    server.resume();
    let again = wait_for_alert(&server, AlertState::Firing, 1);
    assert_eq!((again.id, alerts(&server).len()), (alert.id, 1));
}
