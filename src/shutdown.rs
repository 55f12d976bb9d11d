//! How the process ends: serving, draining, closing, done.
//!
//! The first signal starts the drain: nothing new is accepted, and sessions may go on until the
//! grace timeout. Then they are told to close. When the last one has ended, or at the force
//! timeout, everything is done. A second signal ends the process at once.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{
    signal::unix::{self, SignalKind},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::config::Drain;

/// How far the shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients are accepted.
    Serving,
    /// No more clients are accepted; sessions go on.
    Draining,
    /// Sessions are told to end.
    Closing,
    /// All sessions have ended, or nobody waits for them any longer.
    Done,
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`.
    Interrupt,
    /// `SIGTERM`.
    Terminate,
}

impl Signal {
    /// The signal's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// 128 and the signal's number, as a shell tells of a process that a signal ended.
    const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// How the shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All sessions ended by themselves or when they were told to.
    Clean,
    /// Something that should have gone on had ended; see [`Shutdown::fail`].
    Failed,
    /// The force timeout came first.
    Forced,
    /// A second signal came first.
    Aborted(Signal),
}

impl Outcome {
    /// The exit code of the process.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed | Self::Forced => 1,
            Self::Aborted(signal) => signal.exit_code(),
        }
    }
}

/// Tells servers and their sessions when to end. Cheap to clone.
///
/// A server of clients stops accepting when [`Self::draining`] fires, and runs on [`Self::tasks`]
/// itself, as does every session that it spawns. A session ends when [`Self::closing`] fires. A
/// server that answers probes and scripts goes on until [`Self::done`] fires, so that they can follow
/// the drain.
#[derive(Debug, Clone)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    timeouts: Drain,
    draining: CancellationToken,
    closing: CancellationToken,
    done: CancellationToken,
    aborted: CancellationToken,
    signal: OnceLock<Signal>,
    failed: AtomicBool,
    ready: watch::Sender<bool>,
    tasks: TaskTracker,
}

impl Shutdown {
    /// A process that serves, and that will take no longer to end than `timeouts` allow.
    pub fn new(timeouts: Drain) -> Self {
        Self {
            inner: Arc::new(Inner {
                timeouts,
                draining: CancellationToken::new(),
                closing: CancellationToken::new(),
                done: CancellationToken::new(),
                aborted: CancellationToken::new(),
                signal: OnceLock::new(),
                failed: AtomicBool::new(false),
                ready: watch::Sender::new(false),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// How far the shutdown has come.
    pub fn phase(&self) -> Phase {
        if self.inner.done.is_cancelled() {
            Phase::Done
        } else if self.inner.closing.is_cancelled() {
            Phase::Closing
        } else if self.inner.draining.is_cancelled() {
            Phase::Draining
        } else {
            Phase::Serving
        }
    }

    /// Whether new clients are welcome, for the answer to a readiness probe: from [`Self::started`]
    /// until the drain.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.inner.ready.subscribe()
    }

    /// Says that every server serves.
    pub fn started(&self) {
        // Judged under the lock that `begin` needs to take the readiness back.
        self.inner.ready.send_modify(|ready| *ready = !self.inner.draining.is_cancelled());
    }

    /// Fires when no more clients may be accepted.
    pub fn draining(&self) -> &CancellationToken {
        &self.inner.draining
    }

    /// Fires when sessions must end.
    pub fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    /// Fires when all sessions have ended, or nobody waits for them any longer.
    pub fn done(&self) -> &CancellationToken {
        &self.inner.done
    }

    /// The tasks that the drain waits for: sessions, and the loops that accept them.
    pub fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Starts the drain. Later calls change nothing.
    pub fn begin(&self) {
        self.inner.draining.cancel();
        self.inner.ready.send_replace(false);
    }

    /// Starts the drain because something that should have gone on has ended.
    pub fn fail(&self) {
        self.inner.failed.store(true, Relaxed);
        self.begin();
    }

    /// Ends everything at once.
    pub fn abort(&self, signal: Signal) {
        // Of several signals the first one gives the exit code.
        let _ = self.inner.signal.set(signal);
        self.inner.aborted.cancel();
    }

    /// Waits for [`Self::begin`] and then goes through the phases; returns when all is done.
    pub async fn run(&self) -> Outcome {
        let outcome = tokio::select! {
            biased;
            () = self.inner.aborted.cancelled() => self.inner.signal.get().copied().map(Outcome::Aborted),
            outcome = self.drain() => Some(outcome),
        };
        // The last one first, so that nobody sees a phase that never was.
        self.inner.done.cancel();
        self.inner.closing.cancel();
        self.begin();
        match outcome.unwrap_or(Outcome::Failed) {
            Outcome::Clean if self.inner.failed.load(Relaxed) => Outcome::Failed,
            outcome => outcome,
        }
    }

    async fn drain(&self) -> Outcome {
        let Inner { timeouts, draining, closing, tasks, .. } = &*self.inner;
        draining.cancelled().await;
        let begun = Instant::now();
        tasks.close();
        if timeout_at(begun + timeouts.grace, tasks.wait()).await.is_ok() {
            return Outcome::Clean;
        }
        closing.cancel();
        match timeout_at(begun + timeouts.force, tasks.wait()).await {
            Ok(()) => Outcome::Clean,
            Err(_) => Outcome::Forced,
        }
    }
}

/// `SIGTERM` and `SIGINT`, which from now on do not end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Takes the signals over. Must be called within a runtime.
    pub fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Starts the drain at the first signal and ends everything at the second.
    pub async fn handle_signals(mut self, shutdown: Shutdown) {
        let signal = self.next().await;
        info!(signal = signal.as_str(), "shutting down");
        shutdown.begin();
        let signal = self.next().await;
        warn!(signal = signal.as_str(), "second signal");
        shutdown.abort(signal);
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const GRACE: Duration = Duration::from_secs(20);
    const FORCE: Duration = Duration::from_secs(30);

    fn serving() -> Shutdown {
        Shutdown::new(Drain { grace: GRACE, force: FORCE })
    }

    /// Runs the shutdown in the background and lets it reach its first wait.
    async fn running(shutdown: &Shutdown) -> tokio::task::JoinHandle<(Outcome, Duration)> {
        let shutdown = shutdown.clone();
        let started = Instant::now();
        let run = tokio::spawn(async move { (shutdown.run().await, started.elapsed()) });
        tokio::task::yield_now().await;
        run
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_ends_before_it_is_asked_to() {
        let shutdown = serving();
        assert!(timeout(Duration::from_hours(24), shutdown.run()).await.is_err());
        assert_eq!(shutdown.phase(), Phase::Serving);
    }

    #[test]
    fn a_node_is_ready_from_its_start_to_its_drain() {
        let shutdown = serving();
        let ready = shutdown.ready();
        assert!(!*ready.borrow());
        shutdown.started();
        assert!(*ready.borrow());
        shutdown.begin();
        assert!(!*ready.borrow());
        // A signal may come before the start is through.
        shutdown.started();
        assert!(!*ready.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn without_sessions_the_drain_ends_at_once() {
        let shutdown = serving();
        let run = running(&shutdown).await;
        shutdown.begin();
        assert_eq!(run.await.unwrap(), (Outcome::Clean, Duration::ZERO));
        assert_eq!(shutdown.phase(), Phase::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_within_the_grace_timeout_is_not_told_to_close() {
        let shutdown = serving();
        let session = shutdown.tasks().spawn({
            let closing = shutdown.closing().clone();
            async move {
                sleep(GRACE / 2).await;
                closing.is_cancelled()
            }
        });
        let run = running(&shutdown).await;
        shutdown.begin();
        assert_eq!(run.await.unwrap(), (Outcome::Clean, GRACE / 2));
        assert!(!session.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_outlasts_the_grace_timeout_is_told_to_close() {
        let shutdown = serving();
        shutdown.tasks().spawn(shutdown.closing().clone().cancelled_owned());
        let run = running(&shutdown).await;
        shutdown.begin();
        tokio::task::yield_now().await;
        assert_eq!(shutdown.phase(), Phase::Draining);
        advance(Duration::from_millis(19_999)).await;
        assert_eq!(shutdown.phase(), Phase::Draining);
        assert_eq!(run.await.unwrap(), (Outcome::Clean, GRACE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_close_is_left_at_the_force_timeout() {
        let shutdown = serving();
        shutdown.tasks().spawn(std::future::pending::<()>());
        let run = running(&shutdown).await;
        shutdown.begin();
        shutdown.closing().cancelled().await;
        assert_eq!(shutdown.phase(), Phase::Closing);
        assert_eq!(run.await.unwrap(), (Outcome::Forced, FORCE));
        assert_eq!(shutdown.phase(), Phase::Done);
        assert_eq!(shutdown.tasks().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_everything_at_once_in_every_phase() {
        for wait in [Duration::ZERO, GRACE / 2, GRACE + Duration::from_secs(1)] {
            let shutdown = serving();
            shutdown.tasks().spawn(std::future::pending::<()>());
            let run = running(&shutdown).await;
            shutdown.begin();
            sleep(wait).await;
            shutdown.abort(Signal::Terminate);
            shutdown.abort(Signal::Interrupt);
            assert_eq!(run.await.unwrap(), (Outcome::Aborted(Signal::Terminate), wait));
            assert!(shutdown.closing().is_cancelled() && shutdown.done().is_cancelled());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_drains_as_a_signal_does_but_is_no_success() {
        let shutdown = serving();
        shutdown.tasks().spawn(shutdown.closing().clone().cancelled_owned());
        let run = running(&shutdown).await;
        shutdown.fail();
        assert_eq!(run.await.unwrap(), (Outcome::Failed, GRACE));
    }

    #[test]
    fn exit_codes_tell_the_outcomes_apart() {
        let outcomes = [
            Outcome::Clean,
            Outcome::Failed,
            Outcome::Forced,
            Outcome::Aborted(Signal::Interrupt),
            Outcome::Aborted(Signal::Terminate),
        ];
        assert_eq!(outcomes.map(Outcome::exit_code), [0, 1, 1, 130, 143]);
    }
}
