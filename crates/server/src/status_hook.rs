//! Who is told of builds and promotions: `[[status_hook]]` in `server.toml`, and what each forge wants to hear.
//! Pure; who asks whom and when is the reconciler's business.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use volary_model::{Architecture, CommitId, SourceName};

use crate::address;

/// GitHub cuts descriptions at 140 characters; what fits there fits everywhere.
const DESCRIPTION: usize = 140;

/// The first wait after a failure, which doubles each time, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(10);
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Somebody to tell what became of commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusHook {
    /// A name for it; what it was told is kept under this name.
    pub name: String,
    /// What is there.
    pub kind: HookKind,
    /// The sources whose builds it is told of; absent for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceName>,
    /// The address of the forge's API: `https://api.github.com`, `https://gitlab.com/api/v4`,
    /// `https://gitea.example/api/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The repository there, as `owner/name`; `{source}` stands for the source's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The file with the token, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The certificate authority of the forge (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A program and its arguments; it reads the status as JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// True if it is told of the fleet's promotions, and not of builds; `repository` is then that of the fleet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promotions: bool,
}

/// What a hook speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// GitHub and what answers like it.
    Github,
    /// GitLab.
    Gitlab,
    /// Gitea and Forgejo.
    Gitea,
    /// A program on the server.
    Command,
}

impl HookKind {
    /// Where a forge has a repository, below the address of its API.
    pub(crate) fn repository_path(self, repository: &str) -> String {
        match self {
            Self::Gitlab => format!("/projects/{}", repository.replace('%', "%25").replace('/', "%2F")),
            Self::Github | Self::Gitea | Self::Command => format!("/repos/{repository}"),
        }
    }
}

/// Where a build or a promotion stands, for those outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stand {
    /// It waits for its turn.
    Pending,
    /// It runs.
    Running,
    /// Its packages are in rolling.
    Success,
    /// It failed.
    Failure,
    /// Somebody ended it.
    Cancelled,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    /// Version of this form.
    pub(crate) version: u32,
    pub(crate) source: SourceName,
    pub(crate) architecture: Architecture,
    pub(crate) commit: CommitId,
    pub(crate) build: i64,
    pub(crate) state: Stand,
    /// One line.
    pub(crate) description: String,
    /// The build's page.
    pub(crate) url: String,
    /// What tells this status from those of others.
    pub(crate) context: String,
}

/// An HTTP request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Below the address of the forge's API.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Value,
}

impl StatusHook {
    /// True if it is told of builds of this source.
    pub(crate) fn wants(&self, source: &SourceName) -> bool {
        self.sources.is_empty() || self.sources.contains(source)
    }

    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let wrong = |text: &str| Err(format!("status_hook {:?}: {text}", self.name));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return wrong("name must be letters, digits, -, _ and .");
        }
        let forge = self.url.is_some() || self.repository.is_some() || self.token_file.is_some();
        match self.kind {
            HookKind::Command if self.command.is_empty() => {
                wrong("command is missing: [\"/path/to/program\"]")
            }
            HookKind::Command if forge => {
                wrong("url, repository and token_file are for a forge, not for a command")
            }
            HookKind::Command if self.promotions => wrong("promotions are told to forges, not to a command"),
            HookKind::Command => Ok(()),
            HookKind::Github | HookKind::Gitlab | HookKind::Gitea => {
                if !self.command.is_empty() {
                    return wrong("command is for kind = \"command\" only");
                }
                if !self.url.as_deref().is_some_and(address::is_web) {
                    return wrong(
                        "url must be the address of the forge's API, such as https://api.github.com",
                    );
                }
                let path = |text: &String| {
                    text.split('/').count() >= 2 && text.split('/').all(|part| !part.is_empty())
                };
                if !self.repository.as_ref().is_some_and(path) {
                    return wrong("repository must be owner/name; {source} stands for the source's name");
                }
                if self.token_file.is_none() {
                    return wrong("token_file is missing: a file with the forge's token");
                }
                let of_builds = self.repository.as_ref().is_some_and(|text| text.contains("{source}"));
                if self.promotions && (of_builds || !self.sources.is_empty()) {
                    return wrong(
                        "promotions are those of the fleet's repository: {source} and sources are for builds, in \
                         another status_hook",
                    );
                }
                Ok(())
            }
        }
    }

    /// The request that tells a forge; none for a command.
    pub(crate) fn request(&self, token: &str, status: &Status) -> Option<Request> {
        if self.kind == HookKind::Command {
            return None;
        }
        let repository = self.repository.as_deref()?.replace("{source}", status.source.as_str());
        Some(Request {
            path: self.status_path(&repository, &status.commit),
            headers: self.headers(token),
            body: self.status_body(status.state, &status.context, &status.description, &status.url),
        })
    }

    /// What a forge wants in the head of each request.
    pub(crate) fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        match self.kind {
            HookKind::Github => vec![
                ("authorization", format!("Bearer {token}")),
                ("accept", "application/vnd.github+json".to_owned()),
                ("x-github-api-version", "2022-11-28".to_owned()),
            ],
            HookKind::Gitlab => vec![("private-token", token.to_owned())],
            HookKind::Gitea => vec![("authorization", format!("token {token}"))],
            HookKind::Command => Vec::new(),
        }
    }

    /// Where a forge takes statuses of a commit, below the address of its API.
    pub(crate) fn status_path(&self, repository: &str, commit: &CommitId) -> String {
        format!("{}/statuses/{commit}", self.kind.repository_path(repository))
    }

    /// A status in the words of the forge.
    pub(crate) fn status_body(&self, state: Stand, context: &str, description: &str, url: &str) -> Value {
        let (state, name) = match self.kind {
            HookKind::Gitlab => (gitlab(state), "name"),
            HookKind::Github | HookKind::Gitea | HookKind::Command => (github(state), "context"),
        };
        json!({ "state": state, name: context, "target_url": url, "description": description })
    }

    /// True if an answer means that the forge knows the state, although it is no success.
    pub(crate) fn knows_already(&self, status: u16, answer: &str) -> bool {
        // GitLab takes no state twice: "Cannot transition status via :run from :running".
        self.kind == HookKind::Gitlab && status == 400 && answer.contains("Cannot transition status")
    }
}

/// GitHub's words, which Gitea shares; neither has one for running or cancelled.
fn github(stand: Stand) -> &'static str {
    match stand {
        Stand::Pending | Stand::Running => "pending",
        Stand::Success => "success",
        Stand::Failure => "failure",
        Stand::Cancelled => "error",
    }
}

fn gitlab(stand: Stand) -> &'static str {
    match stand {
        Stand::Pending => "pending",
        Stand::Running => "running",
        Stand::Success => "success",
        Stand::Failure => "failed",
        Stand::Cancelled => "canceled",
    }
}

/// A description in one line that every forge takes.
pub(crate) fn description(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    if line.chars().count() <= DESCRIPTION {
        return line.to_owned();
    }
    line.chars().take(DESCRIPTION - 1).chain(['…']).collect()
}

/// How long to wait after so many failures in a row.
pub(crate) fn wait_after(failures: u32) -> Duration {
    doubled(FIRST_WAIT, failures, LONGEST_WAIT)
}

/// A wait that doubles with each failure in a row, up to the longest.
pub(crate) fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(kind: HookKind, url: &str) -> StatusHook {
        StatusHook {
            name: "h".into(),
            kind,
            sources: Vec::new(),
            url: Some(url.into()),
            repository: Some("acme/sub/{source}".into()),
            token_file: Some("token".into()),
            ca_file: None,
            command: Vec::new(),
            promotions: false,
        }
    }

    fn status(state: Stand) -> Status {
        Status {
            version: 1,
            source: "pulse".parse().unwrap(),
            architecture: "arm64".parse().unwrap(),
            commit: "a".repeat(40).parse().unwrap(),
            build: 7,
            state,
            description: description("1.0+git7 is in rolling"),
            url: "https://v.example/builds/7".into(),
            context: "volary/pulse/arm64".into(),
        }
    }

    #[test]
    fn each_forge_hears_its_own_words() {
        let states = [Stand::Pending, Stand::Running, Stand::Success, Stand::Failure, Stand::Cancelled];
        let check = |kind, expected: [&str; 5], field: &str| {
            for (state, word) in states.into_iter().zip(expected) {
                let request = hook(kind, "https://x/").request("t", &status(state)).unwrap();
                assert_eq!(request.body["state"], word);
                assert_eq!(request.body[field], "volary/pulse/arm64");
                assert_eq!(request.body["target_url"], "https://v.example/builds/7");
            }
        };
        check(HookKind::Github, ["pending", "pending", "success", "failure", "error"], "context");
        check(HookKind::Gitea, ["pending", "pending", "success", "failure", "error"], "context");
        check(HookKind::Gitlab, ["pending", "running", "success", "failed", "canceled"], "name");
    }

    #[test]
    fn addresses_are_those_of_the_forges() {
        let commit = "a".repeat(40);
        let path = |kind| hook(kind, "https://x/api/").request("t", &status(Stand::Success)).unwrap().path;
        assert_eq!(path(HookKind::Github), format!("/repos/acme/sub/pulse/statuses/{commit}"));
        assert_eq!(path(HookKind::Gitlab), format!("/projects/acme%2Fsub%2Fpulse/statuses/{commit}"));
        assert_eq!(path(HookKind::Gitea), format!("/repos/acme/sub/pulse/statuses/{commit}"));
    }

    #[test]
    fn descriptions_and_waits_stay_within_bounds() {
        assert_eq!(description(&"ü".repeat(500)).chars().count(), 140);
        assert_eq!(description("one\ntwo"), "one");
        assert_eq!(wait_after(0), Duration::from_secs(10));
        assert_eq!(wait_after(3), Duration::from_secs(80));
        assert_eq!(wait_after(u32::MAX), LONGEST_WAIT);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |change: &dyn Fn(&mut StatusHook), expected: &str| {
            let mut hook = hook(HookKind::Github, "https://x");
            change(&mut hook);
            let problem = hook.check().err().unwrap_or_default();
            assert!(problem.contains(expected) && problem.is_empty() == expected.is_empty(), "{problem}");
        };
        check(&|_| {}, "");
        check(&|hook| hook.url = Some("x".into()), "url must be");
        check(&|hook| hook.repository = Some("x".into()), "owner/name");
        check(&|hook| hook.token_file = None, "token_file is missing");
        check(&|hook| hook.kind = HookKind::Command, "command is missing");
        check(&|hook| hook.name = "a b".into(), "name must be");
        check(&|hook| hook.promotions = true, "in another status_hook");
    }
}
