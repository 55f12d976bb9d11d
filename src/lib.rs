//! srs-proxy: publish and play through any node, to the one origin that holds the stream.
//!
//! The modules from the bottom up. Arrows go down only; `ARCHITECTURE.md` says where each feature is.
//!
//! - [`codec`]: parsers and writers; bytes in, values out; no sockets, no clock
//! - [`stream`]: the name of a stream, the same in every protocol
//! - [`origin`]: a media server as its heartbeat describes it
//! - [`config`]: every setting, its default and its bounds
//! - [`error`]: which side failed, and whether another origin may be tried
//! - [`balancer`]: which origin holds which stream
//! - [`label`]: metrics by labels of few values
//! - [`session`]: who is connected to this node now
//! - [`metrics`]: counters and histograms, and the scrape that collects them
//! - [`relay`]: moves bytes between a client and an origin
//! - [`server`]: the listeners, one folder for each protocol
//! - [`logging`]: the log's format and level
//! - [`net`]: listening sockets, and the limit on open files
//! - [`shutdown`]: signals, drain and the end of the process
//! - [`cluster_status`]: `srs-proxy cluster status`
//! - [`app`]: binds, serves and drains all of it

pub mod app;
mod authority;
pub mod balancer;
pub mod cluster_status;
pub mod codec;
pub mod config;
mod delivery;
pub mod error;
pub mod label;
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
