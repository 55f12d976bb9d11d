//! Real processes for end-to-end tests: origins, the proxy itself, encoders and players.
//!
//! Everything here is synchronous and stays on the test's own thread: the system ends each child
//! when the thread that started it ends, so that not even a killed test leaves one behind.

// A helper that cannot go on fails the test.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    clippy::return_self_not_must_use
)]

pub mod api;
pub mod binary;
pub mod boards;
pub mod browser;
pub mod conformance;
pub mod dnsmasq;
pub mod ffmpeg;
pub mod gstreamer;
pub mod hook;
pub mod http;
pub mod http_node;
pub mod in_cluster;
pub mod lossy;
pub mod media;
pub mod mesh;
pub mod mesh_nodes;
pub mod mesh_rpc;
pub mod netns;
pub mod nginx;
pub mod openmetrics;
pub mod ports;
pub mod process;
pub mod promql;
pub mod proxy;
pub mod raw;
pub mod raw_http;
pub mod recorder;
pub mod redis;
pub mod redis_nodes;
pub mod rtmpdump;
pub mod scripted;
pub mod scripted_srt;
pub mod srt;
pub mod system;
pub mod wait;
#[cfg(feature = "webrtc")]
pub mod webrtc;
#[cfg(feature = "webrtc")]
pub mod webrtc_client;
#[cfg(feature = "webrtc")]
mod webrtc_content;
pub mod webrtc_node;
#[cfg(feature = "webrtc")]
pub mod webrtc_origin;
#[cfg(feature = "webrtc")]
mod webrtc_peer;
#[cfg(feature = "webrtc")]
mod webrtc_request;

pub use nginx::Nginx;
pub use process::Process;
pub use proxy::Proxy;
pub use wait::{LIMIT, wait_for, wait_for_some};
