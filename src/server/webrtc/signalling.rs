//! Offers and answers by HTTP: WHIP (RFC 9725), WHEP (draft-ietf-wish-whep) and the JSON API of SRS, on
//! the listener of the HTTP API.
//!
//! | request | what for |
//! |---|---|
//! | `POST /rtc/v1/whip/?app=A&stream=S` | an offer to publish, or to play with `action=play` |
//! | `POST /rtc/v1/whep/?app=A&stream=S`, `/rtc/v1/whip-play/…` | an offer to play |
//! | `POST /rtc/v1/publish/`, `/rtc/v1/play/` | the same in JSON: `{"streamurl":"webrtc://host/A/S","sdp":"…"}` |
//! | `DELETE`, `PATCH`, `GET`, `HEAD`, `OPTIONS` of the `Location` of an answer | what concerns that session ([`resource`]) |
//!
//! An offer goes to the origin of its stream as it came, and the origin's answer back with this node's
//! addresses in it ([`candidates`](super::candidates)). An answer's `Location` leads to the session's
//! origin through any node ([`location`]).
//!
//! | the origin | the client gets |
//! |---|---|
//! | grants | its answer |
//! | refuses | its answer, whatever its status |
//! | takes no connection, or says nothing in `PROXY_WEBRTC_ANSWER_TIMEOUT`, and takes none by RTMP | the answer of the next origin, or 502 or 504 |
//! | closes the connection without an answer, as SRS does to refuse | 502 |
//! | is not there: none serves WebRTC | 503 with `Retry-After` |
//!
//! The caller's `Authorization` is the origin's affair, and the token of this API is not asked for.

mod endpoint;
mod exchange;
mod location;
mod offer;
mod resource;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
    routing::post,
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use self::endpoint::Endpoint;
use super::{Context, candidates::Names};
use crate::{
    codec::sdp,
    error::{Error, Kind},
    server::http,
};

/// The longest body of a message that holds SDP as it is, in bytes.
const MAX_SDP: usize = sdp::MAX_LEN;
/// The longest one in JSON, which escapes every end of a line.
const MAX_JSON: usize = 2 * sdp::MAX_LEN;

/// How all paths begin.
pub const OPEN: &str = "/rtc/";

/// What all requests share.
struct Signalling {
    context: Arc<Context>,
    names: Names,
}

/// The paths that are served; each also without the slash behind it, and what is below those that take
/// SDP.
pub fn paths() -> Vec<&'static str> {
    Endpoint::ALL.map(Endpoint::path).to_vec()
}

/// The routes. Who serves them answers browsers that ask what they may do ([`preflight`]).
pub fn router(context: Arc<Context>) -> Router {
    let names = Names::new(context.client.dialer().clone());
    let signalling = Arc::new(Signalling { context, names });
    let mut router = Router::new();
    for endpoint in Endpoint::ALL {
        let shared = Arc::clone(&signalling);
        let offer = async move |request: Request| offer::answer(&shared, endpoint, request).await;
        let mut methods = post(offer);
        if !endpoint.is_json() {
            let shared = Arc::clone(&signalling);
            let resource = async move |request: Request| resource::answer(&shared, request).await;
            methods = methods
                .get(resource.clone())
                .delete(resource.clone())
                .patch(resource.clone())
                .options(resource.clone());
            let below =
                axum::routing::get(resource.clone()).delete(resource.clone()).patch(resource.clone()).options(resource);
            router = router.route(&format!("{}{{*rest}}", endpoint.path()), below);
        }
        let path = endpoint.path();
        router = router.route(path, methods.clone()).route(path.trim_end_matches('/'), methods);
    }
    router
}

/// Whether a request is a browser's question, or anybody's, what this node allows. Others are for the
/// origin of a session.
pub fn is_for_this_node(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && (!request.uri().path().starts_with(OPEN)
            || request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            || !location::is_ours(request.uri().query()))
}

/// Adds to the answer to OPTIONS what the paths of this API take (RFC 9725, section 4.2).
pub fn preflight(path: &str, headers: &mut HeaderMap) {
    if let Some(endpoint) = Endpoint::of(path) {
        headers.insert("accept-post", HeaderValue::from_static(endpoint.media_type()));
    }
}

/// The body of a request.
async fn read(body: Body, max: usize) -> Result<Bytes, Response> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(http::error(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {max} bytes")))
        }
        Err(error) => Err(http::error(StatusCode::BAD_REQUEST, format!("the body is cut off: {error}"))),
    }
}

fn failed(error: &Error) -> Response {
    http::retry_later(http::error(http::status(error), error.to_string()))
}

fn bad_request(message: impl Into<String>) -> Response {
    http::error(StatusCode::BAD_REQUEST, message)
}

fn shutting_down() -> Error {
    Error::internal(Kind::Shutdown, "this node is shutting down: connect again")
}

/// The host that a request names; empty if it names none.
fn host(head: &Parts) -> &str {
    let header = || head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(axum::http::uri::Authority::as_str).or_else(header).unwrap_or_default()
}

/// The media type of a message, without its parameters; empty if it has none.
fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim_ascii()
}
