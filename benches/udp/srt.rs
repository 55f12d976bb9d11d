//! SRT packets, as far as live mode needs them (draft-sharabayko-srt-01, section 3).

use std::net::{IpAddr, SocketAddr};

/// Control types.
pub const HANDSHAKE: u16 = 0;
pub const KEEPALIVE: u16 = 1;
pub const ACK: u16 = 2;
pub const SHUTDOWN: u16 = 5;
pub const ACKACK: u16 = 6;

/// Handshake types.
pub const INDUCTION: u32 = 1;
pub const CONCLUSION: u32 = u32::MAX;
/// Handshake types from here on refuse a caller.
pub const REJECTION: u32 = 1000;

const HEADER: usize = 16;
/// A handshake without extensions, with its header.
pub const HANDSHAKE_SIZE: usize = HEADER + 48;
/// What a listener answers to an induction in the place of the extensions.
const MAGIC: u16 = 0x4A17;
/// Flags of a conclusion: capabilities, and configuration such as the stream id.
const HSREQ_FLAG: u16 = 1;
const CONFIG_FLAG: u16 = 4;
/// Extensions.
const HSREQ: u16 = 1;
const HSRSP: u16 = 2;
const STREAM_ID: u16 = 5;
const LIBSRT_VERSION: u32 = 0x0001_0503;
/// Timestamps, reliable delivery, periodic loss reports and the like, as libsrt has them in live mode.
const CAPABILITIES: u32 = 0xBF;
/// Of sender and receiver, ms.
const LATENCY: u16 = 120;

/// A handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// To whom; 0 to a listener.
    pub destination: u32,
    /// 4 in a caller's induction, else 5.
    pub version: u32,
    /// What extensions there are, or what tells an SRT listener.
    pub extension: u16,
    /// The number of the first packet.
    pub first: u32,
    /// Its type.
    pub kind: u32,
    /// Who sends it.
    pub socket: u32,
    /// What proves a caller's address.
    pub cookie: u32,
    /// The stream id, if it has one.
    pub stream_id: Option<String>,
}

impl Handshake {
    /// A caller's first.
    pub const fn induction(socket: u32, first: u32) -> Self {
        let (version, extension, kind) = (4, 2, INDUCTION);
        Self { destination: 0, version, extension, first, kind, socket, cookie: 0, stream_id: None }
    }

    /// A caller's second.
    pub fn conclusion(socket: u32, first: u32, cookie: u32, stream_id: &str) -> Self {
        let extension = HSREQ_FLAG | CONFIG_FLAG;
        let stream_id = Some(stream_id.to_owned());
        Self { destination: 0, version: 5, extension, first, kind: CONCLUSION, socket, cookie, stream_id }
    }

    /// What a listener answers to an induction.
    pub fn answer_induction(&self, socket: u32, cookie: u32) -> Self {
        Self { destination: self.socket, version: 5, extension: MAGIC, socket, cookie, ..self.clone() }
    }

    /// What a listener answers to a conclusion.
    pub fn answer_conclusion(&self, socket: u32) -> Self {
        Self { destination: self.socket, extension: HSREQ_FLAG, socket, cookie: 0, stream_id: None, ..self.clone() }
    }

    /// Whether this is what a listener answers to an induction.
    pub const fn is_induction_answer(&self) -> bool {
        self.kind == INDUCTION && self.version == 5 && self.extension == MAGIC
    }

    /// The datagram; `peer` is to whom it is sent.
    pub fn write(&self, timestamp: u32, peer: SocketAddr) -> Vec<u8> {
        let mut out = control(HANDSHAKE, 0, timestamp, self.destination);
        out.extend(self.version.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.extension.to_be_bytes());
        // Largest packet and flow window, as libsrt has them.
        for word in [self.first, 1500, 8192, self.kind, self.socket, self.cookie] {
            out.extend(word.to_be_bytes());
        }
        match peer.ip() {
            IpAddr::V4(ip) => {
                out.extend(ip.octets().iter().rev());
                out.extend([0; 12]);
            }
            IpAddr::V6(ip) => out.extend(words_reversed(&ip.octets())),
        }
        if self.kind == CONCLUSION {
            out.extend((if self.stream_id.is_some() { HSREQ } else { HSRSP }).to_be_bytes());
            out.extend(3_u16.to_be_bytes());
            out.extend(LIBSRT_VERSION.to_be_bytes());
            out.extend(CAPABILITIES.to_be_bytes());
            out.extend([LATENCY, LATENCY].map(u16::to_be_bytes).concat());
        }
        if let Some(id) = &self.stream_id {
            let text = words_reversed(id.as_bytes());
            out.extend(STREAM_ID.to_be_bytes());
            out.extend(((text.len() / 4) as u16).to_be_bytes());
            out.extend(text);
        }
        out
    }

    /// Reads a datagram that is a handshake.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < HANDSHAKE_SIZE || control_type(datagram)? != HANDSHAKE {
            return None;
        }
        let word = |n: usize| word(datagram, HEADER + 4 * n);
        Some(Self {
            destination: destination(datagram)?,
            version: word(0)?,
            extension: word(1)? as u16,
            first: word(2)?,
            kind: word(5)?,
            socket: word(6)?,
            cookie: word(7)?,
            stream_id: stream_id(&datagram[HANDSHAKE_SIZE..]),
        })
    }
}

fn stream_id(mut extensions: &[u8]) -> Option<String> {
    loop {
        let (head, rest) = extensions.split_at_checked(4)?;
        let words = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (content, rest) = rest.split_at_checked(words * 4)?;
        if head[..2] == STREAM_ID.to_be_bytes() {
            let text = words_reversed(content);
            return Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned());
        }
        extensions = rest;
    }
}

/// Texts and addresses are little-endian words (section 3.2.1.3).
fn words_reversed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(4), 0);
    out.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    out
}

/// A control packet's header.
pub fn control(kind: u16, specific: u32, timestamp: u32, destination: u32) -> Vec<u8> {
    let words = [0x8000_0000 | u32::from(kind) << 16, specific, timestamp, destination];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A full acknowledgement of everything before `next` (section 3.2.4).
pub fn full_ack(number: u32, next: u32, timestamp: u32, destination: u32) -> Vec<u8> {
    let mut out = control(ACK, number, timestamp, destination);
    // Round trip and its variance in µs, free packets, packets/s, capacity, bytes/s.
    for word in [next, 1000, 250, 8000, 240, 10_000, 315_000] {
        out.extend(word.to_be_bytes());
    }
    out
}

/// Writes the header of a data packet that is a whole message (section 3.1).
pub fn write_data_header(out: &mut [u8], sequence: u32, message: u32, timestamp: u32, destination: u32) {
    let words = [sequence & 0x7FFF_FFFF, 0xC000_0000 | message & 0x03FF_FFFF, timestamp, destination];
    for (out, word) in out.chunks_exact_mut(4).zip(words) {
        out.copy_from_slice(&word.to_be_bytes());
    }
}

/// The type of a control packet.
pub fn control_type(datagram: &[u8]) -> Option<u16> {
    let first = word(datagram, 0)?;
    (first >> 31 == 1).then_some((first >> 16) as u16 & 0x7FFF)
}

/// The number in a data packet.
pub fn sequence(datagram: &[u8]) -> Option<u32> {
    word(datagram, 0).filter(|first| first >> 31 == 0)
}

/// The second word of a control packet.
pub fn specific(datagram: &[u8]) -> Option<u32> {
    word(datagram, 4)
}

/// To whose socket a packet is sent.
pub fn destination(datagram: &[u8]) -> Option<u32> {
    word(datagram, 12)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
