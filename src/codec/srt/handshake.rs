//! The handshake packet (3.2.1): read, written, and changed in place where the rest is to pass as it
//! came.

mod reason;

use std::net::IpAddr;

pub use reason::Reason;

use super::{
    CONTROL, HANDSHAKE_TYPE, HEADER,
    extension::{ExtensionError, Extensions},
    is_handshake, word,
};

/// The length of a handshake without extensions, header included, in bytes.
pub const LEN: usize = 64;
/// The version of the handshake with extensions, which SRT has used since 1.3 (3.2.1).
pub const VERSION: u32 = 5;
/// The version of a caller's induction, and of callers older than 1.3.
pub const OLD_VERSION: u32 = 4;
/// What the extension field of a listener's induction holds (4.3.1.1).
pub const MAGIC: u16 = 0x4A17;
/// What the extension field of a caller's induction holds: a datagram socket of UDT.
pub const DATAGRAM: u16 = 2;
/// The bit of a conclusion's extension field that announces extensions such as the stream id (table 3).
pub const CONFIG: u16 = 4;

const DESTINATION: usize = 12;
const COOKIE: usize = 44;
const PEER_IP: usize = 48;
/// From here on a request to connect is a rejection (table 7).
const REJECTION: u32 = 1000;
const CONCLUSION: u32 = 0xFFFF_FFFF;
const AGREEMENT: u32 = 0xFFFF_FFFE;
const DONE: u32 = 0xFFFF_FFFD;

/// How far the handshake has come (table 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rendezvous, first part.
    WaveAHand,
    /// Caller and listener, first part.
    Induction,
    /// The second part of both.
    Conclusion,
    /// Rendezvous, last part.
    Agreement,
    /// Never sent.
    Done,
    /// The connection is refused.
    Rejected(Reason),
    /// None of these.
    Other(u32),
}

impl Stage {
    /// The stage that `code` stands for.
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::WaveAHand,
            1 => Self::Induction,
            CONCLUSION => Self::Conclusion,
            AGREEMENT => Self::Agreement,
            DONE => Self::Done,
            // The field is signed.
            REJECTION..0x8000_0000 => Self::Rejected(Reason(code - REJECTION)),
            _ => Self::Other(code),
        }
    }

    /// The code on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Self::WaveAHand => 0,
            Self::Induction => 1,
            Self::Conclusion => CONCLUSION,
            Self::Agreement => AGREEMENT,
            Self::Done => DONE,
            Self::Rejected(reason) => reason.0.saturating_add(REJECTION),
            Self::Other(code) => code,
        }
    }
}

/// Why a packet is no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// It is another packet.
    #[error("the packet is no handshake")]
    Kind,
    /// It is too short.
    #[error("a handshake has at least {LEN} bytes, this one has {0}")]
    Short(usize),
}

/// A handshake packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// Microseconds since the sender's connection began.
    pub timestamp: u32,
    /// The socket that it is for, or 0.
    pub destination: u32,
    /// [`VERSION`] or [`OLD_VERSION`].
    pub version: u32,
    /// The cipher that is advertised (table 2).
    pub encryption: u16,
    /// What it means depends on the stage (table 3).
    pub extension: u16,
    /// The sequence number of the first data packet.
    pub initial_sequence: u32,
    /// The most bytes that a packet may have, with the headers of IP and UDP.
    pub mtu: u32,
    /// The most packets that may be under way.
    pub flow_window: u32,
    /// How far the handshake has come.
    pub stage: Stage,
    /// The sender's socket.
    pub socket_id: u32,
    /// Proves that the caller receives what is sent to its address.
    pub cookie: u32,
    /// The address that this is sent to, as on the wire; see [`peer_ip`].
    pub peer_ip: [u8; 16],
    /// The extensions that follow, if any; see [`Self::extensions`].
    pub extensions: &'a [u8],
}

impl<'a> Handshake<'a> {
    /// Reads a packet.
    pub fn parse(packet: &'a [u8]) -> Result<Self, HandshakeError> {
        if !is_handshake(packet) {
            return Err(HandshakeError::Kind);
        }
        let (fields, extensions) = packet.split_first_chunk::<LEN>().ok_or(HandshakeError::Short(packet.len()))?;
        let mut ip = [0; 16];
        ip.copy_from_slice(&fields[PEER_IP..]);
        Ok(Self {
            timestamp: word(fields, 8),
            destination: word(fields, DESTINATION),
            version: word(fields, 16),
            encryption: (word(fields, 20) >> 16) as u16,
            extension: word(fields, 20) as u16,
            initial_sequence: word(fields, 24),
            mtu: word(fields, 28),
            flow_window: word(fields, 32),
            stage: Stage::from_code(word(fields, 36)),
            socket_id: word(fields, 40),
            cookie: word(fields, COOKIE),
            peer_ip: ip,
            extensions,
        })
    }

    /// The packet without its extensions.
    pub fn fields(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..2].copy_from_slice(&(CONTROL | HANDSHAKE_TYPE).to_be_bytes());
        let words = [
            self.timestamp,
            self.destination,
            self.version,
            u32::from(self.encryption) << 16 | u32::from(self.extension),
            self.initial_sequence,
            self.mtu,
            self.flow_window,
            self.stage.code(),
            self.socket_id,
            self.cookie,
        ];
        for (place, word) in out[8..PEER_IP].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out[PEER_IP..].copy_from_slice(&self.peer_ip);
        out
    }

    /// The packet, extensions included.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.fields(), self.extensions].concat()
    }

    /// Walks the extensions.
    pub const fn extensions(&self) -> Extensions<'a> {
        Extensions::new(self.extensions)
    }

    /// The stream id of a conclusion. Extensions of a handshake that announces none are checked, but
    /// do not count, since no listener reads them.
    pub fn stream_id(&self) -> Result<Option<String>, ExtensionError> {
        if self.version < VERSION {
            return Ok(None);
        }
        let id = self.extensions().stream_id()?;
        Ok(id.filter(|_| self.extension & CONFIG != 0))
    }

    /// What a listener answers to an induction (4.3.1.1). It has [`LEN`] bytes, so never more than
    /// what it answers. `timestamp` is in microseconds since the listener began.
    pub fn induction_answer(&self, cookie: u32, timestamp: u32) -> [u8; LEN] {
        let answer = Self {
            timestamp,
            destination: self.socket_id,
            version: VERSION,
            encryption: 0,
            extension: MAGIC,
            cookie,
            extensions: &[],
            ..*self
        };
        answer.fields()
    }

    /// What a listener answers to refuse this request. It has [`LEN`] bytes, so never more than what
    /// it answers. `timestamp` is in microseconds since the listener began.
    pub fn rejection(&self, reason: Reason, timestamp: u32) -> [u8; LEN] {
        let stage = Stage::Rejected(reason);
        Self { timestamp, destination: self.socket_id, stage, extensions: &[], ..*self }.fields()
    }

    /// What a caller with this conclusion begins with (4.3.1.1).
    pub fn induction(&self) -> [u8; LEN] {
        let induction = Self {
            timestamp: 0,
            destination: 0,
            version: OLD_VERSION,
            encryption: 0,
            extension: DATAGRAM,
            stage: Stage::Induction,
            cookie: 0,
            extensions: &[],
            ..*self
        };
        induction.fields()
    }
}

/// The peer IP field for `address`: IPv4 in the first word, IPv6 in all four, the bytes of each word
/// in reverse, as libsrt writes it (3.2.1).
pub fn peer_ip(address: IpAddr) -> [u8; 16] {
    let mut field = [0; 16];
    match address {
        IpAddr::V4(v4) => field[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => field = v6.octets(),
    }
    field.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    field
}

/// A handshake packet of which some fields are changed and everything else stays as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet(Box<[u8]>);

impl Packet {
    /// Copies a packet.
    pub fn copy(packet: &[u8]) -> Result<Self, HandshakeError> {
        Handshake::parse(packet)?;
        Ok(Self(packet.into()))
    }

    /// The packet as it is now.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The packet as it is now.
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0
    }

    /// Sets the socket that it is for.
    pub fn set_destination(&mut self, destination: u32) {
        self.set(DESTINATION, &destination.to_be_bytes());
    }

    /// Sets the cookie.
    pub fn set_cookie(&mut self, cookie: u32) {
        self.set(COOKIE, &cookie.to_be_bytes());
    }

    /// Sets the address that it is sent to.
    pub fn set_peer_ip(&mut self, address: IpAddr) {
        self.set(PEER_IP, &peer_ip(address));
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl From<[u8; LEN]> for Packet {
    /// Takes what [`Handshake::fields`] and its like have written.
    fn from(packet: [u8; LEN]) -> Self {
        Self(packet.into())
    }
}

const _: () = assert!(HEADER + 48 == LEN);

#[cfg(test)]
mod tests;
