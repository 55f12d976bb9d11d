//! With an origin that keeps every frame, publishers and players lose and change none.

use std::path::Path;

use srs_proxy_test_support::{
    Proxy,
    ffmpeg::{self, Origin},
    media::{self, Recording},
};

fn publisher_reaches_the_origin(file: &Path, codecs: [&str; 2]) {
    let (mut origin, address) = Origin::receiving("live/stream");
    let proxy = Proxy::start();
    proxy.register_address(address);
    let _publisher = ffmpeg::publish_with(&proxy.url("live/stream"), file, &[]);
    assert_whole(&origin.wait_for_video(20), file, codecs);
}

fn player_gets_what_the_origin_sends(file: &Path, codecs: [&str; 2]) {
    let origin = Origin::sending("live/stream", file);
    let proxy = Proxy::start();
    proxy.register_address(origin.address);
    let mut player = ffmpeg::play(&proxy.url("live/stream"));
    assert_whole(&player.wait_for_video(20), file, codecs);
}

/// From the very first packet on, times included.
fn assert_whole(received: &Recording, file: &Path, codecs: [&str; 2]) {
    let sent = Recording::of_file(file);
    assert_eq!(received.codecs, codecs);
    assert_eq!(received.dimensions.as_deref(), Some("320x180"));
    assert_eq!(received.video, sent.video[..received.video.len()]);
    assert_eq!(received.audio, sent.audio[..received.audio.len()]);
}

#[test]
fn h264_and_aac_reach_the_origin_whole() {
    publisher_reaches_the_origin(&media::sample(), ["h264", "aac"]);
}

#[test]
fn h264_and_aac_reach_the_player_whole() {
    player_gets_what_the_origin_sends(&media::sample(), ["h264", "aac"]);
}

/// The sample in HEVC, unless this ffmpeg is too old for Enhanced RTMP.
fn hevc_sample() -> Option<std::path::PathBuf> {
    let sample = media::hevc_sample();
    if sample.is_none() {
        eprintln!("skipped: this ffmpeg cannot put HEVC into FLV (set FFMPEG to the path of version 6.1 or later)");
    }
    sample
}

#[test]
fn hevc_by_enhanced_rtmp_reaches_the_origin_whole() {
    if let Some(file) = hevc_sample() {
        publisher_reaches_the_origin(&file, ["hevc", "aac"]);
    }
}

#[test]
fn hevc_by_enhanced_rtmp_reaches_the_player_whole() {
    if let Some(file) = hevc_sample() {
        player_gets_what_the_origin_sends(&file, ["hevc", "aac"]);
    }
}
