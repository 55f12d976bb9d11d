//! The listeners, one file for each. What a client asks is understood here, and handed down.

pub mod admission;
pub mod exporter;
pub mod http;
pub mod rtmp;
pub mod system;
mod throttle;
