//! What happens to streams when one of two origins dies, freezes or comes back.

use std::time::{Duration, Instant};

use srs_proxy_test_support::{
    LIMIT, Nginx, Proxy, ffmpeg,
    media::{self, Recording},
    wait_for, wait_for_some,
};

/// Waits until one of the origins has the stream; gives its index.
fn wait_for_place(origins: &[&Nginx], name: &str) -> usize {
    wait_for_some(&format!("live/{name} is on an origin"), LIMIT, || {
        origins.iter().position(|origin| origin.is_published("live", name))
    })
}

#[test]
fn streams_of_a_killed_origin_come_back_on_the_other_at_once() {
    let mut origins = [Nginx::start(), Nginx::start()];
    let proxy = Proxy::start_before(&[&origins[0], &origins[1]], &[]);
    let url = proxy.url("live/stream");
    let mut publisher = ffmpeg::publish(&url);
    let first = wait_for_place(&[&origins[0], &origins[1]], "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);

    origins[first].kill();
    publisher.wait_exit(LIMIT);
    player.process.wait_exit(LIMIT);

    let other = &origins[1 - first];
    let start = Instant::now();
    let _publisher = ffmpeg::publish(&url);
    other.wait_until_published("live", "stream");
    let mut player = ffmpeg::play(&url);
    player.wait_for_video(5);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(3), "it took {took:?} to come back");
    player.wait_for_video(20).assert_is_part_of(&Recording::of_file(&media::sample()));
    assert_eq!(proxy.origin_state(&origins[first].id()).as_deref(), Some("suspect"));
}

#[test]
fn fresh_streams_all_succeed_while_one_origin_is_dead() {
    let mut dead = Nginx::start();
    let alive = Nginx::start();
    let proxy = Proxy::start_before(&[&dead, &alive], &[]);
    dead.kill();
    let _publishers: Vec<_> = (0..6).map(|n| ffmpeg::publish(&proxy.url(&format!("live/fresh-{n}")))).collect();
    for n in 0..6 {
        alive.wait_until_published("live", &format!("fresh-{n}"));
    }
}

#[test]
fn a_frozen_origin_harms_nobody_but_its_own_clients() {
    let origins = [Nginx::start(), Nginx::start()];
    let both = [&origins[0], &origins[1]];
    let proxy = Proxy::start_before(&both, &[("PROXY_ORIGIN_ANSWER_TIMEOUT", "1s")]);
    let mut publishers = vec![ffmpeg::publish(&proxy.url("live/old"))];
    let frozen = wait_for_place(&both, "old");
    publishers.push(ffmpeg::publish(&proxy.url("live/untouched")));
    let alive = wait_for_place(&both, "untouched");
    assert_ne!(frozen, alive, "two streams were not spread over two origins");
    let mut player = ffmpeg::play(&proxy.url("live/untouched"));
    let before = player.wait_for_video(15).video.len();

    origins[frozen].freeze();
    let start = Instant::now();
    for n in 0..6 {
        publishers.push(ffmpeg::publish(&proxy.url(&format!("live/fresh-{n}"))));
    }
    for n in 0..6 {
        origins[alive].wait_until_published("live", &format!("fresh-{n}"));
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "fresh streams took {took:?}");

    // The stream that was on the frozen origin comes back on the other, too.
    publishers[0].kill();
    publishers.push(ffmpeg::publish(&proxy.url("live/old")));
    origins[alive].wait_until_published("live", "old");

    let seconds = start.elapsed().as_secs_f64();
    let recording = player.recording();
    let frames = (recording.video.len() - before) as f64;
    assert!(frames > 15.0 * (seconds - 1.0), "{frames} frames in {seconds:.1} s on the other origin");
    recording.assert_is_part_of(&Recording::of_file(&media::sample()));
    origins[frozen].thaw();
}

#[test]
fn an_origin_that_was_restarted_serves_again() {
    let mut origins = [Nginx::start(), Nginx::start()];
    let proxy = Proxy::start_before(&[&origins[0], &origins[1]], &[]);
    let url = proxy.url("live/before");
    let mut publisher = ffmpeg::publish(&url);
    let place = wait_for_place(&[&origins[0], &origins[1]], "before");
    let old_id = origins[place].id();
    origins[place].kill();
    publisher.wait_exit(LIMIT);
    let _elsewhere = ffmpeg::publish(&url);
    origins[1 - place].wait_until_published("live", "before");

    origins[place].restart();
    proxy.register(&origins[place]);
    assert_eq!(proxy.origin_state(&old_id), None, "the restarted origin is listed beside its old self");
    assert_eq!(proxy.origin_state(&origins[place].id()).as_deref(), Some("live"));

    // The other origin has a stream, so this one is the less loaded.
    let url = proxy.url("live/after");
    let _publisher = ffmpeg::publish(&url);
    origins[place].wait_until_published("live", "after");
    ffmpeg::play(&url).wait_for_video(5);
    assert!(origins[1 - place].is_published("live", "before"), "the return moved a running stream");
}

#[test]
fn a_thawed_origin_serves_again() {
    let origins = [Nginx::start(), Nginx::start()];
    let both = [&origins[0], &origins[1]];
    let settings = [("PROXY_ORIGIN_ANSWER_TIMEOUT", "1s")];
    let proxy = Proxy::start_before(&both, &settings);
    origins[0].freeze();
    // Until one of them has met the frozen origin.
    let mut publishers = Vec::new();
    for n in 0..2 {
        publishers.push(ffmpeg::publish(&proxy.url(&format!("live/meanwhile-{n}"))));
        origins[1].wait_until_published("live", &format!("meanwhile-{n}"));
    }
    assert_eq!(proxy.origin_state(&origins[0].id()).as_deref(), Some("suspect"));

    origins[0].thaw();
    proxy.register(&origins[0]);
    wait_for("the heartbeat clears the origin", LIMIT, || {
        proxy.origin_state(&origins[0].id()).as_deref() == Some("live")
    });
    publishers.push(ffmpeg::publish(&proxy.url("live/after")));
    origins[0].wait_until_published("live", "after");
}
