//! libsrt at both ends: ffmpeg, `srt-live-transmit` and GStreamer as callers and, in the place of an
//! origin, as listeners.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
};

use serde_json::json;

use super::{
    binary::temporary_directory,
    ffmpeg::{self, Player},
    media,
    ports::free_port,
    process::Process,
    recorder::Recorder,
    wait::{LIMIT, wait_for},
};

/// What an end asks for beside its stream id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    pub passphrase: Option<&'a str>,
    /// In milliseconds.
    pub latency: Option<u32>,
    /// The port that a caller takes, if not any. Only `srt-live-transmit` can.
    pub port: Option<u16>,
}

/// [`media::sample`] as an MPEG transport stream, as SRT usually carries it.
pub fn sample() -> PathBuf {
    let dir = &temporary_directory();
    let path = dir.join("sample-h264-aac.ts");
    if !path.exists() {
        let unfinished = tempfile::Builder::new().suffix(".ts").tempfile_in(dir).unwrap().into_temp_path();
        let mut command = Command::new(ffmpeg::program());
        command.args(["-v", "error", "-y", "-i"]).arg(media::sample());
        let status = command.args(["-c", "copy", "-f", "mpegts"]).arg(&unfinished).status().unwrap();
        assert!(status.success(), "{status}");
        // Tests in other processes may have done the same; either file is as good.
        fs::rename(&unfinished, &path).unwrap();
    }
    path
}

/// A listener in the place of an origin.
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    pub process: Process,
    name: String,
}

impl Listener {
    /// Takes one publisher, and lists every packet that it gets and its stream id.
    pub fn receiving(settings: Settings<'_>) -> Self {
        Self::start("ffmpeg", |address| {
            let mut command = Command::new(ffmpeg::program());
            command.args(["-hide_banner", "-nostdin", "-loglevel", "verbose", "-nostats"]);
            command.args(["-fpsprobesize", "0", "-analyzeduration", "1000000"]);
            command.args(["-i", &url(address, Some("listener"), settings, MICROSECONDS)]);
            command.args(["-map", "0:v?", "-map", "0:a?", "-c", "copy", "-copyts"]);
            command.args(["-flush_packets", "1", "-f", "framecrc", "-"]);
            command
        })
    }

    /// Takes one player, and sends it the sample in real time.
    pub fn sending(settings: Settings<'_>) -> Self {
        Self::start("ffmpeg", |address| {
            let mut command = source();
            command.args(["-f", "mpegts", &url(address, Some("listener"), settings, MICROSECONDS)]);
            command
        })
    }

    /// Takes any number of players, and sends them the sample in real time.
    pub fn serving(settings: Settings<'_>) -> Self {
        Self::start("gst-launch-1.0", |address| {
            let mut command = Command::new("sh");
            command.args(["-c", r#"exec 3<&0; "$@" | exec gst-launch-1.0 -q fdsrc fd=0 ! srtsink "uri=$SINK" wait-for-connection=false sync=false async=false"#, "sh"]);
            let source = source();
            command.arg(source.get_program()).args(source.get_args()).args(["-f", "mpegts", "-"]);
            command.env("SINK", url(address, Some("listener"), settings, MILLISECONDS));
            command
        })
    }

    fn start(program: &str, command: impl Fn(SocketAddr) -> Command) -> Self {
        // A port can be taken between the choice and the bind.
        for _ in 0..10 {
            let address = free();
            let mut process = Process::spawn(format!("{program} at {address}"), &command(address));
            wait_for(&format!("{program} listens or ends"), LIMIT, || {
                is_bound(address) || process.try_exit().is_some()
            });
            if process.try_exit().is_none() {
                let name = format!("srt-{}-{}", std::process::id(), address.port());
                return Self { address, process, name };
            }
        }
        panic!("{program} found no free port");
    }

    /// The heartbeat that SRS would send in its place. Nobody speaks RTMP there.
    pub fn heartbeat(&self) -> String {
        let (ip, port) = (self.address.ip().to_string(), self.address.port());
        json!({
            "ip": ip, "server": self.name, "service": "run", "pid": "1",
            "rtmp": [port.to_string()], "srt": [format!("udp://0.0.0.0:{port}")],
        })
        .to_string()
    }

    /// The id by which the proxy knows it.
    pub fn id(&self) -> String {
        format!("{}-run-1", self.name)
    }

    /// The stream id of the publisher that [`Self::receiving`] has taken.
    pub fn stream_id(&self) -> Option<String> {
        let said = self.process.stderr();
        let (_, rest) = said.split_once("accept streamid [")?;
        Some(rest.split_once("], length")?.0.to_owned())
    }

    /// As a player of what [`Self::receiving`] gets.
    pub fn into_player(self) -> Player {
        Player { process: self.process }
    }
}

/// Publishes the sample with ffmpeg, in real time and without end.
pub fn publish(to: SocketAddr, stream_id: &str, settings: Settings<'_>) -> Process {
    let mut command = source();
    command.args(["-f", "mpegts", "-srt_streamid", stream_id, &url(to, None, settings, MICROSECONDS)]);
    Process::spawn(format!("ffmpeg publishing {stream_id}"), &command)
}

/// Plays with ffmpeg, without decoding.
pub fn play(from: SocketAddr, stream_id: &str, settings: Settings<'_>) -> Player {
    let mut command = Command::new(ffmpeg::program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "info", "-nostats"]);
    command.args(["-fpsprobesize", "0", "-analyzeduration", "1000000", "-srt_streamid", stream_id]);
    command.args(["-i", &url(from, None, settings, MICROSECONDS), "-map", "0:v?", "-map", "0:a?", "-c", "copy"]);
    command.args(["-copyts", "-flush_packets", "1", "-f", "framecrc", "-"]);
    Player { process: Process::spawn(format!("ffmpeg playing {stream_id}"), &command) }
}

/// Publishes the sample with `srt-live-transmit`.
pub fn transmit(to: SocketAddr, stream_id: &str, settings: Settings<'_>) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", r#""$@" | exec srt-live-transmit -a:no -chunk:1316 file://con "$TARGET""#, "sh"]);
    let source = source();
    command.arg(source.get_program()).args(source.get_args()).args(["-f", "mpegts", "-"]);
    command.env("TARGET", with_stream_id(to, stream_id, settings));
    Process::spawn(format!("srt-live-transmit publishing {stream_id}"), &command)
}

/// Plays with `srt-live-transmit` into a file.
pub fn record(from: SocketAddr, stream_id: &str, settings: Settings<'_>) -> Recorder {
    Recorder::start(&format!("srt-live-transmit playing {stream_id}"), |file| {
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec srt-live-transmit -a:no "$SOURCE" file://con >"$FILE""#]);
        command.env("SOURCE", with_stream_id(from, stream_id, settings)).env("FILE", file);
        command
    })
}

/// Many players in one process that throw away what they get.
pub fn crowd(from: SocketAddr, stream_ids: &[String]) -> Process {
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q");
    for id in stream_ids {
        let uri = format!("uri={}", url(from, None, Settings::default(), MILLISECONDS));
        command.args(["srtsrc", &uri, &format!("streamid={id}"), "!", "fakesink", "sync=false", "async=false"]);
    }
    Process::spawn("a crowd of players", &command)
}

/// The reason that a refused caller was given. Panics if it was served, or had to find out by itself
/// that nobody answers.
pub fn refused(mut caller: Process) -> String {
    // `srt-live-transmit` calls this a success.
    caller.wait_exit(LIMIT);
    let said = caller.stderr();
    let reason = said.split_once("REJECT reported from HS processing: ").and_then(|(_, rest)| rest.split_once(" - "));
    reason.unwrap_or_else(|| panic!("no refusal:\n{said}")).0.to_owned()
}

/// Units of the latency in URLs: of ffmpeg, and of everybody else.
const MICROSECONDS: u32 = 1000;
const MILLISECONDS: u32 = 1;

fn source() -> Command {
    let mut command = Command::new(ffmpeg::program());
    command.args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-nostats", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(sample()).args(["-c", "copy"]);
    command
}

fn url(address: SocketAddr, mode: Option<&str>, settings: Settings<'_>, unit: u32) -> String {
    let mut url = format!("srt://{address}?mode={}", mode.unwrap_or("caller"));
    let latency = settings.latency.map(|latency| (latency * unit).to_string());
    let port = settings.port.map(|port| port.to_string());
    for (name, value) in
        [("passphrase", settings.passphrase), ("latency", latency.as_deref()), ("port", port.as_deref())]
    {
        url += &value.map_or_else(String::new, |value| format!("&{name}={value}"));
    }
    url
}

fn with_stream_id(address: SocketAddr, stream_id: &str, settings: Settings<'_>) -> String {
    format!("{}&streamid={stream_id}", url(address, None, settings, MILLISECONDS))
}

/// A port that UDP does not use. Somebody may take it before it is used: try again then.
pub fn free() -> SocketAddr {
    loop {
        let free = free_port();
        if UdpSocket::bind(free).is_ok() {
            return free;
        }
    }
}

/// Whether somebody has bound an address of 127.0.0.1 for UDP.
pub fn is_bound(address: SocketAddr) -> bool {
    assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
    let local = format!("0100007F:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(&local))
}
