//! The listeners, one file for each. What a client asks is understood here, and handed down.

pub mod admission;
mod attempts;
pub mod http;
pub mod rtmp;
mod session_log;
pub mod streams;
pub mod system;
mod throttle;
