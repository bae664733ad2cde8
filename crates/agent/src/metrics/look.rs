//! One look at the machine: every source, in the order in which they get a place if there are too many.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use volary_host::Cmd;

use super::certificate::Certificates;
use super::disks::{self, Space};
use super::files::Root;
use super::own::Own;
use super::packages::Packages;
use super::services::{self, Services};
use super::sink::Sink;
use super::{Moment, Plan, kernel, machine};
use crate::paths::Paths;

/// How old an answer about the clock may be where no file tells.
const OLDEST: Duration = Duration::from_secs(15 * 60);

/// What is asked because no file tells it. A test has answers of its own.
#[derive(Debug, Clone, Copy)]
pub struct Questions {
    /// The space of a file system.
    pub space: fn(&Path) -> Option<Space>,
    /// What systemd says of units.
    pub units: services::Ask,
    /// Whether the clock follows a time server.
    pub clock: fn() -> Option<bool>,
}

/// Looks, and remembers what need not be looked at again.
#[derive(Debug)]
pub struct Looker {
    root: Root,
    questions: Questions,
    /// Whether the boot before ended badly, if it is known.
    pub unclean: Option<bool>,
    services: Services,
    packages: Packages,
    certificates: Certificates,
    own: Own,
    clock: Option<bool>,
    clock_at: Option<Duration>,
}

/// What one look found.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Look {
    /// The numbers, by the names of their series.
    pub values: BTreeMap<String, f64>,
    /// How many found no place.
    pub left_out: u32,
}

impl Looker {
    /// One that looks below `root`.
    pub fn new(root: &Path, questions: Questions) -> Self {
        Self {
            root: Root::new(root),
            questions,
            unclean: None,
            services: Services::default(),
            packages: Packages::default(),
            certificates: Certificates::default(),
            own: Own::default(),
            clock: None,
            clock_at: None,
        }
    }

    /// One of this machine. A root of its own has files, and no systemd to ask.
    pub fn of(paths: &Paths) -> Self {
        let questions = if paths.is_device() {
            Questions { space: disks::space, units: services::ask, clock }
        } else {
            Questions { space: disks::space, units: |_| BTreeMap::new(), clock: || None }
        };
        Self::new(&paths.on_device(Path::new("/")), questions)
    }

    /// Whether the boot before ended badly, as far as anything but our own mark tells.
    pub fn ended_badly(&self) -> Option<bool> {
        machine::ended_badly(&self.root)
    }

    /// Looks.
    pub fn look(&mut self, plan: &Plan, now: &Moment) -> Look {
        let mut sink = Sink::new(&plan.metrics.series);
        kernel::look(&self.root, &mut sink);
        self.ask_for_the_clock(&sink, now.since_boot);
        machine::look(&self.root, self.clock, self.unclean, &mut sink);
        disks::look(&self.root, self.questions.space, &mut sink);
        self.packages.look(&self.root, &mut sink);
        self.own.look(&self.root, plan, &mut sink);
        let files = plan.certificates.iter().map(String::as_str);
        self.certificates.look(&self.root, files, now.at, &mut sink);
        self.services.look(&self.root, &plan.units, self.questions.units, now.since_boot, &mut sink);
        Look { values: sink.values, left_out: sink.left_out }
    }

    fn ask_for_the_clock(&mut self, sink: &Sink<'_>, now: Duration) {
        let is_old = self.clock_at.is_none_or(|at| now.saturating_sub(at) >= OLDEST);
        if is_old && sink.wants(&["clock_synchronised"]) && machine::clock_by_file(&self.root).is_none() {
            self.clock = (self.questions.clock)();
            self.clock_at = Some(now);
        }
    }
}

/// What systemd says of the clock, whoever sets it.
fn clock() -> Option<bool> {
    let shown =
        Cmd::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).check().ok()?;
    match shown.text().trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}
