//! Asks origins on behalf of a caller: several at once, each within a deadline, and all of them within
//! a bound of memory.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::id;
use crate::authority::host_port;
use crate::{
    balancer::{Balancer, BalancerError, OriginState},
    error,
    origin::{Origin, OriginId, Protocol},
    relay::http::{Client, OriginBody, Patience},
};

/// The largest answer of one origin that is merged, in bytes.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// What answers that are about to be merged may take together, in bytes, for all callers.
const MAX_HELD: usize = 256 * 1024 * 1024;
/// Origins that are asked at the same moment for one caller.
const AT_ONCE: usize = 128;
/// How long a suspect origin is waited for while there are live ones.
const SUSPECT: Duration = Duration::from_millis(500);

/// Sends questions to origins. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fanout {
    client: Client,
    timeout: Duration,
    memory: Arc<Semaphore>,
}

/// An origin that can be asked.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) id: OriginId,
    pub(super) tag: String,
    origin: Arc<Origin>,
    suspect: bool,
}

/// The body of an answer that says that it is one.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// Whether the origin says that there is no such thing (status 404).
    pub(super) missing: bool,
    _held: Option<OwnedSemaphorePermit>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct ReplyError {
    pub(super) error: String,
    /// What the origin wants, where it wants the caller to say who he is.
    pub(super) challenge: Option<HeaderValue>,
}

impl<E: Into<String>> From<E> for ReplyError {
    fn from(error: E) -> Self {
        Self { error: error.into(), challenge: None }
    }
}

impl Fanout {
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, memory: Arc::new(Semaphore::new(MAX_HELD)) }
    }

    /// How long origins may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks all of them at once. The answers are in the order of the targets. `limit` is how long they
    /// may take, if that is less than what is configured.
    pub(super) async fn all(
        &self,
        targets: Vec<Target>,
        path: &str,
        headers: &HeaderMap,
        limit: Duration,
    ) -> Vec<(Target, Result<Answer, ReplyError>)> {
        let any_live = targets.iter().any(|target| !target.suspect);
        let start = Instant::now();
        let asked = targets.into_iter().enumerate().map(|(n, target)| async move {
            let limit = limit.min(self.timeout);
            let limit = if target.suspect && any_live { limit.min(SUSPECT) } else { limit };
            let answer = self.one(&target, Method::GET, path, headers.clone(), start, limit).await;
            (n, target, answer)
        });
        let mut answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        answers.sort_unstable_by_key(|(n, ..)| *n);
        answers.into_iter().map(|(_, target, answer)| (target, answer)).collect()
    }

    /// Asks one of them, which has until `limit` after `start`.
    pub(super) async fn one(
        &self,
        target: &Target,
        method: Method,
        path: &str,
        headers: HeaderMap,
        start: Instant,
        limit: Duration,
    ) -> Result<Answer, ReplyError> {
        let answer = async {
            let mut request = Request::new(Full::default());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse::<Uri>().map_err(|error| format!("{path}: {error}"))?;
            *request.headers_mut() = headers;
            let answer = self.send(target, request).await.map_err(|error| error.message().to_owned())?;
            match answer.status() {
                status if status.is_success() => self.read(answer.into_body()).await,
                StatusCode::NOT_FOUND => Ok(Answer { body: Vec::new(), missing: true, _held: None }),
                StatusCode::UNAUTHORIZED => {
                    let challenge = answer.headers().get(header::WWW_AUTHENTICATE).cloned();
                    let challenge = challenge.unwrap_or(HeaderValue::from_static("Basic"));
                    Err(ReplyError {
                        error: "it wants to know who asks (status 401)".into(),
                        challenge: Some(challenge),
                    })
                }
                status => Err(format!("it answers with status {}", status.as_u16()).into()),
            }
        };
        timeout_at(start + limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}").into()))
    }

    /// Sends a request, whose target is in origin form, to an origin. Its `Host` is set here.
    pub(super) async fn send(
        &self,
        target: &Target,
        mut request: Request<Full<Bytes>>,
    ) -> error::Result<Response<OriginBody>> {
        let (host, port) = target.address();
        let authority = host_port(host, port);
        // A host name that is none was refused with the heartbeat.
        if let Ok(authority) = HeaderValue::try_from(authority) {
            request.headers_mut().insert(header::HOST, authority);
        }
        let patience = Patience { answer: self.timeout, idle: self.timeout };
        Ok(self.client.send(host, port, request, patience).await?)
    }

    async fn read(&self, mut body: OriginBody) -> Result<Answer, ReplyError> {
        let mut bytes = Vec::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.message().to_owned())?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_ANSWER {
                return Err(format!("its answer is larger than {MAX_ANSWER} bytes").into());
            }
            let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.memory)
                .try_acquire_many_owned(more)
                .map_err(|_| format!("this node has more than {MAX_HELD} bytes of answers to merge"))?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Answer { body: bytes, missing: false, _held: held })
    }
}

impl Target {
    fn address(&self) -> (&str, u16) {
        // Only origins that have one become targets.
        self.origin.address(Protocol::Api).unwrap_or_default()
    }

    /// The registered origins that have an HTTP API, ordered by id.
    pub(super) async fn registered(balancer: &dyn Balancer) -> Result<Vec<Self>, BalancerError> {
        let origins = balancer.origins().await?;
        let with_api = origins.into_iter().filter(|status| status.origin.serves(Protocol::Api));
        let targets = with_api.map(|status| {
            let id = status.origin.id();
            let tag = id::tag(&id);
            Self { id, tag, suspect: status.state == OriginState::Suspect, origin: status.origin }
        });
        Ok(targets.collect())
    }
}
