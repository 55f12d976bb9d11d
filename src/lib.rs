//! srs-proxy: publish and play through any node, to the one origin that holds the stream.
//!
//! The map of the house, from the ground up. Arrows go down only.
//!
//! - [`codec`]: pure parsers and writers; bytes in, values out; no sockets, no clock
//! - [`stream`]: what a stream is called, the same in every protocol
//! - [`origin`]: what a media server says of itself
//! - [`config`]: every setting, its default and its bounds
//! - [`error`]: which side failed, and whether another origin may be tried
//! - [`balancer`]: which origin holds which stream
//! - [`metrics`]: what is counted and measured: handles for everybody, and a scrape that asks everybody
//! - [`session`]: who is connected to this node now
//! - [`relay`]: moves bytes between a client and an origin
//! - [`server`]: the listeners, one file for each
//! - [`logging`]: what is told to people and programs
//! - [`net`]: listeners, and the limit on open files
//! - [`shutdown`]: how the process ends
//! - [`cluster_status`]: asks a node what it sees of the cluster
//! - [`app`]: everything put together, bound, served and drained

pub mod app;
mod authority;
pub mod balancer;
pub mod cluster_status;
pub mod codec;
pub mod config;
pub mod error;
mod log_throttle;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod origin;
pub mod relay;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod stream;
mod sync;
