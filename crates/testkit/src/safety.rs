//! What may not happen to an archive while everything happens to it: readers and real apt in the
//! middle of publishes, SIGKILL in the middle of uploads, many writers at once. Through the real
//! programs; counts and tells, and judges nothing: that is for the tests and the campaign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use volary_api::v1::archive::{Package, Release};
use volary_host::{Cmd, create_dir};

use crate::chain::Chain;
use crate::debs::{self, Deb};
use crate::reader::{self, Reading};
use crate::{AptClient, LabError, wait_until};

/// How many packages one command takes in while an archive is filled.
const BATCH: usize = 1000;

/// How long an uploader waits before it tries again what a dead server did not take.
const AGAIN: Duration = Duration::from_millis(20);

/// A server whose archive is filled with a set of packages.
#[derive(Debug)]
pub struct Trial<'a> {
    chain: &'a Chain,
    count: usize,
    folder: PathBuf,
    /// Each publish takes the next of the newer packages.
    next: AtomicUsize,
}

/// What must never be there after a trial, in words; and how much was tried.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Publishes, or packages that were acknowledged.
    pub publishes: usize,
    /// Kills, updates, reads: what the trial is about.
    pub tries: usize,
    /// Everything that went wrong.
    pub faults: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.publishes += other.publishes;
        self.tries += other.tries;
        self.faults.extend(other.faults);
        self.took += other.took;
    }
}

impl<'a> Trial<'a> {
    /// Fills the chain's archive with a set of `count` packages. `folder` keeps package files.
    ///
    /// # Errors
    /// That the server does not take them.
    pub fn open(chain: &'a Chain, count: usize, folder: &Path) -> Result<Self, LabError> {
        let paths = debs::write_set(&folder.join(format!("set-{count}")), count)?;
        let new = folder.join("new");
        create_dir(&new)?;
        for batch in paths.chunks(BATCH) {
            let include = chain.desk().volary(&["archive", "include"]).args(batch);
            chain.desk().check(&include.timeout(Duration::from_secs(600)))?;
        }
        Ok(Self { chain, count, folder: new, next: AtomicUsize::new(0) })
    }

    /// What is served.
    pub fn public(&self) -> PathBuf {
        self.chain.folder().join("archive/public")
    }

    /// A newer version of some package, written to a file; another one each time.
    fn newer(&self) -> Result<(Deb, PathBuf), LabError> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let in_round = debs::newer(self.count, 1).count();
        let round = (number / in_round + 1) as u64;
        let mut all = debs::newer(self.count, round);
        let deb = all.nth(number % in_round).expect("the place is within the round");
        Ok((deb, deb.write(&self.folder)?))
    }

    /// Offers a file to the server; true if it was acknowledged.
    fn include(&self, file: &Path) -> Result<bool, LabError> {
        let output = self.command(file).run()?;
        Ok(output.status.success())
    }

    fn command(&self, file: &Path) -> Cmd {
        self.chain.desk().volary(&["archive", "include"]).arg(file)
    }

    /// Publishes a newer version of some package.
    ///
    /// # Errors
    /// That the server does not take it.
    pub fn publish(&self) -> Result<Deb, LabError> {
        let (deb, file) = self.newer()?;
        self.chain.desk().check(&self.command(&file))?;
        volary_host::remove_if_exists(&file)?;
        Ok(deb)
    }

    /// Publishes back to back while readers follow, each its own time behind. Goes on until there
    /// were `publishes` and every reader has read at least three times.
    ///
    /// # Errors
    /// That a publish fails.
    pub fn race(&self, publishes: usize, gaps: &[Duration]) -> Result<Vec<(Duration, Reading)>, LabError> {
        let suite = self.public().join("dists/rolling");
        let ended = AtomicBool::new(false);
        let begun = Instant::now();
        let slowest = gaps.iter().max().copied().unwrap_or_default();
        std::thread::scope(|scope| {
            let read = |gap| {
                let (suite, ended) = (&suite, &ended);
                (gap, scope.spawn(move || reader::read_until(suite, gap, ended)))
            };
            let readers: Vec<_> = gaps.iter().map(|&gap| read(gap)).collect();
            let mut made = 0;
            let published = loop {
                if made >= publishes && begun.elapsed() > slowest * 3 {
                    break Ok(());
                }
                match self.publish() {
                    Ok(_) => made += 1,
                    Err(error) => break Err(error),
                }
            };
            // Also on an error: the readers must end.
            ended.store(true, Ordering::SeqCst);
            let join = |(gap, thread): (Duration, std::thread::ScopedJoinHandle<'_, Reading>)| {
                (gap, thread.join().expect("a reader does not panic"))
            };
            let readings = readers.into_iter().map(join).collect();
            published.map(|()| readings)
        })
    }

    /// Publishes while clients update in a loop. After each update a client must see the version
    /// that was acknowledged last before it began.
    ///
    /// # Errors
    /// That a publish fails, or apt cannot be run.
    pub fn clients(&self, publishes: usize, clients: &[AptClient]) -> Result<Outcome, LabError> {
        let ended = AtomicBool::new(false);
        let last: Mutex<Option<Deb>> = Mutex::default();
        let updates = AtomicUsize::new(0);
        let faults: Mutex<Vec<String>> = Mutex::default();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let follow = |client| {
                let (ended, last, updates, faults) = (&ended, &last, &updates, &faults);
                scope.spawn(move || follow(client, ended, last, updates, faults))
            };
            let followers: Vec<_> = clients.iter().map(follow).collect();
            let mut published = Ok(());
            for _ in 0..publishes {
                match self.publish() {
                    Ok(deb) => *lock(&last) = Some(deb),
                    Err(error) => {
                        published = Err(error);
                        break;
                    }
                }
            }
            ended.store(true, Ordering::SeqCst);
            let followed: Result<Vec<()>, LabError> =
                followers.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect();
            published.and(followed.map(drop))
        })?;
        Ok(Outcome {
            publishes,
            tries: updates.into_inner(),
            faults: faults.into_inner().unwrap_or_else(PoisonError::into_inner),
            took: begun.elapsed(),
        })
    }

    /// Kills the server `kills` times while `uploaders` upload. It must come back by itself, with
    /// every acknowledged package, and every suite whole.
    ///
    /// # Errors
    /// That the server does not start again, or a command cannot be run at all.
    pub fn kills(&self, kills: usize, uploaders: usize) -> Result<Outcome, LabError> {
        let ended = AtomicBool::new(false);
        let safe: Mutex<BTreeMap<(String, &'static str), u64>> = Mutex::default();
        let mut faults = Vec::new();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let upload = || {
                let (ended, safe) = (&ended, &safe);
                scope.spawn(move || self.upload(ended, safe))
            };
            let threads: Vec<_> = (0..uploaders).map(|_| upload()).collect();
            let mut killed = Ok(());
            for round in 0..kills {
                killed = self.kill_once(round, &safe, &mut faults);
                if killed.is_err() {
                    break;
                }
            }
            ended.store(true, Ordering::SeqCst);
            let uploaded: Result<Vec<()>, LabError> = threads
                .into_iter()
                .map(|thread| thread.join().expect("an uploader does not panic"))
                .collect();
            killed.and(uploaded.map(drop))
        })?;
        self.check_whole("at the end", &lock(&safe), &mut faults)?;
        let publishes = lock(&safe).len();
        Ok(Outcome { publishes, tries: kills, faults, took: begun.elapsed() })
    }

    /// One life of the server: at each turn the kill comes at another moment of it.
    fn kill_once(
        &self,
        round: usize,
        safe: &Mutex<BTreeMap<(String, &'static str), u64>>,
        faults: &mut Vec<String>,
    ) -> Result<(), LabError> {
        let before = lock(safe).values().sum::<u64>();
        // It must do something in each life; then the kill comes somewhere in the next publish.
        wait_until("an upload to be acknowledged", Duration::from_secs(60), || {
            match lock(safe).values().sum::<u64>() > before {
                true => Ok(()),
                false => Err("none was".to_owned()),
            }
        })?;
        std::thread::sleep(Duration::from_micros(moment(round)));
        self.chain.kill_server()?;
        let acknowledged = lock(safe).clone();
        self.chain.start_server()?;
        self.check_whole(&format!("after kill {round}"), &acknowledged, faults)
    }

    /// Every acknowledged package is in rolling, as it was or newer, and all files are whole.
    fn check_whole(
        &self,
        when: &str,
        acknowledged: &BTreeMap<(String, &'static str), u64>,
        faults: &mut Vec<String>,
    ) -> Result<(), LabError> {
        let packages: Vec<Package> = self.chain.desk().json(&["archive", "list"])?;
        let there: BTreeMap<(String, String), &Package> = packages
            .iter()
            .map(|package| ((package.name.to_string(), package.architecture.to_string()), package))
            .collect();
        for ((name, architecture), round) in acknowledged {
            let found = there.get(&(name.clone(), (*architecture).to_owned()));
            if found.and_then(|package| round_of(&package.version)).is_none_or(|found| found < *round) {
                faults.push(format!("{when}: {name} ({architecture}) of round {round} is lost"));
            }
        }
        if there.len() < self.count {
            faults.push(format!("{when}: rolling has {} packages instead of {}", there.len(), self.count));
        }
        let reading = reader::read_all(&self.public())?;
        if reading.faults > 0 {
            faults.push(format!(
                "{when}: {} files are not whole: {}",
                reading.faults,
                reading.told.join("; ")
            ));
        }
        Ok(())
    }

    /// Uploads one package after the other, each until it is acknowledged.
    fn upload(
        &self,
        ended: &AtomicBool,
        safe: &Mutex<BTreeMap<(String, &'static str), u64>>,
    ) -> Result<(), LabError> {
        while !ended.load(Ordering::SeqCst) {
            let (deb, file) = self.newer()?;
            while !self.include(&file)? {
                if ended.load(Ordering::SeqCst) {
                    return Ok(());
                }
                std::thread::sleep(AGAIN);
            }
            let mut safe = lock(safe);
            let round = safe.entry((deb.name(), deb.architecture)).or_default();
            *round = deb.round.max(*round);
            drop(safe);
            volary_host::remove_if_exists(&file)?;
        }
        Ok(())
    }

    /// Many uploads at once, while releases are cut: nothing may be lost, and each release is
    /// what rolling was at one moment.
    ///
    /// # Errors
    /// That an upload or a cut fails.
    pub fn writers(&self, writers: usize, each: usize) -> Result<Outcome, LabError> {
        let begun = Instant::now();
        let safe: Mutex<BTreeMap<(String, &'static str), u64>> = Mutex::default();
        let cuts = 1 + each / 4;
        std::thread::scope(|scope| {
            let write = || {
                scope.spawn(|| -> Result<(), LabError> {
                    for _ in 0..each {
                        let deb = self.publish()?;
                        let mut safe = lock(&safe);
                        let round = safe.entry((deb.name(), deb.architecture)).or_default();
                        *round = deb.round.max(*round);
                    }
                    Ok(())
                })
            };
            let threads: Vec<_> = (0..writers).map(|_| write()).collect();
            for number in 0..cuts {
                self.chain.volary(&["release", "cut", &format!("writers-{number}")])?;
            }
            threads.into_iter().try_for_each(|thread| thread.join().expect("a writer does not panic"))
        })?;
        let mut faults = Vec::new();
        self.check_whole("after all writers", &lock(&safe), &mut faults)?;
        let releases: Vec<Release> = self.chain.desk().json(&["release", "list"])?;
        let made = releases.iter().filter(|release| release.name.as_str().starts_with("writers-")).count();
        if made != cuts {
            faults.push(format!("{made} of {cuts} releases are there"));
        }
        Ok(Outcome { publishes: writers * each, tries: cuts, faults, took: begun.elapsed() })
    }
}

/// One client: updates until the end, and looks whether it sees what it must.
fn follow(
    client: &AptClient,
    ended: &AtomicBool,
    last: &Mutex<Option<Deb>>,
    updates: &AtomicUsize,
    faults: &Mutex<Vec<String>>,
) -> Result<(), LabError> {
    loop {
        // One more after the end: then it must see the last of all.
        let is_last = ended.load(Ordering::SeqCst);
        let expected = *lock(last);
        let run = client.update()?;
        updates.fetch_add(1, Ordering::SeqCst);
        if let Some(complaint) = run.complaint() {
            lock(faults).push(format!("apt of {}: {complaint}", client.debian().codename()));
        } else if let Some(deb) = expected {
            let found = client.candidate(&deb.name())?;
            if found.as_deref().and_then(round_of).is_none_or(|round| round < deb.round) {
                lock(faults).push(format!(
                    "apt of {} sees {found:?} of {} after {} was acknowledged",
                    client.debian().codename(),
                    deb.name(),
                    deb.version()
                ));
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// The round in a version of [`Deb`]: its third number.
fn round_of(version: &str) -> Option<u64> {
    version.split(['.', '-']).nth(2)?.parse().ok()
}

/// Microseconds from an acknowledgement to the kill: all of a publish is hit in turn.
fn moment(round: usize) -> u64 {
    // A golden step fills the range evenly, however many rounds there are.
    (round as u64 * 61_803) % 100_000
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
