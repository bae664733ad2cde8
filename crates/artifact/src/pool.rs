//! Blocks through worker threads, in order. What travels is owned by the block, so that nothing is
//! shared and the number of blocks under way bounds the memory.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What a worker does with a block.
pub(crate) type Work = Box<dyn FnMut(&[u8]) -> io::Result<Vec<u8>> + Send>;

/// What was made of a block.
pub(crate) struct Done {
    pub(crate) result: Vec<u8>,
    /// The block itself: its memory can hold the next one, which saves the kernel zeroing pages.
    #[cfg_attr(not(feature = "write"), allow(dead_code, reason = "only the writer uses it again"))]
    pub(crate) block: Vec<u8>,
}

struct Job {
    block: Vec<u8>,
    reply: Sender<io::Result<Done>>,
}

/// Workers, and the results under way in the order of submission.
pub(crate) struct Pool {
    jobs: Option<Sender<Job>>,
    replies: VecDeque<Receiver<io::Result<Done>>>,
    workers: Vec<JoinHandle<()>>,
    at_most: usize,
}

impl Pool {
    /// Starts workers; each makes its own state.
    pub(crate) fn new(threads: usize, make: impl Fn() -> io::Result<Work>) -> io::Result<Self> {
        let threads = threads.clamp(1, 64);
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool =
            Self { jobs: Some(jobs), replies: VecDeque::new(), workers: Vec::new(), at_most: threads + 1 };
        for _ in 0..threads {
            let work = make()?;
            let queue = Arc::clone(&queue);
            let worker =
                std::thread::Builder::new().name("artifact".into()).spawn(move || run(&queue, work))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// True if as many blocks are under way as memory was planned for: take one out first.
    pub(crate) fn is_full(&self) -> bool {
        self.replies.len() >= self.at_most
    }

    /// Gives a block to the workers.
    pub(crate) fn submit(&mut self, block: Vec<u8>) {
        let (reply, receiver) = channel();
        let jobs = self.jobs.as_ref().expect("jobs end only with the pool");
        // If all workers panicked, the missing reply says so.
        let _ = jobs.send(Job { block, reply });
        self.replies.push_back(receiver);
    }

    /// Waits for the oldest block; none if nothing is under way.
    pub(crate) fn take(&mut self) -> Option<io::Result<Done>> {
        let receiver = self.replies.pop_front()?;
        Some(receiver.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended unexpectedly"))))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A panic was already reported as a missing reply.
            let _ = worker.join();
        }
    }
}

fn run(queue: &Mutex<Receiver<Job>>, mut work: Work) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, reply }) = job else {
            return;
        };
        // Nobody waits any more after an error in an earlier block.
        let _ = reply.send(work(&block).map(|result| Done { result, block }));
    }
}
