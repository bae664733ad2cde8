//! What the server says of its API, compared with what goes over the wire.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use jsonschema::Validator;
use serde_json::{Value, json};
use volary_server::openapi;

use crate::support::Answer;

/// The described route of a path without its query.
pub fn route_of(path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |template: &&String| {
        let wanted: Vec<&str> = template.split('/').collect();
        wanted.len() == parts.len()
            && wanted.iter().zip(&parts).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
    };
    let mut found: Vec<&String> = paths().keys().filter(fits).collect();
    // What is written out goes before what is in braces.
    found.sort_by_key(|template| template.matches('{').count());
    found.first().map(|template| template.as_str())
}

/// The described paths.
pub fn paths() -> &'static serde_json::Map<String, Value> {
    openapi()["paths"].as_object().unwrap()
}

/// Compares a request that was taken, and its answer, with the document.
pub fn check(method: &str, path: &str, sent: Option<&[u8]>, answer: &Answer) -> Result<(), String> {
    let Some(route) = route_of(path) else { return Ok(()) };
    let Some(operation) = paths()[route].get(method) else {
        return if answer.status == 405 { Ok(()) } else { Err("this method is not described".into()) };
    };
    let status = answer.status.as_u16().to_string();
    let given = operation["responses"].get(&status);
    if answer.status.is_success() || answer.status == 304 {
        if let Some(sent) = sent.filter(|sent| !sent.is_empty()) {
            check_request(operation, sent)?;
        }
        let given = given.ok_or_else(|| format!("the status {status} is not described"))?;
        return check_content(given, answer);
    }
    if given.is_some() {
        return Err(format!("{status} is a refusal, and described as another answer"));
    }
    check_content(&openapi()["components"]["responses"]["Refused"], answer)
}

fn check_request(operation: &Value, sent: &[u8]) -> Result<(), String> {
    // Routes that take nothing pass over what comes.
    let Some(body) = operation.get("requestBody") else { return Ok(()) };
    let contents = body["content"].as_object().unwrap();
    // What is no JSON has no schema, and lines of JSON and packed JSON are checked where they are read.
    let (Some(content), Ok(value)) = (contents.get("application/json"), serde_json::from_slice(sent)) else {
        return Ok(());
    };
    let Some(schema) = content.get("schema") else { return Ok(()) };
    fits(schema, &value, false).map_err(|problem| format!("the request was taken, and {problem}"))
}

fn check_content(given: &Value, answer: &Answer) -> Result<(), String> {
    let Some(content) = given.get("content").and_then(Value::as_object) else {
        let empty = answer.body.is_empty();
        return if empty { Ok(()) } else { Err("no body is described".into()) };
    };
    let media = answer.header("content-type").split(';').next().unwrap_or_default().trim();
    let content = content.get(media);
    // The files of images say more precisely what they are.
    let content = content.or_else(|| given["content"].get("application/octet-stream"));
    let content = content.ok_or_else(|| format!("the content type {media:?} is not described"))?;
    let Some(schema) = content.get("schema") else { return Err("it has no schema".into()) };
    if !media.ends_with("json") {
        return Ok(());
    }
    let texts: Vec<&[u8]> = match media {
        "application/x-ndjson" => {
            answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect()
        }
        _ => vec![&answer.body],
    };
    for text in texts {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("it is no JSON: {error}"))?;
        fits(schema, &value, true)?;
    }
    Ok(())
}

/// Whether a value is what a schema says; if it is `closed`, with no field that is not described.
fn fits(schema: &Value, value: &Value, closed: bool) -> Result<(), String> {
    static KNOWN: OnceLock<Mutex<HashMap<(String, bool), &'static Validator>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let key = (schema.to_string(), closed);
    let validator = *known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(key)
        .or_insert_with(|| Box::leak(Box::new(validator(schema, closed))));
    let problems: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect();
    if problems.is_empty() { Ok(()) } else { Err(format!("it is not as described: {}", problems.join("; "))) }
}

/// What checks values against a schema of the document.
pub fn validator(schema: &Value, closed: bool) -> Validator {
    let mut whole = json!({ "allOf": [schema] });
    let mut schemas = openapi()["components"]["schemas"].clone();
    if closed {
        close(&mut schemas);
    }
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    whole["components"] = json!({ "schemas": schemas });
    jsonschema::options().should_validate_formats(true).build(&whole).unwrap()
}

/// Refuses fields that are not described.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let open = ["$ref", "allOf", "anyOf", "oneOf", "additionalProperties"];
            let is_object = fields.get("type").is_some_and(|name| name == "object");
            if is_object
                && fields.contains_key("properties")
                && !open.iter().any(|key| fields.contains_key(*key))
            {
                fields.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
