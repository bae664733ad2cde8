//! Signing in through a provider, by OpenID Connect: the authorization code flow with PKCE, nonce and state.
//!
//! Only signing in needs the provider. While it is away, sessions go on, and so do passwords and tokens.

mod person;
mod provider;
mod token;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use volary_api::v1::fleet::Role;

use crate::http::auth::new_secret;
use crate::login_config::OidcConfig;
use provider::Provider;
use token::{Expected, TokenError};

/// How long somebody may take to sign in at the provider.
const PATIENCE: Duration = Duration::from_secs(600);

/// How many may be on their way at once; each has some 400 bytes.
const FLOWS: usize = 10_000;

/// Somebody whom the provider vouches for.
#[derive(Debug)]
pub(crate) struct Identity {
    /// For records.
    pub(crate) name: String,
    /// What the provider calls them; it never changes.
    pub(crate) subject: String,
    /// What they may do.
    pub(crate) role: Role,
}

/// Why nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    /// The browser did not begin this, or it took too long, or it was done already.
    #[error("this log-in did not begin in this browser, took too long, or is over already")]
    NoFlow,
    /// The provider said no.
    #[error("{0} did not sign you in: {1}")]
    Refused(String, String),
    /// It cannot be reached, or answers nonsense.
    #[error("{0} cannot be asked now: {1}")]
    Away(String, String),
    /// What it says is not to be believed.
    #[error("what {0} says is not believed: {1}")]
    NotBelieved(String, String),
    /// None of the person's groups has a role here.
    #[error("{0} is in no group that may do anything here")]
    NoRole(String),
}

/// A log-in on its way.
struct Flow {
    nonce: String,
    verifier: String,
    next: String,
    began: Instant,
}

/// Signing in through one provider.
pub(crate) struct Oidc {
    config: OidcConfig,
    provider: Provider,
    redirect: String,
    flows: Mutex<HashMap<String, Flow>>,
}

/// What the provider sends a browser back with.
pub(crate) struct Back<'a> {
    /// What the browser kept.
    pub(crate) cookie: &'a str,
    pub(crate) state: &'a str,
    pub(crate) code: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
    pub(crate) issuer: Option<&'a str>,
}

impl Oidc {
    /// Signing in through the provider of the settings, to the server at `url`, whose folder is `root`.
    pub(crate) fn new(config: &OidcConfig, root: &Path, url: &str) -> Self {
        Self {
            config: config.clone(),
            provider: Provider::new(config, root),
            redirect: format!("{url}/login/oidc/callback"),
            flows: Mutex::default(),
        }
    }

    /// What people call the provider.
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Hours that a session lasts.
    pub(crate) fn session_hours(&self) -> u32 {
        self.config.session_hours
    }

    /// Begins a log-in: where to send the browser, and what it has to keep. Blocks.
    pub(crate) fn begin(&self, next: &str) -> Result<(String, String), OidcError> {
        let endpoint = self.provider.metadata().map_err(|problem| self.away(problem))?.authorization_endpoint;
        let (state, nonce, verifier) = (new_secret(), new_secret(), new_secret());
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let query = provider::form(&[
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &self.redirect),
            ("scope", &self.config.scopes.join(" ")),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let separator = if endpoint.contains('?') { '&' } else { '?' };
        let flow = Flow { nonce, verifier, next: next.to_owned(), began: Instant::now() };
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.retain(|_, flow| flow.began.elapsed() < PATIENCE);
        if flows.len() >= FLOWS
            && let Some(oldest) = flows.iter().min_by_key(|(_, flow)| flow.began).map(|(key, _)| key.clone())
        {
            flows.remove(&oldest);
        }
        flows.insert(state.clone(), flow);
        Ok((format!("{endpoint}{separator}{query}"), state))
    }

    /// Ends a log-in: who it is, and the page that was wanted. Each can be ended once. Blocks.
    pub(crate) fn end(&self, back: &Back<'_>) -> Result<(Identity, String), OidcError> {
        if back.state.is_empty() || !crate::http::auth::same(back.cookie.as_bytes(), back.state.as_bytes()) {
            return Err(OidcError::NoFlow);
        }
        let flow = self.flows.lock().unwrap_or_else(PoisonError::into_inner).remove(back.state);
        let flow = flow.filter(|flow| flow.began.elapsed() < PATIENCE).ok_or(OidcError::NoFlow)?;
        if let Some(error) = back.error {
            let error: String =
                error.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(200).collect();
            return Err(OidcError::Refused(self.name().to_owned(), error));
        }
        if back.issuer.is_some_and(|issuer| issuer != self.config.issuer) {
            return Err(self.not_believed("the answer is of another provider"));
        }
        let code = back.code.ok_or(OidcError::NoFlow)?;
        let tokens = self
            .provider
            .redeem(code, &flow.verifier, &self.redirect)
            .map_err(|problem| self.away(problem))?;
        let expected = Expected {
            issuer: &self.config.issuer,
            client_id: &self.config.client_id,
            nonce: &flow.nonce,
            now: volary_host::now().as_second(),
        };
        let mut verified = token::verify(&tokens.id_token, &self.keys()?, &expected);
        if verified == Err(TokenError::UnknownKey) {
            // The provider may have a new one.
            self.provider.forget();
            verified = token::verify(&tokens.id_token, &self.keys()?, &expected);
        }
        let groups = |claims: &Map<String, Value>| person::groups_in(claims, &self.config.groups_claim);
        let mut claims = verified.map_err(|error| self.not_believed(error))?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        // Some providers keep the token small, and say the rest only when asked.
        let told = match claims.contains_key("email") && groups(&claims).is_some() {
            true => None,
            false => self.provider.userinfo(&tokens.access_token).map_err(|problem| self.away(problem))?,
        };
        if let Some(told) = told {
            if told.get("sub").and_then(Value::as_str) != Some(&subject) {
                return Err(self.not_believed("it tells of somebody else"));
            }
            for (name, value) in told {
                claims.entry(name).or_insert(value);
            }
        }
        let groups = groups(&claims).unwrap_or_default();
        let name = person::name_of(&claims);
        let role = person::role_of(&groups, &self.config.roles, self.config.everybody)
            .ok_or_else(|| OidcError::NoRole(name.clone()))?;
        Ok((Identity { name, subject, role }, flow.next))
    }

    fn keys(&self) -> Result<jsonwebtoken::jwk::JwkSet, OidcError> {
        self.provider.keys().map_err(|problem| self.away(problem))
    }

    fn away(&self, problem: String) -> OidcError {
        OidcError::Away(self.name().to_owned(), problem)
    }

    fn not_believed(&self, problem: impl std::fmt::Display) -> OidcError {
        OidcError::NotBelieved(self.name().to_owned(), problem.to_string())
    }
}
