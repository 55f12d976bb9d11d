//! What the system API shows of a node.

use std::sync::Arc;

use serde_json::{Value, json};
use srs_proxy::{
    balancer::{Intent, Lease, PlaceRequest, Placement, Reachability},
    origin::{OriginId, Protocol},
    session::Delivery,
    stream::{StreamKey, Vhosts},
};

use srs_proxy_test_support::system::{MINIMAL, Server};

fn stream(name: &str) -> StreamKey {
    StreamKey::from_rtmp("rtmp://a.com/live", "live", name, &Vhosts::any()).unwrap()
}

async fn place(server: &Server, name: &str) -> Placement {
    let stream = stream(name);
    let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Publish, avoid: &[] };
    server.balancer.place(request).await.unwrap()
}

#[tokio::test]
async fn streams_are_shown_with_their_origin_and_users() {
    let server = Server::start().await;
    server.register(MINIMAL).await;
    let placement = place(&server, "cam?token=t0psecret").await;
    let lease = |intent| Lease::new(Arc::clone(&server.balancer), placement.clone(), intent);
    let _leases = [lease(Intent::Publish), lease(Intent::Play), lease(Intent::Play)];
    let answer = server.get("/api/v1/proxy/streams").await;
    let expected = json!({
        "code": 0, "total": 1, "start": 0, "count": 1,
        "streams": [{
            "stream": "a.com/live/cam", "origin": "a-b-1", "epoch": placement.epoch, "publishers": 1, "players": 2,
        }],
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(server.origins().await["origins"][0]["streams"], 1);
    server.balancer.report(&OriginId::from("a-b-1"), Reachability::Failed("connection refused".into())).await;
    let origin = &server.origins().await["origins"][0];
    assert_eq!((&origin["state"], &origin["suspect_reason"]), (&json!("suspect"), &json!("connection refused")));
}

#[tokio::test]
async fn sessions_are_shown_from_their_first_byte_and_without_tokens() {
    let server = Server::start().await;
    let handshaking = server.sessions.start(Delivery::Rtmp, "127.0.0.1:5001".parse().unwrap());
    let publishing = server.sessions.start(Delivery::Rtmp, "[::1]:5002".parse().unwrap());
    publishing.set_role(Intent::Publish, stream("cam?token=t0psecret"));
    publishing.set_origin(Some(OriginId::from("a-b-1")));
    publishing.set_bytes(1000, 50);

    let answer = server.get("/api/v1/proxy/sessions").await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("t0psecret"));
    let mut listing = answer.json();
    for session in listing["sessions"].as_array_mut().unwrap() {
        assert!(session["age_seconds"].take().is_f64());
    }
    let expected = json!({
        "code": 0, "total": 2, "start": 0, "count": 2,
        "sessions": [
            {
                "id": handshaking.id, "protocol": "rtmp", "peer": "127.0.0.1:5001", "age_seconds": null, "intent": null,
                "stream": null, "origin": null, "bytes_from_client": 0, "bytes_from_origin": 0,
            },
            {
                "id": publishing.id, "protocol": "rtmp", "peer": "[::1]:5002", "age_seconds": null, "intent": "publish",
                "stream": "a.com/live/cam", "origin": "a-b-1", "bytes_from_client": 1000, "bytes_from_origin": 50,
            },
        ],
    });
    assert_eq!(listing, expected);
    drop(handshaking);
    assert_eq!(server.get("/api/v1/proxy/sessions").await.json()["total"], 1);
}

#[tokio::test]
async fn long_lists_come_in_pages_that_make_up_the_whole() {
    let server = Server::start().await;
    server.register(MINIMAL).await;
    for i in 0..1234 {
        place(&server, &format!("s{i:04}")).await;
    }
    let page = async |query: &str| server.get(&format!("/api/v1/proxy/streams{query}")).await.json();
    let names = |page: &Value| -> Vec<String> {
        page["streams"].as_array().unwrap().iter().map(|s| s["stream"].as_str().unwrap().to_owned()).collect()
    };
    let first = page("").await;
    assert_eq!((&first["total"], &first["start"], &first["count"]), (&json!(1234), &json!(0), &json!(100)));
    assert_eq!(names(&first), names(&page("?start=0&count=100").await));

    let mut all = Vec::new();
    for start in [0, 1000] {
        all.extend(names(&page(&format!("?count=1000&start={start}")).await));
    }
    let expected: Vec<_> = (0..1234).map(|i| format!("a.com/live/s{i:04}")).collect();
    assert!(all == expected);
    for (query, count) in [("?start=1234", 0), ("?start=18446744073709551615", 0), ("?count=0", 0), ("?start=1230", 4)]
    {
        let page = page(query).await;
        assert_eq!(
            (names(&page).len(), &page["count"], &page["total"]),
            (count, &json!(count), &json!(1234)),
            "{query}"
        );
    }
    assert_eq!(page("?other=x&count=1").await["count"], 1, "unknown parameters are ignored");
}

#[tokio::test]
async fn origins_and_sessions_come_in_pages_too() {
    let server = Server::start().await;
    let mut sessions = Vec::new();
    for i in 1..=9 {
        let body = MINIMAL.replace("10.0.0.1", &format!("10.0.0.{i}")).replace(r#""a""#, &format!(r#""a{i}""#));
        assert_eq!(server.register(body).await.status, 200);
        sessions.push(server.sessions.start(Delivery::Rtmp, "127.0.0.1:5001".parse().unwrap()));
    }
    let origins = server.get("/api/v1/proxy/origins?start=3&count=2").await.json();
    let ids: Vec<_> = origins["origins"].as_array().unwrap().iter().map(|o| o["id"].clone()).collect();
    assert_eq!((&origins["total"], ids), (&json!(9), vec![json!("a4-b-1"), json!("a5-b-1")]));
    let listing = server.get("/api/v1/proxy/sessions?start=8").await.json();
    assert_eq!((&listing["total"], &listing["start"], &listing["count"]), (&json!(9), &json!(8), &json!(1)));
    assert_eq!(listing["sessions"][0]["id"], sessions[8].id);
}

#[tokio::test]
async fn a_bad_page_is_an_error_that_names_the_parameter() {
    let server = Server::start().await;
    for view in ["origins", "streams", "sessions"] {
        for (query, parameter) in [
            ("start=x", "start"),
            ("start=-1", "start"),
            ("start=+1", "start"),
            ("start=", "start"),
            ("start=1.5", "start"),
            ("start=99999999999999999999", "start"),
            ("count=x", "count"),
            ("count=1001", "count"),
            ("start=1&count=%00", "count"),
        ] {
            let answer = server.get(&format!("/api/v1/proxy/{view}?{query}")).await;
            assert_eq!(answer.status, 400, "{query}");
            assert!(answer.error().contains(&format!("{parameter:?}")), "{query}: {}", answer.error());
        }
    }
}
