//! Mender's device API, versions 1 and 2: clients of 3.4 and 5 come here as they are. What they get is
//! decided in `crate::mender`; here it is read, kept and answered. Each answer rests on the records alone,
//! so a server that was restarted at any moment goes on where it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use volary_api::join::JoinToken;
use volary_api::v1::device::Convergence;
use volary_fleet::LockedImage;
use volary_model::{CommitId, DeviceName, DeviceType, Digest};
use volary_plan::turn::{self, Decision};
use volary_store::{
    Client, Deployment, DeploymentState, Device, DeviceState, Enrolling, Enrolment, MenderDevice, NewTurn,
    Store,
};

use crate::app::App;
use crate::fleet_view::StageView;
use crate::http::auth::{hash, new_secret};
use crate::http::device::{LOBBY, TEXT_LIMIT, announce};
use crate::http::files;
use crate::http::input::{name, read_body};
use crate::http::refusal::Refusal;
use crate::http::report::new_report;
use crate::http::turn::take;
use crate::mender::deployment::{Said, Step, abort, advance, log_error, log_text};
use crate::mender::next::{Asking, Next, Offer, failed_downloads, next};
use crate::mender::report::{self, Known};
use crate::mender::signature::ClientKey;
use crate::mender::token::Sealer;
use crate::mender::{hours, wire};
use crate::registry::Member;

/// The largest requests: to be let in, any other, a log (Mender's own limit is 1 MiB).
const AUTH_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 1 << 20;
const LOG_LIMIT: usize = 4 << 20;

/// How many attributes an inventory may have.
const ATTRIBUTES: usize = 500;

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
    fn of(app: &App) -> Result<&Self, Refusal> {
        app.mender.as_ref().ok_or_else(|| {
            Refusal::not_found("this server does not serve Mender's clients")
                .help("write [mender] into server.toml and restart the server")
        })
    }
}

/// An accepted device, by its token.
pub(crate) struct MenderClient {
    member: Member,
    key: Digest,
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
    if known.is_none() && secret.is_none() {
        let devices = app.store.devices().await?;
        if devices.iter().filter(|device| device.state == DeviceState::Waiting).count() >= LOBBY {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many unknown devices wait already",
            ));
        }
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

/// `POST /api/devices/v2/deployments/device/deployments/next`.
pub(crate) async fn next_v2(
    State(app): State<Arc<App>>,
    client: MenderClient,
    body: Body,
) -> Result<Response, Refusal> {
    let next: wire::Next = parse(&read_body(body, BODY_LIMIT).await?)?;
    answer_next(&app, &client, next.device_provides).await
}

/// `POST /api/devices/v1/deployments/device/deployments/next`.
pub(crate) async fn next_v1(
    State(app): State<Arc<App>>,
    client: MenderClient,
    body: Body,
) -> Result<Response, Refusal> {
    let provides: wire::Provides = parse(&read_body(body, BODY_LIMIT).await?)?;
    answer_next(&app, &client, provides.0).await
}

/// `GET /api/devices/v1/deployments/device/deployments/next`.
pub(crate) async fn next_by_query(
    State(app): State<Arc<App>>,
    client: MenderClient,
    Query(provides): Query<BTreeMap<String, String>>,
) -> Result<Response, Refusal> {
    answer_next(&app, &client, provides).await
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

async fn answer_next(
    app: &Arc<App>,
    client: &MenderClient,
    provides: BTreeMap<String, String>,
) -> Result<Response, Refusal> {
    for key in ["artifact_name", "device_type"] {
        if provides.get(key).is_none_or(String::is_empty) {
            return Err(Refusal::invalid(format!("{key} is missing in what the device provides")));
        }
    }
    let _turn = Mender::of(app)?.changing.lock().await;
    let view = app.view.get();
    let Some((stage, tip)) =
        view.stage(&client.member.stage).and_then(|stage| Some((stage, stage.tip.as_ref()?.commit.clone())))
    else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let device_type: Option<DeviceType> = provides.get("device_type").and_then(|name| name.parse().ok());
    let pinned = device_type.as_ref().and_then(|name| stage.images.get(name));
    let images = app.store.images().await?;
    loop {
        let mut records = Records::read(app, &client.key).await?;
        let now = volary_host::now();
        let modules = records.client.inventory.get("update_modules").cloned().unwrap_or_default();
        let asking = Asking { provides: &provides, modules: &modules, history: &records.history };
        let offer = Offer {
            pinned,
            device_type: device_type.as_ref(),
            images: &images,
            closed: closed(stage, &records.client, now),
        };
        let mut obstacle = String::new();
        let served = match next(&asking, &offer, now) {
            Next::Arrived(open) => {
                let over = Deployment {
                    state: DeploymentState::Success,
                    substate: String::new(),
                    changed_at: now,
                    finished_at: Some(now),
                    ..*open
                };
                finish(app, client, &over).await?;
                continue;
            }
            Next::Replaced(open) => {
                finish(app, client, &abort(&open, "its stage pins another image now", false, now)).await?;
                continue;
            }
            Next::Lost(open) => {
                let why = "what the device provides has changed, so it has lost what it knew of the update";
                finish(app, client, &abort(&open, why, false, now)).await?;
                return Err(Refusal::conflict(why));
            }
            Next::Content => None,
            Next::Wait(why) => {
                obstacle = why.replace("NAME", client.member.name.as_str());
                None
            }
            Next::Again(open) => Some((*open, false)),
            Next::Begin(served) => match (pinned, &device_type) {
                (Some(pinned), Some(device_type)) => match may_begin(app, client, stage, &tip).await? {
                    Some(why) => {
                        obstacle = why;
                        None
                    }
                    None => {
                        let begun = begun(client, &tip, device_type, pinned, served, &provides, now);
                        app.store.add_deployment(&begun).await?;
                        Some((begun, true))
                    }
                },
                _ => None,
            },
        };
        let is_news = records.client.provides != provides || records.client.obstacle != obstacle;
        if is_news {
            app.store.set_mender_provides(&client.key, &provides, &obstacle).await?;
            records.client.provides.clone_from(&provides);
        }
        let is_content = served.is_none() && obstacle.is_empty();
        match served {
            Some((deployment, is_new)) => {
                if is_new {
                    tell_event(app, client, &deployment).await;
                    tell(app, client, None).await?;
                }
                let known = images.iter().find(|image| image.artifact == deployment.served);
                let types = known.map(|image| image.device_types.iter().map(ToString::to_string).collect());
                let types: Vec<String> = types.unwrap_or_else(|| vec![deployment.device_type.to_string()]);
                return Ok(Json(instructions(app, client, &deployment, types, now)?).into_response());
            }
            None => {
                let device = app.store.device(&client.member.name).await?;
                let at = device.and_then(|device| device.good_commit);
                // It has what its stage wants, so it is good at the stage's newest commit.
                if is_content && at.as_ref() != Some(&tip) {
                    tell(app, client, Some(report::nothing_to_do(&tip, now))).await?;
                } else if is_news {
                    tell(app, client, None).await?;
                }
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
        }
    }
}

/// Why no deployment may begin now, by the clock and by what the stage says.
fn closed(stage: &StageView, client: &MenderDevice, now: Timestamp) -> Option<String> {
    let find = |name: &str| TimeZone::get(name).ok();
    let own = ["timezone", "geo-timezone"].iter().find_map(|key| client.inventory.get(*key)?.first());
    let zone = own.and_then(|name| find(name)).unwrap_or(TimeZone::UTC);
    hours::closed(&stage.when, &zone, &find, now)
}

/// Why others come first, if they do. A Mender device has no site: its stage is one.
async fn may_begin(
    app: &App,
    client: &MenderClient,
    stage: &StageView,
    tip: &CommitId,
) -> Result<Option<String>, Refusal> {
    let Some(at_most) = stage.pace.per_site_at_most else { return Ok(None) };
    let wanted = NewTurn {
        device: client.member.name.clone(),
        stage: stage.name.clone(),
        site: String::new(),
        commit: tip.clone(),
        after: String::new(),
    };
    let length = turn::length(stage.pace.run_within, stage.pace.confirm_within);
    Ok(match take(app, &wanted, at_most, length).await? {
        Decision::Granted { .. } => None,
        Decision::Wait { reason, .. } => Some(reason),
    })
}

fn begun(
    client: &MenderClient,
    tip: &CommitId,
    device_type: &DeviceType,
    pinned: &LockedImage,
    served: Digest,
    provides: &BTreeMap<String, String>,
    now: Timestamp,
) -> Deployment {
    Deployment {
        id: new_id(),
        device: client.key,
        stage: client.member.stage.clone(),
        commit: tip.clone(),
        device_type: device_type.clone(),
        name: pinned.name.clone(),
        artifact: pinned.artifact,
        served,
        provides: provides.clone(),
        state: DeploymentState::Pending,
        substate: String::new(),
        furthest: DeploymentState::Pending,
        held: false,
        released: false,
        created_at: now,
        changed_at: now,
        finished_at: None,
        log: None,
    }
}

/// A new id, in the form that Mender's are: a random UUID (RFC 9562, version 4).
fn new_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn instructions(
    app: &App,
    client: &MenderClient,
    deployment: &Deployment,
    device_types_compatible: Vec<String>,
    now: Timestamp,
) -> Result<wire::Instructions, Refusal> {
    let hours = app.config.mender.clone().unwrap_or_default().link_hours;
    let expire = now + SignedDuration::from_hours(hours.into());
    let query = Mender::of(app)?.sealer.link(&deployment.served, &client.key, expire);
    let path = format!("/api/devices/v1/deployments/artifacts/{}", deployment.served.hex());
    Ok(wire::Instructions {
        id: deployment.id.clone(),
        artifact: wire::Artifact {
            artifact_name: deployment.name.to_string(),
            source: wire::Source { uri: format!("{}{path}?{query}", app.url), expire },
            device_types_compatible,
        },
    })
}

/// The end of a link.
#[derive(Deserialize)]
pub(crate) struct LinkQuery {
    device: String,
    expires: i64,
    signature: String,
}

/// `GET /api/devices/v1/deployments/artifacts/{artifact}`: clients send no token with it.
pub(crate) async fn download(
    State(app): State<Arc<App>>,
    Path(artifact): Path<String>,
    Query(link): Query<LinkQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let forbidden = |why: &str| Refusal::new(StatusCode::FORBIDDEN, why);
    let artifact = Digest::from_hex(&artifact).map_err(Refusal::invalid)?;
    let device = Digest::from_hex(&link.device).map_err(Refusal::invalid)?;
    if !Mender::of(&app)?.sealer.is_link(&artifact, &device, link.expires, &link.signature) {
        return Err(forbidden("this link is not one of this server's"));
    }
    let now = volary_host::now();
    if link.expires <= now.as_second() {
        return Err(forbidden("this link has expired; the client gets a new one with its next question"));
    }
    let member = app.registry.member(&device);
    let member = member.ok_or_else(|| forbidden("the device of this link does not belong to the fleet"))?;
    app.registry.seen(&member.name, now);
    files::artifact(&app, &artifact, &method, &headers).await
}

/// `PUT /api/devices/v1/deployments/device/deployments/{id}/status`.
pub(crate) async fn status(
    State(app): State<Arc<App>>,
    client: MenderClient,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let status: wire::Status = parse(&read_body(body, BODY_LIMIT).await?)?;
    let said = Said::parse(&status.status)
        .ok_or_else(|| Refusal::invalid(format!("{:?} is no status of a deployment", status.status)))?;
    let _turn = Mender::of(&app)?.changing.lock().await;
    let history = app.store.deployments(&client.key).await?;
    let now = find(&history, &id)?;
    let failed = failed_downloads(&history, &now.artifact);
    let substate = status.substate.unwrap_or_default();
    let step = advance(now, said, &substate, is_wanted(&app, &client, now), failed, volary_host::now());
    let aborted = || Refusal::conflict("Deployment aborted");
    match step {
        Step::Same => Ok(StatusCode::NO_CONTENT),
        Step::Aborted(None) => Err(aborted()),
        Step::Aborted(Some(over)) => {
            finish(&app, &client, &over).await?;
            Err(aborted())
        }
        Step::Now(next) if next.state.is_over() => {
            // Words that follow an end only add to it.
            if next.state == now.state {
                app.store.set_deployment(&next).await?
            } else {
                finish(&app, &client, &next).await?
            }
            Ok(StatusCode::NO_CONTENT)
        }
        Step::Now(next) => {
            app.store.set_deployment(&next).await?;
            tell(&app, &client, None).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

fn find<'a>(history: &'a [Deployment], id: &str) -> Result<&'a Deployment, Refusal> {
    history
        .iter()
        .find(|deployment| deployment.id == id)
        .ok_or_else(|| Refusal::not_found(format!("there is no deployment {id:?} of this device")))
}

/// True if the device's stage still pins what the deployment brings, as far as its branch can be read.
fn is_wanted(app: &App, client: &MenderClient, deployment: &Deployment) -> bool {
    let view = app.view.get();
    match view.stage(&client.member.stage).filter(|stage| stage.tip.is_some()) {
        Some(stage) => {
            let pinned = stage.images.get(&deployment.device_type);
            pinned.is_some_and(|pinned| pinned.artifact == deployment.artifact)
        }
        None => true,
    }
}

/// `PUT /api/devices/v1/deployments/device/deployments/{id}/log`.
pub(crate) async fn log(
    State(app): State<Arc<App>>,
    client: MenderClient,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let log: wire::Log = parse(&read_body(body, LOG_LIMIT).await?)?;
    let _turn = Mender::of(&app)?.changing.lock().await;
    let history = app.store.deployments(&client.key).await?;
    let mut deployment = find(&history, &id)?.clone();
    deployment.log = Some(log_text(&log.messages));
    app.store.set_deployment(&deployment).await?;
    // The failure was told before its log came.
    if let Some(told) = report::convergence(&deployment, log_error(&log.messages).as_deref()) {
        amend(&app, &client, told).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT` and `PATCH /api/devices/v1/inventory/device/attributes`.
pub(crate) async fn inventory(
    State(app): State<Arc<App>>,
    client: MenderClient,
    method: Method,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let attributes: Vec<wire::Attribute> = parse(&read_body(body, BODY_LIMIT).await?)?;
    if attributes.len() > ATTRIBUTES {
        let problem = format!("an inventory has at most {ATTRIBUTES} attributes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    let _turn = Mender::of(&app)?.changing.lock().await;
    let known = app.store.mender_device(&client.key).await?.ok_or_else(unauthorized)?;
    let mut inventory = if method == Method::PATCH { known.inventory.clone() } else { BTreeMap::new() };
    inventory.extend(attributes.into_iter().map(|attribute| (attribute.name.clone(), attribute.values())));
    if inventory != known.inventory {
        app.store.set_mender_inventory(&client.key, &inventory).await?;
        tell(&app, &client, None).await?;
    }
    // Not 204: clients take that for a failure.
    Ok(StatusCode::OK)
}

/// Keeps that a deployment is over, and tells of it.
async fn finish(app: &App, client: &MenderClient, over: &Deployment) -> Result<(), Refusal> {
    app.store.set_deployment(over).await?;
    if over.state == DeploymentState::Success {
        let known = app.store.mender_device(&client.key).await?.unwrap_or_default();
        let mut provides = known.provides;
        provides.insert("artifact_name".to_owned(), over.name.to_string());
        app.store.set_mender_provides(&client.key, &provides, "").await?;
    }
    tell_event(app, client, over).await;
    tell(app, client, report::convergence(over, None)).await
}

async fn tell_event(app: &App, client: &MenderClient, deployment: &Deployment) {
    let name = client.member.name.as_str();
    if let Some((kind, text)) = report::event(name, deployment) {
        app.event(kind, name, &text).await;
    }
}

/// Adds a report of a device in its name.
async fn tell(app: &App, client: &MenderClient, convergence: Option<Convergence>) -> Result<(), Refusal> {
    let now = volary_host::now();
    // It rises with the time, as those of our agents do.
    let id = format!("{:014}-{:08x}", now.as_millisecond(), rand::random::<u32>());
    let records = Records::read(app, &client.key).await?;
    let name = &client.member.name;
    let device = app.store.device(name).await?.ok_or_else(unauthorized)?;
    let view = app.view.get();
    let tip = view.stage(&client.member.stage).and_then(|stage| stage.tip.as_ref()).map(|tip| &tip.commit);
    let known = Known {
        stage: &client.member.stage,
        good_commit: device.good_commit.as_ref(),
        tip,
        client: &records.client,
        history: &records.history,
    };
    let report = report::report(&known, convergence, id, now);
    let body = serde_json::to_string(&report).map_err(Refusal::broken)?;
    let report = new_report(name, &report, Some(client.member.stage.clone()), body);
    app.store.add_report(&report, now).await?;
    app.nudges.devices.notify_one();
    Ok(())
}

/// Puts more of what is known into the report of a convergence.
async fn amend(app: &App, client: &MenderClient, told: Convergence) -> Result<(), Refusal> {
    let name = &client.member.name;
    for stored in app.store.results(name, 5).await? {
        let Ok(mut report) = serde_json::from_str::<volary_api::v1::device::Report>(&stored.body) else {
            continue;
        };
        let is_it = |run: &Convergence| {
            // Times in records have milliseconds.
            run.commit == told.commit
                && run.started_at.as_millisecond() == told.started_at.as_millisecond()
                && run.outcome == told.outcome
        };
        if report.convergence.as_ref().is_some_and(is_it) {
            report.convergence = Some(told);
            let body = serde_json::to_string(&report).map_err(Refusal::broken)?;
            app.store.amend_report(&new_report(name, &report, None, body)).await?;
            app.nudges.devices.notify_one();
            break;
        }
    }
    Ok(())
}

/// Calls the open deployment of a device back, for a person. False if there is none.
pub(crate) async fn call_back(app: &App, device: &Device, by: &str) -> Result<bool, Refusal> {
    let _turn = Mender::of(app)?.changing.lock().await;
    let Some(member) = app.registry.member(&device.fingerprint) else { return Ok(false) };
    let client = MenderClient { member, key: device.fingerprint };
    let history = app.store.deployments(&client.key).await?;
    let Some(open) = history.first().filter(|newest| !newest.state.is_over()) else { return Ok(false) };
    finish(app, &client, &abort(open, &format!("by {by}"), true, volary_host::now())).await?;
    Ok(true)
}

/// Lets images be tried again on a device, for a person. Returns how many ends that concerns.
pub(crate) async fn release(app: &App, device: &Device) -> Result<u64, Refusal> {
    let _turn = Mender::of(app)?.changing.lock().await;
    let count = app.store.release_deployments(&device.fingerprint).await?;
    if let Some(member) = app.registry.member(&device.fingerprint).filter(|_| count > 0) {
        tell(app, &MenderClient { member, key: device.fingerprint }, None).await?;
    }
    Ok(count)
}

/// A device's name from a path.
pub(crate) async fn device(app: &App, text: &str) -> Result<Device, Refusal> {
    let name: DeviceName = name(text)?;
    let device = app.store.device(&name).await?.ok_or_else(|| {
        Refusal::not_found(format!("there is no device {name}")).help("see them with: volary device list")
    })?;
    match device.client {
        Client::Mender => Ok(device),
        Client::Agent => Err(Refusal::conflict(format!("{name} runs our agent, which decides by itself"))
            .help("on the device: volary-agent retry, volary-agent hold")),
    }
}
