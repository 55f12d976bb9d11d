//! A client's request, sent to the origin of its stream.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Response, Uri, Version, header},
};
use bytes::Bytes;
use http_body_util::Full;

use super::{
    Context,
    headers::{self, Framing},
    target::{self, Kind},
};
use crate::authority::host_port;
use crate::{
    balancer::{Intent, Lease},
    error::{self, Error, Result},
    origin::{Origin, Protocol},
    relay::http::{OriginBody, Patience, SendError},
    server::{
        forwarding::strip_hop_by_hop,
        http::Takeover,
        origin_search::{Deps, OriginSearch, StreamRequest},
    },
    stream::StreamKey,
};

/// Stands for the session of a client that has none.
const NO_SESSION: u64 = 0;

/// A request that is to be sent.
pub(super) struct Forward<'a> {
    pub context: &'a Arc<Context>,
    pub peer: SocketAddr,
    pub stream: &'a StreamKey,
    pub kind: Kind,
    request: &'a Request<()>,
}

/// An origin's answer.
pub(super) struct Answer {
    pub response: Response<OriginBody>,
    /// The stream's name as it stands in URLs.
    pub stream: StreamKey,
    /// The names under which the client and this node know the server that answered.
    pub authorities: [String; 2],
    /// How its body is framed.
    pub framing: Framing,
}

impl<'a> Forward<'a> {
    pub fn new(
        context: &'a Arc<Context>,
        peer: SocketAddr,
        stream: &'a StreamKey,
        request: &'a Request<()>,
        kind: Kind,
    ) -> Self {
        Self { context, peer, stream, kind, request }
    }

    /// Whether the two connections are to be joined once the origin has answered. HTTP/1.0 knows no
    /// chunks.
    fn takes_over(&self) -> bool {
        self.kind == Kind::Progressive && !self.is_head() && self.request.version() >= Version::HTTP_11
    }

    /// The way to take the client's connection over.
    pub fn takeover(&self) -> Option<Takeover> {
        self.request.extensions().get::<Takeover>().filter(|_| self.takes_over()).cloned()
    }

    /// Whether the client wants the header alone.
    pub fn is_head(&self) -> bool {
        self.request.method() == Method::HEAD
    }

    /// The answer of the origin that has the stream. `session` is the client's.
    pub async fn send(&self, session: u64) -> Result<(Answer, Lease)> {
        self.search(self.attempts(session)).await
    }

    /// The answer of the origin that has the stream, which is then remembered for the next piece.
    pub async fn piece(&self) -> Result<Answer> {
        let pieces = &self.context.pieces;
        let mut attempts = self.attempts(NO_SESSION);
        if let Some(lease) = pieces.get(self.stream) {
            match self.ask(&lease).await {
                Ok(answer) => return Ok(answer),
                Err(SendError::Unreachable(error)) => {
                    pieces.forget(&lease);
                    attempts.failed(&lease, error).await?;
                    self.context.metrics.http().retried();
                }
                Err(SendError::Unanswered(error)) => return Err(error),
            }
        }
        let (answer, lease) = self.search(attempts).await?;
        if answer.response.status().is_success() {
            pieces.keep(&Arc::new(lease));
        }
        Ok(answer)
    }

    async fn search(&self, mut attempts: OriginSearch<'_>) -> Result<(Answer, Lease)> {
        loop {
            let lease = attempts.next().await?;
            match self.ask(&lease).await {
                // That HTTP is answered does not say that RTMP is, which is what makes an origin suspect.
                Ok(answer) => return Ok((answer, lease)),
                Err(SendError::Unreachable(error)) => {
                    attempts.failed(&lease, error).await?;
                    self.context.metrics.http().retried();
                }
                Err(SendError::Unanswered(error)) => return Err(error),
            }
        }
    }

    fn attempts(&self, session: u64) -> OriginSearch<'_> {
        let want = StreamRequest { stream: self.stream, protocol: Protocol::Http, intent: Intent::Play, session };
        let Context { balancer, sessions, client, upstream, .. } = &**self.context;
        OriginSearch::new(Deps { balancer, sessions, dialer: client.dialer(), upstream }, want)
    }

    /// Asks an origin; once more if it breaks off before its answer, as one that restarts does.
    async fn ask(&self, lease: &Lease) -> Result<Answer, SendError> {
        let origin = &lease.placement().origin;
        match self.ask_once(origin).await {
            Err(SendError::Unanswered(error)) if error.kind() == error::Kind::Closed => self.ask_once(origin).await,
            answered => answered,
        }
    }

    async fn ask_once(&self, origin: &Origin) -> Result<Answer, SendError> {
        let (host, port) = origin.address(Protocol::Http).ok_or_else(|| {
            SendError::Unanswered(Error::internal(error::Kind::Unavailable, "the stream's origin serves no HTTP"))
        })?;
        let address = host_port(host, port);
        let request = self.request(&address).map_err(SendError::Unanswered)?;
        let http = &self.context.http;
        let patience = Patience { answer: http.answer_timeout, idle: http.idle_timeout };
        let client = &self.context.client;
        let mut response = if self.takes_over() {
            client.open(host, port, request, patience).await?
        } else {
            client.send(host, port, request, patience).await?
        };
        let framing = headers::framing(response.headers());
        strip_hop_by_hop(response.headers_mut());
        let authorities = [headers::host(self.request).to_owned(), address];
        Ok(Answer { response, stream: self.stream.clone(), authorities, framing })
    }

    fn request(&self, address: &str) -> Result<Request<Full<Bytes>>> {
        let uri = self.request.uri();
        let path_and_query = match target::forwarded_query(uri.query()) {
            Some(query) => format!("{}?{query}", uri.path()),
            None => uri.path().to_owned(),
        };
        let uri: Uri = path_and_query
            .parse()
            .map_err(|error| Error::client(error::Kind::Protocol, format!("the URL cannot be sent on: {error}")))?;
        let mut request = Request::new(Full::default());
        *request.method_mut() = self.request.method().clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers::to_origin(self.request, self.peer, address);
        if self.takes_over() {
            // What comes then ends with the connection, and nothing has to look for its end.
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.kind == Kind::Playlist {
            // The client gets another text, of which no part is where it is in this one.
            let headers = request.headers_mut();
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }
}

impl Answer {
    /// The answer as it is.
    pub fn into_response(self) -> axum::response::Response {
        self.response.map(Body::new)
    }
}
