//! The listeners, one module for each protocol.

pub mod rtmp;
