//! What the type of a handler says of its route: who may ask, what it takes, what it gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{NoContent, Response};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use volary_api::v1::fleet::Role;

use crate::app::App;
use crate::http::auth::{
    Admin, Anybody, Developer, DeviceIdentity, GateSpeaker, Operator, ReleaseManager, Uploader, Viewer,
};
use crate::http::input::{Accepted, Input, Path, Query};
use crate::http::refusal::Refusal;
use crate::tls::listener::Peer;

/// What a handler says of its route by its type.
pub(crate) trait Described<T> {
    /// Says it.
    fn describe(sketch: &mut Sketch<'_>);
}

/// Something that a handler takes.
pub(crate) trait Part {
    /// Says what that means for the route.
    fn describe(sketch: &mut Sketch<'_>);
}

/// What a handler gives.
pub(crate) trait Answer {
    /// Says what that means for the route.
    fn describe(sketch: &mut Sketch<'_>);
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Whoever reaches the server.
    Anyone,
    /// A person or program that is known, whatever its role.
    Known,
    /// One with this role, or one that may do the same.
    With(Role),
    /// A device of the fleet, by its certificate.
    Device,
}

/// A route as it comes to be described.
pub(crate) struct Sketch<'a> {
    /// For what is sent to the server: what may be left out is not required.
    requests: &'a mut SchemaGenerator,
    /// For what the server sends: what is always there is required.
    answers: &'a mut SchemaGenerator,
    pub(super) asker: Asker,
    /// Parameters in the query and in headers.
    pub(super) parameters: Vec<Value>,
    /// The media types of the body with their schemas, and a sentence.
    pub(super) body: Option<(Map<String, Value>, &'static str)>,
    /// The answers by status.
    pub(super) given: BTreeMap<u16, Value>,
    /// True if there must be a body.
    pub(super) needs_body: bool,
    /// True if the handler reads the body itself, or writes the answer itself.
    pub(super) reads_itself: bool,
    pub(super) writes_itself: bool,
}

impl<'a> Sketch<'a> {
    pub(super) fn new(requests: &'a mut SchemaGenerator, answers: &'a mut SchemaGenerator) -> Self {
        Self {
            requests,
            answers,
            asker: Asker::Anyone,
            parameters: Vec::new(),
            body: None,
            given: BTreeMap::new(),
            needs_body: false,
            reads_itself: false,
            writes_itself: false,
        }
    }

    pub(super) fn takes(&mut self, media: &str, text: &'static str) {
        self.add_body(media, json!({ "schema": unread(media) }), text);
    }

    pub(super) fn takes_json<T: JsonSchema>(&mut self, media: &str, text: &'static str) {
        let schema = self.requests.subschema_for::<T>();
        self.add_body(media, json!({ "schema": schema }), text);
    }

    /// True if a type has fields that may not be left out.
    fn requires<T: JsonSchema>(&mut self) -> bool {
        let schema = T::json_schema(self.requests);
        schema.get("required").and_then(Value::as_array).is_some_and(|fields| !fields.is_empty())
            || schema.get("oneOf").is_some()
    }

    fn add_body(&mut self, media: &str, content: Value, text: &'static str) {
        let (contents, _) = self.body.get_or_insert_with(|| (Map::new(), text));
        contents.insert(media.to_owned(), content);
    }

    pub(super) fn gives(&mut self, status: u16, media: &str, text: &str) {
        let content = json!({ media: { "schema": unread(media) } });
        self.given.insert(status, json!({ "description": text, "content": content }));
    }

    pub(super) fn gives_json<T: JsonSchema>(&mut self, status: u16, media: &str, text: &str) {
        let schema = self.answers.subschema_for::<T>();
        let answer = json!({ "description": text, "content": { media: { "schema": schema } } });
        self.given.insert(status, answer);
    }

    pub(super) fn gives_nothing(&mut self, status: u16, text: &str) {
        self.given.insert(status, json!({ "description": text }));
    }

    pub(super) fn header(&mut self, name: &str, text: &str) {
        self.parameters.push(json!({
            "name": name, "in": "header", "description": text, "schema": { "type": "string" },
        }));
    }
}

/// The schema of what is no type of ours. Without one, generators of clients leave the route out.
fn unread(media: &str) -> Value {
    match media {
        "application/json" => json!({ "type": "object" }),
        text if text.starts_with("text/") => json!({ "type": "string" }),
        _ => json!({ "type": "string", "format": "binary" }),
    }
}

macro_rules! described {
    ($($part:ident),*) => {
        impl<F, Fut, M, $($part),*> Described<(M, $($part,)*)> for F
        where
            F: FnOnce($($part),*) -> Fut,
            Fut: Future,
            Fut::Output: Answer,
            $($part: Part,)*
        {
            fn describe(sketch: &mut Sketch<'_>) {
                $($part::describe(sketch);)*
                Fut::Output::describe(sketch);
            }
        }
    };
}
described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);
described!(A, B, C, D, E);

impl<F, Fut> Described<((),)> for F
where
    F: FnOnce() -> Fut,
    Fut: Future,
    Fut::Output: Answer,
{
    fn describe(sketch: &mut Sketch<'_>) {
        Fut::Output::describe(sketch);
    }
}

macro_rules! says_nothing {
    ($($type:ty),*) => {
        $(impl Part for $type {
            fn describe(_: &mut Sketch<'_>) {}
        })*
    };
}
says_nothing!(State<Arc<App>>, HeaderMap, Method, Extension<Peer>);

/// What is in a path stands in the path.
impl<T> Part for Path<T> {
    fn describe(_: &mut Sketch<'_>) {}
}

macro_rules! asker {
    ($($type:ty => $asker:expr),* $(,)?) => {
        $(impl Part for $type {
            fn describe(sketch: &mut Sketch<'_>) {
                sketch.asker = $asker;
            }
        })*
    };
}
asker! {
    Anybody => Asker::Known,
    Viewer => Asker::With(Role::Viewer),
    Developer => Asker::With(Role::Developer),
    Operator => Asker::With(Role::Operator),
    ReleaseManager => Asker::With(Role::ReleaseManager),
    Admin => Asker::With(Role::Admin),
    Uploader => Asker::With(Role::Upload),
    GateSpeaker => Asker::With(Role::Gate),
    DeviceIdentity => Asker::Device,
}

impl<T: JsonSchema> Part for Query<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        let schema = T::json_schema(sketch.requests).to_value();
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            sketch.parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required.contains(&Value::String(name.clone())),
                "description": description.expect("each field of a query has a comment"),
                "schema": never_null(schema),
            }));
        }
    }
}

/// A query has no null: what is not there is left out.
fn never_null(mut schema: Value) -> Value {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            schema["type"] = one.clone();
        }
    }
    if let Some(object) = schema.as_object_mut()
        && object.get("default").is_some_and(|default| default.is_null() || default == "")
    {
        object.remove("default");
    }
    schema
}

impl<T: JsonSchema> Part for Input<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.takes_json::<T>("application/json", "");
        // An empty body stands for {}, which leaves everything at its default.
        sketch.needs_body = sketch.requires::<T>();
    }
}

impl Part for Body {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.reads_itself = true;
        sketch.needs_body = true;
    }
}

impl<T: Answer> Answer for Result<T, Refusal> {
    fn describe(sketch: &mut Sketch<'_>) {
        T::describe(sketch);
    }
}

impl<T: JsonSchema> Answer for Json<T> {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.gives_json::<T>(200, "application/json", "Done.");
    }
}

/// These handlers tell what is new from what was there.
impl<T: JsonSchema> Answer for (StatusCode, Json<T>) {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.gives_json::<T>(200, "application/json", "It was there already.");
        sketch.gives_json::<T>(201, "application/json", "It is new.");
    }
}

impl Answer for () {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.gives_nothing(200, "Done.");
    }
}

impl Answer for NoContent {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.gives_nothing(204, "Done.");
    }
}

impl Answer for Accepted {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.gives_nothing(202, "It will be done.");
    }
}

impl Answer for Response {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.writes_itself = true;
    }
}

impl Answer for &'static str {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.writes_itself = true;
    }
}

impl<const N: usize> Answer for ([(HeaderName, HeaderValue); N], Body) {
    fn describe(sketch: &mut Sketch<'_>) {
        sketch.writes_itself = true;
    }
}
