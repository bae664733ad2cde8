//! The chapter of the leak: found in the canaries, kept out of production, told, mended, and merged by the
//! server itself; then proven without it. Time goes faster than in the field: a week is a minute.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use volary_model::CommitId;
use volary_testkit::chain::Chain;
use volary_testkit::wait_until;

use super::{BUILD, CONVERGE, Demo, fleet, sources};

/// How long a leak may take to be found: its window, and a look each minute.
const FOUND: Duration = Duration::from_secs(6 * 60);

/// Whom the server tells of alerts: a listener that keeps what it is told.
pub struct Listener {
    url: String,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Listener {
    /// Listens on the address that the server has too, until the demo ends.
    pub fn open(address: Ipv4Addr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, 0)).context("cannot listen for alerts")?;
        let url = format!("http://{}/alerts", listener.local_addr()?);
        let told = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(alert) = answer(stream) {
                    keep.lock().unwrap_or_else(PoisonError::into_inner).push(alert);
                }
            }
        });
        Ok(Self { url, told })
    }

    /// What an alert of a rule said first, if it was told.
    fn told_of(&self, rule: &str) -> Option<String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let of_rule = |alert: &&Value| alert["labels"]["alertname"] == rule;
        let found =
            told.iter().flat_map(|body| body["alerts"].as_array().into_iter().flatten()).find(of_rule);
        found.and_then(|alert| alert["annotations"]["summary"].as_str().map(str::to_owned))
    }
}

/// Takes one request and says that it has it.
fn answer(mut stream: TcpStream) -> anyhow::Result<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(serde_json::from_slice(&body)?)
}

/// Has the server tell the listener of alerts, at once: a demo has little time.
pub fn tell(chain: &Chain, listener: &Listener) -> anyhow::Result<()> {
    let alerts =
        format!("\n[alerts]\nhold = 1\nsettle = 5\n\n[feeds.webhook.demo]\nurl = \"{}\"\n", listener.url);
    Ok(chain.reconfigure(|text| text + &alerts)?)
}

impl Demo<'_> {
    /// Returns the version that mends it.
    pub(super) fn leak(&self, listener: &Listener) -> anyhow::Result<String> {
        let story = self.story;
        story.chapter("A leak is found in the canaries, and its mend reaches production by itself");
        story.step(
            "volary.yml: memory is watched, and the server merges what all gates let through",
            || {
                let line = self.promoter()?;
                self.fleet.pull()?;
                fleet::watch_memory(&self.fleet, &line)
            },
        )?;
        self.promote("development", "canary")?;
        self.promote("canary", "production")?;
        let leaking =
            story.step("volary-pulse keeps what it measures; built, cut as v1.1, bumped", || {
                self.good("production")?;
                let commit = sources::change_pulse(&self.chain, sources::Change::Leak)?;
                let version = self.built(sources::PULSE, &commit)?;
                self.arrives("development", sources::PULSE, &version)?;
                self.chain.volary(&["release", "cut", "v1.1"])?;
                Ok(version)
            })?;
        story.note(&format!("volary-pulse {leaking}: 1 MiB more with each measurement"));
        self.bump("v1.1")?;
        self.promote("development", "canary")?;
        story.step("the canaries install it, and are well by every check", || {
            self.arrives("canary", sources::PULSE, &leaking)?;
            self.good("canary")
        })?;
        let said = story.step(
            "the rule finds the leak; whoever listens is told; production stays closed",
            || {
                let said = wait_until("the alert to be told", FOUND, || {
                    listener.told_of("leak").ok_or_else(|| "nobody was told yet".to_owned())
                })?;
                self.closed_by("watch")?;
                Ok(said)
            },
        )?;
        story.note(&format!("told: {said}"));
        let refused = self.fleet.volary(&["promote", "--from", "canary", "--to", "production", "--yes"])?;
        ensure!(!refused.status.success(), "a leak was promoted");
        story.note(&watch_line(&String::from_utf8_lossy(&refused.stderr)));

        let mended = story.step("the mend: built, picked into v1.1/r2, frozen, bumped", || {
            let commit = sources::change_pulse(&self.chain, sources::Change::Mend)?;
            let version = self.built(sources::PULSE, &commit)?;
            self.arrives("development", sources::PULSE, &version)?;
            self.chain.volary(&["release", "pick", "v1.1", sources::PULSE])?;
            self.chain.volary(&["release", "freeze", "v1.1"])?;
            Ok(version)
        })?;
        self.bump("v1.1")?;
        self.promote("development", "canary")?;
        story.step(
            "nobody does anything: soaked, well, no leak; the server merges into production",
            || {
                let wanted = self.tip("canary")?;
                let begun = Instant::now();
                while self.merged_into_production()? != wanted {
                    let status = self.chain.volary(&["status"])?;
                    ensure!(begun.elapsed() < FOUND, "the server did not merge; it says:\n{status}");
                    std::thread::sleep(Duration::from_secs(1));
                }
                self.arrives("production", sources::PULSE, &mended)?;
                self.good("production")
            },
        )?;
        let proven =
            story.step("volary verify, in a clone without network: who signed, and why", || self.proven())?;
        story.note(&proven);
        Ok(mended)
    }

    /// The line of the key with which the server merges.
    fn promoter(&self) -> anyhow::Result<String> {
        let keys = self.chain.volary(&["server-keys"])?;
        let line = keys.lines().find(|line| line.starts_with("volary-promoter "));
        Ok(line.context("the server shows no key to merge with")?.to_owned())
    }

    /// What production merged last.
    fn merged_into_production(&self) -> anyhow::Result<CommitId> {
        self.fleet.run_git(&["fetch", "--quiet", "origin"])?;
        Ok(self.fleet.run_git(&["rev-parse", "origin/production^2"])?.trim().parse()?)
    }

    /// Waits until a gate into production says stop.
    fn closed_by(&self, gate: &str) -> anyhow::Result<()> {
        Ok(wait_until("the gate to say stop", FOUND, || {
            let args = ["--json", "promote", "--from", "canary", "--to", "production", "--dry-run"];
            let output = self.fleet.volary(&args).map_err(|error| error.to_string())?;
            let said: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
            let verdicts = said["verdicts"].as_array().cloned().unwrap_or_default();
            let stops = verdicts.iter().any(|verdict| verdict["gate"] == gate && verdict["say"] == "stop");
            if stops { Ok(()) } else { Err(format!("{verdicts:?}")) }
        })?)
    }

    /// Proves production's last step where there is neither a server nor a network.
    fn proven(&self) -> anyhow::Result<String> {
        let program = self.chain.tools().volary.display().to_string();
        let verify = || -> anyhow::Result<volary_host::Output> {
            self.fleet.run_git(&["fetch", "--quiet", "origin"])?;
            let args = ["--net", &program, "verify", "--stage", "production", "--last", "1"];
            Ok(self
                .chain
                .desk()
                .run(&self.chain.command("unshare").args(args).cwd(self.fleet.dir()).timeout(BUILD))?)
        };
        // The server signs the evidence a moment after the merge.
        let begun = Instant::now();
        loop {
            let output = verify()?;
            if output.status.success() {
                return Ok(output.text());
            }
            ensure!(begun.elapsed() < CONVERGE, "it is not proven:\n{}", output.text());
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// What the gate said, out of all that was said.
fn watch_line(said: &str) -> String {
    let line = said.lines().map(str::trim).find(|line| line.starts_with("watch:"));
    format!("volary promote is refused: {}", line.unwrap_or(said))
}
