//! What this node counts and measures, for Prometheus.
//!
//! Whoever does something counts it through a handle of [`Metrics`], which costs an atomic addition, and
//! for a latency a short lock, once for each request and never for each read; no label is looked up. What
//! others know already, such as the bytes of a session, is read when somebody asks.

pub mod balancer;
mod families;
mod process;
pub mod scrape;

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use self::label::{
    Class, Direction, Dropped, Heartbeat, HttpListener, Limit, Listener, Outcome, Place, Playlist, Seen, Table,
    UdpListener, Upstream,
};
pub use crate::label;
use crate::{
    balancer::{Intent, LATENCY_BUCKETS},
    delivery::Delivery,
    error::Kind,
};

/// The counters of one node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connections: Table<(Listener,), Gauge>,
    accepted: Table<(Listener,), Counter>,
    refused: Table<(Listener, (Limit,)), Counter>,
    requests: Table<(HttpListener, (Class,)), Counter>,
    answers: Table<(HttpListener,), Histogram>,
    origin_connects: Table<(Upstream, (Outcome,)), Counter>,
    origin_connect: Table<(Upstream,), Histogram>,
    origin_requests: Table<(Upstream, (Outcome,)), Counter>,
    origin_answer: Table<(Upstream,), Histogram>,
    places: Table<(Intent, (Place,)), Counter>,
    place: Table<(Intent,), Histogram>,
    failovers: Table<(Intent,), Counter>,
    reports: Table<(Seen,), Counter>,
    heartbeats: Table<(Heartbeat,), Counter>,
    session_moves: Counter,
    datagrams_dropped: Table<(UdpListener, (Dropped,)), Counter>,
    http: Http,
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            connections: Table::default(),
            accepted: Table::default(),
            refused: Table::default(),
            requests: Table::default(),
            answers: Table::new(latency),
            origin_connects: Table::default(),
            origin_connect: Table::new(latency),
            origin_requests: Table::default(),
            origin_answer: Table::new(latency),
            places: Table::default(),
            place: Table::new(latency),
            failovers: Table::default(),
            reports: Table::default(),
            heartbeats: Table::default(),
            session_moves: Counter::default(),
            datagrams_dropped: Table::default(),
            http: Http::default(),
        }
    }
}

impl Metrics {
    /// What a listener counts.
    pub fn listener(&self, listener: Listener) -> ListenerMetrics {
        ListenerMetrics { metrics: self.clone(), listener }
    }

    /// What is counted of origins that are spoken to by `protocol`.
    pub fn origins(&self, protocol: Upstream) -> OriginMetrics {
        OriginMetrics { metrics: self.clone(), protocol }
    }

    /// What the server of HTTP streams counts.
    pub fn http(&self) -> &Http {
        &self.inner.http
    }

    /// Counts datagrams that were dropped.
    pub fn dropped(&self, listener: UdpListener, reason: Dropped, datagrams: u64) {
        self.inner.datagrams_dropped.at((listener, (reason,))).inc_by(datagrams);
    }

    /// Counts a heartbeat.
    pub fn heartbeat(&self, outcome: Heartbeat) {
        self.inner.heartbeats.at((outcome,)).inc();
    }

    /// Counts a session that ended because its stream had moved to another origin.
    pub fn session_moved(&self) {
        self.inner.session_moves.inc();
    }
}

/// What one listener counts. Cheap to clone; the default is read by nobody.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    metrics: Metrics,
    listener: Listener,
}

impl Default for ListenerMetrics {
    fn default() -> Self {
        Metrics::default().listener(Listener::System)
    }
}

impl ListenerMetrics {
    /// Counts a connection that is taken. It is open until the answer is dropped.
    pub fn accepted(&self) -> Open {
        let inner = &self.metrics.inner;
        inner.accepted.at((self.listener,)).inc();
        let connections = inner.connections.at((self.listener,)).clone();
        connections.inc();
        Open { connections }
    }

    /// Counts a connection that is refused at a limit.
    pub fn refused(&self, limit: Limit) {
        self.metrics.inner.refused.at((self.listener, (limit,))).inc();
    }

    /// Counts an HTTP request that was answered with `status` after `elapsed`, its body not included.
    /// A listener of another protocol counts none.
    pub fn answered(&self, status: StatusCode, elapsed: Duration) {
        let listener = match self.listener {
            Listener::Rtmp | Listener::Webrtc | Listener::Srt => return,
            Listener::Streams => HttpListener::Streams,
            Listener::Api => HttpListener::Api,
            Listener::System => HttpListener::System,
            Listener::Exporter => HttpListener::Exporter,
        };
        let class = match status.as_u16() {
            ..200 => Class::Informational,
            200..300 => Class::Successful,
            300..400 => Class::Redirection,
            400..500 => Class::ClientError,
            500.. => Class::ServerError,
        };
        let inner = &self.metrics.inner;
        inner.requests.at((listener, (class,))).inc();
        inner.answers.at((listener,)).observe(elapsed.as_secs_f64());
    }
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub struct Open {
    connections: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// What is counted of origins. Cheap to clone; the default is read by nobody.
#[derive(Debug, Clone)]
pub struct OriginMetrics {
    metrics: Metrics,
    protocol: Upstream,
}

impl Default for OriginMetrics {
    fn default() -> Self {
        Metrics::default().origins(Upstream::Http)
    }
}

impl OriginMetrics {
    /// Counts an attempt to connect that took `elapsed`, and how it failed if it did; for RTMP the
    /// handshake is a part of it.
    pub fn connected(&self, failure: Option<Kind>, elapsed: Duration) {
        let inner = &self.metrics.inner;
        inner.origin_connects.at((self.protocol, (Outcome(failure),))).inc();
        if failure.is_none() {
            inner.origin_connect.at((self.protocol,)).observe(elapsed.as_secs_f64());
        }
    }

    /// Counts a request whose answer, or failure, came after `elapsed`, connecting included. For RTMP
    /// that is everything up to publish or play.
    pub fn answered(&self, failure: Option<Kind>, elapsed: Duration) {
        let inner = &self.metrics.inner;
        inner.origin_requests.at((self.protocol, (Outcome(failure),))).inc();
        if failure.is_none() {
            inner.origin_answer.at((self.protocol,)).observe(elapsed.as_secs_f64());
        }
    }
}

/// What the server of HTTP streams counts beside its sessions. Requests of clients are counted by
/// [`crate::server::http`], requests to origins by [`crate::relay::http`].
#[derive(Debug, Default)]
pub struct Http {
    playlists: Table<(Playlist,), Counter>,
    retries: Counter,
    pieces: Table<(Delivery, (Direction,)), Counter>,
}

impl Http {
    /// Counts a playlist that an origin sent.
    pub fn playlist(&self, outcome: Playlist) {
        self.playlists.at((outcome,)).inc();
    }

    /// Counts a request that is sent to another origin because one failed before it had answered.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Counts the bytes of a request that was no session of its own, such as one for a segment. Call
    /// it when the request ends, not for each read. Bytes of sessions are counted by
    /// [`crate::session::Session::set_bytes`].
    pub fn piece(&self, delivery: Delivery, from_client: u64, from_origin: u64) {
        self.pieces.at((delivery, (Direction::FromClient,))).inc_by(from_client);
        self.pieces.at((delivery, (Direction::FromOrigin,))).inc_by(from_origin);
    }
}
