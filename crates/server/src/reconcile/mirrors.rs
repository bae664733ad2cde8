//! Brings mirrors to the state of their publications when their time comes, or when asked.

use std::sync::Arc;

use tokio::sync::watch;
use volary_model::Component;

use crate::app::App;
use crate::mirrors::definition::Definition;
use crate::mirrors::is_due;
use crate::mirrors::live::Live;
use crate::mirrors::report::Stored;
use crate::tls::listener::asked_to_stop;

/// Begins the syncs that are due. They run beside each other and are not waited for: one that
/// fetches for hours must not hold up the rest.
pub(super) async fn mirrors(app: Arc<App>) -> Result<(), String> {
    let looking = app.clone();
    let (due, problems) = tokio::task::spawn_blocking(move || look(&looking))
        .await
        .map_err(|error| format!("the server has a bug: {error}"))?;
    for definition in due {
        let Some(live) = app.mirrors.begin(&definition.name) else { continue };
        let app = app.clone();
        tokio::spawn(async move {
            run(&app, &definition, &live).await;
            app.mirrors.end(&definition.name);
        });
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

/// The mirrors that are due, and what is wrong with any.
fn look(app: &App) -> (Vec<Definition>, Vec<String>) {
    let (mut due, mut problems) = (Vec::new(), Vec::new());
    let now = volary_host::now();
    for name in app.mirrors.names() {
        let last = Stored::read(app.mirrors.dir(), &name);
        if let Some(problem) = last.as_ref().and_then(|last| last.problem.as_ref()) {
            problems.push(format!("mirror {name}: {problem}"));
        }
        match Definition::read(app.mirrors.dir(), &name) {
            Ok(Some(definition)) => {
                if is_due(last.as_ref(), &definition, app.mirrors.is_asked(&name), now) {
                    due.push(definition);
                }
            }
            // It went between the list and the look.
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    (due, problems)
}

async fn run(app: &Arc<App>, definition: &Definition, live: &Arc<Live>) {
    let Ok(_slot) = app.mirrors.slots.acquire().await else { return };
    let name = &definition.name;
    let before = problem(app, name);
    let worker = (app.clone(), definition.clone(), live.clone());
    let synced = tokio::task::spawn_blocking(move || {
        let (app, definition, live) = worker;
        app.mirrors.sync(&definition, &app.archive, &live)
    })
    .await
    .unwrap_or_else(|error| Err(format!("the server has a bug: {error}")));
    match synced {
        Ok(stored) => match &stored.problem {
            // Once, and not at each repetition.
            Some(problem) if before.as_ref() != Some(problem) => {
                app.event("mirror-failed", name.as_str(), &format!("mirror {name}: {problem}")).await;
            }
            None if stored.is_new => {
                let report = stored.to_api();
                let text = format!(
                    "mirror {name} has {} ({} new, {} gone)",
                    volary_plan::text::count(report.packages as usize, "package"),
                    report.added,
                    report.removed
                );
                app.event("mirror-synced", name.as_str(), &text).await;
                app.rolling_changed();
            }
            Some(_) | None => {}
        },
        Err(problem) => tracing::error!(mirror = %name, %problem, "cannot note how a sync went"),
    }
}

fn problem(app: &App, name: &Component) -> Option<String> {
    Stored::read(app.mirrors.dir(), name)?.problem
}

/// Lets syncs and imports end when the server does; what they fetched is kept.
pub(super) async fn stopper(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    asked_to_stop(&mut stop).await;
    app.mirrors.stop();
}
