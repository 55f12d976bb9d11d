//! Every kind of client publishes and plays through the proxy, and what comes out is byte for byte
//! what went in.

use srs_proxy_test_support::{
    LIMIT, Nginx, Process, Proxy, ffmpeg, gstreamer,
    media::{self, Recording},
    rtmpdump, wait_for,
};

fn plays_everywhere_what_it_publishes(publish: impl Fn(&str) -> Process) {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/stream");
    let _publisher = publish(&url);
    origin.wait_until_published("live", "stream");

    let (mut ffmpeg, gstreamer, rtmpdump) = (ffmpeg::play(&url), gstreamer::play(&url), rtmpdump::play(&url));
    for played in [ffmpeg.wait_for_video(20), gstreamer.finish_with_video(20), rtmpdump.finish_with_video(20)] {
        assert_eq!(played.codecs, ["h264", "aac"]);
        assert_eq!(played.dimensions.as_deref(), Some("320x180"));
        assert!(played.audio.len() > 20, "{played:?}");
        played.assert_is_part_of(&sample);
    }
}

#[test]
fn ffmpeg_publishes_and_all_players_play() {
    plays_everywhere_what_it_publishes(ffmpeg::publish);
}

#[test]
fn gstreamer_publishes_and_all_players_play() {
    plays_everywhere_what_it_publishes(gstreamer::publish);
}

#[test]
fn librtmp_publishes_and_all_players_play() {
    plays_everywhere_what_it_publishes(gstreamer::publish_by_librtmp);
}

#[test]
fn many_players_share_one_publisher() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/shared");
    let _publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live", "shared");

    let mut players: Vec<_> = (0..8).map(|_| ffmpeg::play(&url)).collect();
    for player in &mut players {
        player.wait_for_video(20).assert_is_part_of(&sample);
    }
}

/// nginx-rtmp overruns its buffer if a chunk size shrinks amid what it reads at once: ffmpeg announces
/// the size that it was told, so it must not be told a large one before the origin's smaller one.
#[test]
fn many_publishers_at_once_all_go_on() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let mut publishers: Vec<_> = (0..12).map(|n| ffmpeg::publish(&proxy.url(&format!("live/many-{n}")))).collect();
    wait_for("all publishers have sent a second of video", LIMIT, || {
        publishers.iter_mut().for_each(Process::assert_running);
        let sessions = proxy.sessions();
        sessions.iter().filter(|s| s["bytes_from_client"].as_u64() > Some(60_000)).count() == publishers.len()
    });
}

#[test]
fn a_player_that_comes_before_the_publisher_gets_the_stream_from_its_start() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/later");
    let mut receiver = ffmpeg::play(&url);
    origin.wait_until_played("live", "later");

    let _publisher = ffmpeg::publish(&url);
    let start = receiver.wait_for_video(20).assert_is_part_of(&sample);
    assert_eq!(start, (0, 0), "the first frames are missing");
}
