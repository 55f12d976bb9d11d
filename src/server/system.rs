//! The system API (`PROXY_SYSTEM_API`): origins register here, orchestrators ask for health, people
//! and scripts look at this node.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/srs/register` | takes an origin's heartbeat |
//! | `GET /api/v1/versions` | the version of this program |
//! | `GET /healthz` | 200 while the process serves |
//! | `GET /readyz` | 200 while this node takes new sessions, else 503 |
//! | `GET /metrics` | the metrics of this node |
//! | `GET /api/v1/proxy/cluster` | this node, the others, and what they hold together |
//! | `GET /api/v1/proxy/origins` | the registered origins, ordered by id |
//! | `GET /api/v1/proxy/streams` | the placed streams, ordered by name |
//! | `GET /api/v1/proxy/sessions` | the sessions of this node, oldest first |
//! | `GET /api/v1/proxy/openapi.json` | the description of this API and of the HTTP API (OpenAPI 3.1) |
//!
//! Every answer but the metrics is JSON with a `code` that is 0 for success; an error has the HTTP status as its
//! code and says why in `error`. Where a token is configured, registration, the metrics and the views
//! need it; versions and health do not, because the Go proxy and its users take them for probes.

pub mod cluster;
mod register;
mod views;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRef, Request, State},
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    auth,
    exporter::{self, Exporter},
    http, openapi,
};
use crate::log_throttle::LogThrottle;
use crate::{
    balancer::Balancer,
    config::{BalancerType, Secret},
    metrics::Metrics,
    session::Sessions,
};

/// How long the balancer may take to say whether it can place streams. Probes wait about as long.
const READY: Duration = Duration::from_millis(1500);

/// How often the same refusal is logged. SRS repeats its heartbeat every few seconds.
const REFUSAL_PERIOD: Duration = Duration::from_mins(1);
/// How many different refusals are logged in that time.
const MAX_REFUSALS: usize = 64;

/// What the API shows and serves.
#[derive(Clone)]
pub struct SystemState {
    /// Takes the heartbeats and knows the placements.
    pub balancer: Arc<dyn Balancer>,
    /// What it agrees with other nodes through.
    pub kind: BalancerType,
    /// The sessions of this node.
    pub sessions: Sessions,
    /// Counts the heartbeats.
    pub metrics: Metrics,
    /// Answers with the metrics.
    pub exporter: Exporter,
    /// The bearer token that registration, metrics and views need, if any.
    pub token: Option<Secret>,
    /// Whether this node takes new sessions: false until it has started and while it drains.
    pub ready: watch::Receiver<bool>,
    /// Cancelled when this node drains.
    pub draining: CancellationToken,
    /// When this node started.
    pub started: Instant,
}

struct App {
    state: SystemState,
    alone: cluster::StandaloneNode,
    refusals: LogThrottle<(Option<IpAddr>, String)>,
}

impl FromRef<Arc<App>> for Exporter {
    fn from_ref(app: &Arc<App>) -> Self {
        app.state.exporter.clone()
    }
}

/// The routes. Serve them with [`http::Server`].
pub fn router(state: SystemState) -> Router {
    let alone = cluster::StandaloneNode::new(&state);
    let app = Arc::new(App { state, alone, refusals: LogThrottle::new(REFUSAL_PERIOD, MAX_REFUSALS) });
    let views = Router::new()
        .route("/metrics", get(exporter::metrics::<Arc<App>>))
        .route("/api/v1/proxy/cluster", get(cluster::cluster))
        .route("/api/v1/proxy/origins", get(views::origins))
        .route("/api/v1/proxy/streams", get(views::streams))
        .route("/api/v1/proxy/sessions", get(views::sessions))
        .route("/api/v1/proxy/openapi.json", get(openapi::serve))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), need_token));
    Router::new()
        .route("/api/v1/srs/register", post(register::register))
        .route("/api/v1/versions", get(versions))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .merge(views)
        .method_not_allowed_fallback(http::wrong_method)
        .fallback(not_found)
        .with_state(app)
}

async fn need_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if auth::permits(app.state.token.as_ref(), request.headers()) { next.run(request).await } else { auth::challenge() }
}

async fn versions() -> Response {
    Json(version()).into_response()
}

/// The version of this program: `signature` and `version` are where the Go proxy has them, `data` is
/// where SRS has it.
pub(super) fn version() -> Value {
    json!({
        "code": 0,
        "signature": "srs-proxy",
        "version": env!("CARGO_PKG_VERSION"),
        "data": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "revision": number(env!("CARGO_PKG_VERSION_PATCH")),
            "version": env!("CARGO_PKG_VERSION"),
        },
    })
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

async fn health(State(app): State<Arc<App>>) -> Response {
    Json(json!({"code": 0, "status": "ok", "uptime_seconds": app.state.started.elapsed().as_secs()})).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match readiness(&app).await {
        Ok(()) => Json(json!({"code": 0, "status": "ready"})).into_response(),
        Err(reason) => http::error(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// Why this node takes no new sessions, if it does not.
async fn readiness(app: &App) -> Result<(), String> {
    if app.state.draining.is_cancelled() {
        return Err("no new sessions: this node is draining".into());
    }
    if !*app.state.ready.borrow() {
        return Err("no new sessions: this node is starting".into());
    }
    match timeout(READY, app.state.balancer.ready()).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("placements are unavailable: no answer within {READY:?}")),
    }
}

async fn not_found(uri: Uri) -> Response {
    http::error(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}
