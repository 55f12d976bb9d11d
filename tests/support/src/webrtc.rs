//! WebRTC peers that really do ICE, DTLS and SRTP: an origin as SRS is one, and clients that publish
//! by WHIP and play by WHEP.
//!
//! They are threads of the test, each with sockets of its own. The WebRTC stack takes long to build,
//! so only those who ask for the feature `webrtc` have this module.

pub use super::webrtc_client::{Client, Options, Signalled, idle_offer, signal};
pub use super::webrtc_origin::{Origin, Seen};
