//! The data of Debian's security tracker: which source packages have which security faults, and from which version on
//! they do not have them any more.
//!
//! The file is a map of source packages, each a map of faults, each with a map of Debian's releases. It has some 70 MB, so it is
//! read piece by piece, and only what says something of one release is kept.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::is_package_name;
use crate::version::Version;

/// The most faults that are kept: some thirty times as many as Debian's largest release has.
const MOST: usize = 1_000_000;

/// The longest name of a fault, word of a status, and urgency.
const LONGEST: usize = 100;

/// Where faults are mended first.
const UNSTABLE: &str = "sid";

/// A security fault of a source package in a release of Debian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name: `CVE-2024-6387`, or one of the tracker's own.
    pub id: String,
    /// What the tracker says of the release.
    pub status: Status,
    /// How urgent Debian finds it, in the tracker's words: `high`, `low`, `not yet assigned`.
    pub urgency: String,
}

/// What the tracker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The package never had it there.
    Never,
    /// Versions before this one have it.
    FixedIn(#[serde(with = "as_text")] Version),
    /// The release has no version without it. Versions before this one have it, which is not in the release.
    OpenUntil(#[serde(with = "as_text")] Version),
    /// It is mended nowhere.
    Open,
    /// Nobody knows yet whether the package has it.
    Undetermined,
}

impl Fault {
    /// True if this version of the package has it; what nobody knows is not said to be.
    pub fn has(&self, version: &Version) -> bool {
        match &self.status {
            Status::Never | Status::Undetermined => false,
            Status::FixedIn(fixed) | Status::OpenUntil(fixed) => version < fixed,
            Status::Open => true,
        }
    }
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::version::Version;

    pub(super) fn serialize<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Takes a source package with its faults; an error ends the reading.
pub type Take<'a> = dyn FnMut(&str, Vec<Fault>) -> Result<(), String> + 'a;

/// Reads the tracker's data and hands over the faults of each package in `release`, such as `bookworm`. A package
/// without any is passed over.
///
/// # Errors
/// What is wrong with the data, with line and column; also what `take` says.
pub fn read(data: impl Read, release: &str, take: &mut Take<'_>) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_reader(std::io::BufReader::new(data));
    Packages { release, take, kept: 0 }.deserialize(&mut reader)?;
    reader.end()
}

struct Packages<'a, 'b> {
    release: &'a str,
    take: &'a mut Take<'b>,
    kept: usize,
}

/// A seed that reads a map by itself.
macro_rules! map_seed {
    ($seed:ty, $value:ty) => {
        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $value;

            fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<$value, D::Error> {
                deserializer.deserialize_map(self)
            }
        }
    };
}

map_seed!(Packages<'_, '_>, ());
map_seed!(Faults<'_>, Vec<Fault>);
map_seed!(OneFault<'_>, Option<(Status, String)>);
map_seed!(Releases<'_>, Option<(Status, String)>);

impl<'de> Visitor<'de> for Packages<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of source packages")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if !is_package_name(&name) {
                return Err(A::Error::custom(format!("{:?} is no source package", cut(&name))));
            }
            let faults = map.next_value_seed(Faults { release: self.release })?;
            self.kept += faults.len();
            if self.kept > MOST {
                return Err(A::Error::custom(format!("there are more than {MOST} faults")));
            }
            if !faults.is_empty() {
                (self.take)(&name, faults).map_err(A::Error::custom)?;
            }
        }
        Ok(())
    }
}

struct Faults<'a> {
    release: &'a str,
}

impl<'de> Visitor<'de> for Faults<'_> {
    type Value = Vec<Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of faults")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Fault>, A::Error> {
        let mut faults = Vec::new();
        while let Some(id) = map.next_key::<String>()? {
            if id.is_empty() || id.len() > LONGEST || id.chars().any(|c| !c.is_ascii_graphic()) {
                return Err(A::Error::custom(format!("{:?} is no name of a fault", cut(&id))));
            }
            if let Some((status, urgency)) = map.next_value_seed(OneFault { release: self.release })? {
                faults.push(Fault { id, status, urgency });
            }
            if faults.len() > MOST {
                return Err(A::Error::custom(format!("there are more than {MOST} faults")));
            }
        }
        Ok(faults)
    }
}

struct OneFault<'a> {
    release: &'a str,
}

impl<'de> Visitor<'de> for OneFault<'_> {
    type Value = Option<(Status, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "releases" {
                found = map.next_value_seed(Releases { release: self.release })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct Releases<'a> {
    release: &'a str,
}

/// What the tracker says of a fault in a release. Other keys are for people.
#[derive(Deserialize)]
struct InRelease {
    status: String,
    #[serde(default)]
    fixed_version: Option<String>,
    #[serde(default)]
    urgency: Option<String>,
}

impl<'de> Visitor<'de> for Releases<'_> {
    type Value = Option<(Status, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of releases")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut own, mut unstable) = (None, None);
        while let Some(release) = map.next_key::<String>()? {
            if release == self.release {
                own = Some(map.next_value::<InRelease>()?);
            } else if release == UNSTABLE {
                unstable = map.next_value::<InRelease>()?.fixed_version;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        let Some(own) = own else { return Ok(None) };
        let version = |text: &str| {
            text.parse::<Version>().map_err(|error| A::Error::custom(format!("fixed_version: {error}")))
        };
        let status = match (own.status.as_str(), own.fixed_version.as_deref(), unstable.as_deref()) {
            ("resolved", Some("0"), _) => Status::Never,
            ("resolved", Some(fixed), _) => Status::FixedIn(version(fixed)?),
            ("open", _, Some(fixed)) if fixed != "0" => Status::OpenUntil(version(fixed)?),
            ("open", _, _) => Status::Open,
            // Mended, in a version that is not told.
            ("undetermined", _, _) | ("resolved", None, _) => Status::Undetermined,
            (status, _, _) => {
                return Err(A::Error::custom(format!("the status {:?} is not known", cut(status))));
            }
        };
        let urgency: String = own.urgency.unwrap_or_default();
        Ok(Some((status, cut(urgency.trim_end_matches('*')))))
    }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

/// True if this may be the code name of a release of Debian: `bookworm`.
pub fn is_release(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form that the tracker publishes, cut down.
    const DATA: &str = r#"{
      "openssl": {
        "CVE-2024-0001": {"description": "…", "scope": "remote", "releases": {
          "bookworm": {"status": "resolved", "repositories": {"bookworm": "3.0.11-1~deb12u2"},
                       "fixed_version": "3.0.15-1~deb12u1", "urgency": "high**"},
          "sid": {"status": "resolved", "repositories": {"sid": "3.3.1-1"}, "fixed_version": "3.3.0-1", "urgency": "high"}}},
        "CVE-2024-0002": {"releases": {
          "bookworm": {"status": "open", "urgency": "low", "nodsa": "Minor issue", "nodsa_reason": ""},
          "sid": {"status": "resolved", "fixed_version": "3.3.0-1", "urgency": "low"}}},
        "CVE-2024-0003": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "0", "urgency": "unimportant"}}},
        "CVE-2024-0004": {"releases": {"bookworm": {"status": "open", "urgency": "not yet assigned"}}},
        "CVE-2024-0005": {"releases": {"bookworm": {"status": "undetermined", "urgency": "medium"}}},
        "CVE-2024-0006": {"releases": {"trixie": {"status": "open", "urgency": "medium"}}}
      },
      "zlib": {"TEMP-0000000-12ABEF": {"releases": {"trixie": {"status": "open", "urgency": "low"}}}}
    }"#;

    fn faults(data: &str) -> Result<Vec<(String, Vec<Fault>)>, String> {
        let mut all = Vec::new();
        read(data.as_bytes(), "bookworm", &mut |package, faults| {
            all.push((package.to_owned(), faults));
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        Ok(all)
    }

    fn check(id: &str, version: &str, expected: bool) {
        let all = faults(DATA).unwrap();
        let fault = all[0].1.iter().find(|fault| fault.id == id).unwrap();
        assert_eq!(fault.has(&version.parse().unwrap()), expected, "{id} in {version}: {fault:?}");
    }

    #[test]
    fn a_version_has_the_faults_that_were_mended_later() {
        check("CVE-2024-0001", "3.0.11-1~deb12u2", true);
        check("CVE-2024-0001", "3.0.15-1~deb12u1", false);
        check("CVE-2024-0001", "3.0.15-1", false);
        // Not mended in the release, and mended in a newer version that somebody brought there.
        check("CVE-2024-0002", "3.0.15-1", true);
        check("CVE-2024-0002", "3.3.0-1+fleet1", false);
        check("CVE-2024-0003", "0.1-1", false);
        check("CVE-2024-0004", "9.9-1", true);
        check("CVE-2024-0005", "1.0-1", false);
    }

    #[test]
    fn only_what_says_something_of_the_release_is_kept() {
        let all = faults(DATA).unwrap();
        assert_eq!(all.len(), 1, "zlib has none in bookworm");
        assert_eq!(all[0].1.len(), 5);
        assert_eq!(all[0].1[0].urgency, "high");
        let text = serde_json::to_string(&all[0].1).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&text).unwrap(), all[0].1);
    }

    #[test]
    fn data_of_another_form_is_refused() {
        for (data, expected) in [
            ("[]", "expected a map of source packages"),
            ("{\"../x\": {}}", "\"../x\" is no source package"),
            ("{\"zlib\": {\"CVE 1\": {}}}", "is no name of a fault"),
            ("{\"zlib\": {\"C\": {\"releases\": {\"bookworm\": {\"status\": \"x\"}}}}}", "the status \"x\""),
            ("{\"zlib\": {\"C\": {\"releases\": {\"bookworm\": {}}}}}", "missing field `status`"),
            (
                "{\"zlib\": {\"C\": {\"releases\": {\"bookworm\": {\"status\": \"resolved\", \"fixed_version\": \"a b\"}}}}}",
                "fixed_version: ",
            ),
            ("{\"zlib\": {}", "EOF"),
            ("{} {}", "trailing characters"),
        ] {
            let problem = faults(data).unwrap_err();
            assert!(problem.contains(expected), "{data}: {problem}");
        }
    }
}
