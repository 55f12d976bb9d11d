//! A request that is for one origin, passed on as it came.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde_json::json;
use tokio::time::timeout;

use super::{App, MAX_SHOWN, caller, fanout::Target, reply};
use crate::server::{forwarding::strip_hop_by_hop, http};

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Passes a request on to the origin with this id, with `target` as its target, and its answer back.
pub(super) async fn forward(app: &App, request: Request, origin: &str, target: Uri) -> Response {
    let found = match app.targets().await {
        Ok(targets) => targets.into_iter().find(|target| target.id.as_str() == origin),
        Err(unavailable) => return unavailable,
    };
    let Some(found) = found else {
        let origin: String = origin.chars().take(MAX_SHOWN).collect();
        return http::error(
            StatusCode::NOT_FOUND,
            format!(
                "no origin {origin:?} with an HTTP API is registered; /api/v1/proxy/origins of the system API lists them"
            ),
        );
    };
    let peer = http::peer(&request).map(|peer| peer.ip());
    let (mut head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return http::error(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY} bytes"));
        }
        Err(error) => return http::error(StatusCode::BAD_REQUEST, format!("the body is cut off: {error}")),
    };
    strip_hop_by_hop(&mut head.headers);
    // These are of the connection to the origin, and of the body as it is sent there.
    for name in [header::HOST, header::CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    let from = head.headers.clone();
    caller::forward_credentials(&from, peer, &mut head.headers);
    let mut request = hyper::Request::new(Full::<Bytes>::new(body));
    *request.method_mut() = head.method;
    *request.uri_mut() = target;
    *request.headers_mut() = head.headers;

    let limit = app.fanout.timeout();
    let answer = match timeout(limit, app.fanout.send(&found, request)).await {
        Ok(answer) => answer.map_err(|error| error.message().to_owned()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    };
    match answer {
        Ok(answer) => {
            let mut answer = answer.map(Body::new);
            strip_hop_by_hop(answer.headers_mut());
            answer
        }
        Err(error) => bad_gateway(&found, &error),
    }
}

fn bad_gateway(target: &Target, error: &str) -> Response {
    let unanswered = json!([{"origin": target.id.as_str(), "error": error}]);
    let body = [
        ("code".to_owned(), StatusCode::BAD_GATEWAY.as_u16().into()),
        ("error".to_owned(), "the origin has not answered".into()),
        ("unanswered".to_owned(), unanswered),
    ];
    reply::render(StatusCode::BAD_GATEWAY, body.into_iter().collect(), None)
}
