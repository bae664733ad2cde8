//! The JSON members as they stand in a header. Unknown and repeated keys are refused: a condition
//! that is not understood cannot be checked, and readers disagree about which of two equal keys counts.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// Reads a JSON member.
pub(crate) fn parse<T: DeserializeOwned>(member: &str, raw: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(raw).map_err(|source| Error::Json { member: member.to_owned(), source })
}

/// `version`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Version {
    pub(crate) format: String,
    pub(crate) version: u32,
}

/// `header-info`. The order of the fields is the order that Mender's tool writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderInfo {
    pub(crate) payloads: Vec<PayloadEntry>,
    pub(crate) artifact_provides: GlobalProvides,
    pub(crate) artifact_depends: GlobalDepends,
}

/// The `header-info` of an augmented header: Mender's tool repeats the global keys, its format
/// describes only the payloads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AugmentHeaderInfo {
    pub(crate) payloads: Vec<PayloadEntry>,
    pub(crate) artifact_provides: Option<GlobalProvides>,
    pub(crate) artifact_depends: Option<GlobalDepends>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PayloadEntry {
    // Named here so that a missing key is an error and null is a value.
    #[serde(rename = "type", deserialize_with = "Option::deserialize")]
    pub(crate) kind: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GlobalProvides {
    pub(crate) artifact_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_group: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GlobalDepends {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) artifact_name: Vec<String>,
    pub(crate) device_type: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) artifact_group: Vec<String>,
}

/// `headers/NNNN/type-info`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TypeInfo {
    #[serde(rename = "type", deserialize_with = "Option::deserialize")]
    pub(crate) kind: Option<String>,
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    pub(crate) artifact_depends: Unique<OneOrMany>,
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    pub(crate) artifact_provides: Unique<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clears_artifact_provides: Option<Vec<String>>,
}

/// One value or a list of alternatives. One value is written bare: Mender's C++ client reads no list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }

    #[cfg(feature = "write")]
    pub(crate) fn from_slice(values: &[String]) -> Self {
        match values {
            [one] => Self::One(one.clone()),
            many => Self::Many(many.to_vec()),
        }
    }
}

/// A JSON object whose keys are all different.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct Unique<V>(pub(crate) BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> Unique<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = access.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(serde::de::Error::custom(format_args!("key {key:?} stands twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}
