//! How a Mender client comes in: it shows its identity and its key, and waits to be accepted, or brings a
//! join token.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use volary_api::join::JoinToken;
use volary_model::{DeviceName, Digest};
use volary_store::{Client, Device, DeviceState, Enrolling, Enrolment};

use super::{Mender, parse, unauthorized};
use crate::app::App;
use crate::http::auth::hash;
use crate::http::device::{LOBBY, TEXT_LIMIT, announce};
use crate::http::input::read_body;
use crate::http::refusal::Refusal;
use crate::mender::signature::ClientKey;
use crate::mender::wire;

/// The largest request.
const AUTH_LIMIT: usize = 64 << 10;

/// The longest identity: it is kept of everybody who waits.
const IDENTITY_LIMIT: usize = 4 << 10;

/// `POST /api/devices/v1/authentication/auth_requests`.
pub(crate) async fn authenticate(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mender = Mender::of(&app)?;
    let body = read_body(body, AUTH_LIMIT).await?;
    let request: wire::AuthRequest = parse(&body)?;
    let signature = headers.get("x-men-signature").and_then(|value| value.to_str().ok());
    let signature = signature.ok_or_else(|| Refusal::invalid("the header X-MEN-Signature is missing"))?;
    let key = ClientKey::from_pem(&request.pubkey).map_err(Refusal::invalid)?;
    if !key.signed(&body, signature) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "signature verification failed"));
    }
    if request.id_data.len() > IDENTITY_LIMIT {
        return Err(Refusal::invalid(format!("id_data is longer than {IDENTITY_LIMIT} bytes")));
    }
    let identity: BTreeMap<String, serde_json::Value> = serde_json::from_str(&request.id_data)
        .map_err(|error| Refusal::invalid(format!("id_data is no JSON object: {error}")))?;
    let device = enrolled(&app, &key.fingerprint, &identity, &request).await?;
    if device.client != Client::Mender {
        return Err(unauthorized());
    }
    match (device.state, device.stage) {
        (DeviceState::Accepted, Some(_)) => {
            app.store.mender_seen(&key.fingerprint, &request.id_data).await?;
            let now = volary_host::now();
            app.registry.seen(&device.name, now);
            let token = mender.sealer.token(&key.fingerprint, now);
            Ok(([(header::CONTENT_TYPE, "application/jwt")], token).into_response())
        }
        (DeviceState::Accepted | DeviceState::Waiting | DeviceState::Rejected, _) => Err(unauthorized()),
    }
}

/// The device with this key; a new one waits, or is let in at once by its token.
async fn enrolled(
    app: &App,
    key: &Digest,
    identity: &BTreeMap<String, serde_json::Value>,
    request: &wire::AuthRequest,
) -> Result<Device, Refusal> {
    let known = app.store.device_by_key(key).await?;
    let secret = request.tenant_token.as_deref().filter(|token| !token.is_empty()).map(join_secret);
    let decided = known.as_ref().is_some_and(|device| device.state != DeviceState::Waiting);
    if let Some(device) = known.as_ref().filter(|_| decided || secret.is_none()) {
        return Ok(device.clone());
    }
    let fallback: DeviceName = format!("mender-{}", key.short()).parse().map_err(Refusal::broken)?;
    let wanted = match &known {
        Some(device) => device.name.clone(),
        None => own_name(identity).unwrap_or_else(|| fallback.clone()),
    };
    // A token of another server lets nobody in here, and keeps nobody out of the lobby; nor does a name that
    // somebody else has.
    let mut attempts = vec![(wanted.clone(), None), (fallback, None)];
    if secret.is_some() {
        attempts.insert(0, (wanted, secret));
    }
    for (name, secret) in attempts {
        // Whoever comes with a secret that counts does not wait.
        if known.is_none() && secret.is_none() && is_lobby_full(app).await? {
            let problem = "too many unknown devices wait already";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, problem));
        }
        let enrolling = Enrolling {
            name,
            fingerprint: *key,
            csr: String::new(),
            architecture: "unknown".parse().map_err(Refusal::broken)?,
            os: described(identity),
            secret,
            client: Client::Mender,
        };
        match app.store.enroll(&enrolling, volary_host::now()).await? {
            Enrolment::Known { device, changed } => {
                app.store.mender_seen(key, &request.id_data).await?;
                if changed {
                    app.registry.refresh(&app.store, &device.name).await?;
                    announce(app, &device).await;
                }
                return Ok(*device);
            }
            Enrolment::Refused(_) | Enrolment::NameTaken { .. } | Enrolment::KeyTaken { .. } => {}
        }
    }
    Err(unauthorized())
}

async fn is_lobby_full(app: &App) -> Result<bool, Refusal> {
    Ok(app.store.waiting_devices().await? >= LOBBY)
}

/// What is kept of the secret of a join token, given as a whole or as the secret alone.
fn join_secret(text: &str) -> Digest {
    let secret = JoinToken::decode(text.trim()).map(|token| token.secret);
    hash(secret.as_deref().unwrap_or(text.trim()))
}

/// The name that a device gives itself in its identity, if it gives one.
fn own_name(identity: &BTreeMap<String, serde_json::Value>) -> Option<DeviceName> {
    let text = |key| identity.get(key)?.as_str().map(str::to_lowercase);
    ["name", "device_name", "hostname"].into_iter().find_map(|key| text(key)?.parse().ok())
}

/// What a person compares with the device before letting it in.
fn described(identity: &BTreeMap<String, serde_json::Value>) -> String {
    let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let all: Vec<String> = identity.iter().map(|(key, own)| format!("{key}={}", value(own))).collect();
    let text = format!("Mender client, {}", all.join(" "));
    text.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect()
}
