//! The RTMP server.
//!
//! A connection is admitted ([`Admission`]), shakes hands and says what it wants ([`prologue`]); the
//! session ([`session`]) has its stream placed, opens the origin's leg ([`upstream`]) and joins the
//! two with a relay that looks at the bytes through a [`duplex`].

pub mod duplex;
mod prober;
pub mod prologue;
mod session;
mod upstream;

use std::{io, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use prober::probe_suspects;

use super::admission::{self, Admission};
use crate::{
    balancer::{Balancer, Intent},
    config::{self, keys},
    error::Kind,
    metrics::{Metrics, label::Listener},
    relay::{buffer::Pool, dial::Dialer, workers::Workers},
    session::Sessions,
    stream::Vhosts,
};

/// How long accepting pauses when the system has no more file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all sessions share.
pub struct Context {
    /// Places the streams.
    pub balancer: Arc<dyn Balancer>,
    /// Lists the sessions.
    pub sessions: Sessions,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// The server's settings.
    pub rtmp: config::Rtmp,
    /// Settings of connections to origins.
    pub upstream: config::Upstream,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Connects to origins.
    pub dialer: Dialer,
    /// Where sessions run.
    pub workers: Arc<Workers>,
    /// Where relays borrow their buffers.
    pub pool: Pool,
    /// Cancelled when the sessions that are left are to end.
    pub closing: CancellationToken,
}

/// Accepts connections until `stop` is cancelled. Sessions run on the context's workers, are known to
/// `tracker` and outlive this.
pub async fn serve(listener: TcpListener, context: Arc<Context>, stop: CancellationToken, tracker: TaskTracker) {
    let limits = admission::Limits {
        max: context.rtmp.max_connections,
        max_per_ip: context.rtmp.max_connections_per_ip,
        settings: [keys::PROXY_RTMP_MAX_CONNECTIONS.spec.name, keys::PROXY_RTMP_MAX_CONNECTIONS_PER_IP.spec.name],
    };
    let admission = Admission::new(limits, context.metrics.listener(Listener::Rtmp));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, crate::net::canonical(peer)),
            Err(error) => {
                // Only the lack of descriptors or memory lasts; a client that is gone again does not.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    tracing::warn!(%error, "cannot accept RTMP connections; raise the limit of open files?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let Some(permit) = admission.admit(peer.ip()) else { continue };
        // A connection belongs to the runtime that it was made in; this one moves to a worker's.
        let Ok(stream) = stream.into_std() else { continue };
        let session = tracker.track_future({
            let context = Arc::clone(&context);
            async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    session::run(stream, peer, &context).await;
                }
                drop(permit);
            }
        });
        context.workers.spawn(session);
    }
}

/// The status code by which a client learns that what it wanted cannot be.
const fn status_code(intent: Intent, kind: Kind) -> &'static str {
    match (intent, kind) {
        (Intent::Publish, Kind::Protocol) => "NetStream.Publish.BadName",
        (Intent::Publish, _) => "NetStream.Publish.Denied",
        (Intent::Play, Kind::Protocol | Kind::Unavailable) => "NetStream.Play.StreamNotFound",
        (Intent::Play, _) => "NetStream.Play.Failed",
    }
}
