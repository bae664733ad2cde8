//! The agent's side of HTTPS: its own authority only, its client certificate, limits on time and
//! size for everything, and a kept connection while it is idle.

use std::cell::Cell;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use volary_api::v1::Problem;
use volary_api::v1::device::{AskTurn, Desired, Enroll, Enrolled, ReceivedBatch, Turn, WantObjects};
use volary_host::{now, read};

use crate::key::DeviceKey;
use crate::lookup::{Later, LookedUp};
use crate::tpm;

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A server that sends nothing for this long is away.
    pub silence: Duration,
    /// A small exchange ends within this time, however the bytes trickle.
    pub small: Duration,
    /// The objects of a commit, or an index of the archive, arrive within this time.
    pub large: Duration,
}

impl Default for Patience {
    /// A minute of silence is long enough for a satellite link; a quarter of an hour is 50 MB on a
    /// link of half a megabit.
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(60),
            small: Duration::from_secs(90),
            large: Duration::from_secs(15 * 60),
        }
    }
}

/// The longest JSON answer to a device. The true ones have a few kilobytes.
const ANSWER: u64 = 256 << 10;

/// The authorities that the machine believes, as Debian's ca-certificates keeps them.
const MACHINE_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// For this long at most a server is obeyed that asks to be left alone.
const LONGEST_QUIET: Duration = Duration::from_secs(3600);

/// Idle connections are kept for two of the usual polls.
const KEEP: Duration = Duration::from_secs(150);

/// PEM of the kind that most private keys are, with nothing in it.
const ANY_KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

/// The server, as one device sees it.
pub struct Server {
    agent: ureq::Agent,
    url: String,
    /// True once it is known that the server takes one report at a time. Not kept: it may be brought up
    /// to date any day.
    takes_single: AtomicBool,
    patience: Patience,
    /// Until when the server asked to be left alone.
    quiet_until: Cell<Option<Timestamp>>,
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The network, or TLS, or time.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        source: Box<ureq::Error>,
    },
    /// The server is there and in trouble, or tells the device to go away for now.
    #[error("{server} answered {status}: {problem}")]
    InTrouble {
        /// Its address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        problem: String,
    },
    /// The server understood and said no.
    #[error("{server} refused {path}: {problem}{}", .help.as_deref().map(|help| format!("; {help}")).unwrap_or_default())]
    Refused {
        /// Its address.
        server: String,
        /// The route.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        problem: String,
        /// What it advises.
        help: Option<String>,
    },
    /// The answer is longer than anything true.
    #[error("{server} sends more than {limit} bytes for {path}; the rest was not read")]
    TooLong {
        /// Its address.
        server: String,
        /// The route.
        path: String,
        /// The limit.
        limit: u64,
    },
    /// The answer is not understood.
    #[error("{server} answered {path} with something that is not understood: {detail}")]
    Strange {
        /// Its address.
        server: String,
        /// The route.
        path: String,
        /// What the parser said.
        detail: String,
    },
    /// A certificate or key of this device is damaged.
    #[error("{0} is not valid PEM; enrol again with volary-agent enroll")]
    BadPem(&'static str),
}

/// What a device shows to prove who it is.
pub struct Identity<'a> {
    /// Its certificate, PEM.
    pub certificate: &'a [u8],
    /// Its private key.
    pub key: &'a DeviceKey,
}

/// The answer to the question what is desired.
#[derive(Debug)]
pub enum Answer {
    /// The same as last time.
    Unchanged,
    /// This, with the tag to ask with next time.
    Desired(Desired, Option<String>),
}

impl Server {
    /// The server at `url`, whose certificate must come from the authority `ca` (PEM).
    ///
    /// # Errors
    /// [`HttpError::BadPem`].
    pub fn new(url: &str, ca: &[u8], identity: Option<&Identity<'_>>) -> Result<Self, HttpError> {
        Self::with_patience(url, ca, identity, Patience::default())
    }

    /// As [`Server::new`], with other limits on its time.
    ///
    /// # Errors
    /// [`HttpError::BadPem`].
    pub fn with_patience(
        url: &str,
        ca: &[u8],
        identity: Option<&Identity<'_>>,
        patience: Patience,
    ) -> Result<Self, HttpError> {
        let ca = Certificate::from_pem(ca).map_err(|_| HttpError::BadPem("the server's CA certificate"))?;
        Self::with_roots(url, vec![ca], identity, patience)
    }

    /// A web server that need not be the fleet's: its certificate may come from any authority that
    /// the machine believes, or the fleet's own.
    ///
    /// # Errors
    /// [`HttpError::BadPem`].
    pub fn on_the_web(url: &str, ca: &[u8], identity: &Identity<'_>) -> Result<Self, HttpError> {
        let own = Certificate::from_pem(ca).map_err(|_| HttpError::BadPem("the server's CA certificate"))?;
        let machine = read(Path::new(MACHINE_ROOTS)).unwrap_or_default();
        let roots = ureq::tls::parse_pem(&machine).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        });
        let roots = std::iter::once(own).chain(roots).collect();
        Self::with_roots(url, roots, Some(identity), Patience::default())
    }

    fn with_roots(
        url: &str,
        roots: Vec<Certificate<'static>>,
        identity: Option<&Identity<'_>>,
        patience: Patience,
    ) -> Result<Self, HttpError> {
        let mut tls =
            TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::new_with_certs(&roots));
        if let Some(identity) = identity {
            let certificate = Certificate::from_pem(identity.certificate)
                .map_err(|_| HttpError::BadPem("the device's certificate"))?;
            let key = match identity.key {
                DeviceKey::File(pem) => PrivateKey::from_pem(pem.as_bytes())
                    .map_err(|_| HttpError::BadPem("the device's private key"))?,
                DeviceKey::Tpm(key) => {
                    tls = tls.unversioned_rustls_crypto_provider(tpm::tls::provider());
                    // Only our provider reads it, so that the kind means nothing. ureq has no public
                    // name for a kind, but lends that of any key.
                    let kind = PrivateKey::from_pem(ANY_KEY).expect("it is PEM").kind();
                    PrivateKey::from_der(kind, &key.reference()).to_owned()
                }
            };
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&[certificate], key)));
        }
        let agent = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("volary-agent/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .timeout_global(Some(patience.small))
            .max_idle_connections(1)
            .max_idle_age(KEEP)
            .input_buffer_size(16 << 10)
            .output_buffer_size(16 << 10)
            .max_response_header_size(16 << 10)
            .build();
        let agent = ureq::Agent::with_parts(agent, LookedUp::default(), Later);
        Ok(Self {
            agent,
            url: url.trim_end_matches('/').to_owned(),
            takes_single: AtomicBool::new(false),
            patience,
            quiet_until: Cell::new(None),
        })
    }

    /// Until when the server asked to be left alone, with `Retry-After`; nobody need obey it for
    /// longer than an hour.
    pub fn quiet_until(&self) -> Option<Timestamp> {
        self.quiet_until.get().filter(|until| *until > now())
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks for an identity.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn enroll(&self, request: &Enroll) -> Result<Enrolled, HttpError> {
        let path = "/device/v1/enroll";
        let body = serde_json::to_vec(request).expect("a wire type is JSON");
        let sent =
            self.agent.post(self.at(path)).header(header::CONTENT_TYPE, "application/json").send(&body);
        self.json(path, sent)
    }

    /// Asks what is desired, unless it is what had the tag `etag`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn desired(&self, etag: Option<&str>) -> Result<Answer, HttpError> {
        self.news(etag, Duration::ZERO)
    }

    /// As [`Server::desired`], with a question that stays open for so long while nothing changes.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn news(&self, etag: Option<&str>, wait: Duration) -> Result<Answer, HttpError> {
        let path = "/device/v1/desired";
        let ask = || {
            let mut request = self.agent.get(self.at(path));
            if !wait.is_zero() {
                request = request
                    .config()
                    .timeout_global(Some(self.patience.small + wait))
                    .timeout_per_read(Some(self.patience.silence + wait))
                    .build()
                    .header("prefer", format!("wait={}", wait.as_secs()));
            }
            if let Some(etag) = etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            request.call()
        };
        // A kept connection may have been closed just now; a question can be asked twice.
        let answer = match ask() {
            Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed) => ask(),
            answer => answer,
        };
        let tag = match &answer {
            Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED => {
                self.quiet_until.set(None);
                return Ok(Answer::Unchanged);
            }
            Ok(answer) => answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()),
            Err(_) => None,
        };
        let tag = tag.map(str::to_owned);
        Ok(Answer::Desired(self.json(path, answer)?, tag))
    }

    /// Asks for objects; `read` gets the pack as it comes, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn objects<T>(
        &self,
        want: &WantObjects,
        limit: u64,
        read: impl FnOnce(&mut dyn Read) -> T,
    ) -> Result<T, HttpError> {
        let path = "/device/v1/objects";
        let body = serde_json::to_vec(want).expect("a wire type is JSON");
        let sent = self
            .agent
            .post(self.at(path))
            .config()
            .timeout_global(Some(self.patience.large))
            .build()
            .header(header::CONTENT_TYPE, "application/json")
            .send(&body);
        let mut answer = self.success(path, sent)?;
        Ok(read(&mut answer.body_mut().as_reader().take(limit)))
    }

    /// Sends a report that is JSON already, packed if that is worth it.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn report(&self, json: &[u8]) -> Result<(), HttpError> {
        let path = "/device/v1/reports";
        let request = self.agent.post(self.at(path)).header(header::CONTENT_TYPE, "application/json");
        let sent = if json.len() > 1000 {
            request.header(header::CONTENT_ENCODING, "gzip").send(&gzip(json))
        } else {
            request.send(json)
        };
        self.body(path, sent, ANSWER).map(drop)
    }

    /// Sends several reports that are JSON already, in one request. `None` if the server is of a
    /// version that takes only one at a time.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn reports(&self, lines: &[Vec<u8>]) -> Result<Option<ReceivedBatch>, HttpError> {
        let path = "/device/v1/reports/batch";
        if self.takes_single.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let sent = self
            .agent
            .post(self.at(path))
            .config()
            .timeout_global(Some(self.patience.large))
            .build()
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::CONTENT_ENCODING, "gzip")
            .send(&gzip(&lines.join(&b'\n')));
        match self.json(path, sent) {
            Ok(received) => Ok(Some(received)),
            Err(HttpError::Refused { status: 404 | 405, .. }) => {
                self.takes_single.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends measurements that are JSON already, in one request. They may be sent twice: the server knows
    /// them by their ids.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn metrics(&self, lines: &[Vec<u8>]) -> Result<ReceivedBatch, HttpError> {
        let path = "/device/v1/metrics";
        let packed = gzip(&lines.join(&b'\n'));
        let send = || {
            self.agent
                .post(self.at(path))
                .header(header::CONTENT_TYPE, "application/x-ndjson")
                .header(header::CONTENT_ENCODING, "gzip")
                .send(&packed)
        };
        // A kept connection may have been closed just now.
        let sent = match send() {
            Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed) => send(),
            sent => sent,
        };
        self.json(path, sent)
    }

    /// Asks whether the device may change itself now.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn turn(&self, asked: &AskTurn) -> Result<Turn, HttpError> {
        let path = "/device/v1/turn";
        let body = serde_json::to_vec(asked).expect("a wire type is JSON");
        let sent =
            self.agent.post(self.at(path)).header(header::CONTENT_TYPE, "application/json").send(&body);
        self.json(path, sent)
    }

    /// Gives the turn back.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn give_turn_back(&self) -> Result<(), HttpError> {
        let path = "/device/v1/turn";
        let sent = self.agent.delete(self.at(path)).call();
        self.body(path, sent, ANSWER).map(drop)
    }

    /// Fetches a file of the archive, at most `limit` bytes; `None` if it is not there.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, HttpError> {
        let answer =
            self.agent.get(self.at(path)).config().timeout_global(Some(self.patience.large)).build().call();
        match self.body(path, answer, limit) {
            Ok(body) => Ok(Some(body)),
            Err(HttpError::Refused { status: 404 | 410, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Server::file`], unless the file is as old as this: then its content is `None`.
    ///
    /// # Errors
    /// [`HttpError`], also if it is not there.
    pub fn newer_file(&self, path: &str, than: Timestamp, limit: u64) -> Result<Option<Vec<u8>>, HttpError> {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&than);
        // Asked in the middle of a change, which may be what cuts the device off: whoever waits long here leaves
        // no time to undo it before the timer does.
        let request =
            self.agent.get(self.at(path)).config().timeout_global(Some(Duration::from_secs(5))).build();
        let answer = match date {
            Ok(date) => request.header(header::IF_MODIFIED_SINCE, date).call(),
            Err(_) => request.call(),
        };
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::NOT_MODIFIED) {
            return Ok(None);
        }
        self.body(path, answer, limit).map(Some)
    }

    /// Opens a range of a file as [`Server::stream`] does. `None` also from a server without ranges, which would send
    /// all of it each time.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn part(&self, path: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError> {
        self.ranged(path, range, false)
    }

    /// Opens a range of a file, however long it takes; only silence ends it. `None` if the file is not
    /// there.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn stream(&self, path: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError> {
        self.ranged(path, range, true)
    }

    fn ranged(&self, path: &str, range: Range<u64>, whole: bool) -> Result<Option<Box<dyn Read>>, HttpError> {
        let from = range.start;
        let last = range.end.saturating_sub(1);
        let request = self.agent.get(self.at(path)).config().timeout_global(None).build();
        let request = request.header(header::RANGE, format!("bytes={from}-{last}"));
        let answer = match self.success(path, request.call()) {
            Ok(answer) => answer,
            Err(HttpError::Refused { status: 404 | 410, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let begins = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let part = answer.status() == StatusCode::PARTIAL_CONTENT;
        let skipped = match begins {
            Some(range) if part && range.starts_with(&format!("bytes {from}-")) => 0,
            None if !part && !whole => return Ok(None),
            // A server without ranges sends all of it.
            None if !part => from,
            other => {
                let detail = format!("it was asked for bytes from {from} on and sent {other:?}");
                return Err(HttpError::Strange { server: self.url.clone(), path: path.to_owned(), detail });
            }
        };
        let mut body = answer.into_body().into_reader();
        std::io::copy(&mut (&mut body).take(skipped), &mut std::io::sink())
            .map_err(|error| self.unreachable(ureq::Error::Io(error)))?;
        Ok(Some(Box::new(body)))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &str, answer: Received) -> Result<T, HttpError> {
        let body = self.body(path, answer, ANSWER)?;
        serde_json::from_slice(&body).map_err(|error| HttpError::Strange {
            server: self.url.clone(),
            path: path.to_owned(),
            detail: error.to_string(),
        })
    }

    fn body(&self, path: &str, answer: Received, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut answer = self.success(path, answer)?;
        self.read(path, &mut answer, limit)
    }

    fn read(&self, path: &str, answer: &mut Response<ureq::Body>, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        answer
            .body_mut()
            .as_reader()
            .take(limit + 1)
            .read_to_end(&mut body)
            .map_err(|error| self.unreachable(ureq::Error::Io(error)))?;
        if body.len() as u64 > limit {
            return Err(HttpError::TooLong { server: self.url.clone(), path: path.to_owned(), limit });
        }
        Ok(body)
    }

    fn success(&self, path: &str, answer: Received) -> Result<Response<ureq::Body>, HttpError> {
        let mut answer = answer.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() {
            self.quiet_until.set(None);
            return Ok(answer);
        }
        if matches!(status.as_u16(), 429 | 503) {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            self.quiet_until.set(seconds.and_then(|text| after(text, now())));
        }
        let body = self.read(path, &mut answer, ANSWER).unwrap_or_default();
        let said: Problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            error: String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
            help: None,
        });
        let server = self.url.clone();
        let (path, status) = (path.to_owned(), status.as_u16());
        Err(match status {
            408 | 425 | 429 | 500.. => HttpError::InTrouble { server, status, problem: said.error },
            _ => HttpError::Refused { server, path, status, problem: said.error, help: said.help },
        })
    }

    fn unreachable(&self, source: ureq::Error) -> HttpError {
        HttpError::Unreachable { server: self.url.clone(), source: Box::new(source) }
    }
}

type Received = Result<Response<ureq::Body>, ureq::Error>;

/// When to come again, by the value of `Retry-After`: seconds, or a date of HTTP. At most an hour
/// ahead: a server may be late with taking it back, and a lying one shall not silence a device.
fn after(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    let latest = now.checked_add(LONGEST_QUIET).ok()?;
    let until = match text.parse::<u32>() {
        Ok(seconds) => now.checked_add(Duration::from_secs(u64::from(seconds))).ok()?,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp(),
    };
    Some(until.min(latest))
}

/// Packs bytes.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("a Vec takes any write");
    encoder.finish().expect("a Vec takes any write")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_an_hour() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().unwrap();
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(after(text, now), expected.map(|time| time.parse().unwrap()), "{text}");
        };
        check("120", Some("2026-11-26T12:02:00Z"));
        check("Thu, 26 Nov 2026 12:10:00 GMT", Some("2026-11-26T12:10:00Z"));
        check("86400", Some("2026-11-26T13:00:00Z"));
        check("Fri, 26 Nov 2027 12:10:00 GMT", Some("2026-11-26T13:00:00Z"));
        for nonsense in ["", "-5", "soon", "1e9"] {
            check(nonsense, None);
        }
    }
}
