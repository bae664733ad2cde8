//! `volary-agent`: reads the command line, calls the library, turns errors into exit codes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};
use volary_agent::agent::{Agent, AgentError};
use volary_agent::by_hand::{self, ByHandError};
use volary_agent::checkpoint::keep::{self, KeepError};
use volary_agent::config::{Config, ConfigError};
use volary_agent::elsewhere::Place;
use volary_agent::enroll::{self, Ending, EnrollError, Wanted};
use volary_agent::http::HttpError;
use volary_agent::key::KeyPlace;
use volary_agent::ledger::Ledger;
use volary_agent::modules::{self, ModuleError, Outcome};
use volary_agent::paths::Paths;
use volary_agent::preview::{self, PreviewError};
use volary_agent::repo::Blame;
use volary_agent::said::{Artifact, Confirmed, Enrolment, Revert, Version};
use volary_agent::spool::Spool;
use volary_agent::status::{SlotsStatus, Status};
use volary_agent::{daemon, history, log, rescue, undo, units, work};
use volary_api::join::JoinToken;
use volary_device::{Event, Hold, Phase, Rest, State};
use volary_host::{FileError, now};
use volary_model::{DeviceName, Digest};

const HELP: &str = "\
volary-agent: follows a branch of a fleet repository

  volary-agent enroll --token TOKEN [--name NAME] [--key file|tpm] [--json]
  volary-agent enroll --server URL --ca FILE --signers FILE --stage STAGE [--name NAME]
                      [--key file|tpm] [--wait SECONDS | --no-wait] [--json]
      gets an identity; without a token it waits for: volary device accept NAME
      run again, it goes on where it was cut off
  volary-agent daemon           asks, converges and reports until it is told to end
  volary-agent run [--again] [--from PLACE] [--json]
                                one convergence now, whatever windows say; says how it ended;
                                --again also tries what was undone here before; --from takes
                                the fleet from a folder, https://…, or a git remote (git+https://…)
  volary-agent plan [--json]    what the next run would do and what it would wait for; changes nothing
  volary-agent hold [--for 2h] [--json] [REASON]
                                no convergence begins until it is released, or for that long
  volary-agent release [--json] ends a hold
  volary-agent status [--json]  what this device is, what it waits for, how its last convergence ended
  volary-agent metrics [--json] what this device measures, with its values now
  volary-agent log [-n 20] [--json]
                                how the last convergences ended and why, newest first
  volary-agent artifact install FILE [--sha256 HEX] [--as NAME] [--commit] [--json]
                                hands an artifact that is no image to its update module; --as:
                                not again if the same one lasts under that name; it waits for
                                commit or rollback, or stays and goes with a change under way
  volary-agent artifact commit|rollback|reboot|show [--json]
  volary-agent confirm [--json] ends the confirmation of a change early: it stays
  volary-agent revert [--yes] [--json]
                                undoes the last change, confirmed or not
  volary-agent version [--json]

For systemd and apt: volary-agent rescue [--boot], volary-agent keep-packages

SIGHUP makes the daemon converge now.

Exit status: 0 good; 1 it failed; 2 wrong use; 3 what was offered was refused;
4 waiting to be accepted; 5 another volary-agent is at work; 6 not enrolled; 7 server away;
8 it may not change now.";

/// How many convergences `log` shows unless it is told otherwise.
const LOG: usize = 20;

/// How long a command waits for a daemon that converges.
const OTHER: Duration = Duration::from_secs(2 * 3600);

/// How a command ended, as its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Good = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Waiting = 4,
    Busy = 5,
    NotEnrolled = 6,
    Away = 7,
    Waits = 8,
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Usage(#[from] lexopt::Error),
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    ByHand(#[from] ByHandError),
    #[error(transparent)]
    Preview(#[from] PreviewError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("standard input: {0}")]
    Input(#[from] std::io::Error),
}

fn main() -> ExitCode {
    // Only fails if there is a provider already, and there is none this early.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exit = match run() {
        Ok(exit) => exit,
        Err(error) => {
            log::say(format!("error: {error}"));
            match error {
                MainError::Usage(_) | MainError::Wrong(_) => {
                    log::say("help: volary-agent --help");
                    Exit::Usage
                }
                MainError::Agent(AgentError::Config(ConfigError::NotEnrolled)) => Exit::NotEnrolled,
                MainError::Agent(AgentError::Busy(_)) => Exit::Busy,
                MainError::Enroll(EnrollError::Http(error))
                | MainError::Preview(PreviewError::Http(error)) => exit_of(&error),
                MainError::Preview(error) => exit_of_preview(&error),
                MainError::Module(ModuleError::Artifact(_) | ModuleError::Refused(_)) => Exit::Refused,
                MainError::Module(ModuleError::Busy(_)) => Exit::Busy,
                MainError::Enroll(_)
                | MainError::Module(_)
                | MainError::Agent(_)
                | MainError::ByHand(_)
                | MainError::Keep(_)
                | MainError::Input(_) => Exit::Failed,
            }
        }
    };
    ExitCode::from(exit as u8)
}

/// How a look ahead ended that showed nothing.
fn exit_of_preview(error: &PreviewError) -> Exit {
    match error {
        PreviewError::Agent(AgentError::Config(ConfigError::NotEnrolled)) => Exit::NotEnrolled,
        PreviewError::Agent(AgentError::Busy(_)) => Exit::Busy,
        PreviewError::Repo(error) => match error.blame() {
            Blame::Network => Exit::Away,
            Blame::Trust => Exit::Refused,
            Blame::Failure => Exit::Failed,
        },
        PreviewError::OtherStage { .. } | PreviewError::Ends(Event::Refused(_)) => Exit::Refused,
        PreviewError::Ends(Event::Unreachable(_)) => Exit::Away,
        PreviewError::Http(error) => exit_of(error),
        PreviewError::Agent(_) | PreviewError::Ends(_) => Exit::Failed,
    }
}

/// What it means for an enrolment that the server did not help.
const fn exit_of(error: &HttpError) -> Exit {
    match error {
        HttpError::Unreachable { .. } | HttpError::InTrouble { .. } => Exit::Away,
        HttpError::Refused { .. } => Exit::Refused,
        HttpError::TooLong { .. } | HttpError::Strange { .. } | HttpError::BadPem(_) => Exit::Failed,
    }
}

fn run() -> Result<Exit, MainError> {
    // A folder of its own instead of / is for tests.
    let root = std::env::var_os("VOLARY_AGENT_ROOT").unwrap_or_else(|| OsString::from("/"));
    let paths = Paths::below(Path::new(&root));
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next()? {
        Some(Value(command)) => command.to_string_lossy().into_owned(),
        Some(Long("help") | Short('h')) => "help".to_owned(),
        Some(Long("version") | Short('V')) => "version".to_owned(),
        Some(other) => return Err(other.unexpected().into()),
        None => "help".to_owned(),
    };
    match command.as_str() {
        "enroll" => enroll(&paths, parser),
        "daemon" => {
            nothing_more(parser)?;
            daemon::run(&paths)?;
            Ok(Exit::Good)
        }
        "run" => run_once(&paths, parser),
        "hold" => hold(&paths, parser),
        "release" => {
            let [json] = flags(parser, ["json"])?;
            tell_machine(&paths, Event::Released, json)
        }
        "status" => status(&paths, parser),
        "plan" => plan(&paths, parser),
        "metrics" => metrics(&paths, parser),
        "log" => show_log(&paths, parser),
        "rescue" => rescue_from_outside(&paths, parser),
        "keep-packages" => keep_packages(&paths, parser),
        "revert" => revert(&paths, parser),
        "artifact" => artifact(&paths, parser),
        "confirm" => confirm(&paths, parser),
        "version" => version(parser),
        "help" => {
            log::print(HELP);
            Ok(Exit::Good)
        }
        other => Err(MainError::Wrong(format!("there is no command {other:?}"))),
    }
}

/// Which of these options are given; nothing else may be.
fn flags<const N: usize>(mut parser: lexopt::Parser, names: [&str; N]) -> Result<[bool; N], MainError> {
    let mut given = [false; N];
    while let Some(option) = parser.next()? {
        match names.iter().position(|name| matches!(&option, Long(option) if option == name)) {
            Some(at) => given[at] = true,
            None => return Err(option.unexpected().into()),
        }
    }
    Ok(given)
}

fn nothing_more(mut parser: lexopt::Parser) -> Result<(), MainError> {
    match parser.next()? {
        None => Ok(()),
        Some(other) => Err(other.unexpected().into()),
    }
}

/// The options of `enroll`.
#[derive(Default)]
struct Options {
    token: Option<String>,
    name: Option<DeviceName>,
    server: Option<String>,
    ca: Option<PathBuf>,
    signers: Option<PathBuf>,
    stage: Option<String>,
    key: Option<KeyPlace>,
    patience: Option<Duration>,
    json: bool,
}

fn enroll(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let mut options = Options::default();
    let wrong = |error: String| MainError::Wrong(error);
    while let Some(option) = parser.next()? {
        match option {
            Long("token") => options.token = Some(text(&mut parser)?),
            Long("name") => {
                options.name = Some(text(&mut parser)?.parse().map_err(|error| wrong(format!("{error}")))?);
            }
            Long("server") => options.server = Some(text(&mut parser)?),
            Long("ca") => options.ca = Some(parser.value()?.into()),
            Long("signers") => options.signers = Some(parser.value()?.into()),
            Long("stage") => options.stage = Some(text(&mut parser)?),
            Long("key") => options.key = Some(text(&mut parser)?.parse().map_err(wrong)?),
            Long("wait") => {
                let seconds = text(&mut parser)?;
                let seconds = seconds
                    .parse()
                    .map_err(|_| wrong(format!("--wait {seconds:?} is no number of seconds")))?;
                options.patience = Some(Duration::from_secs(seconds));
            }
            Long("no-wait") => options.patience = Some(Duration::ZERO),
            Long("json") => options.json = true,
            other => return Err(other.unexpected().into()),
        }
    }
    // Without a limit it waits for a person for as long as that takes: a year stands for "always".
    let patience = options.patience.unwrap_or(Duration::from_secs(366 * 24 * 3600));
    let json = options.json;
    let wanted = wanted(paths, options)?;
    let ending = enroll::enroll(paths, &wanted, patience)?;
    if json {
        print_json(&Enrolment::new(&ending, &wanted));
    }
    match ending {
        Ending::Enrolled(config) => {
            log::say(format!(
                "{} belongs to the fleet of {} and begins in {}",
                config.name, config.server, config.stage
            ));
            units::start_agent();
            Ok(Exit::Good)
        }
        Ending::Waiting(name) => {
            log::say(format!("not accepted yet; say: volary device accept {name}, then run this again"));
            Ok(Exit::Waiting)
        }
    }
}

fn text(parser: &mut lexopt::Parser) -> Result<String, MainError> {
    let value = parser.value()?;
    value.into_string().map_err(|value| MainError::Wrong(format!("{value:?} is not UTF-8")))
}

/// What the options ask for, or what an enrolment that was cut off wanted.
fn wanted(paths: &Paths, options: Options) -> Result<Wanted, MainError> {
    let file = |path: &Path| {
        volary_host::read_to_string(path).map_err(|error| MainError::Enroll(EnrollError::File(error)))
    };
    let before = enroll::unfinished(paths).map_err(EnrollError::File)?;
    let name = |given: Option<DeviceName>| match (given, &before) {
        (Some(name), _) => Ok(name),
        (None, Some(before)) => Ok(before.name.clone()),
        (None, None) => enroll::host_name().map_err(EnrollError::Name),
    };
    // An enrolment that goes on has its key already.
    let key = options.key.or(before.as_ref().map(|before| before.key)).unwrap_or_default();
    match (options.token, options.server) {
        (Some(token), None) => {
            let token = JoinToken::decode(&token).map_err(|error| MainError::Wrong(error.to_string()))?;
            let wanted = Wanted::from_token(token, name(options.name)?);
            Ok(Wanted { key, ..wanted })
        }
        (None, Some(server)) => {
            let needs = |what: &str| MainError::Wrong(format!("--server needs {what} too"));
            let stage = options.stage.ok_or_else(|| needs("--stage STAGE"))?;
            Ok(Wanted {
                version: 1,
                server: server.trim_end_matches('/').to_owned(),
                ca: file(&options.ca.ok_or_else(|| needs("--ca FILE"))?)?,
                signers: file(&options.signers.ok_or_else(|| needs("--signers FILE"))?)?,
                stage: stage.parse().map_err(|error| MainError::Wrong(format!("{error}")))?,
                secret: None,
                name: name(options.name)?,
                key,
            })
        }
        (None, None) => before.clone().map(|before| Wanted { key, ..before }).ok_or_else(|| {
            MainError::Wrong("give --token TOKEN, or --server, --ca, --signers and --stage".to_owned())
        }),
        (Some(_), Some(_)) => Err(MainError::Wrong("give --token or --server, not both".to_owned())),
    }
}

fn run_once(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let (mut again, mut json, mut from) = (false, false, None);
    while let Some(option) = parser.next()? {
        match option {
            Long("again") => again = true,
            Long("json") => json = true,
            Long("from") => from = Some(text(&mut parser)?),
            other => return Err(other.unexpected().into()),
        }
    }
    let from = from.as_deref().map(Place::parse).transpose();
    let from = from.map_err(|error| MainError::Wrong(error.to_string()))?;
    converge(paths, again, from, json)
}

fn converge(paths: &Paths, again: bool, from: Option<Place>, json: bool) -> Result<Exit, MainError> {
    let mut agent = Agent::open(paths)?;
    if let Some(place) = from {
        agent.only_from(place);
    }
    // A daemon that converges right now is waited for: then this run looks at the newest.
    agent.turn(Event::Nudged { again }, OTHER)?;
    if !agent.state().is_idle() {
        // The new version goes on with what this one began. If it cannot be run, this one does.
        daemon::become_the_new_version();
        agent.hands_over = false;
        agent.turn(agent.started(), OTHER)?;
    }
    let state = agent.state();
    if json {
        print_status(paths, &agent.config, state, true);
    }
    if state.memory.unanswered > 0 {
        return Ok(Exit::Away);
    }
    // An offer for another stage: nothing of it was taken, patient as the device is with it.
    if state.memory.strays > 0 {
        return Ok(Exit::Refused);
    }
    Ok(match &state.phase {
        Phase::Idle(Rest::Content) if state.good.is_some() => Exit::Good,
        Phase::Idle(Rest::Waiting(waiting)) => {
            for obstacle in &waiting.obstacles {
                log::say(format!("waits: {obstacle}"));
            }
            Exit::Waits
        }
        Phase::Idle(Rest::Quarantined(target)) => {
            let why = state.quarantine(target).map_or_else(String::new, |bad| bad.failure.to_string());
            log::say(format!("commit {} is in quarantine: {why}", target.commit.short()));
            log::say("help: volary-agent run --again tries it once more");
            Exit::Failed
        }
        Phase::Idle(Rest::Refused(_)) => Exit::Refused,
        Phase::Idle(Rest::Content | Rest::Failed(_) | Rest::Reverted(_))
        | Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Checkpoint(_)
        | Phase::Apply(..)
        | Phase::Reboot(_)
        | Phase::Confirm(_)
        | Phase::Commit(_)
        | Phase::Revert(..)
        | Phase::Drift(_)
        | Phase::Report { .. } => Exit::Failed,
    })
}

fn hold(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let (mut until, mut reason, mut json) = (None, Vec::new(), false);
    while let Some(option) = parser.next()? {
        match option {
            Long("for") => {
                let given = text(&mut parser)?;
                let wrong = || MainError::Wrong(format!("--for {given:?} is no duration, as 30m, 2h or 3d"));
                until = Some(now().checked_add(span(&given).ok_or_else(wrong)?).map_err(|_| wrong())?);
            }
            Long("json") => json = true,
            Value(word) => reason.push(word.to_string_lossy().into_owned()),
            other => return Err(other.unexpected().into()),
        }
    }
    tell_machine(paths, Event::Held(Hold { since: now(), until, reason: reason.join(" ") }), json)
}

/// `30m`, `2h`, `3d`, or several of them.
fn span(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}

/// One turn with what a person says.
fn tell_machine(paths: &Paths, event: Event, json: bool) -> Result<Exit, MainError> {
    let mut agent = Agent::open(paths)?;
    agent.turn(event, OTHER)?;
    if json {
        print_status(paths, &agent.config, agent.state(), true);
    }
    Ok(Exit::Good)
}

fn print_status(paths: &Paths, config: &Config, state: &State, json: bool) {
    let mut status =
        Status::new(config, state, undo::last(paths).as_ref(), Spool::new(paths.spool()).count());
    status.slots = SlotsStatus::of(paths);
    if json { print_json(&status) } else { log::print(status.text()) }
}

fn print_json(value: &impl serde::Serialize) {
    log::print(serde_json::to_string_pretty(value).expect("what is shown has only text keys"));
}

fn plan(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [json] = flags(parser, ["json"])?;
    let mut agent = Agent::open(paths)?;
    let preview = preview::preview(&mut agent, OTHER)?;
    if json {
        print_json(&preview)
    } else {
        log::print(preview.text())
    }
    Ok(Exit::Good)
}

fn show_log(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let (mut count, mut json) = (LOG, false);
    while let Some(option) = parser.next()? {
        match option {
            Long("json") => json = true,
            Short('n') => {
                let given = text(&mut parser)?;
                let wrong = |_| MainError::Wrong(format!("-n {given:?} is no number of convergences"));
                count = given.parse().map_err(wrong)?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Config::load(paths).map_err(AgentError::Config)?;
    let entries = history::newest_first(paths, count).map_err(AgentError::File)?;
    if json {
        print_json(&entries)
    } else {
        log::print(history::text(&entries))
    }
    Ok(Exit::Good)
}

fn status(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [json] = flags(parser, ["json"])?;
    let config = Config::load(paths).map_err(AgentError::Config)?;
    let (_, state) = Ledger::open(paths, &config).map_err(AgentError::Ledger)?;
    print_status(paths, &config, &state, json);
    Ok(Exit::Good)
}

fn metrics(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [json] = flags(parser, ["json"])?;
    let shown = volary_agent::metrics::show(&Agent::open(paths)?);
    if json {
        print_json(&shown)
    } else {
        log::print(shown.text())
    }
    Ok(Exit::Good)
}

/// The dead man's own command; it never needs the ledger or the configuration.
fn rescue_from_outside(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let at_boot = match parser.next()? {
        None => false,
        Some(Long("boot")) => {
            nothing_more(parser)?;
            true
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    rescue::run(paths, at_boot).map_err(ByHandError::from)?;
    Ok(Exit::Good)
}

/// apt tells on standard input what it is about to do.
fn keep_packages(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    nothing_more(parser)?;
    let mut input = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut input)?;
    keep::run(paths, &String::from_utf8_lossy(&input))?;
    Ok(Exit::Good)
}

fn confirm(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [json] = flags(parser, ["json"])?;
    let commit = by_hand::confirm(paths)?;
    log::say("the change is confirmed");
    if json {
        print_json(&Confirmed::new(commit));
    }
    Ok(Exit::Good)
}

fn revert(paths: &Paths, parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [yes, json] = flags(parser, ["yes", "json"])?;
    let change = by_hand::last_change(paths)?;
    if !yes {
        log::say(format!("this undoes {change}"));
        log::say("help: volary-agent revert --yes");
        if json {
            print_json(&Revert::asked(change));
        }
        return Ok(Exit::Usage);
    }
    let undone = by_hand::revert(paths)?;
    if json {
        print_json(&Revert::done(change, undone.as_ref()));
    }
    match undone {
        Some(undone) if undone.could_not.is_empty() => Ok(Exit::Good),
        Some(_) => Ok(Exit::Failed),
        // The rest follows with the boot.
        None => Ok(Exit::Good),
    }
}

/// Artifacts that an update module installs.
fn artifact(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let what = match parser.next()? {
        Some(Value(what)) => what.to_string_lossy().into_owned(),
        Some(other) => return Err(other.unexpected().into()),
        None => String::new(),
    };
    if what == "install" {
        return install_artifact(paths, parser);
    }
    let [json] = flags(parser, ["json"])?;
    let outcome = match what.as_str() {
        "commit" => Some(modules::commit(paths)?),
        "rollback" => Some(modules::roll_back(paths)?),
        "reboot" => Some(modules::reboot(paths)?),
        "show" => None,
        other => {
            let known = "known are install, commit, rollback, reboot, show";
            return Err(MainError::Wrong(format!("there is no artifact command {other:?}; {known}")));
        }
    };
    let wanted_back = what == "rollback";
    tell_artifact(paths, outcome.as_ref(), json)?;
    Ok(match outcome {
        Some(Outcome::Back { inconsistent, .. }) if !wanted_back || inconsistent => Exit::Failed,
        Some(_) | None => Exit::Good,
    })
}

fn install_artifact(paths: &Paths, mut parser: lexopt::Parser) -> Result<Exit, MainError> {
    let (mut file, mut pinned, mut name, mut commit, mut json) = (None, None, None, false, false);
    while let Some(option) = parser.next()? {
        match option {
            Long("sha256") => {
                let given = text(&mut parser)?;
                let wrong = |error| MainError::Wrong(format!("--sha256 {given:?}: {error}"));
                pinned = Some(Digest::from_hex(&given).map_err(wrong)?);
            }
            Long("as") => name = Some(text(&mut parser)?),
            Long("commit") => commit = true,
            Long("json") => json = true,
            Value(given) if file.is_none() => file = Some(PathBuf::from(given)),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(file) = file else {
        return Err(MainError::Wrong(
            "an artifact is missing: volary-agent artifact install FILE".to_owned(),
        ));
    };
    let opened = std::fs::File::open(&file);
    let opened = opened.map_err(FileError::at("open", &file)).map_err(ModuleError::from)?;
    let mut outcome = modules::install(paths, opened, pinned, name.as_deref())?;
    let of_change = modules::belongs_to_change(paths)?;
    if commit && outcome == Outcome::Waiting && !of_change {
        outcome = modules::commit(paths)?;
    }
    tell_artifact(paths, Some(&outcome), json)?;
    match &outcome {
        Outcome::Waiting if !of_change => {
            log::say("help: volary-agent artifact commit, or: volary-agent artifact rollback");
        }
        Outcome::Reboots if !of_change => {
            log::say(
                "help: volary-agent artifact reboot, or boot the device; then: volary-agent artifact commit",
            );
        }
        Outcome::Waiting | Outcome::Reboots | Outcome::Lasts | Outcome::Back { .. } => {}
    }
    Ok(if matches!(outcome, Outcome::Back { .. }) { Exit::Failed } else { Exit::Good })
}

fn tell_artifact(paths: &Paths, outcome: Option<&Outcome>, json: bool) -> Result<(), MainError> {
    let shown = Artifact::new(paths, outcome)?;
    if json {
        print_json(&shown)
    } else {
        log::print(shown.text())
    }
    Ok(())
}

fn version(parser: lexopt::Parser) -> Result<Exit, MainError> {
    let [json] = flags(parser, ["json"])?;
    let ansible = work::ansible_version();
    if json {
        print_json(&Version::new(ansible));
        return Ok(Exit::Good);
    }
    log::print(format!("volary-agent {}", env!("CARGO_PKG_VERSION")));
    if let Some(ansible) = ansible {
        log::print(ansible);
    }
    Ok(Exit::Good)
}
