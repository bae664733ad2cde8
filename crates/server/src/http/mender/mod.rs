//! Mender's device API, versions 1 and 2: clients of 3.4 and 5 come here as they are. What they get is
//! decided in `crate::mender`; here it is read, kept and answered. Each answer rests on the records alone,
//! so a server that was restarted at any moment goes on where it was.

mod inventory;
mod lobby;
mod progress;
mod tell;
mod update;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;
use volary_model::Digest;
use volary_store::{Deployment, MenderDevice, Store};

use crate::app::App;
use crate::http::auth::new_secret;
use crate::http::refusal::Refusal;
use crate::mender::token::Sealer;
use crate::registry::Member;

pub(crate) use inventory::inventory;
pub(crate) use lobby::authenticate;
pub(crate) use progress::{log, status};
pub(crate) use tell::{finish, tell};
pub(crate) use update::{download, next_by_query, next_v1, next_v2};

/// The largest body of most requests.
const BODY_LIMIT: usize = 1 << 20;

/// The name of the record with the secret that tokens and links are sealed with.
const SECRET: &str = "mender-secret";

/// What is needed to serve Mender clients.
pub(crate) struct Mender {
    sealer: Sealer,
    /// One change of deployments at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Mender {
    /// Reads the server's secret, or makes one.
    pub(crate) async fn load(store: &Store) -> Result<Self, volary_store::StoreError> {
        let secret = match store.setting::<String>(SECRET).await? {
            Some(secret) => secret,
            None => {
                let secret = new_secret();
                store.set_setting(SECRET, &secret).await?;
                secret
            }
        };
        Ok(Self { sealer: Sealer::new(secret.as_bytes()), changing: tokio::sync::Mutex::default() })
    }

    /// What serves them, if it is asked for.
    pub(crate) fn of(app: &App) -> Result<&Self, Refusal> {
        app.mender.as_ref().ok_or_else(|| {
            Refusal::not_found("this server does not serve Mender's clients")
                .help("write [mender] into server.toml and restart the server")
        })
    }
}

/// An accepted device, by its token.
pub(crate) struct MenderClient {
    /// The device.
    pub(crate) member: Member,
    /// The fingerprint of its key.
    pub(crate) key: Digest,
}

impl FromRequestParts<Arc<App>> for MenderClient {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let mender = Mender::of(app)?;
        let now = volary_host::now();
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Whoever is refused here asks to be let in, and hears there how it stands with them.
        let key = mender.sealer.device(token.trim(), now).ok_or_else(unauthorized)?;
        let member = app.registry.member(&key).ok_or_else(unauthorized)?;
        app.registry.seen(&member.name, now);
        Ok(Self { member, key })
    }
}

fn unauthorized() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "dev auth: unauthorized")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::invalid(format!("the request's body is not what this route takes: {error}"))
    })
}

/// Everything that an answer to a device rests on.
struct Records {
    client: MenderDevice,
    history: Vec<Deployment>,
}

impl Records {
    async fn read(app: &App, key: &Digest) -> Result<Self, Refusal> {
        let client = app.store.mender_device(key).await?.ok_or_else(unauthorized)?;
        Ok(Self { client, history: app.store.deployments(key).await? })
    }
}
