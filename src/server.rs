//! The listeners, one file for each. What a client asks is understood here, and handed down.

pub mod admission;
pub mod api;
mod auth;
pub mod exporter;
mod forwarding;
pub mod http;
pub mod openapi;
mod origin_probe;
mod origin_search;
pub mod rtmp;
mod session_log;
pub mod srt;
pub mod streams;
pub mod system;
pub mod webrtc;
