//! rtmpdump, which is librtmp, as player.

use std::process::Command;

use super::recorder::Recorder;

/// Plays a live stream.
pub fn play(url: &str) -> Recorder {
    Recorder::start(&format!("rtmpdump playing {url}"), |file| {
        let mut command = Command::new("rtmpdump");
        command.args(["--live", "--rtmp", url, "--flv", file]);
        command
    })
}
