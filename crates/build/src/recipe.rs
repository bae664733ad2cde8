//! `debian/volary.yml` in a source: what its authors say about how it is built. Absent, everything
//! is as usual. Not here: what the server's operator says.

use serde::Deserialize;
use volary_model::Architecture;

/// Where it lies in a source.
pub const RECIPE_FILE: &str = "debian/volary.yml";

/// How to build a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipe {
    /// The architectures to build for, instead of those that the source is registered with.
    pub architectures: Option<Vec<Architecture>>,
    /// Whether packages for other architectures may be cross-built.
    pub cross: Cross,
    /// What else is built after it.
    pub rebuild: Rebuild,
}

/// What else is built once a source was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rebuild {
    /// Nothing, unless the server's operator wants it.
    #[default]
    None,
    /// All that build-depends on one of its packages.
    Dependents,
}

/// Whether packages for another architecture are cross-built or built under emulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cross {
    /// Cross-built, and where that fails built under emulation.
    #[default]
    Auto,
    /// Under emulation at once.
    Never,
    /// Cross-built or not at all.
    Always,
}

/// A `debian/volary.yml` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{RECIPE_FILE} cannot be read: {0}")]
pub struct RecipeError(String);

impl RecipeError {
    /// It is there, but is no file of at most `limit` bytes.
    pub(crate) fn unread(limit: u64) -> Self {
        Self(format!("it must be a plain file, no link, of {limit} bytes at most"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    architectures: Option<Vec<Architecture>>,
    #[serde(default)]
    cross: Cross,
    #[serde(default)]
    rebuild: Rebuild,
}

impl Recipe {
    /// Reads the file's text.
    ///
    /// # Errors
    /// [`RecipeError`] with the line: not YAML, an unknown key or value, another version.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            // The rest is a picture of the line for a terminal.
            let said = error.to_string();
            let line = said.lines().next().unwrap_or_default();
            RecipeError(line.strip_prefix("error: ").unwrap_or(line).to_owned())
        })?;
        if file.version != 1 {
            let text = format!("version {} is not known; this program reads version 1", file.version);
            return Err(RecipeError(text));
        }
        if let Some(architectures) = &file.architectures {
            check_architectures(architectures).map_err(RecipeError)?;
        }
        Ok(Self { architectures: file.architectures, cross: file.cross, rebuild: file.rebuild })
    }
}

/// Refuses a list of architectures that nobody can mean.
///
/// # Errors
/// What is wrong with it and what to write instead.
pub fn check_architectures(architectures: &[Architecture]) -> Result<(), String> {
    if architectures.is_empty() {
        return Err("the list of architectures is empty; name one, such as amd64".to_owned());
    }
    for (index, architecture) in architectures.iter().enumerate() {
        if matches!(architecture.as_str(), "all" | "any" | "source") {
            return Err(format!(
                "{architecture:?} is no architecture to build for; packages of architecture all \
                 are built in any case"
            ));
        }
        if architectures[..index].contains(architecture) {
            return Err(format!("the architecture {architecture} is named twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_meant() {
        let recipe = Recipe::parse("version: 1\narchitectures: [amd64, arm64]\ncross: never\n").unwrap();
        let names = ["amd64", "arm64"].map(|name| name.parse().unwrap()).to_vec();
        let rebuild = Rebuild::None;
        assert_eq!(recipe, Recipe { architectures: Some(names), cross: Cross::Never, rebuild });
        let recipe = Recipe::parse("version: 1\nrebuild: dependents\n").unwrap();
        assert_eq!(recipe, Recipe { rebuild: Rebuild::Dependents, ..Recipe::default() });
        assert_eq!(Recipe::parse("version: 1\n").unwrap(), Recipe::default());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expected: &str| {
            let error = Recipe::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with("debian/volary.yml cannot be read: ")
                    && error.contains(expected)
                    && !error.contains('\n'),
                "{error}"
            );
        };
        check("version: 1\narchitecture: [amd64]\n", "architecture");
        check("version: 1\ncross: maybe\n", "maybe");
        check("version: 1\nrebuild: all\n", "all");
        check("version: 2\n", "version 2 is not known");
        check("architectures: [amd64]\n", "version");
        check("version: 1\narchitectures: []\n", "is empty");
        check("version: 1\narchitectures: [all]\n", "no architecture to build for");
        check("version: 1\narchitectures: [arm64, arm64]\n", "named twice");
        check("version: 1\narchitectures: [\"a b\"]\n", "a b");
        check("version: [\n", "");
    }
}
