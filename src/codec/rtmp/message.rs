//! Messages: their headers, their types, and how one is written as chunks (sections 5.3, 5.4, 6).

/// Message type ids (section 7.1).
pub mod kind {
    /// Set Chunk Size (5.4.1).
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message (5.4.2).
    pub const ABORT: u8 = 2;
    /// Acknowledgement (5.4.3).
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message (6.2).
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size (5.4.4).
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Set Peer Bandwidth (5.4.5).
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// Audio.
    pub const AUDIO: u8 = 8;
    /// Video.
    pub const VIDEO: u8 = 9;
    /// Data in AMF3: one byte, then AMF0 in practice.
    pub const DATA_AMF3: u8 = 15;
    /// Command in AMF3: one byte, then AMF0 in practice.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data in AMF0.
    pub const DATA_AMF0: u8 = 18;
    /// Command in AMF0.
    pub const COMMAND_AMF0: u8 = 20;
}

/// The chunk stream of protocol control messages (5.4).
pub const CONTROL_CHUNK_STREAM: u32 = 2;
/// The chunk stream on which servers answer commands of the connection.
pub const COMMAND_CHUNK_STREAM: u32 = 3;
/// The chunk stream on which servers send the status of a stream.
pub const STATUS_CHUNK_STREAM: u32 = 5;
/// The chunk size before any Set Chunk Size, in bytes (5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// From this value on a timestamp stands in the extended field (5.3.1.3).
pub const EXTENDED_TIMESTAMP: u32 = 0x00FF_FFFF;

/// What the chunk headers of a message add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The chunk stream that carries the message.
    pub chunk_stream: u32,
    /// The absolute timestamp in milliseconds.
    pub timestamp: u32,
    /// The payload's length in bytes.
    pub length: u32,
    /// The message type id, see [`kind`].
    pub kind: u8,
    /// The message stream id.
    pub stream_id: u32,
}

impl Header {
    /// The header of a protocol control message.
    pub const fn control(kind: u8) -> Self {
        Self { chunk_stream: CONTROL_CHUNK_STREAM, timestamp: 0, length: 0, kind, stream_id: 0 }
    }

    /// The header of a command on message stream 0.
    pub const fn command() -> Self {
        Self { chunk_stream: COMMAND_CHUNK_STREAM, timestamp: 0, length: 0, kind: kind::COMMAND_AMF0, stream_id: 0 }
    }

    /// The header of a status command on a message stream.
    pub const fn status(stream_id: u32) -> Self {
        Self { chunk_stream: STATUS_CHUNK_STREAM, timestamp: 0, length: 0, kind: kind::COMMAND_AMF0, stream_id }
    }

    /// Whether the message is a command.
    pub const fn is_command(&self) -> bool {
        matches!(self.kind, kind::COMMAND_AMF0 | kind::COMMAND_AMF3)
    }

    /// Appends a full (type 0) chunk header, which needs no earlier one to be understood.
    pub fn encode_full(&self, out: &mut Vec<u8>) {
        encode_basic(0, self.chunk_stream, out);
        let extended = self.timestamp >= EXTENDED_TIMESTAMP;
        let field = if extended { EXTENDED_TIMESTAMP } else { self.timestamp };
        out.extend(&field.to_be_bytes()[1..]);
        out.extend(&self.length.to_be_bytes()[1..]);
        out.push(self.kind);
        out.extend(self.stream_id.to_le_bytes());
        if extended {
            out.extend(self.timestamp.to_be_bytes());
        }
    }

    /// Appends the header of the message's next chunk (type 3).
    pub fn encode_continuation(&self, out: &mut Vec<u8>) {
        encode_basic(3, self.chunk_stream, out);
        if self.timestamp >= EXTENDED_TIMESTAMP {
            out.extend(self.timestamp.to_be_bytes());
        }
    }

    /// Appends the whole message in chunks of `chunk_size`; the length is the payload's.
    pub fn encode_message(mut self, payload: &[u8], chunk_size: u32, out: &mut Vec<u8>) {
        self.length = payload.len() as u32;
        self.encode_full(out);
        for (n, part) in payload.chunks(chunk_size.max(1) as usize).enumerate() {
            if n > 0 {
                self.encode_continuation(out);
            }
            out.extend(part);
        }
    }
}

/// The chunk basic header (5.3.1.1).
fn encode_basic(format: u8, chunk_stream: u32, out: &mut Vec<u8>) {
    let format = format << 6;
    match chunk_stream {
        0..64 => out.push(format | chunk_stream as u8),
        64..320 => out.extend([format, (chunk_stream - 64) as u8]),
        _ => {
            let id = (chunk_stream - 64) as u16;
            out.push(format | 1);
            out.extend(id.to_le_bytes());
        }
    }
}

/// Appends Set Chunk Size (5.4.1).
pub fn set_chunk_size(size: u32, out: &mut Vec<u8>) {
    Header::control(kind::SET_CHUNK_SIZE).encode_message(&size.to_be_bytes(), DEFAULT_CHUNK_SIZE, out);
}

/// Appends an Acknowledgement of `sequence` bytes received so far, modulo 2^32 (5.4.3), in chunks
/// of `chunk_size`.
pub fn acknowledgement(sequence: u32, chunk_size: u32, out: &mut Vec<u8>) {
    Header::control(kind::ACKNOWLEDGEMENT).encode_message(&sequence.to_be_bytes(), chunk_size, out);
}

/// Appends Window Acknowledgement Size (5.4.4).
pub fn window_ack_size(size: u32, out: &mut Vec<u8>) {
    Header::control(kind::WINDOW_ACK_SIZE).encode_message(&size.to_be_bytes(), DEFAULT_CHUNK_SIZE, out);
}

/// Appends Set Peer Bandwidth with the limit type "dynamic" (5.4.5).
pub fn set_peer_bandwidth(size: u32, out: &mut Vec<u8>) {
    let mut payload = [0; 5];
    payload[..4].copy_from_slice(&size.to_be_bytes());
    payload[4] = 2;
    Header::control(kind::SET_PEER_BANDWIDTH).encode_message(&payload, DEFAULT_CHUNK_SIZE, out);
}
