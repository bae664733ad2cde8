//! What bounds a build besides its time: silence, disk, memory, processes, and somebody's wish.
//! Not here: how memory and processes are bounded (see the control module and `enter.sh`).

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use volary_host::Stop;

/// How often a running command is looked at. It bounds how long a cancelled build goes on.
const LOOK: Duration = Duration::from_millis(100);

/// How often the disk is measured at most, and how much of the time measuring may take.
const MEASURE: Duration = Duration::from_secs(2);
const MEASURE_SHARE: u32 = 20;

/// What one build may use. `None` is no bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long it may say nothing.
    pub silence: Option<Duration>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads at one time.
    pub processes: Option<u64>,
    /// Bytes that it may write.
    pub disk: Option<u64>,
}

/// Why a command was ended before its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Somebody asked.
    Asked,
    /// It said nothing for too long.
    Silent,
    /// It wrote too much.
    Disk,
}

/// What to look for while a command runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub limits: &'a Limits,
    pub stop: &'a Stop,
}

/// When the command said something last.
#[derive(Debug, Clone)]
pub(crate) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    fn at_start() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It said something now.
    pub(crate) fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silent_for(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Watch<'_> {
    /// Does `work` beside a watcher, which asks the stop that `work` is given as soon as a bound
    /// is broken; which one is the second result. What counts on the disk is all below `written`.
    pub(crate) fn over<T>(
        &self,
        written: &Path,
        work: impl FnOnce(&Stop, &Heard) -> T,
    ) -> (T, Option<Broken>) {
        let (inner, heard, broken) = (Stop::default(), Heard::at_start(), Mutex::new(None));
        let (done, ended) = mpsc::channel::<()>();
        let result = std::thread::scope(|scope| {
            let (stop, heard, broken) = (&inner, &heard, &broken);
            scope.spawn(move || {
                let found = self.wait(written, heard, &ended);
                if found.is_some() {
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = found;
                    stop.ask();
                }
            });
            let result = work(stop, heard);
            drop(done);
            result
        });
        (result, broken.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self, written: &Path, heard: &Heard, ended: &mpsc::Receiver<()>) -> Option<Broken> {
        let mut measure_at = Instant::now() + MEASURE;
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if self.stop.is_asked() {
                return Some(Broken::Asked);
            }
            if self.limits.silence.is_some_and(|limit| heard.silent_for() > limit) {
                return Some(Broken::Silent);
            }
            if let Some(limit) = self.limits.disk
                && Instant::now() >= measure_at
            {
                let started = Instant::now();
                if size_of(written) > limit {
                    return Some(Broken::Disk);
                }
                measure_at = Instant::now() + MEASURE.max(started.elapsed() * MEASURE_SHARE);
            }
        }
        None
    }
}

/// Bytes on the disk of all below a folder. What vanishes meanwhile does not count.
fn size_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            // In blocks of 512 bytes, whatever the file system's own are.
            total += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_host::Cmd;

    fn check(limits: Limits, command: &str, asked: bool, expected: Option<Broken>) {
        let dir = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        if asked {
            stop.ask();
        }
        let watch = Watch { limits: &limits, stop: &stop };
        let (result, broken) = watch.over(dir.path(), |stop, heard| {
            Cmd::new("sh")
                .args(["-c", command])
                .cwd(dir.path())
                .stop(stop)
                .check_lines(&mut |_| heard.again())
        });
        assert_eq!(broken, expected, "{command}: {result:?}");
        assert_eq!(result.is_err(), expected.is_some(), "{command}: {result:?}");
    }

    #[test]
    fn a_command_ends_when_a_bound_is_broken() {
        let silence = |seconds| Limits { silence: Some(Duration::from_secs(seconds)), ..Limits::default() };
        check(Limits::default(), "true", false, None);
        check(Limits::default(), "sleep 60", true, Some(Broken::Asked));
        check(silence(1), "echo one; sleep 60", false, Some(Broken::Silent));
        // Longer than it may be silent, but never silent for so long.
        check(silence(2), "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done", false, None);
        let disk = Limits { disk: Some(1 << 20), ..Limits::default() };
        check(disk.clone(), "mkdir a; head -c 3000000 /dev/zero >a/b; sleep 60", false, Some(Broken::Disk));
        check(disk, "head -c 30000 /dev/zero >b; sleep 3", false, None);
    }
}
