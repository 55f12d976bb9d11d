//! `GET /api/v1/proxy/…`: what this node knows and does, page by page.
//!
//! `?start=` skips so many items (default 0), `?count=` gives at most so many (default 100, at most
//! 1000). An answer has `total`, the number of items in all, `start`, `count`, the number of items
//! in this page, and the items. Ages are in seconds, byte counts in bytes, CPU use from 0 to 1; what
//! is not known is null.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Query, State},
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::App;
use crate::{
    balancer::{BalancerError, OriginStatus, Page, PlacementStatus},
    origin::{Endpoint, Origin, OriginId, Protocol},
    server::http,
    session::Session,
};

const DEFAULT_COUNT: usize = 100;
const MAX_COUNT: usize = 1000;

/// The page that a request asks for.
pub(super) struct Paging(Page);

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        page(&parts.uri).map(Self).map_err(|message| http::error(StatusCode::BAD_REQUEST, message))
    }
}

fn page(uri: &Uri) -> Result<Page, String> {
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| error.to_string())?;
    let number = |name: &str, default: usize, max: usize| {
        let Some((_, text)) = query.iter().find(|(key, _)| key == name) else { return Ok(default) };
        match text.parse() {
            Ok(number) if number <= max && text.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
            _ => {
                let text: String = text.chars().take(64).collect();
                Err(format!("parameter {name:?}: {text:?} is not a whole number from 0 to {max}"))
            }
        }
    };
    Ok(Page { start: number("start", 0, usize::MAX)?, count: number("count", DEFAULT_COUNT, MAX_COUNT)? })
}

/// What every page says of itself.
#[derive(Serialize)]
struct Listing {
    code: u16,
    total: usize,
    start: usize,
    count: usize,
}

impl Listing {
    fn new<T>(page: Page, items: &[T], total: usize) -> Self {
        Self { code: 0, total, start: page.start, count: items.len() }
    }
}

#[derive(Serialize)]
struct Origins {
    #[serde(flatten)]
    listing: Listing,
    origins: Vec<OriginView>,
}

#[derive(Serialize)]
struct OriginView {
    id: String,
    server_id: String,
    service_id: String,
    pid: String,
    device_id: String,
    software: String,
    ip: String,
    endpoints: Endpoints,
    state: &'static str,
    suspect_reason: Option<String>,
    heartbeat_age_seconds: f64,
    streams: usize,
    cpu: Option<f32>,
}

/// The endpoints as the origin sent them.
#[derive(Serialize)]
struct Endpoints {
    rtmp: Vec<String>,
    http: Vec<String>,
    api: Vec<String>,
    srt: Vec<String>,
    rtc: Vec<String>,
}

impl Endpoints {
    fn new(origin: &Origin) -> Self {
        let texts = |protocol| origin.endpoints(protocol).iter().map(Endpoint::as_str).map(str::to_owned).collect();
        Self {
            rtmp: texts(Protocol::Rtmp),
            http: texts(Protocol::Http),
            api: texts(Protocol::Api),
            srt: texts(Protocol::Srt),
            rtc: texts(Protocol::Rtc),
        }
    }
}

impl OriginView {
    fn new(status: &OriginStatus) -> Self {
        let origin = &status.origin;
        Self {
            id: origin.id().as_str().to_owned(),
            server_id: origin.server_id.clone(),
            service_id: origin.service_id.clone(),
            pid: origin.pid.clone(),
            device_id: origin.device_id.clone(),
            software: origin.software.clone(),
            ip: origin.ip.clone(),
            endpoints: Endpoints::new(origin),
            state: status.state.as_str(),
            suspect_reason: status.suspect_reason.clone(),
            heartbeat_age_seconds: seconds(status.heartbeat_age),
            streams: status.streams,
            cpu: origin.cpu,
        }
    }
}

/// The registered origins, ordered by id.
pub(super) async fn origins(State(app): State<Arc<App>>, Paging(page): Paging) -> Response {
    match app.state.balancer.origins().await {
        Ok(all) => {
            let origins: Vec<_> = all.iter().skip(page.start).take(page.count).map(OriginView::new).collect();
            Json(Origins { listing: Listing::new(page, &origins, all.len()), origins }).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

#[derive(Serialize)]
struct Streams {
    #[serde(flatten)]
    listing: Listing,
    streams: Vec<StreamView>,
}

#[derive(Serialize)]
struct StreamView {
    stream: String,
    origin: String,
    epoch: u64,
    publishers: usize,
    players: usize,
}

impl StreamView {
    fn new(status: &PlacementStatus) -> Self {
        Self {
            stream: status.placement.stream.as_str().to_owned(),
            origin: status.placement.origin.id().as_str().to_owned(),
            epoch: status.placement.epoch,
            publishers: status.publishers,
            players: status.players,
        }
    }
}

/// The placed streams, ordered by name.
pub(super) async fn streams(State(app): State<Arc<App>>, Paging(page): Paging) -> Response {
    match app.state.balancer.placements(page).await {
        Ok((placements, total)) => {
            let streams: Vec<_> = placements.iter().map(StreamView::new).collect();
            Json(Streams { listing: Listing::new(page, &streams, total), streams }).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

#[derive(Serialize)]
struct SessionList {
    #[serde(flatten)]
    listing: Listing,
    sessions: Vec<SessionView>,
}

#[derive(Serialize)]
struct SessionView {
    id: u64,
    protocol: &'static str,
    peer: String,
    age_seconds: f64,
    intent: Option<&'static str>,
    stream: Option<String>,
    origin: Option<String>,
    bytes_from_client: u64,
    bytes_from_origin: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_from_client: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_from_origin: Option<u64>,
}

impl SessionView {
    fn new(session: &Arc<Session>) -> Self {
        let (bytes_from_client, bytes_from_origin) = session.bytes();
        let (packets_from_client, packets_from_origin) = session.datagrams();
        let role = session.role();
        Self {
            id: session.id,
            protocol: session.delivery.spoken(),
            peer: session.peer.to_string(),
            age_seconds: seconds(session.age()),
            intent: role.map(|(intent, _)| intent.as_str()),
            stream: role.map(|(_, stream)| stream.as_str().to_owned()),
            origin: session.origin().as_ref().map(OriginId::as_str).map(str::to_owned),
            bytes_from_client,
            bytes_from_origin,
            packets_from_client,
            packets_from_origin,
        }
    }
}

/// The sessions of this node, oldest first.
pub(super) async fn sessions(State(app): State<Arc<App>>, Paging(page): Paging) -> Response {
    let (sessions, total) = app.state.sessions.page(page);
    let sessions: Vec<_> = sessions.iter().map(SessionView::new).collect();
    Json(SessionList { listing: Listing::new(page, &sessions, total), sessions }).into_response()
}

fn unavailable(error: &BalancerError) -> Response {
    http::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// To the millisecond.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
