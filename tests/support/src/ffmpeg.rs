//! ffmpeg as publisher and player, with its own RTMP implementation.

use std::{env, ffi::OsString, net::SocketAddr, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{
    media::{self, Recording},
    ports::{free_port, is_listening},
    process::Process,
    wait::{LIMIT, wait_for},
};

/// The ffmpeg to use: `FFMPEG` if set, so that another version can be tried, else the system's.
pub fn program() -> OsString {
    env::var_os("FFMPEG").unwrap_or_else(|| "ffmpeg".into())
}

/// Publishes picture and sound, in real time and without end.
pub fn publish(url: &str) -> Process {
    publish_with(url, &media::sample(), &[])
}

/// As [`publish`], of a file's content and with further output options, such as `-an`.
pub fn publish_with(url: &str, file: &Path, options: &[&str]) -> Process {
    Process::spawn(format!("ffmpeg publishing {url}"), &send(url, file, options))
}

/// A running player that lists every packet it gets.
pub struct Player {
    /// ffmpeg itself.
    pub process: Process,
}

/// Plays without end, without decoding.
pub fn play(url: &str) -> Player {
    Player { process: Process::spawn(format!("ffmpeg playing {url}"), &receive(url, &[])) }
}

/// ffmpeg itself as an origin for one client. Unlike nginx-rtmp it takes any codec, and its list of
/// packets shows what arrived at the origin.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// ffmpeg itself.
    pub process: Process,
}

impl Origin {
    /// Waits for one publisher of `path` and lists every packet it gets.
    pub fn receiving(path: &str) -> (Player, SocketAddr) {
        let Self { address, process } = Self::start("receiving", path, |url| receive(url, &["-listen", "1"]));
        (Player { process }, address)
    }

    /// Waits for one player of `path` and sends it the file.
    pub fn sending(path: &str, file: &Path) -> Self {
        Self::start("sending", path, |url| send(url, file, &["-listen", "1"]))
    }

    fn start(does: &str, path: &str, command: impl Fn(&str) -> Command) -> Self {
        // A port can be taken between the choice and the bind.
        for _ in 0..10 {
            let address = free_port();
            let url = format!("rtmp://{address}/{path}");
            let mut process = Process::spawn(format!("ffmpeg {does} at {url}"), &command(&url));
            wait_for("ffmpeg listens or ends", LIMIT, || is_listening(address) || process.try_exit().is_some());
            if process.try_exit().is_none() {
                return Self { address, process };
            }
            assert!(process.stderr().contains("Address already in use"), "{}", process.stderr());
        }
        panic!("ffmpeg found no free port");
    }
}

fn send(url: &str, file: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "info", "-nostats", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(file).args(["-c", "copy"]).args(options);
    command.args(["-flvflags", "no_duration_filesize", "-f", "flv", url]);
    command
}

fn receive(url: &str, options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "info", "-nostats"]);
    // Start at once: the headers tell all that is needed.
    command.args(["-fpsprobesize", "0", "-analyzeduration", "1000000"]);
    command.args(options).args(["-i", url, "-map", "0:v?", "-map", "0:a?", "-c", "copy", "-copyts"]);
    command.args(["-flush_packets", "1", "-f", "framecrc", "-"]);
    command
}

impl Player {
    /// What has arrived so far.
    pub fn recording(&self) -> Recording {
        Recording::parse(&self.process.stdout())
    }

    /// Waits until so many video packets in all have arrived.
    pub fn wait_for_video(&mut self, packets: usize) -> Recording {
        self.wait_until(&format!("{packets} video packets"), |r| r.video.len() >= packets)
    }

    /// Waits until so many audio packets in all have arrived.
    pub fn wait_for_audio(&mut self, packets: usize) -> Recording {
        self.wait_until(&format!("{packets} audio packets"), |r| r.audio.len() >= packets)
    }

    /// Waits for a further second of video.
    pub fn wait_for_more(&mut self) {
        self.wait_for_video(self.recording().video.len() + 15);
    }

    /// Waits until what has arrived is enough.
    pub fn wait_until(&mut self, what: &str, enough: impl Fn(&Recording) -> bool) -> Recording {
        let mut recording = Recording::default();
        wait_for(what, LIMIT, || {
            recording = self.recording();
            let done = enough(&recording);
            if !done {
                self.process.assert_running();
            }
            done
        });
        recording
    }
}

/// What `ffprobe` saw of three seconds of a stream, decoded.
#[derive(Debug, Default)]
pub struct Seen {
    /// Pictures of H.264.
    pub video: u64,
    /// The size of the picture, such as `320x180`.
    pub dimensions: String,
    /// Frames of AAC.
    pub audio: u64,
}

/// Plays three seconds of a stream and decodes them.
pub fn probe(url: &str) -> Result<Seen, String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-read_intervals", "%+3", "-count_frames", "-show_entries"]);
    command.args(["stream=codec_name,width,height,nb_read_frames", "-of", "json", url]);
    let mut process = Process::spawn(format!("ffprobe of {url}"), &command);
    let status = process.wait_exit(LIMIT);
    let said = process.stderr();
    if !status.success() {
        return Err(said);
    }
    let list: Value = serde_json::from_str(&process.stdout()).map_err(|error| format!("{error}: {said}"))?;
    let mut seen = Seen::default();
    for stream in list["streams"].as_array().into_iter().flatten() {
        let frames = stream["nb_read_frames"].as_str().and_then(|frames| frames.parse().ok()).unwrap_or(0);
        if stream["codec_name"] == "h264" {
            seen.video += frames;
            seen.dimensions = format!("{}x{}", stream["width"], stream["height"]);
        } else if stream["codec_name"] == "aac" {
            seen.audio += frames;
        }
    }
    Ok(seen)
}

/// Waits until ffmpeg ends by itself and gives what it said; panics if it ends with success.
pub fn failure(mut process: Process, limit: Duration) -> String {
    let status = process.wait_exit(limit);
    let said = process.stderr();
    assert!(!status.success(), "ffmpeg was content:\n{said}");
    said
}
