//! One chunk header, as it stands in the bytes (5.3.1).

use crate::codec::rtmp::message::EXTENDED_TIMESTAMP;

/// The basic header and message header of a chunk, without what depends on earlier chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawHeader {
    /// 0 full, 1 without stream id, 2 with a timestamp only, 3 nothing.
    pub format: u8,
    pub chunk_stream: u32,
    /// Length of the basic header.
    pub basic_len: usize,
    /// Length of both headers, the extended timestamp excluded.
    pub len: usize,
    /// Timestamp or delta; [`EXTENDED_TIMESTAMP`] if it stands in the extended field.
    pub time: u32,
    pub length: u32,
    pub kind: u8,
    pub stream_id: u32,
}

impl RawHeader {
    /// None if the bytes end inside the header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let format = first >> 6;
        let (chunk_stream, basic_len) = match first & 0x3F {
            0 => (64 + u32::from(*bytes.get(1)?), 2),
            1 => (64 + u32::from(*bytes.get(1)?) + 256 * u32::from(*bytes.get(2)?), 3),
            id => (u32::from(id), 1),
        };
        let message_len = [11, 7, 3, 0][usize::from(format)];
        let rest = bytes.get(basic_len..basic_len + message_len)?;
        let number = |from: usize| u32::from_be_bytes([0, rest[from], rest[from + 1], rest[from + 2]]);

        let mut header = Self {
            format,
            chunk_stream,
            basic_len,
            len: basic_len + message_len,
            time: 0,
            length: 0,
            kind: 0,
            stream_id: 0,
        };
        if format <= 2 {
            header.time = number(0);
        }
        if format <= 1 {
            header.length = number(3);
            header.kind = rest[6];
        }
        if format == 0 {
            header.stream_id = u32::from_le_bytes([rest[7], rest[8], rest[9], rest[10]]);
        }
        Some(header)
    }

    /// Whether the header itself announces an extended timestamp.
    pub const fn is_extended(&self) -> bool {
        self.format <= 2 && self.time == EXTENDED_TIMESTAMP
    }
}
