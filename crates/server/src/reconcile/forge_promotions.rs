//! Tells forges where promotions stand. What was told last is kept, and told is what differs; a forge that cannot be
//! reached is tried again later, and holds up nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use ureq::http::Method;
use volary_model::StageName;

use crate::app::App;
use crate::feeds::Endpoint;
use crate::forge_promotion::{Comments, Telling, Told};
use crate::promotion::{self, Facts};
use crate::reconcile::statuses::each_hook;
use crate::status_hook::{LONGEST_WAIT, StatusHook, wait_after};

/// How many pages of comments are looked through for ours; after that another one is made.
const PAGES: u32 = 5;

/// Tells each hook that wants promotions what it does not know yet.
pub(super) async fn forge_promotions(app: Arc<App>) -> Result<(), String> {
    let facts = Facts::gather_lately(&app).await.map_err(|error| error.to_string())?;
    let worker = app.clone();
    let found = tokio::task::spawn_blocking(move || open_promotions(&worker, &facts));
    let found = Arc::new(found.await.map_err(|error| format!("it has a bug: {error}"))?);
    each_hook(&app, |hook| hook.promotions, |index| one_hook(app.clone(), index, found.clone())).await
}

/// What is to be told of each stage that could get something new.
fn open_promotions(app: &App, facts: &Facts) -> Vec<(StageName, Telling)> {
    // A fleet without a first commit has no stages yet; one that cannot be read is told by who reads its stages.
    let Ok((_, config)) = facts.repository() else { return Vec::new() };
    let mut found = Vec::new();
    for stage in &config.stages {
        let Some(from) = &stage.from else { continue };
        // A branch that is not there yet has nothing to promote.
        let Ok(promotion) = promotion::preview(facts, from, &stage.name) else { continue };
        if !promotion.up_to_date {
            found.push((stage.name.clone(), Telling::of(&promotion, &app.url)));
        }
    }
    found
}

async fn one_hook(app: Arc<App>, index: usize, found: Arc<Vec<(StageName, Telling)>>) -> Result<(), String> {
    for (stage, telling) in found.iter() {
        // After a failure the others would most likely fail as well, each after its time limit.
        one(&app, index, stage, telling).await?;
    }
    Ok(())
}

async fn one(app: &Arc<App>, index: usize, stage: &StageName, telling: &Telling) -> Result<(), String> {
    let broken = |error: volary_store::StoreError| error.to_string();
    let name = &app.config.status_hook[index].name;
    let key = format!("forge-promotion/{name}/{stage}");
    let mut told: Told = app.store.setting(&key).await.map_err(broken)?.unwrap_or_default();
    let now = volary_host::now();
    if !telling.is_due(&told, now) {
        return Ok(());
    }
    if told.commit.as_ref() != Some(&telling.commit) {
        told = Told { commit: Some(telling.commit.clone()), failures: told.failures, ..Told::default() };
    }
    let (worker, wanted) = (app.clone(), telling.clone());
    let work = tokio::task::spawn_blocking(move || {
        let ended = tell(&worker, &worker.config.status_hook[index], &wanted, &mut told);
        (told, ended)
    });
    let (mut told, ended) = work.await.map_err(|error| format!("it has a bug: {error}"))?;
    told.at = Some(now);
    (told.failures, told.not_before) = match &ended {
        Ok(()) => (0, None),
        Err(refused) => {
            let wait = wait_after(told.failures).max(refused.again_after).min(LONGEST_WAIT);
            let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
            (told.failures + 1, Some(now.checked_add(wait).unwrap_or(Timestamp::MAX)))
        }
    };
    app.store.set_setting(&key, &told).await.map_err(broken)?;
    ended.map_err(|refused| {
        format!("{name} cannot be told of the promotion into {stage}: {}", refused.sentence)
    })
}

/// Notes in `told` what the forge took, so that a failure in the middle repeats nothing.
fn tell(app: &App, hook: &StatusHook, telling: &Telling, told: &mut Told) -> Result<(), Refused> {
    let forge = Forge::of(app, hook)?;
    for (context, status) in &telling.statuses {
        if told.statuses.get(context) == Some(status) {
            continue;
        }
        let (stand, text) = status;
        let body = hook.status_body(*stand, context, text, &telling.url);
        match forge.send(
            Method::POST,
            &hook.status_path(forge.comments.repository, &telling.commit),
            Some(&body),
        ) {
            Ok(_) => {}
            Err(Refused { status, text, .. }) if hook.knows_already(status, &text) => {}
            Err(refused) => return Err(refused),
        }
        told.statuses.insert(context.clone(), status.clone());
    }
    // A gate that is gone has its last word at the forge; it is forgotten here, or it would be due for ever.
    told.statuses.retain(|context, _| telling.statuses.contains_key(context));
    if told.comment != telling.comment {
        told.comment = if forge.comment(telling)? { telling.comment.clone() } else { String::new() };
    }
    Ok(())
}

/// Why a forge did not do something.
struct Refused {
    status: u16,
    /// What it said.
    text: String,
    /// Both in a sentence.
    sentence: String,
    /// How long it asks to be left alone.
    again_after: Duration,
}

impl From<String> for Refused {
    fn from(sentence: String) -> Self {
        Self { status: 0, text: String::new(), sentence, again_after: Duration::ZERO }
    }
}

struct Forge<'a> {
    endpoint: Endpoint,
    headers: Vec<(&'static str, String)>,
    comments: Comments<'a>,
}

impl<'a> Forge<'a> {
    fn of(app: &App, hook: &'a StatusHook) -> Result<Self, String> {
        let file = hook.token_file.as_ref().ok_or("it has no token_file")?;
        let url = hook.url.as_deref().ok_or("it has no url")?;
        let repository = hook.repository.as_deref().ok_or("it has no repository")?;
        let endpoint = Endpoint::new(app.layout.root(), url, hook.ca_file.clone(), None);
        let mut headers = hook.headers(&endpoint.secret(file)?);
        headers.push(("content-type", "application/json".to_owned()));
        Ok(Self { endpoint, headers, comments: Comments { kind: hook.kind, repository } })
    }

    /// One comment on the request whose source is the commit: changed in its place, else added. False if there is no
    /// such request.
    fn comment(&self, telling: &Telling) -> Result<bool, Refused> {
        let requests = self.send(Method::GET, &self.comments.requests(&telling.commit), None)?;
        let Some(request) = self.comments.request_in(&requests, &telling.commit) else { return Ok(false) };
        let body = Comments::body(&telling.comment);
        let pages = (1..=PAGES).map_while(|page| self.comments.page(request, page));
        for page in pages {
            let listed = self.send(Method::GET, &page, None)?;
            for ours in Comments::ours_in(&listed, &telling.marker) {
                let method = if self.comments.puts() { Method::PUT } else { Method::PATCH };
                match self.send(method, &self.comments.comment(request, ours), Some(&body)) {
                    Ok(_) => return Ok(true),
                    // Somebody else wrote what looks like ours, or took it away meanwhile.
                    Err(Refused { status: 403 | 404, .. }) => {}
                    Err(refused) => return Err(refused),
                }
            }
            if listed.as_array().is_none_or(|comments| comments.len() < Comments::PAGE) {
                break;
            }
        }
        self.send(Method::POST, &self.comments.comments(request), Some(&body))?;
        Ok(true)
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refused> {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let bytes = body.map(|body| serde_json::to_vec(body).expect("JSON is JSON")).unwrap_or_default();
        let reply = self.endpoint.send(method, path, &headers, &bytes)?;
        if !(200..300).contains(&reply.status) {
            let sentence = self.endpoint.problem(path, &reply);
            let again_after = reply.again_after.unwrap_or_default();
            return Err(Refused { status: reply.status, text: reply.text, sentence, again_after });
        }
        if reply.text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&reply.text)
            .map_err(|error| format!("{path} answers with no JSON: {error}").into())
    }
}
