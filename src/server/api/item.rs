//! One stream, client or vhost of the cluster, and the end of a client.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{Method, StatusCode},
    response::Response,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    App, OriginReply,
    caller::Caller,
    fanout::Target,
    id,
    merge::{self, List, Shape},
    merge_off_thread,
    reply::{Answers, render},
};
use crate::server::http;

/// The longest id that an origin is asked for, in bytes.
const MAX_ID: usize = 256;
/// What need not be escaped in a path (RFC 3986, 2.3).
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The id in a path.
pub(super) type Id = Result<Path<String>, PathRejection>;

/// One item of a list.
pub(super) async fn answer(app: &Arc<App>, list: List, id: Id, caller: Caller) -> Response {
    let Some(id) = known(id) else { return unknown(list, &Answers::default(), &caller) };
    let came = match list {
        List::Vhosts => app.ask_all("/api/v1/vhosts/", &caller.headers).await,
        List::Streams | List::Clients => look_for(app, list, &id, &caller).await,
    };
    let came = match came {
        Ok(came) => came,
        Err(unavailable) => return unavailable,
    };
    let app = Arc::clone(app);
    merge_off_thread(came, move |came| {
        let callback = caller.callback.as_deref();
        let shape = if list == List::Vhosts { Shape::Array(list.as_str()) } else { Shape::Object(list.item()) };
        let mut answers = Answers::read(came, shape, missing(list));
        if answers.none() {
            return answers.bad_gateway(callback);
        }
        let parts = std::mem::take(&mut answers.parts);
        let found = match list {
            List::Vhosts => merge::vhost(parts, &id),
            List::Streams | List::Clients => parts.into_iter().next().map(|part| merge::item(list, part)),
        };
        match found {
            Some(item) => render(StatusCode::OK, app.done(&answers, [(list.item(), item)]), callback),
            None => unknown(list, &answers, &caller),
        }
    })
    .await
}

/// Closes a client, on the one origin that has it.
pub(super) async fn close_client(State(app): State<Arc<App>>, id: Id, caller: Caller) -> Response {
    let list = List::Clients;
    let Some(id) = known(id) else { return unknown(list, &Answers::default(), &caller) };
    let (plain, tag) = id::split(&id);
    let found = match tag {
        Some(_) => app.targets().await.map(|targets| (meant(targets, tag), Answers::default())),
        None => owners(&app, plain, &caller).await,
    };
    let (mut owners, answers) = match found {
        Ok(found) => found,
        Err(response) => return response,
    };
    let owner = match owners.len() {
        0 => return unknown(list, &answers, &caller),
        1 => owners.remove(0),
        _ => {
            let owners: Vec<_> = owners.iter().map(|owner| id::tagged(plain, &owner.tag)).collect();
            let message = format!("several origins have this client; say which: {}", owners.join(", "));
            return http::error(StatusCode::CONFLICT, message);
        }
    };
    let origin = owner.id.as_str().to_owned();
    let (path, start, limit) = (path(list, plain), Instant::now(), app.fanout.timeout());
    let answer = app.fanout.one(&owner, Method::DELETE, &path, caller.headers.clone(), start, limit).await;
    let closed = Answers::read(vec![(owner, answer)], Shape::Done, missing(list));
    let callback = caller.callback.as_deref();
    if closed.none() {
        return closed.bad_gateway(callback);
    }
    if closed.parts.is_empty() {
        return unknown(list, &answers, &caller);
    }
    render(StatusCode::OK, app.done(&answers, [("origin", origin.into())]), callback)
}

/// The origins that have a client of which only the id that its origin gave is known.
async fn owners(app: &App, plain: &str, caller: &Caller) -> Result<(Vec<Target>, Answers), Response> {
    let came = look_for(app, List::Clients, plain, caller).await?;
    let targets: Vec<_> = came.iter().map(|(target, _)| target.clone()).collect();
    let answers = Answers::read(came, Shape::Object(List::Clients.item()), missing(List::Clients));
    if answers.none() {
        return Err(answers.bad_gateway(caller.callback.as_deref()));
    }
    let has = |target: &Target| answers.parts.iter().any(|part| part.tag == target.tag);
    Ok((targets.into_iter().filter(has).collect(), answers))
}

/// Asks for an item: the origin that its id names, or all of them.
async fn look_for(app: &App, list: List, id: &str, caller: &Caller) -> Result<Vec<OriginReply>, Response> {
    let (plain, tag) = id::split(id);
    let targets = meant(app.targets().await?, tag);
    Ok(app.fanout.all(targets, &path(list, plain), &caller.headers, Duration::MAX).await)
}

/// Those with this tag, or all if there is none.
fn meant(mut targets: Vec<Target>, tag: Option<&str>) -> Vec<Target> {
    targets.retain(|target| tag.is_none_or(|tag| tag == target.tag));
    targets
}

fn path(list: List, id: &str) -> String {
    format!("/api/v1/{}/{}", list.as_str(), utf8_percent_encode(id, IN_PATH))
}

/// An id that can be one.
fn known(id: Id) -> Option<String> {
    let Path(id) = id.ok()?;
    (id.len() <= MAX_ID && !matches!(id::split(&id).0, "" | "." | "..")).then_some(id)
}

fn missing(list: List) -> &'static [i64] {
    match list {
        List::Streams => const { &[List::Streams.missing()] },
        List::Clients => const { &[List::Clients.missing()] },
        List::Vhosts => &[],
    }
}

/// The answer to an id that nobody knows, as SRS gives it.
fn unknown(list: List, answers: &Answers, caller: &Caller) -> Response {
    let mut body: Map<String, Value> = Map::new();
    body.insert("code".into(), list.missing().into());
    answers.name_unanswered(&mut body);
    render(StatusCode::OK, body, caller.callback.as_deref())
}
