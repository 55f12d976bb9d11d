//! Streams that are not simply H.264 with AAC from time zero, through nginx-rtmp.

use srs_proxy_test_support::{
    Nginx, Proxy, ffmpeg,
    media::{self, Recording},
};

#[test]
fn a_stream_of_sound_alone_plays() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/radio");
    let _publisher = ffmpeg::publish_with(&url, &media::sample(), &["-vn"]);
    origin.wait_until_published("live", "radio");

    let played = ffmpeg::play(&url).wait_for_audio(60);
    assert_eq!(played.codecs, ["aac"]);
    played.assert_is_part_of(&sample);
}

#[test]
fn a_stream_of_picture_alone_plays() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/silent");
    let _publisher = ffmpeg::publish_with(&url, &media::sample(), &["-an"]);
    origin.wait_until_published("live", "silent");

    let played = ffmpeg::play(&url).wait_for_video(20);
    assert_eq!(played.codecs, ["h264"]);
    played.assert_is_part_of(&sample);
}

/// From 0xFFFFFF ms (4 h 39 min) on, each chunk header carries the extended timestamp.
fn timestamps_survive(offset_ms: i64, last_ms: i64) {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let sample = Recording::of_file(&media::sample());
    let url = proxy.url("live/long");
    let mut receiver = ffmpeg::play(&url);
    origin.wait_until_played("live", "long");
    let offset = format!("{offset_ms}ms");
    let _publisher = ffmpeg::publish_with(&url, &media::sample(), &["-output_ts_offset", &offset]);

    let played = receiver.wait_until("the last timestamp", |r| r.video.last().is_some_and(|p| p.dts > last_ms));
    let (video, audio) = played.assert_is_part_of(&sample);
    for (played, sent) in [(&played.video, &sample.video[video..]), (&played.audio, &sample.audio[audio..])] {
        assert!(sent.len() > played.len(), "the sample is too short");
        for (played, sent) in played.iter().zip(sent) {
            assert_eq!(played.dts, sent.dts + offset_ms);
        }
    }
}

#[test]
fn timestamps_pass_the_limit_of_three_bytes_amid_a_stream() {
    timestamps_survive(0xFF_FFFF - 1000, 0xFF_FFFF + 1000);
}

#[test]
fn timestamps_beyond_the_limit_of_three_bytes_arrive_as_they_were_sent() {
    timestamps_survive(100_000_000, 100_001_000);
}
