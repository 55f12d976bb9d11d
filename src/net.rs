//! Addresses.

use std::net::SocketAddr;

/// An IPv4 client of a dual-stack listener under its IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
