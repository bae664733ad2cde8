//! Signing in and out, accounts and sessions, by the API; the page does the same through these.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::NoContent;
use jiff::SignedDuration;
use volary_api::v1::fleet::Role;
use volary_api::v1::user::{How, LoggedIn, Login, Me, NewPassword, NewRole, NewUser, Session, User};
use volary_store::NewSession;

use crate::accounts::{self, AccountError, UserChange, api_user, change, is_password};
use crate::app::App;
use crate::http::auth::{Admin, Anybody, Person, hash, how_from, how_text, new_secret, role_from};
use crate::http::input::{Input, Path, blocking};
use crate::http::refusal::Refusal;
use crate::tls::listener::Peer;

/// How long somebody waits for others whose passwords are being looked at.
const QUEUE: Duration = Duration::from_secs(20);

impl From<AccountError> for Refusal {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Invalid(_) => Self::invalid(error),
            AccountError::Taken(_) => Self::conflict(error).help("see them with: volary user list"),
            AccountError::Unknown(_) => Self::not_found(error).help("see them with: volary user list"),
            AccountError::Store(error) => error.into(),
        }
    }
}

/// `POST /api/v1/login`.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Input(login): Input<Login>,
) -> Result<Json<LoggedIn>, Refusal> {
    sign_in(&app, login, peer.address).await.map(Json)
}

/// Begins a session for whoever knows the password. Whether the account or the password is wrong is not
/// told, and takes the same time.
pub(crate) async fn sign_in(app: &App, login: Login, address: IpAddr) -> Result<LoggedIn, Refusal> {
    let Login { user, password } = login;
    let known = checked(app, &user, password, address).await?.ok_or_else(|| {
        Refusal::new(StatusCode::UNAUTHORIZED, "the user or the password is wrong")
            .help("an administrator sets another password with: volary user passwd NAME")
    })?;
    let now = volary_host::now();
    let role = role_from(&known.role);
    let secret = new_secret();
    let expires_at = now + SignedDuration::from_hours(app.config.login.session_hours.into());
    let new = NewSession {
        hash: &hash(&secret),
        person: &known.name,
        how: how_text(How::Password),
        account: Some(&known.name),
        role: &known.role,
        subject: None,
        expires_at,
    };
    if !app.store.add_session(&new, Some(&known.password), now).await? {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "the password was changed just now"));
    }
    let by = volary_store::By { name: known.name.clone(), how: new.how.into(), subject: None };
    app.event_by_record(&by, "signed-in", &known.name, &format!("{} signed in", known.name)).await;
    Ok(LoggedIn { user: known.name, role, secret, expires_at })
}

/// The account, if this is its password. Each wrong one makes the next wait, for the account and for the
/// address.
async fn checked(
    app: &App,
    name: &str,
    password: String,
    address: IpAddr,
) -> Result<Option<volary_store::User>, Refusal> {
    // A name that is too long is nobody's, and is not remembered whole.
    let key: String = name.chars().take(64).collect();
    let throttle = || app.throttle.lock().unwrap_or_else(PoisonError::into_inner);
    throttle().attempt(&key, address, Instant::now()).map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "there were too many wrong passwords")
            .help(format!("try again in {seconds} s"))
            .again_after(seconds)
    })?;
    let known = app.store.user(name).await?;
    let turn = tokio::time::timeout(QUEUE, app.hashing.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many people sign in at once")
            .again_after(QUEUE.as_secs()));
    };
    let kept = known.as_ref().map(|user| user.password.clone());
    if blocking(move || is_password(&password, kept.as_deref())).await? {
        throttle().succeeded(&key, address);
        return Ok(known);
    }
    throttle().failed(&key, address, Instant::now());
    if throttle().just_began(&key) {
        let text = format!("too many wrong passwords for {key:?}, the last from {address}: it has to wait");
        match known {
            // Only for accounts: the log has the rest, and cannot be filled with made-up names.
            Some(user) => app.event("sign-in-refused", &user.name, &text).await,
            None => tracing::warn!("{text}"),
        }
    }
    Ok(None)
}

/// `POST /api/v1/logout`.
pub(crate) async fn logout(
    State(app): State<Arc<App>>,
    Anybody(person): Anybody,
) -> Result<NoContent, Refusal> {
    sign_out(&app, &person).await?;
    Ok(NoContent)
}

/// Ends the session of a person.
pub(crate) async fn sign_out(app: &App, person: &Person) -> Result<(), Refusal> {
    let Some(session) = &person.session else {
        return Err(Refusal::conflict("a token has no session that could end")
            .help(format!("an administrator takes it back with: volary token remove {}", person.name)));
    };
    app.store.end_session(session.id).await?;
    app.event_by(person, "signed-out", &person.name, &format!("{} signed out", person.name)).await;
    Ok(())
}

/// `GET /api/v1/me`.
pub(crate) async fn me(Anybody(person): Anybody) -> Json<Me> {
    Json(Me {
        role: person.role,
        how: person.how,
        expires_at: person.session.map(|session| session.expires_at),
        subject: person.subject,
        name: person.name,
    })
}

/// `GET /api/v1/users`.
pub(crate) async fn users(State(app): State<Arc<App>>, Admin(_): Admin) -> Result<Json<Vec<User>>, Refusal> {
    Ok(Json(app.store.users().await?.into_iter().map(api_user).collect()))
}

/// `POST /api/v1/users`.
pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(new): Input<NewUser>,
) -> Result<NoContent, Refusal> {
    let change = UserChange::Add { role: new.role, password: new.password };
    change_for(&app, &person, &new.name, change, None).await
}

/// `DELETE /api/v1/users/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(name): Path<String>,
) -> Result<NoContent, Refusal> {
    another_admin_than(&app, &name).await?;
    change_for(&app, &person, &name, UserChange::Remove, None).await
}

/// `POST /api/v1/users/{name}/role`.
pub(crate) async fn set_role(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(name): Path<String>,
    Input(new): Input<NewRole>,
) -> Result<NoContent, Refusal> {
    if new.role != Role::Admin {
        another_admin_than(&app, &name).await?;
    }
    change_for(&app, &person, &name, UserChange::Role(new.role), None).await
}

/// `POST /api/v1/users/{name}/password`.
pub(crate) async fn set_password(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Anybody(person): Anybody,
    Path(name): Path<String>,
    Input(new): Input<NewPassword>,
) -> Result<NoContent, Refusal> {
    new_password(&app, &person, &name, new, peer.address).await
}

/// Sets a password for a person: their own, if they know the one until now, or as an administrator.
pub(crate) async fn new_password(
    app: &App,
    person: &Person,
    name: &str,
    new: NewPassword,
    address: IpAddr,
) -> Result<NoContent, Refusal> {
    let own = person.session.as_ref().filter(|session| session.account.as_deref() == Some(name));
    match (own, new.old) {
        // Whoever finds a browser that is signed in must not be able to keep its person out.
        (Some(_), None) => return Err(Refusal::invalid("your password until now is missing")),
        (Some(_), Some(old)) => {
            if checked(app, name, old, address).await?.is_none() {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "the password until now is wrong"));
            }
        }
        (None, _) => person.must_be(Role::Admin)?,
    }
    let keep = own.map(|session| session.id);
    change_for(app, person, name, UserChange::Password(new.password), keep).await
}

async fn change_for(
    app: &App,
    person: &Person,
    name: &str,
    what: UserChange,
    keep: Option<i64>,
) -> Result<NoContent, Refusal> {
    let (kind, told) = accounts::told(&what);
    change(&app.store, name, what, keep).await?;
    app.event_by(person, kind, name, &format!("{name} {told} from {}", person.name)).await;
    Ok(NoContent)
}

/// Refuses what would leave nobody who may do everything.
async fn another_admin_than(app: &App, name: &str) -> Result<(), Refusal> {
    let admin = |role: &str| role_from(role) == Role::Admin;
    let users = app.store.users().await?;
    let others = users.iter().any(|user| user.name != name && admin(&user.role));
    if others || app.store.tokens().await?.iter().any(|token| admin(&token.role)) {
        return Ok(());
    }
    Err(Refusal::conflict("this is the last administrator")
        .help("make another first: volary user add NAME --role admin"))
}

/// `GET /api/v1/sessions`.
pub(crate) async fn sessions(
    State(app): State<Arc<App>>,
    Anybody(person): Anybody,
) -> Result<Json<Vec<Session>>, Refusal> {
    Ok(Json(seen_by(&app, &person).await?))
}

/// The sessions that a person may see: an administrator all, others their own.
pub(crate) async fn seen_by(app: &App, person: &Person) -> Result<Vec<Session>, Refusal> {
    let all = app.store.sessions(volary_host::now()).await?;
    Ok(all
        .into_iter()
        .filter(|session| may_end(person, session))
        .map(|session| api(session, person))
        .collect())
}

/// `DELETE /api/v1/sessions/{id}`.
pub(crate) async fn end(
    State(app): State<Arc<App>>,
    Anybody(person): Anybody,
    Path(id): Path<String>,
) -> Result<NoContent, Refusal> {
    end_session(&app, &person, &id).await
}

/// Ends a session that a person may end.
pub(crate) async fn end_session(app: &App, person: &Person, id: &str) -> Result<NoContent, Refusal> {
    let all = app.store.sessions(volary_host::now()).await?;
    let found = all.into_iter().find(|session| session.id.to_string() == id && may_end(person, session));
    let session = found.ok_or_else(|| {
        Refusal::not_found(format!("there is no session {id}")).help("see them with: volary user sessions")
    })?;
    app.store.end_session(session.id).await?;
    let text = format!("{} ended a session of {}", person.name, session.person);
    app.event_by(person, "session-ended", &session.person, &text).await;
    Ok(NoContent)
}

fn may_end(person: &Person, session: &volary_store::Session) -> bool {
    // Two providers may call two people the same: those without an account are told apart by the subject.
    let own = person.session.as_ref().is_some_and(|own| own.account == session.account)
        && person.how == how_from(&session.how)
        && (person.subject == session.subject && person.name == session.person);
    own || person.may(Role::Admin)
}

fn api(session: volary_store::Session, person: &Person) -> Session {
    Session {
        own: person.session.as_ref().is_some_and(|own| own.id == session.id),
        how: how_from(&session.how),
        role: role_from(&session.role),
        id: session.id,
        person: session.person,
        created_at: session.created_at,
        used_at: session.used_at,
        expires_at: session.expires_at,
    }
}

/// Where a form of the page says that it comes from. A browser tells it of itself.
pub(crate) fn from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), _, _) => !matches!(site, "same-origin" | "none"),
        (None, Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, from)| from != host),
        (None, None | Some(_), _) => false,
    }
}
