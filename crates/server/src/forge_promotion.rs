//! What forges are told of promotions: a commit status for the stage and for each of its gates, and one comment on the
//! pull or merge request whose source is that commit. Pure; who asks whom and when is the reconciler's business.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use volary_api::v1::fleet::{Promotion, Say, Verdict};
use volary_model::CommitId;
use volary_plan::series::elapsed;
use volary_plan::text;

use crate::status_hook::{HookKind, Stand, description};

/// How often figures are told that change while no word does. GitHub takes 1,000 statuses of one name for a commit: that
/// lasts for 41 days.
const FIGURES: Duration = Duration::from_secs(3600);

/// How often it is looked for a request to comment on while there is none.
const LOOK: Duration = Duration::from_secs(120);

/// How many of each list a comment has.
const LISTED: usize = 10;

/// What a forge was told last of the promotion into a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Of which commit.
    pub(crate) commit: Option<CommitId>,
    /// The statuses that it has taken, by context.
    pub(crate) statuses: BTreeMap<String, (Stand, String)>,
    /// The comment that it has taken; empty if there was no request to comment on.
    pub(crate) comment: String,
    /// When it was told last.
    pub(crate) at: Option<Timestamp>,
    /// How often telling failed in a row.
    pub(crate) failures: u32,
    /// Until when it is left alone.
    pub(crate) not_before: Option<Timestamp>,
}

/// What a forge is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Telling {
    pub(crate) commit: CommitId,
    /// By context.
    pub(crate) statuses: BTreeMap<String, (Stand, String)>,
    /// The body of the comment.
    pub(crate) comment: String,
    /// What finds our comment again among others: its first line.
    pub(crate) marker: String,
    /// The page of the promotion.
    pub(crate) url: String,
}

impl Telling {
    /// What is told of a promotion; `url` is the server's.
    pub(crate) fn of(promotion: &Promotion, url: &str) -> Self {
        let stage = format!("volary/{}", promotion.to);
        let mut statuses = BTreeMap::new();
        for verdict in &promotion.verdicts {
            let context = format!("{stage}/{}", verdict.gate);
            statuses.insert(context, (stand(verdict.say), description(&verdict.reason)));
        }
        let worst = promotion.verdicts.iter().map(|verdict| verdict.say).max().unwrap_or(Say::Go);
        statuses.insert(stage, (stand(worst), description(&summary(&promotion.verdicts))));
        let page = format!("{url}/promotion?from={}&to={}", promotion.from, promotion.to);
        let marker = format!("<!-- volary promotion into {} -->", promotion.to);
        let comment = comment(promotion, &marker, &page);
        Self { commit: promotion.commit.clone(), statuses, comment, marker, url: page }
    }

    /// True if the forge is to be told now: a word or the commit changed, figures did and some time has passed, or it
    /// is time to look for a request again.
    pub(crate) fn is_due(&self, told: &Told, now: Timestamp) -> bool {
        if told.not_before.is_some_and(|time| now < time) {
            return false;
        }
        let words = |statuses: &BTreeMap<String, (Stand, String)>| {
            statuses.iter().map(|(context, (stand, _))| (context.clone(), *stand)).collect::<Vec<_>>()
        };
        if told.failures > 0
            || told.commit.as_ref() != Some(&self.commit)
            || words(&told.statuses) != words(&self.statuses)
        {
            return true;
        }
        let since = told.at.map_or(Duration::MAX, |at| elapsed(at, now));
        let differs = told.statuses != self.statuses || told.comment != self.comment;
        (differs && since >= FIGURES) || (told.comment.is_empty() && since >= LOOK)
    }
}

/// *Ask* is no failure: it waits for data, or for a person.
fn stand(say: Say) -> Stand {
    match say {
        Say::Go => Stand::Success,
        Say::Ask => Stand::Pending,
        Say::Stop => Stand::Failure,
    }
}

fn summary(verdicts: &[Verdict]) -> String {
    let closed: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.say != Say::Go)
        .map(|verdict| format!("{}: {}", verdict.gate, verdict.reason))
        .collect();
    match (verdicts.is_empty(), closed.is_empty()) {
        (true, _) => "no gate is set".to_owned(),
        (false, true) => "every gate says go".to_owned(),
        (false, false) => closed.join("; "),
    }
}

/// Text of others as text: neither a mention of somebody nor a link, a command or a table's edge.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            // What follows is no name, no number and no address any more, and nobody sees a difference.
            '@' | '#' | '!' | '~' | '/' => safe.extend([c, '\u{200b}']),
            '|' | '[' | ']' | '*' | '_' | '`' | '\\' => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}

fn comment(promotion: &Promotion, marker: &str, page: &str) -> String {
    let mut body = format!(
        "{marker}\n**Volary: {} to {}**, commit {}\n\n| gate | says | why |\n|---|---|---|\n",
        promotion.from,
        promotion.to,
        promotion.commit.short()
    );
    for verdict in &promotion.verdicts {
        let word = match verdict.say {
            Say::Go => "go",
            Say::Ask => "**ask**",
            Say::Stop => "**stop**",
        };
        body += &format!("| {} | {word} | {} |\n", plain(&verdict.gate), plain(&verdict.reason));
    }
    if promotion.verdicts.is_empty() {
        body += "| | | no gate is set |\n";
    }
    let devices = text::count(promotion.device_count, "device");
    let packages = text::count(promotion.packages.len(), "package");
    let files = text::count(promotion.files.len(), "file");
    body += &format!("\n- It reaches {devices}: {packages} and {files} change.\n");
    if let Some(cves) = &promotion.cves {
        body += &format!("- Security faults: {} mended, {} new.\n", cves.closed_count, cves.opened_count);
        for cve in cves.opened.iter().take(LISTED) {
            body +=
                &format!("  - new: {} in {} ({})\n", plain(&cve.id), plain(&cve.source), plain(&cve.urgency));
        }
    }
    body + &format!("- [The whole of it]({page})\n")
}

/// How a forge is spoken to about comments: paths below the address of its API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comments<'a> {
    pub(crate) kind: HookKind,
    /// The fleet's repository there.
    pub(crate) repository: &'a str,
}

impl Comments<'_> {
    fn base(&self) -> String {
        self.kind.repository_path(self.repository)
    }

    /// Where requests stand that may have the commit as their source.
    pub(crate) fn requests(&self, commit: &CommitId) -> String {
        match self.kind {
            HookKind::Github => format!("{}/commits/{commit}/pulls?per_page=100", self.base()),
            HookKind::Gitlab => {
                format!("{}/repository/commits/{commit}/merge_requests?per_page=100", self.base())
            }
            // Gitea's own question for a commit knows merged requests only.
            HookKind::Gitea | HookKind::Command => format!("{}/pulls?state=open&limit=50", self.base()),
        }
    }

    /// The open request in such an answer whose source is at the commit.
    pub(crate) fn request_in(&self, answer: &Value, commit: &CommitId) -> Option<u64> {
        let (number, open, source) = match self.kind {
            HookKind::Gitlab => ("iid", "opened", "/sha"),
            HookKind::Github | HookKind::Gitea | HookKind::Command => ("number", "open", "/head/sha"),
        };
        let is_it = |request: &&Value| {
            request["state"] == open
                && request.pointer(source).and_then(Value::as_str) == Some(commit.as_str())
        };
        answer.as_array()?.iter().find(is_it)?[number].as_u64()
    }

    /// Where the comments of a request stand, and where one is added.
    pub(crate) fn comments(&self, request: u64) -> String {
        match self.kind {
            HookKind::Gitlab => format!("{}/merge_requests/{request}/notes", self.base()),
            HookKind::Github | HookKind::Gitea | HookKind::Command => {
                format!("{}/issues/{request}/comments", self.base())
            }
        }
    }

    /// A page of the comments of a request, from 1, the oldest first; none after the last that there can be.
    pub(crate) fn page(&self, request: u64, page: u32) -> Option<String> {
        let all = self.comments(request);
        match self.kind {
            HookKind::Github => Some(format!("{all}?per_page={}&page={page}", Self::PAGE)),
            HookKind::Gitlab => {
                Some(format!("{all}?sort=asc&order_by=created_at&per_page={}&page={page}", Self::PAGE))
            }
            // It gives all of them at once.
            HookKind::Gitea | HookKind::Command => (page == 1).then_some(all),
        }
    }

    /// How many comments a page has.
    pub(crate) const PAGE: usize = 100;

    /// The comments in such an answer that look like ours.
    pub(crate) fn ours_in(answer: &Value, marker: &str) -> Vec<u64> {
        let ours = |comment: &&Value| comment["body"].as_str().is_some_and(|body| body.starts_with(marker));
        let found = answer.as_array().into_iter().flatten().filter(ours);
        found.filter_map(|comment| comment["id"].as_u64()).collect()
    }

    /// Where a comment is changed.
    pub(crate) fn comment(&self, request: u64, comment: u64) -> String {
        match self.kind {
            HookKind::Gitlab => format!("{}/{comment}", self.comments(request)),
            HookKind::Github | HookKind::Gitea | HookKind::Command => {
                format!("{}/issues/comments/{comment}", self.base())
            }
        }
    }

    /// True if a comment is changed with PUT and not with PATCH.
    pub(crate) fn puts(&self) -> bool {
        self.kind == HookKind::Gitlab
    }

    /// What is sent for a comment.
    pub(crate) fn body(text: &str) -> Value {
        json!({ "body": text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn telling(stand: Stand, text: &str) -> Telling {
        Telling {
            commit: "a".repeat(40).parse().unwrap(),
            statuses: BTreeMap::from([("volary/canary".to_owned(), (stand, text.to_owned()))]),
            comment: text.to_owned(),
            marker: String::new(),
            url: String::new(),
        }
    }

    /// What a forge knows after it took all of it at time 0.
    fn told(telling: &Telling) -> Told {
        Told {
            commit: Some(telling.commit.clone()),
            statuses: telling.statuses.clone(),
            comment: telling.comment.clone(),
            at: Some(at(0)),
            ..Told::default()
        }
    }

    #[test]
    fn words_are_told_at_once_and_figures_from_time_to_time() {
        let asks = telling(Stand::Pending, "2 h to go");
        assert!(asks.is_due(&Told::default(), at(0)));
        let known = told(&asks);
        assert!(!asks.is_due(&known, at(1_000_000)), "it knows all of it");
        assert!(!telling(Stand::Pending, "1 h to go").is_due(&known, at(3599)));
        assert!(telling(Stand::Pending, "1 h to go").is_due(&known, at(3600)));
        assert!(telling(Stand::Failure, "2 h to go").is_due(&known, at(1)));
        let other = Telling { commit: "b".repeat(40).parse().unwrap(), ..asks.clone() };
        assert!(other.is_due(&known, at(1)));
        let no_request = Told { comment: String::new(), ..known.clone() };
        assert!(!asks.is_due(&no_request, at(119)));
        assert!(asks.is_due(&no_request, at(120)));
        let failed = Told { failures: 1, not_before: Some(at(10)), ..known };
        assert!(!other.is_due(&failed, at(9)));
        assert!(asks.is_due(&failed, at(10)));
    }

    #[test]
    fn what_others_wrote_stays_text() {
        let text = plain("ask @alice, see #7 or !8 | <b>[x](y)</b> `rm`\n/close https://x");
        for harmful in ["@alice", "#7", "!8", " | ", "<b>", "[x]", " `rm`", "/close", "//x", "\n"] {
            assert!(!text.contains(harmful), "{harmful:?} in {text}");
        }
    }

    #[test]
    fn only_the_open_request_of_the_commit_gets_the_comment() {
        let (commit, other) = ("a".repeat(40), "b".repeat(40));
        let wanted: CommitId = commit.parse().unwrap();
        let github = Comments { kind: HookKind::Github, repository: "a/b" };
        let request = |number: u64, state: &str, sha: &str| json!({ "number": number, "iid": number, "state": state, "sha": sha, "head": { "sha": sha } });
        let answer =
            json!([request(1, "closed", &commit), request(2, "open", &other), request(3, "open", &commit)]);
        assert_eq!(github.request_in(&answer, &wanted), Some(3));
        assert_eq!(github.request_in(&json!([request(1, "closed", &commit)]), &wanted), None);
        assert_eq!(github.request_in(&json!({ "message": "no" }), &wanted), None);
        let gitlab = Comments { kind: HookKind::Gitlab, repository: "a/sub/b" };
        assert_eq!(gitlab.request_in(&json!([request(4, "opened", &commit)]), &wanted), Some(4));
        assert_eq!(gitlab.comment(4, 9), "/projects/a%2Fsub%2Fb/merge_requests/4/notes/9");
        assert_eq!(github.comment(3, 9), "/repos/a/b/issues/comments/9");
        let comments = json!([{ "id": 1, "body": "good" }, { "id": 2, "body": "<!-- m -->\nx" }]);
        assert_eq!(Comments::ours_in(&comments, "<!-- m -->"), [2]);
    }
}
