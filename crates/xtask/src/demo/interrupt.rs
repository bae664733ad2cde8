//! Ctrl-C and SIGTERM: the demo takes everything down before it ends.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use volary_testkit::Breaker;

use super::story::say;

/// The exit status of a program that was interrupted, by custom 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// What an interruption does now.
enum Now {
    /// End: nothing is there to take down.
    End,
    /// Take this lab down and end.
    TakeDown(Breaker),
    /// Tell the one who waits for it.
    Tell(mpsc::Sender<()>),
}

/// Listens for signals for as long as the program runs.
pub struct Interrupt {
    now: &'static Mutex<Now>,
}

static NOW: Mutex<Now> = Mutex::new(Now::End);

impl Interrupt {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
        std::thread::spawn(move || {
            for _ in signals.forever() {
                // Held until the end of the program, so that nothing is printed after this.
                let now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
                match &*now {
                    Now::Tell(waiting) => drop(waiting.send(())),
                    Now::End => std::process::exit(INTERRUPTED),
                    Now::TakeDown(breaker) => {
                        say!("\ninterrupted: taking everything down");
                        if let Err(error) = breaker.take_down() {
                            say!("error: {error}");
                        }
                        std::process::exit(INTERRUPTED);
                    }
                }
            }
        });
        Ok(Self { now: &NOW })
    }

    /// From now on an interruption takes this lab down.
    pub fn guard(&self, breaker: Breaker) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Now::TakeDown(breaker);
    }

    /// Waits for an interruption, or until `ended` says that there is nothing to wait for any more.
    pub fn wait(&self, mut ended: impl FnMut() -> bool) {
        let receiver = self.tell();
        while receiver.recv_timeout(Duration::from_secs(1)).is_err() && !ended() {}
    }

    /// Blocks for ever if an interruption is being served: the program ends in a moment, and what
    /// fails meanwhile is of no interest.
    pub fn settle(&self) {
        drop(self.now.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn tell(&self) -> Receiver<()> {
        let (sender, receiver) = mpsc::channel();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Now::Tell(sender);
        receiver
    }
}
