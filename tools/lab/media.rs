//! A made-up stream: H.264 and AAC with the sizes and times of a real one, and noise for pictures.

use std::time::Duration;

use srs_proxy::codec::rtmp::{
    amf0::Value,
    message::{Header, kind},
};

/// The rate of the audio, bit/s, and the samples of an AAC frame.
const AUDIO_RATE: u64 = 128_000;
const AUDIO_SAMPLES: u64 = 1024;
const AUDIO_SAMPLE_RATE: u64 = 48_000;
/// The time from one keyframe to the next, and how much larger than another frame a keyframe is.
const KEYFRAME_SECONDS: u64 = 2;
const KEYFRAME_WEIGHT: u64 = 10;
/// FLV and RTMP around a frame, bytes: what the rate leaves for the picture is that much less.
const OVERHEAD: u64 = 24;

/// The header of a tag of FLV, bytes.
const FLV_TAG_HEADER: u32 = 11;

/// An AVC decoder configuration record: High profile, 1280x720, behind an FLV video tag header.
const AVC_HEADER: &[u8] = &[
    0x17, 0, 0, 0, 0, 0x01, 0x64, 0x00, 0x1F, 0xFF, 0xE1, 0x00, 0x18, 0x67, 0x64, 0x00, 0x1F, 0xAC, 0xB4, 0x02, 0x80,
    0x2D, 0xD8, 0x08, 0x80, 0x00, 0x00, 0x03, 0x00, 0x80, 0x00, 0x00, 0x1E, 0x07, 0x8C, 0x19, 0x50, 0x01, 0x00, 0x04,
    0x68, 0xEF, 0x3C, 0xB0, 0xFD, 0xF8, 0xF8, 0x00,
];
/// An AudioSpecificConfig: LC, 48 kHz, stereo, behind an FLV audio tag header.
const AAC_HEADER: &[u8] = &[0xAF, 0, 0x11, 0x90];

/// The chunk streams that OBS uses for data, audio and video.
const CHUNK_STREAM: u32 = 4;

/// One stream's frames, without their times.
#[derive(Debug)]
pub struct Media {
    video: Option<Video>,
    audio: Option<Audio>,
}

#[derive(Debug)]
struct Video {
    fps: u64,
    keyframe: Vec<u8>,
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Audio {
    interval: Duration,
    frame: Vec<u8>,
}

/// A message and when it is due, from the start of the stream.
#[derive(Debug, Clone, Copy)]
pub struct Due<'a> {
    /// The time.
    pub at: Duration,
    header: Header,
    payload: &'a [u8],
}

impl Media {
    /// What an encoder sends at `kbps`: 30 frames a second, a keyframe every other second, audio.
    pub fn ordinary(kbps: u32) -> Self {
        let audio = Audio {
            interval: Duration::from_nanos(AUDIO_SAMPLES * 1_000_000_000 / AUDIO_SAMPLE_RATE),
            frame: audio_frame(AUDIO_RATE / 8 * AUDIO_SAMPLES / AUDIO_SAMPLE_RATE),
        };
        let video = Video::new(30, u64::from(kbps) * 1000 - AUDIO_RATE);
        Self { video: Some(video), audio: Some(audio) }
    }

    /// A trickle, so that thousands can play it on one machine: 5 small frames a second.
    pub fn trickle() -> Self {
        Self { video: Some(Video::new(5, 40_000)), audio: None }
    }

    /// A message every millisecond: a player that joins waits no longer than that for its first.
    pub fn ticking() -> Self {
        Self { video: None, audio: Some(Audio { interval: Duration::from_millis(1), frame: audio_frame(64) }) }
    }

    /// Metadata and codec headers, which go before the frames.
    pub fn prologue(&self, stream_id: u32) -> Vec<(Header, Vec<u8>)> {
        let mut metadata = Vec::new();
        let properties = [("width", 1280.0), ("height", 720.0), ("framerate", 30.0), ("videocodecid", 7.0)];
        let properties: Vec<_> =
            properties.into_iter().map(|(key, number)| (key.as_bytes().to_vec(), Value::Number(number))).collect();
        Value::string("@setDataFrame").encode(&mut metadata);
        Value::string("onMetaData").encode(&mut metadata);
        Value::EcmaArray(properties.len() as u32, properties).encode(&mut metadata);

        let mut messages = vec![(header(kind::DATA_AMF0, stream_id), metadata)];
        if self.video.is_some() {
            messages.push((header(kind::VIDEO, stream_id), AVC_HEADER.to_vec()));
        }
        if self.audio.is_some() {
            messages.push((header(kind::AUDIO, stream_id), AAC_HEADER.to_vec()));
        }
        messages
    }

    /// The same as tags of FLV, appended to `out`.
    pub fn flv_prologue(&self, out: &mut Vec<u8>) {
        for (header, payload) in self.prologue(0) {
            encode_flv(&header, &payload, out);
        }
    }

    /// The frames in the order of their times, without end.
    pub fn frames(&self, stream_id: u32) -> impl Iterator<Item = Due<'_>> {
        let (mut pictures, mut sounds) = (0, 0);
        std::iter::from_fn(move || {
            let video = self.video.as_ref().map(|v| (Duration::from_nanos(pictures * 1_000_000_000 / v.fps), v));
            let audio = self.audio.as_ref().map(|a| (a.interval * sounds, a));
            let (at, kind, payload) = match (video, audio) {
                (Some((at, video)), audio) if audio.is_none_or(|(other, _)| at <= other) => {
                    let is_key = pictures % (video.fps * KEYFRAME_SECONDS) == 0;
                    pictures += 1;
                    (at, kind::VIDEO, if is_key { &video.keyframe } else { &video.frame })
                }
                (_, Some((at, audio))) => {
                    sounds += 1;
                    (at, kind::AUDIO, &audio.frame)
                }
                _ => return None,
            };
            let header = Header { timestamp: at.as_millis() as u32, ..header(kind, stream_id) };
            Some(Due { at, header, payload })
        })
    }
}

impl Video {
    fn new(fps: u64, bits_per_second: u64) -> Self {
        let frames = fps * KEYFRAME_SECONDS;
        let bytes = bits_per_second / 8 * KEYFRAME_SECONDS;
        let frame = bytes / (frames - 1 + KEYFRAME_WEIGHT);
        Self { fps, keyframe: video_frame(true, frame * KEYFRAME_WEIGHT), frame: video_frame(false, frame) }
    }
}

impl Due<'_> {
    /// Appends the message as a tag of FLV.
    pub fn encode_flv(&self, out: &mut Vec<u8>) {
        encode_flv(&self.header, self.payload, out);
    }

    /// Appends the message in chunks of `chunk_size`.
    pub fn encode(&self, chunk_size: u32, out: &mut Vec<u8>) {
        self.header.encode_message(self.payload, chunk_size, out);
    }
}

const fn header(kind: u8, stream_id: u32) -> Header {
    Header { chunk_stream: CHUNK_STREAM, timestamp: 0, length: 0, kind, stream_id }
}

/// A tag and its size (FLV 10.1, annex E.4.1).
fn encode_flv(header: &Header, payload: &[u8], out: &mut Vec<u8>) {
    let [_, size @ ..] = (payload.len() as u32).to_be_bytes();
    let [extended, timestamp @ ..] = header.timestamp.to_be_bytes();
    out.push(header.kind);
    out.extend(size);
    out.extend(timestamp);
    out.extend([extended, 0, 0, 0]);
    out.extend(payload);
    out.extend((payload.len() as u32 + FLV_TAG_HEADER).to_be_bytes());
}

/// One NAL unit, an IDR slice or another, in an FLV video tag; `size` with all that is around it.
fn video_frame(is_key: bool, size: u64) -> Vec<u8> {
    let slice = noise(size.saturating_sub(OVERHEAD) + 2);
    let (tag, nal) = if is_key { (0x17, 0x65) } else { (0x27, 0x41) };
    let mut frame = vec![tag, 1, 0, 0, 0];
    frame.extend((slice.len() as u32 + 1).to_be_bytes());
    frame.push(nal);
    frame.extend(slice);
    frame
}

fn audio_frame(size: u64) -> Vec<u8> {
    let mut frame = vec![0xAF, 1];
    frame.extend(noise(size.saturating_sub(OVERHEAD) + 2));
    frame
}

/// Bytes without start codes or other patterns, the same every time.
fn noise(len: u64) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}
