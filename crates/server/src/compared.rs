//! How two commits differ, for people. That never changes, and each look at a promotion asks for it, which starts git: what
//! was asked for last is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use volary_fleet::{ChangeKind, GitRepository, ReadObjects, changed_files};
use volary_model::CommitId;

use crate::gates::GateError;

/// How many files and commits are listed at most.
const LISTED: usize = 500;

/// How much of the differences of files is kept; the command line has all of it.
const DIFF: usize = 200 << 10;

/// How many pairs of commits are kept: a promotion into each stage, before and after a push.
const KEPT: usize = 16;

/// How two commits differ.
#[derive(Debug)]
pub(crate) struct Differences {
    /// Files with `A`, `M` or `D` before the path.
    pub(crate) files: Vec<String>,
    /// The commits that people made; merges between stages say nothing new.
    pub(crate) commits: Vec<String>,
    /// The differences of the files as git shows them, and whether their end was left out.
    pub(crate) diff: (String, bool),
}

type Pair = (Option<CommitId>, CommitId);

/// What was asked for last, the newest first.
#[derive(Debug, Default)]
pub(crate) struct Compared(Mutex<VecDeque<(Pair, Arc<Differences>)>>);

impl Compared {
    /// How `commit` differs from `base`, of which it may be the first.
    pub(crate) fn of(
        &self,
        repository: &GitRepository,
        base: Option<&CommitId>,
        commit: &CommitId,
    ) -> Result<Arc<Differences>, GateError> {
        let pair = (base.cloned(), commit.clone());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(known, _)| *known == pair).map(|(_, found)| found.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let found = Arc::new(Differences {
            files: changed(repository, base, commit)?,
            commits: commits(repository, base, commit)?,
            diff: diff(repository, base, commit)?,
        });
        let mut kept = lock();
        kept.push_front((pair, found.clone()));
        kept.truncate(KEPT);
        Ok(found)
    }
}

fn changed(
    repository: &GitRepository,
    base: Option<&CommitId>,
    commit: &CommitId,
) -> Result<Vec<String>, GateError> {
    let Some(base) = base else { return Ok(Vec::new()) };
    let (old, new) = (repository.commit(base)?.tree, repository.commit(commit)?.tree);
    let changes = changed_files(repository, &old, &new, LISTED)?;
    let line = |kind, path| match kind {
        ChangeKind::Added => format!("A {path}"),
        ChangeKind::Changed => format!("M {path}"),
        ChangeKind::Removed => format!("D {path}"),
    };
    Ok(changes.into_iter().map(|change| line(change.kind, change.path)).collect())
}

fn commits(
    repository: &GitRepository,
    base: Option<&CommitId>,
    commit: &CommitId,
) -> Result<Vec<String>, GateError> {
    let range = base.map_or_else(|| commit.to_string(), |base| format!("{base}..{commit}"));
    let limit = format!("--max-count={LISTED}");
    let listed = repository
        .git()
        .args(["log", "--no-merges", "--no-show-signature", &limit, "--format=%H %s", &range, "--"])
        .check()
        .map_err(|error| GateError::Fleet(error.to_string()))?;
    let short = |line: &str| {
        line.split_once(' ').map(|(id, subject)| format!("{} {subject}", &id[..7.min(id.len())]))
    };
    Ok(listed.text().lines().filter_map(short).collect())
}

fn diff(
    repository: &GitRepository,
    base: Option<&CommitId>,
    commit: &CommitId,
) -> Result<(String, bool), GateError> {
    let Some(base) = base else { return Ok((String::new(), false)) };
    let shown = repository
        .git()
        .args(["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"])
        .args([base.as_str(), commit.as_str(), "--"])
        .check()
        .map_err(|error| GateError::Fleet(error.to_string()))?;
    let text = shown.text();
    let end = (0..=DIFF.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Ok((text[..end].to_owned(), end < text.len()))
}
