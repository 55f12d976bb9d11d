//! The threads that move bytes.
//!
//! Each has a runtime of its own, and a session stays on the one that it began on, with both of its
//! connections. A runtime that spreads its tasks over threads wakes a second thread to look for work
//! whenever the first one finds some; for a relay, which has little to do for each wake-up, that costs
//! more than it brings.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many tasks a thread gets before the next one gets its share. Clients of one stream are often
/// served at the same moment: a thread that has several of them does more for each time that it is
/// woken. Few enough that no thread is ever far behind the others.
const SHARE: usize = 32;
/// Threads for name resolution and for files, for each worker.
const MAX_BLOCKING_THREADS: usize = 16;

/// Where sessions run. They end when this is dropped.
pub struct Workers {
    workers: Vec<Worker>,
    _stop: DropGuard,
}

struct Worker {
    runtime: Handle,
    /// How many tasks it has.
    tasks: Arc<AtomicUsize>,
}

/// Counts a task for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Workers {
    /// Starts `count` threads, or one for each core that the process may use.
    pub fn start(count: Option<usize>) -> io::Result<Self> {
        let count = count.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), |n| n.max(1));
        let stop = CancellationToken::new();
        let start = |n| start(n, stop.clone()).map(|(worker, _)| worker);
        let workers = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, _stop: stop.drop_guard() })
    }

    /// No threads of its own: everything runs where this is called.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn here() -> Self {
        let worker = Worker { runtime: Handle::current(), tasks: Arc::default() };
        Self { workers: vec![worker], _stop: CancellationToken::new().drop_guard() }
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Runs `task` on the thread with this number, below [`Self::count`].
    pub fn spawn_on(&self, number: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(worker) = self.workers.get(number) {
            worker.spawn(task);
        }
    }

    /// Runs `task` on the thread that has the fewest, counted in whole shares.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(worker) = self.workers.iter().min_by_key(|w| w.tasks.load(Relaxed) / SHARE) {
            worker.spawn(task);
        }
    }
}

impl Worker {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.fetch_add(1, Relaxed);
        let counted = Counted(Arc::clone(&self.tasks));
        self.runtime.spawn(async move {
            task.await;
            drop(counted);
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn start(n: usize, stop: CancellationToken) -> io::Result<(Worker, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(MAX_BLOCKING_THREADS).build()?;
    let worker = Worker { runtime: runtime.handle().clone(), tasks: Arc::default() };
    let thread = thread::Builder::new().name(format!("relay-{n}")).spawn(move || {
        runtime.block_on(stop.cancelled());
        runtime.shutdown_background();
    })?;
    Ok((worker, thread))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn tasks_are_spread_over_the_threads_and_stay_there() {
        let workers = Workers::start(Some(3)).unwrap();
        let (sender, receiver) = mpsc::channel();
        let release = CancellationToken::new();
        for _ in 0..3 * SHARE {
            let (sender, release) = (sender.clone(), release.clone());
            workers.spawn(async move {
                let before = thread::current().id();
                sender.send(before).unwrap();
                release.cancelled().await;
                assert_eq!(thread::current().id(), before);
            });
        }
        let mut threads = HashMap::new();
        for _ in 0..3 * SHARE {
            *threads.entry(receiver.recv_timeout(LIMIT).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(threads.into_values().collect::<Vec<_>>(), [SHARE; 3]);
        release.cancel();
    }

    #[test]
    fn a_task_that_panics_costs_only_itself() {
        let workers = Workers::start(Some(1)).unwrap();
        workers.spawn(async { panic!("a fault") });
        let (sender, receiver) = mpsc::channel();
        workers.spawn(async move { sender.send(()).unwrap() });
        receiver.recv_timeout(LIMIT).unwrap();
        // Neither is counted any more, once the second has ended behind its message.
        let start = Instant::now();
        while workers.workers[0].tasks.load(Relaxed) > 0 {
            assert!(start.elapsed() < LIMIT, "a task that has ended is still counted");
            thread::yield_now();
        }
    }

    #[test]
    fn the_threads_end_with_the_workers() {
        let stop = CancellationToken::new();
        let (_, thread) = start(0, stop.clone()).unwrap();
        drop(stop.drop_guard());
        thread.join().unwrap();
    }
}
