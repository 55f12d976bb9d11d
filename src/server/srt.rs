//! The SRT server.
//!
//! Each worker has a socket of its own, and the system keeps a client with its socket, so that the
//! sessions of a worker are known to it alone ([`demux`]). A caller's induction is answered without
//! remembering it ([`cookie`]). A conclusion that brings the cookie back begins a session, which is
//! found by the caller's address and socket from then on ([`table`]). The session is a task of its own
//! ([`session`]): it has the stream placed, asks the origin with the caller's own packets
//! ([`upstream`], [`origin_handshake`]), and sends on what the origin sends. What the client sends goes to the
//! origin at the demux. So whatever an origin does, only its own callers wait for it.

pub mod cookie;
mod demux;
pub mod origin_handshake;
mod session;
pub mod table;
mod upstream;

use std::{sync::Arc, time::Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::cookie::Cookies;
use super::admission::{self, Admission};
use crate::{
    balancer::Balancer,
    config::{self, keys},
    metrics::{Metrics, label::Listener},
    relay::{dial::Dialer, udp::Socket, workers::Workers},
    session::Sessions,
    stream::Vhosts,
};

/// The share of all sessions that may be waiting for an origin's answer: so many that no ordinary
/// crowd reaches it, and so few that those who wait in vain leave room for others.
const OPENING_SHARE: usize = 4;

/// What all sessions share.
pub struct Context {
    /// Places the streams.
    pub balancer: Arc<dyn Balancer>,
    /// Lists the sessions.
    pub sessions: Sessions,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// The server's settings.
    pub srt: config::Srt,
    /// Settings of connections to origins.
    pub upstream: config::Upstream,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Looks up origins.
    pub dialer: Dialer,
    /// Where sessions run.
    pub workers: Arc<Workers>,
    /// Cancelled when the sessions that are left are to end.
    pub closing: CancellationToken,
}

/// What the workers' desks have in common.
struct Shared {
    context: Arc<Context>,
    admission: Admission,
    /// Bounds the sessions that wait for an origin.
    opening: Arc<Semaphore>,
    cookies: Arc<Cookies>,
    /// Cancelled when no more sessions are to begin.
    stop: CancellationToken,
    /// Knows the sessions.
    sessions: TaskTracker,
    /// All sockets. They stay open until the last session has ended, since the system would spread
    /// the clients anew if one were gone.
    sockets: Vec<Arc<Socket>>,
}

/// Serves the clients of `sockets`, which share one address, one socket for each worker. After `stop`
/// is cancelled, no session begins; returns when the last one has ended. Everything that goes on is
/// known to `tracker`.
pub async fn serve(sockets: Vec<Arc<Socket>>, context: Arc<Context>, stop: CancellationToken, tracker: TaskTracker) {
    let limits = admission::Limits {
        max: context.srt.max_sessions,
        max_per_ip: context.srt.max_sessions_per_ip,
        settings: [keys::PROXY_SRT_MAX_SESSIONS.spec.name, keys::PROXY_SRT_MAX_SESSIONS_PER_IP.spec.name],
    };
    let mut secret = [0; 64];
    rand::fill(&mut secret);
    let shared = Arc::new(Shared {
        admission: Admission::new(limits, context.metrics.listener(Listener::Srt)),
        opening: Arc::new(Semaphore::new(context.srt.max_sessions.div_ceil(OPENING_SHARE))),
        cookies: Arc::new(Cookies::new(&secret, Instant::now())),
        stop: stop.clone(),
        sessions: TaskTracker::new(),
        sockets,
        context,
    });
    let (ended, mut first_ended) = mpsc::channel::<()>(1);
    let desks = TaskTracker::new();
    let workers = &shared.context.workers;
    for (n, socket) in shared.sockets.iter().enumerate() {
        let (shared, ended, socket) = (Arc::clone(&shared), ended.clone(), Arc::clone(socket));
        let demux = async move {
            if let Err(error) = demux::run(socket, shared).await {
                tracing::error!(%error, "a socket of SRT cannot be read");
            }
            let _ = ended.try_send(());
        };
        workers.spawn_on(n % workers.count().max(1), desks.track_future(tracker.track_future(demux)));
    }
    first_ended.recv().await;
    // One that ends while it should serve ends the server, which ends the node.
    if stop.is_cancelled() {
        desks.close();
        desks.wait().await;
    }
}
