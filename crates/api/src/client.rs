//! A blocking client of the API for people: one server, one authority, one token.

use std::io::{BufRead, Read};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::StatusCode;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::v1::Problem;

/// How long one request may take; an inclusion of many packages is the longest.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The largest JSON answer that is read: a fleet of 100,000 devices fits.
const ANSWER_LIMIT: u64 = 256 << 20;

/// Talks to one server.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    server: String,
    token: String,
}

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server understood and said no.
    #[error("{0}")]
    Refused(Problem),
    /// The server is not there, or not the one whose authority we know.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What the network said.
        source: Box<ureq::Error>,
    },
    /// The answer is not what this version understands.
    #[error("{server} answered {status} to {path} with something that is not understood: {detail}")]
    Strange {
        /// Its address.
        server: String,
        /// The route.
        path: String,
        /// The HTTP status.
        status: StatusCode,
        /// The start of the answer, or what the parser said.
        detail: String,
    },
    /// The authority's certificate is no PEM certificate.
    #[error("the server's CA certificate cannot be read: it must be one PEM certificate")]
    BadAuthority,
}

impl ClientError {
    /// What the server advises, if it does.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => problem.help.as_deref(),
            Self::Unreachable { .. } => {
                Some("is the server running, and is this its address? see: volary serve")
            }
            Self::Strange { .. } | Self::BadAuthority => None,
        }
    }
}

impl Client {
    /// A client for the server at `server` (`https://host:port`), whose certificate must come
    /// from the authority `ca` (PEM).
    ///
    /// # Errors
    /// [`ClientError::BadAuthority`].
    pub fn new(server: &str, ca: &str, token: &str) -> Result<Self, ClientError> {
        let ca = Certificate::from_pem(ca.as_bytes()).map_err(|_| ClientError::BadAuthority)?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&[ca]))
            .build();
        let agent = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .https_only(true)
            .build()
            .new_agent();
        Ok(Self { agent, server: server.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// `GET path`; the answer as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.agent.get(self.url(path)).header("authorization", self.bearer()).call();
        self.json(path, answer)
    }

    /// `GET path`; the answer as text, and the value of the header `header` if there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_text(&self, path: &str, header: &str) -> Result<(String, Option<String>), ClientError> {
        let answer = self.agent.get(self.url(path)).header("authorization", self.bearer()).call();
        let (body, value) = self.body(path, answer, header)?;
        Ok((String::from_utf8_lossy(&body).into_owned(), value))
    }

    /// `POST path` with a JSON body; the answer as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("a wire type is JSON");
        let answer = self
            .agent
            .post(self.url(path))
            .header("authorization", self.bearer())
            .header("content-type", "application/json")
            .send(&body);
        self.json(path, answer)
    }

    /// `PUT path` with a file's bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put(&self, path: &str, file: std::fs::File) -> Result<(), ClientError> {
        let answer = self.agent.put(self.url(path)).header("authorization", self.bearer()).send(file);
        self.body(path, answer, "").map(drop)
    }

    /// `PUT path` with bytes that are made while they are sent.
    ///
    /// # Errors
    /// [`ClientError`], also if they cannot be read to their end.
    pub fn put_reader(&self, path: &str, bytes: &mut dyn std::io::Read) -> Result<(), ClientError> {
        let body = ureq::SendBody::from_reader(bytes);
        let answer = self.agent.put(self.url(path)).header("authorization", self.bearer()).send(body);
        self.body(path, answer, "").map(drop)
    }

    /// `PUT path` with bytes that are made while they are sent, however long that takes; the answer as
    /// JSON.
    ///
    /// # Errors
    /// [`ClientError`], also if they cannot be read to their end.
    pub fn put_for<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: &mut dyn std::io::Read,
    ) -> Result<T, ClientError> {
        let body = ureq::SendBody::from_reader(bytes);
        let request = self.agent.put(self.url(path)).header("authorization", self.bearer());
        let request = request.config().timeout_global(None).build();
        self.json(path, request.send(body))
    }

    /// `DELETE path`; the answer as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.agent.delete(self.url(path)).header("authorization", self.bearer()).call();
        self.json(path, answer)
    }

    /// `POST path` with a JSON body; the answer as lines of JSON, each handed over as it comes,
    /// however long that takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        on_line: &mut dyn FnMut(T),
    ) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).expect("a wire type is JSON");
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        let request = request.config().timeout_global(None).timeout_recv_body(None).build();
        let answer = request.header("content-type", "application/json").send(&body);
        if !answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            return self.body(path, answer, "").map(drop);
        }
        let unreachable =
            |source| ClientError::Unreachable { server: self.server.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(unreachable)?;
        let mut lines = std::io::BufReader::new(answer.body_mut().as_reader());
        let mut line = String::new();
        loop {
            line.clear();
            let read = (&mut lines).take(ANSWER_LIMIT).read_line(&mut line);
            if read.map_err(|error| unreachable(ureq::Error::Io(error)))? == 0 {
                return Ok(());
            }
            let parsed = serde_json::from_str(&line);
            on_line(parsed.map_err(|error| self.strange(path, StatusCode::OK, error.to_string()))?);
        }
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        let answer = self.agent.delete(self.url(path)).header("authorization", self.bearer()).call();
        self.body(path, answer, "").map(drop)
    }

    /// Any request; a body is JSON. The answer as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Vec<u8>, ClientError> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("authorization", self.bearer());
        let answer = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body)
                .map_err(ureq::Error::Http)
                .and_then(|request| self.agent.run(request)),
            None => request.body(()).map_err(ureq::Error::Http).and_then(|request| self.agent.run(request)),
        };
        self.body(path, answer, "").map(|(body, _)| body)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn json<T: DeserializeOwned>(&self, path: &str, answer: Answer) -> Result<T, ClientError> {
        let (body, _) = self.body(path, answer, "")?;
        // An empty body stands for "nothing to say", which JSON writes as null.
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| self.strange(path, StatusCode::OK, error.to_string()))
    }

    fn body(
        &self,
        path: &str,
        answer: Answer,
        header: &str,
    ) -> Result<(Vec<u8>, Option<String>), ClientError> {
        let unreachable =
            |source| ClientError::Unreachable { server: self.server.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(unreachable)?;
        let value = answer.headers().get(header).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        answer
            .body_mut()
            .as_reader()
            .take(ANSWER_LIMIT)
            .read_to_end(&mut body)
            .map_err(|error| unreachable(ureq::Error::Io(error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok((body, value));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(ClientError::Refused(problem)),
            Err(_) => {
                let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                Err(self.strange(path, status, start))
            }
        }
    }

    fn strange(&self, path: &str, status: StatusCode, detail: String) -> ClientError {
        ClientError::Strange { server: self.server.clone(), path: path.to_owned(), status, detail }
    }
}

type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;
