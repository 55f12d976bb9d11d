//! The HTTP API over real sockets, in front of origins that answer as SRS does, or not at all.

use std::time::{Duration, Instant};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use srs_proxy_test_support::api::{Api, Origin, STREAMS, unanswered};

const SHORT: Duration = Duration::from_millis(300);
const MIB: usize = 1024 * 1024;

fn field<'a>(items: &'a [Value], name: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[name].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_lists_of_all_origins_are_one_and_every_id_in_it_can_be_followed() {
    let (a, b) = (Origin::srs("a").await, Origin::srs("b").await);
    let api = Api::before(&[&b, &a]).await;
    let streams = api.list("/api/v1/streams/").await;
    assert_eq!(field(&streams, "origin"), ["a-run-1", "a-run-1", "b-run-1", "b-run-1"]);
    assert_eq!(field(&streams, "name"), ["livestream", "tsstream", "livestream", "tsstream"]);
    for stream in &streams {
        let found = api.ok(&format!("/api/v1/streams/{}", stream["id"].as_str().unwrap())).await;
        assert_eq!(found["stream"], *stream);
        let client = api.ok(&format!("/api/v1/clients/{}", stream["publish"]["cid"].as_str().unwrap())).await;
        assert_eq!(client["client"]["stream"], stream["id"]);
        assert_eq!(client["client"]["origin"], stream["origin"]);
        let vhost = api.ok(&format!("/api/v1/vhosts/{}", stream["vhost"].as_str().unwrap())).await;
        assert_eq!(vhost["vhost"]["id"], stream["vhost"]);
        assert_eq!(vhost["vhost"]["origins"], json!(["a-run-1", "b-run-1"]));
    }
    assert_eq!(api.list("/api/v1/clients/").await.len(), 4);
    let vhosts = api.list("/api/v1/vhosts/").await;
    assert_eq!(field(&vhosts, "name"), ["__defaultVhost__", "ts.example.com"]);
    assert_eq!(vhosts[1]["clients"], 2);
}

#[tokio::test]
async fn an_answer_has_what_srs_has_above_it_and_says_that_it_is_of_this_node() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    for path in ["/api/v1/streams/", "/api/v1/summaries", "/api/v1/versions", "/api/v1/"] {
        let answer = api.ok(path).await;
        assert_eq!((&answer["code"], &answer["pid"]), (&json!(0), &json!(std::process::id().to_string())), "{path}");
        assert!(answer["server"].as_str().is_some_and(|name| !name.is_empty() && name != "vid-1"), "{answer}");
        assert!(answer["service"].as_str().is_some_and(|run| run.len() == 8), "{answer}");
    }
}

#[tokio::test]
async fn every_path_is_answered_with_a_slash_behind_it_and_without() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    for (path, field) in [
        ("/api", "urls"),
        ("/api/v1", "urls"),
        ("/api/v1/versions", "data"),
        ("/api/v1/summaries", "data"),
        ("/api/v1/rusages", "data"),
        ("/api/v1/self_proc_stats", "data"),
        ("/api/v1/system_proc_stats", "data"),
        ("/api/v1/meminfos", "data"),
        ("/api/v1/authors", "data"),
        ("/api/v1/features", "data"),
        ("/api/v1/requests", "data"),
        ("/api/v1/tests/requests", "data"),
        ("/api/v1/streams", "streams"),
        ("/api/v1/clients", "clients"),
        ("/api/v1/vhosts", "vhosts"),
        ("/api/v1/streams/vid-9v09806", "stream"),
        ("/api/v1/clients/6t9956g6", "client"),
        ("/api/v1/vhosts/vid-210oi57", "vhost"),
    ] {
        for path in [path.to_owned(), format!("{path}/")] {
            let answer = api.ok(&path).await;
            assert!(answer["code"] == 0 && !answer[field].is_null(), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn start_and_count_are_over_the_merged_list() {
    let (a, b) = (Origin::with_clients("a", "a", 25).await, Origin::with_clients("b", "b", 25).await);
    let api = Api::before(&[&a, &b]).await;
    let page = async |query: &str| {
        let items = api.list(&format!("/api/v1/clients/{query}")).await;
        items.iter().map(|item| item["id"].as_str().unwrap()[..5].to_owned()).collect::<Vec<_>>()
    };
    let all: Vec<_> = ["a", "b"].iter().flat_map(|prefix| (0..25).map(move |n| format!("{prefix}{n:04}"))).collect();
    assert_eq!(page("").await, all[..10]);
    assert_eq!(page("?count=3").await, all[..3]);
    assert_eq!(page("?start=20&count=12").await, all[20..32]);
    assert_eq!(page("?start=45&count=100").await, all[45..]);
    assert_eq!(page("?count=100000").await, all);
    assert_eq!(page("?start=50").await, Vec::<String>::new());
    assert_eq!(page("?start=x&count=-1").await, all[..10]);
    assert_eq!(a.lines().last().unwrap(), "GET /api/v1/clients/?start=0&count=10");

    let beyond = api.get("/api/v1/clients/?start=99999&count=2").await;
    assert_eq!((beyond.status, beyond.error().contains("100000 items")), (400, true));
}

#[tokio::test]
async fn vhosts_are_listed_all_as_in_srs_unless_a_page_is_asked_for() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    assert_eq!(api.list("/api/v1/vhosts").await.len(), 2);
    assert_eq!(field(&api.list("/api/v1/vhosts?start=1&count=1").await, "name"), ["ts.example.com"]);
    assert_eq!(origin.lines().last().unwrap(), "GET /api/v1/vhosts/");
}

#[tokio::test]
async fn an_origin_that_does_not_answer_as_srs_does_is_named_and_fails_nothing() {
    let huge = format!("{{\"code\":0,\"streams\":[{}{{}}]}}", "{},".repeat(6 * MIB));
    let origins = [
        (Origin::srs("a").await, ""),
        (Origin::frozen("b").await, "3s"),
        (Origin::dead("c").await, "Connection refused"),
        (Origin::fixed("d", 200, "<html>").await, "its answer is no JSON object"),
        (Origin::fixed("e", 200, r#"{"code":100}"#).await, "it answers code 100"),
        (Origin::fixed("f", 500, STREAMS).await, "it answers with status 500"),
        (Origin::fixed("g", 401, "").await, "status 401"),
        (Origin::fixed("h", 200, r#"{"code":0,"streams":{}}"#).await, "is not what SRS has there"),
        (Origin::fixed("i", 200, &huge).await, "its answer is larger than 16777216 bytes"),
        (Origin::fixed("j", 404, "not found").await, "it answers with status 404"),
    ];
    let all: Vec<_> = origins.iter().map(|(origin, _)| origin).collect();
    let api = Api::with(&all, None, Duration::from_secs(3)).await;
    let answer = api.ok("/api/v1/streams/").await;
    assert_eq!(answer["streams"].as_array().unwrap().len(), 2);
    let named = unanswered(&answer);
    assert_eq!(named.len(), 9, "{named:?}");
    for ((origin, error), (name, told)) in origins[1..].iter().zip(&named) {
        assert_eq!(origin.id, *name);
        assert!(told.contains(error), "{name}: {told}");
    }
}

#[tokio::test]
async fn a_slow_origin_costs_no_more_than_the_deadline() {
    let (a, frozen) = (Origin::srs("a").await, Origin::frozen("b").await);
    let api = Api::with(&[&a, &frozen], None, SHORT).await;
    let start = Instant::now();
    assert_eq!(api.ok("/api/v1/streams/").await["streams"].as_array().unwrap().len(), 2);
    let took = start.elapsed();
    assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
}

#[tokio::test]
async fn an_answer_that_comes_drop_by_drop_is_given_up_at_the_deadline() {
    let dribble = || {
        let drops = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        Response::new(Body::from_stream(drops))
    };
    let (a, slow) = (Origin::srs("a").await, Origin::scripted("b", move |_| dribble()).await);
    let api = Api::with(&[&a, &slow], None, SHORT).await;
    let answer = api.ok("/api/v1/streams/").await;
    assert_eq!(unanswered(&answer), [("b-run-1".to_owned(), "no answer within 300ms".to_owned())]);
}

#[tokio::test]
async fn a_suspect_origin_is_asked_but_not_waited_for_while_there_are_others() {
    let (live, lost, frozen) = (Origin::srs("a").await, Origin::srs("b").await, Origin::frozen("c").await);
    let api = Api::with(&[&live, &lost, &frozen], None, Duration::from_mins(1)).await;
    api.suspect(&lost).await;
    api.suspect(&frozen).await;
    let answer = api.ok("/api/v1/streams/").await;
    assert_eq!(answer["streams"].as_array().unwrap().len(), 4);
    assert_eq!(unanswered(&answer), [("c-run-1".to_owned(), "no answer within 500ms".to_owned())]);
}

#[tokio::test]
async fn if_no_origin_answers_that_is_a_bad_gateway_that_names_them() {
    let (dead, garbage) = (Origin::dead("a").await, Origin::fixed("b", 200, "x").await);
    let api = Api::before(&[&dead, &garbage]).await;
    for path in ["streams", "summaries", "vhosts", "streams/x", "clients/x", "vhosts/x"] {
        let answer = api.get(&format!("/api/v1/{path}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (502, "no origin has answered"), "{path}");
        let names: Vec<_> = unanswered(&answer.json()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a-run-1", "b-run-1"], "{path}");
    }
    // One origin is meant here, and the other's silence is no news.
    let answer = api.get(&format!("/api/v1/streams/{}", dead.tagged("x"))).await;
    assert_eq!((answer.status, unanswered(&answer.json()).len()), (502, 1));
}

#[tokio::test]
async fn without_origins_lists_are_empty_and_what_an_origin_would_have_to_tell_is_unavailable() {
    let api = Api::before(&[]).await;
    for list in ["streams", "clients", "vhosts"] {
        assert!(api.list(&format!("/api/v1/{list}/")).await.is_empty());
    }
    for (path, code) in [("streams", 2048), ("clients", 2049), ("vhosts", 2014)] {
        assert_eq!(api.ok(&format!("/api/v1/{path}/x")).await, json!({"code": code}));
    }
    for single in ["summaries", "rusages", "features"] {
        let answer = api.get(&format!("/api/v1/{single}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (503, "no origin with an HTTP API is registered"));
    }
}

#[tokio::test]
async fn versions_are_told_whatever_the_origins_do() {
    let own = json!({"major": 0, "minor": 1, "revision": 0, "version": env!("CARGO_PKG_VERSION")});
    let nobody = Api::before(&[]).await.ok("/api/v1/versions").await;
    assert_eq!((&nobody["code"], &nobody["data"], &nobody["signature"]), (&json!(0), &own, &json!("srs-proxy")));

    let dead = Origin::dead("a").await;
    let alone = Api::before(&[&dead]).await.ok("/api/v1/versions").await;
    assert_eq!((&alone["data"], unanswered(&alone).len()), (&own, 1));

    let older = r#"{"code":0,"data":{"major":6,"minor":0,"revision":157,"version":"6.0.157"}}"#;
    let (new, old) = (Origin::srs("b").await, Origin::fixed("c", 200, older).await);
    let all = Api::before(&[&dead, &new, &old]).await.ok("/api/v1/versions").await;
    assert_eq!((&all["data"]["version"], &all["data"]["major"]), (&json!("6.0.157"), &json!(6)));
    assert_eq!(all["data"]["origins"]["b-run-1"]["version"], "7.0.18");
    assert_eq!((&all["version"], unanswered(&all).len()), (&json!(env!("CARGO_PKG_VERSION")), 1));
}

#[tokio::test]
async fn what_origins_tell_of_themselves_is_summed_and_shown_for_each() {
    let (a, b) = (Origin::srs("a").await, Origin::srs("b").await);
    let api = Api::before(&[&a, &b]).await;
    let summaries = api.ok("/api/v1/summaries").await;
    let data = &summaries["data"];
    assert_eq!((&data["system"]["cpus"], &data["system"]["cpu_percent"]), (&json!(4), &json!(0.15)));
    assert_eq!((&data["self"]["mem_kbyte"], &data["system"]["conn_srs"]), (&json!(68528), &json!(4)));
    assert_eq!(data["origins"]["b-run-1"]["system"]["conn_srs"], 2);
    assert!(data["now_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(api.ok("/api/v1/rusages").await["data"]["ru_maxrss"], 70_832);
}

#[tokio::test]
async fn an_id_as_one_srs_gives_it_is_found_on_whichever_origin_has_it() {
    let (a, b) = (Origin::with_clients("a", "a", 3).await, Origin::with_clients("b", "b", 3).await);
    let api = Api::before(&[&a, &b]).await;
    let client = &api.ok("/api/v1/clients/b0002").await["client"];
    assert_eq!((&client["id"], &client["origin"]), (&json!(b.tagged("b0002")), &json!("b-run-1")));

    // Both have it: the first by id answers.
    let (c, d) = (Origin::srs("c").await, Origin::srs("d").await);
    let client = &Api::before(&[&d, &c]).await.ok("/api/v1/clients/6t9956g6").await["client"];
    assert_eq!(client["origin"], "c-run-1");
}

#[tokio::test]
async fn an_id_that_names_its_origin_is_asked_of_that_one_only() {
    let (a, b) = (Origin::srs("a").await, Origin::srs("b").await);
    let api = Api::before(&[&a, &b]).await;
    let id = b.tagged("6t9956g6");
    assert_eq!(api.ok(&format!("/api/v1/clients/{id}")).await["client"]["id"], id);
    assert_eq!((a.lines(), b.lines()), (vec![], vec!["GET /api/v1/clients/6t9956g6".to_owned()]));
}

#[tokio::test]
async fn an_unknown_id_is_answered_as_srs_answers_it() {
    let (a, dead) = (Origin::srs("a").await, Origin::dead("b").await);
    let api = Api::before(&[&a]).await;
    let gone = Origin::dead("gone").await;
    for (list, code) in [("streams", 2048), ("clients", 2049), ("vhosts", 2014)] {
        for id in ["nope", &a.tagged("nope"), &gone.tagged("6t9956g6"), "%FF", "a%2Fb", &"x".repeat(300), ".%2E"] {
            assert_eq!(api.ok(&format!("/api/v1/{list}/{id}")).await, json!({"code": code}), "{id}");
        }
    }
    assert!(a.lines().contains(&"GET /api/v1/streams/a%2Fb".to_owned()), "{:?}", a.lines());
    let answer = Api::before(&[&a, &dead]).await.ok("/api/v1/streams/nope").await;
    assert_eq!((&answer["code"], unanswered(&answer).len()), (&json!(2048), 1));
}

#[tokio::test]
async fn a_client_is_closed_on_the_origin_that_has_it_and_on_no_other() {
    let (a, b) = (Origin::srs("a").await, Origin::with_clients("b", "b", 3).await);
    let api = Api::before(&[&a, &b]).await;
    let deletes = |origin: &Origin| -> Vec<String> {
        origin.lines().into_iter().filter(|line| line.starts_with("DELETE")).collect()
    };
    let closed = api.request("DELETE", &format!("/api/v1/clients/{}", b.tagged("b0001")), "").await;
    assert_eq!((closed.status, &closed.json()["code"], &closed.json()["origin"]), (200, &json!(0), &json!("b-run-1")));
    assert_eq!((deletes(&a), deletes(&b)), (vec![], vec!["DELETE /api/v1/clients/b0001".to_owned()]));
    assert!(a.lines().is_empty(), "an id that names its origin is no question to others");

    let closed = api.request("DELETE", "/api/v1/clients/6t9956g6", "").await;
    assert_eq!((closed.status, &closed.json()["origin"]), (200, &json!("a-run-1")));
    assert_eq!((deletes(&a).len(), deletes(&b).len()), (1, 1));

    for id in ["nope", &a.tagged("nope")] {
        let unknown = api.request("DELETE", &format!("/api/v1/clients/{id}"), "").await;
        assert_eq!((unknown.status, unknown.json()), (200, json!({"code": 2049})), "{id}");
    }
    assert_eq!(deletes(&b).len(), 1);
}

#[tokio::test]
async fn a_client_that_several_origins_have_is_not_closed_before_it_is_said_which() {
    let (a, b) = (Origin::srs("a").await, Origin::srs("b").await);
    let api = Api::before(&[&a, &b]).await;
    let refused = api.request("DELETE", "/api/v1/clients/6t9956g6", "").await;
    assert_eq!(refused.status, 409);
    assert!(refused.error().contains(&a.tagged("6t9956g6")) && refused.error().contains(&b.tagged("6t9956g6")));
    assert!(!a.lines().iter().chain(&b.lines()).any(|line| line.starts_with("DELETE")));
}

#[tokio::test]
async fn an_origin_that_does_not_say_whether_it_closed_a_client_is_a_bad_gateway() {
    let (a, dead) = (Origin::fixed("a", 200, r#"{"code":400}"#).await, Origin::dead("b").await);
    let api = Api::before(&[&a, &dead]).await;
    for (origin, error) in [(&a, "it answers code 400"), (&dead, "Connection refused")] {
        let answer = api.request("DELETE", &format!("/api/v1/clients/{}", origin.tagged("x")), "").await;
        assert_eq!(answer.status, 502);
        assert!(unanswered(&answer.json())[0].1.contains(error), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_can_be_a_call_of_a_function_as_in_srs() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    let answer = api.get("/api/v1/versions?callback=jQuery_1.on-load").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/javascript")));
    let text = String::from_utf8(answer.body).unwrap();
    let json = text.strip_prefix("jQuery_1.on-load(").and_then(|text| text.strip_suffix(')')).unwrap();
    assert_eq!(serde_json::from_str::<Value>(json).unwrap()["data"]["version"], "7.0.18");
    for name in ["alert(1)%3B", "%3Cscript%3E", &"x".repeat(129)] {
        assert_eq!(api.get(&format!("/api/v1/versions?callback={name}")).await.status, 400, "{name}");
    }
}

#[tokio::test]
async fn what_is_not_served_is_said_to_be_so() {
    let origin = Origin::srs("a").await;
    let api = Api::before(&[&origin]).await;
    for (method, path) in [("POST", "/api/v1/streams/"), ("DELETE", "/api/v1/streams/x"), ("PUT", "/api/v1/versions")] {
        let answer = api.request(method, path, "").await;
        assert_eq!((answer.status, answer.error().contains("is not allowed")), (405, true), "{method} {path}");
    }
    assert!(origin.lines().is_empty());
}
