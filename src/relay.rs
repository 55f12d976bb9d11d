//! The byte movers. They know sockets, buffers and deadlines, and no protocol: what must be known of
//! the bytes is behind a [`tcp::Filter`].

pub mod buffer;
pub mod dial;
pub mod http;
pub mod tcp;
pub mod udp;
pub mod workers;
