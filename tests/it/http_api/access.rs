//! The HTTP API: what is for one origin, who may ask, and what origins and browsers learn of it.

use std::time::Duration;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use srs_proxy_test_support::api;

use srs_proxy_test_support::api::{Api, Origin, STREAMS, answer, unanswered};

const SHORT: Duration = Duration::from_millis(300);
const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn what_names_an_origin_reaches_it_as_it_came_and_so_does_its_answer() {
    let script = |asked: &api::Asked| {
        let mut answer = answer(418, &format!("{} {}", asked.line(), String::from_utf8_lossy(&asked.body)));
        for (name, value) in [("x-own", "1"), ("keep-alive", "timeout=5"), ("access-control-allow-origin", "https://a")]
        {
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
        answer
    };
    let (a, b) = (Origin::scripted("a", script).await, Origin::scripted("b", script).await);
    let api = Api::before(&[&a, &b]).await;
    let mut client = api.client().await;
    let headers = "X-Own: 2\r\nConnection: X-Private\r\nX-Private: 3\r\nTE: trailers\r\nContent-Type: text/odd\r\n";
    let answer = client.post("/api/v1/raw%2F?x=%41&origin=b-run-1&&y", headers, "b\u{f6}dy").await;
    assert_eq!((answer.status, answer.header("x-own")), (418, Some("1")));
    assert_eq!(String::from_utf8(answer.body.clone()).unwrap(), "POST /api/v1/raw%2F?x=%41&&y b\u{f6}dy");
    assert_eq!((answer.header("keep-alive"), answer.header("access-control-allow-origin")), (None, Some("*")));
    assert!(a.lines().is_empty());
    let asked = &b.asked()[0];
    let host = b.address.to_string();
    assert_eq!((asked.header("x-own"), asked.header("content-type")), (Some("2"), Some("text/odd")));
    assert_eq!((asked.header("x-private"), asked.header("te")), (None, None));
    assert_eq!((asked.header("host"), asked.header("x-real-ip")), (Some(host.as_str()), Some("127.0.0.1")));

    for method in ["PUT", "PATCH", "DELETE", "PURGE"] {
        let answer = api.request(method, "/api/v1/clients/?origin=a-run-1", "").await;
        assert_eq!((answer.status, a.lines().last().unwrap()), (418, &format!("{method} /api/v1/clients/")));
    }
}

#[tokio::test]
async fn a_merged_path_that_names_an_origin_is_that_ones_own_answer() {
    let (a, b) = (Origin::srs("a").await, Origin::srs("b").await);
    let api = Api::before(&[&a, &b]).await;
    assert_eq!(
        api.ok("/api/v1/streams/?count=20&origin=a-run-1").await["streams"],
        serde_json::from_str::<Value>(STREAMS).unwrap()["streams"]
    );
    assert_eq!(a.lines(), ["GET /api/v1/streams/?count=20"]);
    assert!(b.lines().is_empty());
}

#[tokio::test]
async fn the_answer_of_a_named_origin_is_passed_on_while_it_still_comes() {
    let endless = || {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 100_000]))]);
        Response::new(Body::from_stream(first.chain(stream::pending())))
    };
    let origin = Origin::scripted("a", move |_| endless()).await;
    let api = Api::before(&[&origin]).await;
    let mut client = api.client().await;
    client.send("GET /api/v1/raw?origin=a-run-1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    client.some(100_000).await;
}

#[tokio::test]
async fn what_names_no_origin_that_can_be_asked_is_not_found() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    for (path, status, error) in [
        ("/api/v1/raw?rpc=query", 404, "name the one that is meant with ?origin=ID"),
        ("/api/v1/raw?origin=b-run-1", 404, "no origin \"b-run-1\""),
        ("/api/v1/raw?origin=", 404, "no origin \"\""),
        ("/api/v1/raw?origin=a-run-1&origin=a-run-1", 400, "given twice"),
        ("/else", 404, "nothing at /else"),
        ("/else?origin=a-run-1", 404, "nothing at /else"),
        ("/api/v1/../../x?origin=b", 404, "no origin \"b\""),
    ] {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.error().contains(error)), (status, true), "{path}: {answer:?}");
    }
    assert!(origin.lines().is_empty());
}

#[tokio::test]
async fn a_body_of_more_than_a_mebibyte_does_not_reach_an_origin() {
    let origin = Origin::fixed("a", 200, "{}").await;
    let api = Api::before(&[&origin]).await;
    let target = "/api/v1/raw?origin=a-run-1";
    assert_eq!(api.client().await.post(target, "", vec![b'x'; MIB]).await.status, 200);
    assert_eq!(api.client().await.post(target, "", vec![b'x'; MIB + 1]).await.status, 413);
    let lengths: Vec<_> = origin.asked().iter().map(|asked| asked.body.len()).collect();
    assert_eq!(lengths, [MIB]);
}

#[tokio::test]
async fn a_named_origin_that_does_not_answer_is_a_bad_gateway() {
    let (dead, frozen) = (Origin::dead("a").await, Origin::frozen("b").await);
    let api = Api::with(&[&dead, &frozen], None, SHORT).await;
    for (id, error) in [("a-run-1", "Connection refused"), ("b-run-1", "300ms")] {
        let answer = api.get(&format!("/api/v1/raw?origin={id}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (502, "the origin has not answered"));
        let named = unanswered(&answer.json());
        assert!(named[0].0 == id && named[0].1.contains(error), "{named:?}");
    }
}

#[tokio::test]
async fn where_a_token_is_needed_everything_needs_it_but_versions() {
    let origin = Origin::srs("a").await;
    let api = Api::with(&[&origin], Some("s3cret"), Duration::from_secs(10)).await;
    let paths = ["/api/v1/", "/api/v1/streams", "/api/v1/streams/x", "/api/v1/summaries", "/api/v1/requests"];
    let further = ["/api/v1/openapi.json", "/api/v1/raw?origin=a-run-1", "/api/v1/versions?origin=a-run-1", "/x"];
    for path in paths.iter().chain(&further) {
        for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic czNjcmV0\r\n"] {
            let answer = api.request("GET", path, headers).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path} {headers}");
        }
        let answer = api.request("GET", path, "Authorization: Bearer s3cret\r\n").await;
        assert_ne!(answer.status, 401, "{path}");
    }
    let asked = origin.asked();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked.iter().all(|asked| !format!("{:?}", asked.headers).contains("s3cret")), "{asked:?}");

    // A probe learns of this program, and costs no origin anything.
    let probe = api.get("/api/v1/versions").await;
    assert_eq!((probe.status, &probe.json()["data"]["version"]), (200, &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(origin.asked().len(), 5);
    let known = api.request("GET", "/api/v1/versions", "Authorization: Bearer s3cret\r\n").await;
    assert_eq!(known.json()["data"]["version"], "7.0.18");
}

#[tokio::test]
async fn what_the_proxy_keeps_secret_is_not_repeated() {
    let api = Api::with(&[], Some("s3cret"), Duration::from_secs(10)).await;
    let headers = "Authorization: Bearer s3cret\r\nCookie: c00kie\r\nX-Seen: yes\r\n";
    let answer = api.request("GET", "/api/v1/tests/requests?x=1", headers).await;
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert!(!text.contains("s3cret") && !text.contains("c00kie"), "{text}");
    let data = &answer.json()["data"];
    assert_eq!((&data["uri"], &data["METHOD"]), (&json!("/api/v1/tests/requests?x=1"), &json!("GET")));
    assert_eq!(data["headers"]["x-seen"], "yes");
}

#[tokio::test]
async fn name_and_password_for_srs_reach_the_origins_and_their_wish_for_them_the_caller() {
    let script = |asked: &api::Asked| {
        if asked.header("authorization") == Some("Basic dTpw") {
            return answer(200, STREAMS);
        }
        let mut refusal = answer(401, "");
        refusal.headers_mut().insert("www-authenticate", "Basic realm=srs".parse().unwrap());
        refusal
    };
    let (a, b) = (Origin::scripted("a", script).await, Origin::scripted("b", script).await);
    let api = Api::before(&[&a, &b]).await;
    let refused = api.get("/api/v1/streams/").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=srs")));
    assert_eq!(unanswered(&refused.json()).len(), 2);
    let answer = api.request("GET", "/api/v1/streams/", "Authorization: Basic dTpw\r\n").await;
    assert_eq!((answer.status, answer.json()["streams"].as_array().unwrap().len()), (200, 4));
    let passed = api.request("GET", "/api/v1/x?origin=a-run-1", "Authorization: Basic dTpw\r\n").await;
    assert_eq!(passed.status, 200);
}

#[tokio::test]
async fn origins_learn_the_address_of_the_caller() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    for target in ["/api/v1/streams/", "/api/v1/streams/?origin=a-run-1"] {
        api.request("GET", target, "X-Forwarded-For: 10.0.0.9\r\nX-Real-IP: 10.0.0.9\r\n").await;
        let asked = origin.asked().pop().unwrap();
        assert_eq!(asked.header("x-forwarded-for"), Some("10.0.0.9, 127.0.0.1"), "{target}");
        assert_eq!(asked.header("x-real-ip"), Some("127.0.0.1"), "{target}");
    }
}

#[tokio::test]
async fn browsers_may_read_every_answer_and_ask_first_without_a_token() {
    let api = Api::with(&[], Some("s3cret"), Duration::from_secs(10)).await;
    for path in ["/api/v1/streams", "/api/v1/raw?origin=x", "/rtc/v1/whip/", "/x"] {
        let mut client = api.client().await;
        client.send(format!("OPTIONS {path} HTTP/1.1\r\nHost: x\r\nOrigin: https://a\r\n\r\n")).await;
        let answer = client.head().await.unwrap();
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")), "{path}");
        assert!(answer.header("access-control-allow-headers").unwrap().contains("Authorization"));
        assert!(answer.header("access-control-allow-methods").unwrap().contains("DELETE"));
    }
    for path in ["/api/v1/streams", "/api/v1/versions", "/x"] {
        let answer = api.get(path).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(answer.header("access-control-expose-headers"), Some("*"), "{path}");
    }
}
