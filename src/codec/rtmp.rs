//! RTMP 1.0 (Adobe, December 2012) as far as a relay needs it: the handshake, the chunk stream,
//! and the few commands that name a stream. Section numbers in this module are that document's.

pub mod amf0;
pub mod chunk;
pub mod command;
pub mod edits;
pub mod handshake;
pub mod headers;
pub mod message;
