//! What a fleet measures itself: files that hold a number, programs of its checkout that print one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use volary_fleet::Metrics;
use volary_host::Cmd;

use super::Plan;
use super::files::Root;
use super::sink::Sink;
use crate::{log, units};

/// How long a program may take: it runs with each look.
const LIMIT: Duration = Duration::from_secs(10);

/// Programs that failed the last time, with what was said about it: each trouble is said once.
#[derive(Debug, Default)]
pub struct Own {
    troubles: BTreeMap<String, String>,
}

impl Own {
    /// Looks.
    pub fn look(&mut self, root: &Root, plan: &Plan, sink: &mut Sink<'_>) {
        let Metrics { files, commands, .. } = &plan.metrics;
        for (name, path) in files {
            sink.put_own(name, root.text(path).and_then(|text| number(&text)));
        }
        let Some(checkout) = &plan.checkout else { return };
        for (name, words) in commands {
            match run(plan, checkout, words) {
                Ok(value) => {
                    self.troubles.remove(name);
                    sink.put_own(name, value);
                }
                Err(trouble) => {
                    let before = self.troubles.insert(name.clone(), trouble.clone());
                    if before.as_ref() != Some(&trouble) {
                        log::say(format!("{name} has no number: {trouble}"));
                    }
                }
            }
        }
    }
}

/// Runs one as the checks of health are run.
fn run(plan: &Plan, checkout: &Path, words: &[String]) -> Result<f64, String> {
    let (program, arguments) = words.split_first().ok_or("there is no program")?;
    let command = Cmd::new(checkout.join(program))
        .args(arguments)
        .cwd(checkout)
        .env("VOLARY_STAGE", plan.stage.as_str())
        .env("VOLARY_COMMIT", plan.commit.as_ref().map_or("", |commit| commit.as_str()))
        .timeout(LIMIT);
    let output = units::unprotected(command).check().map_err(|error| error.to_string())?;
    let text = output.text();
    number(&text).ok_or_else(|| {
        let said: String = text.trim().chars().take(80).collect();
        format!("{program} printed {said:?}, which is no number")
    })
}

/// The number that is all of a text.
fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}
