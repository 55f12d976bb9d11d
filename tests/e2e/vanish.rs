//! When one side is gone, so is the other.

use std::time::Duration;

use srs_proxy_test_support::{LIMIT, Nginx, Proxy, ffmpeg, wait_for};

/// The most that a side may take to learn that the other one has vanished.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn the_origin_learns_within_a_second_that_a_publisher_vanished() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let mut publisher = ffmpeg::publish(&proxy.url("live/stream"));
    origin.wait_until_published("live", "stream");

    publisher.kill();
    wait_for("the publisher is gone from the origin", SOON, || !origin.is_published("live", "stream"));
    wait_for("the session is gone from the proxy", SOON, || proxy.sessions().is_empty());
}

#[test]
fn the_origin_learns_within_a_second_that_a_player_vanished() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let url = proxy.url("live/stream");
    let _publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live", "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);

    player.process.kill();
    let clients = || origin.stream("live", "stream").map_or(0, |s| s.clients);
    wait_for("the player is gone from the origin", SOON, || clients() == 1);
    assert!(origin.is_published("live", "stream"), "the publisher went with the player");
}

#[test]
fn clients_learn_within_a_second_that_their_origin_vanished() {
    let mut origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let url = proxy.url("live/stream");
    let mut publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live", "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);

    origin.kill();
    wait_for("the sessions are gone from the proxy", SOON, || proxy.sessions().is_empty());
    // The end of a live stream is no error to a player.
    player.process.wait_exit(LIMIT);
    assert!(!publisher.wait_exit(LIMIT).success());
}
