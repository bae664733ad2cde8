//! Who we are to a bucket: from the environment, or from a file that only its owner can read.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Deserialize;

use crate::export::ExportFailure;

/// An access key. Its secret is in no message.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    /// For keys that are valid for a short time.
    #[serde(default)]
    pub(crate) session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.access_key_id)
    }
}

impl Credentials {
    /// Takes them from a file, or from the environment if none is named.
    pub(crate) fn find(file: Option<&Path>) -> Result<Self, ExportFailure> {
        if let Some(path) = file {
            return Self::read(path);
        }
        let get = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        Self::from_environment(&get).ok_or(ExportFailure::NoCredentials)
    }

    fn from_environment(get: &dyn Fn(&'static str) -> Option<String>) -> Option<Self> {
        Some(Self {
            access_key_id: get("AWS_ACCESS_KEY_ID")?,
            secret_access_key: get("AWS_SECRET_ACCESS_KEY")?,
            session_token: get("AWS_SESSION_TOKEN"),
        })
    }

    fn read(path: &Path) -> Result<Self, ExportFailure> {
        let unusable = |problem: String| ExportFailure::Credentials { path: path.to_owned(), problem };
        let mode = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(unusable(format!(
                "others than its owner can read it (mode {:o}); run: chmod 600 {}",
                mode & 0o777,
                path.display()
            )));
        }
        let text = volary_host::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        // The parser's message shows the line, which may hold the secret.
        toml::from_str(&text).map_err(|_| {
            unusable(
                "it must have the two lines access_key_id = \"…\" and secret_access_key = \"…\"".to_owned(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, mode: u32) -> Result<Credentials, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        volary_host::write_atomic(file.path(), text.as_bytes(), mode).unwrap();
        Credentials::read(file.path()).map_err(|error| error.to_string())
    }

    const GOOD: &str = "access_key_id = \"me\"\nsecret_access_key = \"hidden\"\n";

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        assert_eq!(read(GOOD, 0o600).unwrap().access_key_id, "me");
        let refused = read(GOOD, 0o640).unwrap_err();
        assert!(refused.contains("chmod 600"), "{refused}");
    }

    #[test]
    fn no_message_shows_the_secret() {
        let refused = read(&GOOD.replace("access_key_id", "id"), 0o600).unwrap_err();
        assert!(!refused.contains("hidden") && refused.contains("secret_access_key"), "{refused}");
        assert!(!format!("{:?}", read(GOOD, 0o600)).contains("hidden"));
    }

    #[test]
    fn the_environment_gives_both_parts_or_nothing() {
        let both = |name: &str| (name != "AWS_SESSION_TOKEN").then(|| name.to_lowercase());
        let found = Credentials::from_environment(&both).unwrap();
        assert_eq!((found.access_key_id.as_str(), found.session_token), ("aws_access_key_id", None));
        assert_eq!(
            Credentials::from_environment(&|name| (name == "AWS_ACCESS_KEY_ID").then(String::new)),
            None
        );
    }
}
