//! `make campaign-archive`: everything at once against a running archive, for as long as is given.
//!
//! What is tried stands in `volary_testkit::safety`; here are the numbers and the time. The goal
//! of each figure is no fault at all; how much was tried stands in its meaning.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use volary_testkit::chain::Chain;
use volary_testkit::safety::{Outcome, Trial};
use volary_testkit::wire::WebFolder;
use volary_testkit::{AptClient, Cache, Debian, Lab};

use crate::bench_archive::release_tools;
use crate::figures::Figure;
use crate::workspace::Workspace;

/// How far behind readers are: at once, as on a good link, and as on slow ones.
const GAPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(3)];

/// How a campaign runs.
#[derive(Args)]
pub struct CampaignArchiveArgs {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Minutes after which no new round begins
    #[arg(long, default_value_t = 40)]
    minutes: u64,
    /// Packages in the archive
    #[arg(long, default_value_t = 2000)]
    packages: usize,
    /// Publishes back to back while readers follow
    #[arg(long, default_value_t = 1000)]
    race: usize,
    /// Publishes while apt clients update
    #[arg(long, default_value_t = 1000)]
    publishes: usize,
    /// apt clients, of Debian 12 and 13 in turn
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// SIGKILLs of the server
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Writers at once
    #[arg(long, default_value_t = 8)]
    writers: usize,
    /// List the newest packages at the end of the indexes, as large archives do
    #[arg(long)]
    at_end: bool,
}

/// What can be tried by itself; each has its own figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Readers in the middle of publishes
    Race,
    /// Real apt in the middle of publishes
    Clients,
    /// Many uploads at once, while releases are cut
    Writers,
    /// SIGKILLs of the server during uploads
    Kills,
}

struct Campaign<'a> {
    workspace: Workspace,
    args: &'a CampaignArchiveArgs,
    cache: Cache,
    folder: tempfile::TempDir,
    until: Instant,
    broken: Vec<String>,
}

/// Runs the campaign and writes its figures; an error if anything was lost.
pub fn run(args: &CampaignArchiveArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let tools = release_tools(&workspace)?;
    let folder = tempfile::Builder::new().prefix("campaign-archive-").tempdir_in(&workspace.target)?;
    let until = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut campaign = Campaign { workspace, args, cache: Cache::open()?, folder, until, broken: Vec::new() };
    let lab = Lab::open(&campaign.cache)?;
    let chain = Chain::open(lab, tools, &campaign.folder.path().join("logs"))?;
    if args.at_end {
        chain.set("archive_news_at_end_from", "0")?;
    }
    let trial = Trial::open(&chain, args.packages, &campaign.folder.path().join("debs"))?;
    for part in Part::value_variants() {
        if !args.only.is_empty() && !args.only.contains(part) {
            continue;
        }
        match part {
            Part::Race => campaign.race(&trial)?,
            Part::Clients => campaign.clients(&chain, &trial)?,
            Part::Writers => campaign.writers(&trial)?,
            Part::Kills => campaign.kills(&trial)?,
        }
    }
    match campaign.broken.as_slice() {
        [] => Ok(()),
        broken => bail!("{} faults; the first: {}", broken.len(), broken[..broken.len().min(10)].join("\n")),
    }
}

impl Campaign<'_> {
    /// Publishes a figure of faults, of which there may be none.
    fn figure(&mut self, name: &str, meaning: &str, faults: Vec<String>) -> anyhow::Result<()> {
        for fault in faults.iter().take(20) {
            println!("fault {name}: {fault}");
        }
        let value = (faults.len() as f64, "faults");
        self.broken.extend(faults);
        let (name, meaning) = if self.args.at_end {
            (
                format!("{name}-at-end"),
                format!("with the newest packages at the end of the indexes: {meaning}"),
            )
        } else {
            (name.to_owned(), meaning.to_owned())
        };
        let figure = Figure::new(&self.workspace, &name, &meaning, value, 0.0)?;
        figure.by("make campaign-archive").publish(&self.workspace)
    }

    /// Goes on with rounds until all is done or the time is over; at least one.
    fn rounds(
        &self,
        total: usize,
        each: usize,
        mut round: impl FnMut(usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        ensure!(total > 0 && each > 0, "a campaign of nothing proves nothing");
        let mut done = 0;
        while done < total && (done == 0 || Instant::now() < self.until) {
            let now = each.min(total - done);
            round(now)?;
            done += now;
        }
        Ok(done)
    }

    fn race(&mut self, trial: &Trial<'_>) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        let mut seen = Vec::new();
        let done = self.rounds(self.args.race, 250, |publishes| {
            for (gap, reading) in trial.race(publishes, &GAPS)? {
                let untold = reading.faults - reading.told.len() as u64;
                faults.extend(reading.told);
                faults.extend((0..untold).map(|_| format!("another one, {gap:?} behind")));
                seen.push((gap, reading.reads, reading.files));
            }
            Ok(())
        })?;
        let read = |gap: Duration| {
            let all = seen.iter().filter(|(of, ..)| *of == gap);
            let (reads, files) = all.fold((0, 0), |sum, (_, reads, files)| (sum.0 + reads, sum.1 + files));
            format!("{gap:?} behind {reads} reads of {files} files")
        };
        let meaning = format!(
            "files named by an InRelease that were missing or wrong, in {done} publishes back to back: {}",
            GAPS.map(read).join(", ")
        );
        self.figure("archive-safety-race", &meaning, faults)
    }

    fn clients(&mut self, chain: &Chain, trial: &Trial<'_>) -> anyhow::Result<()> {
        let web = WebFolder::start(chain.lab().host_address(), &trial.public())?;
        let clients = self.apt_clients(chain, &web)?;
        let mut all = Outcome::default();
        self.rounds(self.args.publishes, 100, |publishes| {
            let outcome = trial.clients(publishes, &clients)?;
            all.add(outcome);
            Ok(())
        })?;
        let meaning = format!(
            "errors, warnings and stale views of {} clients with the apt of Debian 12 and 13, over HTTPS and HTTP, in \
             {} updates during {} publishes",
            clients.len(),
            all.tries,
            all.publishes
        );
        self.figure("archive-safety-clients", &meaning, all.faults)
    }

    fn apt_clients(&self, chain: &Chain, web: &WebFolder) -> anyhow::Result<Vec<AptClient>> {
        let fleet = chain.clone_of("fleet")?;
        let key = volary_host::read(&fleet.dir().join(".volary/archive.asc"))?;
        let authority = volary_host::read(&fleet.dir().join(".volary/ca.pem"))?;
        let places = [format!("{}/archive", chain.url()), format!("http://{}", web.address())];
        let make = |number: usize| {
            let debian = if number.is_multiple_of(2) { Debian::Bookworm } else { Debian::Trixie };
            let client = AptClient::new(chain.lab(), &self.cache, debian, &format!("client-{number}"))?;
            client.trust(&key, Some(&authority))?;
            client.source(&places[number / 2 % 2], "rolling", "main")?;
            Ok(client)
        };
        (0..self.args.clients).map(make).collect()
    }

    fn writers(&mut self, trial: &Trial<'_>) -> anyhow::Result<()> {
        let outcome = trial.writers(self.args.writers, 20)?;
        let meaning = format!(
            "packages lost of {} that {} writers uploaded at once while {} releases were cut",
            outcome.publishes, self.args.writers, outcome.tries
        );
        self.figure("archive-safety-writers", &meaning, outcome.faults)
    }

    fn kills(&mut self, trial: &Trial<'_>) -> anyhow::Result<()> {
        let mut all = Outcome::default();
        self.rounds(self.args.kills, 20, |kills| {
            all.add(trial.kills(kills, 3)?);
            Ok(())
        })?;
        let meaning = format!(
            "acknowledged packages lost and files not whole after {} SIGKILLs of the server during uploads ({} were \
             acknowledged); each time it started again by itself",
            all.tries, all.publishes
        );
        self.figure("archive-safety-kills", &meaning, all.faults)
    }
}
