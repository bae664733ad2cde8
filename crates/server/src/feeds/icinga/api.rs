//! Icinga's API, as far as it is needed.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;
use volary_api::percent::encode;

use super::objects::{Existing, FLEET, Known, MANAGED_BY, Step, Variables};
use super::results::CheckResult;
use crate::feeds::http::{Endpoint, Reply};

/// Icinga answers nothing else without it.
const ACCEPT: (&str, &str) = ("accept", "application/json");

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This one object is refused; others may go.
    Refused(String),
    /// The object is not there.
    Missing(String),
    /// Icinga is away, or lets this user do nothing.
    Away(String),
}

/// The API of one Icinga.
pub(super) struct Api {
    endpoint: Endpoint,
    host_template: String,
    service_template: String,
}

#[derive(Deserialize)]
struct Listed {
    results: Vec<ListedObject>,
}

#[derive(Deserialize)]
struct ListedObject {
    name: String,
    attrs: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    vars: Option<serde_json::Map<String, Value>>,
}

impl Api {
    pub(super) fn new(endpoint: Endpoint, host_template: String, service_template: String) -> Self {
        Self { endpoint, host_template, service_template }
    }

    /// All hosts and services there are, and which are of this fleet. Without a filter: that would be a
    /// program that Icinga runs.
    pub(super) fn list(&self, fleet: &str) -> Result<Known, String> {
        let mut known = Known::default();
        for kind in ["hosts", "services"] {
            let path = format!("/v1/objects/{kind}?attrs=vars");
            let reply = self.endpoint.send(Method::GET, &path, &[ACCEPT], &[])?;
            if reply.status != 200 {
                return Err(self.endpoint.problem(&path, &reply));
            }
            let listed: Listed = serde_json::from_str(&reply.text)
                .map_err(|error| format!("{path} answers something else than a list: {error}"))?;
            known.0.extend(
                listed.results.into_iter().map(|object| (object.name, existing(object.attrs, fleet))),
            );
        }
        Ok(known)
    }

    /// Takes a step. What is so already is done.
    pub(super) fn take(&self, step: &Step) -> Result<(), Trouble> {
        let (method, query, body) = match step {
            Step::Create(object, variables) => (Method::PUT, "", self.new_object(object, variables)),
            Step::Modify(_, changes) => {
                let attrs: serde_json::Map<String, Value> =
                    changes.iter().map(|(name, value)| (format!("vars.{name}"), json!(value))).collect();
                (Method::POST, "", json!({ "attrs": attrs }))
            }
            Step::Delete(_) => (Method::DELETE, "?cascade=1", Value::Null),
        };
        let path = format!("{}{query}", path_of(step.object()));
        let reply = self.send(method, &path, &body)?;
        match (step, reply.status) {
            (_, 200) => Ok(()),
            // Somebody was faster, or an earlier request got through and its answer did not.
            (Step::Create(object, variables), 500) if reply.text.contains("already exists") => {
                self.must_be_ours(object, variables)
            }
            (Step::Delete(_), 404) => Ok(()),
            _ => Err(self.trouble(&path, &reply)),
        }
    }

    /// Tells a result.
    pub(super) fn tell(&self, result: &CheckResult, ttl: Duration) -> Result<(), Trouble> {
        let path = "/v1/actions/process-check-result";
        let reply = self.send(Method::POST, path, &result.body(ttl.as_secs()))?;
        match reply.status {
            200 => Ok(()),
            404 => Err(Trouble::Missing(self.endpoint.problem(path, &reply))),
            _ => Err(self.trouble(path, &reply)),
        }
    }

    fn new_object(&self, object: &str, variables: &Variables) -> Value {
        let template = if object.contains('!') { &self.service_template } else { &self.host_template };
        let attrs: serde_json::Map<String, Value> =
            variables.iter().map(|(name, value)| (format!("vars.{name}"), json!(value))).collect();
        json!({ "templates": [template], "attrs": attrs })
    }

    /// An object that is there already is as good as made, if it is ours.
    fn must_be_ours(&self, object: &str, wanted: &Variables) -> Result<(), Trouble> {
        let path = format!("{}?attrs=vars", path_of(object));
        let reply = self.send(Method::GET, &path, &Value::Null)?;
        let listed: Option<Listed> = serde_json::from_str(&reply.text).ok();
        let found = listed.and_then(|listed| listed.results.into_iter().next());
        let fleet = wanted.get(FLEET).map_or("", String::as_str);
        match found.map(|found| existing(found.attrs, fleet)) {
            Some(Existing::Ours(has)) if has == *wanted => Ok(()),
            // It was made from an older state; the next listing finds the difference.
            Some(Existing::Ours(_)) => Err(Trouble::Away(format!("{object} was made meanwhile"))),
            Some(Existing::Foreign) => Err(Trouble::Refused("somebody else made it".into())),
            None => Err(self.trouble(&path, &reply)),
        }
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> Result<Reply, Trouble> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers = [ACCEPT, ("content-type", "application/json")];
        self.endpoint.send(method, path, &headers, &body).map_err(Trouble::Away)
    }

    fn trouble(&self, path: &str, reply: &Reply) -> Trouble {
        let detail: Option<String> = serde_json::from_str::<Value>(&reply.text).ok().and_then(|answer| {
            let first = answer.get("results")?.get(0)?;
            let error =
                first.get("errors").and_then(|errors| errors.get(0)).or_else(|| first.get("status"))?;
            Some(error.as_str()?.lines().next()?.to_owned())
        });
        let problem = detail.unwrap_or_else(|| self.endpoint.problem(path, reply));
        match reply.status {
            // A wrong password, a missing right (404 when making an object), or a reload of the configuration.
            401 | 403 | 404 | 503 => Trouble::Away(problem),
            _ => Trouble::Refused(problem),
        }
    }
}

fn existing(attributes: Attributes, fleet: &str) -> Existing {
    let text = |(name, value): (String, Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name, value)
    };
    let variables: Variables = attributes.vars.unwrap_or_default().into_iter().map(text).collect();
    let has = |name: &str, value: &str| variables.get(name).is_some_and(|found| found == value);
    if has(MANAGED_BY.0, MANAGED_BY.1) && has(FLEET, fleet) {
        // A variable that was taken away stays there without a value.
        Existing::Ours(variables.into_iter().filter(|(_, value)| value != "null").collect())
    } else {
        Existing::Foreign
    }
}

fn path_of(object: &str) -> String {
    let kind = if object.contains('!') { "services" } else { "hosts" };
    format!("/v1/objects/{kind}/{}", encode(object))
}
