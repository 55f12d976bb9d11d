//! The chunk stream (section 5.3), walked but not taken apart.
//!
//! A [`Scanner`] follows the bytes of one direction of a connection. It knows where every chunk and
//! message begins, and leaves the payload where it is. What must change is noted as
//! [`Edits`](super::edits::Edits):
//!
//! - messages that an [`Inspect`] wants dropped;
//! - the header of a message that the receiver could not understand, because it is compressed
//!   against a message that the receiver has not seen: it is written out in full;
//! - message stream ids that the two sides number differently (patched in place);
//! - messages of our own, put in where one chunk ends and the next begins.

mod header;
mod scanner;
#[cfg(test)]
mod tests;

pub use scanner::{Scan, Scanner};

use super::message::Header;

/// The largest message that is held back as a whole so that it can be looked at, in bytes.
pub const MAX_WHOLE: usize = 64 * 1024;
/// The largest single-chunk message that waits in the caller's buffer until it is complete.
pub const MAX_HELD: usize = 4096;
/// The most chunk streams in one direction of one connection.
pub const MAX_CHUNK_STREAMS: usize = 128;

/// How much of a message an [`Inspect`] wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing.
    Pass,
    /// The payload as it goes by.
    Tap,
    /// The whole payload, before any of it is forwarded.
    Whole,
}

/// What becomes of a message that was looked at as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is forwarded.
    Pass,
    /// It is not forwarded.
    Drop,
    /// It is not forwarded, and scanning stops behind it.
    DropAndStop,
}

/// Looks at messages while they are scanned.
pub trait Inspect {
    /// How much of this message is wanted. Asked again for the same message when more bytes have
    /// come, so it must not change anything.
    fn interest(&self, header: &Header) -> Interest;

    /// A part of the payload of a message that [`Interest::Tap`] was said of. False: no more of it.
    fn tap(&mut self, _header: &Header, _offset: usize, _bytes: &[u8]) -> bool {
        false
    }

    /// The whole payload of a message that [`Interest::Whole`] was said of; it may be patched.
    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action;

    /// The receiver's number of the sender's message stream `id`.
    fn map_stream_id(&self, id: u32) -> u32 {
        id
    }
}

/// Why bytes are not a chunk stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A compressed header on a chunk stream that has had no full one.
    #[error("chunk stream {0} begins with a header of type {1}, which leaves out what was never said")]
    NoHeader(u32, u8),
    /// A message begins before the one before it on the same chunk stream has ended.
    #[error("chunk stream {0} begins a message inside another")]
    Interrupted(u32),
    /// More than [`MAX_CHUNK_STREAMS`].
    #[error("more than {MAX_CHUNK_STREAMS} chunk streams")]
    TooManyStreams,
    /// A chunk size of 0, or above 2^31 - 1 (5.4.1).
    #[error("chunk size {0} is not between 1 and 2147483647")]
    ChunkSize(u32),
    /// A message that must be looked at as a whole declares more than [`MAX_WHOLE`] bytes.
    #[error("a message of type {kind} declares {length} bytes; at most {MAX_WHOLE} are taken here")]
    TooLarge {
        /// The message type id.
        kind: u8,
        /// The declared length.
        length: u32,
    },
    /// A protocol control message is too short for its type.
    #[error("a control message of type {0} is cut short")]
    ShortControl(u8),
}
