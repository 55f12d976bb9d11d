//! SRT peers in live mode (draft-sharabayko-srt-01, section 3). Handshakes are the proxy's own codec;
//! here are the packets that only peers exchange.

use std::net::SocketAddr;

use srs_proxy::codec::srt::{
    Kind,
    extension::write_stream_id,
    handshake::{CONFIG, DATAGRAM, Handshake, OLD_VERSION, Stage, VERSION, peer_ip},
    kind,
};

/// Control types.
pub const KEEPALIVE: u16 = 1;
pub const ACK: u16 = 2;
pub const ACKACK: u16 = 6;

/// The capabilities flag of a conclusion, and the extensions of request and response.
const HSREQ_FLAG: u16 = 1;
const HSREQ: u16 = 1;
const HSRSP: u16 = 2;
const LIBSRT_VERSION: u32 = 0x0001_0503;
/// Timestamps, reliable delivery, periodic loss reports and the like, as libsrt has them in live mode.
const CAPABILITIES: u32 = 0xBF;
/// Of sender and receiver, ms.
const LATENCY: u16 = 120;

/// A caller's first packet.
pub fn induction(socket_id: u32, initial_sequence: u32, server: SocketAddr) -> Vec<u8> {
    caller(socket_id, initial_sequence, server).to_bytes()
}

/// A caller's second packet.
pub fn conclusion(
    socket_id: u32,
    initial_sequence: u32,
    cookie: u32,
    stream_id: &str,
    timestamp: u32,
    server: SocketAddr,
) -> Vec<u8> {
    let mut extensions = capabilities(HSREQ);
    write_stream_id(stream_id, &mut extensions);
    let handshake = Handshake {
        timestamp,
        version: VERSION,
        extension: HSREQ_FLAG | CONFIG,
        stage: Stage::Conclusion,
        cookie,
        extensions: &extensions,
        ..caller(socket_id, initial_sequence, server)
    };
    handshake.to_bytes()
}

/// What a listener answers to a conclusion from `caller`.
pub fn conclusion_answer(conclusion: &Handshake<'_>, socket_id: u32, timestamp: u32, caller: SocketAddr) -> Vec<u8> {
    let extensions = capabilities(HSRSP);
    let answer = Handshake {
        timestamp,
        destination: conclusion.socket_id,
        encryption: 0,
        extension: HSREQ_FLAG,
        socket_id,
        cookie: 0,
        peer_ip: peer_ip(caller.ip()),
        extensions: &extensions,
        ..*conclusion
    };
    answer.to_bytes()
}

fn caller(socket_id: u32, initial_sequence: u32, server: SocketAddr) -> Handshake<'static> {
    Handshake {
        timestamp: 0,
        destination: 0,
        version: OLD_VERSION,
        encryption: 0,
        extension: DATAGRAM,
        initial_sequence,
        // Largest packet and flow window, as libsrt has them.
        mtu: 1500,
        flow_window: 8192,
        stage: Stage::Induction,
        socket_id,
        cookie: 0,
        peer_ip: peer_ip(server.ip()),
        extensions: &[],
    }
}

/// The extension that says what a peer can do (section 3.2.1.1).
fn capabilities(kind: u16) -> Vec<u8> {
    let mut out = [kind, 3].map(u16::to_be_bytes).concat();
    out.extend(LIBSRT_VERSION.to_be_bytes());
    out.extend(CAPABILITIES.to_be_bytes());
    out.extend([LATENCY, LATENCY].map(u16::to_be_bytes).concat());
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
    match kind(datagram)? {
        Kind::Control { control, .. } => Some(control),
        Kind::Data => None,
    }
}

/// The number in a data packet.
pub fn sequence(datagram: &[u8]) -> Option<u32> {
    word(datagram, 0).filter(|first| first >> 31 == 0)
}

/// The second word of a control packet.
pub fn specific(datagram: &[u8]) -> Option<u32> {
    word(datagram, 4)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
