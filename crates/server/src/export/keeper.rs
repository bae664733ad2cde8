//! Keeps a declared export up to date: after each publish, and once a day in any case, since
//! somebody may have removed files from the target. A target that fails is tried again later and
//! later; nothing else of the server waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use volary_api::v1::export::{Export, ExportState, Exported};
use volary_archive::export::ExportOptions;
use volary_model::Digest;

use crate::app::App;
use crate::export::{ExportConfig, ExportFailure, exported};
use crate::tls::listener::asked_to_stop;

/// How often the archive is looked at for a new state: a file of some kilobytes for each suite.
const LOOK: Duration = Duration::from_secs(5);

/// How often all that is in the target is listed and compared.
const THOROUGH: SignedDuration = SignedDuration::from_hours(24);

/// The first wait after a failure; it doubles with each further one.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(15);

/// The longest wait between two tries.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(1);

/// How the declared exports are.
#[derive(Debug, Default)]
pub(crate) struct Keeper(Mutex<BTreeMap<String, Standing>>);

/// How one of them is.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// The state of the archive that the target has.
    has: Option<Digest>,
    /// That of the archive now.
    wants: Option<Digest>,
    running: bool,
    asked: bool,
    failures: u32,
    problem: Option<String>,
    tried_at: Option<Timestamp>,
    done_at: Option<Timestamp>,
    thorough_at: Option<Timestamp>,
    last: Option<Exported>,
}

/// Why a run is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The archive has a new state.
    Changed,
    /// All that is in the target is to be looked at.
    Thorough,
}

impl Standing {
    /// When it may be tried again after failures.
    fn next_at(&self) -> Option<Timestamp> {
        let tried = self.tried_at.filter(|_| self.failures > 0)?;
        let doubled = FIRST_WAIT * 2_i32.saturating_pow(self.failures.min(16) - 1);
        tried.checked_add(doubled.min(LONGEST_WAIT)).ok()
    }

    fn due(&self, now: Timestamp) -> Option<Due> {
        if self.running {
            return None;
        }
        if self.asked {
            return Some(Due::Thorough);
        }
        // A clock that went back must not end the trying.
        if self.next_at().is_some_and(|next| now < next && self.tried_at.is_some_and(|tried| tried <= now)) {
            return None;
        }
        let long_ago = |at: Timestamp| now < at || now.duration_since(at) >= THOROUGH;
        if self.thorough_at.is_none_or(long_ago) {
            return Some(Due::Thorough);
        }
        (self.has != self.wants).then_some(Due::Changed)
    }

    fn ended(&mut self, due: Due, wanted: Option<Digest>, outcome: Result<Exported, String>, now: Timestamp) {
        self.running = false;
        self.tried_at = Some(now);
        match outcome {
            Ok(exported) => {
                self.has = wanted;
                self.failures = 0;
                self.problem = None;
                self.done_at = Some(now);
                if due == Due::Thorough {
                    self.thorough_at = Some(now);
                }
                self.last = Some(exported);
            }
            Err(problem) => {
                self.failures += 1;
                self.problem = Some(problem);
            }
        }
    }

    fn state(&self) -> ExportState {
        match () {
            () if self.running => ExportState::Running,
            () if self.problem.is_some() => ExportState::Failed,
            () if self.has == self.wants && self.has.is_some() => ExportState::Current,
            () => ExportState::Behind,
        }
    }
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a declared export is.
    pub(crate) fn show(&self, config: &ExportConfig) -> Export {
        let standing = self.lock().get(&config.name).cloned().unwrap_or_default();
        Export {
            name: config.name.clone(),
            to: config.to.clone(),
            suites: config.suites.clone(),
            state: standing.state(),
            done_at: standing.done_at,
            next_at: standing.next_at(),
            problem: standing.problem,
            last: standing.last,
        }
    }

    /// Has it run at once.
    pub(crate) fn ask(&self, name: &str) {
        self.lock().entry(name.to_owned()).or_default().asked = true;
    }

    /// The problems of those that failed last.
    pub(crate) fn problems(&self) -> Vec<String> {
        let standings = self.lock();
        let problem = |(name, standing): (&String, &Standing)| {
            Some(format!("export {name}: {}", standing.problem.as_ref()?))
        };
        standings.iter().filter_map(problem).collect()
    }

    /// Notes the archive's state, and begins a run if one is due.
    fn begin(&self, name: &str, wants: Option<Digest>, now: Timestamp) -> Option<Due> {
        let mut standings = self.lock();
        let standing = standings.entry(name.to_owned()).or_default();
        standing.wants = wants;
        let due = standing.due(now)?;
        (standing.running, standing.asked) = (true, false);
        Some(due)
    }
}

/// Keeps one export up to date until the server stops.
pub(crate) async fn keep(app: Arc<App>, config: ExportConfig, mut stop: watch::Receiver<bool>) {
    loop {
        one_look(&app, &config).await;
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = tokio::time::sleep(LOOK) => {}
            () = app.nudges.exports.notified() => {}
        }
    }
}

async fn one_look(app: &Arc<App>, config: &ExportConfig) {
    let (depot, own) = (app.archive.clone(), config.clone());
    let state = tokio::task::spawn_blocking(move || {
        let choices = own.choices().map_err(ExportFailure::Place)?;
        Ok::<_, ExportFailure>(depot.archive().export_state(&choices)?)
    })
    .await;
    // Why the state cannot be read is said by the run that it makes due.
    let wants = state.ok().and_then(Result::ok);
    let Some(due) = app.exports.begin(&config.name, wants, volary_host::now()) else { return };
    let (worker, own) = (app.clone(), config.clone());
    let outcome = tokio::task::spawn_blocking(move || run(&worker, &own, due)).await;
    let outcome = match outcome {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the server has a bug: {error}")),
    };
    tell(app, config, &outcome).await;
    let mut standings = app.exports.lock();
    let standing = standings.entry(config.name.clone()).or_default();
    standing.ended(due, wants, outcome, volary_host::now());
}

fn run(app: &App, config: &ExportConfig, due: Due) -> Result<Exported, ExportFailure> {
    let choices = config.choices().map_err(ExportFailure::Place)?;
    let target = config.target()?;
    // The declaration says all that is to be there.
    let options = ExportOptions { only: true, thorough: due == Due::Thorough, ..config.options() };
    let report = app.archive.archive().export(&*target, &choices, &options, volary_host::now(), &|_| {})?;
    Ok(exported(report))
}

/// What a person should find among the events: a failure once, the end of failures, new states.
async fn tell(app: &App, config: &ExportConfig, outcome: &Result<Exported, String>) {
    let before = app.exports.show(config).problem;
    let name = &config.name;
    match outcome {
        Err(problem) if before.as_ref() != Some(problem) => {
            app.event("export-failed", name, &format!("export {name} to {} failed: {problem}", config.to))
                .await;
        }
        Ok(exported) if !exported.changed.is_empty() || before.is_some() => {
            let changed = if exported.changed.is_empty() {
                "nothing new".to_owned()
            } else {
                exported.changed.join(", ")
            };
            app.event("exported", name, &format!("export {name} to {}: {changed}", config.to)).await;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn digest(byte: u8) -> Option<Digest> {
        Some(Digest::from_bytes([byte; 32]))
    }

    fn current() -> Standing {
        let mut standing = Standing { wants: digest(1), ..Standing::default() };
        assert_eq!(standing.due(at(0)), Some(Due::Thorough), "the first run looks at all");
        standing.ended(Due::Thorough, digest(1), Ok(Exported::default()), at(0));
        assert_eq!((standing.due(at(1)), standing.state()), (None, ExportState::Current));
        standing
    }

    #[test]
    fn a_publish_makes_it_due_and_a_day_makes_it_thorough() {
        let mut standing = current();
        standing.wants = digest(2);
        assert_eq!((standing.due(at(5)), standing.state()), (Some(Due::Changed), ExportState::Behind));
        standing.running = true;
        assert_eq!((standing.due(at(5)), standing.state()), (None, ExportState::Running));
        standing.ended(Due::Changed, digest(2), Ok(Exported::default()), at(6));
        assert_eq!(standing.due(at(7)), None);
        assert_eq!(standing.due(at(86_400)), Some(Due::Thorough));
        assert_eq!(standing.due(at(-5)), Some(Due::Thorough), "the clock went back");
    }

    #[test]
    fn a_publish_during_a_run_is_not_lost() {
        let mut standing = current();
        standing.wants = digest(3);
        standing.ended(Due::Changed, digest(2), Ok(Exported::default()), at(6));
        assert_eq!(standing.due(at(7)), Some(Due::Changed));
    }

    #[test]
    fn failures_are_tried_again_later_and_later_or_when_asked() {
        let mut standing = current();
        standing.wants = digest(2);
        let mut now = 10;
        for wait in [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert_eq!(standing.due(at(now)), Some(Due::Changed));
            standing.ended(Due::Changed, digest(2), Err("unreachable".to_owned()), at(now));
            assert_eq!((standing.due(at(now + wait - 1)), standing.state()), (None, ExportState::Failed));
            now += wait;
        }
        let asked = Standing { asked: true, ..standing.clone() };
        assert_eq!(asked.due(at(now - 1)), Some(Due::Thorough));
        assert_eq!(standing.due(at(-100)), Some(Due::Thorough), "the clock went back");
        standing.ended(Due::Changed, digest(2), Ok(Exported::default()), at(now));
        assert_eq!((standing.due(at(now + 1)), standing.state()), (None, ExportState::Current));
    }
}
