//! Two nodes on one Redis are one proxy, and what runs through them does not notice that Redis ends.

use srs_proxy_test_support::{LIMIT, Nginx, Proxy, ffmpeg, http, redis::Redis, wait_for};

/// A node on a Redis, once it is ready.
fn node(redis: &Redis) -> Proxy {
    let port = redis.port().to_string();
    let proxy = Proxy::start_with(&[("PROXY_LOAD_BALANCER_TYPE", "redis"), ("PROXY_REDIS_PORT", &port)]);
    until_ready(&proxy, 200);
    proxy
}

fn until_ready(proxy: &Proxy, status: u16) {
    let answers = || http::get(proxy.api(), "/readyz").is_ok_and(|answer| answer.status == status);
    wait_for(&format!("/readyz answers {status}"), LIMIT, answers);
}

#[test]
fn a_stream_published_through_one_node_plays_through_another_while_redis_is_killed_and_restarted() {
    let mut redis = Redis::start();
    let (a, b) = (node(&redis), node(&redis));
    let origins = [Nginx::start(), Nginx::start()];
    a.register(&origins[0]);
    b.register(&origins[1]);
    for proxy in [&a, &b] {
        wait_for("both origins are known to both nodes", LIMIT, || proxy.origins().len() == 2);
    }
    let mut publisher = ffmpeg::publish(&a.url("live/stream"));
    wait_for("the stream is published", LIMIT, || origins.iter().any(|o| o.is_published("live", "stream")));
    let mut player = ffmpeg::play(&b.url("live/stream"));
    player.wait_for_video(5);

    redis.kill();
    for proxy in [&a, &b] {
        until_ready(proxy, 503);
    }
    player.wait_for_more();
    let mut late = ffmpeg::play(&b.url("live/stream"));
    late.wait_for_video(5);
    let refused = ffmpeg::failure(ffmpeg::publish(&a.url("live/new")), LIMIT);
    assert!(!refused.is_empty());
    a.wait_for_log(&["live/new", "placements are unavailable", "look whether it runs"]);

    redis.restart();
    for proxy in [&a, &b] {
        until_ready(proxy, 200);
    }
    player.wait_for_more();
    late.wait_for_more();
    publisher.assert_running();
    let _second = ffmpeg::publish(&b.url("live/new"));
    let mut other = ffmpeg::play(&a.url("live/new"));
    other.wait_for_video(5);
    let streams = b.streams();
    let listed: Vec<_> = streams.iter().map(|stream| stream["stream"].as_str().unwrap()).collect();
    assert_eq!(listed, ["__defaultVhost__/live/new", "__defaultVhost__/live/stream"]);
}
