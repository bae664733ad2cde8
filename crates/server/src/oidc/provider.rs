//! Asking the provider: its addresses, its keys, what a code is worth. Blocks; answers are bounded.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::JwkSet;
use serde::Deserialize;
use serde_json::{Map, Value};
use volary_api::percent::encode;

use crate::feeds::agent as http_agent;
use crate::login_config::OidcConfig;

/// How long addresses and keys are believed without asking again.
const FRESH: Duration = Duration::from_secs(3600);

/// A token with a key that is not known makes us ask again, at most so often.
const AGAIN: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const ANSWER: u64 = 1 << 20;

/// What the provider says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// What a code is worth.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    #[serde(default)]
    pub(super) access_token: String,
}

struct Known {
    metadata: Metadata,
    keys: JwkSet,
    since: Instant,
}

/// One provider.
pub(super) struct Provider {
    config: OidcConfig,
    root: PathBuf,
    known: Mutex<Option<Known>>,
}

impl Provider {
    pub(super) fn new(config: &OidcConfig, root: &Path) -> Self {
        Self { config: config.clone(), root: root.to_owned(), known: Mutex::default() }
    }

    /// What it says of itself.
    pub(super) fn metadata(&self) -> Result<Metadata, String> {
        self.known(|known| known.metadata.clone())
    }

    /// Its keys.
    pub(super) fn keys(&self) -> Result<JwkSet, String> {
        self.known(|known| known.keys.clone())
    }

    /// Forgets its keys, unless they were read just now.
    pub(super) fn forget(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| known.since.elapsed() > AGAIN) {
            *known = None;
        }
    }

    fn known<T>(&self, of: impl FnOnce(&Known) -> T) -> Result<T, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(known) if known.since.elapsed() < FRESH => Ok(of(known)),
            _ => Ok(of(known.insert(self.discover()?))),
        }
    }

    fn discover(&self) -> Result<Known, String> {
        let issuer = &self.config.issuer;
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let metadata: Metadata = self.get(&address, None)?;
        if metadata.issuer != *issuer {
            return Err(format!("{address} is of the issuer {:?}; set oidc.issuer to it", metadata.issuer));
        }
        for endpoint in [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri] {
            if !crate::address::is_safe(endpoint) {
                return Err(format!("{address} names {endpoint:?}, which does not begin with https://"));
            }
        }
        // A key of a kind that nobody knows here must not hide the others.
        let told: Map<String, Value> = self.get(&metadata.jwks_uri, None)?;
        let all = told.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
        let keys = all.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(Known { metadata, keys: JwkSet { keys }, since: Instant::now() })
    }

    /// Gives a code for tokens.
    pub(super) fn redeem(&self, code: &str, verifier: &str, redirect: &str) -> Result<Tokens, String> {
        let metadata = self.metadata()?;
        let id = &self.config.client_id;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        let secret = self.secret()?;
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
        let by_header = methods.is_none_or(|methods| methods.iter().any(|one| one == "client_secret_basic"));
        let mut authorization = None;
        match &secret {
            Some(secret) if by_header => {
                let pair = format!("{}:{}", encode(id), encode(secret));
                authorization = Some(format!("Basic {}", volary_api::base64(pair.as_bytes())));
            }
            Some(secret) => fields.extend([("client_id", id.as_str()), ("client_secret", secret)]),
            None => fields.push(("client_id", id)),
        }
        let agent = self.agent(&metadata.token_endpoint)?;
        let mut request = agent
            .post(&metadata.token_endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json");
        if let Some(authorization) = &authorization {
            request = request.header("authorization", authorization);
        }
        let answer = request.send(form(&fields));
        read(&metadata.token_endpoint, answer)
    }

    /// What it says of the person whom the token is of; `None` if it says nothing there.
    pub(super) fn userinfo(&self, access_token: &str) -> Result<Option<Map<String, Value>>, String> {
        let Some(endpoint) = self.metadata()?.userinfo_endpoint else { return Ok(None) };
        if !crate::address::is_safe(&endpoint) {
            return Err(format!("{endpoint:?} does not begin with https://"));
        }
        self.get(&endpoint, Some(access_token)).map(Some)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, address: &str, bearer: Option<&str>) -> Result<T, String> {
        let agent = self.agent(address)?;
        let mut request = agent.get(address).header("accept", "application/json");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        read(address, request.call())
    }

    fn agent(&self, address: &str) -> Result<ureq::Agent, String> {
        http_agent(&self.root, address, self.config.ca_file.as_deref())
    }

    fn secret(&self) -> Result<Option<String>, String> {
        let read = |file: &PathBuf| {
            let path = self.root.join(file);
            let text = volary_host::read_to_string(&path).map_err(|error| error.to_string())?;
            Ok(text.trim().to_owned())
        };
        self.config.client_secret_file.as_ref().map(read).transpose()
    }
}

fn read<T: serde::de::DeserializeOwned>(
    address: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, String> {
    let mut answer = answer.map_err(|error| format!("{address} cannot be reached: {error}"))?;
    let status = answer.status();
    let body = answer.body_mut().with_config().limit(ANSWER).read_to_vec();
    let body = body.map_err(|error| format!("{address} broke off: {error}"))?;
    if !status.is_success() {
        // `{"error": "invalid_client"}` by OAuth 2.0, section 5.2.
        let told: Option<Value> = serde_json::from_slice(&body).ok();
        let error = told.as_ref().and_then(|told| told.get("error")?.as_str()).unwrap_or_default();
        let error: String = error.chars().filter(char::is_ascii_graphic).take(60).collect();
        return Err(format!("{address} answers {} {error}", status.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{address} answers something else: {error}"))
}

/// Fields as a form or query.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    fields.join("&")
}
