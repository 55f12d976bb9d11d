//! The OpenAPI document says what is served, all of it and nothing else.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, time::Duration};

use axum::{http::StatusCode, response::IntoResponse};
use jsonschema::Draft;
use serde_json::{Value, json};
use srs_proxy::server::openapi::DOCUMENT;
use srs_proxy_test_support::api;
use srs_proxy_test_support::raw_http::{Answer, Client};
use srs_proxy_test_support::system;

use srs_proxy_test_support::api::{Api, Origin};
use srs_proxy_test_support::system::Server;
use srs_proxy_test_support::webrtc_node::Node;

const SYSTEM: &str = "system API";
const HTTP: &str = "HTTP API";
const WEBRTC: &str = "WebRTC";
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// Method, path and description of all that is documented of an API.
fn operations(api: &str) -> Vec<(String, String, Value)> {
    let document = document();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            if operation["tags"].as_array().unwrap().iter().any(|tag| tag == api) {
                all.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    all
}

/// What is wrong with the body of an answer by the document, if anything.
fn faults(operation: &Value, answer: &Answer) -> Vec<String> {
    let document = document();
    let content = answer.header("content-type").unwrap_or_default().split(';').next().unwrap();
    let described = &operation["responses"][answer.status.to_string()]["content"][content];
    let Some(schema) = described.get("schema") else {
        return vec![format!("status {} with {content:?} is not documented", answer.status)];
    };
    let text = || String::from_utf8(answer.body.clone()).unwrap().into();
    let body = if content == "application/json" { answer.json() } else { text() };
    let whole = json!({"allOf": [schema], "components": document["components"]});
    let validator = jsonschema::options().with_draft(Draft::Draft202012).build(&whole).unwrap();
    validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")).await;
    client.answer().await
}

#[test]
fn the_document_is_openapi_and_its_schemas_are_schemas() {
    let document = document();
    let schema: Value = serde_json::from_str(include_str!("../fixtures/openapi/schema-3.1.json")).unwrap();
    let validator = jsonschema::options().with_draft(Draft::Draft202012).build(&schema).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::meta::is_valid(schema), "{name}");
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_reference_in_the_document_leads_somewhere_and_everything_is_referred_to() {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    collect(&document, &mut found);
    let mut there = BTreeSet::new();
    for kind in ["schemas", "parameters"] {
        let names = document["components"][kind].as_object().unwrap().keys();
        there.extend(names.map(|name| format!("#/components/{kind}/{name}")));
    }
    assert_eq!(found, there);
    let ids: Vec<_> = [SYSTEM, HTTP, WEBRTC]
        .iter()
        .flat_map(|api| operations(api))
        .map(|(_, path, operation)| (operation["operationId"].as_str().unwrap().to_owned(), path))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
}

/// The paths in `.route("…"` of the sources of the system API.
fn routes_of_the_system_api() -> BTreeSet<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server");
    let mut files = vec![src.join("system.rs")];
    files.extend(fs::read_dir(src.join("system")).unwrap().map(|entry| entry.unwrap().path()));
    let mut routes = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for after in text.split(".route(").skip(1) {
            let path = after.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            routes.insert(path.expect("a path that stands where it is routed").0.to_owned());
        }
    }
    routes
}

#[test]
fn every_path_of_the_system_api_is_documented() {
    let documented: BTreeSet<_> = operations(SYSTEM).into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(documented, routes_of_the_system_api());
}

#[test]
fn every_path_of_the_http_api_is_documented() {
    let documented: BTreeSet<_> = operations(HTTP).into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(documented, srs_proxy::server::api::paths().into_iter().collect());
}

#[test]
fn every_path_of_webrtc_is_documented() {
    let documented: BTreeSet<_> = operations(WEBRTC).into_iter().map(|(_, path, _)| path).collect();
    let served = srs_proxy::server::webrtc::signalling::paths();
    assert_eq!(documented, served.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
async fn what_is_documented_is_served_with_these_methods_and_no_others() {
    let (system, api, node) = (Server::start().await, Api::before(&[]).await, Node::before(&[], &[]).await);
    for (name, address) in [(SYSTEM, system.address), (HTTP, api.address), (WEBRTC, node.api)] {
        let operations = operations(name);
        for (_, path, _) in &operations {
            for method in METHODS {
                let documented = operations.iter().any(|(m, p, _)| m == method && p == path);
                let answer = request(address, method, &path.replace("{id}", "x")).await;
                assert_ne!(answer.status, 404, "{method} {path}");
                assert_eq!(answer.status != 405, documented, "{name}: {method} {path}: {answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_answer_of_the_system_api_is_as_documented() {
    let server = Server::start().await;
    let _session = server.sessions.start(srs_proxy::session::Delivery::Rtmp, "127.0.0.1:1".parse().unwrap());
    let heartbeat = operations(SYSTEM).into_iter().find(|(_, path, _)| path.ends_with("register")).unwrap().2;
    let registered = server.register(system::HEARTBEAT).await;
    assert_eq!((registered.status, faults(&heartbeat, &registered)), (200, vec![]));
    let refused = server.register("{}").await;
    assert_eq!((refused.status, faults(&heartbeat, &refused)), (400, vec![]));
    for draining in [false, true] {
        if draining {
            server.draining.cancel();
        }
        for (_, path, operation) in operations(SYSTEM).into_iter().filter(|(method, ..)| method == "GET") {
            let answer = server.get(&path).await;
            let expected = if draining && path == "/readyz" { 503 } else { 200 };
            assert_eq!((answer.status, faults(&operation, &answer)), (expected, vec![]), "{path}: {answer:?}");
        }
    }
    let page = operations(SYSTEM).into_iter().find(|(_, path, _)| path.ends_with("/streams")).unwrap().2;
    let bad = server.get("/api/v1/proxy/streams?count=x").await;
    assert_eq!((bad.status, faults(&page, &bad)), (400, vec![]));
    let secret = Server::with_token("s3cret").await.get("/api/v1/proxy/streams").await;
    assert_eq!((secret.status, faults(&page, &secret)), (401, vec![]));
}

#[tokio::test]
async fn every_answer_of_the_http_api_is_as_documented() {
    let (a, b, dead) = (Origin::srs("a").await, Origin::srs("b").await, Origin::dead("c").await);
    let all = Api::before(&[&a, &b]).await;
    let some = Api::before(&[&a, &dead]).await;
    let lost = Api::before(&[&dead]).await;
    let none = Api::before(&[]).await;
    let secret = Api::with(&[&a], Some("s3cret"), Duration::from_secs(10)).await;
    for (method, path, operation) in operations(HTTP) {
        let known = match path.rsplit('/').nth(1) {
            Some("streams") => a.tagged("vid-9v09806"),
            Some("clients") => a.tagged("6t9956g6"),
            _ => "vid-210oi57".to_owned(),
        };
        for (api, what) in [(&all, "all"), (&some, "some"), (&lost, "lost"), (&none, "none"), (&secret, "secret")] {
            for id in [known.as_str(), "nope"] {
                let answer = api.request(&method, &path.replace("{id}", id), "").await;
                let faults = faults(&operation, &answer);
                assert!(faults.is_empty(), "{what}: {method} {path} {id}: {faults:?}: {answer:?}");
                let fails = what != "all" && what != "some";
                assert!(answer.status == 200 || fails, "{what}: {method} {path} {id}: {answer:?}");
                if !path.contains("{id}") {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn every_answer_of_webrtc_is_as_documented() {
    let sdp = include_str!("../fixtures/webrtc/srs-whip.http").split_once("\r\n\r\n").unwrap().1;
    let origin = Origin::scripted("a", move |asked| {
        if ["/rtc/v1/whip/", "/rtc/v1/whep/", "/rtc/v1/whip-play/"].contains(&asked.path()) {
            return (StatusCode::CREATED, [("content-type", "application/sdp")], sdp).into_response();
        }
        api::answer(200, &json!({"code": 0, "sdp": sdp, "sessionid": "a:b"}).to_string())
    })
    .await;
    let (granting, dead) = (Node::before(&[&origin], &[]).await, Origin::dead("b").await);
    let (lost, none) = (Node::before(&[&dead], &[]).await, Node::before(&[], &[]).await);
    let offer = include_str!("../fixtures/webrtc/chromium-publish.sdp");
    for (method, path, operation) in operations(WEBRTC).into_iter().filter(|(method, ..)| method == "POST") {
        let json = path.contains("/play") || path.contains("publish");
        let body =
            if json { json!({"streamurl": "webrtc://h/a/s", "sdp": offer}).to_string() } else { offer.to_owned() };
        let large = "x".repeat(600 * 1024);
        let image = "Content-Type: image/png\r\n";
        for (node, headers, body, status) in [
            (&granting, "", body.as_str(), if json { 200 } else { 201 }),
            (&granting, "", "", 400),
            (&granting, "", &large, 413),
            (&granting, image, &body, 415),
            (&lost, "", &body, 502),
            (&none, "", &body, 503),
        ] {
            let answer = node.request(&method, &path, headers, body).await;
            let faults = faults(&operation, &answer);
            assert_eq!((answer.status, faults), (status, vec![]), "{method} {path}: {answer:?}");
        }
    }
    for (method, path, operation) in operations(WEBRTC).into_iter().filter(|(method, ..)| method != "POST") {
        for (node, query, status) in [
            (&granting, "?sporigin=0123456789", 404),
            (&granting, "?stream=%0A", 400),
            (&lost, "", 502),
            (&none, "", 503),
        ] {
            let answer = node.request(&method, &format!("{path}{query}"), "", "").await;
            let faults = faults(&operation, &answer);
            assert_eq!((answer.status, faults), (status, vec![]), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn both_apis_give_the_document() {
    let (system, api) = (Server::start().await, Api::before(&[]).await);
    assert_eq!(system.get("/api/v1/proxy/openapi.json").await.json(), document());
    assert_eq!(api.get("/api/v1/openapi.json").await.json(), document());
}
