//! srs-proxy: publish and play through any node, to the one origin that holds the stream.
//!
//! The map of the house, from the ground up. Arrows go down only.
//!
//! - [`codec`]: pure parsers and writers; bytes in, values out; no sockets, no clock
//! - [`stream`]: what a stream is called, the same in every protocol
//! - [`origin`]: what a media server says of itself
//! - [`balancer`]: which origin holds which stream
//! - [`session`]: who is connected to this node now
//! - [`error`]: which side failed, and whether another origin may be tried
//! - [`config`]: every setting, its default and its bounds
//! - [`server`]: the listeners, one file for each

pub mod balancer;
pub mod codec;
pub mod config;
pub mod error;
pub mod net;
pub mod origin;
pub mod relay;
pub mod server;
pub mod session;
pub mod stream;
