//! `GET /metrics`, on the system API and on a listener of its own (`PROXY_EXPORTER_LISTEN`).
//!
//! The answer is the text format of OpenMetrics 1.0, or, for those who accept nothing but it, the
//! older text format of Prometheus (0.0.4), which is the same but for a few lines.

mod classic;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRef, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;

use super::http;
use crate::metrics::scrape::Sources;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many answers are made at once. A scrape takes 2 s at the most, and few ask.
const MAX_SCRAPES: usize = 8;

/// Answers with the metrics. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    sources: Arc<Sources>,
    places: Arc<Semaphore>,
}

impl Exporter {
    /// Answers with what `sources` have.
    pub fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources), places: Arc::new(Semaphore::new(MAX_SCRAPES)) }
    }
}

/// The routes of a listener that serves nothing else. No token is asked for.
pub fn router(exporter: Exporter) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<Exporter>))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .with_state(exporter)
}

/// The metrics of this node.
pub(super) async fn metrics<S>(State(exporter): State<Exporter>, headers: HeaderMap) -> Response
where
    Exporter: FromRef<S>,
{
    let Ok(_place) = exporter.places.try_acquire() else {
        let mut response = http::error(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once");
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        return response;
    };
    match exporter.sources.scrape().await {
        Ok(text) if wants_classic(&headers) => {
            ([(header::CONTENT_TYPE, CLASSIC)], classic::from_openmetrics(&text)).into_response()
        }
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => http::error(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics cannot be written: {error}")),
    }
}

/// Whether only the older format is accepted. Weights do not matter: whoever takes OpenMetrics at all
/// gets it.
fn wants_classic(headers: &HeaderMap) -> bool {
    let accepted = || {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim())
    };
    let is = |range: &str, name: &str| range.eq_ignore_ascii_case(name);
    accepted().any(|range| is(range, "text/plain") || is(range, "text/*"))
        && !accepted().any(|range| is(range, "application/openmetrics-text") || is(range, "application/*"))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    http::error(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for {}", uri.path()))
}

async fn not_found(uri: Uri) -> Response {
    http::error(StatusCode::NOT_FOUND, format!("there is nothing at {}: the metrics are at /metrics", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_take_nothing_else_get_the_older_format() {
        for (accept, classic) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], false),
            (&["text/plain;version=0.0.4", "application/openmetrics-text"], false),
            (&["application/json"], false),
            (&["text/plain"], true),
            (&["Text/Plain; version=0.0.4;q=1,*/*;q=0.1"], true),
            (&["text/html,text/*"], true),
        ] {
            let accept: &[&'static str] = accept;
            let headers = accept.iter().map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
            assert_eq!(wants_classic(&headers.collect()), classic, "{accept:?}");
        }
    }
}
