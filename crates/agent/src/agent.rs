//! The agent: carries out what the machine of `volary-device` decides, one turn at a time.
//!
//! A turn begins with an event and ends when the machine wants to wait. It holds the lock, so
//! that the daemon and `volary-agent run` never work at once; each reads the ledger anew, so
//! each knows what the other did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::device::{CheckResult, Desired};
use volary_device::{Effect, Event, Outcome, Phase, State, Target, Urge, next_report, step};
use volary_fleet::{FleetConfig, Own};
use volary_host::{FileError, Lock, LockError, now, read};
use volary_model::Architecture;

use crate::ansible::Handed;
use crate::answers::Answers;
use crate::checkpoint::{self, Lifeline};
use crate::config::{Config, ConfigError};
use crate::daemon;
use crate::elsewhere::{Elsewhere, ElsewhereError, Place, host_of};
use crate::facts::{self, FactsError};
use crate::http::{Answer, HttpError, Identity, Patience, Server};
use crate::key::{DeviceKey, KeyError};
use crate::ledger::{Ledger, LoadError};
use crate::log;
use crate::news::{self, Signs};
use crate::paths::Paths;
use crate::repo::{Repo, Supply};
use crate::report::{self, Look};
use crate::slots::switch;
use crate::spool::{Kind, Spool};
use crate::{drift, history, transaction, turn, undo, work, zone};

/// After so many questions in a row without an answer the fleet is looked for elsewhere, if it is
/// to be had there.
const PATIENT: u32 = 2;

/// One enrolled device.
pub struct Agent {
    pub(crate) paths: Paths,
    /// Who the device is.
    pub config: Config,
    pub(crate) server: Server,
    pub(crate) architecture: Architecture,
    pub(crate) state: State,
    /// What of the fleet repository is this device's.
    own: Own,
    /// What the inventory that was read last says about this device.
    pub(crate) handed: Handed,
    /// What apt and dpkg said last.
    pub(crate) answers: Answers,
    /// The units of the archive's packages that are expected to run, as the last report had them.
    pub(crate) watched_units: Vec<String>,
    /// What the last run of the fleet's checks said.
    pub(crate) checks: Vec<CheckResult>,
    /// If the program was replaced, whether the new one takes the place of this process.
    pub hands_over: bool,
    etag: Option<String>,
    /// What the last report said, to tell news from repetition.
    told: Option<Signs>,
    /// Reports may wait that could not be sent when they were made: they go as soon as they can.
    behind: bool,
    /// Why the last question got no answer, as it was said.
    silence: String,
    /// The only place to ask, if somebody said so.
    from: Option<Place>,
    /// Where the last offer came from, if that was not the server.
    elsewhere: Option<Elsewhere>,
    /// For how long the fleet wants questions to stay open.
    long_poll: Duration,
    spool: Spool,
    ending: Arc<Ending>,
    /// Proves that the device can be reached while a change is applied.
    pub(crate) lifeline: Option<Lifeline>,
}

/// What the thread that hears signals and the one that works tell each other.
#[derive(Debug, Default)]
pub struct Ending {
    /// A step changes the device: the only time in which the process should not end at once.
    pub changing: AtomicBool,
    /// The process is to end before the next step.
    pub asked: AtomicBool,
}

/// Why the agent cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file, as on a full disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LoadError),
    /// The machine.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A certificate.
    #[error(transparent)]
    Identity(#[from] HttpError),
    /// The private key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another agent works.
    #[error("another volary-agent is at work on this device: {0}")]
    Busy(#[from] LockError),
}

impl Agent {
    /// The agent of the device that is enrolled here.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn open(paths: &Paths) -> Result<Self, AgentError> {
        Self::open_with(paths, Patience::default())
    }

    /// As [`Agent::open`], with other limits on the time of the server.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn open_with(paths: &Paths, patience: Patience) -> Result<Self, AgentError> {
        let config = Config::load(paths)?;
        paths.prepare()?;
        let server = server(paths, &config, patience)?;
        let (_, state) = Ledger::open(paths, &config)?;
        let own = Own::new(config.name.clone());
        Ok(Self {
            spool: Spool::new(paths.spool()),
            paths: paths.clone(),
            config,
            server,
            architecture: facts::architecture()?,
            state,
            own,
            handed: Handed::default(),
            answers: Answers::default(),
            watched_units: Vec::new(),
            checks: Vec::new(),
            hands_over: true,
            etag: None,
            told: None,
            behind: true,
            silence: String::new(),
            from: None,
            elsewhere: None,
            long_poll: Duration::ZERO,
            ending: Arc::default(),
            lifeline: None,
        })
    }

    /// What the device remembers.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The fleet repository on this device.
    ///
    /// # Errors
    /// [`FileError`].
    pub(crate) fn repo(&self) -> Result<Repo<'_>, FileError> {
        Repo::open(&self.paths, &self.own)
    }

    /// What the newest commit says in its `volary.yml`; `None` without one, or if it cannot be read.
    pub(crate) fn rules(&self) -> Option<FleetConfig> {
        let target = Target {
            stage: self.state.stage.clone(),
            commit: self.state.trusted.clone()?,
            rolling: String::new(),
        };
        Some(self.repo().ok()?.wishes(&target).ok()?.rules.config)
    }

    /// For how long a question may stay open at the server, if the fleet wants that.
    pub fn long_poll(&self) -> Option<Duration> {
        Some(self.long_poll).filter(|wait| !wait.is_zero())
    }

    /// A second way to the server, for whoever asks beside the agent.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn another_server(&self) -> Result<Server, AgentError> {
        server(&self.paths, &self.config, Patience::default())
    }

    /// The server, if it answered last and does not want to be left alone.
    pub(crate) fn answering_server(&self) -> Option<&Server> {
        let answers = self.state.memory.unanswered == 0 && self.server.quiet_until().is_none();
        answers.then_some(&self.server)
    }

    /// How to tell the agent that it is to end.
    pub fn ending(&self) -> Arc<Ending> {
        Arc::clone(&self.ending)
    }

    /// From an event to the next time to wait for. Waits up to `patience` for another agent.
    ///
    /// # Errors
    /// [`AgentError`]; the turn can be taken again.
    pub fn turn(&mut self, event: Event, patience: Duration) -> Result<Timestamp, AgentError> {
        let _lock = Lock::acquire(&self.paths.lock(), patience)?;
        let mut ledger = self.remember()?;
        // With the lock in our hand, a convergence under way is one whose process died. What a
        // person said on top of that is heard when it is over.
        let mut event = match event {
            event if self.state.is_idle() => event,
            Event::Nudged { again } => {
                let urge = if again { Urge::Again } else { Urge::Run };
                self.state.memory.urge = self.state.memory.urge.max(urge);
                self.started()
            }
            Event::Held(hold) => {
                self.state.hold = Some(hold);
                self.started()
            }
            Event::Released => {
                self.state.hold = None;
                self.started()
            }
            _ => self.started(),
        };
        loop {
            let (state, effects) = step(self.state.clone(), event, now());
            self.state = state;
            let mut reply = None;
            for effect in effects {
                match effect {
                    Effect::Record => self.record(&mut ledger)?,
                    Effect::Wait(until) => return Ok(self.obedient(until)),
                    Effect::Tell => self.tell(),
                    Effect::Ask => reply = Some(self.ask()),
                    Effect::Fetch(target) => reply = Some(work::fetch(self, &target)),
                    Effect::Verify(work) => reply = Some(work::verify(self, &work)),
                    Effect::AskTurn(work) => reply = Some(turn::ask(self, &work)),
                    Effect::GiveTurnBack => turn::give_back(self),
                    Effect::Install(work) => reply = Some(switch::install_image(self, &work)),
                    Effect::Reboot(work) => reply = Some(switch::reboot(&self.paths, &work)),
                    Effect::Checkpoint(work) => {
                        reply = Some(self.uninterrupted(|agent| transaction::checkpoint(agent, &work)));
                    }
                    Effect::Apply(work, step) => {
                        reply = Some(self.uninterrupted(|agent| transaction::apply(agent, &work, step)));
                    }
                    // A new version of the agent has to show itself that it works.
                    Effect::Confirm(_) if self.hands_over && daemon::replaced_program().is_some() => {
                        return Ok(now());
                    }
                    Effect::Confirm(work) => reply = Some(transaction::confirm(self, &work)),
                    Effect::Disarm(work) => {
                        reply = Some(self.uninterrupted(|agent| transaction::disarm(agent, &work)));
                    }
                    Effect::Undo(work, failure) => {
                        log::say(format!("undoing commit {}: {failure}", work.target.commit.short()));
                        reply = Some(self.uninterrupted(|agent| transaction::undo(agent, &work, &failure)));
                    }
                    Effect::Drift(work) => reply = Some(drift::look(self, &work)),
                    Effect::Report => reply = Some(self.report()?),
                }
            }
            if self.ending.asked.load(Ordering::SeqCst) {
                // The step is done but not recorded as done; it is repeated after the start.
                return Ok(now());
            }
            event = reply.expect("the machine ends each step with a wait or a question");
        }
    }

    /// Writes the state. If the disk is full while a change waits to be confirmed, what is kept for
    /// its undo makes room: that something failed must be written down so that it is undone.
    fn record(&self, ledger: &mut Ledger) -> Result<(), AgentError> {
        let Err(error) = ledger.save(&self.state) else { return Ok(()) };
        if !checkpoint::is_armed(&self.paths) {
            return Err(error.into());
        }
        log::say(format!("{error}; the reserve for an undo is given up"));
        checkpoint::release_reserve(&self.paths);
        Ok(ledger.save(&self.state)?)
    }

    /// The event that the agent starts with.
    pub fn started(&self) -> Event {
        let running = switch::running(&self.paths);
        Event::Started { undone: transaction::undone(&self.paths).map(Box::new), running }
    }

    /// A step that changes the device, or takes care that it can be changed back: a signal waits.
    fn uninterrupted(&mut self, step: impl FnOnce(&mut Self) -> Event) -> Event {
        self.ending.changing.store(true, Ordering::SeqCst);
        let event = step(self);
        self.ending.changing.store(false, Ordering::SeqCst);
        event
    }

    /// Reads the ledger anew without writing it: for whoever only looks.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn reload(&mut self) -> Result<(), AgentError> {
        self.remember().map(drop)
    }

    /// The time to wait for, not before the server that asked to be left alone wants to be asked. All
    /// devices were told the same time, so each adds its own part of a minute.
    fn obedient(&self, until: Timestamp) -> Timestamp {
        let Some(quiet) = self.server.quiet_until() else { return until };
        let spread = Duration::from_millis(self.state.seed % 60_000);
        until.max(quiet.checked_add(spread).unwrap_or(quiet))
    }

    /// Reads the ledger; what only this process knows stays.
    fn remember(&mut self) -> Result<Ledger, AgentError> {
        let (ledger, stored) = Ledger::open(&self.paths, &self.config)?;
        let mut memory = std::mem::take(&mut self.state.memory);
        memory.offered = memory.offered.filter(|offered| offered.stage == stored.stage);
        let last_report = self.state.last_report.max(stored.last_report);
        self.state = State { memory, last_report, ..stored };
        let waits = self.state.work().map(|work| &work.policy);
        self.state.memory.zones = zone::of(waits.into_iter().chain([&self.state.policy]));
        Ok(ledger)
    }

    /// From now on asks this place and nobody else.
    pub fn only_from(&mut self, place: Place) {
        self.from = Some(place);
    }

    /// True if somebody named the place to take the fleet from.
    pub(crate) fn is_without_server(&self) -> bool {
        self.from.is_some()
    }

    /// True if the last offer came from another place than the server.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some()
    }

    /// Where the objects of the last offer are.
    pub(crate) fn supply(&self) -> Supply<'_> {
        self.elsewhere.as_ref().map_or(Supply::Server(&self.server), Supply::Elsewhere)
    }

    fn ask(&mut self) -> Event {
        self.elsewhere = None;
        if let Some(place) = self.from.clone() {
            return self.ask_elsewhere(place).unwrap_or_else(|error| {
                log::say(error.to_string());
                Event::Unreachable(error.to_string())
            });
        }
        // Without a known offer, "nothing changed" would say nothing.
        let etag = self.state.memory.offered.as_ref().and(self.etag.as_deref());
        match self.server.desired(etag) {
            Ok(answer) => {
                if self.state.memory.unanswered > 0 {
                    log::say("the server answers again");
                    self.behind = true;
                }
                self.send_if_due();
                match answer {
                    Answer::Unchanged => Event::Unchanged,
                    Answer::Desired(desired, etag) => {
                        self.etag = etag;
                        self.offered(desired)
                    }
                }
            }
            Err(error) => {
                // Each kind of trouble once: a server that comes back as somebody else is news.
                let why = error.to_string();
                if self.state.memory.unanswered == 0 || self.silence != why {
                    log::say(&why);
                    self.silence = why;
                }
                self.settle();
                let news = if self.state.memory.unanswered >= PATIENT { self.look_elsewhere() } else { None };
                news.unwrap_or_else(|| Event::Unreachable(error.to_string()))
            }
        }
    }

    /// What other places have, as far as that is new.
    fn look_elsewhere(&mut self) -> Option<Event> {
        for text in self.config.elsewhere.clone() {
            match Place::parse(&text).and_then(|place| self.ask_elsewhere(place)) {
                Ok(event) => {
                    let known = self.state.good.as_ref();
                    if !matches!(&event, Event::Offered { target, .. } if known == Some(target)) {
                        return Some(event);
                    }
                    self.elsewhere = None;
                }
                Err(error) => log::say(error.to_string()),
            }
        }
        None
    }

    fn ask_elsewhere(&mut self, place: Place) -> Result<Event, ElsewhereError> {
        let web = match &place {
            Place::Web(url) => {
                let (certificate, key) = (read(&self.paths.certificate())?, DeviceKey::load(&self.paths)?);
                let identity = Identity { certificate: &certificate, key: &key };
                Some(Server::on_the_web(host_of(url), &read(&self.paths.ca())?, &identity)?)
            }
            Place::Folder(_) | Place::Git(_) => None,
        };
        let elsewhere = Elsewhere::open(place, &self.config.name, web, &self.paths.fetched_elsewhere())?;
        let stage = self.state.stage.clone();
        let commit = elsewhere.tip(&stage)?;
        // What the place says of rolling is nothing, so that is left as it is.
        let rolling = self.state.good.as_ref().filter(|good| good.stage == stage);
        let rolling = rolling.map_or_else(String::new, |good| good.rolling.clone());
        let poll = self.state.memory.poll.unwrap_or(60);
        self.elsewhere = Some(elsewhere);
        // The server has to tell everything when it is back.
        self.etag = None;
        let branch = String::new();
        Ok(self.offered(Desired {
            stage,
            branch,
            commit,
            rolling,
            rollout: String::new(),
            poll,
            long_poll: 0,
        }))
    }

    fn offered(&mut self, desired: Desired) -> Event {
        let Desired { stage, commit, rolling, poll, long_poll, branch: _, rollout: _ } = desired;
        self.long_poll = Duration::from_secs(u64::from(long_poll.min(300)));
        let target = Target { stage, commit, rolling };
        let known = [self.state.good.as_ref(), self.state.memory.offered.as_ref()];
        if !known.contains(&Some(&target)) {
            log::say(format!("{} is to be at commit {}", target.stage, target.commit.short()));
        }
        Event::Offered { target, poll }
    }

    /// Stores and sends the report of the convergence that ended. That it cannot be stored (a full
    /// disk) must not make the device repeat the convergence at once, so it is sent anyway.
    fn report(&mut self) -> Result<Event, AgentError> {
        if let Phase::Report { work, outcome, failure, undone, .. } = &self.state.phase {
            let commit = work.target.commit.short();
            let suite = work.suite.as_deref().map(|suite| format!(", suite {suite}")).unwrap_or_default();
            log::say(match (outcome, failure) {
                (Outcome::Good, _) => format!(
                    "good: commit {commit}{suite}, {} tasks and {} packages changed",
                    work.changed_tasks,
                    work.packages.len()
                ),
                (Outcome::Failed, Some(failure)) => format!("failed: commit {commit}{suite}: {failure}"),
                (Outcome::Refused, Some(failure)) => format!("refused: commit {commit}: {}", failure.message),
                (Outcome::Reverted, Some(failure)) => format!("reverted: commit {commit}{suite}: {failure}"),
                (Outcome::Failed | Outcome::Refused | Outcome::Reverted, None) => {
                    format!("commit {commit} did not end well")
                }
            });
            for left in undone.iter().flat_map(|undone| &undone.left) {
                log::say(format!("not put back: {left}"));
            }
        }
        self.store_report(self.state.last_report)?;
        self.send_if_due();
        work::tidy(self);
        Ok(Event::Stored)
    }

    /// Tells the server how the device is, unless another agent is at work: that one reports.
    ///
    /// # Errors
    /// [`AgentError`] if what the device remembers cannot be read.
    pub fn tell_if_free(&mut self) -> Result<(), AgentError> {
        let _lock = match Lock::acquire(&self.paths.lock(), Duration::ZERO) {
            Err(LockError::Held(_)) => return Ok(()),
            other => other?,
        };
        self.remember()?;
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.checks = work::checks(self);
        self.state.last_report = next_report(self.state.last_report, now());
        if let Err(error) = self.store_report(self.state.last_report) {
            log::say(error.to_string());
        }
        self.send_if_due();
    }

    fn store_report(&mut self, number: u64) -> Result<(), AgentError> {
        let look = Look {
            dpkg: self.paths.dpkg().to_owned(),
            inventory: self.answers.installed(self.paths.dpkg()).unwrap_or_default(),
            source: work::source(self),
            checks: std::mem::take(&mut self.checks),
            drift: drift::details(&self.paths),
            image: switch::image(&self.paths),
            journal: self.journal_of_undo(),
        };
        let report = report::build(&self.state, look, &self.architecture, number, now());
        if let Err(error) = history::keep(&self.paths, &report) {
            log::say(error.to_string());
        }
        match news::kind(&report, self.told.as_ref()) {
            Kind::Health if !self.behind && self.answering_server().is_some() => self.spool.gather(&report),
            kind => self.spool.keep(&report, kind)?,
        }
        self.told = Some(Signs::of(&report));
        self.watched_units = report.units.into_keys().collect();
        Ok(())
    }

    /// The journal that whoever undid the convergence kept, if it is the one that is reported now.
    fn journal_of_undo(&self) -> String {
        let Phase::Report { undone: Some(undone), .. } = &self.state.phase else { return String::new() };
        let last = undo::last(&self.paths).filter(|last| last.checkpoint == undone.checkpoint);
        last.map(|last| last.reason.journal).unwrap_or_default()
    }

    fn send_if_due(&mut self) {
        let sent = match self.behind {
            true => self.spool.send(&self.server),
            false => self.spool.send_if_due(&self.server, now()),
        };
        match sent {
            Ok(_) => self.behind = false,
            Err(error) => {
                self.behind = true;
                log::say(format!("reports wait until the server takes them: {error}"));
            }
        }
    }

    /// Writes the reports that are in memory only.
    pub(crate) fn settle(&self) {
        if let Err(error) = self.spool.settle() {
            log::say(error.to_string());
        }
    }

    /// The reports that wait.
    pub(crate) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// How many reports wait to be sent.
    pub fn waiting_reports(&self) -> usize {
        self.spool.count()
    }
}

/// However the agent ends in good order, its reports are on disk.
impl Drop for Agent {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The server, with what this device shows to it.
fn server(paths: &Paths, config: &Config, patience: Patience) -> Result<Server, AgentError> {
    let (certificate, key) = (read(&paths.certificate())?, DeviceKey::load(paths)?);
    let identity = Identity { certificate: &certificate, key: &key };
    Ok(Server::with_patience(&config.server, &read(&paths.ca())?, Some(&identity), patience)?)
}
