//! `make bench-archive`: what the archive costs, beside aptly and reprepro in the same run.
//!
//! Ours is a real `volary serve`, used through the real command line; its processor time is that
//! of its control group. The peers are those of Debian 12, with the settings that make them
//! cheapest; none of the three makes `Contents`. Each does the same work on the same packages in turn, and what is printed is the
//! median. Not here: whether anything is lost (`campaign_archive`).

mod ours;
mod peers;
mod updates;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use volary_testkit::chain::Tools;
use volary_testkit::debs::{self, Deb};
use volary_testkit::{Cache, Cost};

use crate::figures::Figure;
use crate::workspace::Workspace;
use ours::Ours;
use peers::{Aptly, Peer, Reprepro};

/// What `make bench-archive` says of itself in the figures.
const COMMAND: &str = "make bench-archive";

/// How a benchmark of the archive runs.
#[derive(Args)]
pub struct BenchArchiveArgs {
    /// Packages in the archives that are compared
    #[arg(long, default_value_t = 10_000)]
    packages: usize,
    /// Packages in the large archive, ours alone; 0 leaves it out
    #[arg(long, default_value_t = 100_000)]
    large: usize,
    /// How often all is imported; each import begins anew. An earlier one makes the next one dearer
    /// for some minutes, because ext4 steps over the inodes of the uploads that were removed
    #[arg(long, default_value_t = 1)]
    imports: usize,
    /// How often each other operation is done
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Measure these parts only; import and publish come with what is compared with them
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Everything into an empty archive
    Import,
    /// One package into a full one
    Publish,
    /// Cut, pick, and back
    Releases,
    /// What real apt fetches
    Updates,
    /// Ours alone: one package into a large archive
    Growth,
}

impl BenchArchiveArgs {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Everything that a run needs.
struct Bench<'a> {
    workspace: &'a Workspace,
    tools: Tools,
    cache: Cache,
    /// Servers and peers that are measured no more; they go with everything else.
    earlier: RefCell<Vec<(Ours, Peers)>>,
    /// On a real disk, removed at the end.
    folder: tempfile::TempDir,
}

/// Measures and writes the figures.
pub fn run(args: &BenchArchiveArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let tools = release_tools(&workspace)?;
    volary_host::create_dir(&workspace.target)?;
    let folder = tempfile::Builder::new().prefix("bench-archive-").tempdir_in(&workspace.target)?;
    let bench =
        Bench { workspace: &workspace, tools, cache: Cache::open()?, earlier: RefCell::default(), folder };
    let set = Set::make(&workspace, args.packages)?;

    let growth = args.large > 0 && args.wants(Part::Growth);
    if args.only == [Part::Growth] {
        let ours = Ours::open(&bench, "ours")?;
        ours.import(&set.files)?;
        return bench.growth(&ours, &set, args);
    }
    let (ours, mut peers) = bench.imports(args.imports, &set)?;
    if args.wants(Part::Publish) {
        bench.publishes(&ours, &mut peers, &set, args.rounds)?;
    }
    if args.wants(Part::Releases) {
        bench.releases(&ours, &mut peers, &set, args.rounds)?;
    }
    if args.wants(Part::Updates) {
        updates::measure(&bench, &ours, &mut peers, &set)?;
    }
    if growth {
        bench.growth(&ours, &set, args)?;
    }
    bench.earlier.borrow_mut().push((ours, peers));
    Ok(())
}

/// The server as it is shipped: optimised.
pub(crate) fn release_tools(workspace: &Workspace) -> anyhow::Result<Tools> {
    let volary = match std::env::var_os("VOLARY_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            volary_host::Cmd::new("cargo")
                .args(["build", "--quiet", "--release", "--package", "volary-cli"])
                .cwd(&workspace.root)
                .timeout(Duration::from_secs(3600))
                .check()?;
            workspace.target.join("release/volary")
        }
    };
    ensure!(volary.is_file(), "{} is not there", volary.display());
    Ok(Tools { volary, checkout: workspace.root.clone(), target: workspace.target.clone() })
}

/// The packages that all are filled with.
struct Set {
    count: usize,
    dir: PathBuf,
    files: Vec<PathBuf>,
}

impl Set {
    fn make(workspace: &Workspace, count: usize) -> anyhow::Result<Self> {
        let dir = workspace.target.join(format!("debs/{count}"));
        let files = debs::write_set(&dir, count)?;
        Ok(Self { count, dir, files })
    }

    /// `rounds` new packages that nobody has yet; `turn` tells the operations apart.
    fn newer(&self, folder: &Path, turn: u64, rounds: usize) -> anyhow::Result<Vec<(Deb, PathBuf)>> {
        let dir = folder.join(format!("new-{}-{turn}", self.count));
        volary_host::create_dir(&dir)?;
        let chosen = debs::newer(self.count, turn).take(rounds);
        chosen.map(|deb| Ok((deb, deb.write(&dir)?))).collect()
    }
}

/// What several rounds of one operation cost.
#[derive(Default, Clone)]
struct Costs {
    cpu: Vec<f64>,
    wall: Vec<f64>,
}

impl Costs {
    fn add(&mut self, cost: Cost) {
        self.cpu.push(cost.cpu.as_secs_f64());
        self.wall.push(cost.wall.as_secs_f64());
    }

    fn cpu(&self) -> f64 {
        median(&self.cpu)
    }

    fn wall(&self) -> f64 {
        median(&self.wall)
    }
}

/// What several rounds of one operation cost on both sides of ours.
#[derive(Default)]
struct OwnCosts {
    server: Costs,
    client: Costs,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

const MS: f64 = 1000.0;

/// How many publishes growth is measured with. A large index is written in order of name again at every
/// 65th, which is dear; so there are twice as many, and their mean counts.
const GROWTH_ROUNDS: usize = 130;

/// Which newer versions growth is measured with; the other parts have others.
const GROWTH_TURN: u64 = 5;

/// What a release may cost the server, however many packages are in it.
const RELEASE_MS: f64 = 50.0;

/// The peers of a run.
struct Peers {
    aptly: Aptly,
    reprepro: Reprepro,
}

impl Bench<'_> {
    /// A figure of which ours may be so much at most.
    fn figure(&self, name: &str, meaning: &str, ours: (f64, &str), at_most: f64) -> anyhow::Result<Figure> {
        Ok(Figure::new(self.workspace, name, meaning, ours, at_most)?.by(COMMAND))
    }

    /// A figure whose goal is a ratio to a peer.
    fn against(
        &self,
        name: &str,
        meaning: &str,
        (ours, peer, unit): (f64, f64, &str),
        times: f64,
    ) -> anyhow::Result<()> {
        let figure = self.figure(name, meaning, (ours, unit), peer / times)?;
        figure.beside((peer, unit)).times_less(times).publish(self.workspace)
    }

    /// Fills everybody anew, in turn; the last ones stay.
    fn imports(&self, times: usize, set: &Set) -> anyhow::Result<(Ours, Peers)> {
        let (mut server, mut client) = (Costs::default(), Costs::default());
        let (mut aptly, mut reprepro) = (Costs::default(), Costs::default());
        // Nothing is removed before the end: ext4 steps over each inode that was removed in the last
        // minutes, which would make the next import several times as expensive.
        let mut all = Vec::new();
        for turn in 0..times.max(1) {
            let ours = Ours::open(self, "ours")?;
            let work = ours.import(&set.files)?;
            server.add(work.server);
            client.add(work.client);
            let folder = self.folder.path().join(format!("import-{turn}"));
            volary_host::create_dir(&folder)?;
            let mut peers = Peers {
                aptly: Aptly::open(&folder, ours.meter())?,
                reprepro: Reprepro::open(&folder, ours.meter())?,
            };
            aptly.add(peers.aptly.import(set)?);
            reprepro.add(peers.reprepro.import(set)?);
            all.push((ours, peers));
        }
        let both = server.cpu() + client.cpu();
        let count = set.count;
        self.against(
            "archive-import",
            &format!(
                "CPU of importing {count} packages and the first full publish; ours is the server and the \
                 uploading client together, the peer aptly 1.5.0 without Contents and bzip2"
            ),
            (both, aptly.cpu(), "s"),
            4.0,
        )?;
        self.against(
            "archive-import-reprepro",
            &format!("the same against reprepro; the server alone needs {:.2} s", server.cpu()),
            (both, reprepro.cpu(), "s"),
            1.0,
        )?;
        let last = all.pop().expect("there was at least one import");
        for (ours, _) in &all {
            ours.chain().stop_server()?;
        }
        self.earlier.borrow_mut().extend(all);
        Ok(last)
    }

    /// One new package into rolling, again and again.
    fn publishes(&self, ours: &Ours, peers: &mut Peers, set: &Set, rounds: usize) -> anyhow::Result<()> {
        let (mut server, mut client) = (Costs::default(), Costs::default());
        let (mut aptly, mut reprepro) = (Costs::default(), Costs::default());
        for (_, file) in set.newer(self.folder.path(), 1, rounds)? {
            let work = ours.include(&file)?;
            server.add(work.server);
            client.add(work.client);
            aptly.add(peers.aptly.publish(&file)?);
            reprepro.add(peers.reprepro.publish(&file)?);
        }
        let what = format!("one new package into {} of amd64 and arm64", set.count);
        self.against(
            "archive-publish",
            &format!(
                "CPU of the running server for {what}: gz, zst, PDiffs, by-hash, signed, flushed; the peer \
                 is aptly 1.5.0 without Contents, bzip2 and PDiffs"
            ),
            (server.cpu() * MS, aptly.cpu() * MS, "ms"),
            50.0,
        )?;
        self.against(
            "archive-publish-reprepro",
            "the same against reprepro, which has no by-hash and only gz",
            (server.cpu() * MS, reprepro.cpu() * MS, "ms"),
            8.0,
        )?;
        let (faster, name) = if aptly.wall() < reprepro.wall() {
            (aptly.wall(), "aptly")
        } else {
            (reprepro.wall(), "reprepro")
        };
        self.against(
            "archive-publish-wall",
            &format!("time on the clock of the whole upload and publish; the faster peer is {name}"),
            (client.wall() * MS, faster * MS, "ms"),
            1.0,
        )?;
        self.against(
            "archive-publish-with-client",
            &format!("CPU of server and uploading client together (the client {:.1} ms)", client.cpu() * MS),
            ((server.cpu() + client.cpu()) * MS, reprepro.cpu() * MS, "ms"),
            1.0,
        )
    }

    /// Cuts, picks, and back to an earlier set, which is what promotion and rollback need of the
    /// archive.
    fn releases(&self, ours: &Ours, peers: &mut Peers, set: &Set, rounds: usize) -> anyhow::Result<()> {
        let mut cut = [Costs::default(), Costs::default(), Costs::default()];
        let mut switch = [Costs::default(), Costs::default(), Costs::default()];
        let mut back = Costs::default();
        let newer = set.newer(self.folder.path(), 2, rounds)?;
        for (round, (deb, file)) in newer.into_iter().enumerate() {
            let release = format!("v{round}");
            cut[0].add(ours.cut(&release)?.server);
            cut[1].add(peers.aptly.cut(&release)?);
            cut[2].add(peers.reprepro.cut(&release)?);
            let before = ours.version(&deb.name())?;
            ours.include(&file)?;
            peers.aptly.add_unpublished(&file)?;
            peers.reprepro.publish(&file)?;
            switch[0].add(ours.pick(&release, &deb.name())?.server);
            switch[1].add(peers.aptly.switch(&release)?);
            switch[2].add(peers.reprepro.switch(&release)?);
            back.add(ours.pick(&release, &format!("{}={before}", deb.name()))?.server);
        }
        let count = set.count;
        let publish = |name: &str, meaning: &str, ours: &Costs, peer: &Costs| {
            let figure = self.figure(name, meaning, (ours.cpu() * MS, "ms"), RELEASE_MS)?;
            figure.beside((peer.cpu() * MS, "ms")).publish(self.workspace)
        };
        let meaning =
            format!("CPU of cutting a release of {count} packages; aptly makes and publishes a snapshot");
        publish("archive-cut", &meaning, &cut[0], &cut[1])?;
        publish("archive-cut-reprepro", "the same; reprepro copies the packages", &cut[0], &cut[2])?;
        let meaning =
            "CPU of a release's next revision, with one newer package; aptly switches to a snapshot";
        publish("archive-promote", meaning, &switch[0], &switch[1])?;
        publish(
            "archive-promote-reprepro",
            "the same; reprepro copies the packages",
            &switch[0],
            &switch[2],
        )?;
        let meaning = "CPU of a revision with the earlier set again; aptly switches to a snapshot";
        publish("archive-rollback", meaning, &back, &switch[1])
    }

    /// One new package into our rolling, again and again.
    fn own_publishes(&self, ours: &Ours, set: &Set, rounds: usize) -> anyhow::Result<OwnCosts> {
        let mut costs = OwnCosts::default();
        for (_, file) in set.newer(self.folder.path(), GROWTH_TURN, rounds)? {
            let work = ours.include(&file)?;
            costs.server.add(work.server);
            costs.client.add(work.client);
        }
        Ok(costs)
    }

    /// How the cost of a publish grows with the archive.
    fn growth(&self, ours: &Ours, set: &Set, args: &BenchArchiveArgs) -> anyhow::Result<()> {
        let OwnCosts { server: small, .. } = self.own_publishes(ours, set, GROWTH_ROUNDS)?;
        let set = Set::make(self.workspace, args.large)?;
        let ours = Ours::open(self, "large")?;
        ours.import(&set.files)?;
        let OwnCosts { server, client } = self.own_publishes(&ours, &set, GROWTH_ROUNDS)?;
        let meaning = format!(
            "CPU of one publish into {} packages ({:.1} ms, {:.0} ms on the clock, at most {:.0} ms of CPU) over that \
             into {} ({:.1} ms), means of {GROWTH_ROUNDS}; the peers grow in step with the number",
            args.large,
            mean(&server.cpu) * MS,
            mean(&client.wall) * MS,
            server.cpu.iter().copied().fold(0.0, f64::max) * MS,
            args.packages,
            mean(&small.cpu) * MS,
        );
        let growth = (mean(&server.cpu) / mean(&small.cpu), "×");
        self.figure("archive-publish-growth", &meaning, growth, 3.0)?.publish(self.workspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
