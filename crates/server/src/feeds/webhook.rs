//! A program that is told of each change of an alert, in the form of Alertmanager's webhook (version
//! "4"), so that what listens to Alertmanager listens to this too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};
use volary_plan::alert::{Alert, AlertState};
use volary_store::Message;

use super::labels::{annotations, fingerprint, labels};
use super::queue::{Answer, Destination};
use super::{Endpoint, News, check_queue, check_url, default_queue};

/// The end of an alert that goes on, as Alertmanager writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Where to tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Its address.
    pub url: String,
    /// The file with a secret that both know; what is sent is signed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Its certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// MiB of messages that may wait for it.
    #[serde(default = "default_queue")]
    pub queue_mib: u32,
}

impl WebhookConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        check_url(&self.url)?;
        check_queue(self.queue_mib)
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("webhook/{name}")
}

/// The body of Alertmanager's webhook.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    version: &'a str,
    group_key: String,
    truncated_alerts: u32,
    status: &'a str,
    receiver: &'a str,
    group_labels: BTreeMap<String, String>,
    common_labels: BTreeMap<String, String>,
    common_annotations: BTreeMap<String, String>,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [One<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    status: &'a str,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

/// What is sent. The one alert of the group is the group.
pub(super) fn body(name: &str, news: &News<'_>) -> Vec<u8> {
    let alert = news.alert;
    let labels = labels(alert, news.fleet);
    let heard: Vec<_> = match alert.state {
        AlertState::Pending | AlertState::Firing => alert.heard(news.silences, news.now).collect(),
        AlertState::Resolved => alert.devices.iter().collect(),
    };
    let mut annotations = annotations(alert, heard.into_iter());
    annotations.insert("change".into(), news.change.as_str().into());
    let group: BTreeMap<String, String> =
        [("alertname".to_owned(), alert.rule.clone())].into_iter().collect();
    let status = status(alert);
    let body = Body {
        version: "4",
        group_key: format!("{{}}:{{alertname={:?}, fingerprint={:?}}}", alert.rule, fingerprint(&labels)),
        truncated_alerts: 0,
        status,
        receiver: name,
        group_labels: group,
        common_labels: labels.clone(),
        common_annotations: annotations.clone(),
        external_url: news.url,
        alerts: [One {
            status,
            starts_at: alert.began_at.unwrap_or(alert.since),
            ends_at: alert.ended_at.map_or_else(|| NEVER.to_owned(), |ended| ended.to_string()),
            generator_url: news.url,
            fingerprint: fingerprint(&labels),
            labels,
            annotations,
        }],
    };
    serde_json::to_vec(&body).expect("an alert is plain data")
}

fn status(alert: &Alert) -> &'static str {
    match alert.state {
        AlertState::Pending | AlertState::Firing => "firing",
        AlertState::Resolved => "resolved",
    }
}

/// One webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    config: WebhookConfig,
    endpoint: Endpoint,
}

impl Webhook {
    pub(super) fn new(root: &Path, config: WebhookConfig) -> Arc<Self> {
        let endpoint = Endpoint::new(root, &config.url, config.ca_file.clone(), None);
        Arc::new(Self { config, endpoint })
    }

    /// The signature over a body, as GitHub writes it.
    fn signature(&self, body: &[u8]) -> Result<Option<String>, String> {
        let Some(file) = &self.config.secret_file else { return Ok(None) };
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.endpoint.secret(file)?.as_bytes());
        let tag = hmac::sign(&key, body);
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(format!("sha256={hex}")))
    }
}

impl Destination for Webhook {
    fn hand_over(&self, message: &Message) -> Answer {
        let signature = match self.signature(&message.body) {
            Ok(signature) => signature,
            Err(problem) => return Answer::Later(problem, None),
        };
        let delivery = message.seq.to_string();
        let mut headers =
            vec![("content-type", "application/json"), ("x-volary-delivery", delivery.as_str())];
        headers.extend(signature.as_deref().map(|signature| ("x-hub-signature-256", signature)));
        self.endpoint.tell("", &headers, &message.body)
    }
}
