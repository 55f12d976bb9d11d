//! A balancer that is told what to know of a cluster, and remembers what it was asked to do.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{
        Balancer, BalancerError, ClusterStatus, Intent, MemberStatus, OriginStatus, Page, PlaceRequest, Placement,
        PlacementStatus, Reachability,
        memory::MemoryBalancer,
        mesh::{model::member::NodeState, status::Counters},
    },
    config,
    origin::{Origin, OriginId},
    stream::StreamKey,
};
use tokio::sync::{Notify, watch};

/// Agrees with nobody, but says that it does.
pub struct InCluster {
    inner: MemoryBalancer,
    status: Mutex<Option<ClusterStatus>>,
    unavailable: Mutex<Option<String>>,
    calls: Mutex<Vec<&'static str>>,
    /// Whether the end of a hand-over waits for [`Self::release`].
    pub slow_drain: AtomicBool,
    /// Whether nothing that is shown is ever answered.
    pub silent: AtomicBool,
    /// Whether a farewell never ends.
    pub stuck_leave: AtomicBool,
    release: Notify,
}

impl InCluster {
    pub fn new() -> Arc<Self> {
        let inner = MemoryBalancer::new(&config::Balancer {
            max_origins: 1000,
            max_streams: 1000,
            ..config::Balancer::default()
        });
        Arc::new(Self {
            inner,
            status: Mutex::default(),
            unavailable: Mutex::default(),
            calls: Mutex::default(),
            slow_drain: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            stuck_leave: AtomicBool::new(false),
            release: Notify::new(),
        })
    }

    /// Says this of the cluster from now on.
    pub fn say(&self, status: ClusterStatus) {
        *self.status.lock().unwrap() = Some(status);
    }

    /// Refuses everything with this text from now on, or nothing any more.
    pub fn refuse(&self, why: Option<&str>) {
        *self.unavailable.lock().unwrap() = why.map(str::to_owned);
    }

    /// Lets the hand-over end.
    pub fn release(&self) {
        self.release.notify_one();
    }

    /// What was asked and what was done of it, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }

    async fn shown(&self) -> Result<(), BalancerError> {
        if self.silent.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        self.available()
    }

    fn available(&self) -> Result<(), BalancerError> {
        self.unavailable.lock().unwrap().clone().map_or(Ok(()), |why| Err(BalancerError::Unavailable(why)))
    }
}

/// A member that is well.
pub fn member(node: &str, state: NodeState) -> MemberStatus {
    MemberStatus {
        node: node.into(),
        state,
        generation: 1_795_337_000_123,
        version: "0.1.0".into(),
        grpc: format!("{node}:12027"),
        live: true,
        homes: 5,
        lag: Duration::from_millis(83),
        same_view: true,
    }
}

/// A cluster of three, seen by `proxy-0`, where all is well but for a member that is gone.
pub fn cluster() -> ClusterStatus {
    let gone = MemberStatus {
        live: false,
        same_view: false,
        version: String::new(),
        grpc: String::new(),
        homes: 0,
        lag: Duration::from_secs(75),
        ..member("proxy-2", NodeState::Left)
    };
    ClusterStatus {
        node: "proxy-0".into(),
        state: NodeState::Serving,
        stable: true,
        members: vec![member("proxy-0", NodeState::Serving), member("proxy-1", NodeState::Draining), gone],
        origins: 0,
        placements: 10,
        conflicts: 1,
        traffic: None,
        counters: Counters {
            placed: 1,
            moved: 2,
            adopted: 3,
            conflicts: 4,
            claims: 5,
            claims_lost: 6,
            unanswered: 7,
            bad_posts: 8,
        },
    }
}

#[async_trait]
impl Balancer for InCluster {
    async fn register(&self, origin: Origin) -> Result<(), BalancerError> {
        self.available()?;
        self.inner.register(origin).await
    }

    async fn origins(&self) -> Result<Vec<OriginStatus>, BalancerError> {
        self.shown().await?;
        self.inner.origins().await
    }

    async fn report(&self, origin: &OriginId, seen: Reachability) {
        self.inner.report(origin, seen).await;
    }

    async fn place(&self, request: PlaceRequest<'_>) -> Result<Placement, BalancerError> {
        self.available()?;
        self.inner.place(request).await
    }

    fn acquire(&self, placement: &Placement, intent: Intent) -> watch::Receiver<u64> {
        self.inner.acquire(placement, intent)
    }

    fn release(&self, stream: &StreamKey, intent: Intent) {
        self.inner.release(stream, intent);
    }

    async fn placements(&self, page: Page) -> Result<(Vec<PlacementStatus>, usize), BalancerError> {
        self.shown().await?;
        self.inner.placements(page).await
    }

    async fn put_ufrag(&self, id: &str, stream: &StreamKey, ttl: Duration) -> Result<(), BalancerError> {
        self.available()?;
        self.inner.put_ufrag(id, stream, ttl).await
    }

    async fn stream_of_ufrag(&self, id: &str) -> Result<Option<StreamKey>, BalancerError> {
        self.available()?;
        self.inner.stream_of_ufrag(id).await
    }

    async fn ready(&self) -> Result<(), BalancerError> {
        self.shown().await
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        self.status.lock().unwrap().clone()
    }

    async fn drain(&self) {
        self.note("drain");
        if self.slow_drain.load(SeqCst) {
            self.release.notified().await;
        }
        self.note("drained");
    }

    async fn leave(&self) {
        self.note("leave");
        if self.stuck_leave.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        self.note("left");
    }
}
