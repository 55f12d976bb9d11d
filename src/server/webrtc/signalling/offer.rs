//! An offer, from the client to the origin of its stream, and the answer back.

use std::net::SocketAddr;

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tracing::{Instrument, Span, field, info_span};

use super::{
    Signalling, bad_request,
    endpoint::{Endpoint, Offer},
    exchange::{Answer, Question},
    failed, host, location, media_type, read, shutting_down,
};
use crate::{
    balancer::Lease,
    codec::sdp::{self, Description, ice_pairs},
    error::{Error, Kind, Result},
    origin::Protocol,
    relay::http::SendError,
    server::{
        api::id,
        http::{self, Reached},
        origin_search::{Deps, OriginSearch, StreamRequest},
        session_log,
        webrtc::{
            candidates::Sources,
            registry::{self, PendingSession},
        },
    },
    session::{Delivery, Session},
};

/// A question, and what its answer will be read with.
struct Asking<'a> {
    signalling: &'a Signalling,
    endpoint: Endpoint,
    question: Question,
    offer: Description<'a>,
    /// Under which addresses the client is to reach this node's media.
    addresses: Vec<SocketAddr>,
    path: &'a str,
}

/// An origin's answer as the client gets it.
struct RewrittenAnswer {
    answer: Answer,
    /// The usernames of the session that it grants; none if it grants none.
    usernames: Vec<String>,
}

pub(super) async fn answer(signalling: &Signalling, endpoint: Endpoint, request: Request) -> Response {
    let Some(peer) = http::peer(&request) else { return bad_request("the client has no address") };
    let (head, body) = request.into_parts();
    let media_type = media_type(&head.headers);
    if endpoint.refuses(media_type) {
        let expected = endpoint.media_type();
        return http::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the body is to be {expected}"));
    }
    let body = match read(body, endpoint.max_body()).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let context = &signalling.context;
    let offer = match endpoint.read(host(&head), head.uri.query(), &body, &context.vhosts) {
        Ok(offer) => offer,
        Err(reason) => return bad_request(reason),
    };
    match signalling.offer(endpoint, peer, &head, body, &offer).await {
        Ok(answer) => answer.into_response(),
        Err(error) => failed(&error),
    }
}

impl Signalling {
    async fn offer(
        &self,
        endpoint: Endpoint,
        peer: SocketAddr,
        head: &Parts,
        body: Bytes,
        offer: &Offer,
    ) -> Result<Answer> {
        let (context, means) = (&self.context, self.context.means());
        let unreadable = |error: sdp::Error| Error::client(Kind::Protocol, error.to_string());
        let description = Description::parse(&offer.sdp).map_err(unreadable)?;
        let question = Question::new(head, head.uri.query(), body, peer.ip())?;
        if means.draining.is_cancelled() {
            return Err(shutting_down());
        }
        let full = || Error::internal(Kind::Limit, "this node takes no more WebRTC sessions now");
        let permit = context.registry.admit(peer.ip()).ok_or_else(full)?;
        let asking = Asking {
            signalling: self,
            endpoint,
            question,
            offer: description,
            addresses: self.addresses(head).await?,
            path: head.uri.path(),
        };

        let session = means.sessions.start(Delivery::Webrtc, peer);
        session.set_role(offer.intent, offer.stream.clone());
        let span = info_span!(
            "session",
            id = session.id,
            protocol = "webrtc",
            peer = %session.peer,
            intent = offer.intent.as_str(),
            stream = %offer.stream,
            origin = field::Empty,
        );
        let taken = tokio::select! {
            taken = asking.search(offer, &session).instrument(span.clone()) => taken,
            () = means.closing.cancelled() => Err(shutting_down()),
        };
        let (RewrittenAnswer { answer, usernames }, lease) =
            taken.inspect_err(|error| span.in_scope(|| session_log::ended(&session, error)))?;
        if usernames.is_empty() {
            let refused = Error::origin(Kind::Refused, format!("the origin answers {}", answer.head.status));
            span.in_scope(|| session_log::ended(&session, &refused));
            return Ok(answer);
        }
        context.registry.open(PendingSession { permit, usernames, lease, session, span }).await?;
        Ok(answer)
    }

    /// Under which addresses the client of a request is to reach this node's media.
    pub(super) async fn addresses(&self, head: &Parts) -> Result<Vec<SocketAddr>> {
        let context = &self.context;
        let query = head.uri.query().unwrap_or_default();
        // As SRS has it: the second counts where the first is empty.
        let wish = |name| location::parameter(query, name).filter(|value| !value.is_empty());
        let asked_for = wish("eip").or_else(|| wish("candidate"));
        let asked_for = asked_for.map(|value| percent_decode_str(value).decode_utf8_lossy());
        let sources = Sources {
            asked_for: asked_for.as_deref(),
            configured: self.names.addresses(&context.means().config.candidates).await,
            media: context.media,
            host: host(head),
            reached: head.extensions.get::<Reached>().map(|reached| reached.0.ip()),
        };
        let addresses = sources.addresses();
        if addresses.is_empty() {
            let message = "this node does not know where its media are reached: PROXY_WEBRTC_CANDIDATE can tell";
            return Err(Error::internal(Kind::Unavailable, message));
        }
        Ok(addresses)
    }
}

impl Asking<'_> {
    /// The answer of the first origin that gives one.
    async fn search(&self, offer: &Offer, session: &Session) -> Result<(RewrittenAnswer, Lease)> {
        let context = &self.signalling.context;
        let registry::SessionDeps { balancer, sessions, dialer, upstream, config, .. } = context.means();
        let means = Deps { balancer, sessions, dialer, upstream };
        let want =
            StreamRequest { stream: &offer.stream, protocol: Protocol::Rtc, intent: offer.intent, session: session.id };
        let mut attempts = OriginSearch::new(means, want);
        loop {
            let lease = attempts.next().await?;
            let origin = &lease.placement().origin;
            match self.question.ask(&context.client, origin, config.answer_timeout).await {
                Ok(answer) => {
                    let origin = origin.id();
                    Span::current().record("origin", origin.as_str());
                    let taken = self.rewrite_answer(answer, &id::tag(&origin))?;
                    session.set_origin(Some(origin));
                    return Ok((taken, lease));
                }
                // To break off is SRS's way to refuse an offer, and the next origin would not be asked better.
                Err(SendError::Unanswered(error)) if error.kind() != Kind::Timeout => return Err(error),
                Err(SendError::Unreachable(error) | SendError::Unanswered(error)) => {
                    attempts.failed(&lease, error).await?;
                }
            }
        }
    }

    /// The answer as the client gets it, with this node in place of the origin.
    fn rewrite_answer(&self, mut answer: Answer, tag: &str) -> Result<RewrittenAnswer> {
        if !answer.head.status.is_success() {
            return Ok(RewrittenAnswer { answer, usernames: Vec::new() });
        }
        let usernames = if self.endpoint.is_json() {
            let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else {
                return Err(invalid("it is no JSON"));
            };
            let Some(sdp) = granted(&body) else { return Ok(RewrittenAnswer { answer, usernames: Vec::new() }) };
            let (usernames, sdp) = self.rewrite_sdp(sdp.as_bytes())?;
            body["sdp"] = sdp.into();
            answer.body = body.to_string().into();
            usernames
        } else {
            let (usernames, sdp) = self.rewrite_sdp(&answer.body)?;
            answer.body = sdp.into();
            usernames
        };
        self.rewrite_location(&mut answer, tag, &usernames);
        Ok(RewrittenAnswer { answer, usernames })
    }

    fn rewrite_sdp(&self, sdp: &[u8]) -> Result<(Vec<String>, String)> {
        let description = Description::parse(sdp).map_err(|error| invalid(&error.to_string()))?;
        let usernames = ice_pairs(&self.offer, &description);
        Ok((usernames, sdp::rewrite_candidates(&description, &self.addresses)))
    }

    fn rewrite_location(&self, answer: &mut Answer, tag: &str, usernames: &[String]) {
        let headers = &mut answer.head.headers;
        let Some(given) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) else { return };
        let session = usernames.first().map_or("", String::as_str);
        if let Ok(location) = HeaderValue::from_str(&location::rewrite(given, self.path, tag, session)) {
            headers.insert(header::LOCATION, location);
        }
    }
}

/// The description in an answer of the JSON API, unless it is a refusal.
fn granted(body: &Value) -> Option<&str> {
    if body.get("code").is_some_and(|code| *code != 0) {
        return None;
    }
    body.get("sdp")?.as_str()
}

fn invalid(reason: &str) -> Error {
    Error::origin(Kind::Protocol, format!("the origin's answer cannot be used: {reason}"))
}
