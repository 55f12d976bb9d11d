//! Pure codecs: bytes in, values out. None of them knows a socket, a clock or another codec's user.

pub mod m3u8;
pub mod rtmp;
pub mod sdp;
pub mod srt;
pub mod stun;
