//! Who asks, and may they: people by session, people and programs by token, devices by certificate.

use std::sync::{Arc, RwLock};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use volary_api::v1::fleet::{Role, UploadLimits};
use volary_api::v1::user::How;
use volary_model::Digest;
use volary_store::{By, Store, StoreError, Token};

use crate::app::App;
use crate::http::refusal::Refusal;
use crate::registry::Member;
use crate::tls::listener::Peer;

/// The name of the browser's cookie.
pub(crate) const COOKIE: &str = "volary_token";

/// That a session is used is noted so often: each note is a write.
const NOTED: SignedDuration = SignedDuration::from_mins(10);

/// What roles are called in records.
const ROLES: [(Role, &str); 7] = [
    (Role::Admin, "admin"),
    (Role::ReleaseManager, "release-manager"),
    (Role::Operator, "operator"),
    (Role::Developer, "developer"),
    (Role::Viewer, "viewer"),
    (Role::Upload, "upload"),
    (Role::Gate, "gate"),
];

/// The record's word for a role.
pub(crate) fn role_text(role: Role) -> &'static str {
    ROLES.iter().find(|(known, _)| *known == role).expect("every role has a word").1
}

/// The role of a record; an unknown word may nothing but see.
pub(crate) fn role_from(text: &str) -> Role {
    ROLES.iter().find(|(_, word)| *word == text).map_or(Role::Viewer, |(role, _)| *role)
}

/// The record's word for how somebody signed in.
pub(crate) fn how_text(how: How) -> &'static str {
    match how {
        How::Token => "token",
        How::Password => "password",
        How::Oidc => "oidc",
    }
}

/// How somebody signed in, from a record.
pub(crate) fn how_from(text: &str) -> How {
    match text {
        "password" => How::Password,
        "oidc" => How::Oidc,
        _ => How::Token,
    }
}

/// The limits of a record. Limits that cannot be read let nothing through.
pub(crate) fn limits_from(text: Option<&str>) -> UploadLimits {
    let nothing = || UploadLimits { packages: vec![String::new()], ..UploadLimits::default() };
    text.map_or_else(UploadLimits::default, |text| serde_json::from_str(text).unwrap_or_else(|_| nothing()))
}

/// A new secret: 256 bits, as text that survives every shell and URL.
pub(crate) fn new_secret() -> String {
    let bytes: [u8; 32] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// What is kept of a secret.
pub(crate) fn hash(secret: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(secret.as_bytes()).into())
}

/// Whether two secrets are the same. Looks at all bytes, so that the time tells nothing.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The tokens in memory: they are compared at each request.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: RwLock<Vec<Token>>,
    /// One reading of the records at a time: an older one must not overwrite a newer one.
    reading: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// Reads all tokens again, after a change.
    pub(crate) async fn load(&self, store: &Store) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let tokens = store.tokens().await?;
        *self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner) = tokens;
        Ok(())
    }

    /// The token with this secret. Looks at all of them and at all bytes, so that the time tells
    /// nothing.
    pub(crate) fn find(&self, secret: &str) -> Option<Person> {
        let given = hash(secret);
        let tokens = self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut found = None;
        for token in tokens.iter() {
            if same(token.hash.as_bytes(), given.as_bytes()) {
                found = Some(Person {
                    name: token.name.clone(),
                    role: role_from(&token.role),
                    limits: limits_from(token.limits.as_deref()),
                    how: How::Token,
                    subject: None,
                    session: None,
                });
            }
        }
        found
    }
}

/// A person who is signed in, or a person or program with a token.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    /// The name of the token or account, or what the provider says.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) role: Role,
    /// What they may upload, if they may do nothing else.
    pub(crate) limits: UploadLimits,
    /// How they signed in.
    pub(crate) how: How,
    /// What the provider calls them.
    pub(crate) subject: Option<String>,
    /// Their session; a token has none.
    pub(crate) session: Option<Session>,
}

/// A session that goes on.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: i64,
    /// The account on this server, if the person has one.
    pub(crate) account: Option<String>,
    pub(crate) expires_at: Timestamp,
}

impl Person {
    /// The person of a record.
    fn of_session(session: volary_store::Session) -> Self {
        Self {
            name: session.person,
            role: role_from(&session.role),
            limits: UploadLimits::default(),
            how: how_from(&session.how),
            subject: session.subject,
            session: Some(Session {
                id: session.id,
                account: session.account,
                expires_at: session.expires_at,
            }),
        }
    }

    /// As records name them.
    pub(crate) fn by(&self) -> By {
        By { name: self.name.clone(), how: how_text(self.how).into(), subject: self.subject.clone() }
    }

    /// Refuses a person whose role does not allow what `least` allows.
    pub(crate) fn must_be(&self, least: Role) -> Result<(), Refusal> {
        if self.may(least) { Ok(()) } else { self.lacks(least) }
    }

    /// True if their role allows what `least` allows.
    pub(crate) fn may(&self, least: Role) -> bool {
        match self.role {
            Role::Admin => true,
            Role::ReleaseManager => least != Role::Admin,
            Role::Operator => matches!(least, Role::Operator | Role::Viewer),
            Role::Developer => matches!(least, Role::Developer | Role::Viewer),
            Role::Viewer => least == Role::Viewer,
            Role::Upload | Role::Gate => false,
        }
    }

    /// Refuses a person who may not bring packages.
    pub(crate) fn must_upload(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Upload | Role::Developer | Role::ReleaseManager | Role::Admin => Ok(()),
            Role::Viewer | Role::Operator | Role::Gate => self.lacks(Role::Upload),
        }
    }

    /// Refuses a person who may not speak for any gate.
    fn must_speak_for_gates(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Gate | Role::ReleaseManager | Role::Admin => Ok(()),
            Role::Viewer | Role::Operator | Role::Developer | Role::Upload => self.lacks(Role::Gate),
        }
    }

    fn lacks(&self, needed: Role) -> Result<(), Refusal> {
        let (own, needed) = (role_text(self.role), role_text(needed));
        let (who, remedy) = match self.how {
            How::Token => (
                format!("the token {:?} is a {own}'s", self.name),
                format!("makes one with: volary token add NAME --role {needed}"),
            ),
            How::Password => (
                format!("{} is a {own}", self.name),
                format!("gives it with: volary user role {} {needed}", self.name),
            ),
            How::Oidc => (
                format!("{} is a {own}", self.name),
                "gives it by a group, with [oidc.roles] in server.toml".to_owned(),
            ),
        };
        Err(Refusal::new(StatusCode::FORBIDDEN, who)
            .help(format!("this needs the role {needed}; an administrator {remedy}")))
    }
}

/// The person behind a request, if the credentials are those of a session or a known token.
pub(crate) async fn person(app: &App, method: &Method, headers: &HeaderMap) -> Result<Person, Refusal> {
    let Some(secret) = secret(method, headers) else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "this needs a token").help(
            "give it as \"Authorization: Bearer TOKEN\", or as the password for git; or: volary login",
        ));
    };
    let now = volary_host::now();
    if let Some(person) = app.tokens.find(&secret) {
        app.registry.token_used(&person.name, now);
        return Ok(person);
    }
    // By its hash, which no time that a look-up takes can tell anything about.
    let session = app.store.session(&hash(&secret), now).await?.ok_or_else(|| {
        Refusal::new(StatusCode::UNAUTHORIZED, "the token is not known to this server").help(
            "it was revoked, or the session is over: volary login; an administrator makes tokens with: \
             volary token add NAME",
        )
    })?;
    if now.duration_since(session.used_at) >= NOTED {
        app.store.session_used(session.id, now).await?;
    }
    Ok(Person::of_session(session))
}

/// What a form of the page must carry to show that it came from the page: another site can make a browser
/// send its cookie, and cannot read this.
pub(crate) fn csrf(headers: &HeaderMap) -> Option<String> {
    let secret = cookie(headers)?;
    Some(hash(&format!("volary form {secret}")).hex())
}

/// The person who clicked a button of the page.
pub(crate) async fn person_who_clicked(
    app: &App,
    headers: &HeaderMap,
    given: &str,
) -> Result<Person, Refusal> {
    let wanted = csrf(headers).unwrap_or_default();
    if wanted.is_empty() || !same(wanted.as_bytes(), given.as_bytes()) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this did not come from a page of this server")
            .help("load the page again"));
    }
    person(app, &Method::GET, headers).await
}

fn secret(method: &Method, headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().ok()?;
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(rest.to_owned());
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
            let pair = String::from_utf8(pair).ok()?;
            return pair.split_once(':').map(|(_, password)| password.to_owned());
        }
        return None;
    }
    // A browser sends its cookie with what other sites make it ask for, so it only opens what
    // changes nothing.
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    cookie(headers)
}

pub(crate) fn cookie(headers: &HeaderMap) -> Option<String> {
    cookie_named(headers, COOKIE)
}

/// A cookie of the browser.
pub(crate) fn cookie_named(headers: &HeaderMap, wanted: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then(|| value.to_owned()))
}

macro_rules! role_extractor {
    ($(#[$doc:meta])* $type:ident, $role:expr) => {
        $(#[$doc])*
        pub(crate) struct $type(#[allow(dead_code, reason = "not every route needs the name")] pub(crate) Person);

        impl FromRequestParts<Arc<App>> for $type {
            type Rejection = Refusal;

            async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
                let person = person(app, &parts.method, &parts.headers).await?;
                person.must_be($role)?;
                Ok(Self(person))
            }
        }
    };
}

/// Anybody whom the server knows, whatever they may do.
pub(crate) struct Anybody(pub(crate) Person);

impl FromRequestParts<Arc<App>> for Anybody {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        Ok(Self(person(app, &parts.method, &parts.headers).await?))
    }
}

role_extractor!(
    /// Somebody who may see everything.
    Viewer,
    Role::Viewer
);
/// Somebody who may bring packages.
pub(crate) struct Uploader(pub(crate) Person);

impl FromRequestParts<Arc<App>> for Uploader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let person = person(app, &parts.method, &parts.headers).await?;
        person.must_upload()?;
        Ok(Self(person))
    }
}

/// Somebody who may speak for gates: those of their limits, if they may do nothing else.
pub(crate) struct GateSpeaker(pub(crate) Person);

impl FromRequestParts<Arc<App>> for GateSpeaker {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let person = person(app, &parts.method, &parts.headers).await?;
        person.must_speak_for_gates()?;
        Ok(Self(person))
    }
}

role_extractor!(
    /// Somebody who may push, include, cut, pick and freeze.
    Developer,
    Role::Developer
);
role_extractor!(
    /// Somebody who may say which devices belong to the fleet, silence alerts and stop a rollout.
    Operator,
    Role::Operator
);
role_extractor!(
    /// Somebody who may merge, and let a rollout go on.
    ReleaseManager,
    Role::ReleaseManager
);
role_extractor!(
    /// Somebody who may do everything.
    Admin,
    Role::Admin
);

/// An accepted device, by its certificate.
pub(crate) struct DeviceIdentity(pub(crate) Member);

impl FromRequestParts<Arc<App>> for DeviceIdentity {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let key = parts.extensions.get::<Peer>().and_then(|peer| peer.key);
        let Some(key) = key else {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "this needs a device's client certificate")
                .help("enrol the device with: volary-agent enroll TOKEN"));
        };
        let member = app.registry.member(&key).ok_or_else(|| {
            Refusal::new(StatusCode::FORBIDDEN, "the certificate belongs to no device of this fleet")
                .help("the device was removed, or rejected; enrol it again with: volary-agent enroll TOKEN")
        })?;
        app.registry.seen(&member.name, volary_host::now());
        Ok(Self(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, header: (header::HeaderName, &str), expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(header.0, header.1.parse().unwrap());
        assert_eq!(secret(&method, &headers).as_deref(), expected, "{headers:?}");
    }

    #[test]
    fn a_token_comes_in_three_ways() {
        check(Method::POST, (header::AUTHORIZATION, "Bearer abc"), Some("abc"));
        check(Method::POST, (header::AUTHORIZATION, "basic eDphYmM="), Some("abc"));
        check(Method::GET, (header::COOKIE, "a=b; volary_token=abc"), Some("abc"));
        check(Method::POST, (header::COOKIE, "volary_token=abc"), None);
        check(Method::GET, (header::AUTHORIZATION, "Digest abc"), None);
        check(Method::GET, (header::AUTHORIZATION, "Basic %%"), None);
    }
}
