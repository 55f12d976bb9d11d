//! `POST /api/v1/srs/register`: the heartbeat of an origin.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use serde_json::json;

use super::App;
use crate::{
    metrics::label::Heartbeat,
    origin::Origin,
    server::{auth, http},
};

/// The largest heartbeat, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How much of a larger one is read and thrown away, in bytes, so that its sender gets to read why
/// it is refused.
const MAX_DISCARD: usize = 16 * 1024 * 1024;

/// Why a heartbeat is refused.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// Takes a heartbeat. `{"code":0,"pid":"…"}` with the id of this process says that it was taken.
pub(super) async fn register(State(app): State<Arc<App>>, request: Request) -> Response {
    let peer = http::peer(&request).map(|peer| peer.ip());
    let taken = take(&app, request).await;
    app.state.metrics.heartbeat(match &taken {
        Ok(()) => Heartbeat::Taken,
        Err(refusal) => match refusal.status {
            StatusCode::UNAUTHORIZED => Heartbeat::Unauthorized,
            StatusCode::SERVICE_UNAVAILABLE => Heartbeat::Unavailable,
            _ => Heartbeat::Invalid,
        },
    });
    match taken {
        Ok(()) => Json(json!({"code": 0, "pid": std::process::id().to_string()})).into_response(),
        Err(Refusal { status, message }) => {
            // SRS takes any answer for success, so this line is all that its operator will see.
            let refusal = (peer, message);
            if let Some(held_back) = app.refusals.admit(&refusal) {
                let peer = peer.map(tracing::field::display);
                let error = &refusal.1;
                tracing::warn!(peer, status = status.as_u16(), error, held_back, "registration refused");
            }
            match status {
                StatusCode::UNAUTHORIZED => auth::challenge(),
                _ => http::error(status, refusal.1),
            }
        }
    }
}

async fn take(app: &App, request: Request) -> Result<(), Refusal> {
    if !auth::permits(app.state.token.as_ref(), request.headers()) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "no valid bearer token"));
    }
    let (head, body) = request.into_parts();
    let body = read(&head.headers, body).await?;
    let software = head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin = Origin::from_heartbeat(&body, software)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    app.state
        .balancer
        .register(origin)
        .await
        .map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

async fn read(headers: &HeaderMap, mut body: Body) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY} bytes"));
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    // One who asks first, by `Expect`, need not send it at all.
    if declared > MAX_DISCARD || (declared > MAX_BODY && headers.contains_key(header::EXPECT)) {
        return Err(too_large());
    }
    let mut kept = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is cut off: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if length <= MAX_BODY {
            kept.extend_from_slice(data);
        } else {
            kept = Vec::new();
        }
        if length > MAX_DISCARD {
            break;
        }
    }
    if length > MAX_BODY { Err(too_large()) } else { Ok(kept) }
}
