//! Serves HTTP/1.1: a router on a listener, within limits. What it serves is the caller's.

mod connection;

pub use connection::Takeover;

use std::{io::Write, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::admission::{self, Admission};
use crate::log_throttle::LogThrottle;
use crate::{
    config::{self, keys},
    error::{Error, Kind, Side},
    metrics::ListenerMetrics,
    net,
    relay::workers::Workers,
};

/// How long to wait when the system has no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the same complaint of a listener is logged.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
/// The answer to a connection beyond the limit.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\
    Connection: close\r\n\r\n{\"code\":503,\"error\":\"too many connections\"}";

/// How long a request to the exporter may take.
const EXPORTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to the exporter at once.
const EXPORTER_CONNECTIONS: usize = 64;

/// What connections may take. All times are per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request, or from the connection, to the end of the header.
    pub header_timeout: Duration,
    /// From the first byte of a request to the header of its answer; the body of the request, if the
    /// answer depends on it, included.
    pub request_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a client may leave an answer waiting while it takes next to nothing of it.
    pub send_timeout: Duration,
    /// Connections at once.
    pub connections: admission::Limits,
    /// How long requests that run may go on after the end was asked for.
    pub linger: Duration,
}

/// The address at which a client has reached this server: an extension of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached(pub SocketAddr);

/// A server of HTTP/1.1.
pub struct Server {
    /// What is served. Handlers find the client's address as `ConnectInfo<SocketAddr>`, and their own as
    /// [`Reached`].
    pub router: Router,
    /// Within what limits.
    pub limits: Limits,
    /// Where connections and requests are counted.
    pub metrics: ListenerMetrics,
    /// Where connections are served; none means where the listener is.
    pub workers: Option<Arc<Workers>>,
    /// Cancelled when no more connections are taken and those that wait for a request end.
    pub stop: CancellationToken,
    /// Cancelled when all connections are closed.
    pub close: CancellationToken,
}

impl Limits {
    /// For the exporter: few ask, and none waits long.
    pub fn exporter() -> Self {
        Self::api(EXPORTER_TIMEOUT, EXPORTER_CONNECTIONS, "connections to the exporter")
    }

    /// The same for requests that may take `time` once they have come.
    #[must_use]
    pub fn with_time_for(self, time: Duration) -> Self {
        let time = self.header_timeout.saturating_add(time);
        Self { request_timeout: self.request_timeout.max(time), linger: self.linger.max(time), ..self }
    }

    /// For an API whose answers do not go on.
    fn api(timeout: Duration, max: usize, setting: &'static str) -> Self {
        Self {
            header_timeout: timeout,
            request_timeout: timeout,
            idle_timeout: timeout.max(Duration::from_mins(1)),
            send_timeout: timeout,
            connections: admission::Limits { max, max_per_ip: max, settings: [setting; 2] },
            linger: timeout.saturating_mul(2),
        }
    }
}

/// How long a client of the HTTP API may take for the header of a request, for its body, or to take an
/// answer.
const CLIENT: Duration = Duration::from_secs(10);

impl From<&config::Api> for Limits {
    fn from(config: &config::Api) -> Self {
        // For who the origins are, which of them has a client, and its end.
        let request_timeout = CLIENT.saturating_add(config.timeout.saturating_mul(3));
        let limits = Self::api(CLIENT, config.max_connections, keys::PROXY_HTTP_API_MAX_CONNECTIONS.spec.name);
        Self { request_timeout, linger: request_timeout, ..limits }
    }
}

impl From<&config::System> for Limits {
    fn from(config: &config::System) -> Self {
        Self::api(config.timeout, config.max_connections, keys::PROXY_SYSTEM_API_MAX_CONNECTIONS.spec.name)
    }
}

/// An error as JSON: `{"code":STATUS,"error":"…"}`. The code is never 0, which is what clients of
/// SRS take for success.
pub fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(json!({"code": status.as_u16(), "error": message.into()}))).into_response()
}

/// When a client that this node cannot serve now may ask again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// The status that tells a client of an error.
pub(super) fn status(error: &Error) -> StatusCode {
    match (error.side(), error.kind()) {
        (Side::Internal, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Side::Client, _) => StatusCode::BAD_REQUEST,
        (Side::Origin, Kind::Timeout) => StatusCode::GATEWAY_TIMEOUT,
        (Side::Origin, _) => StatusCode::BAD_GATEWAY,
    }
}

/// Tells whoever finds nobody who serves him to ask again.
pub(super) fn retry_later(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// The answer to a method that a path does not have.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for {}", uri.path()))
}

impl Server {
    /// Serves until it is to stop; then lets running requests end, and returns.
    ///
    /// Dropping the future closes all connections at once, but for those that were taken over
    /// ([`Takeover`]).
    pub async fn run(self, listener: TcpListener) {
        let Self { router, limits, metrics, workers, stop, close } = self;
        let complaints = LogThrottle::new(COMPLAINT_PERIOD, 1);
        let admission = Admission::new(limits.connections, metrics.clone());
        let connections = TaskTracker::new();
        let close = close.child_token();
        let _close_all = close.clone().drop_guard();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => (stream, net::canonical(peer)),
                Err(error) => {
                    if let Some(held_back) = complaints.admit(&()) {
                        tracing::warn!(%error, held_back, "no connection can be accepted");
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    }
                }
            };
            // A connection belongs to the runtime that it was made in; this one may move to a worker's.
            let Ok(stream) = stream.into_std() else { continue };
            let Some(permit) = admission.admit(peer.ip()) else {
                refuse(stream);
                continue;
            };
            let (router, metrics, stop, close) = (router.clone(), metrics.clone(), stop.clone(), close.clone());
            let connection = connections.track_future(async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    connection::serve(stream, peer, router, limits, metrics, stop, close).await;
                }
                drop(permit);
            });
            match &workers {
                Some(workers) => workers.spawn(connection),
                None => drop(tokio::spawn(connection)),
            }
        }
        drop(listener);
        connections.close();
        let _ = tokio::time::timeout(limits.linger, connections.wait()).await;
    }
}

/// Answers without waiting: one who does not read must not keep others from being accepted.
fn refuse(mut stream: std::net::TcpStream) {
    let _ = stream.write(BUSY);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// The client's address, where [`Server`] has told it.
pub(super) fn peer(request: &axum::extract::Request) -> Option<SocketAddr> {
    request.extensions().get::<axum::extract::ConnectInfo<SocketAddr>>().map(|info| info.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_connection_too_many_is_well_formed() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], 503);
    }
}
