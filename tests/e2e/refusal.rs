//! A client that cannot be served is told so, at once.

use std::time::Duration;

use srs_proxy_test_support::{Nginx, Process, Proxy, ffmpeg, process::timed};

/// Longer than any of these takes, shorter than any of the proxy's limits.
const PROMPT: Duration = Duration::from_secs(3);

/// What ffmpeg says if the server refuses with a status, rather than by closing.
const STATUS: &str = "Server error:";

fn fails_promptly(process: Process) -> String {
    ffmpeg::failure(process, PROMPT)
}

#[test]
fn a_second_publisher_sees_the_origins_own_words() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let url = proxy.url("live/busy");
    let mut first = ffmpeg::publish(&url);
    origin.wait_until_published("live", "busy");

    let said = fails_promptly(ffmpeg::publish(&url));
    assert!(said.contains("Server error: Already publishing"), "{said}");
    first.assert_running();
    assert!(origin.is_published("live", "busy"));
}

#[test]
fn a_player_of_a_missing_stream_sees_the_origins_own_words() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let said = fails_promptly(ffmpeg::play(&proxy.url("strict/missing")).process);
    assert!(said.contains("Server error: No such stream"), "{said}");
}

#[test]
fn a_publisher_that_the_origin_drops_is_dropped() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    fails_promptly(ffmpeg::publish(&proxy.url("no-publish/stream")));
}

#[test]
fn an_app_that_the_origin_does_not_know_is_refused() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    fails_promptly(ffmpeg::publish(&proxy.url("unknown/stream")));
    fails_promptly(ffmpeg::play(&proxy.url("unknown/stream")).process);
}

#[test]
fn without_an_origin_clients_are_refused_with_a_status() {
    let proxy = Proxy::start();
    let url = proxy.url("live/stream");
    for client in [ffmpeg::publish(&url), ffmpeg::play(&url).process] {
        let said = fails_promptly(client);
        assert!(said.contains(STATUS), "{said}");
    }
}

#[test]
fn with_dead_origins_only_clients_are_refused_with_a_status() {
    let (mut one, mut other) = (Nginx::start(), Nginx::start());
    let proxy = Proxy::start_before(&[&one, &other], &[]);
    one.kill();
    other.kill();
    let url = proxy.url("live/stream");
    for client in [ffmpeg::publish(&url), ffmpeg::play(&url).process] {
        let (said, took) = timed(|| fails_promptly(client));
        assert!(said.contains(STATUS), "after {took:?}: {said}");
    }
}
