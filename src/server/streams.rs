//! The server of HTTP streams (`PROXY_HTTP_SERVER`): FLV, TS and other progressive streams, HLS and
//! MPEG-DASH, and static files beside them.
//!
//! What a request asks for is read from its URL alone ([`target`]), so any node can answer it. The
//! request is sent to the origin of the stream ([`forward`], [`headers`]). A progressive stream is a
//! session ([`progressive`]); of streams that are fetched piece by piece the origin is remembered
//! ([`segments`]), and their playlists are rewritten so that every later request names the stream
//! ([`playlist`]). Everything that is no stream is a file ([`static_files`]).
//!
//! | the origin | the client gets |
//! |---|---|
//! | answers | its answer, whatever its status |
//! | takes no connection, and none by RTMP | the answer of the next origin, or 502 |
//! | takes no connection by HTTP alone | 502: its publishers stay where they are |
//! | takes the request and breaks off | 502 |
//! | takes longer than `PROXY_HTTP_ANSWER_TIMEOUT` | 504 |
//! | is not there: none serves HTTP | 503 with `Retry-After` |

mod answer;
mod counted;
mod forward;
mod headers;
mod playlist;
mod progressive;
mod segments;
pub mod static_files;
pub mod target;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, State},
    http::{HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use hyper::body::Body as _;
use tokio_util::sync::CancellationToken;

pub use segments::Segments;

use self::{
    counted::Counted,
    forward::Forward,
    static_files::StaticFiles,
    target::{Kind, Name, Target},
};
use super::{
    admission,
    http::{self, Limits},
};
use crate::{
    balancer::Balancer,
    config::{self, keys},
    error::{self, Result},
    metrics::{Metrics, label::Playlist},
    relay::{buffer::Pool, http::Client},
    session::{Delivery, Sessions},
    stream::{StreamKey, Vhosts},
};

/// How long placing a stream may take at the most, whatever the balancer.
const PLACING: Duration = Duration::from_secs(5);

/// What all requests share.
pub struct Context {
    /// Places the streams.
    pub balancer: Arc<dyn Balancer>,
    /// Lists the sessions.
    pub sessions: Sessions,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// The server's settings.
    pub http: config::Http,
    /// Settings of connections to origins.
    pub upstream: config::Upstream,
    /// Sends requests to origins.
    pub client: Client,
    /// Where relays borrow their buffers.
    pub pool: Pool,
    /// The origins of streams that are fetched piece by piece.
    pub pieces: Segments,
    /// What is served where no stream is.
    pub files: Option<StaticFiles>,
    /// Cancelled when the sessions that are left are to end.
    pub closing: CancellationToken,
}

/// The limits within which streams are served.
pub fn limits(http: &config::Http, upstream: &config::Upstream) -> Limits {
    let attempts = u32::try_from(upstream.max_attempts).unwrap_or(u32::MAX);
    let attempt = upstream.connect_timeout.saturating_add(PLACING);
    Limits {
        header_timeout: http.header_timeout,
        request_timeout: attempt.saturating_mul(attempts).saturating_add(http.answer_timeout.saturating_mul(2)),
        idle_timeout: http.keepalive_timeout,
        send_timeout: http.send_timeout,
        connections: admission::Limits {
            max: http.max_connections,
            max_per_ip: http.max_connections_per_ip,
            settings: [keys::PROXY_HTTP_MAX_CONNECTIONS.spec.name, keys::PROXY_HTTP_MAX_CONNECTIONS_PER_IP.spec.name],
        },
        // Streams go on until they are closed.
        linger: Duration::MAX,
    }
}

/// The routes. Serve them with [`http::Server`].
pub fn router(context: Arc<Context>) -> Router {
    Router::new().fallback(serve).with_state(context)
}

async fn serve(
    State(context): State<Arc<Context>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    let is_head = request.method() == Method::HEAD;
    let body = headers::body(request.headers());
    let mut response = match *request.method() {
        // Where it ends could be another place for a proxy before this one.
        _ if body == Some(headers::Body::Coded) => answer::no_body(),
        Method::GET | Method::HEAD | Method::OPTIONS if body.is_some() => answer::no_body(),
        Method::GET | Method::HEAD => answer(&context, peer, request.map(drop)).await,
        Method::OPTIONS => answer::options(),
        _ => answer::not_allowed(),
    };
    if body.is_some() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers::allow_every_origin(response.headers_mut());
    if is_head && response.body().is_end_stream() {
        // That there is no body here says nothing of how long it is: the router would write a length of 0.
        *response.body_mut() = Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>());
    }
    response
}

async fn answer(context: &Arc<Context>, peer: SocketAddr, request: Request<()>) -> Response {
    let host = headers::host(&request);
    let uri = request.uri();
    let target = match Target::of(uri.path(), uri.query(), host, &context.vhosts) {
        Ok(Some(target)) => target,
        Ok(None) => return file(context, request).await.unwrap_or_else(answer::not_found),
        Err(error) => return http::error(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let response = match stream(context, &target).await {
        Ok(stream) => stream_answer(context, peer, &target, stream, &request).await,
        Err(response) => response,
    };
    // A player's own sound or clip may look like a stream.
    if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE)
        && let Some(file) = file(context, request).await
        && file.status() != StatusCode::NOT_FOUND
    {
        return file;
    }
    response
}

async fn stream(context: &Context, target: &Target) -> Result<StreamKey, Response> {
    let spbhid = match &target.name {
        Name::Key(stream) => return Ok(stream.clone()),
        Name::Id(spbhid) => spbhid,
    };
    match context.balancer.spbhid(spbhid).await {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => {
            let message = format!("no stream is known as spbhid={spbhid}: fetch the playlist again");
            Err(http::error(StatusCode::NOT_FOUND, message))
        }
        Err(error) => Err(answer::unavailable(&error.to_string())),
    }
}

async fn stream_answer(
    context: &Arc<Context>,
    peer: SocketAddr,
    target: &Target,
    stream: StreamKey,
    request: &Request<()>,
) -> Response {
    let forward = Forward::new(context, peer, &stream, request, target.kind);
    let answered = match target.kind {
        Kind::Progressive => progressive::play(&forward).await,
        Kind::Playlist | Kind::Manifest | Kind::Segment => {
            piece(&forward, delivery(target.kind, request.uri().query())).await
        }
    };
    answered.unwrap_or_else(|error| answer::failed(&error, &stream))
}

async fn piece(forward: &Forward<'_>, delivery: Delivery) -> Result<Response> {
    let (context, answer) = (forward.context, forward.piece().await?);
    // Not every playlist has a name that says so, and not every server knows the type of those that have.
    let named = forward.kind == Kind::Playlist && answer.response.status() == StatusCode::OK;
    if !named && !playlist::is_playlist(&answer.response) {
        return Ok(answer.response.map(|body| Body::new(Counted::new(body, delivery, &context.metrics))));
    }
    let rewritten = playlist::rewritten(answer, forward.is_head(), context.http.answer_timeout, &context.metrics).await;
    match rewritten.as_ref().map_err(error::Error::kind) {
        Ok(_) => context.metrics.http().playlist(Playlist::Rewritten),
        Err(error::Kind::Limit) => context.metrics.http().playlist(Playlist::TooLarge),
        Err(error::Kind::Protocol) => context.metrics.http().playlist(Playlist::Invalid),
        // It did not come.
        Err(_) => {}
    }
    rewritten
}

/// What a piece is of: playlists of HLS name their pieces by a parameter, manifests of DASH by paths.
fn delivery(kind: Kind, query: Option<&str>) -> Delivery {
    if kind == Kind::Playlist || target::has_parameter(query) { Delivery::Hls } else { Delivery::Dash }
}

async fn file(context: &Context, request: Request<()>) -> Option<Response> {
    match &context.files {
        Some(files) => Some(files.serve(request.map(|()| Body::empty())).await),
        None => None,
    }
}
