//! How the demo speaks: one line for each step with its time, quiet otherwise.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Prints a line. Whoever reads it may be gone: `demo | head`, or a closed terminal; then the demo
/// goes on, and takes down what it made.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

/// Where the times stand.
const WIDTH: usize = 92;

/// The steps as they happen.
pub struct Story {
    started: Instant,
    steps: Mutex<u32>,
    colour: bool,
}

impl Story {
    /// Begins to count.
    pub fn begin() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), steps: Mutex::new(0), colour }
    }

    /// A heading over the steps that follow.
    pub fn chapter(&self, title: &str) {
        say!("\n{}", self.bold(title));
    }

    /// One step: says what happens, does it, says how long it took.
    pub fn step<T>(&self, what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let number = {
            let mut steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *steps += 1;
            *steps
        };
        let started = Instant::now();
        // The line must be seen while the work goes on.
        let _ = write!(std::io::stdout(), "{number:>3}  {what} ").and_then(|()| std::io::stdout().flush());
        let result = work();
        let dots = ".".repeat(WIDTH.saturating_sub(6 + what.chars().count()).max(2));
        let took = seconds(started.elapsed());
        match &result {
            Ok(_) => say!("{dots} {took}"),
            Err(_) => say!("{dots} {} after {took}", self.red("failed")),
        }
        result
    }

    /// Something to know about the step above.
    pub fn note(&self, text: &str) {
        for line in text.lines() {
            say!("     {}", self.dim(line));
        }
    }

    /// How long it all took until now.
    pub fn elapsed(&self) -> String {
        seconds(self.started.elapsed()).trim_start().to_owned()
    }

    /// Text that stands out.
    pub fn bold(&self, text: &str) -> String {
        self.tone("1", text)
    }

    /// Text that says that something is wrong.
    pub fn red(&self, text: &str) -> String {
        self.tone("31", text)
    }

    /// Text that says that something is as it should be.
    pub fn green(&self, text: &str) -> String {
        self.tone("32", text)
    }

    fn dim(&self, text: &str) -> String {
        self.tone("2", text)
    }

    fn tone(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:>6.1} s", time.as_secs_f64())
}
