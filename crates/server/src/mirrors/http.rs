//! Files of a publication over HTTP.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use ureq::http::StatusCode;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use volary_api::percent::encode_path;
use volary_archive::upstream::{Fetch, FetchError, Opened};

/// The authorities that this machine trusts, as Debian's `ca-certificates` keeps them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How long a connection and the head of an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// The slowest link that is waited for, in bytes a second. What came is kept anyway.
const SLOWEST: u64 = 8 << 10;

/// A publication on a web server.
pub(crate) struct Http {
    agent: ureq::Agent,
    url: String,
}

impl Http {
    /// For a publication whose root is at `url`.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let mut config = ureq::Agent::config_builder()
            .timeout_connect(Some(ANSWER))
            .timeout_recv_response(Some(ANSWER))
            .http_status_as_error(false)
            .user_agent(concat!("volary/", env!("CARGO_PKG_VERSION")));
        if crate::address::is_https(url) {
            let roots = RootCerts::new_with_certs(authorities()?);
            config = config
                .tls_config(TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(roots).build());
        }
        Ok(Self { agent: config.build().new_agent(), url: url.trim_end_matches('/').to_owned() })
    }

    fn request(
        &self,
        path: &str,
        from: u64,
        size: u64,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}/{}", self.url, encode_path(path)));
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let body = ANSWER + Duration::from_secs(size / SLOWEST);
        request.config().timeout_recv_body(Some(body)).build().call()
    }
}

impl Fetch for Http {
    fn place(&self) -> String {
        without_password(&self.url)
    }

    fn open(&self, path: &str, from: u64, size: u64) -> Result<Option<Opened>, FetchError> {
        let failed = |problem: String, lasting| FetchError {
            path: format!("{}/{path}", self.place()),
            problem,
            lasting,
        };
        let mut answer = self.request(path, from, size).map_err(|error| failed(said(&error), false))?;
        if from > 0 && answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // What we have is longer than the file there; the hash will tell who is wrong.
            answer = self.request(path, 0, size).map_err(|error| failed(said(&error), false))?;
        }
        let status = answer.status();
        let begins = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => match range_start(answer.headers()) {
                // Anything else is an answer to another question.
                Some(start) if start == from => from,
                _ => return Err(failed("it answered with another range than asked for".to_owned(), true)),
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            _ => {
                let lasting = status.is_client_error()
                    && status != StatusCode::TOO_MANY_REQUESTS
                    && status != StatusCode::REQUEST_TIMEOUT;
                return Err(failed(format!("the server answered {status}"), lasting));
            }
        };
        // ureq bounds bodies by default; whoever reads bounds this one.
        let reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Some(Opened { from: begins, reader: Box::new(reader) }))
    }
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn range_start(headers: &ureq::http::HeaderMap) -> Option<u64> {
    let value = headers.get("content-range")?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// What went wrong, without the address, which the caller names.
fn said(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "nobody answers at this address".to_owned()
        }
        ureq::Error::HostNotFound => "there is no host of this name".to_owned(),
        other => other.to_string(),
    }
}

fn authorities() -> Result<&'static [Certificate<'static>], String> {
    static READ: OnceLock<Result<Vec<Certificate<'static>>, String>> = OnceLock::new();
    let read = READ.get_or_init(|| {
        let bytes = volary_host::read(AUTHORITIES.as_ref())
            .map_err(|error| format!("{error}; install the package ca-certificates"))?;
        let mut rest = bytes.as_slice();
        let certificates = rustls_pemfile::certs(&mut rest).flatten();
        Ok(certificates.map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect())
    });
    read.as_deref().map_err(Clone::clone)
}

/// An address without the password that somebody put into it.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |url: &str, expected: &str| assert_eq!(without_password(url), expected);
        check("https://me:secret@host/x@y", "https://host/x@y");
        check("http://host:80/debian", "http://host:80/debian");
        assert_eq!(encode_path("pool/g/g++ ü.deb"), "pool/g/g%2B%2B%20%C3%BC.deb");
    }

    #[test]
    fn the_start_of_a_range() {
        let check = |value: &'static str, expected| {
            let mut headers = ureq::http::HeaderMap::new();
            headers.insert("content-range", value.parse().unwrap());
            assert_eq!(range_start(&headers), expected, "{value}");
        };
        check("bytes 5-9/10", Some(5));
        check("bytes 0-9/*", Some(0));
        check("bytes */10", None);
        check("items 5-9/10", None);
        assert_eq!(range_start(&ureq::http::HeaderMap::new()), None);
    }
}
