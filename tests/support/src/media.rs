//! The picture and sound that all tests send, and what a player saw of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{binary::temporary_directory, ffmpeg};

/// Seconds of picture and sound in [`sample`]; publishers loop it.
const SECONDS: &str = "10";

/// An FLV file with 320x180 H.264 at 15 frames a second, a key frame every 8, and AAC. Encoded once
/// for all tests; publishers then only copy, so that many can run at once.
pub fn sample() -> PathBuf {
    encoded("sample-h264-aac.flv", &["-c:v", "libx264", "-preset", "ultrafast"])
}

/// As [`sample`], in HEVC by Enhanced RTMP; none if this ffmpeg cannot put HEVC into FLV.
pub fn hevc_sample() -> Option<PathBuf> {
    let probe = Command::new(ffmpeg::program())
        .args(["-v", "quiet", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=15", "-frames:v", "1"])
        .args(["-c:v", "libx265", "-x265-params", "log-level=none", "-f", "flv", "-y", "/dev/null"])
        .status();
    probe
        .is_ok_and(|status| status.success())
        .then(|| encoded("sample-hevc-aac.flv", &["-c:v", "libx265", "-preset", "ultrafast"]))
}

fn encoded(name: &str, video: &[&str]) -> PathBuf {
    let dir = &temporary_directory();
    let path = dir.join(name);
    if path.exists() {
        return path;
    }
    let unfinished = tempfile::Builder::new().suffix(".flv").tempfile_in(dir).unwrap().into_temp_path();
    let output = Command::new(ffmpeg::program())
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=15"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-t", SECONDS])
        .args(video)
        .args(["-g", "8"])
        .args(["-threads", "1", "-pix_fmt", "yuv420p", "-bf", "0", "-c:a", "aac", "-b:a", "32k"])
        .args(["-flvflags", "no_duration_filesize", "-f", "flv"])
        .arg(&unfinished)
        .output()
        .expect("ffmpeg; tests/run.sh installs what the tests need");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Tests in other processes may have done the same; either file is as good.
    fs::rename(&unfinished, &path).unwrap();
    path
}

/// One packet as it came out of the demuxer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Decoding time in milliseconds.
    pub dts: i64,
    /// Size and checksum of the payload.
    pub content: String,
}

/// What came out of a demuxer, as ffmpeg's `framecrc` lists it.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// Codec names, such as `h264` and `aac`, in the order of the streams.
    pub codecs: Vec<String>,
    /// The size of the picture, such as `320x180`.
    pub dimensions: Option<String>,
    /// Video packets.
    pub video: Vec<Packet>,
    /// Audio packets.
    pub audio: Vec<Packet>,
}

impl Recording {
    /// Reads the list; a line that is not complete yet is left out.
    pub fn parse(list: &str) -> Self {
        let mut recording = Self::default();
        let mut audio = Vec::new();
        let complete = list.rfind('\n').map_or("", |end| &list[..end]);
        for line in complete.lines() {
            if let Some(header) = line.strip_prefix('#') {
                let Some((key, value)) = header.split_once(": ") else { continue };
                match key.split_once(' ') {
                    Some(("media_type", stream)) if value == "audio" => audio.push(stream.to_owned()),
                    Some(("codec_id", _)) => recording.codecs.push(value.to_owned()),
                    Some(("dimensions", _)) => recording.dimensions = Some(value.to_owned()),
                    _ => {}
                }
                continue;
            }
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let [stream, dts, _pts, _duration, size, crc, ..] = fields[..] else { panic!("framecrc line: {line}") };
            let packet = Packet { dts: dts.parse().unwrap(), content: format!("{size} {crc}") };
            let packets = if audio.iter().any(|a| a == stream) { &mut recording.audio } else { &mut recording.video };
            packets.push(packet);
        }
        recording
    }

    /// What is in a file, without decoding it.
    pub fn of_file(path: &Path) -> Self {
        let output = Command::new(ffmpeg::program())
            .args(["-v", "error", "-i"])
            .arg(path)
            .args(["-c", "copy", "-copyts", "-f", "framecrc", "-"])
            .output()
            .unwrap();
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Where in the looped sample this begins, as the numbers of its video and its audio packet.
    /// Panics unless the packets are those of the sample, byte for byte, in order and without a gap.
    pub fn assert_is_part_of(&self, sample: &Self) -> (usize, usize) {
        let start = |kind: &str, played: &[Packet], sent: &[Packet]| {
            let fits = |start: &usize| {
                played.iter().zip(sent.iter().cycle().skip(*start)).all(|(p, s)| p.content == s.content)
            };
            if played.is_empty() {
                return 0;
            }
            (0..sent.len()).find(fits).unwrap_or_else(|| panic!("the {kind} is not what was sent: {played:?}"))
        };
        (start("video", &self.video, &sample.video), start("audio", &self.audio, &sample.audio))
    }
}
