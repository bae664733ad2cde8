//! The idle loop: asks, converges, reports, waits. One thread waits for signals, the other for
//! time; nothing else is awake.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use volary_device::Event;
use volary_host::{Cmd, now};
use volary_model::{CommitId, StageName};

use crate::agent::{Agent, AgentError, Ending};
use crate::metrics::{Meter, Plan};
use crate::modules;
use crate::paths::Paths;
use crate::slots::switch;
use crate::spool::Spool;
use crate::{listen, log};

/// How often the device tells how it is when nothing happens.
const HEALTH: Duration = Duration::from_secs(300);

/// How long to wait after an error of the machine itself, as a full disk.
const AFTER_ERROR: Duration = Duration::from_secs(60);

/// How long the daemon waits for a `volary-agent run` that a person started.
const OTHER: Duration = Duration::from_secs(2 * 3600);

/// What woke the daemon.
enum Wake {
    Nudge,
    /// The server has something new.
    News,
    End,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`] if the device is not enrolled or its files are damaged.
pub fn run(paths: &Paths) -> Result<(), AgentError> {
    let mut agent = Agent::open(paths)?;
    let (sender, wakes) = mpsc::channel();
    let meter = Meter::start(paths);
    let mut measures = Measures { meter: meter.clone(), followed: None };
    hear_signals(agent.ending(), sender.clone(), meter, agent.spool());
    let mut listening: Option<JoinHandle<()>> = None;
    log::say(format!(
        "volary-agent {} of {} follows {} at {}",
        env!("CARGO_PKG_VERSION"),
        agent.config.name,
        agent.state().stage,
        agent.config.server
    ));
    switch::mend(paths);
    if let Err(error) = modules::resume(paths) {
        log::say(error.to_string());
    }
    let mut event = agent.started();
    let mut told = Instant::now();
    loop {
        let wait = match agent.turn(event, OTHER) {
            Ok(until) => Duration::try_from(until.duration_since(now())).unwrap_or_default(),
            Err(error) => {
                log::say(format!("error: {error}"));
                AFTER_ERROR
            }
        };
        if agent.hands_over && replaced_program().is_some() {
            measures.end(false);
            agent.settle();
        }
        agent.hands_over &= become_the_new_version();
        if told.elapsed() >= HEALTH {
            if let Err(error) = agent.tell_if_free() {
                log::say(format!("error: {error}"));
            }
            told = Instant::now();
        }
        if listening.as_ref().is_none_or(JoinHandle::is_finished)
            && let Some(wait) = agent.long_poll()
        {
            listening = listen_for_news(&agent, wait, sender.clone());
        }
        measures.follow(&agent);
        measures.send(&agent);
        // A clock that jumped must not put the device to sleep for a year.
        let wait = wait.min(Duration::from_secs(24 * 3600));
        match measures.send_while_waiting(&agent, &wakes, wait) {
            Ok(Wake::End) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(Wake::Nudge) => event = Event::Nudged { again: false },
            Ok(Wake::News) => event = Event::Due,
            Err(RecvTimeoutError::Timeout) => event = Event::Due,
        }
    }
    measures.end(true);
    agent.settle();
    log::say("ends between two steps, as asked");
    Ok(())
}

/// The measurements, which go on by themselves: the daemon says what is to be measured, and lends its
/// connection when it has one.
struct Measures {
    meter: Meter,
    /// What the plan was made from.
    followed: Option<(StageName, Option<CommitId>, Vec<String>)>,
}

impl Measures {
    fn follow(&mut self, agent: &Agent) {
        let state = agent.state();
        let from = (state.stage.clone(), state.trusted.clone(), agent.watched_units.clone());
        if self.followed.as_ref() != Some(&from) {
            self.meter.follow(Plan::of(agent));
            self.followed = Some(from);
        }
    }

    fn send(&self, agent: &Agent) {
        // Whoever is to end has no time for a server that is slow; what is there is written.
        if let Some(server) =
            agent.answering_server().filter(|_| !agent.ending().asked.load(Ordering::SeqCst))
        {
            self.meter.send_if_due(server);
        }
    }

    /// Waits for what wakes the daemon. If that takes so long that measurements would be late, they are
    /// sent meanwhile.
    fn send_while_waiting(
        &self,
        agent: &Agent,
        wakes: &Receiver<Wake>,
        wait: Duration,
    ) -> Result<Wake, RecvTimeoutError> {
        let started = Instant::now();
        loop {
            let left = wait.saturating_sub(started.elapsed());
            let can_send = agent.answering_server().is_some();
            let until_sending = self.meter.wakes_in().filter(|_| can_send).unwrap_or(left);
            match wakes.recv_timeout(until_sending.min(left)) {
                Err(RecvTimeoutError::Timeout) if started.elapsed() < wait => self.send(agent),
                woken => return woken,
            }
        }
    }

    fn end(&mut self, for_good: bool) {
        self.meter.end(for_good);
        self.followed = None;
    }
}

/// Outside of a step that changes the device, an end is an end at once: the main thread may be
/// waiting for a server that is away, and every state on disk is one to go on from.
fn hear_signals(ending: Arc<Ending>, sender: Sender<Wake>, meter: Meter, spool: Spool) {
    match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    if signal != SIGHUP && !ending.changing.load(Ordering::SeqCst) {
                        meter.end(true);
                        if let Err(error) = spool.settle() {
                            log::say(error.to_string());
                        }
                        log::say("ends, as asked");
                        std::process::exit(0);
                    }
                    ending.asked.fetch_or(signal != SIGHUP, Ordering::SeqCst);
                    let wake = if signal == SIGHUP { Wake::Nudge } else { Wake::End };
                    if sender.send(wake).is_err() {
                        return;
                    }
                }
            });
        }
        Err(error) => {
            // Without a handler a signal ends the process at once, which is safe at any point.
            log::say(format!("cannot listen to signals: {error}"));
        }
    }
}

/// Listens for news beside the daemon. Without it news come with the next question.
fn listen_for_news(agent: &Agent, wait: Duration, sender: Sender<Wake>) -> Option<JoinHandle<()>> {
    let server = match agent.another_server() {
        Ok(server) => server,
        Err(error) => {
            log::say(format!("cannot listen for news: {error}"));
            return None;
        }
    };
    listen::listen(server, wait, move || sender.send(Wake::News).is_ok()).ok()
}

/// If the package was upgraded, goes on as the new program. The package's scripts do not restart
/// the service, since that would end the apt that a convergence is running. Returns false if that
/// cannot be done.
pub fn become_the_new_version() -> bool {
    let Some(program) = replaced_program() else { return true };
    log::say(format!("{} is new: going on with it", program.display()));
    let error = Cmd::new(&program).args(std::env::args_os().skip(1)).into_std().exec();
    log::say(format!("cannot run {}: {error}; going on with the old one", program.display()));
    false
}

/// The path of our own program, if another file is there now.
pub(crate) fn replaced_program() -> Option<PathBuf> {
    let link = std::fs::read_link("/proc/self/exe").ok()?;
    let path = PathBuf::from(link.to_str()?.strip_suffix(" (deleted)")?);
    Path::new(&path).is_file().then_some(path)
}
