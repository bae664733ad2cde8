//! The document itself: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.

use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::{Contract, SchemaSettings};
use serde_json::{Map, Value, json};
use volary_api::v1::Problem;

use super::sketch::Asker;
use super::{Api, Route, Sketch, parameters};
use crate::http::auth::role_text;

/// Where the schemas are.
const SCHEMAS: &str = "#/components/schemas/";

const ABOUT: &str = "What people, programs and devices ask of a Volary server. People and programs show a token or \
                     the secret of a session, `Authorization: Bearer TOKEN`; devices their client certificate. \
                     Every refusal is a `Problem` with a matching status. Fields may come with a newer server: pass \
                     over what you do not know.\n\nNot described here: the archive's files below `/archive/`, which \
                     are an APT repository; the git repositories below `/git/`, which speak git's protocol over HTTP; \
                     Mender's device API below `/api/devices/`, which Mender describes; and the pages for people.";

impl Api {
    /// The description of all routes of the API.
    pub(crate) fn document(&self) -> Value {
        let mut requests = generator(Contract::Deserialize);
        let mut answers = generator(Contract::Serialize);
        let problem = answers.subschema_for::<Problem>();
        let refused = json!({
            "description": "It was not done, and why.",
            "content": { "application/json": { "schema": problem } },
        });
        let mut paths: Map<String, Value> = Map::new();
        for route in &self.routes {
            let operation = operation(route, &mut requests, &mut answers);
            let path = paths.entry(route.path).or_insert_with(|| json!({}));
            path[route.method] = operation;
        }
        let mut asked = requests.take_definitions(true);
        let mut schemas = answers.take_definitions(true);
        let different = different(&asked, &schemas);
        for path in paths.values_mut() {
            for operation in path.as_object_mut().expect("a path is an object").values_mut() {
                rename(&mut operation["parameters"], &different);
                if let Some(body) = operation.get_mut("requestBody") {
                    rename(body, &different);
                }
            }
        }
        for (name, mut schema) in std::mem::take(&mut asked) {
            rename(&mut schema, &different);
            let name = if different.contains(&name) { as_request(&name) } else { name };
            schemas.insert(name, schema);
        }
        let tags: Vec<Value> = self
            .groups
            .iter()
            .map(|group| json!({ "name": group.name, "description": group.text }))
            .collect();
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Volary",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": "/" }],
            "tags": tags,
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A token (`volary token add`) or the secret of a session (`POST /api/v1/login`). \
                                        What stands behind it in a requirement is the role that is needed; \
                                        docs/login.md says which roles may do the same.",
                    },
                    "device": {
                        "type": "mutualTLS",
                        "description": "The client certificate that the device got when it was accepted.",
                    },
                },
                "responses": { "Refused": refused },
                "schemas": schemas,
            },
        });
        plain_texts(&mut document);
        document
    }
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

fn operation(route: &Route, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let mut sketch = Sketch::new(requests, answers);
    (route.types)(&mut sketch);
    for more in &route.more {
        more(&mut sketch);
    }
    let name = format!("{} {}", route.method, route.path);
    assert!(!sketch.reads_itself || sketch.body.is_some(), "{name}: its body is not described");
    assert!(!sketch.given.is_empty(), "{name}: its answer is not described");
    assert!(sketch.writes_itself || !sketch.given.contains_key(&304), "{name}: it gives nothing by itself");
    let in_path = parameters::names(route.path).map(|name| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": parameters::text(route.path, name),
            "schema": { "type": "string" },
        })
    });
    let parameters: Vec<Value> = in_path.chain(sketch.parameters).collect();
    let (security, who) = match sketch.asker {
        Asker::Anyone => (json!([]), "Needs no token.".to_owned()),
        Asker::Known => (json!([{ "token": [] }]), "Needs a token, of whatever role.".to_owned()),
        Asker::With(role) => {
            let role = role_text(role);
            (json!([{ "token": [role] }]), format!("Needs the role `{role}`, or one that may do the same."))
        }
        Asker::Device => (json!([{ "device": [] }]), "For devices of the fleet.".to_owned()),
    };
    let mut given: Map<String, Value> =
        sketch.given.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
    for refused in ["4XX", "5XX"] {
        given.insert(refused.to_owned(), json!({ "$ref": "#/components/responses/Refused" }));
    }
    let description = format!("{} {who}", route.note);
    let description = description.trim();
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "description": description,
        "tags": [route.group],
        "security": security,
        "parameters": parameters,
        "responses": given,
    });
    if let Some((content, text)) = sketch.body {
        let mut body = json!({ "content": content, "required": sketch.needs_body });
        if !text.is_empty() {
            body["description"] = text.into();
        }
        operation["requestBody"] = body;
    }
    operation
}

/// The names of schemas that are not the same in a request and in an answer: in a request more may be left
/// out. Whatever refers to one of them differs too.
fn different(asked: &Map<String, Value>, given: &Map<String, Value>) -> BTreeSet<String> {
    let both: Vec<&String> = asked.keys().filter(|name| given.contains_key(*name)).collect();
    let mut different: BTreeSet<String> =
        both.iter().filter(|name| asked[**name] != given[**name]).map(|name| (*name).clone()).collect();
    loop {
        let refers = |name: &&&String| {
            let mut schema = asked[**name].clone();
            rename(&mut schema, &different);
            schema != asked[**name]
        };
        let more: Vec<String> = both
            .iter()
            .filter(|name| !different.contains(**name))
            .filter(refers)
            .map(|n| (*n).clone())
            .collect();
        if more.is_empty() {
            return different;
        }
        different.extend(more);
    }
}

fn as_request(name: &str) -> String {
    format!("{name}Input")
}

/// Lets references to `different` schemas name those of requests.
fn rename(value: &mut Value, different: &BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str().and_then(|text| text.strip_prefix(SCHEMAS)) {
                    Some(name) if key == "$ref" && different.contains(name) => {
                        *value = format!("{SCHEMAS}{}", as_request(name)).into();
                    }
                    _ => rename(value, different),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, different)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes the links of Rust's documentation out of all descriptions.
fn plain_texts(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "description" => *text = plain(text),
                    _ => plain_texts(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        plain.push_str(before);
        plain.extend(["`", name, "`"]);
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_words() {
        assert_eq!(plain("a [`B`](super::B) and [`C`], [d]"), "a `B` and `C`, [d]");
        assert_eq!(plain("an open [`end"), "an open [`end");
    }

    #[test]
    fn what_refers_to_a_different_schema_differs_too() {
        let refers = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
        let schemas = |leaf: Value| {
            Map::from_iter([
                ("Leaf".to_owned(), leaf),
                ("Branch".to_owned(), json!({ "items": refers("Leaf") })),
                ("Tree".to_owned(), json!({ "properties": { "branch": refers("Branch") } })),
                ("Stone".to_owned(), json!({ "type": "string" })),
            ])
        };
        let found = different(&schemas(json!({ "type": "string" })), &schemas(json!({ "type": "null" })));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["Branch", "Leaf", "Tree"]);
    }
}
