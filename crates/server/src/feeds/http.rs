//! Speaking HTTP with other systems: one agent for each feed, whose connections are kept.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ureq::http::Method;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::queue::Answer;
use crate::address;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How much of an answer is read: of Icinga's, the list of all objects.
const ANSWER_LIMIT: u64 = 256 << 20;

/// How much of an answer is shown.
const SHOWN: usize = 300;

/// A number of seconds from here on is a moment, and no wait: that would be of 30 years.
const MOMENT: u64 = 1_000_000_000;

/// Where Debian keeps the certificate authorities that everybody knows.
const KNOWN_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An agent that trusts the authority in `ca_file`, or those that everybody knows. Secrets are for the
/// address that the operator wrote down, so it follows no redirection.
pub(crate) fn agent(root: &Path, url: &str, ca_file: Option<&Path>) -> Result<ureq::Agent, String> {
    let file = ca_file.map_or_else(|| KNOWN_AUTHORITIES.into(), |file| root.join(file));
    let mut roots = Vec::new();
    if address::is_https(url) {
        let pem = volary_host::read(&file).map_err(|error| error.to_string())?;
        for item in rustls_pemfile::certs(&mut pem.as_slice()) {
            let der = item.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
            roots.push(Certificate::from_der(&der).to_owned());
        }
    }
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(LIMIT))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .new_agent())
}

/// How long a service asks to be left alone. Both Datadog and GitHub say with each answer when their count of requests
/// begins anew, which is of interest only once none are left; Datadog says in how many seconds, GitHub says at which
/// second since 1970.
fn again_after<'a>(header: impl Fn(&str) -> Option<&'a str>, now: Timestamp) -> Option<Duration> {
    let number = |name: &str| header(name).and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(seconds) = number("retry-after") {
        return Some(Duration::from_secs(seconds));
    }
    if number("x-ratelimit-remaining").is_some_and(|left| left > 0) {
        return None;
    }
    let reset = number("x-ratelimit-reset")?;
    let seconds = match reset {
        MOMENT.. => reset.saturating_sub(u64::try_from(now.as_second()).unwrap_or(0)),
        _ => reset,
    };
    Some(Duration::from_secs(seconds))
}

/// A name and a file with its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The name.
    pub(crate) user: String,
    /// The file.
    pub(crate) password_file: PathBuf,
}

/// A service at an address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    root: PathBuf,
    url: String,
    ca_file: Option<PathBuf>,
    login: Option<Login>,
    agent: Mutex<Option<ureq::Agent>>,
}

/// What it answered.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// How long to wait, if it said so.
    pub(crate) again_after: Option<Duration>,
    /// The body.
    pub(crate) text: String,
}

impl Endpoint {
    /// The service; files are relative to the server's folder `root`.
    pub(crate) fn new(root: &Path, url: &str, ca_file: Option<PathBuf>, login: Option<Login>) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        Self { root: root.to_owned(), url, ca_file, login, agent: Mutex::default() }
    }

    /// A secret of its own in a file.
    pub(crate) fn secret(&self, file: &Path) -> Result<String, String> {
        let path = self.root.join(file);
        let text = volary_host::read_to_string(&path).map_err(|error| error.to_string())?;
        Ok(text.trim().to_owned())
    }

    /// Sends a request to `path` below the address.
    ///
    /// # Errors
    /// The service cannot be reached, or a file of its configuration cannot be read.
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, String> {
        let agent = {
            let mut kept = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(agent) => agent.clone(),
                None => kept.insert(agent(&self.root, &self.url, self.ca_file.as_deref())?).clone(),
            }
        };
        let mut request = ureq::http::Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.url))
            .header("user-agent", "volary");
        if let Some(login) = &self.login {
            let pair = format!("{}:{}", login.user, self.secret(&login.password_file)?);
            request =
                request.header("authorization", format!("Basic {}", volary_api::base64(pair.as_bytes())));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bad = |error: ureq::http::Error| format!("{}{path} is no address: {error}", self.url);
        let answer = if method == Method::GET || method == Method::DELETE {
            agent.run(request.body(()).map_err(bad)?)
        } else {
            agent.run(request.body(body).map_err(bad)?)
        };
        let mut answer = answer.map_err(|error| format!("cannot reach {}: {error}", self.url))?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let again_after = again_after(header, volary_host::now());
        let status = answer.status().as_u16();
        let read = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec();
        let text = read.map_err(|error| format!("{} broke off: {error}", self.url))?;
        Ok(Reply { status, again_after, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Sends a message, and says what became of it.
    pub(crate) fn tell(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.send(Method::POST, path, headers, body) {
            Ok(reply) => self.judge(path, &reply),
            Err(problem) => Answer::Later(problem, None),
        }
    }

    /// What a reply means for the message: whether it is worth sending again is a question of whose
    /// fault it was.
    pub(crate) fn judge(&self, path: &str, reply: &Reply) -> Answer {
        let problem = || self.problem(path, reply);
        match reply.status {
            200..=299 => Answer::Taken,
            // The message itself is at fault.
            400 | 406 | 413 | 415 | 422 => Answer::Never(problem()),
            // Overload, an outage, or a configuration that somebody will put right.
            _ => Answer::Later(problem(), reply.again_after),
        }
    }

    /// A reply that is no success, in a sentence.
    pub(crate) fn problem(&self, path: &str, reply: &Reply) -> String {
        let line = reply.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let line: String = line.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        format!("{}{path} answers {}: {line}", self.url, reply.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_what_the_service_means() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let check = |headers: &[(&str, &'static str)], expected: Option<u64>| {
            let header =
                |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            assert_eq!(again_after(header, now), expected.map(Duration::from_secs), "{headers:?}");
        };
        check(&[], None);
        check(&[("retry-after", "7")], Some(7));
        check(&[("retry-after", "Fri, 27 Nov 2026 12:00:00 GMT")], None);
        check(&[("x-ratelimit-reset", "43")], Some(43));
        check(&[("x-ratelimit-reset", "43"), ("x-ratelimit-remaining", "0")], Some(43));
        check(&[("x-ratelimit-reset", "1795000090"), ("x-ratelimit-remaining", "0")], Some(90));
        check(&[("x-ratelimit-reset", "1794999999"), ("x-ratelimit-remaining", "0")], Some(0));
        check(&[("x-ratelimit-reset", "1795000090"), ("x-ratelimit-remaining", "4999")], None);
        check(&[("x-ratelimit-reset", "1795000090"), ("retry-after", "60")], Some(60));
    }
}
