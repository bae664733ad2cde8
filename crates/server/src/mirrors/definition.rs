//! What a mirror is to be: `NAME.toml` in the folder of the mirrors, written by
//! `volary archive mirror add` or by hand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use volary_api::v1::mirror as api;
use volary_archive::upstream::{Filter, NamePattern, Priority, Spec};
use volary_model::{Architecture, Component};

use crate::address;
use crate::config::nearest;

/// The version of the file's form that this program writes and reads.
const VERSION: u32 = 1;

/// The keys of the file, for the nearest one when somebody mistypes.
const KEYS: &[&str] = &[
    "version",
    "url",
    "suite",
    "components",
    "architectures",
    "key",
    "unsigned",
    "languages",
    "interval",
    "filter",
];

/// The keys of its filter.
const FILTER_KEYS: &[&str] = &["packages", "priorities", "closure", "recommends", "sources"];

/// A mirror as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) name: Component,
    pub(crate) place: Place,
    pub(crate) suite: String,
    pub(crate) components: Vec<String>,
    /// Empty: those of our archive.
    pub(crate) architectures: Vec<Architecture>,
    pub(crate) signed: Signed,
    pub(crate) languages: Vec<String>,
    /// Between two syncs; zero: only when asked.
    pub(crate) interval: Duration,
    pub(crate) filter: Filter,
}

/// Where a publication is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a web server.
    Url(String),
    /// In a folder of this machine.
    Folder(PathBuf),
}

/// Who may sign it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signed {
    /// The keys in this file, relative to the folder of the mirrors.
    By(PathBuf),
    /// Nobody does, and a person said that this is fine.
    Nobody,
}

/// The form of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    url: String,
    suite: String,
    components: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    architectures: Vec<Architecture>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsigned: bool,
    #[serde(default)]
    languages: Vec<String>,
    interval: u64,
    #[serde(default)]
    filter: Filter,
}

impl Place {
    /// An address, or an absolute path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(format!("the address {text:?} has spaces or control characters in it"));
        }
        if address::is_web(text) {
            return Ok(Self::Url(text.trim_end_matches('/').to_owned()));
        }
        if text.starts_with('/') {
            return Ok(Self::Folder(text.into()));
        }
        Err(format!(
            "{text:?} is no address: give http://…, https://…, or the absolute path of a folder on the server"
        ))
    }

    fn text(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Folder(path) => path.display().to_string(),
        }
    }
}

impl Definition {
    /// The file of a mirror.
    pub(crate) fn path(dir: &Path, name: &Component) -> PathBuf {
        dir.join(format!("{name}.toml"))
    }

    /// Reads a definition; `None` if there is none.
    pub(crate) fn read(dir: &Path, name: &Component) -> Result<Option<Self>, String> {
        let path = Self::path(dir, name);
        let text = match volary_host::read_to_string(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other.map_err(|error| error.to_string())?,
        };
        Self::parse(name, &text).map(Some).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    fn parse(name: &Component, text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let filter = table.get("filter").and_then(toml::Value::as_table);
        let unknown = |table: &toml::Table, keys: &'static [&'static str]| {
            table.keys().find(|key| !keys.contains(&key.as_str())).cloned().map(|key| (key, keys))
        };
        let other = unknown(&table, KEYS).or_else(|| filter.and_then(|filter| unknown(filter, FILTER_KEYS)));
        if let Some((key, keys)) = other {
            return Err(format!("unknown key {key:?}; did you mean {:?}?", nearest(&key, keys)));
        }
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(version) if version == i64::from(VERSION) => {}
            Some(version) => {
                return Err(format!("version {version} is not known; this program reads version {VERSION}"));
            }
            None => return Err(format!("version is missing; write: version = {VERSION}")),
        }
        let form: Form = toml::from_str(text).map_err(|error| error.to_string())?;
        let signed = match (form.key, form.unsigned) {
            (Some(key), false) => Signed::By(key),
            (None, true) => Signed::Nobody,
            (Some(_), true) => return Err("key and unsigned exclude each other; keep one".to_owned()),
            (None, false) => {
                return Err("key is missing: the file with the keys that may sign; \
                            write unsigned = true only if nobody signs"
                    .to_owned());
            }
        };
        let definition = Self {
            name: name.clone(),
            place: Place::parse(&form.url)?,
            suite: form.suite,
            components: form.components,
            architectures: form.architectures,
            signed,
            languages: form.languages,
            interval: Duration::from_secs(form.interval),
            filter: form.filter,
        };
        definition.check()?;
        Ok(definition)
    }

    /// What types do not say.
    fn check(&self) -> Result<(), String> {
        let word = |text: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@/".contains(&byte);
            !text.is_empty()
                && text.bytes().all(allowed)
                && !text.split('/').any(|part| matches!(part, "" | "." | ".."))
        };
        if [Component::main(), Component::debug()].contains(&self.name) {
            return Err(format!("a mirror cannot be named {}: own packages are there", self.name));
        }
        if !word(&self.suite) {
            return Err(format!("the suite {:?} is not one below dists/, such as bookworm", self.suite));
        }
        if self.components.is_empty() {
            return Err("components is empty; name at least one, such as main".to_owned());
        }
        if let Some(wrong) = self.components.iter().chain(&self.languages).find(|text| !word(text)) {
            return Err(format!("{wrong:?} is neither a component nor a language"));
        }
        if self.filter.recommends && !self.filter.closure {
            return Err("recommends without closure takes what is of no use; set closure too".to_owned());
        }
        Ok(())
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        let form = Form {
            version: VERSION,
            url: self.place.text(),
            suite: self.suite.clone(),
            components: self.components.clone(),
            architectures: self.architectures.clone(),
            key: match &self.signed {
                Signed::By(path) => Some(path.clone()),
                Signed::Nobody => None,
            },
            unsigned: self.signed == Signed::Nobody,
            languages: self.languages.clone(),
            interval: self.interval.as_secs(),
            filter: self.filter.clone(),
        };
        let own = toml::to_string(&form).expect("a definition is plain values");
        format!("# A mirror of another archive. The server reads this file again before each sync.\n{own}")
    }

    /// What it takes.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            suite: self.suite.clone(),
            components: self.components.clone(),
            architectures: self.architectures.clone(),
            languages: self.languages.clone(),
            filter: self.filter.clone(),
        }
    }

    /// In the words of the API.
    pub(crate) fn to_api(&self) -> api::Definition {
        api::Definition {
            name: self.name.clone(),
            url: super::http::without_password(&self.place.text()),
            suite: self.suite.clone(),
            components: self.components.clone(),
            architectures: self.architectures.clone(),
            key: match &self.signed {
                Signed::By(path) => Some(path.display().to_string()),
                Signed::Nobody => None,
            },
            languages: self.languages.clone(),
            interval: self.interval.as_secs(),
            filter: api::Filter {
                packages: self.filter.packages.iter().map(NamePattern::to_string).collect(),
                priorities: self.filter.priorities.iter().map(|one| one.as_str().to_owned()).collect(),
                closure: self.filter.closure,
                recommends: self.filter.recommends,
                sources: self.filter.sources,
            },
        }
    }

    /// From the words of the API.
    pub(crate) fn from_api(wire: api::Definition) -> Result<Self, String> {
        let priority = |text: &String| {
            let priority = Priority::of(text);
            let known = priority.as_str() == text;
            known.then_some(priority).ok_or_else(|| {
                format!("{text:?} is no priority: required, important, standard, optional, extra")
            })
        };
        let packages: Result<Vec<NamePattern>, _> =
            wire.filter.packages.iter().map(|name| name.parse()).collect();
        let filter = Filter {
            packages: packages.map_err(|error: volary_model::InvalidName| error.to_string())?,
            priorities: wire.filter.priorities.iter().map(priority).collect::<Result<_, _>>()?,
            closure: wire.filter.closure,
            recommends: wire.filter.recommends,
            sources: wire.filter.sources,
        };
        let definition = Self {
            name: wire.name,
            place: Place::parse(&wire.url)?,
            suite: wire.suite,
            components: wire.components,
            architectures: wire.architectures,
            signed: wire.key.map_or(Signed::Nobody, |path| Signed::By(path.into())),
            languages: wire.languages,
            interval: Duration::from_secs(wire.interval),
            filter,
        };
        definition.check()?;
        Ok(definition)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const GOOD: &str = "version = 1\nurl = \"http://h/debian\"\nsuite = \"bookworm\"\ncomponents = [\"main\"]\n\
                        key = \"debian.key\"\ninterval = 3600\n";

    fn name() -> Component {
        "debian".parse().unwrap()
    }

    pub(crate) fn example() -> Definition {
        Definition::parse(&name(), GOOD).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let more = "languages = [\"en\"]\narchitectures = [\"arm64\"]\n[filter]\npackages = [\"htop\", \"lib*\"]\n\
                    priorities = [\"required\"]\nclosure = true\n";
        let definition = Definition::parse(&name(), &format!("{GOOD}{more}")).unwrap();
        assert_eq!(Definition::parse(&name(), &definition.text()).unwrap(), definition);
        assert_eq!(Definition::from_api(definition.to_api()).unwrap(), definition);
        assert_eq!(definition.filter.priorities, [Priority::Required]);
    }

    fn check(text: &str, expected: &str) {
        let problem = Definition::parse(&name(), text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn mistakes_are_named() {
        check(&format!("{GOOD}suites = \"x\"\n"), "did you mean \"suite\"?");
        check(&format!("{GOOD}[filter]\npackage = []\n"), "did you mean \"packages\"?");
        check(&GOOD.replace("version = 1", "version = 2"), "version 2 is not known");
        check(&GOOD.replace("key = \"debian.key\"\n", ""), "key is missing");
        check(&format!("unsigned = true\n{GOOD}"), "exclude each other");
        check(&GOOD.replace("http://h", "ftp://h"), "is no address");
        check(&GOOD.replace("\"main\"", "\"../x\""), "neither a component nor a language");
        check(&GOOD.replace("[\"main\"]", "[]"), "components is empty");
        check(&GOOD.replace("\"bookworm\"", "\"./\""), "the suite \"./\"");
        check(&format!("{GOOD}[filter]\nrecommends = true\n"), "set closure too");
        check(&format!("{GOOD}[filter]\npackages = [\"A b\"]\n"), "pattern");
        let main = Definition::parse(&Component::main(), GOOD).unwrap_err();
        assert!(main.contains("cannot be named main"), "{main}");
    }
}
