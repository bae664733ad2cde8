//! A power cut for tests: at the n-th write or flush everything ends, and of what was not flushed
//! any sectors are lost.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

/// Counts, and blows.
#[derive(Debug)]
pub struct Fuse {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: u64,
    seed: u64,
    done: u64,
    /// What was there before each write that was not flushed.
    unflushed: Vec<(PathBuf, u64, Vec<u8>)>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Fuse>>> = const { RefCell::new(None) };
}

/// The fuse of this thread's device.
pub fn current() -> Option<Arc<Fuse>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Runs something with a fuse that blows at the `at`-th call, and says how many calls there were.
pub fn with<T>(at: u64, seed: u64, run: impl FnOnce() -> T) -> (T, u64) {
    let state = State { left: at, seed, done: 0, unflushed: Vec::new() };
    let fuse = Arc::new(Fuse { state: Mutex::new(state) });
    CURRENT.with(|current| *current.borrow_mut() = Some(Arc::clone(&fuse)));
    let result = run();
    CURRENT.with(|current| *current.borrow_mut() = None);
    let state = fuse.state.lock().unwrap();
    (result, state.done)
}

/// A write that is atomic and flushed by itself, as that of a journal.
pub fn step() -> io::Result<()> {
    current().map_or(Ok(()), |fuse| fuse.state.lock().unwrap().count())
}

impl Fuse {
    /// Takes note of a write, or ends it all.
    pub fn write(&self, path: &Path, file: &File, offset: u64, length: usize) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let mut before = vec![0; length];
        let count = file.read_at(&mut before, offset)?;
        before.truncate(count);
        let blown = state.left == 0;
        state.count()?;
        if !blown {
            state.unflushed.push((path.to_owned(), offset, before));
        }
        Ok(())
    }

    /// Takes note of a flush, or ends it all.
    pub fn flush(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.count()?;
        state.unflushed.retain(|(other, ..)| other != path);
        Ok(())
    }
}

impl State {
    fn count(&mut self) -> io::Result<()> {
        if self.left == 0 {
            self.lose()?;
            return Err(io::Error::other("the power is cut"));
        }
        self.left -= 1;
        self.done += 1;
        Ok(())
    }

    fn lose(&mut self) -> io::Result<()> {
        for (path, offset, before) in std::mem::take(&mut self.unflushed).into_iter().rev() {
            let file = OpenOptions::new().write(true).open(path)?;
            for (number, sector) in before.chunks(SECTOR).enumerate() {
                self.seed =
                    self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if self.seed >> 63 == 1 {
                    file.write_all_at(sector, offset + (number * SECTOR) as u64)?;
                }
            }
        }
        Ok(())
    }
}
