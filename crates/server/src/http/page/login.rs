//! Signing in and out with a browser, and what a person may change of their own account.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Extension, Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use serde::Deserialize;
use volary_api::percent::encode_path;
use volary_api::v1::user::{Login, NewPassword};

use super::{Head, clicked, html_page, refused};
use crate::app::App;
use crate::http::auth::{self, COOKIE, how_text, role_text};
use crate::http::refusal::Refusal;
use crate::http::users::{from_elsewhere, new_password, seen_by, sign_in, sign_out};
use crate::tls::listener::Peer;

/// How long a browser stays signed in with a token, in seconds.
const SIGNED_IN: i64 = 30 * 86_400;

/// Where a person signs in.
#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    fleet: String,
    problem: Option<String>,
    user: String,
    next: String,
    /// True: the form for a token is open.
    with_token: bool,
    /// What people call the provider; empty if there is none.
    provider: String,
}

/// A token from a link that an administrator gave, and the page to go to.
#[derive(Deserialize)]
pub(crate) struct Asked {
    token: Option<String>,
    #[serde(default)]
    next: String,
}

/// What the forms send.
#[derive(Deserialize)]
pub(crate) struct Given {
    token: Option<String>,
    user: Option<String>,
    password: Option<String>,
    #[serde(default)]
    next: String,
}

/// `GET /login`, also with `?token=`.
pub(crate) async fn form(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Response {
    match asked.token {
        Some(token) => with_token(&app, &token, &asked.next),
        None => show(
            &app,
            StatusCode::OK,
            None,
            &Given { token: None, user: None, password: None, next: asked.next },
        ),
    }
}

/// `POST /login`.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(given): Form<Given>,
) -> Response {
    if from_elsewhere(&headers) {
        // Else another site could sign a browser in as somebody who then sees what is done with it.
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "this did not come from a page of this server");
        return refused(&app, &refusal.help("sign in at /login"));
    }
    if let Some(token) = &given.token {
        return with_token(&app, token, &given.next);
    }
    let (user, password) =
        (given.user.clone().unwrap_or_default(), given.password.clone().unwrap_or_default());
    let login = Login { user: user.trim().to_owned(), password };
    match sign_in(&app, login, peer.address).await {
        Ok(session) => {
            let seconds = session.expires_at.duration_since(volary_host::now()).as_secs();
            signed_in(&session.secret, seconds, &given.next)
        }
        Err(refusal) => {
            let problem = match refusal.status() {
                StatusCode::UNAUTHORIZED => "The user or the password is wrong.".to_owned(),
                _ => format!("{}; {}", refusal.sentence(), refusal.advice()),
            };
            let mut answer = show(&app, refusal.status(), Some(problem), &given);
            refusal.add_wait(answer.headers_mut());
            answer
        }
    }
}

fn with_token(app: &App, token: &str, next: &str) -> Response {
    let token = token.trim();
    if app.tokens.find(token).is_none() {
        let problem = "This token is not known to this server. It may have been revoked.".to_owned();
        let given = Given { token: Some(String::new()), user: None, password: None, next: next.to_owned() };
        return show(app, StatusCode::UNAUTHORIZED, Some(problem), &given);
    }
    signed_in(token, SIGNED_IN, next)
}

/// The browser keeps the secret, and goes to the page that it wanted.
pub(super) fn signed_in(secret: &str, seconds: i64, next: &str) -> Response {
    with_cookie(Redirect::to(own_page(next).unwrap_or("/")).into_response(), secret, seconds)
}

/// `POST /logout`.
pub(crate) async fn logout(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if !from_elsewhere(&headers)
        && let Ok(person) = auth::person(&app, &Method::GET, &headers).await
        // A token goes on; only this browser forgets it.
        && person.session.is_some()
        && let Err(refusal) = sign_out(&app, &person).await
    {
        return refused(&app, &refusal);
    }
    with_cookie(Redirect::to("/login").into_response(), "", 0)
}

fn with_cookie(mut response: Response, secret: &str, seconds: i64) -> Response {
    let cookie = format!("{COOKIE}={secret}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite=Lax");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn show(app: &App, status: StatusCode, problem: Option<String>, given: &Given) -> Response {
    let page = LoginPage {
        fleet: app.config.fleet.clone(),
        problem,
        user: given.user.clone().unwrap_or_default(),
        next: own_page(&given.next).unwrap_or_default().to_owned(),
        with_token: given.token.is_some(),
        provider: app.oidc.as_ref().map(|oidc| oidc.name().to_owned()).unwrap_or_default(),
    };
    html_page(status, page.render())
}

/// Sends somebody who is not signed in to do so, and then back.
pub(super) fn away(wanted: &Uri) -> Response {
    let wanted = wanted.path_and_query().map_or("/", |wanted| wanted.as_str());
    let target = match own_page(wanted) {
        None | Some("/") => "/login".to_owned(),
        Some(page) => format!("/login?next={}", encode_path(page)),
    };
    Redirect::to(&target).into_response()
}

/// The address, if it is one of a page of this server and nothing that a browser takes for another one's.
pub(super) fn own_page(address: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_graphic() && c != '\\';
    let own = address.starts_with('/') && !address.starts_with("//") && address.len() <= 2048;
    (own && address.chars().all(plain)).then_some(address)
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage {
    head: Head,
    role: &'static str,
    how: &'static str,
    /// The account on this server; empty if there is none.
    account: String,
    sessions: Vec<SessionRow>,
}

struct SessionRow {
    id: i64,
    person: String,
    how: &'static str,
    used: String,
    ends: String,
    own: bool,
}

/// `GET /account`.
pub(crate) async fn account(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Response {
    super::page(&app, &headers, &uri, async |person, head| {
        let day = |at: Timestamp| at.strftime("%F %H:%M").to_string();
        let sessions = seen_by(&app, &person).await?.into_iter().map(|session| SessionRow {
            id: session.id,
            person: session.person,
            how: how_text(session.how),
            used: day(session.used_at),
            ends: day(session.expires_at),
            own: session.own,
        });
        let account = person.session.as_ref().and_then(|session| session.account.clone());
        let page = AccountPage {
            head,
            role: role_text(person.role),
            how: how_text(person.how),
            account: account.unwrap_or_default(),
            sessions: sessions.collect(),
        };
        Ok(page.render())
    })
    .await
}

/// A new password, twice.
#[derive(Deserialize)]
pub(crate) struct Changed {
    old: String,
    password: String,
    again: String,
    csrf: String,
}

/// `POST /account/password`.
pub(crate) async fn password(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(changed): Form<Changed>,
) -> Response {
    let done = async {
        let person = auth::person_who_clicked(&app, &headers, &changed.csrf).await?;
        let account = person.session.as_ref().and_then(|session| session.account.clone());
        let name = account.ok_or_else(|| Refusal::conflict("you have no password on this server"))?;
        if changed.password != changed.again {
            return Err(Refusal::invalid("the new password was typed in two ways"));
        }
        let new = NewPassword { password: changed.password, old: Some(changed.old) };
        new_password(&app, &person, &name, new, peer.address).await
    };
    clicked(&app, "/account", done.await)
}

/// A session that is to end.
#[derive(Deserialize)]
pub(crate) struct Ended {
    id: String,
    csrf: String,
}

/// `POST /account/end`.
pub(crate) async fn end(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(ended): Form<Ended>,
) -> Response {
    let done = async {
        let person = auth::person_who_clicked(&app, &headers, &ended.csrf).await?;
        crate::http::users::end_session(&app, &person, &ended.id).await
    };
    clicked(&app, "/account", done.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_server_are_gone_to() {
        for good in ["/", "/devices/dev-1?hours=1", "/promotion?from=a&to=b"] {
            assert_eq!(own_page(good), Some(good));
        }
        for bad in [
            "",
            "x",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\nb",
            "/\t/evil.example",
            "/é",
        ] {
            assert_eq!(own_page(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_address_survives_the_way_through_the_log_in() {
        assert_eq!(encode_path("/promotion?from=a&to=b"), "/promotion%3Ffrom%3Da%26to%3Db");
    }
}
