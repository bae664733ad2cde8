//! Names that were checked once and then travel as types.

use std::fmt;
use std::str::FromStr;

/// A text that is not a valid name of its kind. Its message names the kind, the text and the
/// rule, so it can be shown to a person as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: it must be {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    /// Says that `text` is no `what`, because a `what` must be `rule`.
    pub fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // A hostile text must not fill a log.
        let text = text.chars().take(200).collect();
        Self { what, text, rule }
    }
}

/// Serialises a type through its `Display` and `FromStr`; `$text` says in its schema what they write.
macro_rules! serde_as_text {
    ($type:ident, $text:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $text })
            }
        }
    };
}
pub(crate) use serde_as_text;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName::new($what, text, $rule))
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        serde_as_text!($type, concat!("A text: the ", $what, ", ", $rule, "."));
    };
}

/// True if `text` has 1 to `max` characters, begins with a lower-case letter or a digit and
/// goes on with those or one of `also`.
fn is_label(text: &str, max: usize, also: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=max).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&byte| plain(byte) || also.contains(&byte))
}

name!(
    /// The name of a stage, as in `volary.yml`: `development`, `canary`, `production`.
    StageName,
    "stage name",
    "1 to 32 lower-case letters, digits and dashes",
    |text| is_label(text, 32, b"-")
);

name!(
    /// The name of a device: its host name in the inventory of the fleet repository.
    DeviceName,
    "device name",
    "a host name: 1 to 63 lower-case letters, digits, dashes and dots, no \"..\", not ending as a \
     file does (.yml, .yaml, .json, .ini, .cfg)",
    |text| {
        is_label(text, 63, b"-.")
            && !text.contains("..")
            && !text.ends_with(['-', '.'])
            && !FILE_ENDINGS.iter().any(|end| text.ends_with(end))
    }
);

/// A device `web.yml` could be taken for the file with the variables of the device `web`.
const FILE_ENDINGS: [&str; 5] = [".yml", ".yaml", ".json", ".ini", ".cfg"];

name!(
    /// The name under which a source repository is registered; often the source package's name.
    SourceName,
    "source name",
    "1 to 64 lower-case letters, digits, dashes, dots and plus signs",
    |text| is_label(text, 64, b"-.+") && !text.contains("..") && !text.ends_with(".git")
);

name!(
    /// The name of a gate whose word comes from elsewhere, as in `volary.yml`: `lab-rig`, `field-test`.
    GateName,
    "gate name",
    "1 to 64 lower-case letters, digits, dashes, dots and underscores",
    |text| is_label(text, 64, b"-._")
);

name!(
    /// A kind of hardware that takes the same image: `qemu-amd64`, `raspberrypi4`.
    DeviceType,
    "device type",
    "1 to 64 lower-case letters, digits, dashes, dots and underscores",
    |text| is_label(text, 64, b"-._") && !text.contains("..")
);

name!(
    /// The name of an image, unique among those of its device type: `2026-11-22.1`, `v1.3-r2`. Mender
    /// calls it the artifact name.
    ImageName,
    "image name",
    "1 to 128 lower-case letters, digits, dashes, dots, plus signs and underscores",
    |text| is_label(text, 128, b"-.+_") && !text.contains("..")
);

name!(
    /// A Debian package name (Debian policy 5.6.1 and 5.6.7).
    PackageName,
    "package name",
    "2 to 128 lower-case letters, digits, dashes, dots and plus signs",
    |text| text.len() >= 2 && is_label(text, 128, b"-.+")
);

name!(
    /// A Debian architecture as dpkg names it: `amd64`, `arm64`, `armhf`, `all`.
    Architecture,
    "architecture",
    "1 to 32 lower-case letters, digits and dashes",
    |text| is_label(text, 32, b"-")
);

name!(
    /// A component of a suite: `main` for own packages, `debug` for their debug symbols, the name
    /// of a mirror for what comes from there.
    Component,
    "component",
    "1 to 32 lower-case letters, digits and dashes",
    |text| is_label(text, 32, b"-")
);

impl Component {
    /// That of the packages that are built here or uploaded.
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// That of automatic debug packages, apart so that devices need not read their index.
    pub fn debug() -> Self {
        Self("debug".to_owned())
    }
}

/// A Packages index of a suite. Written `main/amd64`; apt knows it as
/// `main/binary-amd64/Packages`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexName {
    /// The component.
    pub component: Component,
    /// The architecture; packages for all are in the index of each.
    pub architecture: Architecture,
}

impl IndexName {
    /// The path of the plain index below its suite.
    pub fn path(&self) -> String {
        format!("{}/binary-{}/Packages", self.component, self.architecture)
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.component, self.architecture)
    }
}

impl FromStr for IndexName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid =
            || InvalidName::new("index", text, "a component, \"/\" and an architecture, as in main/amd64");
        let (component, architecture) = text.split_once('/').ok_or_else(invalid)?;
        Ok(Self { component: component.parse()?, architecture: architecture.parse()? })
    }
}

serde_as_text!(
    IndexName,
    "An index of a suite: a component, a slash and an architecture, as in `main/amd64`."
);

name!(
    /// The id of a git commit: 40 lower-case hexadecimal digits.
    CommitId,
    "commit id",
    "40 lower-case hexadecimal digits",
    |text| text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
);

impl CommitId {
    /// The first 7 digits, as git abbreviates a commit for people.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = InvalidName>>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text}");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_keep_their_rules() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        check::<StageName>(&["canary", "stage-2"], &["", "Canary", "-x", "a/b", "a.b"]);
        check::<DeviceName>(&["dev-1", "gate.site-7.example", "yml"], &["..", "a..b", "a-", "a/b", "A"]);
        check::<DeviceName>(&["web.yml.example"], &["web.yml", "web.yaml", "a.b.json", "a.ini", "a.cfg"]);
        check::<SourceName>(&["hello", "libfoo++"], &["a.git", "../x", ""]);
        check::<IndexName>(&["main/amd64", "debian/arm64"], &["amd64", "main/", "/amd64", "a/b/c", "Main/x"]);
        check::<PackageName>(&["libc6", "g++"], &["a", "A", "x_y"]);
        check::<CommitId>(&[commit], &["0123", &commit.to_uppercase()]);
    }

    #[test]
    fn the_message_says_what_the_rule_is() {
        let error = "A b".parse::<StageName>().unwrap_err().to_string();
        assert_eq!(
            error,
            "stage name \"A b\" is not valid: it must be 1 to 32 lower-case letters, digits and dashes"
        );
    }
}
