//! The WebRTC peers of the tests, without a proxy between them: what they prove elsewhere is worth
//! something only if it holds here.

use std::net::Ipv6Addr;

use srs_proxy_test_support::webrtc::{Client, Options, Origin};
use srs_proxy_test_support::{LIMIT, http, wait_for};

#[test]
fn what_is_published_arrives_at_every_player_whole_and_in_order() {
    let origin = Origin::start();
    let _publisher = Client::publish(origin.http(), "live/stream");
    origin.wait_until_published("live/stream");
    let players = [Client::play(origin.http(), "live/stream"), Client::play(origin.http(), "live/stream")];
    let other = Client::play(origin.http(), "live/other");
    players.iter().for_each(|player| player.wait_for_pictures(60).assert_complete());
    other.wait_until_connected();
    assert_eq!(other.received().pictures.len(), 0, "of a stream that nobody publishes");
    assert_eq!(origin.sessions().len(), 4);
}

#[test]
fn a_player_that_comes_first_gets_the_stream_from_its_first_picture() {
    let origin = Origin::start_on(Ipv6Addr::LOCALHOST.into());
    let options = Options { local: Ipv6Addr::LOCALHOST.into(), ..Options::default() };
    let player = Client::play_with(origin.http(), "live/stream", options);
    player.wait_until_connected();
    let _publisher = Client::publish_with(origin.http(), "live/stream", options);
    let received = player.wait_for_pictures(30);
    received.assert_complete();
    assert_eq!((received.pictures[0], received.sounds[0]), (0, 0));
}

#[test]
fn a_session_ends_by_delete_and_only_with_its_token() {
    let origin = Origin::start();
    let publisher = Client::publish(origin.http(), "live/stream");
    origin.wait_until_published("live/stream");
    let location = publisher.signalled.location.clone().expect("a Location");
    let (before, _) = location.split_once("&token=").expect("a token");
    let (_, after) = location.split_once("&app=").expect("an app");
    let forged = format!("{before}&token=wrong&app={after}");
    assert_eq!(http::send(origin.http(), "DELETE", &forged, "", "").unwrap().status, 400);
    assert!(origin.publisher("live/stream").is_some());
    assert_eq!(publisher.delete(), 200);
    assert_eq!(origin.sessions(), []);
}

#[test]
fn clients_that_move_go_on_and_one_that_falls_silent_does_not() {
    let origin = Origin::start();
    let publisher = Client::publish(origin.http(), "live/stream");
    origin.wait_until_published("live/stream");
    let player = Client::play(origin.http(), "live/stream");
    player.wait_for_pictures(10);
    let source = || origin.publisher("live/stream").expect("a publisher").source;
    let before = source();
    assert_eq!(before, publisher.local());
    publisher.move_to_another_port();
    wait_for("the origin sees the new address", LIMIT, || source() == publisher.local());
    assert_ne!(source(), before);
    player.move_to_another_port();
    player.wait_for_more();
    player.received().assert_in_order();
    publisher.fall_silent();
    let (mut packets, mut turns) = (0, 0);
    wait_for("packets stop", LIMIT, || {
        let now = origin.publisher("live/stream").expect("a publisher").packets;
        turns = if now == packets { turns + 1 } else { 0 };
        packets = now;
        turns > 30
    });
}
