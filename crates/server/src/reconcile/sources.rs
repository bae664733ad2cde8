//! Looks for new commits in the source repositories and queues their builds.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use volary_build::{GitError, RECIPE_FILE, Recipe, Repository, SourceMirror};
use volary_model::{Architecture, BuildScope, CommitId};
use volary_store::{NewBuild, Source};

use crate::app::App;

/// The most builds that one look queues: somebody who pushes a year of history wants its end.
const MOST: usize = 50;

/// What is read of a source's files to plan its builds, in bytes: more than any of Debian has.
const LONGEST: u64 = 1 << 20;

/// Looks at all hosted sources, and at the others whose time has come. Those run beside each
/// other and are not waited for: one that does not answer must not hold up the rest.
pub(super) async fn sources(app: Arc<App>) -> Result<(), String> {
    let sources = app.store.sources().await.map_err(|error| error.to_string())?;
    let asked = std::mem::take(&mut *app.asked_to_poll.lock().unwrap_or_else(PoisonError::into_inner));
    for source in sources {
        let due = source.polled_at.is_none_or(|at| {
            let age = volary_host::now().duration_since(at);
            // A clock that was set back must not end the polling.
            age.is_negative() || Duration::try_from(age).is_ok_and(|age| age >= app.config.poll_interval())
        });
        if source.url.is_none() {
            look(&app, source).await;
        } else if due || asked.contains(&source.name) {
            let new = app.looking.lock().unwrap_or_else(PoisonError::into_inner).insert(source.name.clone());
            if new {
                let app = app.clone();
                tokio::spawn(async move {
                    let name = source.name.clone();
                    look(&app, source).await;
                    app.looking.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                });
            }
        }
    }
    Ok(())
}

async fn look(app: &Arc<App>, source: Source) {
    let found = {
        let (app, source) = (app.clone(), source.clone());
        tokio::task::spawn_blocking(move || find(&app, &source)).await
    };
    let problem = match found {
        Ok(Ok(None)) => None,
        Ok(Ok(Some((tip, commits)))) => advance(app, &source, &tip, &commits).await.err(),
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(format!("the server has a bug: {error}")),
    };
    if problem.is_some() && problem != source.problem {
        let text = problem.clone().unwrap_or_default();
        app.event("source-failed", source.name.as_str(), &text).await;
    }
    // For hosted ones a line each ten seconds would be written for nothing.
    if source.url.is_some() || problem != source.problem || source.polled_at.is_none() {
        let noted = app.store.source_polled(&source.name, problem.as_deref(), volary_host::now()).await;
        if let Err(error) = noted {
            tracing::error!(source = %source.name, %error, "cannot note that a source was looked at");
        }
    }
}

/// Why a source could not be looked at.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Machine(#[from] volary_build::SetupError),
}

type Found = Option<(CommitId, Vec<NewBuild>)>;

fn find(app: &App, source: &Source) -> Result<Found, Failed> {
    let (repository, tip) = match &source.url {
        Some(url) => {
            let mirror = SourceMirror::new(app.layout.mirror(&source.name));
            let tip = mirror.update(url, &source.branch)?;
            (mirror.repository().clone(), tip)
        }
        None => {
            let repository = Repository::new(app.layout.source(&source.name));
            let tip = match repository.tip(&source.branch) {
                Ok(tip) => tip,
                // Nobody has pushed yet, which is how each hosted source begins.
                Err(GitError::NoBranch { .. }) if source.tip.is_none() => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            (repository, tip)
        }
    };
    if source.tip.as_ref() == Some(&tip) {
        return Ok(None);
    }
    let mut commits = repository.new_commits(source.tip.as_ref(), &tip)?;
    if commits.is_empty() {
        commits.push(tip.clone());
    }
    let skipped = commits.len().saturating_sub(MOST);
    let native = volary_build::native_architecture()?;
    let builds = commits[skipped..]
        .iter()
        .map(|commit| {
            let info = repository.commit_info(commit)?;
            let targets = targets(app, source, &repository, commit, &native)?;
            Ok(NewBuild {
                commit: info.id,
                subject: info.subject,
                author: format!("{} <{}>", info.author, info.author_email),
                committed_at: info.committed,
                targets,
            })
        })
        .collect::<Result<_, GitError>>()?;
    Ok(Some((tip, builds)))
}

/// The builds of one commit. What its files say is looked at again by the build, which complains
/// of what it cannot read.
fn targets(
    app: &App,
    source: &Source,
    repository: &Repository,
    commit: &CommitId,
    native: &Architecture,
) -> Result<Vec<(Architecture, BuildScope)>, GitError> {
    let control = repository.file(commit, "debian/control", LONGEST)?.unwrap_or_default();
    let recipe = repository.file(commit, RECIPE_FILE, LONGEST)?;
    let own = match recipe.as_deref().map(Recipe::parse) {
        // One build is enough to tell.
        Some(Err(_)) => return Ok(vec![(native.clone(), BuildScope::Full)]),
        Some(Ok(recipe)) => recipe.architectures,
        None => None,
    };
    let usual = [&source.architectures, &app.config.build_architectures];
    let wanted = own
        .or_else(|| usual.into_iter().find(|list| !list.is_empty()).cloned())
        .unwrap_or_else(|| vec![native.clone()]);
    let planned = volary_build::plan_builds(&control, &wanted, native);
    Ok(planned.into_iter().map(|build| (build.architecture, build.scope)).collect())
}

async fn advance(app: &App, source: &Source, tip: &CommitId, commits: &[NewBuild]) -> Result<(), String> {
    let queued = app
        .store
        .advance_source(&source.name, source.tip.as_ref(), tip, commits, volary_host::now())
        .await
        .map_err(|error| error.to_string())?;
    let mut each = Vec::new();
    for commit in commits {
        each.extend(commit.targets.iter().map(|(architecture, _)| (commit, architecture)));
    }
    for (id, (commit, architecture)) in queued.iter().zip(each) {
        let text = format!(
            "{} {}: {} (build {id}, {architecture})",
            source.name,
            commit.commit.short(),
            commit.subject
        );
        app.event("build-queued", &id.to_string(), &text).await;
    }
    if !queued.is_empty() {
        app.nudges.builds.notify_waiters();
        app.nudges.builds.notify_one();
    }
    Ok(())
}
