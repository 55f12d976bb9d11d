//! What a player must have seen before it can decode a stream: the last metadata, and the last
//! sequence header of video and audio. Kept while the bytes go by, for a session that outlives its
//! origin.

use super::message::{Header, kind};

/// The largest payload that is kept, in bytes.
pub const MAX_KEPT: usize = 16 * 1024;

/// A message that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The message type id.
    pub kind: u8,
    /// The payload.
    pub payload: Box<[u8]>,
}

/// The last metadata and codec headers of one direction of a session.
#[derive(Debug, Default)]
pub struct CodecHeaders {
    slots: [Slot; 3],
}

#[derive(Debug, Default)]
struct Slot {
    kept: Option<Kept>,
    /// The message that is being gathered: its chunk stream and what has come of it.
    gathering: Option<(u32, Vec<u8>)>,
}

impl CodecHeaders {
    /// Whether a message may be one of those that are kept.
    pub fn wants(header: &Header) -> bool {
        slot_of(header.kind).is_some() && (2..=MAX_KEPT).contains(&(header.length as usize))
    }

    /// Takes a part of the payload of a message that is wanted. False: no more of it.
    pub fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        let Some(slot) = slot_of(header.kind).and_then(|index| self.slots.get_mut(index)) else { return false };
        if offset == 0 {
            slot.gathering = None;
            // The common case, decided without a copy: an ordinary frame.
            if bytes.len() >= 2 && !is_header(header.kind, bytes) {
                return false;
            }
            slot.gathering = Some((header.chunk_stream, Vec::new()));
        }
        let Some((chunk_stream, gathered)) = &mut slot.gathering else { return false };
        if *chunk_stream != header.chunk_stream || gathered.len() != offset {
            slot.gathering = None;
            return false;
        }
        gathered.extend_from_slice(bytes);
        if gathered.len() >= 2 && !is_header(header.kind, gathered) {
            slot.gathering = None;
            return false;
        }
        if gathered.len() == header.length as usize {
            let payload = std::mem::take(gathered).into_boxed_slice();
            slot.kept = Some(Kept { kind: header.kind, payload });
            slot.gathering = None;
            return false;
        }
        true
    }

    /// What is kept, in the order in which a player needs it: metadata, video, audio.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.slots.iter().filter_map(|s| s.kept.as_ref())
    }
}

const fn slot_of(message_kind: u8) -> Option<usize> {
    match message_kind {
        kind::DATA_AMF0 | kind::DATA_AMF3 => Some(0),
        kind::VIDEO => Some(1),
        kind::AUDIO => Some(2),
        _ => None,
    }
}

/// Whether a payload that begins with `start` (two bytes or more) is one to keep.
fn is_header(message_kind: u8, start: &[u8]) -> bool {
    match message_kind {
        // Enhanced RTMP (Veovera, v1): bit 7, then the packet type; 0 is SequenceStart.
        kind::VIDEO if start[0] & 0x80 != 0 => start[0] & 0x0F == 0,
        // FLV video tag: AVC (7), and HEVC (12) by convention; packet type 0.
        kind::VIDEO => matches!(start[0] & 0x0F, 7 | 12) && start[1] == 0,
        // FLV audio tag: AAC (10) with packet type 0; enhanced audio (9) with SequenceStart (0).
        kind::AUDIO => match start[0] >> 4 {
            10 => start[1] == 0,
            9 => start[0] & 0x0F == 0,
            _ => false,
        },
        _ => {
            // AMF0 strings. Until enough has come to tell, a beginning will do.
            const NAMES: [&[u8]; 2] = [b"\x02\x00\x0aonMetaData", b"\x02\x00\x0d@setDataFrame"];
            let start = if message_kind == kind::DATA_AMF3 { &start[1..] } else { start };
            NAMES.iter().any(|name| start.starts_with(name) || name.starts_with(start))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(headers: &mut CodecHeaders, message_kind: u8, payload: &[u8], piece: usize) {
        let header = Header { chunk_stream: 6, length: payload.len() as u32, kind: message_kind, ..Header::default() };
        assert!(CodecHeaders::wants(&header));
        for (n, part) in payload.chunks(piece).enumerate() {
            if !headers.tap(&header, n * piece, part) {
                break;
            }
        }
    }

    #[test]
    fn the_last_metadata_and_sequence_headers_are_kept_whatever_the_pieces() {
        for piece in [1, 2, 5, 100] {
            let mut headers = CodecHeaders::default();
            for (message_kind, payload) in [
                (kind::DATA_AMF0, &b"\x02\x00\x0aonMetaData\x05"[..]),
                (kind::VIDEO, b"\x17\x00\0\0\0avcC"),
                (kind::AUDIO, b"\xaf\x00\x12\x10"),
                // None of these replaces one that is kept.
                (kind::VIDEO, b"\x17\x01\0\0\0frame"),
                (kind::AUDIO, b"\xaf\x01frame"),
                (kind::DATA_AMF0, b"\x02\x00\x0aonTextData\x05"),
                // A later sequence header does.
                (kind::VIDEO, b"\x90hvc1hvcC"),
            ] {
                tap(&mut headers, message_kind, payload, piece);
            }
            let kept: Vec<_> = headers.kept().map(|k| (k.kind, &*k.payload)).collect();
            assert_eq!(
                kept,
                [
                    (kind::DATA_AMF0, &b"\x02\x00\x0aonMetaData\x05"[..]),
                    (kind::VIDEO, b"\x90hvc1hvcC"),
                    (kind::AUDIO, b"\xaf\x00\x12\x10"),
                ],
                "in pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_is_too_large_to_keep_is_not_wanted() {
        let header = Header { kind: kind::VIDEO, length: MAX_KEPT as u32 + 1, ..Header::default() };
        assert!(!CodecHeaders::wants(&header));
    }
}
