//! The demo: the whole chain once, for real, told step by step.
//!
//! This file is its storyline. How it speaks is in `story`, what the fleet repository says in
//! `fleet`, what the sources are in `sources`, the last table in `table`. What it does to server
//! and devices goes through `volary_testkit::chain`, which the system tests use too.

mod fleet;
pub(crate) mod interrupt;
mod leak;
mod sources;
pub(crate) mod story;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use volary_api::v1::build::BuildState;
use volary_api::v1::status::Condition;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, Tools};
use volary_testkit::roots::{self, RootEvent};
use volary_testkit::{Cache, Debian, Device, DeviceOptions, Lab, wait_until};

use self::fleet::DEVICES;
use self::interrupt::Interrupt;
use self::leak::Listener;
use self::story::{Story, say};
use self::table::Expected;

/// How the demo ends.
#[derive(Args)]
pub struct DemoArgs {
    /// End when the table is printed, instead of keeping the page up until Ctrl-C
    #[arg(long)]
    no_keep: bool,
    /// Leave out the chapter of the leak, which takes as long as all others
    #[arg(long)]
    short: bool,
    /// After a failure keep everything up until Ctrl-C, to look around
    #[arg(long)]
    hold: bool,
}

/// The first build makes its clean chroot, over the network.
const BUILD: Duration = Duration::from_secs(15 * 60);

/// A device fetches, runs its playbook and upgrades; six of them share this machine.
const CONVERGE: Duration = Duration::from_secs(5 * 60);

/// Runs the demo.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let interrupt = Interrupt::listen()?;
    let tools = Tools::find()?;
    // Better now than after the devices booted.
    tools.agent_deb()?;
    let logs = fresh_logs(&tools)?;
    let story = Story::begin();
    say!("{}", story.bold("Volary: from a commit to six Debian devices"));
    say!("logs of everything: {}", logs.display());

    let demo = match Demo::set_up(&story, tools, &logs, &interrupt) {
        Ok(demo) => demo,
        Err(error) => {
            interrupt.settle();
            return Err(failed(error, &logs));
        }
    };
    let told = demo.tell(args.short);
    interrupt.settle();
    if let Err(error) = told {
        demo.chain.collect(&demo.devices);
        if args.hold {
            say!("{error:#}\neverything stays up in {}; press Ctrl-C", demo.chain.lab().folder().display());
            interrupt.wait(|| false);
        }
        return Err(failed(error, &logs));
    }
    say!("\nall of it took {}", story.elapsed());
    if !args.no_keep {
        say!("the page: {}   the server's folder: {}", demo.chain.url(), demo.chain.folder().display());
        say!(
            "the command line: VOLARY_CONFIG={} {}",
            demo.config().display(),
            demo.chain.tools().volary.display()
        );
        say!("press Ctrl-C to take everything down");
        interrupt.wait(|| false);
        say!("\ntaking everything down");
    }
    Ok(())
}

fn failed(error: anyhow::Error, logs: &Path) -> anyhow::Error {
    anyhow::anyhow!("{error:#}\nthe logs of everything are in {}", logs.display())
}

/// A folder that only has the logs of this run: `$VOLARY_DEMO_LOGS`, or one in the target folder.
fn fresh_logs(tools: &Tools) -> anyhow::Result<PathBuf> {
    let logs = std::env::var_os("VOLARY_DEMO_LOGS").map_or_else(|| tools.target.join("demo"), PathBuf::from);
    if logs.exists() {
        std::fs::remove_dir_all(&logs).with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    volary_host::create_dir(&logs)?;
    Ok(logs)
}

/// What the steps work on.
struct Demo<'a> {
    story: &'a Story,
    // Before the chain, whose lab takes the rest down.
    devices: Vec<Device>,
    fleet: Clone,
    chain: Chain,
    /// Whom the server tells of alerts.
    listener: Listener,
}

impl<'a> Demo<'a> {
    /// The server, the description of the fleet, and the devices.
    fn set_up(story: &'a Story, tools: Tools, logs: &Path, interrupt: &Interrupt) -> anyhow::Result<Self> {
        story.chapter("A server, a fleet, six devices");
        let cache = Cache::open()?;
        let root =
            story.step("a Debian 12 root for devices, made by mmdebstrap or kept from before", || {
                let mut log = String::new();
                let root = roots::device_root(&cache, Debian::Bookworm, &mut |event| match event {
                    RootEvent::Making(name) => log.push_str(&format!("making {name}\n")),
                    RootEvent::Said(line) => log.push_str(&format!("{line}\n")),
                });
                volary_host::write_atomic(&logs.join("root.log"), log.as_bytes(), 0o644)?;
                Ok(root?)
            })?;
        let lab = Lab::open(&cache)?;
        interrupt.guard(lab.breaker());
        let chain = story.step("volary init, volary serve: keys, archive, git host, page", || {
            Ok(Chain::open(lab, tools, logs)?)
        })?;
        let listener = Listener::open(chain.lab().host_address())?;
        leak::tell(&chain, &listener)?;
        story.note(&format!("{}  (the page, git, the archive and the devices' door)", chain.url()));
        story.step("volary archive include: the agent's own package, to be upgraded as any other", || {
            let deb = chain.tools().agent_deb()?.display().to_string();
            Ok(chain.volary(&["archive", "include", &deb])?)
        })?;
        let fleet =
            story.step("the fleet repository: six devices, three stages, merged up to production", || {
                let fleet = chain.clone_of("fleet")?;
                fleet::describe(&fleet)?;
                Ok(fleet)
            })?;
        let names: Vec<&str> = DEVICES.iter().map(|(name, _)| *name).collect();
        let devices = story.step("six containers boot Debian with systemd", || {
            Ok(chain.lab().start_devices(&names, &root, &DeviceOptions::default())?)
        })?;
        Ok(Self { story, devices, fleet, chain, listener })
    }

    fn config(&self) -> PathBuf {
        self.chain.folder().join("client.toml")
    }

    fn join(&self) -> anyhow::Result<()> {
        self.story.step("each installs the agent, joins with a token, and follows its branch", || {
            std::thread::scope(|scope| {
                let joined: Vec<_> = self
                    .devices
                    .iter()
                    .zip(DEVICES)
                    .map(|(device, (_, stage))| scope.spawn(move || self.chain.join(device, stage)))
                    .collect();
                joined.into_iter().try_for_each(|thread| thread.join().expect("joining does not panic"))
            })?;
            ["development", "canary", "production"].into_iter().try_for_each(|stage| self.good(stage))
        })
    }

    /// The storyline after everything is set up.
    fn tell(&self, short: bool) -> anyhow::Result<()> {
        self.join()?;
        let first = self.first_packages()?;
        let second = self.killed_server()?;
        self.first_release(&first.hello, &second)?;
        let fixed = self.fix_and_production(&first.hello)?;
        let newest = if short { fixed } else { self.leak(&self.listener)? };
        self.broken_commit()?;
        self.last_table(&first.hello, &newest)
    }

    /// The stage's devices.
    fn of_stage(&self, stage: &str) -> Vec<&Device> {
        let both = self.devices.iter().zip(DEVICES);
        both.filter(|(_, (_, of))| *of == stage).map(|(device, _)| device).collect()
    }

    /// The tip of a stage's branch, by asking git.
    fn tip(&self, stage: &str) -> anyhow::Result<CommitId> {
        self.fleet.run_git(&["fetch", "--quiet", "origin"])?;
        let branch = fleet::branch(stage);
        Ok(self.fleet.run_git(&["rev-parse", &format!("origin/{branch}")])?.trim().parse()?)
    }

    /// Waits until every device of a stage has a version, by asking the devices themselves.
    fn arrives(&self, stage: &str, package: &str, version: &str) -> anyhow::Result<()> {
        for device in self.of_stage(stage) {
            self.chain.wait_for_package(device, package, version, CONVERGE)?;
        }
        Ok(())
    }

    /// Waits for a build that must succeed, and gives the version it made.
    fn built(&self, source: &str, commit: &CommitId) -> anyhow::Result<String> {
        let build = self.chain.wait_for_build(source, commit, BUILD)?;
        match (build.state, build.version) {
            (BuildState::Succeeded, Some(version)) => Ok(version),
            (state, _) => {
                let log = self.chain.volary(&["build", "log", &build.id.to_string()])?;
                let path = self.chain.logs().join(format!("build-{}.log", build.id));
                volary_host::write_atomic(&path, log.as_bytes(), 0o644)?;
                let reason = build.reason.unwrap_or_else(|| format!("{state:?}"));
                bail!("build {} of {source} failed: {reason}; its log: {}", build.id, path.display())
            }
        }
    }
}

/// The versions that the first pushes made.
struct First {
    hello: String,
}

impl Demo<'_> {
    fn first_packages(&self) -> anyhow::Result<First> {
        let story = self.story;
        story.chapter("A commit becomes a package and reaches the development device");
        let commit = story
            .step("a source for our service volary-pulse; its first commit is pushed", || {
                sources::push_pulse(&self.chain)
            })?;
        let pulse = story.step("volary-pulse is built in a clean chroot and published to rolling", || {
            self.built(sources::PULSE, &commit)
        })?;
        story.note(&format!("volary-pulse {pulse}"));
        let commit = story.step("hello is imported from Debian with its packaging, and pushed", || {
            sources::push_hello(&self.chain)
        })?;
        let hello = story.step("hello is built in the same way and published to rolling", || {
            self.built(sources::HELLO, &commit)
        })?;
        story.note(&format!("hello {hello}"));
        story.step("the fleet repository asks for both; development follows rolling: dev-1", || {
            fleet::want_packages(&self.fleet)?;
            self.arrives("development", sources::PULSE, &pulse)?;
            self.arrives("development", sources::HELLO, &hello)?;
            self.runs("development")
        })?;
        Ok(First { hello })
    }

    /// Waits until the service runs on every device of a stage, by asking systemd there.
    fn runs(&self, stage: &str) -> anyhow::Result<()> {
        for device in self.of_stage(stage) {
            device.wait_until("the service to run", Duration::from_secs(60), |device| {
                match volary_testkit::chain::unit_state(device, sources::UNIT)
                    .map_err(|error| error.to_string())?
                {
                    state if state == "active" => Ok(()),
                    state => Err(state),
                }
            })?;
        }
        Ok(())
    }

    fn killed_server(&self) -> anyhow::Result<String> {
        let story = self.story;
        story.chapter("The server dies while it publishes");
        let what = "a new commit of volary-pulse; SIGKILL when its package enters the pool";
        let (commit, published) = story.step(what, || self.kill_in_publish())?;
        story.note(match published {
            false => "the package is in the pool, and the signed suite does not name it yet",
            true => "the suite was signed just before the end; the build's record was not written yet",
        });
        let version =
            story.step("started again: the build and its publication are brought to their end", || {
                self.chain.start_server()?;
                self.built(sources::PULSE, &commit)
            })?;
        story.note(&format!("volary-pulse {version}"));
        story.step("the chain goes on: dev-1 has it", || {
            self.arrives("development", sources::PULSE, &version)
        })?;
        Ok(version)
    }

    /// Pushes a commit and kills the server in the publication of its package. Also says whether
    /// the suite was replaced already.
    fn kill_in_publish(&self) -> anyhow::Result<(CommitId, bool)> {
        let public = self.chain.folder().join("archive/public");
        let (pool, suite) = (public.join("pool"), public.join("dists/rolling/InRelease"));
        let (files, signed) = (count_files(&pool), volary_host::read(&suite)?);
        let commit = sources::change_pulse(&self.chain, sources::Change::Feature)?;
        let started = Instant::now();
        while count_files(&pool) == files {
            ensure!(started.elapsed() < BUILD, "the package did not enter the pool");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.chain.kill_server()?;
        Ok((commit, volary_host::read(&suite)? != signed))
    }

    fn first_release(&self, hello: &str, pulse: &str) -> anyhow::Result<()> {
        let story = self.story;
        story.chapter("A release for the canaries");
        story.step("volary release cut v1.0: a snapshot of rolling", || {
            Ok(self.chain.volary(&["release", "cut", "v1.0"])?)
        })?;
        self.bump("v1.0")?;
        self.promote("development", "canary")?;
        story.step("the canaries install v1.0/r1, and nothing newer", || {
            self.arrives("canary", sources::PULSE, pulse)?;
            self.arrives("canary", sources::HELLO, hello)?;
            self.runs("canary")
        })
    }

    /// Commits the pin and waits until the development device is well with it: the gate asks.
    fn bump(&self, release: &str) -> anyhow::Result<()> {
        self.story.step(
            &format!("volary bump {release}: one signed commit on master pins its digest"),
            || {
                self.fleet.pull()?;
                self.fleet.run_volary(&["bump", release])?;
                self.good("development")
            },
        )
    }

    /// Waits until the server has heard that each device of a stage is well at the stage's tip.
    fn good(&self, stage: &str) -> anyhow::Result<()> {
        let tip = self.tip(stage)?;
        for device in self.of_stage(stage) {
            self.chain.wait_for_good(device.name(), &tip, CONVERGE)?;
        }
        Ok(())
    }

    /// Merges one stage into the next, when its devices are well.
    fn promote(&self, from: &str, to: &str) -> anyhow::Result<()> {
        self.story.step(
            &format!("volary promote --from {from} --to {to}: the gates say go, signed, merged"),
            || {
                self.good(from)?;
                Ok(self.fleet.run_volary(&["promote", "--from", from, "--to", to, "--yes"]).map(drop)?)
            },
        )
    }

    fn fix_and_production(&self, hello: &str) -> anyhow::Result<String> {
        let story = self.story;
        story.chapter("A fix is picked, the release frozen, production follows");
        let fixed = story.step("a fix of volary-pulse: pushed, built, on dev-1", || {
            let commit = sources::change_pulse(&self.chain, sources::Change::Fix)?;
            let version = self.built(sources::PULSE, &commit)?;
            self.arrives("development", sources::PULSE, &version)?;
            Ok(version)
        })?;
        story.note(&format!("volary-pulse {fixed}"));
        story.step("volary release pick v1.0 volary-pulse: v1.0/r2; release freeze v1.0", || {
            self.chain.volary(&["release", "pick", "v1.0", sources::PULSE])?;
            Ok(self.chain.volary(&["release", "freeze", "v1.0"])?)
        })?;
        self.bump("v1.0")?;
        self.promote("development", "canary")?;
        story.step("the canaries upgrade to v1.0/r2", || {
            self.arrives("canary", sources::PULSE, &fixed)?;
            self.runs("canary")
        })?;
        self.promote("canary", "production")?;
        story.step("the three production devices install v1.0/r2", || {
            self.arrives("production", sources::PULSE, &fixed)?;
            self.arrives("production", sources::HELLO, hello)?;
            self.runs("production")?;
            self.good("production")
        })?;
        let trace = self.chain.volary(&["trace", &format!("{}={fixed}", sources::PULSE)])?;
        story.note(&trace);
        Ok(fixed)
    }

    fn broken_commit(&self) -> anyhow::Result<()> {
        let story = self.story;
        story.chapter("A commit that breaks the service stops at development");
        let broken = story.step("it builds well", || {
            let commit = sources::change_pulse(&self.chain, sources::Change::Break)?;
            self.built(sources::PULSE, &commit)
        })?;
        story.note(&format!("volary-pulse {broken}"));
        let reason =
            story.step("dev-1 takes it, finds that the service does not run, and undoes it", || {
                Ok(wait_until("dev-1 to be shown as failed", CONVERGE, || {
                    let known = self.chain.known("dev-1").map_err(|error| error.to_string())?;
                    match known.condition {
                        Condition::Failed => Ok(known.reason),
                        other => Err(format!("{other:?}: {}", known.reason)),
                    }
                })?)
            })?;
        story.note(&format!("volary status: dev-1 failed: {reason}"));
        let refused =
            story.step("cut v1.2 with it and bump; volary promote to the canaries is refused", || {
                self.chain.volary(&["release", "cut", "v1.2"])?;
                self.fleet.pull()?;
                self.fleet.run_volary(&["bump", "v1.2"])?;
                let output =
                    self.fleet.volary(&["promote", "--from", "development", "--to", "canary", "--yes"])?;
                ensure!(!output.status.success(), "the promotion of a broken release was not refused");
                Ok(String::from_utf8_lossy(&output.stderr).into_owned())
            })?;
        story.note(&refused);
        Ok(())
    }

    fn last_table(&self, hello: &str, pulse: &str) -> anyhow::Result<()> {
        self.story.chapter("What dpkg-query and systemctl say inside each device");
        let expected: Vec<Expected<'_>> = self
            .devices
            .iter()
            .zip(DEVICES)
            .map(|(device, (_, stage))| {
                let came_back = *stage == "development";
                Expected { device, stage, pulse, hello, came_back }
            })
            .collect();
        table::print(self.story, &expected)
    }
}

/// How many files are below a folder; none if it is not there yet.
fn count_files(folder: &Path) -> usize {
    let Ok(entries) = folder.read_dir() else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}
