//! WebRTC peers that really do ICE, DTLS and SRTP: an origin as SRS is one, and clients that publish
//! by WHIP and play by WHEP.
//!
//! They are threads of the test, each with sockets of its own. The WebRTC stack takes long to build
//! and link, so only test binaries that need it have this module.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

mod webrtc_content;
mod webrtc_peer;
mod webrtc_request;

pub mod webrtc_client;
pub mod webrtc_origin;

pub use webrtc_client::{Client, Options, Signalled, idle_offer, signal};
pub use webrtc_origin::{Origin, Seen};
