//! Signing in through a provider: off to it, and back.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::SignedDuration;
use serde::Deserialize;
use volary_api::v1::user::How;
use volary_store::{By, NewSession};

use super::login::{own_page, signed_in};
use super::refused;
use crate::app::App;
use crate::http::auth::{cookie_named, hash, how_text, new_secret, role_text};
use crate::http::input::blocking;
use crate::http::refusal::Refusal;
use crate::oidc::{Back, Identity, Oidc, OidcError};

/// The cookie that ties a log-in to the browser that began it.
const COOKIE: &str = "volary_oidc";

/// The page that was wanted.
#[derive(Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    next: String,
}

/// What the provider sends back.
#[derive(Deserialize)]
pub(crate) struct Sent {
    #[serde(default)]
    state: String,
    code: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// `GET /login/oidc?next=…`.
pub(crate) async fn begin(State(app): State<Arc<App>>, Query(wanted): Query<Wanted>) -> Response {
    let begun = async {
        let oidc = provider(&app)?;
        let next = own_page(&wanted.next).unwrap_or("/").to_owned();
        Ok::<_, Refusal>(blocking(move || oidc.begin(&next)).await??)
    };
    match begun.await {
        Ok((address, state)) => with_cookie(Redirect::to(&address).into_response(), &state, 600),
        Err(refusal) => refused(&app, &refusal),
    }
}

/// `GET /login/oidc/callback`.
pub(crate) async fn callback(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(sent): Query<Sent>,
) -> Response {
    let done = async {
        let oidc = provider(&app)?;
        let hours = oidc.session_hours();
        let cookie = cookie_named(&headers, COOKIE).unwrap_or_default();
        let (person, next) = blocking(move || {
            oidc.end(&Back {
                cookie: &cookie,
                state: &sent.state,
                code: sent.code.as_deref(),
                error: sent.error.as_deref(),
                issuer: sent.iss.as_deref(),
            })
        })
        .await??;
        Ok::<_, Refusal>((session(&app, &person, hours).await?, next))
    };
    match done.await {
        Ok(((secret, seconds), next)) => with_cookie(signed_in(&secret, seconds, &next), "", 0),
        Err(refusal) => refused(&app, &refusal),
    }
}

fn provider(app: &App) -> Result<Arc<Oidc>, Refusal> {
    app.oidc.clone().ok_or_else(|| {
        Refusal::not_found("this server knows no provider")
            .help("an administrator sets [oidc] in server.toml")
    })
}

async fn session(app: &App, person: &Identity, hours: u32) -> Result<(String, i64), Refusal> {
    let now = volary_host::now();
    let length = SignedDuration::from_hours(hours.into());
    let secret = new_secret();
    let new = NewSession {
        hash: &hash(&secret),
        person: &person.name,
        how: how_text(How::Oidc),
        account: None,
        role: role_text(person.role),
        subject: Some(&person.subject),
        expires_at: now + length,
    };
    app.store.add_session(&new, None, now).await?;
    let by = By { name: person.name.clone(), how: new.how.into(), subject: Some(person.subject.clone()) };
    let text = format!("{} signed in as {}", person.name, new.role);
    app.event_by_record(&by, "signed-in", &person.name, &text).await;
    Ok((secret, length.as_secs()))
}

fn with_cookie(mut response: Response, state: &str, seconds: u32) -> Response {
    let cookie =
        format!("{COOKIE}={state}; Path=/login/oidc; Max-Age={seconds}; HttpOnly; Secure; SameSite=Lax");
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, HeaderValue::from_str(&cookie).expect("a cookie is plain text"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

impl From<OidcError> for Refusal {
    fn from(error: OidcError) -> Self {
        tracing::warn!(%error, "nobody is signed in");
        match error {
            OidcError::NoFlow => Self::invalid(error).help("begin again at /login"),
            OidcError::Refused(..) => Self::new(StatusCode::FORBIDDEN, error).help("begin again at /login"),
            OidcError::Away(..) => Self::new(StatusCode::BAD_GATEWAY, error)
                .help("people with an account or a token sign in at /login as before"),
            OidcError::NotBelieved(..) => {
                Self::new(StatusCode::FORBIDDEN, error).help("the server's log has more")
            }
            OidcError::NoRole(_) => Self::new(StatusCode::FORBIDDEN, error)
                .help("an administrator gives a group a role with [oidc.roles] in server.toml"),
        }
    }
}
