//! What is settled for an archive as a whole, in `archive.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use volary_model::{Architecture, Component};

use crate::error::Error;

/// What is settled for an archive. Devices refuse a suite whose origin or label changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `Origin` of every suite: one line, such as the name of the organisation.
    pub origin: String,
    /// `Label` of every suite: one line.
    pub label: String,
    /// The architectures that have an index, without `all`.
    pub architectures: Vec<Architecture>,
    /// Further components for own packages: one whose section is `extra/net` stands in `extra`, if
    /// that is listed here, and else in `main`.
    #[serde(default)]
    pub components: Vec<Component>,
    /// Whether suites have `Contents`, for `apt-file`.
    #[serde(default = "yes")]
    pub contents: bool,
    /// For how many days the signature of a suite is valid; without it for ever. A device refuses
    /// a suite past that, which shows a mirror that someone holds back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_days: Option<u32>,
    /// From so many packages in a component of rolling on its indexes list the newest at their end,
    /// which makes a publish cheaper. The versions that they replace stay listed for some 60 publishes.
    #[serde(default = "default_news_at_end_from", skip_serializing_if = "is_default")]
    pub news_at_end_from: usize,
    /// Where the archive is served, such as `https://volary.example:8443/archive`: apt fetches
    /// changelogs from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

fn yes() -> bool {
    true
}

/// The usual [`Settings::news_at_end_from`]: with fewer packages there is little to gain.
pub fn default_news_at_end_from() -> usize {
    20_000
}

fn is_default(count: &usize) -> bool {
    *count == default_news_at_end_from()
}

impl Settings {
    /// The usual settings.
    pub fn new(origin: &str, label: &str, architectures: Vec<Architecture>) -> Self {
        Self {
            origin: origin.to_owned(),
            label: label.to_owned(),
            architectures,
            components: Vec::new(),
            contents: true,
            valid_days: None,
            news_at_end_from: default_news_at_end_from(),
            url: None,
        }
    }
}

/// `archive.json`.
#[derive(Debug, Serialize, Deserialize)]
struct SettingsFile {
    version: u64,
    #[serde(flatten)]
    settings: serde_json::Value,
}

/// Writes `archive.json`.
pub(crate) fn write(dir: &Path, settings: &Settings) -> Result<(), Error> {
    let settings = serde_json::to_value(settings).expect("settings are plain data");
    let file = serde_json::to_vec_pretty(&SettingsFile { version: 1, settings });
    let file = file.expect("settings are plain data");
    Ok(volary_host::write_atomic(&dir.join("archive.json"), &file, 0o644)?)
}

/// Refuses settings that no apt could use.
pub(crate) fn check(settings: &Settings) -> Result<(), Error> {
    for (what, text) in [("origin", &settings.origin), ("label", &settings.label)] {
        if text.trim().is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
            return Err(Error::Settings(format!("the {what} {text:?}: it must be one short line")));
        }
    }
    if settings.architectures.is_empty() {
        return Err(Error::Settings("no architecture".to_owned()));
    }
    if let Some(all) =
        settings.architectures.iter().find(|architecture| matches!(architecture.as_str(), "all" | "source"))
    {
        return Err(Error::Settings(format!("the architecture {all}: its packages are in every index")));
    }
    if let Some(url) =
        settings.url.as_ref().filter(|url| url.chars().any(|c| c.is_whitespace() || c.is_control()))
    {
        return Err(Error::Settings(format!("the address {url:?}: it must be one word")));
    }
    if settings.valid_days.is_some_and(|days| !(1..=3650).contains(&days)) {
        return Err(Error::Settings("a validity that is not 1 to 3650 days".to_owned()));
    }
    let mut once = settings.architectures.clone();
    once.sort();
    once.dedup();
    if once.len() < settings.architectures.len() {
        return Err(Error::Settings("the same architecture twice".to_owned()));
    }
    Ok(())
}

/// Reads `archive.json`.
pub(crate) fn read(dir: &Path) -> Result<Settings, Error> {
    let path = dir.join("archive.json");
    let text = match volary_host::read(&path) {
        Err(error) if error.is_not_found() => return Err(Error::NotAnArchive(dir.to_owned())),
        other => other?,
    };
    let damaged =
        |error: serde_json::Error| Error::Damaged { path: path.clone(), problem: error.to_string() };
    let file: SettingsFile = serde_json::from_slice(&text).map_err(damaged)?;
    if file.version != 1 {
        return Err(Error::Newer { path, version: file.version });
    }
    let settings: Settings = serde_json::from_value(file.settings).map_err(damaged)?;
    check(&settings)?;
    Ok(settings)
}
