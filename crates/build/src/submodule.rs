//! Submodules of a source: where each comes from. They are taken from the copies of registered
//! sources and never fetched, so that a commit cannot send the server anywhere.

use std::path::PathBuf;

use volary_model::CommitId;

use crate::error::GitError;
use crate::repository::Repository;

/// Submodules of submodules of submodules: deeper than this is a mistake or malice.
const DEEPEST: usize = 8;

/// A repository that submodules may come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its address, as it is registered.
    pub url: String,
    /// Its copies on this machine.
    pub copies: Vec<PathBuf>,
}

/// A submodule in a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submodule {
    /// Its folder in the source.
    pub(crate) path: String,
    /// Its commit.
    pub(crate) commit: CommitId,
    /// Its address, whole; none if `.gitmodules` does not say.
    pub(crate) url: Option<String>,
}

/// Writes the files of a commit and of its submodules into `into`. `url` is the address of the
/// repository itself, for submodules that are named relative to it.
///
/// # Errors
/// [`GitError::Submodule`] for one that is not at hand; else as [`Repository::export`].
pub(crate) fn export(
    repository: &Repository,
    commit: &CommitId,
    url: &str,
    origins: &[Origin],
    into: &std::path::Path,
) -> Result<(), GitError> {
    at_depth(repository, commit, url, origins, into, 0)
}

fn at_depth(
    repository: &Repository,
    commit: &CommitId,
    url: &str,
    origins: &[Origin],
    into: &std::path::Path,
    depth: usize,
) -> Result<(), GitError> {
    repository.export(commit, into)?;
    for module in repository.submodules(commit, url)? {
        let refused = |why: String| GitError::Submodule {
            path: module.path.clone(),
            commit: module.commit.clone(),
            why,
        };
        let module_url =
            module.url.as_ref().ok_or_else(|| refused(".gitmodules has no url for it".to_owned()))?;
        let origin = origins.iter().find(|origin| same(&origin.url, module_url)).ok_or_else(|| {
            refused(format!(
                "{module_url} is no registered source; register it: volary source add NAME {module_url}"
            ))
        })?;
        let mut copies = origin.copies.iter().map(Repository::new);
        let copy = copies.find(|copy| copy.has(&module.commit).unwrap_or(false)).ok_or_else(|| {
            refused(format!("the registered branch of {module_url} does not have that commit"))
        })?;
        if depth == DEEPEST {
            return Err(refused(format!("submodules are nested more than {DEEPEST} deep")));
        }
        at_depth(&copy, &module.commit, module_url, origins, &into.join(&module.path), depth + 1)?;
    }
    Ok(())
}

/// True if two addresses are those of one repository.
fn same(one: &str, other: &str) -> bool {
    let plain = |url: &str| {
        let url = url.trim_end_matches('/');
        url.strip_suffix(".git").unwrap_or(url).trim_end_matches('/').to_owned()
    };
    plain(one) == plain(other)
}

/// The whole address of a submodule: git takes one that begins with a dot as relative to the
/// address of the repository that it is in.
pub(crate) fn resolve(base: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = base.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            // What stands before the last slash; an address like host:path ends at the colon.
            match base.rfind(['/', ':']) {
                Some(at) if base[at..].starts_with(':') => base.truncate(at + 1),
                Some(at) => base.truncate(at),
                None => base.clear(),
            }
        } else {
            break;
        }
    }
    let between = if base.is_empty() || base.ends_with([':', '/']) { "" } else { "/" };
    format!("{base}{between}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_addresses_are_those_of_git() {
        let check = |base: &str, url: &str, expected: &str| assert_eq!(resolve(base, url), expected);
        check("https://h/team/app.git", "../lib.git", "https://h/team/lib.git");
        check("https://h/team/app.git/", "../../other/lib", "https://h/other/lib");
        check("/srv/app", "./lib", "/srv/app/lib");
        check("git@h:app.git", "../lib.git", "git@h:lib.git");
        check("https://h/app", "https://g/lib", "https://g/lib");
    }

    #[test]
    fn an_ending_makes_no_other_repository() {
        assert!(same("https://h/lib.git", "https://h/lib/"));
        assert!(!same("https://h/lib", "https://h/library"));
    }
}
