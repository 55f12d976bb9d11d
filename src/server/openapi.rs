//! The description of the system API and of the HTTP API, for programs (OpenAPI 3.1).

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// The document. What it says is checked against what is served.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// Gives the document.
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
