//! Merges by the server itself, into stages whose `volary.yml` lets it, once every gate says go.
//!
//! The merge is what `volary promote` would make, signed with a key that may do nothing else, and it is
//! judged by what judges a push. Not here: what the gates say (`gates`), and when this is asked
//! (`reconcile::promotions`).

use std::path::Path;

use volary_api::v1::fleet::{Promotion, Say, Verdict};
use volary_fleet::{EvidenceKey, GitRepository, PROMOTER, Rules, STAGE_TRAILER, Start, verify_advance};
use volary_host::Cmd;
use volary_model::{CommitId, StageName};

use crate::{Layout, evidence, fleet_view, hook};

/// A merge to be made.
#[derive(Debug, Clone)]
pub(crate) struct Merge {
    pub(crate) from: StageName,
    pub(crate) to: StageName,
    pub(crate) branch: String,
    pub(crate) base: CommitId,
    pub(crate) commit: CommitId,
    /// The suite that it brings, for the message.
    pub(crate) suite: String,
    /// Who asked for it; empty if the server does it by itself.
    pub(crate) asked_by: String,
}

impl Merge {
    /// The merge of what was previewed onto `base`, into this branch.
    pub(crate) fn of(found: Promotion, base: CommitId, branch: &str, asked_by: &str) -> Self {
        Self {
            from: found.from,
            to: found.to,
            branch: branch.to_owned(),
            base,
            commit: found.commit,
            suite: found.suite_after.unwrap_or_else(|| "no release".to_owned()),
            asked_by: asked_by.to_owned(),
        }
    }
}

/// What the gates say that do not say go, in a sentence; `None` if all do.
pub(crate) fn closed(verdicts: &[Verdict]) -> Option<String> {
    let closed = verdicts.iter().filter(|verdict| verdict.say != Say::Go);
    let said: Vec<String> = closed.map(|verdict| format!("{}: {}", verdict.gate, verdict.reason)).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The line of the server's key for `.volary/allowed_signers`; the key is made if there is none.
///
/// # Errors
/// The key cannot be read or made.
pub(crate) fn signers_line(layout: &Layout) -> Result<String, String> {
    let path = layout.promotion_key();
    if !path.is_file() {
        evidence::make_key(&path).map_err(|error| error.to_string())?;
    }
    let text = volary_host::read_to_string(&path).map_err(|error| error.to_string())?;
    let key = EvidenceKey::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(key.line(PROMOTER, "git"))
}

/// Makes the merge and moves the branch.
///
/// # Errors
/// Why it was not made; then nothing is changed.
pub(crate) fn merge(layout: &Layout, merge: &Merge) -> Result<CommitId, String> {
    let repository = fleet_view::open(layout)?;
    knows_key(layout, &repository, &merge.base)?;
    let made = commit(layout, merge)?;
    let Merge { to, branch, base, .. } = merge;
    verify_advance(&repository, to, Start::After(base), &made).map_err(|refusal| refusal.to_string())?;
    let update = format!("{base} {made} refs/heads/{branch}\n");
    hook::judge(layout, &layout.fleet(), &update, &merge.asked_by).map_err(|refused| refused.to_string())?;
    git(layout)
        .args(["update-ref", &format!("refs/heads/{branch}"), made.as_str(), base.as_str()])
        .check()
        .map_err(|error| error.to_string())?;
    Ok(made)
}

fn knows_key(layout: &Layout, repository: &GitRepository, base: &CommitId) -> Result<(), String> {
    let line = signers_line(layout)?;
    let rules = Rules::at(repository, base).map_err(|error| error.to_string())?;
    let key = line.rsplit(' ').next().unwrap_or_default();
    let known =
        rules.signers.signers.iter().filter(|signer| signer.principals.iter().any(|name| name == PROMOTER));
    let is_this = |text: String| text.split(' ').any(|word| word == key);
    if known.filter_map(|signer| signer.key.to_openssh().ok()).any(is_this) {
        return Ok(());
    }
    Err(format!(
        "the server's key is not in .volary/allowed_signers of {}: volary server-keys shows the line",
        base.short()
    ))
}

fn git(layout: &Layout) -> Cmd {
    Cmd::new("git")
        .cwd(layout.fleet())
        .args(["-c", "user.name=Volary", "-c", &format!("user.email={PROMOTER}@localhost")])
        .args(["-c", "safe.directory=*", "-c", "gpg.format=ssh"])
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env_remove("GIT_DIR")
}

fn commit(layout: &Layout, merge: &Merge) -> Result<CommitId, String> {
    let Merge { from, to, base, commit, suite, asked_by, .. } = merge;
    let who = if asked_by.is_empty() { String::new() } else { format!(", and {asked_by} asked for it") };
    let message = format!(
        "Promote {from} to {to}: {suite}\n\nMerges {commit} unchanged: every gate said go{who}.\n\n{STAGE_TRAILER}: {to}\n"
    );
    let key = format!("user.signingkey={}", path_text(&layout.promotion_key()));
    let made = git(layout)
        .args(["-c", &key, "commit-tree", "-S", "-p", base.as_str(), "-p", commit.as_str(), "-F", "-"])
        .arg(format!("{commit}^{{tree}}"))
        .stdin(message)
        .check()
        .map_err(|error| error.to_string())?;
    made.text().trim().parse().map_err(|_| "git named no commit".to_owned())
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
