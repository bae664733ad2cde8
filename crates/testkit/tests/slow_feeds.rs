//! The real Icinga 2 and the real Alertmanager of Debian, told of a thousand devices: what they show is
//! what the server knows, also after each of them, and the server, was killed.
//!
//! The devices are records in the server's database; everything from there on is real.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use volary_api::join::JoinToken;
use volary_api::v1::status::{Condition, Device};
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::Chain;
use volary_testkit::{Process, wait_until};

/// How many devices there are.
const DEVICES: usize = 1_000;

/// How long a system may take to show what it was told: a thousand hosts and their services are made one by one, which
/// takes minutes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long the devices measured whose memory is looked at: the week that the rule looks at, and some hours.
const HOURS: u32 = 175;

/// Writes records of devices into a server's database: `[{name, ...columns}]` on standard input.
const WRITE: &str = r#"
import json, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=60)
now = int(time.time() * 1000)
for device in json.load(sys.stdin):
    if device.get("gone"):
        db.execute("DELETE FROM devices WHERE name = ?", (device["name"],))
        continue
    seen = now - device["seen_ago"] * 1000
    db.execute(
        "INSERT INTO devices (name, state, fingerprint, stage, csr, architecture, os, enrolled_at, seen_at,"
        " good_commit, suite, since, report, reported_at)"
        " VALUES (:name, 'accepted', :fingerprint, 'development', '', 'amd64', 'Debian 12', :now, :seen,"
        " :commit, 'rolling', :now, :report, :now)"
        " ON CONFLICT (name) DO UPDATE SET seen_at = :seen, good_commit = :commit, suite = 'rolling', since = :now,"
        " report = :report, reported_at = :now",
        dict(device, now=now, seen=seen, report=json.dumps(device["report"])))
db.commit()
"#;

/// How a device is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Good,
    Failing,
    Silent,
    Gone,
}

struct Fleet {
    chain: Chain,
    commit: String,
    _logs: tempfile::TempDir,
}

fn name(index: usize) -> String {
    format!("dev-{index:06}")
}

impl Fleet {
    fn new() -> Self {
        let (chain, logs) = common::chain();
        let commit = chain.status().unwrap().stages[0].commit.clone().unwrap().to_string();
        Self { chain, commit, _logs: logs }
    }

    /// Adds to the server's configuration and restarts it.
    fn configure(&self, text: &str) {
        let change = |before: String| {
            let alerts = if before.contains("[alerts]") { "" } else { "\n[alerts]\nhold = 3\nsettle = 3\n" };
            format!("{before}{alerts}\n{text}\n")
        };
        self.chain.reconfigure(change).unwrap();
    }

    fn set(&self, devices: impl Iterator<Item = usize>, is: Is) {
        let records: Vec<Value> = devices
            .map(|index| {
                let passed = is != Is::Failing;
                let report = json!({
                    "id": "1", "at": "2026-11-22T12:00:00Z", "agent": "0.1.0", "boot_id": "b", "uptime": 100,
                    "stage": "development", "good_commit": self.commit,
                    "convergence": {
                        "commit": self.commit, "suite": "rolling", "outcome": "good",
                        "started_at": "2026-11-22T11:59:00Z", "ended_at": "2026-11-22T12:00:00Z",
                    },
                    "checks": [{"name": "dns", "required": true, "passed": passed, "output": "no answer"}],
                    "memory_total": 1_000_000_000, "memory_available": 500_000_000,
                    "disk_total": 8_000_000_000_u64, "disk_free": 4_000_000_000_u64,
                });
                json!({
                    "name": name(index), "fingerprint": format!("{index:064x}"), "commit": self.commit,
                    "report": report, "seen_ago": if is == Is::Silent { 86_400 } else { 0 },
                    "gone": is == Is::Gone,
                })
            })
            .collect();
        let input = serde_json::to_vec(&records).unwrap();
        let database = self.chain.folder().join("db.sqlite");
        Cmd::new("python3").args(["-c", WRITE]).arg(database).stdin(input).check().unwrap();
    }

    /// Has a device send a week of measurements, in which the memory of a unit rises or stays.
    fn measure(&self, name: &str, rises: bool) {
        let dir = self.chain.lab().folder().join(name);
        create_dir(&dir).unwrap();
        let (key, request) = (dir.join("key.pem"), dir.join("request.pem"));
        Cmd::new("openssl")
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", &format!("/CN={name}")])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&request)
            .check()
            .unwrap();
        let token = self.chain.volary(&["device", "token", "--stage", "development"]).unwrap();
        let secret = token.split_whitespace().find_map(|word| JoinToken::decode(word).ok()).unwrap().secret;
        let enroll = json!({
            "name": name, "csr": volary_host::read_to_string(&request).unwrap(), "secret": secret,
            "architecture": "amd64", "os": "Debian 12",
        });
        let post = |path: &str, more: &[&Path], body: &Value| -> Value {
            let mut curl =
                Cmd::new("curl").args(["-s", "--fail-with-body", "-H", "content-type: application/json"]);
            curl = curl.arg("--cacert").arg(self.chain.folder().join("ca/ca.pem"));
            for (option, file) in ["--key", "--cert"].iter().zip(more) {
                curl = curl.arg(option).arg(file);
            }
            let body = serde_json::to_vec(body).unwrap();
            let curl = curl.args(["--data-binary", "@-"]).arg(format!("{}{path}", self.chain.url()));
            serde_json::from_slice(&curl.stdin(body).check().unwrap().stdout).unwrap()
        };
        let enrolled = post("/device/v1/enroll", &[], &enroll);
        let certificate = dir.join("certificate.pem");
        write_atomic(&certificate, enrolled["certificate"].as_str().unwrap().as_bytes(), 0o600).unwrap();
        // 60 MiB, and 0.5 MiB more in each hour.
        let memory =
            |hour: u32| f64::from(1 << 20) * (60.0 + if rises { 0.5 * f64::from(hour) } else { 0.0 });
        let samples = json!({
            "id": "week", "boot_id": "b", "at": "2026-11-22T12:00:00Z", "age": 0, "step": 900, "points": HOURS * 4,
            "series": { "unit_memory_bytes{unit=\"app.service\"}": (0..HOURS * 4).map(|n| memory(n / 4)).collect::<Vec<_>>() },
        });
        let answer = post("/device/v1/metrics", &[&key, &certificate], &samples);
        assert_eq!(answer["received"], json!(["week"]), "{answer}");
    }

    fn known(&self) -> BTreeMap<String, Condition> {
        let devices: Vec<Device> = self.chain.desk().json(&["device", "list"]).unwrap();
        devices.into_iter().map(|device| (device.name.to_string(), device.condition)).collect()
    }

    fn feed(&self, name: &str) -> Value {
        let feeds: Vec<Value> = self.chain.desk().json(&["feed", "list"]).unwrap();
        feeds.into_iter().find(|feed| feed["name"] == name).unwrap()
    }
}

/// An Icinga 2 of its own in a folder.
struct Icinga {
    dir: PathBuf,
    process: Option<Process>,
}

const PORT: u16 = 15_665;

impl Icinga {
    /// As an administrator sets it up: the templates and the user that Volary ships, nothing else.
    fn set_up(fleet: &Fleet) -> Self {
        let icinga = Self { dir: fleet.chain.lab().folder().join("icinga"), process: None };
        for dir in ["lib/certs", "lib/ca", "log/crash", "cache", "spool/perfdata", "run"] {
            create_dir(&icinga.dir.join(dir)).unwrap();
        }
        Cmd::new("cp").args(["-r", "/etc/icinga2"]).arg(icinga.dir.join("etc")).check().unwrap();
        // It gives up its rights, and must get there all the same.
        Cmd::new("chmod").arg("a+x").arg(fleet.chain.lab().folder()).check().unwrap();
        icinga.give();
        let setup = Cmd::new("icinga2").args(["api", "setup", "--cn", "localhost"]).args(icinga.folders());
        setup.timeout(Duration::from_secs(60)).check().unwrap();
        let etc = icinga.dir.join("etc");
        for entry in std::fs::read_dir(etc.join("conf.d")).unwrap().flatten() {
            std::fs::remove_file(entry.path()).unwrap();
        }
        for entry in std::fs::read_dir(etc.join("features-enabled")).unwrap().flatten() {
            std::fs::remove_file(entry.path()).unwrap();
        }
        for feature in ["api", "checker"] {
            let from = format!("../features-available/{feature}.conf");
            std::os::unix::fs::symlink(from, etc.join(format!("features-enabled/{feature}.conf"))).unwrap();
        }
        let listener =
            format!("object ApiListener \"api\" {{ bind_host = \"127.0.0.1\"; bind_port = \"{PORT}\" }}\n");
        let put = |path: &str, text: &str| write_atomic(&etc.join(path), text.as_bytes(), 0o644).unwrap();
        put("features-available/api.conf", &listener);
        let constants = volary_host::read_to_string(&etc.join("constants.conf")).unwrap();
        let constants = constants.lines().filter(|line| !line.contains("const NodeName"));
        let constants: Vec<&str> = constants.collect();
        put("constants.conf", &format!("{}\nconst NodeName = \"localhost\"\n", constants.join("\n")));
        let shipped = fleet.chain.tools().checkout.join("packaging/icinga2");
        for file in ["volary.conf", "volary-api-user.conf"] {
            let text = volary_host::read_to_string(&shipped.join(file)).unwrap();
            put(&format!("conf.d/{file}"), &text.replace("CHANGE-THIS", "icinga-secret"));
        }
        put("conf.d/root.conf", "object ApiUser \"root\" { password = \"root\"; permissions = [ \"*\" ] }\n");
        icinga.give();
        icinga
    }

    /// Gives all of it to the user that Icinga runs as.
    fn give(&self) {
        Cmd::new("chown").args(["-R", "nagios:nagios"]).arg(&self.dir).check().unwrap();
    }

    /// The folders of this one, for its command line.
    fn folders(&self) -> Vec<String> {
        let dir = self.dir.display();
        [
            ("ConfigDir", "etc"),
            ("DataDir", "lib"),
            ("LogDir", "log"),
            ("CacheDir", "cache"),
            ("SpoolDir", "spool"),
            ("InitRunDir", "run"),
            ("PidPath", "run/icinga2.pid"),
            ("VarsPath", "cache/icinga2.vars"),
            ("ObjectsPath", "cache/icinga2.debug"),
            ("ModAttrPath", "lib/modified-attributes.conf"),
            ("StatePath", "lib/icinga2.state"),
        ]
        .iter()
        .flat_map(|(name, path)| ["-D".to_owned(), format!("{name}={dir}/{path}")])
        .collect()
    }

    fn start(&mut self, chain: &Chain) {
        let folders = self.folders();
        let mut args = vec!["daemon"];
        args.extend(folders.iter().map(String::as_str));
        let log = chain.logs().join("icinga.log");
        let process = chain.lab().start_process("icinga2", Path::new("/usr/sbin/icinga2"), &args, &[], &log);
        self.process = Some(process.unwrap());
        wait_until("Icinga to answer", PATIENCE, || {
            if let Some(Err(error)) = self.process.as_mut().map(Process::check_alive) {
                panic!("{error}");
            }
            self.ask("GET", "/v1/objects/hosts?attrs=state", "").map(drop).ok_or("no answer".into())
        })
        .unwrap();
    }

    fn kill(&mut self) {
        // With all that it started: dropping it ends its control group.
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
    }

    /// Asks as an administrator.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        let output = Cmd::new("curl")
            .args(["-s", "-k", "-g", "-u", "root:root", "-H", "Accept: application/json", "-X", method])
            .args(["-d", body])
            .arg(format!("https://127.0.0.1:{PORT}{path}"))
            .timeout(Duration::from_secs(60))
            .run()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        answer.get("results").cloned()
    }

    /// Each object with its state and whether it was told.
    fn states(&self, kind: &str) -> Option<BTreeMap<String, (u64, bool)>> {
        let path = format!("/v1/objects/{kind}?attrs=state&attrs=last_check_result");
        let results = self.ask("GET", &path, "")?;
        let state = |result: &Value| {
            let attrs = &result["attrs"];
            let told = attrs["last_check_result"]["check_source"] == "volary";
            (result["name"].as_str().unwrap().to_owned(), (attrs["state"].as_f64().unwrap() as u64, told))
        };
        Some(results.as_array()?.iter().map(state).collect())
    }

    /// Waits until it shows what the server knows of each device; `leaks` are some devices with the state of their service
    /// for leaks.
    fn agrees(&self, fleet: &Fleet, foreign: &[&str], leaks: &[(&str, u64)]) {
        wait_until("Icinga to agree", PATIENCE, || {
            let known = fleet.known();
            let mut hosts = self.states("hosts").ok_or("no answer")?;
            hosts.retain(|name, _| !foreign.contains(&name.as_str()));
            let services = self.states("services").ok_or("no answer")?;
            let names = |list: &mut dyn Iterator<Item = &String>| list.cloned().collect::<BTreeSet<_>>();
            if names(&mut hosts.keys()) != names(&mut known.keys()) {
                return Err(format!("{} hosts for {} devices", hosts.len(), known.len()));
            }
            // The template has a rule for leaks, so each device has that service too.
            if services.len() != 5 * known.len() {
                return Err(format!("{} services for {} devices", services.len(), known.len()));
            }
            for (device, state) in leaks {
                let seen = services.get(&format!("{device}!leak")).copied();
                if seen != Some((*state, true)) {
                    return Err(format!("the service leak of {device} is {seen:?}"));
                }
            }
            for (name, condition) in &known {
                let (host, converge) = match condition {
                    Condition::Good => (0, 0),
                    Condition::Failed => (0, 2),
                    Condition::Silent => (1, 3),
                    other => return Err(format!("{name} is {other:?}")),
                };
                let service = format!("{name}!converge");
                let seen = (hosts[name], services.get(&service).copied());
                if seen != ((host, true), Some((converge, true))) {
                    return Err(format!("{name} is {condition:?} and Icinga shows {seen:?}"));
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn icinga_shows_what_the_server_knows() {
    let fleet = Fleet::new();
    let mut icinga = Icinga::set_up(&fleet);
    icinga.start(&fleet.chain);
    icinga.ask("PUT", "/v1/objects/hosts/printer", r#"{"attrs":{"check_command":"passive"}}"#).unwrap();
    // One of ours has the name of somebody else's: theirs stays as it is.
    fleet.set(0..DEVICES, Is::Good);
    write_atomic(&fleet.chain.folder().join("icinga.password"), b"icinga-secret\n", 0o600).unwrap();
    let ca = icinga.dir.join("lib/certs/ca.crt");
    fleet.configure(&format!(
        "[feeds.icinga.main]\nurl = \"https://localhost:{PORT}\"\nuser = \"volary\"\n\
         password_file = \"icinga.password\"\nca_file = \"{}\"\nttl = 150",
        ca.display()
    ));
    icinga.agrees(&fleet, &["printer"], &[]);

    // Two of them measure; the template's rule finds the leak of one.
    let (leaking, steady) = (name(DEVICES + 10), name(DEVICES + 11));
    fleet.measure(&leaking, true);
    fleet.measure(&steady, false);
    fleet.set(DEVICES + 10..DEVICES + 12, Is::Good);
    let leaks = [(leaking.as_str(), 1), (steady.as_str(), 0)];
    icinga.agrees(&fleet, &["printer"], &leaks);

    fleet.set(0..50, Is::Failing);
    fleet.set(50..70, Is::Silent);
    icinga.agrees(&fleet, &["printer"], &leaks);

    // Somebody deletes one there: it comes again as soon as there is something to say of it.
    let path = format!("/v1/objects/hosts/{}?cascade=1", name(100));
    icinga.ask("DELETE", &path, "").unwrap();
    fleet.set(100..101, Is::Failing);
    icinga.agrees(&fleet, &["printer"], &leaks);

    // Icinga dies, and the server too; the fleet changes meanwhile.
    icinga.kill();
    fleet.set(0..60, Is::Good);
    fleet.set(200..230, Is::Failing);
    fleet.set(300..301, Is::Gone);
    fleet.set(DEVICES..DEVICES + 1, Is::Good);
    wait_until("the server to notice", PATIENCE, || {
        let feed = fleet.feed("icinga/main");
        if feed["problem"].is_string() { Ok(()) } else { Err(feed.to_string()) }
    })
    .unwrap();
    fleet.chain.kill_server().unwrap();
    fleet.chain.start_server().unwrap();
    icinga.start(&fleet.chain);
    icinga.agrees(&fleet, &["printer"], &leaks);
    wait_until("the feed to work", PATIENCE, || {
        let feed = fleet.feed("icinga/main");
        if feed["problem"].is_null() { Ok(()) } else { Err(feed.to_string()) }
    })
    .unwrap();
    let printer = icinga.ask("GET", "/v1/objects/hosts/printer?attrs=last_check_result", "").unwrap();
    // Icinga may have said meanwhile that nothing came.
    assert_ne!(printer[0]["attrs"]["last_check_result"]["check_source"], "volary", "{printer}");

    // Without the server, Icinga itself says that nothing comes any more.
    fleet.chain.stop_server().unwrap();
    wait_until("results to grow stale", PATIENCE, || {
        let hosts = icinga.states("hosts").ok_or("no answer")?;
        let fresh = hosts.iter().filter(|(name, state)| name.as_str() != "printer" && **state != (1, false));
        match fresh.count() {
            0 => Ok(()),
            count => Err(format!("{count} hosts are not DOWN yet")),
        }
    })
    .unwrap();
}

const ALERTMANAGER: u16 = 15_093;

fn start_alertmanager(fleet: &Fleet) -> Process {
    let dir = fleet.chain.lab().folder().join("alertmanager");
    create_dir(&dir).unwrap();
    let config = dir.join("config.yml");
    write_atomic(&config, b"route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n", 0o644).unwrap();
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", dir.join("data").display()),
        format!("--web.listen-address=127.0.0.1:{ALERTMANAGER}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let log = fleet.chain.logs().join("alertmanager.log");
    let program = Path::new("/usr/bin/prometheus-alertmanager");
    fleet.chain.lab().start_process("alertmanager", program, &args, &[], &log).unwrap()
}

/// The alerts that go on there: check, devices.
fn posted() -> Result<BTreeMap<String, String>, String> {
    let url = format!("http://127.0.0.1:{ALERTMANAGER}/api/v2/alerts");
    let output = Cmd::new("curl").args(["-s", &url]).run().map_err(|error| error.to_string())?;
    let alerts: Vec<Value> =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("no answer: {error}"))?;
    let active = alerts.iter().filter(|alert| alert["status"]["state"] == "active");
    let pair = |alert: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rule = text(&alert["labels"]["alertname"]);
        (format!("{rule} {}", text(&alert["labels"]["check"])), text(&alert["annotations"]["devices"]))
    };
    Ok(active.map(pair).collect())
}

fn wait_for_alerts(expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(what, devices)| ((*what).to_owned(), (*devices).to_owned())).collect();
    wait_until("Alertmanager to agree", PATIENCE, || {
        let posted = posted()?;
        if posted == expected { Ok(()) } else { Err(format!("{posted:?}")) }
    })
    .unwrap();
}

#[test]
fn an_alertmanager_shows_causes_and_loses_no_end() {
    let fleet = Fleet::new();
    fleet.set(0..DEVICES, Is::Good);
    let mut alertmanager = start_alertmanager(&fleet);
    fleet.configure(&format!("[feeds.alertmanager.main]\nurl = \"http://127.0.0.1:{ALERTMANAGER}\""));
    fleet.set(0..312, Is::Failing);
    wait_for_alerts(&[("device-failed dns", "312")]);

    // The end comes while it is away, and the server dies as well.
    alertmanager.kill().unwrap();
    drop(alertmanager);
    fleet.set(0..312, Is::Good);
    wait_until("the alert to be over", PATIENCE, || {
        let alerts: Vec<Value> = fleet.chain.desk().json(&["alert", "list"]).unwrap();
        if alerts.is_empty() { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .unwrap();
    fleet.chain.kill_server().unwrap();
    fleet.chain.start_server().unwrap();
    let mut alertmanager = start_alertmanager(&fleet);
    wait_for_alerts(&[]);

    // It forgets everything, and is told again.
    fleet.set(7..8, Is::Failing);
    wait_for_alerts(&[("device-failed dns", "1")]);
    alertmanager.kill().unwrap();
    drop(alertmanager);
    let _alertmanager = start_alertmanager(&fleet);
    wait_for_alerts(&[("device-failed dns", "1")]);
    fleet.chain.volary(&["alert", "silence", "check=dns", "--for", "1h", "--reason", "a test"]).unwrap();
    wait_for_alerts(&[]);
}
