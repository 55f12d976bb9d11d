//! The HTTP API (`PROXY_HTTP_API`): all origins together, as one SRS would answer.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/versions` | the lowest version of SRS among the origins; without origins that of this program |
//! | `GET /api/v1/summaries`, `rusages`, `self_proc_stats`, `system_proc_stats`, `meminfos`, `authors`, `features` | one object for all origins ([`aggregate`] says how) |
//! | `GET /api/v1/streams/`, `/api/v1/clients/`, `/api/v1/vhosts/` | the lists of all origins as one ([`merge`] says how) |
//! | `GET /api/v1/streams/{id}`, `/api/v1/clients/{id}`, `/api/v1/vhosts/{id}` | one of them |
//! | `DELETE /api/v1/clients/{id}` | closes a client |
//! | `GET /api/v1/requests`, `/api/v1/tests/requests` | the request itself |
//! | `GET /`, `/api/`, `/api/v1/` | what there is |
//! | `GET /api/v1/openapi.json` | the description of this API and of the system API (OpenAPI 3.1) |
//! | any method, any `/api/v1/…?origin=ID` | what that origin answers, as it is |
//! | `/rtc/v1/…` | offers and answers of WebRTC ([`webrtc::signalling`](super::webrtc::signalling)) |
//!
//! All origins that have an HTTP API are asked at once and have `PROXY_HTTP_API_TIMEOUT` for their
//! answers; suspect ones get 500 ms while there are others. One that does not answer in time, or not as
//! SRS does, is named under `unanswered` and does not fail the answer, unless there is no other: then it
//! is 502. Without any origin lists are empty, and what an origin would have to tell is 503.
//!
//! `start` and `count` (default 10) are over the merged list; unlike SRS, a count below 10 is honoured.
//! All vhosts are listed where neither is given. An unknown id is, as in SRS, status 200 with a code:
//! 2048 for a stream, 2049 for a client, 2014 for a vhost. An id without an origin's tag, as one SRS
//! gives it, is looked for on all origins; the first that has it answers. Only to close a client it must
//! be one: if several have it, that is 409 and nothing is closed.
//!
//! Where a token is configured, everything needs it but versions, which then tell that of this program
//! only, and the answers to OPTIONS. The token stays here; name and password for SRS's own `http_api`
//! (`Authorization: Basic`) go on to the origins.

pub mod aggregate;
mod caller;
mod fanout;
mod forward;
pub mod id;
mod item;
pub mod merge;
mod number;
mod reply;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use self::{
    aggregate::Aggregate,
    caller::Caller,
    fanout::{Answer, Fanout, ReplyError, Target},
    merge::{List, Shape},
    reply::{Answers, Identity, render},
};
use super::{auth, http, openapi, system, webrtc::signalling};
use crate::{
    balancer::{Balancer, Page},
    config::{self, Secret},
    relay::http::Client,
};

/// How long probes wait for the version of the origins.
const VERSIONS: Duration = Duration::from_secs(1);
/// From how many bytes on answers are merged beside the thread that serves.
const LARGE: usize = 64 * 1024;
/// How much of what a caller sent is repeated in an error.
const MAX_SHOWN: usize = 128;

/// What the API needs.
pub struct ApiState {
    /// Knows the origins.
    pub balancer: Arc<dyn Balancer>,
    /// Asks them.
    pub client: Client,
    /// The settings.
    pub config: config::Api,
    /// What is served below [`signalling::OPEN`], which needs no token.
    pub webrtc: Router,
}

struct App {
    balancer: Arc<dyn Balancer>,
    fanout: Fanout,
    token: Option<Secret>,
    identity: Identity,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy)]
enum Route {
    Index,
    Aggregate(Aggregate),
    List(List),
    Item(List),
    Requests,
    OpenApi,
}

/// All paths that are answered for all origins together; each also with a slash behind it.
fn routes() -> Vec<(String, Route)> {
    let index = ["", "/api", "/api/v1"].map(|path| (path.to_owned(), Route::Index));
    let singles = Aggregate::ALL.map(|single| (format!("/api/v1/{}", single.as_str()), Route::Aggregate(single)));
    let lists = List::ALL.map(|list| (format!("/api/v1/{}", list.as_str()), Route::List(list)));
    let items = List::ALL.map(|list| (format!("/api/v1/{}/{{id}}", list.as_str()), Route::Item(list)));
    let others = [
        ("/api/v1/requests".to_owned(), Route::Requests),
        ("/api/v1/tests/requests".to_owned(), Route::Requests),
        ("/api/v1/openapi.json".to_owned(), Route::OpenApi),
    ];
    index.into_iter().chain(singles).chain(lists).chain(items).chain(others).collect()
}

/// The paths that are answered for all origins together, without the slash that each may have behind
/// it.
pub fn paths() -> Vec<String> {
    routes().into_iter().map(|(path, _)| if path.is_empty() { "/".to_owned() } else { path }).collect()
}

impl Route {
    fn serve(self) -> MethodRouter<Arc<App>> {
        match self {
            Self::Index => get(async |State(app): State<Arc<App>>, caller: Caller| index(&app, &caller)),
            Self::Aggregate(Aggregate::Versions) => get(versions),
            Self::Aggregate(single) => {
                get(async move |State(app): State<Arc<App>>, caller: Caller| answer_single(&app, single, caller).await)
            }
            Self::List(list) => {
                get(async move |State(app): State<Arc<App>>, caller: Caller| answer_list(&app, list, caller).await)
            }
            Self::Item(list) => {
                let one = get(async move |State(app): State<Arc<App>>, id: item::Id, caller: Caller| {
                    item::answer(&app, list, id, caller).await
                });
                if list == List::Clients { one.delete(item::close_client) } else { one }
            }
            Self::Requests => get(requests),
            Self::OpenApi => get(openapi::serve),
        }
    }
}

/// The routes. Serve them with [`http::Server`].
pub fn router(state: ApiState) -> Router {
    let ApiState { balancer, client, config, webrtc } = state;
    let server = system::cluster::node_name(&*balancer);
    let service = format!("{:08x}", rand::random::<u32>());
    let fanout = Fanout::new(client, config.timeout);
    let app = Arc::new(App { balancer, fanout, token: config.token, identity: Identity { server, service } });
    let mut router = Router::new();
    for (path, route) in routes() {
        if !path.is_empty() {
            router = router.route(&path, route.serve());
        }
        router = router.route(&format!("{path}/"), route.serve());
    }
    router
        .merge(webrtc.with_state(()))
        .method_not_allowed_fallback(http::wrong_method)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate))
        .with_state(app)
}

/// Answers browsers that ask what they may do, asks for the token, and passes on what is for one origin.
async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = if signalling::is_for_this_node(&request) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        signalling::preflight(request.uri().path(), response.headers_mut());
        response
    } else {
        admit(&app, request, next).await
    };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        // A star does not stand for this header (Fetch standard, CORS protocol).
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, Authorization"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn admit(app: &App, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let for_one = if path.starts_with("/api/v1/") { caller::origin(request.uri()) } else { Ok(None) };
    let open = path.starts_with(signalling::OPEN) || is_versions(path) && matches!(for_one, Ok(None));
    if !open && !auth::permits(app.token.as_ref(), request.headers()) {
        return auth::challenge();
    }
    match for_one {
        Ok(None) => next.run(request).await,
        Ok(Some((origin, target))) => forward::forward(app, request, &origin, target).await,
        Err(message) => http::error(StatusCode::BAD_REQUEST, message),
    }
}

fn is_versions(path: &str) -> bool {
    path.trim_end_matches('/') == "/api/v1/versions"
}

async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(MAX_SHOWN).collect();
    let message = if path.starts_with("/api/v1/") {
        format!("{path} is not answered for all origins together; name the one that is meant with ?origin=ID")
    } else {
        format!("there is nothing at {path}")
    };
    http::error(StatusCode::NOT_FOUND, message)
}

impl App {
    /// The origins that can be asked, or the answer that says that they are not known.
    async fn targets(&self) -> Result<Vec<Target>, Response> {
        let limit = self.fanout.timeout();
        let known = timeout(limit, Target::registered(&*self.balancer)).await;
        let known = known.map_err(|_| format!("the origins are not known: no answer within {limit:?}"));
        known
            .and_then(|known| known.map_err(|error| error.to_string()))
            .map_err(|error| http::error(StatusCode::SERVICE_UNAVAILABLE, error))
    }

    /// Asks all origins that can be asked.
    async fn ask_all(&self, path: &str, headers: &HeaderMap) -> Result<Vec<OriginReply>, Response> {
        Ok(self.fanout.all(self.targets().await?, path, headers, Duration::MAX).await)
    }

    /// The answer with success, and `fields` in it.
    fn done(&self, answers: &Answers, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
        let mut body = self.identity.head();
        body.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        answers.name_unanswered(&mut body);
        body
    }
}

/// What came from one origin.
type OriginReply = (Target, Result<Answer, ReplyError>);

/// Merges what came. Much of it takes a thread of its own, so that nobody else waits.
async fn merge_off_thread(
    came: Vec<OriginReply>,
    work: impl FnOnce(Vec<OriginReply>) -> Response + Send + 'static,
) -> Response {
    let bytes: usize = came.iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|answer| answer.body.len()).sum();
    if bytes < LARGE {
        return work(came);
    }
    tokio::task::spawn_blocking(move || work(came))
        .await
        .unwrap_or_else(|_| http::error(StatusCode::INTERNAL_SERVER_ERROR, "the answers could not be merged"))
}

async fn answer_single(app: &Arc<App>, single: Aggregate, caller: Caller) -> Response {
    let came = match app.ask_all(&format!("/api/v1/{}", single.as_str()), &caller.headers).await {
        Ok(came) => came,
        Err(unavailable) => return unavailable,
    };
    if came.is_empty() {
        return http::error(StatusCode::SERVICE_UNAVAILABLE, "no origin with an HTTP API is registered");
    }
    let app = Arc::clone(app);
    merge_off_thread(came, move |came| {
        let answers = Answers::read(came, Shape::Object("data"), &[]);
        let callback = caller.callback.as_deref();
        if answers.none() {
            return answers.bad_gateway(callback);
        }
        let data = aggregate::merge(single, &answers.parts, now_ms());
        render(StatusCode::OK, app.done(&answers, [("data", data)]), callback)
    })
    .await
}

/// Always an answer, because people take it for a probe.
async fn versions(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Response {
    let mut answers = Answers::default();
    if auth::permits(app.token.as_ref(), &headers)
        && let Ok(Ok(targets)) = timeout(VERSIONS, Target::registered(&*app.balancer)).await
    {
        let came = app.fanout.all(targets, "/api/v1/versions", &caller.headers, VERSIONS).await;
        answers = Answers::read(came, Shape::Object("data"), &[]);
    }
    let mut body = app.done(&answers, []);
    let Value::Object(mut own) = system::version() else { return body_of(body, &caller) };
    if !answers.parts.is_empty() {
        own.insert("data".into(), aggregate::merge(Aggregate::Versions, &answers.parts, now_ms()));
    }
    body.append(&mut own);
    body_of(body, &caller)
}

fn body_of(body: Map<String, Value>, caller: &Caller) -> Response {
    render(StatusCode::OK, body, caller.callback.as_deref())
}

async fn answer_list(app: &Arc<App>, list: List, caller: Caller) -> Response {
    let name = list.as_str();
    let Page { start, count } = caller.page;
    let (path, page) = match list {
        // SRS gives all of them.
        List::Vhosts => (format!("/api/v1/{name}/"), caller.paged.then_some(caller.page)),
        List::Streams | List::Clients => {
            (format!("/api/v1/{name}/?start=0&count={}", start + count), Some(caller.page))
        }
    };
    let came = match app.ask_all(&path, &caller.headers).await {
        Ok(came) => came,
        Err(unavailable) => return unavailable,
    };
    let app = Arc::clone(app);
    merge_off_thread(came, move |came| {
        let mut answers = Answers::read(came, Shape::Array(name), &[]);
        let callback = caller.callback.as_deref();
        if answers.none() {
            return answers.bad_gateway(callback);
        }
        let items = merge::list(list, std::mem::take(&mut answers.parts), page);
        render(StatusCode::OK, app.done(&answers, [(name, items.into())]), callback)
    })
    .await
}

fn index(app: &App, caller: &Caller) -> Response {
    let names = Aggregate::ALL.map(Aggregate::as_str).into_iter().chain(List::ALL.map(List::as_str));
    let urls: Map<_, _> = names.map(|name| (name.to_owned(), format!("/api/v1/{name}").into())).collect();
    let mut body = app.identity.head();
    body.insert("urls".into(), urls.into());
    body_of(body, caller)
}

/// The request as it came, for whoever wants to see what is between him and this node.
async fn requests(State(app): State<Arc<App>>, caller: Caller, request: Request) -> Response {
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        let secret = matches!(*name, header::AUTHORIZATION | header::PROXY_AUTHORIZATION | header::COOKIE);
        let value = if secret { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        headers.insert(name.as_str().to_owned(), value.into());
    }
    let mut body = app.identity.head();
    let data = json!({
        "uri": request.uri().to_string(),
        "path": request.uri().path(),
        "METHOD": request.method().as_str(),
        "headers": headers,
        "server": {"signature": "srs-proxy", "version": env!("CARGO_PKG_VERSION"), "time": now_ms()},
    });
    body.insert("data".into(), data);
    body_of(body, &caller)
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
