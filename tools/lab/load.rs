//! Many clients at once, and what the relay spends on them.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Barrier, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Result,
    client::{self, Publisher},
    flv,
    media::Media,
    process::{Memory, Process},
};

/// How many clients may be connecting at once.
const CONNECTING: usize = 64;
const RAMP_TIMEOUT: Duration = Duration::from_secs(120);
/// How long everything runs before it is measured.
const SETTLE: Duration = Duration::from_secs(1);
/// The time of a frame.
const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 30);
/// The least part of its stream that a client must have moved for a measurement to count.
const LEAST: f64 = 0.7;

/// What one measurement found.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// CPU time of the relay.
    pub cpu: Duration,
    /// Bytes that its clients got or sent.
    pub bytes: u64,
    /// The relay's memory at the end.
    pub memory: Memory,
}

impl Measured {
    /// CPU seconds per 10^9 bytes.
    pub fn seconds_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

/// Clients that run until they are dropped.
struct Clients {
    tasks: JoinSet<Result<()>>,
    bytes: Arc<[AtomicU64]>,
}

/// Tells that a client is under way.
type Ready = mpsc::Sender<()>;

impl Clients {
    /// Starts `count` clients and waits until all are under way. `client` is given its number, a
    /// sender to use when it is, and the counters.
    async fn start<F>(count: usize, client: impl Fn(usize, Ready, Arc<[AtomicU64]>) -> F) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let bytes: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let (ready, mut under_way) = mpsc::channel(count);
        let mut tasks = JoinSet::new();
        for n in 0..count {
            tasks.spawn(client(n, ready.clone(), Arc::clone(&bytes)));
        }
        let mut clients = Self { tasks, bytes };
        let all = async {
            for _ in 0..count {
                tokio::select! {
                    _ = under_way.recv() => {}
                    error = clients.failure() => return Err(error),
                }
            }
            Ok(())
        };
        timeout(RAMP_TIMEOUT, all).await.map_err(|_| "the clients do not get under way")??;
        Ok(clients)
    }

    /// Why a client ended; none ever should.
    async fn failure(&mut self) -> Box<dyn std::error::Error + Send + Sync> {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => "a client ended".into(),
        }
    }

    fn count(&self) -> Vec<u64> {
        self.bytes.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    async fn run_for(&mut self, time: Duration) -> Result<()> {
        tokio::select! {
            () = sleep(time) => Ok(()),
            error = self.failure() => Err(error),
        }
    }

    /// Measures `process` for the time of `window`, in which each client should move bytes at
    /// `rate` a second.
    async fn measure(mut self, process: &Process, window: Duration, rate: f64) -> Result<Measured> {
        self.run_for(SETTLE).await?;
        let start = Instant::now();
        let (cpu, before) = (process.cpu()?, self.count());
        self.run_for(window).await?;
        let (cpu, after) = (process.cpu()?.saturating_sub(cpu), self.count());
        let expected = rate * start.elapsed().as_secs_f64();

        let moved: Vec<u64> = after.into_iter().zip(before).map(|(after, before)| after - before).collect();
        let starved = moved.iter().filter(|n| (**n as f64) < expected * LEAST).count();
        if starved > 0 {
            return Err(format!("{starved} of {} clients fell behind their stream", moved.len()).into());
        }
        Ok(Measured { cpu, bytes: moved.iter().sum(), memory: process.memory()? })
    }
}

/// How a stream is played.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// RTMP.
    Rtmp,
    /// HTTP-FLV.
    Flv,
}

enum Player {
    Rtmp(Box<client::Player>),
    Flv(flv::Player),
}

impl Player {
    async fn play(by: By, server: SocketAddr, name: &str) -> Result<Self> {
        Ok(match by {
            By::Rtmp => Self::Rtmp(Box::new(client::Player::play(server, name).await?)),
            By::Flv => Self::Flv(flv::Player::play(server, name).await?),
        })
    }

    async fn drain(self, bytes: &AtomicU64) -> Result<()> {
        match self {
            Self::Rtmp(player) => player.drain(bytes).await,
            Self::Flv(player) => player.drain(bytes).await,
        }
    }
}

/// Players of one stream through `relay`; the stream has `rate` bytes a second.
pub async fn players(
    by: By,
    relay: SocketAddr,
    process: &Process,
    name: &str,
    count: usize,
    window: Duration,
    rate: f64,
) -> Result<Measured> {
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let name: Arc<str> = name.into();
    let clients = Clients::start(count, |n, ready, bytes| {
        let (connecting, name) = (Arc::clone(&connecting), Arc::clone(&name));
        async move {
            let permit = connecting.acquire_owned().await?;
            let player = Player::play(by, relay, &name).await?;
            drop(permit);
            ready.send(()).await?;
            player.drain(&bytes[n]).await
        }
    });
    clients.await?.measure(process, window, rate).await
}

/// Publishers through `relay`, each of a stream of its own with `rate` bytes a second.
pub async fn publishers(
    relay: SocketAddr,
    process: &Process,
    name: &str,
    count: usize,
    window: Duration,
    media: &Arc<Media>,
    rate: f64,
) -> Result<Measured> {
    let name: Arc<str> = name.into();
    let (all, start) = (Arc::new(Barrier::new(count)), Arc::new(OnceLock::new()));
    let clients = Clients::start(count, |n, ready, bytes| {
        let (media, name) = (Arc::clone(media), Arc::clone(&name));
        let (all, start) = (Arc::clone(&all), Arc::clone(&start));
        async move {
            let publisher = Publisher::publish(relay, &format!("{name}-{n}")).await?;
            ready.send(()).await?;
            // How often a relay must wake depends on how the encoders tick: never together, and in
            // the same way every time.
            timeout(RAMP_TIMEOUT, all.wait()).await?;
            let start = *start.get_or_init(Instant::now) + FRAME * n as u32 / count as u32;
            publisher.run(&media, start, &bytes[n]).await
        }
    });
    clients.await?.measure(process, window, rate).await
}

/// A stream that is published to the origin itself for as long as this lives.
pub struct Source(Clients);

impl Source {
    /// Publishes `media` as `name`.
    pub async fn start(origin: SocketAddr, name: String, media: Media) -> Result<Self> {
        let (media, name) = (Arc::new(media), Arc::<str>::from(name));
        let clients = Clients::start(1, |n, ready, bytes| {
            let (media, name) = (Arc::clone(&media), Arc::clone(&name));
            async move {
                let publisher = Publisher::publish(origin, &name).await?;
                ready.send(()).await?;
                publisher.run(&media, Instant::now(), &bytes[n]).await
            }
        });
        let mut source = Self(clients.await?);
        // Players that come now find metadata and codec headers.
        source.0.run_for(SETTLE).await?;
        Ok(source)
    }

    /// Fails if the stream has ended, which makes what was measured with it void.
    pub fn check(&mut self) -> Result<()> {
        match self.0.tasks.try_join_next() {
            None => Ok(()),
            Some(outcome) => Err(format!("the published stream ended: {outcome:?}").into()),
        }
    }
}
