//! A request to an origin's HTTP API, and its answer.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Uri, header, request, response},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::time::timeout;

use super::{Endpoint, MAX_JSON};
use crate::authority::host_port;
use crate::{
    error::{Error, Kind, Result},
    origin::{Origin, Protocol},
    relay::http::{Client, Patience, SendError},
    server::forwarding::{set_forwarded_for, strip_hop_by_hop},
};

/// What is sent to an origin.
pub(super) struct Question {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

/// What came back. Of its headers only those are left that are for the client.
pub(super) struct Answer {
    pub head: response::Parts,
    pub body: Bytes,
}

impl Question {
    /// The client's request with `query` as its query, and everything else as it came.
    pub fn new(head: &request::Parts, query: Option<&str>, body: Bytes, peer: IpAddr) -> Result<Self> {
        let path = head.uri.path();
        // SRS sends those that lack it elsewhere, where nobody would post his offer again.
        let slash = if !path.ends_with('/') && Endpoint::of(path).is_some() { "/" } else { "" };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{path}{slash}{query}")
            .parse()
            .map_err(|error| Error::client(Kind::Protocol, format!("the URL cannot be sent on: {error}")))?;
        let mut headers = head.headers.clone();
        strip_hop_by_hop(&mut headers);
        // The length is that of the body as it is sent. An answer that is compressed could not be changed.
        for name in [header::CONTENT_LENGTH, header::ACCEPT_ENCODING] {
            headers.remove(name);
        }
        set_forwarded_for(&head.headers, peer, &mut headers);
        Ok(Self { method: head.method.clone(), target, headers, body })
    }

    /// Asks an origin, and takes its answer to the end.
    pub async fn ask(&self, client: &Client, origin: &Origin, patience: Duration) -> Result<Answer, SendError> {
        let (host, port) = origin.address(Protocol::Api).ok_or_else(|| {
            SendError::Unanswered(Error::internal(Kind::Unavailable, "the stream's origin has no HTTP API"))
        })?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        request.headers_mut().clone_from(&self.headers);
        if !self.headers.contains_key(header::HOST) {
            let address = host_port(host, port);
            if let Ok(address) = address.parse() {
                request.headers_mut().insert(header::HOST, address);
            }
        }
        let response = client.send(host, port, request, Patience { answer: patience, idle: patience }).await?;
        let (mut head, body) = response.into_parts();
        strip_hop_by_hop(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        let body = match timeout(patience, Limited::new(body, MAX_JSON).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(SendError::Unanswered(broken(error))),
            Err(_) => {
                let message = format!("{host}:{port} has not ended its answer in {patience:?}");
                return Err(SendError::Unanswered(Error::origin(Kind::Timeout, message)));
            }
        };
        Ok(Answer { head, body })
    }
}

impl Answer {
    pub fn into_response(self) -> Response {
        Response::from_parts(self.head, Body::from(self.body))
    }
}

fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    if error.is::<LengthLimitError>() {
        return Error::origin(Kind::Limit, format!("the origin's answer is larger than {MAX_JSON} bytes"));
    }
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::origin(Kind::Closed, format!("the origin's answer is cut off: {error}")),
    }
}
