//! Which update a client gets, and its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use volary_fleet::LockedImage;
use volary_model::{CommitId, DeviceType, Digest};
use volary_plan::turn::{self, Decision};
use volary_store::{Deployment, DeploymentState, Image, MenderDevice, NewTurn};

use super::tell::tell_event;
use super::{BODY_LIMIT, Mender, MenderClient, Records, finish, parse, tell};
use crate::app::App;
use crate::fleet_view::StageView;
use crate::hours;
use crate::http::files;
use crate::http::input::{Path, Query, read_body};
use crate::http::refusal::Refusal;
use crate::http::turn::take;
use crate::mender::deployment::abort;
use crate::mender::next::{Asking, Next, Offer, next};
use crate::mender::{report, wire};
use crate::rollouts;

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

/// What a client asks, and what its stage has for it.
struct Question<'a> {
    client: &'a MenderClient,
    stage: &'a StageView,
    tip: &'a CommitId,
    provides: &'a BTreeMap<String, String>,
    device_type: Option<DeviceType>,
    images: &'a [Image],
}

impl Question<'_> {
    /// What its stage pins for it.
    fn pinned(&self) -> Option<&LockedImage> {
        self.device_type.as_ref().and_then(|name| self.stage.images.get(name))
    }
}

/// What a client is sent.
enum Sent {
    /// This deployment, which may be new.
    Deployment { deployment: Box<Deployment>, is_new: bool },
    /// Nothing, since it has what its stage wants.
    Content,
    /// Nothing yet; why.
    Wait(String),
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
        view.stage(&client.member.stage).and_then(|stage| Some((stage, &stage.tip.as_ref()?.commit)))
    else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let images = app.store.images().await?;
    let device_type = provides.get("device_type").and_then(|name| name.parse().ok());
    let question = Question { client, stage, tip, provides: &provides, device_type, images: &images };
    let sent = choose(app, &question).await?;
    let obstacle = match &sent {
        Sent::Wait(why) => why.as_str(),
        Sent::Deployment { .. } | Sent::Content => "",
    };
    let known = Records::read(app, &client.key).await?.client;
    let is_news = known.provides != provides || known.obstacle != obstacle;
    if is_news {
        app.store.set_mender_provides(&client.key, &provides, obstacle).await?;
    }
    match sent {
        Sent::Deployment { deployment, is_new } => {
            if is_new {
                tell_event(app, client, &deployment).await;
                tell(app, client, None).await?;
            }
            Ok(Json(instructions(app, &question, &deployment)?).into_response())
        }
        Sent::Content => {
            let device = app.store.device(&client.member.name).await?;
            // It has what its stage wants, so it is good at the stage's newest commit.
            if device.and_then(|device| device.good_commit).as_ref() != Some(tip) {
                tell(app, client, Some(report::nothing_to_do(tip, volary_host::now()))).await?;
            } else if is_news {
                tell(app, client, None).await?;
            }
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Sent::Wait(_) => {
            if is_news {
                tell(app, client, None).await?;
            }
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

/// Decides what a client is sent, and ends first what is over without its word.
async fn choose(app: &Arc<App>, question: &Question<'_>) -> Result<Sent, Refusal> {
    let client = question.client;
    loop {
        let records = Records::read(app, &client.key).await?;
        let now = volary_host::now();
        let modules = records.client.inventory.get("update_modules").cloned().unwrap_or_default();
        let asking = Asking { provides: question.provides, modules: &modules, history: &records.history };
        let offer = Offer {
            pinned: question.pinned(),
            device_type: question.device_type.as_ref(),
            images: question.images,
            closed: closed(question.stage, &records.client, now),
        };
        match next(&asking, &offer, now) {
            Next::Arrived(open) => {
                let over = Deployment {
                    state: DeploymentState::Success,
                    substate: String::new(),
                    changed_at: now,
                    finished_at: Some(now),
                    ..*open
                };
                finish(app, client, &over).await?;
            }
            Next::Replaced(open) => {
                finish(app, client, &abort(&open, "its stage pins another image now", false, now)).await?;
            }
            Next::Lost(open) => {
                let why = "what the device provides has changed, so it has lost what it knew of the update";
                finish(app, client, &abort(&open, why, false, now)).await?;
                return Err(Refusal::conflict(why));
            }
            Next::Content => return Ok(Sent::Content),
            Next::Wait(why) => return Ok(Sent::Wait(why.replace("NAME", client.member.name.as_str()))),
            Next::Again(open) => return Ok(Sent::Deployment { deployment: open, is_new: false }),
            Next::Begin(served) => return begin(app, question, served, now).await,
        }
    }
}

/// Begins a deployment, unless others come first.
async fn begin(app: &App, question: &Question<'_>, served: Digest, now: Timestamp) -> Result<Sent, Refusal> {
    let (Some(pinned), Some(device_type)) = (question.pinned(), &question.device_type) else {
        return Ok(Sent::Content);
    };
    if let Some(why) = may_begin(app, question).await? {
        return Ok(Sent::Wait(why));
    }
    let deployment = Deployment {
        id: new_id(),
        device: question.client.key,
        stage: question.client.member.stage.clone(),
        commit: question.tip.clone(),
        device_type: device_type.clone(),
        name: pinned.name.clone(),
        artifact: pinned.artifact,
        served,
        provides: question.provides.clone(),
        state: DeploymentState::Pending,
        substate: String::new(),
        furthest: DeploymentState::Pending,
        held: false,
        released: false,
        created_at: now,
        changed_at: now,
        finished_at: None,
        log: None,
    };
    app.store.add_deployment(&deployment).await?;
    Ok(Sent::Deployment { deployment: Box::new(deployment), is_new: true })
}

/// Why no deployment may begin now, by the clock and by what the stage says.
fn closed(stage: &StageView, client: &MenderDevice, now: Timestamp) -> Option<String> {
    let find = |name: &str| TimeZone::get(name).ok();
    let own = ["timezone", "geo-timezone"].iter().find_map(|key| client.inventory.get(*key)?.first());
    let zone = own.and_then(|name| find(name)).unwrap_or(TimeZone::UTC);
    hours::closed(&stage.when, &zone, &find, now)
}

/// Why others come first, if they do. A Mender device has no site: its stage is one.
async fn may_begin(app: &App, question: &Question<'_>) -> Result<Option<String>, Refusal> {
    let (pace, name) = (&question.stage.pace, &question.client.member.name);
    if pace.waves.is_some() {
        let may = rollouts::may_begin(&app.rollouts.get(), &question.stage.name, question.tip, name);
        if let Err((reason, _)) = may {
            return Ok(Some(reason));
        }
    }
    let Some(at_most) = pace.per_site_at_most else {
        return begins(app, question).await.map(|()| None);
    };
    let wanted = NewTurn {
        device: name.clone(),
        stage: question.stage.name.clone(),
        site: String::new(),
        commit: question.tip.clone(),
        after: String::new(),
    };
    let length = turn::length(pace.run_within, pace.confirm_within);
    Ok(match take(app, &wanted, at_most, length).await? {
        Decision::Granted { .. } => begins(app, question).await.map(|()| None)?,
        Decision::Wait { reason, .. } => Some(reason),
    })
}

async fn begins(app: &App, question: &Question<'_>) -> Result<(), Refusal> {
    let stage = &question.stage;
    if stage.pace.waves.is_some() {
        rollouts::begins(app, &stage.name, question.tip, &question.client.member.name).await?;
    }
    Ok(())
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
    question: &Question<'_>,
    deployment: &Deployment,
) -> Result<wire::Instructions, Refusal> {
    let hours = app.config.mender.clone().unwrap_or_default().link_hours;
    let expire = volary_host::now() + SignedDuration::from_hours(hours.into());
    let query = Mender::of(app)?.sealer.link(&deployment.served, &question.client.key, expire);
    let path = format!("/api/devices/v1/deployments/artifacts/{}", deployment.served.hex());
    let served = question.images.iter().find(|image| image.artifact == deployment.served);
    let types = served.map_or(std::slice::from_ref(&deployment.device_type), |image| &image.device_types);
    Ok(wire::Instructions {
        id: deployment.id.clone(),
        artifact: wire::Artifact {
            artifact_name: deployment.name.to_string(),
            source: wire::Source { uri: format!("{}{path}?{query}", app.url), expire },
            device_types_compatible: types.iter().map(ToString::to_string).collect(),
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
