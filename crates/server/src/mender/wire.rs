//! Requests and answers of Mender's device API. Unknown fields are passed over: clients of all versions
//! come here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Asks to be let in. The signature is over the bytes that came, so they are never written anew.
#[derive(Debug, Deserialize)]
pub(crate) struct AuthRequest {
    /// What the device knows itself by: a JSON object, as text.
    pub(crate) id_data: String,
    /// Its public key, PEM.
    pub(crate) pubkey: String,
    /// A join token of ours, or its secret, or what another server once gave out.
    #[serde(default)]
    pub(crate) tenant_token: Option<String>,
}

/// Asks for an update, in version 2.
#[derive(Debug, Deserialize)]
pub(crate) struct Next {
    /// What the device has.
    #[serde(deserialize_with = "texts")]
    pub(crate) device_provides: BTreeMap<String, String>,
}

/// Asks for an update, in version 1: the provides alone.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Provides(#[serde(deserialize_with = "texts")] pub(crate) BTreeMap<String, String>);

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(key, value)| (key, text(value))).collect())
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The update to install.
#[derive(Debug, Serialize)]
pub(crate) struct Instructions {
    /// The deployment.
    pub(crate) id: String,
    /// What to install.
    pub(crate) artifact: Artifact,
}

/// Where an artifact is, and for whom.
#[derive(Debug, Serialize)]
pub(crate) struct Artifact {
    pub(crate) artifact_name: String,
    pub(crate) source: Source,
    pub(crate) device_types_compatible: Vec<String>,
}

/// A link that works without a token, until it expires.
#[derive(Debug, Serialize)]
pub(crate) struct Source {
    pub(crate) uri: String,
    pub(crate) expire: Timestamp,
}

/// How a deployment goes.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    /// The client's word; 3.4 sends an empty one while it rolls back.
    #[serde(default)]
    pub(crate) status: String,
    /// More of it, in words.
    #[serde(default)]
    pub(crate) substate: Option<String>,
}

/// What happened during a deployment that failed.
#[derive(Debug, Deserialize)]
pub(crate) struct Log {
    pub(crate) messages: Vec<LogMessage>,
}

/// A line of the client's log.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LogMessage {
    #[serde(default)]
    pub(crate) level: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) timestamp: String,
}

/// A part of the inventory.
#[derive(Debug, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl Attribute {
    /// Its values as texts.
    pub(crate) fn values(self) -> Vec<String> {
        match self.value {
            Value::Array(values) => values.into_iter().map(text).collect(),
            Value::Null => Vec::new(),
            one => vec![text(one)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_becomes_one() {
        let next: Next = serde_json::from_str(
            "{\"device_provides\":{\"artifact_name\":\"a\",\"n\":7,\"b\":true},\"update_control_map\":true}",
        )
        .unwrap();
        let pairs: Vec<_> = next.device_provides.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("artifact_name", "a"), ("b", "true"), ("n", "7")]);
        let inventory: Vec<Attribute> =
            serde_json::from_str("[{\"name\":\"a\",\"value\":\"x\"},{\"name\":\"b\",\"value\":[\"y\",1]}]")
                .unwrap();
        let values: Vec<_> = inventory.into_iter().map(Attribute::values).collect();
        assert_eq!(values, [vec!["x"], vec!["y", "1"]]);
    }
}
