//! Real processes for end-to-end tests: origins, the proxy itself, encoders and players.
//!
//! Everything here is synchronous and stays on the test's own thread: the system ends each child
//! when the thread that started it ends, so that not even a killed test leaves one behind.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

pub mod browser;
pub mod dnsmasq;
pub mod ffmpeg;
pub mod gstreamer;
pub mod hook;
pub mod http;
pub mod lossy;
pub mod media;
pub mod mesh;
pub mod netns;
pub mod nginx;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod recorder;
pub mod redis;
pub mod redis_nodes;
pub mod rtmpdump;
pub mod srt;
pub mod wait;

pub use nginx::Nginx;
pub use process::Process;
pub use proxy::Proxy;
pub use wait::{LIMIT, wait_for, wait_for_some};
