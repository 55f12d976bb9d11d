//! One request and its answer, over HTTP/1.1.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::StatusError;
use crate::config::status_target::StatusTarget;

const PATH: &str = "/api/v1/proxy/cluster";
/// The largest answer, in bytes: some thousand members.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The body of the node's answer.
pub(super) async fn fetch(target: &StatusTarget) -> Result<Bytes, StatusError> {
    match timeout(target.timeout, exchange(target)).await {
        Ok(answer) => answer,
        Err(_) => Err(StatusError::Silent { api: target.api.to_string(), limit: target.timeout }),
    }
}

async fn exchange(target: &StatusTarget) -> Result<Bytes, StatusError> {
    let unreachable = |error: &dyn std::fmt::Display| StatusError::Unreachable {
        api: target.api.to_string(),
        why: error.to_string(),
    };
    let unusable = |why: String| StatusError::Unusable { api: target.api.to_string(), why };

    let stream = TcpStream::connect((target.api.host.as_str(), target.api.port)).await.map_err(|e| unreachable(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
    // Ends with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = request(target).map_err(|e| unusable(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| unreachable(&e))?;

    let why = match (response.status(), &target.token) {
        (StatusCode::OK, _) => {
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            return body.map(http_body_util::Collected::to_bytes).map_err(|error| unusable(error.to_string()));
        }
        (StatusCode::UNAUTHORIZED, None) => {
            "it asks for a token, in PROXY_HTTP_API_AUTH_TOKEN or with --token".to_owned()
        }
        (StatusCode::UNAUTHORIZED, Some(_)) => "it does not accept the token".to_owned(),
        (StatusCode::NOT_FOUND, _) => "it does not know the request; is it an srs-proxy of this version?".to_owned(),
        (status, _) => format!("it answers {status}"),
    };
    Err(unusable(why))
}

fn request(target: &StatusTarget) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let mut request = Request::get(PATH).header(HOST, target.api.authority());
    if let Some(token) = &target.token {
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new())
}
