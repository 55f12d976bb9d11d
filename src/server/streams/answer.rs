//! Answers of this node's own.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{error::Error, server::http, stream::StreamKey};

const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Why a stream cannot be given: `{"code":STATUS,"error":"…","stream":"vhost/app/stream"}`.
pub(super) fn failed(error: &Error, stream: &StreamKey) -> Response {
    let status = http::status(error);
    let body = json!({"code": status.as_u16(), "error": error.to_string(), "stream": stream.as_str()});
    http::retry_later((status, Json(body)).into_response())
}

/// What nodes agree through does not answer.
pub(super) fn unavailable(message: &str) -> Response {
    http::retry_later(http::error(StatusCode::SERVICE_UNAVAILABLE, message))
}

/// The answer to the question of a browser what it may do.
pub(super) fn options() -> Response {
    ([(header::ALLOW, ALLOWED)], StatusCode::NO_CONTENT).into_response()
}

/// Nobody needs a body to play, and what it holds may be meant as another request.
pub(super) fn no_body() -> Response {
    http::error(StatusCode::BAD_REQUEST, "a request for a stream or a file has no body")
}

/// Streams are only played here.
pub(super) fn not_allowed() -> Response {
    let mut response = http::error(StatusCode::METHOD_NOT_ALLOWED, "streams and files can only be fetched: use GET");
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// Neither a stream nor a file.
pub(super) fn not_found() -> Response {
    let message = "this is no stream: expected /app/stream.flv, .ts, .aac, .mp3, .m3u8 or .mpd, or a piece of one";
    http::error(StatusCode::NOT_FOUND, message)
}
