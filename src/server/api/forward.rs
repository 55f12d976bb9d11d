//! A request that is for one origin, passed on as it came.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use serde_json::json;
use tokio::time::timeout;

use super::{App, MAX_SHOWN, ask::Target, caller, reply};
use crate::server::http;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// What belongs to one connection and not to the message (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

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
    strip(&mut head.headers);
    // These are of the connection to the origin, and of the body as it is sent there.
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        head.headers.remove(name);
    }
    let from = head.headers.clone();
    caller::tell_who_asks(&from, peer, &mut head.headers);
    let mut request = hyper::Request::new(Full::<Bytes>::new(body));
    *request.method_mut() = head.method;
    *request.uri_mut() = target;
    *request.headers_mut() = head.headers;

    let limit = app.asker.timeout();
    let answer = match timeout(limit, app.asker.send(&found, request)).await {
        Ok(answer) => answer.map_err(|error| error.message().to_owned()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    };
    match answer {
        Ok(answer) => {
            let mut answer = answer.map(Body::new);
            strip(answer.headers_mut());
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

/// Removes what belongs to one connection.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_connection_is_removed_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-type", "text/plain"),
            ("set-cookie", "a=1"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie"]);
    }
}
