//! Devices, tokens, promotions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::join::JoinToken;
use volary_api::v1::device::Report;
use volary_api::v1::fleet::{
    Accept, DeviceToken, NewDeviceToken, NewToken, Promote, Promoted, Promotion, Role, ServerKeys, Token,
    TokenSecret, UploadLimits, Verdict,
};
use volary_api::v1::status::Device;
use volary_fleet::{ReadObjects, RootSigners, Rules, RulesError, SIGNERS_FILE, file_at};
use volary_model::{CommitId, DeviceName, StageName};
use volary_plan::condition::Condition;
use volary_store::{Client, DeviceState};

use crate::app::App;
use crate::facts::Judged;
use crate::fleet_view;
use crate::gates::GateError;
use crate::http::archive::archive_limits;
use crate::http::auth::{
    Admin, Operator, Person, ReleaseManager, Viewer, hash, limits_from, new_secret, role_from, role_text,
};
use crate::http::input::{Input, Path, Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::{evidence, promoter, promotion};

/// The longest life of a join token: a year; a lost one must not open the door for ever.
const LONGEST_TOKEN: u64 = 366 * 86_400;

impl From<GateError> for Refusal {
    fn from(error: GateError) -> Self {
        match error {
            GateError::NoStage(_) => Self::not_found(error),
            GateError::Archive(error) => error.into(),
            GateError::Fleet(_) => {
                Self::conflict(error).help("volary check shows what is wrong in the fleet repository")
            }
            GateError::Object(_) | GateError::Store(_) | GateError::Start(_) | GateError::Cves(_) => {
                Self::broken(error)
            }
        }
    }
}

/// Which devices.
#[derive(Default, Deserialize, JsonSchema)]
pub(crate) struct DevicesQuery {
    /// Only those of this stage; all if empty.
    #[serde(default)]
    pub(crate) stage: String,
    /// Only those in this condition; all if empty.
    #[serde(default)]
    pub(crate) condition: String,
    /// Only those whose name, suite or commit has this in it.
    #[serde(default)]
    pub(crate) q: String,
    /// Only those after this name.
    #[serde(default)]
    after: String,
    /// At most so many; those of a large fleet are then as they were some seconds ago.
    limit: Option<usize>,
}

impl DevicesQuery {
    /// The words for conditions.
    pub(crate) const CONDITIONS: [&'static str; 8] =
        ["good", "converging", "failed", "refused", "silent", "waiting", "rejected", "new"];

    /// The devices that are like that, in their order, wherever they are to begin.
    pub(crate) fn of<'a>(&self, devices: &'a [Judged]) -> Result<Vec<&'a Judged>, Refusal> {
        let condition: Option<Condition> = match self.condition.as_str() {
            "" => None,
            word => Some(serde_json::from_value(word.into()).map_err(|_| {
                Refusal::invalid(format!("{word:?} is no condition"))
                    .help(format!("there are: {}", Self::CONDITIONS.join(", ")))
            })?),
        };
        let wanted = self.q.trim();
        let has = |device: &Judged| {
            device.record.name.as_str().contains(wanted)
                || device.record.suite.as_deref().is_some_and(|suite| suite.contains(wanted))
                || device
                    .record
                    .good_commit
                    .as_ref()
                    .is_some_and(|commit| commit.as_str().starts_with(wanted))
        };
        let is_wanted = |device: &&Judged| {
            condition.is_none_or(|condition| device.condition == condition)
                && (self.stage.is_empty()
                    || device.record.stage.as_ref().is_some_and(|stage| stage.as_str() == self.stage))
                && (wanted.is_empty() || has(device))
        };
        Ok(devices.iter().filter(is_wanted).collect())
    }

    /// Where to begin among them.
    pub(crate) fn place(&self, found: &[&Judged]) -> usize {
        found.partition_point(|device| device.record.name.as_str() <= self.after.as_str())
    }
}

/// `GET /api/v1/devices?stage&condition&q&after&limit`: of a large fleet, with a limit, as they were some seconds ago.
pub(crate) async fn devices(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<DevicesQuery>,
) -> Result<Json<Vec<Device>>, Refusal> {
    let all = match query.limit {
        Some(_) => app.devices_lately().await?,
        None => Arc::new(app.devices().await?),
    };
    let found = query.of(&all)?;
    let found = found[query.place(&found)..].iter().take(query.limit.unwrap_or(usize::MAX));
    Ok(Json(found.map(|device| (*device).clone().into_api()).collect()))
}

pub(super) fn no_device(name: &DeviceName) -> Refusal {
    Refusal::not_found(format!("there is no device {name}")).help("see them with: volary device list")
}

/// `GET /api/v1/devices/{name}`.
pub(crate) async fn device(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(device): Path<String>,
) -> Result<Json<Device>, Refusal> {
    let device: DeviceName = name(&device)?;
    let judged = app.device(&device).await?.ok_or_else(|| no_device(&device))?;
    Ok(Json(judged.into_api()))
}

/// Which reports, and how many.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ReportsQuery {
    /// How many at most: 20 if nothing is said, and no more than 400.
    limit: Option<u32>,
    /// True for those of convergences alone.
    #[serde(default)]
    results: bool,
}

/// `GET /api/v1/devices/{name}/reports`.
pub(crate) async fn reports(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(device): Path<String>,
    Query(query): Query<ReportsQuery>,
) -> Result<Json<Vec<Report>>, Refusal> {
    let device: DeviceName = name(&device)?;
    app.store.device(&device).await?.ok_or_else(|| no_device(&device))?;
    let limit = query.limit.unwrap_or(20).min(400);
    let reports = match query.results {
        true => app.store.results(&device, limit).await?,
        false => app.store.reports(&device, limit).await?,
    };
    Ok(Json(reports.iter().filter_map(|report| serde_json::from_str(&report.body).ok()).collect()))
}

/// `POST /api/v1/devices/{name}/accept`.
pub(crate) async fn accept(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Path(device): Path<String>,
    Input(request): Input<Accept>,
) -> Result<NoContent, Refusal> {
    let mut device: DeviceName = name(&device)?;
    known_stage(&app, &request.stage)?;
    if let Some(new) = request.as_name.filter(|new| *new != device) {
        rename(&app, &device, &new).await?;
        device = new;
    }
    if !app.store.accept_device(&device, &request.stage).await? {
        return Err(no_device(&device));
    }
    app.registry.refresh(&app.store, &device).await?;
    let text = format!("{device} was accepted into {} by {}", request.stage, person.name);
    app.event_by(&person, "device-accepted", device.as_str(), &text).await;
    app.nudges.devices.notify_one();
    Ok(NoContent)
}

/// Gives a device that waits its name in the inventory.
async fn rename(app: &App, device: &DeviceName, new: &DeviceName) -> Result<(), Refusal> {
    let known = app.store.device(device).await?.ok_or_else(|| no_device(device))?;
    if known.client == Client::Agent {
        return Err(Refusal::conflict(format!("{device} has its name from its own agent"))
            .help("enrol it anew with the other name: volary-agent enroll --name NAME"));
    }
    if known.state != DeviceState::Waiting {
        return Err(Refusal::conflict(format!("{device} is {} already, under this name", known.state))
            .help(format!("to rename it, forget it first: volary device remove {device}")));
    }
    if !app.store.rename_waiting(device, new).await? {
        return Err(Refusal::conflict(format!("another device is called {new}"))
            .help(format!("if that one is gone, forget it first: volary device remove {new}")));
    }
    Ok(())
}

fn known_stage(app: &App, stage: &StageName) -> Result<(), Refusal> {
    let view = app.view.get();
    if view.stage(stage).is_some() {
        return Ok(());
    }
    let names: Vec<String> = view.stages.iter().map(|stage| stage.name.to_string()).collect();
    Err(Refusal::not_found(format!("there is no stage {stage} in volary.yml"))
        .help(format!("the stages are: {}", names.join(", "))))
}

/// `POST /api/v1/devices/{name}/reject`.
pub(crate) async fn reject(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Path(device): Path<String>,
) -> Result<NoContent, Refusal> {
    let device: DeviceName = name(&device)?;
    if !app.store.reject_device(&device).await? {
        return Err(no_device(&device));
    }
    app.registry.refresh(&app.store, &device).await?;
    let text = format!("{device} was rejected by {}", person.name);
    app.event_by(&person, "device-rejected", device.as_str(), &text).await;
    Ok(NoContent)
}

/// `DELETE /api/v1/devices/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Path(device): Path<String>,
) -> Result<NoContent, Refusal> {
    let device: DeviceName = name(&device)?;
    if !app.store.remove_device(&device).await? {
        return Err(no_device(&device));
    }
    app.registry.refresh(&app.store, &device).await?;
    app.series.forget(&device).await?;
    let text = format!("{device} was removed by {}", person.name);
    app.event_by(&person, "device-removed", device.as_str(), &text).await;
    Ok(NoContent)
}

/// `POST /api/v1/device-tokens`.
pub(crate) async fn device_token(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<NewDeviceToken>,
) -> Result<Json<DeviceToken>, Refusal> {
    known_stage(&app, &request.stage)?;
    if request.uses == 0 || request.valid_for == 0 || request.valid_for > LONGEST_TOKEN {
        return Err(Refusal::invalid(
            "a join token has at least one use and is good for 1 second to 366 days",
        ));
    }
    let tip = app.view.get().stage(&request.stage).and_then(|stage| stage.tip.clone());
    let tip = tip
        .ok_or_else(|| Refusal::conflict(format!("the branch of {} has no usable commit", request.stage)))?;
    let layout = app.layout.clone();
    let stage = request.stage.clone();
    let signers = blocking(move || signers_at(&layout, &tip.commit, &stage)).await??;
    let now = volary_host::now();
    let expires_at = now + SignedDuration::from_secs(i64::try_from(request.valid_for).unwrap_or(i64::MAX));
    let secret = new_secret();
    app.store.add_join_secret(&hash(&secret), &request.stage, request.uses, expires_at, now).await?;
    let text = format!(
        "a join token for {} was made by {}, for {}",
        request.stage,
        person.name,
        volary_plan::text::count(request.uses as usize, "device")
    );
    app.event_by(&person, "token-made", request.stage.as_str(), &text).await;
    let token = JoinToken {
        server: app.url.clone(),
        ca: app.authority.certificate().to_owned(),
        secret,
        stage: request.stage,
        signers,
    };
    Ok(Json(DeviceToken { token: token.encode(), expires_at }))
}

/// Who may sign for a stage by the rules in `commit`: what the device is given to trust. Lines of
/// others are left out, so that nobody who signs for another stage can speak to this device.
fn signers_at(layout: &crate::Layout, commit: &CommitId, stage: &StageName) -> Result<String, Refusal> {
    let repository = fleet_view::open(layout).map_err(Refusal::broken)?;
    let unusable = |error: RulesError| Refusal::conflict(format!("commit {}: {error}", commit.short()));
    let rules = Rules::at(&repository, commit).map_err(unusable)?;
    let tree = repository.commit(commit).map_err(Refusal::broken)?.tree;
    let text = file_at(&repository, &tree, SIGNERS_FILE).map_err(Refusal::broken)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let may = rules.signers.signers.iter().filter(|signer| rules.config.may_sign(stage, &signer.principals));
    let kept: Vec<&str> = may.filter_map(|signer| lines.get(signer.line - 1).copied()).collect();
    if kept.is_empty() {
        return Err(Refusal::conflict(format!("nobody in {SIGNERS_FILE} may sign for {stage}"))
            .help("mend `signers` in volary.yml; volary check shows what is wrong"));
    }
    Ok(RootSigners::to_text(&kept, rules.config.quorum_of(stage)))
}

/// `GET /api/v1/tokens`.
pub(crate) async fn tokens(
    State(app): State<Arc<App>>,
    Admin(_): Admin,
) -> Result<Json<Vec<Token>>, Refusal> {
    app.registry.flush(&app.store).await?;
    let tokens = app.store.tokens().await?;
    let tokens = tokens.into_iter().map(|token| Token {
        role: role_from(&token.role),
        limits: token.limits.as_deref().map(|text| limits_from(Some(text))),
        name: token.name,
        created_at: token.created_at,
        used_at: token.used_at,
    });
    Ok(Json(tokens.collect()))
}

/// `POST /api/v1/tokens`.
pub(crate) async fn add_token(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<NewToken>,
) -> Result<Json<TokenSecret>, Refusal> {
    let plain = |c: char| c.is_alphanumeric() || "-_.@+".contains(c);
    if request.name.is_empty() || request.name.len() > 64 || !request.name.chars().all(plain) {
        return Err(Refusal::invalid("a token's name has 1 to 64 letters, digits and -_.@+"));
    }
    let limits = request.limits.unwrap_or_default();
    check_limits(request.role, &limits)?;
    let known = archive_limits(&limits);
    known.check().map_err(Refusal::invalid)?;
    let gates: Vec<String> = limits.gates.iter().map(ToString::to_string).collect();
    let limits = matches!(request.role, Role::Upload | Role::Gate)
        .then(|| serde_json::to_string(&limits).expect("limits are plain data"));
    let secret = new_secret();
    let role = role_text(request.role);
    let kept = hash(&secret);
    let added = app.store.add_token(&request.name, role, &kept, limits.as_deref(), volary_host::now());
    if !added.await? {
        return Err(Refusal::conflict(format!("there is a token {:?} already", request.name))
            .help(format!("take it away first with: volary token remove {}", request.name)));
    }
    app.tokens.load(&app.store).await?;
    let may = match request.role {
        Role::Upload => format!(", for {known}"),
        Role::Gate => format!(", for the gates {}", gates.join(" ")),
        Role::Admin | Role::ReleaseManager | Role::Operator | Role::Developer | Role::Viewer => String::new(),
    };
    let text = format!("{} got a token as {role} from {}{may}", request.name, person.name);
    app.event_by(&person, "token-made", &request.name, &text).await;
    Ok(Json(TokenSecret { name: request.name, secret }))
}

/// Limits belong to the roles that have some, and a token for gates is nothing without.
fn check_limits(role: Role, limits: &UploadLimits) -> Result<(), Refusal> {
    let uploads = !limits.packages.is_empty() || !limits.components.is_empty();
    if uploads && role != Role::Upload {
        return Err(Refusal::invalid("only a token with the role upload has limits of packages"));
    }
    if limits.gates.is_empty() == (role == Role::Gate) {
        return Err(Refusal::invalid("a token with the role gate names its gates, and no other token does")
            .help("make it with: volary token add NAME --role gate --gates GATE"));
    }
    Ok(())
}

/// `DELETE /api/v1/tokens/{name}`.
pub(crate) async fn remove_token(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(token): Path<String>,
) -> Result<NoContent, Refusal> {
    let tokens = app.store.tokens().await?;
    let admins = tokens.iter().filter(|token| role_from(&token.role) == Role::Admin);
    let others = admins.filter(|admin| admin.name != token).count();
    let users = app.store.users().await?;
    if others == 0 && !users.iter().any(|user| role_from(&user.role) == Role::Admin) {
        return Err(Refusal::conflict("this is the last administrator's token")
            .help("make another first: volary token add NAME --role admin"));
    }
    if !app.store.remove_token(&token).await? {
        return Err(Refusal::not_found(format!("there is no token {token:?}"))
            .help("see them with: volary token list"));
    }
    app.tokens.load(&app.store).await?;
    app.event_by(
        &person,
        "token-removed",
        &token,
        &format!("the token {token} was removed by {}", person.name),
    )
    .await;
    Ok(NoContent)
}

/// Two stages.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct PromotionQuery {
    /// The stage whose commit is merged.
    from: String,
    /// The stage that receives it.
    to: String,
}

/// `GET /api/v1/promotion`.
pub(crate) async fn promotion(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<PromotionQuery>,
) -> Result<Json<Promotion>, Refusal> {
    let (from, to): (StageName, StageName) = (name(&query.from)?, name(&query.to)?);
    // What is shown must be what is there now, not what was read some seconds ago.
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let facts = promotion::Facts::gather_lately(&app).await?;
    Ok(Json(blocking(move || promotion::preview(&facts, &from, &to)).await??))
}

/// `POST /api/v1/promotion`.
pub(crate) async fn promote(
    State(app): State<Arc<App>>,
    ReleaseManager(person): ReleaseManager,
    Input(asked): Input<Promote>,
) -> Result<Json<Promoted>, Refusal> {
    merge(&app, &person, asked).await.map(Json)
}

/// Merges for a person, if the stage lets the server do that and every gate says go.
pub(crate) async fn merge(app: &Arc<App>, person: &Person, asked: Promote) -> Result<Promoted, Refusal> {
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let facts = promotion::Facts::gather(app).await?;
    let (layout, by, wanted) = (app.layout.clone(), person.name.clone(), asked.clone());
    let merge = blocking(move || merge_now(&layout, &facts, &by, &wanted)).await??;
    let (commit, merged) = (asked.commit.short(), merge.short());
    let text = format!("{} merged {commit} into {} as {merged}", person.name, asked.to);
    app.event_by(person, "promoted", asked.to.as_str(), &text).await;
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    Ok(Promoted { merge })
}

fn merge_now(
    layout: &crate::Layout,
    facts: &promotion::Facts,
    by: &str,
    asked: &Promote,
) -> Result<CommitId, Refusal> {
    let found = promotion::preview(facts, &asked.from, &asked.to)?;
    if found.commit != asked.commit {
        let (now, looked) = (found.commit.short(), asked.commit.short());
        return Err(Refusal::conflict(format!("{} is at {now} by now, not at {looked}", asked.from))
            .help("look at what would be merged again"));
    }
    if found.up_to_date {
        return Err(Refusal::conflict(format!("{} has everything of {}", asked.to, asked.from)));
    }
    if let Some(closed) = promoter::closed(&found.verdicts) {
        return Err(Refusal::conflict(format!("the gates do not say go: {closed}")));
    }
    let (repository, config) = facts.repository()?;
    let stage =
        config.stage(&asked.to).ok_or_else(|| Refusal::not_found(format!("no stage {}", asked.to)))?;
    let base = found
        .base
        .clone()
        .ok_or_else(|| Refusal::conflict(format!("the branch {} does not exist", stage.branch)))?;
    let own = Rules::at(&repository, &base).map_err(Refusal::broken)?.config;
    if own.promote_of(&asked.to) == volary_fleet::Promote::People {
        return Err(Refusal::conflict(format!("only people merge into {}", asked.to)).help(format!(
            "sign it yourself: volary promote --from {} --to {1}; or let the server merge: promote: {{ {1}: asked }} in \
             volary.yml",
            asked.from, asked.to
        )));
    }
    promoter::merge(layout, &promoter::Merge::of(found, base, &stage.branch, by)).map_err(Refusal::conflict)
}

/// A merge.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct GatesQuery {
    /// The stage that receives the commit.
    to: String,
    /// The commit that is merged.
    commit: String,
}

/// `GET /api/v1/gates`.
pub(crate) async fn gates(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<GatesQuery>,
) -> Result<Json<Vec<Verdict>>, Refusal> {
    let (to, commit): (StageName, CommitId) = (name(&query.to)?, name(&query.commit)?);
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let facts = promotion::Facts::gather_for(&app, &commit).await?;
    Ok(Json(blocking(move || promotion::gates(&facts, &to, &commit)).await??))
}

/// `GET /api/v1/server-keys`.
pub(crate) async fn server_keys(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<ServerKeys>, Refusal> {
    let layout = app.layout.clone();
    let lines = move || -> Result<ServerKeys, String> {
        let evidence = evidence::key(&layout)?.signers_line(evidence::PRINCIPAL);
        Ok(ServerKeys { evidence, promotion: promoter::signers_line(&layout)? })
    };
    Ok(Json(blocking(lines).await?.map_err(Refusal::broken)?))
}
