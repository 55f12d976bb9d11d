//! `gst-launch-1.0` as publisher and player: `rtmp2sink` and `rtmp2src` have an RTMP implementation of
//! their own, `rtmpsink` is librtmp.

use std::process::Command;

use super::{media, process::Process, recorder::Recorder};

/// Publishes picture and sound in real time with `rtmp2sink`.
pub fn publish(url: &str) -> Process {
    publish_by("rtmp2sink", url)
}

/// Publishes picture and sound in real time with librtmp.
pub fn publish_by_librtmp(url: &str) -> Process {
    publish_by("rtmpsink", url)
}

fn publish_by(sink: &str, url: &str) -> Process {
    let source = format!("location={}", media::sample().display());
    let target = format!("location={url}");
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "filesrc", &source, "!", "flvdemux", "name=in"]);
    command.args(["flvmux", "name=out", "streamable=true", "!", "identity", "sync=true", "!", sink, &target]);
    command.args(["in.video", "!", "queue", "!", "h264parse", "!", "out.video"]);
    command.args(["in.audio", "!", "queue", "!", "aacparse", "!", "out.audio"]);
    Process::spawn(format!("{sink} publishing {url}"), &command)
}

/// Plays with `rtmp2src`.
pub fn play(url: &str) -> Recorder {
    Recorder::start(&format!("rtmp2src playing {url}"), |file| {
        let (source, target) = (format!("location={url}"), format!("location={file}"));
        let mut command = Command::new("gst-launch-1.0");
        command.args(["-q", "rtmp2src", &source, "!", "filesink", "buffer-mode=unbuffered", &target]);
        command
    })
}
