//! The listeners, one file for each. What a client asks is understood here, and handed down.

pub mod admission;
pub mod api;
mod attempts;
mod auth;
pub mod exporter;
mod forwarding;
pub mod http;
pub mod openapi;
pub mod rtmp;
mod session_log;
pub mod srt;
pub mod streams;
pub mod system;
pub mod webrtc;
