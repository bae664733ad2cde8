//! The power of a whole machine is cut again and again, in every phase of an update: it always boots, always
//! from a slot that is whole, and goes on to the end of the update when it is let alone.
//!
//! `make powercut` runs it for `VOLARY_MINUTES` from `VOLARY_SEED`; without them it cuts a few times. The
//! disk loses what was not flushed, sector by sector (`VolatileDisk`), and the processor ends where it is. That
//! the disk keeps what was flushed is tested first: a campaign on one that does not would say nothing.

#![allow(clippy::print_stdout, reason = "what was cut, and from which seed, is the result")]
#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

mod common;
mod slots;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use slots::{Bench, Board, Machine};
use volary_testkit::{VolatileDisk, wait_until};

/// How long a machine may say nothing new before it counts as stalled: the emulation may, on a computer that does
/// much else. That is no fault of the device, and a cut like any other.
const STALL: Duration = Duration::from_secs(240);

/// How often in a row it may stall.
const STALLS: u32 = 4;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// MiB of an image that no other has, so that there is something to write.
const BALLAST: u64 = 8;

/// How long it may take to say what is waited for, whatever else it says: one that panics again and again says much.
const LIMIT: Duration = Duration::from_secs(3600);

/// A part of an update: what the machine says when it begins and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Phase {
    name: &'static str,
    begin: &'static str,
    end: &'static str,
}

/// All of them, in order. Those of the boot loader begin with its own words.
const PHASES: [Phase; 5] = [
    // Until the first bytes are written and noted, and beyond, by the clock.
    Phase { name: "download", begin: "PROBE installs", end: "PROBE installed" },
    // By the number of the write into the slot.
    Phase { name: "write", begin: "PROBE installs", end: "PROBE installed" },
    Phase { name: "switch", begin: "PROBE installed", end: "volary: booting slot" },
    Phase { name: "first boot", begin: ", trial 1", end: "PROBE confirms" },
    Phase { name: "confirm", begin: "PROBE confirms", end: "PROBE installs" },
];

/// Where in a phase the power goes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At so many thousandths of the time that the phase took the last times.
    Part(u64),
    /// At the n-th write of the boot state, or of the slots.
    Write(u64),
}

/// A small generator of random numbers, for what a seed brings back.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Campaign {
    bench: Bench,
    disk: VolatileDisk,
    dice: Dice,
    boots: u32,
    stalls: u32,
    /// How long each phase took, as seen last.
    took: BTreeMap<Phase, Duration>,
    /// How many writes of the slots an installation has, as seen last.
    writes: u64,
    cuts: BTreeMap<&'static str, u64>,
    lost: usize,
    kept: usize,
    /// How often a trial was given up by the boot loader.
    back: usize,
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Said,
    PowerGone,
    Stalled,
}

impl Campaign {
    fn new(seed: u64) -> Self {
        let bench = Bench::new(Board::UefiAmd64);
        let boot = bench.boot_partition();
        let [one, two] = ["one", "two"].map(|image| bench.rootfs(image, "follow", BALLAST));
        let data = bench.data("data", &[("one", &one), ("two", &two)]);
        let image = bench.disk("disk", &boot, &one, &data);
        let disk = VolatileDisk::serve(&image, &bench.at("disk.socket"), seed).unwrap();
        Self {
            bench,
            disk,
            dice: Dice(seed),
            boots: 0,
            stalls: 0,
            took: BTreeMap::new(),
            writes: 400,
            cuts: BTreeMap::new(),
            lost: 0,
            kept: 0,
            back: 0,
        }
    }

    fn start(&mut self) -> Machine {
        self.boots += 1;
        self.disk.power_on();
        self.bench.machine(&format!("boot-{}", self.boots), &self.disk.drive("d0"))
    }

    /// Waits for words after `from`, or until the power goes; gives where they end.
    fn wait(&self, machine: &Machine, from: usize, what: &str) -> (Ended, usize) {
        let mut length = 0;
        let began = Instant::now();
        let mut since = began;
        loop {
            let said = machine.said();
            // What the machine must never say, whatever was cut.
            assert!(!said.contains("PROBE failed"), "boot {}:\n{said}", self.boots);
            assert!(!said.contains("can be booted"), "boot {}:\n{said}", self.boots);
            if let Some(at) = said.get(from..).and_then(|rest| rest.find(what)) {
                return (Ended::Said, from + at + what.len());
            }
            assert!(began.elapsed() < LIMIT, "boot {} does not get to {what:?}:\n{said}", self.boots);
            if self.disk.is_off() {
                return (Ended::PowerGone, said.len());
            }
            if said.len() != length {
                length = said.len();
                since = Instant::now();
            }
            if since.elapsed() > STALL {
                println!("stalled after: {}", said.lines().rev().take(3).collect::<Vec<_>>().join(" | "));
                return (Ended::Stalled, from);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Cuts the power, and loses what was not flushed: all of it, nothing, or a part.
    fn cut(&mut self, machine: Machine, phase: &str, moment: Moment) {
        let percent = [0, 30, 70, 100][self.dice.below(4) as usize];
        // QEMU ends first where the clock says when; what it still writes is lost by the disk where a write does.
        let cut = if self.disk.is_off() {
            let cut = self.disk.cut(percent).unwrap();
            drop(machine);
            cut
        } else {
            drop(machine);
            self.disk.cut(percent).unwrap()
        };
        self.lost += cut.lost;
        self.kept += cut.kept;
        println!("  cut in {phase} ({moment:?}): {} sectors lost, {} of the cache kept", cut.lost, cut.kept);
    }

    /// One machine from its start to its end by a cut.
    fn life(&mut self, phase: Phase) {
        let machine = self.start();
        let number = self.boots;
        let (ended, mut at) = self.wait(&machine, 0, "PROBE whole");
        if ended == Ended::Stalled {
            return self.stalled(machine);
        }
        let story = machine.story();
        self.back += story.iter().filter(|line| line.contains("was tried and not confirmed")).count();
        println!("{number}: {}", story.join("; "));
        self.stalls = 0;
        let (ended, after) = self.wait(&machine, at, phase.begin);
        if ended == Ended::Stalled {
            return self.stalled(machine);
        }
        at = after;
        let moment = self.moment(phase);
        let began = Instant::now();
        match moment {
            Moment::Write(write) => {
                let slots = self.bench.board.place("root-a").start..self.bench.board.place("root-b").end;
                let place = if phase.name == "write" { slots } else { self.bench.board.place("bootenv") };
                self.disk.cut_at(place, write);
                // That there is no such write is a cut at the end.
                let (ended, _) = self.wait(&machine, at, phase.end);
                if ended == Ended::Stalled {
                    return self.stalled(machine);
                }
            }
            Moment::Part(part) => {
                let typical = self.took.get(&phase).copied().unwrap_or(Duration::from_secs(2));
                let pause = typical * u32::try_from(part).unwrap_or(1000) / 1000;
                while began.elapsed() < pause && !machine.said().get(at..).unwrap_or("").contains(phase.end) {
                    std::thread::sleep(LOOK);
                }
                if machine.said().get(at..).unwrap_or("").contains(phase.end) {
                    self.took.insert(phase, began.elapsed());
                }
            }
        }
        *self.cuts.entry(phase.name).or_default() += 1;
        self.cut(machine, phase.name, moment);
    }

    fn moment(&mut self, phase: Phase) -> Moment {
        match phase.name {
            "write" => Moment::Write(1 + self.dice.below(self.writes)),
            // A change of the boot state is two writes of the system and one of the boot loader.
            "switch" if self.dice.below(2) == 0 => Moment::Write(1 + self.dice.below(3)),
            "confirm" if self.dice.below(2) == 0 => Moment::Write(1 + self.dice.below(2)),
            _ => Moment::Part(self.dice.below(1100)),
        }
    }

    fn stalled(&mut self, machine: Machine) {
        self.stalls += 1;
        assert!(self.stalls < STALLS, "it stalled {STALLS} times in a row:\n{}", machine.said());
        drop(machine);
        self.disk.cut(100).unwrap();
    }

    /// Lets it alone until both images were installed, booted and confirmed, and learns how long each phase takes.
    fn converge(&mut self) {
        loop {
            let machine = self.start();
            if self.two_rounds(&machine).is_some() {
                drop(machine);
                self.disk.cut(100).unwrap();
                return;
            }
            self.stalled(machine);
        }
    }

    fn two_rounds(&mut self, machine: &Machine) -> Option<()> {
        let mut at = 0;
        let mut confirmed = Vec::new();
        while confirmed.len() < 2 {
            for phase in PHASES.iter().filter(|phase| phase.name != "write") {
                let said = |at: usize, what: &str| match self.wait(machine, at, what) {
                    (Ended::Said, after) => Some(after),
                    (Ended::PowerGone | Ended::Stalled, _) => None,
                };
                if phase.name != "first boot" {
                    at = said(at, phase.begin)?;
                }
                let (began, writes) = (Instant::now(), self.disk.writes());
                let after = said(at, phase.end)?;
                if phase.name == "download" {
                    self.writes = (self.disk.writes() - writes).max(1);
                }
                self.took.insert(*phase, began.elapsed());
                // The end of one is the beginning of the next.
                at = after - phase.end.len();
            }
            let said = machine.said();
            let image = said[..at]
                .rfind("PROBE confirmed image=")
                .map(|at| said[at..].lines().next().unwrap().to_owned());
            confirmed.push(image.unwrap());
        }
        confirmed.sort();
        assert_eq!(confirmed, ["PROBE confirmed image=one", "PROBE confirmed image=two"]);
        Some(())
    }
}

/// Without it, the campaign would judge the disk of the emulation, and not the device.
#[test]
fn a_disk_keeps_what_a_machine_made_safe() {
    let bench = Bench::new(Board::UefiAmd64);
    let boot = bench.boot_partition();
    let root = bench.rootfs("counter", "count", 0);
    let image = bench.disk("counter", &boot, &root, &bench.data("counter", &[]));
    let disk = VolatileDisk::serve(&image, &bench.at("counter.socket"), 1).unwrap();
    let mut counted = 0;
    for start in 0..3 {
        disk.power_on();
        let machine = bench.machine(&format!("counter-{start}"), &disk.drive("d0"));
        let found = format!("PROBE found {counted}\n");
        let ended = wait_until("the machine counted", STALL, || {
            let said = machine.said();
            let end: Vec<&str> = said.lines().rev().take(3).collect();
            if said.contains("PROBE rests") { Ok(()) } else { Err(end.join(" | ")) }
        });
        ended.unwrap();
        let said = machine.said();
        assert!(said.contains(&found), "not {found}:\n{said}");
        counted += said.matches("PROBE counted").count();
        // Nothing that is not flushed stays.
        let cut = disk.cut(0).unwrap();
        println!("start {start}: counted to {counted}, {cut:?}");
        drop(machine);
    }
    assert!(counted > 0);
}

#[test]
fn a_machine_whose_power_is_cut_boots_a_whole_slot_and_goes_on() {
    let seed = number("VOLARY_SEED").unwrap_or(1);
    let minutes = number("VOLARY_MINUTES");
    let at_least = number("VOLARY_KILLS").unwrap_or(if minutes.is_some() { 60 } else { 5 });
    println!("VOLARY_SEED={seed} VOLARY_KILLS={at_least} VOLARY_MINUTES={minutes:?}");
    let began = Instant::now();
    let until = began + Duration::from_secs(60 * minutes.unwrap_or(0));
    let mut campaign = Campaign::new(seed);
    campaign.converge();
    let took: Vec<_> = campaign
        .took
        .iter()
        .map(|(phase, took)| format!("{} {:.1} s", phase.name, took.as_secs_f64()))
        .collect();
    println!("let alone: {}; {} writes in an installation", took.join(", "), campaign.writes);
    let mut round = 0;
    while campaign.cuts.values().sum::<u64>() < at_least || Instant::now() < until {
        // Every phase as often; in an order of its own each time.
        campaign.life(PHASES[round % PHASES.len()]);
        round += 1;
        if minutes.is_some() && Instant::now() > until {
            break;
        }
    }
    campaign.converge();
    let cuts: u64 = campaign.cuts.values().sum();
    println!(
        "{cuts} cuts from seed {seed}: {:?}; {} boots, {} trials given up by GRUB; {} sectors lost, {} kept",
        campaign.cuts, campaign.boots, campaign.back, campaign.lost, campaign.kept
    );
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("{minutes:.0} minutes, {:.2} for a cut", minutes / cuts as f64);
    println!("figure powercut-machine ours {cuts} cuts of {at_least}, 0 faults");
}
