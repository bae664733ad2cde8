//! Our archive as it is used: a running server, and the command line that uploads to it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use volary_api::v1::archive::Package;
use volary_host::Cmd;
use volary_testkit::chain::Chain;
use volary_testkit::{Cost, Lab, Meter};

use super::Bench;

/// How many files one command uploads: a command line has at most 2 MiB.
const BATCH: usize = 10_000;

/// After this long without any work the server is taken to be done with what a request left.
const QUIET: Duration = Duration::from_millis(60);

/// What a step cost on both sides.
pub struct Work {
    pub server: Cost,
    pub client: Cost,
}

/// A server with its archive.
pub struct Ours {
    meter: Rc<Meter>,
    chain: Chain,
}

impl Ours {
    /// A new server with an empty archive.
    pub fn open(bench: &Bench<'_>, name: &str) -> anyhow::Result<Self> {
        let logs = bench.folder.path().join(format!("logs-{name}"));
        let lab = Lab::open(&bench.cache)?;
        let meter = Rc::new(lab.meter(name)?);
        let chain = Chain::open(lab, bench.tools.clone(), &logs)?;
        // The peers make none either; ours are made by a timer, once an hour at most, which would
        // fall into some of the rounds.
        chain.set("archive_contents", "false")?;
        Ok(Self { meter, chain })
    }

    /// What commands are measured with; the peers' too.
    pub fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.meter)
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What is served.
    pub fn public(&self) -> PathBuf {
        self.chain.folder().join("archive/public")
    }

    fn work(&self, command: &Cmd) -> anyhow::Result<Work> {
        let before = self.chain.server_cpu()?;
        let (_, client) = self.meter.check(command)?;
        let cpu = self.settled()? - before;
        Ok(Work { server: Cost { cpu, wall: client.wall }, client })
    }

    /// The server's CPU time once it has done what it does after the answer.
    fn settled(&self) -> anyhow::Result<Duration> {
        let mut used = self.chain.server_cpu()?;
        let mut since = Instant::now();
        let limit = Instant::now() + Duration::from_secs(2);
        while since.elapsed() < QUIET && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.chain.server_cpu()?;
            // A timer that ticks is no work.
            if now - used > Duration::from_micros(200) {
                since = Instant::now();
            }
            used = now;
        }
        Ok(used)
    }

    /// Uploads and publishes many files.
    pub fn import(&self, files: &[PathBuf]) -> anyhow::Result<Work> {
        let mut sum = Work { server: Cost::default(), client: Cost::default() };
        for batch in files.chunks(BATCH) {
            let work = self.work(&self.chain.desk().volary(&["archive", "include"]).args(batch))?;
            sum = Work { server: sum.server + work.server, client: sum.client + work.client };
        }
        Ok(sum)
    }

    /// Uploads and publishes one file.
    pub fn include(&self, file: &Path) -> anyhow::Result<Work> {
        self.work(&self.chain.desk().volary(&["archive", "include"]).arg(file))
    }

    pub fn cut(&self, release: &str) -> anyhow::Result<Work> {
        self.work(&self.chain.desk().volary(&["release", "cut", release]))
    }

    pub fn pick(&self, release: &str, what: &str) -> anyhow::Result<Work> {
        self.work(&self.chain.desk().volary(&["release", "pick", release, what]))
    }

    /// The version of a package for amd64 in rolling.
    pub fn version(&self, name: &str) -> anyhow::Result<String> {
        let packages: Vec<Package> = self.chain.desk().json(&["archive", "list"])?;
        let mut packages = packages.into_iter();
        let found = packages
            .find(|package| package.name.as_str() == name && package.architecture.as_str() == "amd64");
        Ok(found.with_context(|| format!("rolling has no {name}"))?.version)
    }
}
