//! HTTP streams of nginx-rtmp origins, played by ffprobe through nodes that did not take the publish.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use srs_proxy_test_support::{
    LIMIT, Nginx, Process, Proxy,
    ffmpeg::{self, Seen},
    http::{self, Response},
    media::{self, Recording},
    mesh::Mesh,
    redis::Redis,
    wait_for, wait_for_some,
};

const HLS: &str = "/web/stream.m3u8";
const KEY: &str = "__defaultVhost__/web/stream";

/// A node on a Redis, once it is ready.
fn redis_node(redis: &Redis) -> Proxy {
    let port = redis.port().to_string();
    let proxy = Proxy::start_with(&[("PROXY_LOAD_BALANCER_TYPE", "redis"), ("PROXY_REDIS_PORT", &port)]);
    wait_for("the node is ready", LIMIT, || http::get(proxy.api(), "/readyz").is_ok_and(|answer| answer.status == 200));
    proxy
}

fn until_known(nodes: &[&Proxy], origins: usize) {
    wait_for("all nodes know all origins", LIMIT, || nodes.iter().all(|node| node.origins().len() == origins));
}

/// Two origins, registered through the first node.
fn origins(nodes: &[&Proxy]) -> [Nginx; 2] {
    let origins = [Nginx::start(), Nginx::start()];
    origins.iter().for_each(|origin| nodes[0].register(origin));
    until_known(nodes, 2);
    origins
}

fn publish(node: &Proxy, origins: &[Nginx], app: &str) -> (Process, usize) {
    let publisher = ffmpeg::publish(&node.url(&format!("{app}/stream")));
    let origin = wait_for_some(&format!("{app}/stream is on an origin"), LIMIT, || {
        origins.iter().position(|origin| origin.is_published(app, "stream"))
    });
    (publisher, origin)
}

/// Waits until the node answers with 200.
fn fetch(node: &Proxy, path: &str) -> Response {
    wait_for_some(&format!("{path} is there"), LIMIT, || {
        let answer = http::get(node.http(), path).unwrap();
        assert!(answer.status == 200 || answer.status == 404, "{path}: {answer:?}");
        (answer.status == 200).then_some(answer)
    })
}

/// The URIs of a playlist once it has so many.
fn segments(node: &Proxy, path: &str, least: usize) -> Vec<String> {
    wait_for_some(&format!("{path} has {least} segments"), LIMIT, || {
        let playlist = fetch(node, path);
        let lines = playlist.body.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        Some(lines.collect::<Vec<_>>()).filter(|uris| uris.len() >= least)
    })
}

/// The path of a segment, from its URI in the playlist at `path`.
fn resolve(path: &str, uri: &str) -> String {
    let (directory, _) = path.rsplit_once('/').unwrap();
    format!("{directory}/{uri}")
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap()
}

/// Panics unless a node plays three seconds of the stream.
fn plays(node: &Proxy, path: &str) {
    let url = format!("http://{}{path}", node.http());
    let mut last = String::new();
    // A manifest may name a segment that is just being replaced.
    wait_for(&format!("{url} plays"), 2 * LIMIT, || match ffmpeg::probe(&url) {
        Ok(Seen { video, audio, dimensions }) if video >= 15 && audio >= 40 => {
            assert_eq!(dimensions, "320x180", "{url}");
            true
        }
        other => {
            let now = format!("{other:?}");
            if now != last {
                eprintln!("{url}: {now}");
            }
            last = now;
            false
        }
    });
}

/// FLV, HLS and DASH, each through each of the nodes that did not take the publish.
fn all_formats_play(publish_through: &Proxy, nodes: &[&Proxy], origins: &[Nginx]) {
    let (_web, on) = publish(publish_through, origins, "web");
    let (_nested, _) = publish(publish_through, origins, "nested");
    let paths = [HLS, "/web/stream.mpd", "/nested/stream/index.m3u8", "/nested/stream/index.mpd"];
    for (n, path) in paths.iter().enumerate() {
        let node = nodes[n % nodes.len()];
        fetch(node, path);
        plays(node, path);
    }
    for node in nodes {
        assert_eq!(fetch(node, HLS).header("x-origin"), Some(origins[on].http().to_string().as_str()));
        let mut player = ffmpeg::play(&format!("http://{}/web/stream.flv", node.http()));
        player.wait_for_video(20).assert_is_part_of(&Recording::of_file(&media::sample()));
    }
}

/// Every URI of a playlist names the stream, and each segment is the origin's through each node.
fn segments_come_through_every_node(nodes: &[&Proxy], app: &str, path: &str, origin: &Nginx) {
    for uri in segments(nodes[0], path, 4) {
        assert!(uri.ends_with(&format!("?spstream=__defaultVhost__/{app}/stream")), "{path}: {uri}");
        let segment = resolve(path, &uri);
        let direct = http::get(origin.http(), without_query(&segment)).unwrap();
        assert!(direct.status == 200 && !direct.bytes.is_empty(), "{segment}: {direct:?}");
        for node in nodes {
            let answer = fetch(node, &segment);
            assert_eq!(answer.header("content-type"), Some("video/mp2t"));
            assert!(answer.bytes == direct.bytes, "{segment} is not what the origin has");
        }
    }
}

#[test]
fn one_node_plays_flv_hls_and_dash_and_serves_segments_after_a_restart() {
    let origin = [Nginx::start()];
    let node = Proxy::start_before(&[&origin[0]], &[]);
    all_formats_play(&node, &[&node], &origin);
    let _publishers = ["web", "nested"].map(|app| publish(&node, &origin, app));
    segments_come_through_every_node(&[&node], "web", HLS, &origin[0]);
    segments_come_through_every_node(&[&node], "nested", "/nested/stream/index.m3u8", &origin[0]);
    let uris = segments(&node, HLS, 3);
    drop(node);

    let node = Proxy::start_before(&[&origin[0]], &[]);
    for uri in &uris {
        assert!(!fetch(&node, &resolve(HLS, uri)).bytes.is_empty());
    }
}

#[test]
fn two_nodes_on_a_redis_play_what_the_other_took() {
    let redis = Redis::start();
    let (a, mut b) = (redis_node(&redis), redis_node(&redis));
    let origins = origins(&[&a, &b]);
    all_formats_play(&a, &[&b], &origins);

    let (_publisher, on) = publish(&a, &origins, "web");
    segments_come_through_every_node(&[&a, &b], "web", HLS, &origins[on]);
    let uris = segments(&b, HLS, 3);
    drop(b);
    b = redis_node(&redis);
    for (n, uri) in uris.iter().enumerate() {
        let answer = fetch([&a, &b][n % 2], &resolve(HLS, uri));
        assert_eq!(answer.header("x-origin"), Some(origins[on].http().to_string().as_str()));
    }

    // What a player holds that got its playlist from a Go proxy.
    let record = format!(r#"{{"spbhid":"abc","stream_url":"{KEY}","full_url":"http://h{HLS}"}}"#);
    redis.cli(&["SET", "srs-proxy-spbhid:abc", &record]);
    for (node, uri) in [&a, &b].into_iter().zip(&uris) {
        let segment = resolve(HLS, without_query(uri));
        let answer = fetch(node, &format!("{segment}?spbhid=abc&"));
        assert!(answer.bytes == http::get(origins[on].http(), &segment).unwrap().bytes);
    }
    assert_eq!(http::get(b.http(), "/web/stream-0.ts?spbhid=unknown").unwrap().status, 404);
}

#[test]
fn three_nodes_of_a_mesh_play_what_another_took() {
    let mut mesh = Mesh::start(3);
    let origins = origins(&mesh.running().collect::<Vec<_>>());
    all_formats_play(mesh.node(0), &[mesh.node(1), mesh.node(2)], &origins);

    let (_publisher, on) = publish(mesh.node(0), &origins, "web");
    segments_come_through_every_node(&mesh.running().collect::<Vec<_>>(), "web", HLS, &origins[on]);
    let uris = segments(mesh.node(1), HLS, 3);
    mesh.kill(1);
    mesh.start_node(1);
    wait_for("the node is ready again", LIMIT, || {
        http::get(mesh.node(1).api(), "/readyz").is_ok_and(|answer| answer.status == 200)
    });
    for (n, uri) in uris.iter().enumerate() {
        let answer = fetch(mesh.node(n % 3), &resolve(HLS, uri));
        assert_eq!(answer.header("x-origin"), Some(origins[on].http().to_string().as_str()));
    }
}

/// Fetches the playlist through each node until all have it from the origin; gives all statuses.
fn until_served_by(nodes: &[&Proxy], origin: &Nginx) -> Vec<u16> {
    let (mut statuses, start) = (Vec::new(), Instant::now());
    loop {
        let answers: Vec<_> = nodes.iter().map(|node| http::get(node.http(), HLS).unwrap()).collect();
        statuses.extend(answers.iter().map(|answer| answer.status));
        let at = origin.http().to_string();
        if answers.iter().all(|answer| answer.status == 200 && answer.header("x-origin") == Some(&at)) {
            return statuses;
        }
        assert!(start.elapsed() < LIMIT, "the playlist does not come from {at}: {answers:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An origin dies between two segments, and the encoder reconnects.
fn the_stream_goes_on_elsewhere(nodes: &[&Proxy], mut origins: [Nginx; 2]) {
    let (mut publisher, on) = publish(nodes[0], &origins, "web");
    let before = segments(nodes[0], HLS, 2);
    for node in nodes {
        fetch(node, &resolve(HLS, before.last().unwrap()));
    }
    origins[on].kill();
    publisher.wait_exit(LIMIT);
    // Nobody publishes: the other origin says that it has no such stream.
    for node in nodes {
        let status = http::get(node.http(), HLS).unwrap().status;
        assert!(matches!(status, 404 | 503), "{status}");
    }
    let other = &origins[1 - on];
    let (_publisher, _) = publish(nodes[0], &origins[1 - on..2 - on], "web");
    let statuses = until_served_by(nodes, other);
    assert!(statuses.iter().all(|status| matches!(status, 200 | 404)), "{statuses:?}");
    for (n, uri) in segments(nodes[nodes.len() - 1], HLS, 2).iter().enumerate() {
        let answer = fetch(nodes[n % nodes.len()], &resolve(HLS, uri));
        assert_eq!(answer.header("x-origin"), Some(other.http().to_string().as_str()));
    }
    plays(nodes[nodes.len() - 1], HLS);
}

#[test]
fn after_the_death_of_its_origin_a_playlist_comes_from_where_the_stream_now_is() {
    let node = Proxy::start();
    let nodes = [&node];
    the_stream_goes_on_elsewhere(&nodes, origins(&nodes));
}

#[test]
fn on_a_redis_too_a_playlist_follows_its_stream_through_every_node() {
    let redis = Redis::start();
    let (a, b) = (redis_node(&redis), redis_node(&redis));
    let nodes = [&a, &b];
    the_stream_goes_on_elsewhere(&nodes, origins(&nodes));
}

#[test]
fn in_a_mesh_too_a_playlist_follows_its_stream_through_every_node() {
    let mesh = Mesh::start(3);
    let nodes: Vec<_> = mesh.running().collect();
    the_stream_goes_on_elsewhere(&nodes, origins(&nodes));
}

fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
}

#[test]
fn a_live_stream_goes_on_through_the_grace_of_a_node_that_is_told_to_end() {
    let mut node = Proxy::start_with(&[("PROXY_GRACE_QUIT_TIMEOUT", "2s"), ("PROXY_FORCE_QUIT_TIMEOUT", "20s")]);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = origin.local_addr().unwrap().port();
    let heartbeat =
        format!(r#"{{"ip":"127.0.0.1","server":"live","service":"1","pid":"1","rtmp":["{port}"],"http":["{port}"]}}"#);
    assert_eq!(http::post(node.api(), "/api/v1/srs/register", &heartbeat).unwrap().status, 200);

    let mut client = TcpStream::connect(node.http()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"GET /live/stream.flv HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let (mut leg, _) = origin.accept().unwrap();
    leg.set_read_timeout(Some(LIMIT)).unwrap();
    read_until(&mut leg, b"\r\n\r\n");
    leg.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: video/x-flv\r\nConnection: close\r\n\r\nFLV").unwrap();
    read_until(&mut client, b"\r\n\r\nFLV");

    let told = Instant::now();
    node.terminate();
    wait_for("no more clients are taken", LIMIT, || TcpStream::connect(node.http()).is_err());
    leg.write_all(b"more").unwrap();
    let mut more = [0; 4];
    client.read_exact(&mut more).unwrap();
    assert_eq!(&more, b"more");
    assert_eq!(client.read(&mut more).unwrap_or(0), 0, "the stream goes on after the grace");
    assert!(told.elapsed() >= Duration::from_secs(2), "the stream ended before the grace did");
    assert_eq!(node.wait_exit(LIMIT).code(), Some(0));
}
