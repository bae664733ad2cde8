//! What devices ask. What they tell is in `report`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use volary_api::v1::device::{Desired, Enroll, Enrolled, WantObjects};
use volary_fleet::is_ancestor;
use volary_model::{DeviceName, StageName, Suite};
use volary_store::{Client, Device, DeviceState, Enrolling, Enrolment, JoinRefusal};

use crate::app::App;
use crate::fleet_view::{self, FleetView};
use crate::http::auth::{DeviceIdentity, hash};
use crate::http::input::{Input, blocking};
use crate::http::refusal::Refusal;
use crate::registry::Member;
use crate::rollouts;
use crate::tls::authority;
use crate::tls::listener::asked_to_stop;

/// How often a device in the lobby asks again: somebody may be watching it.
const ASK_AGAIN: u32 = 15;

/// How many unknown devices may wait; more are strangers that fill the disk.
pub(super) const LOBBY: u64 = 1000;

/// The longest that a question stays open, whatever the client prefers.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The most that the answers of all devices are spread over.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);

/// The longest texts that an enrolment may carry into the records.
pub(super) const TEXT_LIMIT: usize = 200;

/// `POST /device/v1/enroll`.
pub(crate) async fn enroll(
    State(app): State<Arc<App>>,
    Input(request): Input<Enroll>,
) -> Result<Json<Enrolled>, Refusal> {
    let fingerprint = authority::fingerprint_of_request(&request.csr).map_err(Refusal::invalid)?;
    let secret = request.secret.as_deref().map(hash);
    if secret.is_none()
        && app.store.device_by_key(&fingerprint).await?.is_none()
        && app.store.waiting_devices().await? >= LOBBY
    {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many unknown devices wait already")
            .help("accept or reject some, or enrol with a join token: volary device token --stage STAGE"));
    }
    let enrolling = Enrolling {
        name: request.name.clone(),
        fingerprint,
        csr: request.csr,
        architecture: request.architecture,
        os: request.os.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect(),
        secret,
        client: Client::Agent,
    };
    let (device, changed) = match app.store.enroll(&enrolling, volary_host::now()).await? {
        Enrolment::Known { device, changed } => (*device, changed),
        Enrolment::NameTaken { by } => {
            return Err(Refusal::conflict(format!(
                "the name {} belongs to another key ({})",
                request.name,
                by.short()
            ))
            .help(format!(
                "if that device is gone or was set up anew, forget it first: volary device remove {}",
                request.name
            )));
        }
        Enrolment::KeyTaken { by } => {
            return Err(Refusal::conflict(format!("this key is enrolled under another name: {by}"))
                .help("enrol with that name, or make a new key"));
        }
        Enrolment::Refused(refusal) => return Err(no_entry(refusal)),
    };
    if changed {
        announce(&app, &device).await;
    }
    answer(&app, device).await.map(Json)
}

fn no_entry(refusal: JoinRefusal) -> Refusal {
    let why = match refusal {
        JoinRefusal::Unknown => "the join token is not one of this server's",
        JoinRefusal::Expired => "the join token has expired",
        JoinRefusal::UsedUp => "the join token was used as often as it may be",
    };
    Refusal::new(StatusCode::FORBIDDEN, why).help("make a new one with: volary device token --stage STAGE")
}

pub(super) async fn announce(app: &App, device: &Device) {
    let (kind, text) = match device.state {
        DeviceState::Accepted => {
            let stage = device.stage.as_ref().map_or("", StageName::as_str);
            ("device-enrolled", format!("{} enrolled into {stage}", device.name))
        }
        DeviceState::Waiting | DeviceState::Rejected => (
            "device-waiting",
            format!("{} waits to be accepted (key {})", device.name, device.fingerprint.short()),
        ),
    };
    app.event(kind, device.name.as_str(), &text).await;
}

async fn answer(app: &App, device: Device) -> Result<Enrolled, Refusal> {
    match (device.state, device.stage) {
        (DeviceState::Accepted, Some(stage)) => {
            let certificate = match device.certificate {
                Some(certificate) => certificate,
                None => {
                    let certificate =
                        app.authority.certify(&device.name, &device.csr).map_err(Refusal::invalid)?;
                    app.store.device_certified(&device.name, &certificate).await?;
                    certificate
                }
            };
            app.registry.refresh(&app.store, &device.name).await?;
            Ok(Enrolled::Accepted { certificate, stage })
        }
        (DeviceState::Waiting, _) | (DeviceState::Accepted, None) => {
            Ok(Enrolled::Waiting { again_after: ASK_AGAIN })
        }
        (DeviceState::Rejected, _) => {
            Err(Refusal::new(StatusCode::FORBIDDEN, format!("{} was rejected", device.name))
                .help(format!("if that was a mistake: volary device accept {} --stage STAGE", device.name)))
        }
    }
}

/// `GET /device/v1/desired`: from memory, since each device asks each minute. With `Prefer: wait=N`
/// (RFC 7240) the answer that nothing changed is held back for so long.
pub(crate) async fn desired(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    let wait = preferred_wait(&asked);
    let until = tokio::time::Instant::now() + wait;
    let mut stop = app.stop.clone();
    loop {
        // Listens before it looks, so that nothing is missed in between.
        let news = app.news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        let desired = desired_of(&app, &member)?;
        let body = serde_json::to_vec(&desired).expect("a wire type is JSON");
        let etag = format!("\"{}\"", volary_model::Digest::from_bytes(Sha256::digest(&body).into()).short());
        let etag = HeaderValue::from_str(&etag).expect("it is hexadecimal");
        let known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| *known == etag);
        let mut headers = HeaderMap::from_iter([(header::ETAG, etag)]);
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok((headers, body).into_response());
        }
        let over = tokio::select! {
            () = news => false,
            () = tokio::time::sleep_until(until) => true,
            () = asked_to_stop(&mut stop) => true,
        };
        if over {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        // All who wait hear of it at once; what they do next comes spread over some seconds.
        let others = app.registry.count();
        tokio::time::sleep(
            spread(&member.name, others).min(until.saturating_duration_since(tokio::time::Instant::now())),
        )
        .await;
    }
}

/// How long the client would wait for news.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut parts = values.flat_map(|value| value.split([',', ';']));
    let seconds = parts.find_map(|part| part.trim().strip_prefix("wait=")?.parse::<u64>().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_WAIT)
}

/// The part of the common delay that this device waits: the same each time, another for each, and
/// for all together two milliseconds a device.
fn spread(device: &DeviceName, devices: usize) -> Duration {
    let whole = Duration::from_millis(2 * devices as u64).min(LONGEST_SPREAD);
    let place = Sha256::digest(device.as_str().as_bytes())[0];
    whole * u32::from(place) / 256
}

fn desired_of(app: &App, member: &Member) -> Result<Desired, Refusal> {
    let (view, stage) = (app.view.get(), &member.stage);
    let unavailable = |why: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let found = view.stage(stage).ok_or_else(|| {
        unavailable(format!("the stage {stage} is not in the fleet's volary.yml"))
            .help("bring the stage back, or move the device: volary device accept NAME --stage STAGE")
    })?;
    let tip = found.tip.as_ref().ok_or_else(|| {
        unavailable(format!("the branch {} of stage {stage} has no usable commit", found.branch))
    })?;
    Ok(Desired {
        stage: stage.clone(),
        branch: found.branch.clone(),
        commit: tip.commit.clone(),
        rolling: match found.suite {
            Some(Suite::Rolling) => (*app.rolling.get()).clone(),
            Some(Suite::Release(_)) | None => String::new(),
        },
        rollout: match &found.pace.waves {
            // Who may begin hears nothing more of it.
            Some(_) => rollouts::may_begin(&app.rollouts.get(), stage, &tip.commit, &member.name)
                .map_or_else(|(reason, _)| reason, |()| "open".to_owned()),
            None => String::new(),
        },
        poll: u32::try_from(found.rhythm.poll.as_secs()).unwrap_or(u32::MAX).max(1),
        long_poll: u32::try_from(found.rhythm.long_poll.as_secs()).unwrap_or(0),
    })
}

/// `POST /device/v1/objects`.
pub(crate) async fn objects(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    Input(request): Input<WantObjects>,
) -> Result<Response, Refusal> {
    let _place = app.packs.acquire().await.expect("the semaphore is never closed");
    let (asked, view) = (Arc::clone(&app), app.view.get());
    let pack = blocking(move || pack(&asked, &view, &member.name, &request)).await??;
    let headers = [(header::CONTENT_TYPE, "application/x-git-packed-objects")];
    Ok((headers, Body::from(pack)).into_response())
}

fn pack(app: &App, view: &FleetView, device: &DeviceName, request: &WantObjects) -> Result<Vec<u8>, Refusal> {
    let repository = fleet_view::open(&app.layout).map_err(Refusal::broken)?;
    // Only what was merged into some stage: other branches are unfinished work, and may hold
    // what nobody wanted to give to a device.
    let mut tips = view.stages.iter().filter_map(|stage| stage.tip.as_ref());
    let merged = tips.any(|tip| is_ancestor(&repository, &request.want, &tip.commit).unwrap_or(false));
    if !merged {
        return Err(Refusal::not_found(format!("commit {} is not on the branch of any stage", request.want)));
    }
    app.packer.pack(&repository, &request.want, request.have.as_ref(), device).map_err(Refusal::broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_wait_is_read_and_bounded() {
        let check = |value: &str, seconds: u64| {
            let headers = HeaderMap::from_iter([("prefer".parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(preferred_wait(&headers), Duration::from_secs(seconds), "{value}");
        };
        check("wait=50", 50);
        check("respond-async, wait=10", 10);
        check("wait=100000", 300);
        check("wait=-1", 0);
        check("return=minimal", 0);
        assert_eq!(preferred_wait(&HeaderMap::new()), Duration::ZERO);
    }

    #[test]
    fn answers_are_spread_by_the_number_of_devices() {
        let of = |number: u32, devices| spread(&format!("dev-{number}").parse().unwrap(), devices);
        assert!((0..100).all(|number| of(number, 1) < Duration::from_millis(2)));
        let many: Vec<Duration> = (0..100).map(|number| of(number, 10_000)).collect();
        assert!(many.iter().all(|delay| *delay < Duration::from_secs(20)));
        assert!(
            many.iter().max().unwrap().saturating_sub(*many.iter().min().unwrap()) > Duration::from_secs(15)
        );
        assert!((0..100).all(|number| of(number, 1_000_000) < LONGEST_SPREAD));
    }
}
