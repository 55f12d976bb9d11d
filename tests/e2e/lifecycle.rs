//! The end of the process while clients are connected.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use srs_proxy_test_support::{LIMIT, Nginx, Proxy, ffmpeg, http, wait_for};

#[test]
fn sessions_go_on_after_sigterm_until_the_grace_timeout() {
    let grace = Duration::from_secs(3);
    let origin = Nginx::start();
    let settings = [("PROXY_GRACE_QUIT_TIMEOUT", "3s"), ("PROXY_FORCE_QUIT_TIMEOUT", "10s")];
    let mut proxy = Proxy::start_before(&[&origin], &settings);
    let url = proxy.url("live/stream");
    let mut publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live", "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);

    let start = Instant::now();
    proxy.terminate();
    wait_for("no new connection is accepted", Duration::from_secs(1), || TcpStream::connect(proxy.rtmp()).is_err());
    let ready = http::get(proxy.api(), "/readyz");
    assert!(ready.as_ref().map_or(true, |answer| answer.status == 503), "{ready:?}");
    player.wait_for_more();
    publisher.assert_running();
    player.process.assert_running();
    assert!(start.elapsed() < grace, "the machine is too slow to tell");

    let status = proxy.wait_exit(LIMIT);
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took >= grace && took < grace + Duration::from_secs(2), "it ended after {took:?}");
    player.process.wait_exit(LIMIT);
    assert!(!publisher.wait_exit(LIMIT).success());
    wait_for("the stream is gone from the origin", LIMIT, || origin.stream("live", "stream").is_none());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let origin = Nginx::start();
    let mut proxy = Proxy::start_before(&[&origin], &[]);
    let _publisher = ffmpeg::publish(&proxy.url("live/stream"));
    origin.wait_until_published("live", "stream");

    proxy.terminate();
    wait_for("no new connection is accepted", LIMIT, || TcpStream::connect(proxy.rtmp()).is_err());
    proxy.process.assert_running();
    let start = Instant::now();
    proxy.terminate();
    proxy.wait_exit(LIMIT);
    assert!(start.elapsed() < Duration::from_secs(1), "it ended after {:?}", start.elapsed());
}
