//! `server.toml`: what the operator of a server sets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use volary_build::{Limits, LintianPolicy};
use volary_model::{Architecture, GateName, SourceName};

use crate::ServerError;
use crate::address;
use crate::export::ExportConfig;
use crate::feeds::FeedsConfig;
use crate::gate_command::GateCommand;
use crate::login_config::{LoginConfig, OidcConfig};
use crate::metrics_config::MetricsConfig;
use crate::status_hook::StatusHook;

/// The version of the file's form that this program writes and reads.
const VERSION: u32 = 1;

/// The keys of `server.toml`, for the nearest one when somebody mistypes.
const KEYS: &[&str] = &[
    "version",
    "fleet",
    "hosts",
    "port",
    "listen",
    "public_url",
    "poll_sources",
    "build_workers",
    "build_jobs",
    "build_architectures",
    "build_timeout",
    "build_silence",
    "build_memory",
    "build_processes",
    "build_disk",
    "build_logs",
    "lintian",
    "lintian_refuse",
    "rebuild_dependents",
    "status_hook",
    "build_cache",
    "archive_architectures",
    "archive_contents",
    "archive_news_at_end_from",
    "archive_valid_days",
    "connections",
    "gc",
    "gate_commands",
    "images",
    "mender",
    "metrics",
    "signers",
    "export",
    "alerts",
    "feeds",
    "login",
    "oidc",
];

/// The configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this form.
    pub version: u32,
    /// The fleet's name, as the page and the release files show it.
    pub fleet: String,
    /// Names and addresses under which clients reach the server, in its certificate; the first is
    /// the one in links and join tokens.
    pub hosts: Vec<String>,
    /// The port.
    pub port: u16,
    /// The local address to listen on; default: all, IPv6 and IPv4.
    #[serde(default = "default_listen")]
    pub listen: IpAddr,
    /// The address to give out, if it is not `https://` and the first host and port: with a proxy
    /// or a forwarded port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Seconds between two looks at source repositories that are hosted elsewhere.
    #[serde(default = "default_poll_sources")]
    pub poll_sources: u32,
    /// How many builds run at once.
    #[serde(default = "default_build_workers")]
    pub build_workers: u32,
    /// How many processes one build starts beside each other (`DEB_BUILD_OPTIONS=parallel=N`);
    /// default: the processors of the machine, divided among the builds that run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_jobs: Option<u32>,
    /// The architectures to build for, where neither a source nor its registration says; default:
    /// the machine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub build_architectures: Vec<Architecture>,
    /// Seconds after which a build is stopped; one under emulation after four times that.
    #[serde(default = "default_build_timeout")]
    pub build_timeout: u64,
    /// Seconds after which a build that says nothing is stopped; 0 for never.
    #[serde(default = "default_build_silence")]
    pub build_silence: u64,
    /// MiB of memory that a build may have; 0 for as much as there is.
    #[serde(default)]
    pub build_memory: u64,
    /// Processes that a build may have at one time; 0 for any number.
    #[serde(default)]
    pub build_processes: u64,
    /// MiB that a build may write; 0 for as much as there is.
    #[serde(default)]
    pub build_disk: u64,
    /// How many logs of each source are kept, besides those of packages that a suite offers.
    #[serde(default = "default_build_logs")]
    pub build_logs: u32,
    /// Whether lintian looks at what was built.
    #[serde(default)]
    pub lintian: bool,
    /// The severities (`error`, `warning`, `info`) and tags of lintian that stop a package.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lintian_refuse: Vec<String>,
    /// The sources after whose builds everything is built again that build-depends on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuild_dependents: Vec<SourceName>,
    /// Where the build chroots are kept; default: a cache folder that all servers of this machine
    /// share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<PathBuf>,
    /// Architectures that the archive has beside amd64, arm64 and armhf. One that it has stays: it
    /// cannot be taken from devices that use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archive_architectures: Vec<Architecture>,
    /// Whether suites have `Contents`, for `apt-file`.
    #[serde(default = "default_archive_contents")]
    pub archive_contents: bool,
    /// From so many packages in a component of rolling on its indexes list the newest at their end, and the versions that
    /// these replace for some 60 publishes or a quiet hour more; so a publish into a large archive costs a third less. 0 does
    /// so always.
    #[serde(default = "volary_archive::default_news_at_end_from")]
    pub archive_news_at_end_from: usize,
    /// For how many days the signature of a suite is valid, renewed at half of that; by default for
    /// ever. Devices whose clock is wrong, or that come back while the server is away for longer,
    /// refuse the suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_valid_days: Option<u32>,
    /// How many connections are served at once; more wait.
    #[serde(default = "default_connections")]
    pub connections: u32,
    /// What garbage collection of the archive spares, and how often it runs.
    #[serde(default, skip_serializing_if = "Gc::is_default")]
    pub gc: Gc,
    /// Commands that sign the archive with keys that lie elsewhere, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub signers: BTreeMap<String, SignerConfig>,
    /// Commands that speak for gates, by the name that `volary.yml` has for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gate_commands: BTreeMap<GateName, GateCommand>,
    /// Which images are taken, and which are kept.
    #[serde(default, skip_serializing_if = "ImageConfig::is_default")]
    pub images: ImageConfig,
    /// Serves devices whose client is Mender's, if the section is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mender: Option<MenderConfig>,
    /// How measurements of devices are kept.
    #[serde(default, skip_serializing_if = "MetricsConfig::is_default")]
    pub metrics: MetricsConfig,
    /// Who is told of builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status_hook: Vec<StatusHook>,
    /// Suites that are kept up to date elsewhere, each as an `[[export]]`.
    #[serde(default, rename = "export", skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<ExportConfig>,
    /// How patient alerts are.
    #[serde(default, skip_serializing_if = "AlertConfig::is_default")]
    pub alerts: AlertConfig,
    /// Who is told of alerts and measurements.
    #[serde(default, skip_serializing_if = "FeedsConfig::is_default")]
    pub feeds: FeedsConfig,
    /// How people sign in.
    #[serde(default, skip_serializing_if = "LoginConfig::is_default")]
    pub login: LoginConfig,
    /// Signing in through a provider, if the section is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcConfig>,
}

/// How patient alerts are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertConfig {
    /// Seconds that a device must be wrong before an alert begins.
    pub hold: u32,
    /// Seconds that it must be well before it counts no more.
    pub settle: u32,
    /// Days that an alert is kept after its end.
    pub days: u32,
}

impl Default for AlertConfig {
    /// A minute, five minutes, ninety days.
    fn default() -> Self {
        Self { hold: 60, settle: 300, days: 90 }
    }
}

impl AlertConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Garbage collection of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gc {
    /// How many of the newest versions of each package and architecture stay.
    pub versions: u32,
    /// Days that a version stays after a newer one came.
    pub days: u32,
    /// Hours between two runs; 0: only when somebody asks for it.
    pub every: u32,
}

impl Default for Gc {
    /// Five versions, thirty days, once a day.
    fn default() -> Self {
        Self { versions: 5, days: 30, every: 24 }
    }
}

impl Gc {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which images are taken, and which are kept. A pinned one always is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Files with public keys (PEM: RSA, ECDSA P-256). If there are any, one of them must have signed
    /// each artifact that is published.
    pub keys: Vec<PathBuf>,
    /// How many of the newest images of each device type stay.
    pub keep: u32,
    /// Days that an image stays after it was published, or pinned last.
    pub days: u32,
}

impl Default for ImageConfig {
    /// Any sound artifact; five images of each device type, thirty days.
    fn default() -> Self {
        Self { keys: Vec::new(), keep: 5, days: 30 }
    }
}

impl ImageConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The keys themselves.
    pub(crate) fn read_keys(&self, root: &Path) -> Result<Vec<volary_artifact::PublicKey>, ServerError> {
        let read = |path: &PathBuf| {
            let path = root.join(path);
            let text = volary_host::read_to_string(&path)?;
            volary_artifact::PublicKey::from_pem(&text).map_err(|error| ServerError::Config {
                path: root.join("server.toml"),
                problem: format!("images.keys: {}: {error}", path.display()),
            })
        };
        self.keys.iter().map(read).collect()
    }
}

/// Serving devices whose client is Mender's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MenderConfig {
    /// Seconds between two questions of a client (`UpdatePollIntervalSeconds` in its `mender.conf`): three
    /// that are missing make a device silent.
    pub poll: u32,
    /// Hours that a link to an artifact is good.
    pub link_hours: u32,
}

impl Default for MenderConfig {
    /// Half an hour, as clients ask by default; a day.
    fn default() -> Self {
        Self { poll: 1800, link_hours: 24 }
    }
}

/// A command that signs the archive. It gets the text on standard input and prints it clearsigned,
/// or a detached signature in text mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerConfig {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Seconds after which it is stopped, and the publish fails.
    #[serde(default = "default_signer_timeout")]
    pub timeout: u64,
}

fn default_signer_timeout() -> u64 {
    30
}

/// A publish waits for its signature, and other publishes wait for it.
const LONGEST_SIGNING: u64 = 100;

fn default_listen() -> IpAddr {
    Ipv6Addr::UNSPECIFIED.into()
}

fn default_poll_sources() -> u32 {
    30
}

fn default_build_workers() -> u32 {
    1
}

fn default_build_timeout() -> u64 {
    3600
}

fn default_build_logs() -> u32 {
    50
}

fn default_build_silence() -> u64 {
    1800
}

fn default_archive_contents() -> bool {
    true
}

fn default_connections() -> u32 {
    4096
}

impl Config {
    /// A configuration with the usual values.
    pub fn new(fleet: String, hosts: Vec<String>, port: u16) -> Self {
        Self {
            version: VERSION,
            fleet,
            hosts,
            port,
            listen: default_listen(),
            public_url: None,
            poll_sources: default_poll_sources(),
            build_workers: default_build_workers(),
            build_jobs: None,
            build_architectures: Vec::new(),
            build_timeout: default_build_timeout(),
            build_silence: default_build_silence(),
            build_memory: 0,
            build_processes: 0,
            build_disk: 0,
            build_logs: default_build_logs(),
            lintian: false,
            lintian_refuse: Vec::new(),
            rebuild_dependents: Vec::new(),
            build_cache: None,
            archive_architectures: Vec::new(),
            archive_contents: default_archive_contents(),
            archive_news_at_end_from: volary_archive::default_news_at_end_from(),
            archive_valid_days: None,
            connections: default_connections(),
            gc: Gc::default(),
            images: ImageConfig::default(),
            mender: None,
            metrics: MetricsConfig::default(),
            signers: BTreeMap::new(),
            gate_commands: BTreeMap::new(),
            status_hook: Vec::new(),
            exports: Vec::new(),
            alerts: AlertConfig::default(),
            feeds: FeedsConfig::default(),
            login: LoginConfig::default(),
            oidc: None,
        }
    }

    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ServerError::Config`] names the key and the nearest known one.
    pub fn read(path: &Path) -> Result<Self, ServerError> {
        let text = volary_host::read_to_string(path)?;
        Self::parse(&text).map_err(|problem| ServerError::Config { path: path.to_owned(), problem })
    }

    /// The file's text, with a comment that says what else can be set.
    pub fn text(&self) -> String {
        let own = toml::to_string(self).expect("a configuration is plain values");
        format!(
            "# A Volary server. Restart it after a change: volary serve.\n\
             # A change of `hosts` or `port` makes a new certificate; devices that are enrolled\n\
             # know the server by the first host.\n{own}"
        )
    }

    /// The address that clients get to see, without a slash at the end.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// As [`Config::url`], for a server that listens on another port than the configured one.
    pub fn url_at(&self, port: u16) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = self.hosts.first().map_or("localhost", String::as_str);
        let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
        if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
    }

    /// How many processes one build starts beside each other.
    pub fn jobs(&self) -> usize {
        let share = || {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let workers = usize::try_from(self.build_workers).unwrap_or(usize::MAX);
            (processors / workers.max(1)).max(1)
        };
        self.build_jobs.map_or_else(share, |jobs| usize::try_from(jobs).unwrap_or(usize::MAX))
    }

    /// Between two looks at sources that are hosted elsewhere.
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_sources.max(1).into())
    }

    /// What bounds a build besides its time.
    pub(crate) fn limits(&self) -> Limits {
        let bound = |value: u64| (value > 0).then_some(value);
        let mib = |value: u64| bound(value).map(|value| value.saturating_mul(1 << 20));
        Limits {
            silence: bound(self.build_silence).map(Duration::from_secs),
            memory: mib(self.build_memory),
            processes: bound(self.build_processes),
            disk: mib(self.build_disk),
        }
    }

    /// The commands that sign, as the archive takes them.
    pub(crate) fn signers(&self) -> volary_archive::Signers {
        let signer = |signer: &SignerConfig| volary_archive::SignerCommand {
            command: signer.command.clone(),
            timeout: Duration::from_secs(signer.timeout),
        };
        self.signers.iter().map(|(name, own)| (name.clone(), signer(own))).collect()
    }

    /// Between two questions of a Mender client.
    pub(crate) fn mender_poll(&self) -> Duration {
        Duration::from_secs(self.mender.clone().unwrap_or_default().poll.into())
    }

    /// What lintian is to do: a policy that stops packages lets it run.
    pub(crate) fn lintian(&self) -> LintianPolicy {
        LintianPolicy {
            run: self.lintian || !self.lintian_refuse.is_empty(),
            refuse: self.lintian_refuse.clone(),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("unknown key {key:?}; did you mean {:?}?", nearest(key, KEYS)));
        }
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(VERSION) => {}
            Some(version) => {
                return Err(format!("version {version} is not known; this program reads version {VERSION}"));
            }
            None => return Err(format!("version is missing; write: version = {VERSION}")),
        }
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.hosts.is_empty() {
            return Err("hosts is empty; name at least one host that clients reach".into());
        }
        if let Some(host) = self.hosts.iter().find(|host| !is_host(host)) {
            return Err(format!("host {host:?} is neither a host name nor an address"));
        }
        let plain = |c: char| !c.is_control();
        if self.fleet.trim().is_empty() || self.fleet.len() > 64 || !self.fleet.chars().all(plain) {
            return Err("fleet must be a name of 1 to 64 characters".into());
        }
        ExportConfig::check_all(&self.exports)?;
        self.feeds.check()?;
        if !self.archive_architectures.is_empty() {
            volary_build::check_architectures(&self.archive_architectures)
                .map_err(|problem| format!("archive_architectures: {problem}"))?;
        }
        if !self.build_architectures.is_empty() {
            volary_build::check_architectures(&self.build_architectures)
                .map_err(|problem| format!("build_architectures: {problem}"))?;
        }
        if self.build_jobs == Some(0) {
            return Err("build_jobs must be at least 1".into());
        }
        if self.build_workers == 0 || self.connections == 0 {
            return Err("build_workers and connections must be at least 1".into());
        }
        if self.mender.as_ref().is_some_and(|mender| mender.poll == 0 || mender.link_hours == 0) {
            return Err("mender.poll and mender.link_hours must be at least 1".into());
        }
        self.metrics.check()?;
        self.login.check()?;
        self.oidc.as_ref().map_or(Ok(()), OidcConfig::check)?;
        for (name, signer) in &self.signers {
            if signer.command.first().is_none_or(String::is_empty) {
                return Err(format!("signers.{name}: command names no program"));
            }
            if signer.timeout == 0 || signer.timeout > LONGEST_SIGNING {
                return Err(format!("signers.{name}: timeout must be 1 to {LONGEST_SIGNING} seconds"));
            }
        }
        for (name, command) in &self.gate_commands {
            command.check().map_err(|problem| format!("gate_commands.{name}: {problem}"))?;
        }
        LintianPolicy::check(&self.lintian_refuse).map_err(|problem| format!("lintian_refuse: {problem}"))?;
        for (index, hook) in self.status_hook.iter().enumerate() {
            hook.check()?;
            if self.status_hook[..index].iter().any(|other| other.name == hook.name) {
                return Err(format!("two status hooks are called {:?}; give each its own name", hook.name));
            }
        }
        if self.public_url.as_deref().is_some_and(|url| !address::is_https(url)) {
            return Err("public_url must begin with https://".into());
        }
        Ok(())
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

/// The known key with the fewest letters to change.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> &'a str {
    known.iter().min_by_key(|known| distance(key, known)).expect("there are known keys")
}

/// How many letters must be put in, taken out or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let problem = Config::parse(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }

    const GOOD: &str = "version = 1\nfleet = \"x\"\nhosts = [\"h\"]\nport = 8443\n";

    #[test]
    fn what_is_written_is_read() {
        let config = Config::new("flock".into(), vec!["volary.example".into(), "::1".into()], 8443);
        assert_eq!(Config::parse(&config.text()).unwrap(), config);
        let command = vec!["/usr/local/bin/sign".into(), "--card".into()];
        let signers = BTreeMap::from([("card".into(), SignerConfig { command, timeout: 20 })]);
        let config = Config { signers, gc: Gc { every: 0, ..Gc::default() }, ..config };
        let export = ExportConfig::new("s3://bucket/apt".into(), vec!["all".into()]);
        let config = Config { exports: vec![export], ..config };
        assert_eq!(Config::parse(&config.text()).unwrap(), config);
    }

    #[test]
    fn mistakes_are_named() {
        check(&format!("{GOOD}build_worker = 2\n"), "did you mean \"build_workers\"?");
        check("fleet = \"x\"", "write: version = 1");
        check(&GOOD.replace("= 1", "= 2"), "version 2 is not known");
        check(&GOOD.replace("\"h\"", ""), "hosts is empty");
        check(&GOOD.replace("\"h\"", "\"a b\""), "neither a host name nor an address");
        check(&format!("{GOOD}build_workers = 0\n"), "at least 1");
        check(&format!("{GOOD}build_jobs = 0\n"), "at least 1");
        check(&format!("{GOOD}archive_architectures = [\"x\", \"x\"]\n"), "named twice");
        check(&format!("{GOOD}build_architectures = [\"all\"]\n"), "build_architectures: ");
        check("port = ", "port");
        check(&format!("{GOOD}[signers.card]\ncommand = []\n"), "signers.card: command names no program");
        check(&format!("{GOOD}[signers.card]\ncommand = [\"x\"]\ntimeout = 0\n"), "1 to 100 seconds");
        check(&format!("{GOOD}[signers.card]\nprogram = \"x\"\n"), "unknown field `program`");
        check(&format!("{GOOD}[gate_commands.rig]\ncommand = [\"x\"]\n"), "gate_commands.rig: command must");
        check(&format!("{GOOD}[gc]\nversion = 2\n"), "unknown field `version`");
        check(&format!("{GOOD}[mender]\npoll = 0\n"), "mender.poll and mender.link_hours must be at least 1");
        check(&format!("{GOOD}[mender]\nenabled = true\n"), "unknown field `enabled`");
        check(&format!("{GOOD}[metrics]\nraw_hours = 1\n"), "metrics.raw_hours must be");
        check(&format!("{GOOD}[metrics]\nhours = 1\n"), "unknown field `hours`");
        let oidc = |text: &str| format!("{GOOD}[oidc]\n{text}\n");
        check(&oidc("issuer = \"http://x\"\nclient_id = \"v\""), "oidc.issuer \"http://x\" must begin");
        let good = "issuer = \"https://x\"\nclient_id = \"v\"";
        check(&oidc(good), "name groups in [oidc.roles]");
        check(&oidc(&format!("{good}\nscopes = [\"email\"]")), "must have openid in it");
        check(&oidc(&format!("{good}\neverybody = \"upload\"")), "for tokens");
        check(&oidc(&format!("{good}\nclient_secret = \"x\"")), "unknown field `client_secret`");
        check(&oidc(&format!("{good}\n[oidc.roles]\nops = \"king\"")), "unknown variant `king`");
        check(&format!("{GOOD}[login]\nsession_hours = 0\n"), "login.session_hours must be 1 to");
        check(&format!("{GOOD}[login]\nhours = 1\n"), "unknown field `hours`");
        check(&format!("{GOOD}[images]\nkey = \"x\"\n"), "unknown field `key`");
        let feed = |text: &str| format!("{GOOD}{text}\n");
        check(&feed("[feeds.webhok.x]\nurl = \"https://x\""), "webhok");
        check(&feed("[feeds.webhook.x]\nurl = \"x\""), "feeds.webhook.x: url \"x\" must begin with https://");
        check(&feed("[feeds.webhook.\"a b\"]\nurl = \"https://x\""), "a name is letters");
        check(&feed("[feeds.webhook.x]\nurl = \"https://x\"\nqueue_mib = 0"), "queue_mib must be at least 1");
        check(&feed("[feeds.datadog.x]\nkey_file = \"k\""), "feeds.datadog.x: name the site");
        check(
            &feed("[feeds.otlp.x]\nurl = \"https://x\"\ninterval = 1"),
            "interval must be 10 to 3600 seconds",
        );
        let mail = "[feeds.mail.x]\nserver = \"m\"\nfrom = \"a@b.c\"\n";
        check(&feed(&format!("{mail}to = []")), "to is empty");
        check(&feed(&format!("{mail}to = [\"nobody\"]")), "no address of mail");
        check(&feed(&format!("{mail}to = [\"a@b.c\"]\nuser = \"u\"")), "belong together");
        let icinga = "[feeds.icinga.x]\nuser = \"u\"\npassword_file = \"p\"\nca_file = \"c\"\n";
        check(&feed(&format!("{icinga}url = \"http://x\"")), "must begin with https://");
        check(&feed("[alerts]\nhould = 1"), "unknown field `hould`");
        let export = "[[export]]\nname = \"cdn\"\nto = \"s3://b\"\nsuites = [\"rolling\"]\n";
        check(&format!("{GOOD}{export}bucket = \"b\"\n"), "bucket");
        check(&format!("{GOOD}{}", export.replace("rolling", "v1/x")), "v1/x");
        check(&format!("{GOOD}{export}{export}"), "two exports cdn");
        check(&format!("{GOOD}{export}{}", export.replace("cdn", "other")), "two exports go to s3://b");
    }

    #[test]
    fn builds_share_the_processors() {
        let mut config = Config::new("x".into(), vec!["h".into()], 1);
        config.build_workers = u32::MAX;
        assert_eq!(config.jobs(), 1, "each build may have one process at least");
        config.build_jobs = Some(7);
        assert_eq!(config.jobs(), 7);
    }

    #[test]
    fn the_address_fits_host_and_port() {
        let url = |host: &str, port| Config::new("x".into(), vec![host.into()], port).url();
        assert_eq!(url("h.example", 8443), "https://h.example:8443");
        assert_eq!(url("h.example", 443), "https://h.example");
        assert_eq!(url("::1", 8443), "https://[::1]:8443");
    }
}
