//! Origins and players of WebRTC and SRT for the drills and the load lab: what a relay sees of real ones, and no more.
//! What is encrypted there is noise here.

pub mod http;
pub mod origin;
pub mod player;
pub mod sdp;
pub mod srt;
pub mod stream;
pub mod stun;

use std::time::Duration;

/// How long a peer may take for one step of a handshake.
const STEP: Duration = Duration::from_millis(250);
/// How often a step is tried: libsrt and browsers give up after a few seconds as well.
const TRIES: usize = 12;
/// Larger than any datagram here.
const DATAGRAM: usize = 2048;
/// What each socket is to hold, so that nothing is lost at the ends of a path that is measured. Bytes.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
