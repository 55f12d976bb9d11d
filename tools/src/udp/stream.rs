//! One stream as the datagrams that an origin makes of it, and what is written into each of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The audio: packets a second, and their size in bytes.
const AUDIO_PACKETS: u64 = 50;
const AUDIO_SIZE: usize = 100;
const FRAMES: u64 = 30;
/// The time from one keyframe to the next, and how much larger than another frame a keyframe is.
const KEYFRAME_SECONDS: u64 = 2;
const KEYFRAME_WEIGHT: u64 = 10;
/// The largest packet of a frame in bytes.
const MAX_PACKET: u64 = 1200;
/// The header of RTP in bytes.
pub const RTP_HEADER: usize = 12;
/// The header of SRT, and what libsrt puts behind it in live mode: seven packets of MPEG-TS. Bytes.
pub const SRT_HEADER: usize = 16;
pub const SRT_PAYLOAD: usize = 1316;
/// Payload types as SRS gives them.
const AUDIO_TYPE: u8 = 111;
const VIDEO_TYPE: u8 = 106;
/// The RTP clocks in Hz.
const AUDIO_CLOCK: u64 = 48_000;
const VIDEO_CLOCK: u64 = 90_000;

/// What leaves the origin at one moment for each player of a WebRTC stream: a frame of video, or one of
/// audio.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// When, from the start of the stream.
    pub at: Duration,
    /// Packets.
    pub packets: usize,
    /// Size of each of them but the last, in bytes.
    pub size: usize,
    /// Size of the last.
    pub last: usize,
    payload_type: u8,
    timestamp: u32,
}

impl Burst {
    /// The size of a packet.
    pub const fn size_of(&self, packet: usize) -> usize {
        if packet + 1 == self.packets { self.last } else { self.size }
    }

    /// Writes the RTP header of a packet (RFC 3550, section 5.1).
    pub fn write_header(&self, out: &mut [u8], packet: usize, sequence: u32) {
        let marker = if packet + 1 == self.packets { 0x80 } else { 0 };
        out[0] = 0x80;
        out[1] = self.payload_type | marker;
        out[2..4].copy_from_slice(&(sequence as u16).to_be_bytes());
        out[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&u32::from(self.payload_type).to_be_bytes());
    }
}

/// A stream of `kbps` without end, in the order of its times. One that is too small for video has audio
/// only, and less often than it should.
pub fn bursts(kbps: u64) -> impl Iterator<Item = Burst> {
    let audio_packets = (kbps * 1000 / 8 / AUDIO_SIZE as u64).clamp(1, AUDIO_PACKETS);
    let audio_kbps = audio_packets * AUDIO_SIZE as u64 * 8 / 1000;
    let bytes = kbps.saturating_sub(audio_kbps) * 1000 / 8 * KEYFRAME_SECONDS;
    let frame = bytes / (FRAMES * KEYFRAME_SECONDS - 1 + KEYFRAME_WEIGHT);
    let (mut pictures, mut sounds) = (0, 0);
    std::iter::from_fn(move || {
        let video = Duration::from_nanos(pictures * 1_000_000_000 / FRAMES);
        let audio = Duration::from_nanos(sounds * 1_000_000_000 / audio_packets);
        if bytes > 0 && video <= audio {
            let weight = if pictures % (FRAMES * KEYFRAME_SECONDS) == 0 { KEYFRAME_WEIGHT } else { 1 };
            pictures += 1;
            Some(burst(video, frame * weight, VIDEO_TYPE, VIDEO_CLOCK))
        } else {
            sounds += 1;
            Some(burst(audio, AUDIO_SIZE as u64, AUDIO_TYPE, AUDIO_CLOCK))
        }
    })
}

fn burst(at: Duration, bytes: u64, payload_type: u8, clock: u64) -> Burst {
    let packets = bytes.div_ceil(MAX_PACKET).max(1);
    let marked = (RTP_HEADER + Stamp::SIZE) as u64;
    let size = bytes.div_ceil(packets).max(marked);
    let last = bytes.saturating_sub(size * (packets - 1)).max(marked);
    let timestamp = (at.as_micros() as u64 * clock / 1_000_000) as u32;
    Burst { at, packets: packets as usize, size: size as usize, last: last as usize, payload_type, timestamp }
}

/// The time between two packets of an SRT stream of `kbps`.
pub fn srt_interval(kbps: u64) -> Duration {
    Duration::from_nanos(SRT_PAYLOAD as u64 * 8 * 1_000_000 / kbps)
}

/// The mark in the payload of a media packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the packet in its stream.
    pub sequence: u32,
    /// When it was sent, in microseconds since the epoch of Unix.
    sent: u64,
}

impl Stamp {
    /// Its size in bytes.
    pub const SIZE: usize = 12;

    /// Marks a packet that is sent now.
    pub fn write(out: &mut [u8], sequence: u32) {
        out[..4].copy_from_slice(&sequence.to_be_bytes());
        out[4..12].copy_from_slice(&now().to_be_bytes());
    }

    /// The mark, if there is room for one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        Some(Self { sequence: u32::from_be_bytes(*sequence), sent: u64::from_be_bytes(*sent) })
    }

    /// How long ago it was sent, in microseconds.
    pub fn age(&self) -> u64 {
        now().saturating_sub(self.sent)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// Bytes that stand for an encrypted payload.
pub fn noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut noise);
    noise
}
