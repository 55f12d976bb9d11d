//! Serves HTTP/1.1: a router on a listener, within limits. What it serves is the caller's.

mod connection;

use std::{io::Write, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::throttle::Throttle;
use crate::config;

/// How long to wait when the system has no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the same complaint of a listener is logged.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
/// The answer to a connection beyond the limit.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 43\r\n\
    Connection: close\r\n\r\n{\"code\":503,\"error\":\"too many connections\"}";

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
    pub max_connections: usize,
}

impl From<&config::System> for Limits {
    fn from(config: &config::System) -> Self {
        Self {
            header_timeout: config.timeout,
            request_timeout: config.timeout,
            idle_timeout: config.timeout.max(Duration::from_mins(1)),
            send_timeout: config.timeout,
            max_connections: config.max_connections,
        }
    }
}

/// An error as JSON: `{"code":STATUS,"error":"…"}`. The code is never 0, which is what clients of
/// SRS take for success.
pub fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(json!({"code": status.as_u16(), "error": message.into()}))).into_response()
}

/// Serves `router` until `stop`; then takes no more connections, lets running requests end, and
/// returns. Handlers find the client's address as `ConnectInfo<SocketAddr>`.
///
/// Dropping the future closes all connections at once.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let complaints = Throttle::new(COMPLAINT_PERIOD, 16);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection ended by a fault of this program");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() >= limits.max_connections => {
                if let Some(held_back) = complaints.admit(&"limit") {
                    let limit = limits.max_connections;
                    tracing::warn!(%peer, limit, held_back, "connection refused: too many connections");
                }
                refuse(stream);
            }
            Ok((stream, peer)) => {
                connections.spawn(connection::serve(stream, peer, router.clone(), limits, stop.clone()));
            }
            Err(error) => {
                if let Some(held_back) = complaints.admit(&"accept") {
                    tracing::warn!(%error, held_back, "no connection can be accepted");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    let end = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limits.request_timeout.saturating_add(limits.send_timeout), end).await;
}

/// Answers without waiting: one who does not read must not keep others from being accepted.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(BUSY);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// The client's address, where [`serve`] has told it.
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
