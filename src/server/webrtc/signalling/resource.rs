//! What concerns a session that there is: its end (`DELETE`), more candidates or new ones (`PATCH`,
//! RFC 9725, section 4.3), and whatever else its origin can tell.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::{
    MAX_SDP, Signalling, bad_request,
    endpoint::stream_of,
    exchange::{Answer, Question},
    failed, host,
    location::{self, Split},
    media_type, read,
};
use crate::{
    balancer::{Intent, PlaceRequest},
    codec::sdp::{Description, rewrite_candidates},
    error::{Error, Kind},
    origin::{Origin, Protocol},
    server::{api::id, http, webrtc::PLACING},
};

/// The fragments of descriptions that `PATCH` exchanges (RFC 8840, section 9).
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ALLOWED: HeaderValue = HeaderValue::from_static("POST, PATCH, DELETE, OPTIONS");

pub(super) async fn answer(signalling: &Signalling, request: Request) -> Response {
    let Some(peer) = http::peer(&request) else { return bad_request("the client has no address") };
    let (head, body) = request.into_parts();
    // Nobody needs the token of this API here, so nothing but sessions may be reached.
    if location::leads_upwards(head.uri.path()) {
        return bad_request("the path leads upwards");
    }
    let Split { origin: tag, session, rest } = location::split(head.uri.query());
    if tag.is_none() && matches!(head.method, Method::GET | Method::HEAD) {
        let message = "an offer is posted here; only a session can be asked for";
        let mut refusal = http::error(StatusCode::METHOD_NOT_ALLOWED, message);
        refusal.headers_mut().insert(header::ALLOW, ALLOWED);
        return refusal;
    }
    let body = match read(body, MAX_SDP).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let question = match Question::new(&head, rest.as_deref(), body, peer.ip()) {
        Ok(question) => question,
        Err(error) => return failed(&error),
    };
    let origin = match signalling.origin(tag.as_deref(), &head).await {
        Ok(origin) => origin,
        Err(refusal) => return refusal,
    };
    let context = &signalling.context;
    let mut answer = match question.ask(&context.client, &origin, context.means().config.answer_timeout).await {
        Ok(answer) => answer,
        Err(error) => return failed(&error.into()),
    };
    if answer.head.status.is_success() {
        if head.method == Method::DELETE {
            let query = rest.as_deref().unwrap_or_default();
            let named =
                || location::parameter(query, "session").map(|name| percent_decode_str(name).decode_utf8_lossy());
            if let Some(username) = session.or_else(named) {
                context.registry.close(&username).await;
            }
        }
        if let Err(error) = signalling.hide_origin(&mut answer, &head).await {
            return failed(&error);
        }
    }
    answer.into_response()
}

impl Signalling {
    /// The origin with this tag, or without one that of the stream which the query names.
    async fn origin(&self, tag: Option<&str>, head: &Parts) -> Result<Arc<Origin>, Response> {
        let unavailable = |reason: String| failed(&Error::internal(Kind::Unavailable, reason));
        let balancer = &self.context.means().balancer;
        let late = |_| unavailable(format!("the origins are not known: no answer within {PLACING:?}"));
        let Some(tag) = tag else {
            let query = head.uri.query().unwrap_or_default();
            let stream =
                stream_of(host(head), query, &self.context.vhosts).map_err(|error| bad_request(error.to_string()))?;
            let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtc, intent: Intent::Play, avoid: &[] };
            let placed = timeout(PLACING, balancer.place(request)).await.map_err(late)?;
            return placed.map(|placement| placement.origin).map_err(|error| unavailable(error.to_string()));
        };
        let known = timeout(PLACING, balancer.origins()).await.map_err(late)?;
        let known = known.map_err(|error| unavailable(error.to_string()))?;
        let found = known.into_iter().map(|status| status.origin).find(|origin| id::tag(&origin.id()) == tag);
        found.ok_or_else(|| {
            http::error(StatusCode::NOT_FOUND, "the origin of the session is gone, and so is the session")
        })
    }

    /// Puts this node's addresses in place of the origin's, where an answer has some.
    async fn hide_origin(&self, answer: &mut Answer, head: &Parts) -> Result<(), Error> {
        if !matches!(media_type(&answer.head.headers), FRAGMENT | "application/sdp") {
            return Ok(());
        }
        let addresses = self.addresses(head).await?;
        let invalid = |error| Error::origin(Kind::Protocol, format!("the origin's answer cannot be used: {error}"));
        let fragment = Description::parse_fragment(&answer.body).map_err(invalid)?;
        answer.body = rewrite_candidates(&fragment, &addresses).into();
        Ok(())
    }
}
