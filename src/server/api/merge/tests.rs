use serde_json::json;

use super::*;
use crate::{balancer::Page, origin::OriginId};

const STREAMS: &str = include_str!("../../../../tests/fixtures/srs/api-streams.json");
const CLIENTS: &str = include_str!("../../../../tests/fixtures/srs/api-clients.json");
const VHOSTS: &str = include_str!("../../../../tests/fixtures/srs/api-vhosts.json");

/// What an origin of that id gives.
fn part(origin: &str, list: List, body: &str) -> Part {
    let Ok(Reading::Found(value)) = read(body.as_bytes(), Shape::Array(list.as_str()), &[]) else {
        panic!("not a list: {body}")
    };
    Part { origin: origin.into(), tag: id::tag(&OriginId::from(origin)), value }
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

#[test]
fn streams_keep_what_srs_gives_and_get_ids_of_the_cluster_and_their_origin() {
    let merged = list(List::Streams, vec![part("a", List::Streams, STREAMS)], None);
    let tag = id::tag(&OriginId::from("a"));
    let mut expected = serde_json::from_str::<Value>(STREAMS).unwrap()["streams"].take();
    for (stream, vhost) in expected.as_array_mut().unwrap().iter_mut().zip(["__defaultVhost__", "ts.example.com"]) {
        stream["id"] = format!("{}.{tag}", stream["id"].as_str().unwrap()).into();
        stream["publish"]["cid"] = format!("{}.{tag}", stream["publish"]["cid"].as_str().unwrap()).into();
        stream["vhost"] = id::vhost(vhost).into();
        stream["origin"] = "a".into();
    }
    assert_eq!(Value::from(merged), expected);
}

#[test]
fn what_refers_to_something_leads_to_it() {
    let origins = ["a", "b"];
    let all = |kind: List, body: &str| list(kind, origins.iter().map(|o| part(o, kind, body)).collect(), None);
    let (streams, clients, vhosts) =
        (all(List::Streams, STREAMS), all(List::Clients, CLIENTS), all(List::Vhosts, VHOSTS));
    assert_eq!((streams.len(), clients.len(), vhosts.len()), (4, 4, 2));
    for client in &clients {
        let stream = streams.iter().find(|stream| stream["id"] == client["stream"]).unwrap();
        assert_eq!((&stream["name"], &stream["origin"]), (&client["name"], &client["origin"]));
        assert_eq!((&stream["vhost"], &stream["publish"]["cid"]), (&client["vhost"], &client["id"]));
        assert_eq!(vhosts.iter().filter(|vhost| vhost["id"] == stream["vhost"]).count(), 1);
    }
}

#[test]
fn a_page_is_cut_from_all_lists_together_in_the_order_of_the_origins() {
    let parts = || {
        let part = |origin: &str, names: &[&str]| Part {
            origin: origin.into(),
            tag: "0123456789".into(),
            value: names.iter().map(|name| json!({"id": name})).collect(),
        };
        vec![part("a", &["3", "1"]), part("b", &[]), part("c", &["2", "4", "0"])]
    };
    let page = |start, count| {
        let items = list(List::Clients, parts(), Some(Page { start, count }));
        let ids = ids(&items).iter().map(|id| id::split(id).0).collect::<String>();
        let origins = items.iter().map(|item| item["origin"].as_str().unwrap()).collect::<String>();
        (ids, origins)
    };
    assert_eq!(page(0, 10), ("31240".into(), "aaccc".into()));
    assert_eq!(page(1, 2), ("12".into(), "ac".into()));
    assert_eq!(page(4, 10), ("0".into(), "c".into()));
    assert_eq!(page(5, 10), (String::new(), String::new()));
}

#[test]
fn a_vhost_of_several_origins_is_one_with_the_sum_of_their_numbers() {
    let other =
        VHOSTS.replace("\"enabled\":true,\"clients\":1", "\"enabled\":false,\"clients\":6").replace("vid-", "x-");
    let merged = list(List::Vhosts, vec![part("a", List::Vhosts, VHOSTS), part("b", List::Vhosts, &other)], None);
    assert_eq!(merged.len(), 2);
    let expected = json!({
        "id": id::vhost("__defaultVhost__"), "name": "__defaultVhost__", "enabled": true, "clients": 7, "streams": 2,
        "send_bytes": 8768, "recv_bytes": 8_937_656, "kbps": {"recv_30s": 0, "send_30s": 0},
        "hls": {"enabled": true, "fragment": 4.0}, "origin": "a", "origins": ["a", "b"],
    });
    assert_eq!(merged[0], expected);
}

#[test]
fn a_vhost_is_enabled_if_any_origin_has_it_enabled() {
    let off = VHOSTS.replace("\"enabled\":true,\"clients\"", "\"enabled\":false,\"clients\"");
    for (first, second, enabled) in [(VHOSTS, off.as_str(), true), (&off, VHOSTS, true), (&off, &off, false)] {
        let parts = vec![part("a", List::Vhosts, first), part("b", List::Vhosts, second)];
        assert_eq!(list(List::Vhosts, parts, None)[0]["enabled"], enabled);
    }
}

#[test]
fn a_vhost_is_found_by_its_id_in_the_cluster_and_by_that_of_any_origin() {
    let other = VHOSTS.replace("vid-", "x-");
    let parts = || vec![part("a", List::Vhosts, VHOSTS), part("b", List::Vhosts, &other)];
    let (a, b) = (id::tag(&OriginId::from("a")), id::tag(&OriginId::from("b")));
    for known in [id::vhost("ts.example.com"), "vid-7n28bl3".into(), "x-7n28bl3".into(), id::tagged("x-7n28bl3", &b)] {
        let found = vhost(parts(), &known).unwrap();
        assert_eq!((&found["name"], &found["clients"]), (&json!("ts.example.com"), &json!(2)), "{known}");
    }
    for unknown in ["", "vid-", "ts.example.com", &id::tagged("x-7n28bl3", &a), &id::vhost("other.com")] {
        assert_eq!(vhost(parts(), unknown), None, "{unknown}");
    }
}

#[test]
fn an_item_whose_vhost_has_no_name_refers_to_the_origins_own() {
    for url in [json!(null), json!("livestream"), json!("rtmp://host/live")] {
        let value = json!({"id": "1", "vhost": "vid-1", "url": url});
        let item = item(List::Streams, Part { origin: "a".into(), tag: "0123456789".into(), value });
        assert_eq!(item["vhost"], "vid-1.0123456789", "{url}");
    }
}

#[test]
fn ids_that_are_none_stay_what_they_are() {
    let value = json!({"id": 7, "stream": "", "vhost": null, "publish": "no"});
    let item = item(List::Clients, Part { origin: "a".into(), tag: "0123456789".into(), value });
    assert_eq!(item, json!({"id": 7, "stream": "", "vhost": null, "publish": "no", "origin": "a"}));
}

#[test]
fn only_an_answer_with_code_0_and_the_right_shape_is_read() {
    let shape = Shape::Array("streams");
    assert_eq!(read(br#"{"code":0,"streams":[]}"#, shape, &[]), Ok(Reading::Found(json!([]))));
    assert_eq!(read(br#"{"code":2048}"#, shape, &[2048]), Ok(Reading::Missing));
    assert_eq!(read(br#"{"code":0}"#, Shape::Done, &[]), Ok(Reading::Found(Value::Null)));
    let deep = format!("{{\"code\":0,\"streams\":{}", "[".repeat(100_000));
    for (body, error) in [
        ("", "its answer is no JSON object: EOF"),
        ("<html>", "its answer is no JSON object: expected value"),
        ("[]", "its answer is no JSON object: invalid type"),
        (&deep, "its answer is no JSON object: recursion limit"),
        ("{}", "its answer has no code"),
        (r#"{"code":"0","streams":[]}"#, "its answer has no code"),
        (r#"{"code":0.0,"streams":[]}"#, "its answer has no code"),
        (r#"{"code":2048}"#, "it answers code 2048"),
        (r#"{"code":0}"#, "its answer has no \"streams\""),
        (r#"{"code":0,"streams":{}}"#, "\"streams\" in its answer is not what SRS has there"),
        (r#"{"code":0,"streams":[1]}"#, "\"streams\" in its answer is not what SRS has there"),
    ] {
        let told = read(body.as_bytes(), shape, &[]).unwrap_err();
        assert!(told.starts_with(error), "{body}: {told}");
    }
    assert!(read(br#"{"code":0,"data":[]}"#, Shape::Object("data"), &[]).is_err());
}
